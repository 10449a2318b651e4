"""How the agent learns which revision of a content is there now.

Over the network it looks itself, with a deadline; no path is touched and nothing that a stranger made is parsed. A path
may lie on a dead mount, so it is looked at by a child that can be killed, as the watch's user.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from jetwatch.config.model import WatchSettings
from jetwatch.errors import ContentRetry, ContentStalled
from jetwatch.process.commands import Commands
from jetwatch.records import Command, CommandResult, Content, ContentKind, Ending, Look

DEADLINE_S = 60.0
_PATHS = (ContentKind.DIRECTORY, ContentKind.FILE)
_RETRY = 75


class Looks:
    """Looks at the content of every watch of one agent."""

    def __init__(self, commands: Commands, new_id: Callable[[], str]) -> None:
        self._commands = commands
        self._new_id = new_id

    def look(self, settings: WatchSettings, known: Look | None, cancel_fd: int) -> Look:
        """Look once. Blocks up to the deadline. Raises ContentError; a byte on `cancel_fd` ends a child."""
        content = settings.content
        if content is None:
            raise ContentStalled(f"{settings.name}: there is no content to look at")
        if content.kind in _PATHS:
            return self._look_by_child(settings, content, cancel_fd)
        from jetwatch.content.fetch import open_source

        return open_source(content).look(known, DEADLINE_S)

    def _look_by_child(self, settings: WatchSettings, content: Content, cancel_fd: int) -> Look:
        fetch = settings.download
        command = Command(
            words=(sys.executable, "-m", "jetwatch", "fetch", "--look", content.url),
            env=fetch.env if fetch is not None else {},
            user=settings.user,
            timeout_s=DEADLINE_S,
            grace_s=1.0,
        )
        result = self._commands.check(
            command,
            self._new_id(),
            variables={},
            secrets=settings.secrets.get("download", {}),
            cancel_fd=cancel_fd,
            on_blocked=lambda _pid, _state: None,
        )
        return _read_look(content, result)


def _read_look(content: Content, result: CommandResult) -> Look:
    if result.ending is Ending.TIMEOUT:
        raise ContentRetry(f"{content.url}: no answer within {DEADLINE_S:.0f} s: is it a dead mount?")
    said = result.detail or result.output_tail.strip() or f"ended with {result.shell_exit_code}"
    if result.exit_code == _RETRY:
        raise ContentRetry(said)
    if result.exit_code != 0 or "revision" not in result.outputs:
        raise ContentStalled(said)
    return Look(result.outputs["revision"], settled=json.loads(result.outputs.get("settled", "true")))
