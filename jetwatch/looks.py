"""How the agent learns which revision of a content is there now.

Over the network it looks itself, with a deadline; no path is touched and nothing that a stranger made is parsed. A path
may lie on a dead mount, so it is looked at by a child that can be killed, as the watch's user.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from jetwatch.config.model import WatchSettings
from jetwatch.content_records import Content, ContentKind, Look
from jetwatch.errors import ContentRetry, ContentStalled
from jetwatch.process.commands import Commands
from jetwatch.records import Command, CommandResult, Ending

_PATHS = (ContentKind.DIRECTORY, ContentKind.FILE)
_RETRY = 75


class Looks:
    """Looks at the content of every watch of one agent."""

    def __init__(self, commands: Commands, new_id: Callable[[], str]) -> None:
        self._commands = commands
        self._new_id = new_id

    def look(
        self, settings: WatchSettings, known: Look | None, cancel_fd: int, on_blocked: Callable[[int, str], None]
    ) -> Look:
        """Look once. Blocks up to `timeouts.check`. Raises ContentError; a byte on `cancel_fd` ends a child.

        A child that cannot be killed is waited for; `on_blocked` is told its pid and state.
        """
        content = settings.content
        if content is None:
            raise ContentStalled(f"{settings.name}: there is no content to look at")
        if content.kind in _PATHS:
            return self._look_by_child(settings, content, cancel_fd, on_blocked)
        from jetwatch.content.fetch import open_source

        return open_source(content).look(known, settings.look_timeout_s)

    def _look_by_child(
        self, settings: WatchSettings, content: Content, cancel_fd: int, on_blocked: Callable[[int, str], None]
    ) -> Look:
        fetch = settings.download
        command = Command(
            words=(sys.executable, "-m", "jetwatch", "fetch", "--look", content.url),
            env=fetch.env if fetch is not None else {},
            user=settings.user,
            timeout_s=settings.look_timeout_s,
            grace_s=1.0,
        )
        result = self._commands.check(
            command,
            self._new_id(),
            variables={},
            secrets=settings.secrets.get("download", {}),
            cancel_fd=cancel_fd,
            on_blocked=on_blocked,
        )
        return _read_look(content, result, settings.look_timeout_s)


def _read_look(content: Content, result: CommandResult, timeout_s: float) -> Look:
    if result.ending is Ending.TIMEOUT:
        raise ContentRetry(f"{content.url}: no answer within {timeout_s:g} s: is it a dead mount?")
    said = result.detail or result.output_tail.strip() or f"ended with {result.shell_exit_code}"
    if result.exit_code == _RETRY:
        raise ContentRetry(said)
    if result.exit_code != 0 or "revision" not in result.outputs:
        raise ContentStalled(said)
    return Look(result.outputs["revision"], settled=json.loads(result.outputs.get("settled", "true")))
