"""How the agent learns which revision of a content is there now.

Over the network it looks itself, with a deadline; no path is touched and nothing that a stranger made is parsed. A path
may lie on a dead mount, so it is looked at by a child that can be killed, as the watch's user. So is what this process
cannot look at as the watch's commands would: other variables, files or keys of another account.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec.structs import replace

from jetwatch import interpreter
from jetwatch.config.content import full_url
from jetwatch.config.model import WatchSettings
from jetwatch.content_records import Content, ContentKind, Look
from jetwatch.descriptors import is_readable
from jetwatch.errors import CommandNotStarted, ContentRetry, ContentStalled
from jetwatch.process.commands import Commands
from jetwatch.records import Command, CommandResult, Ending

if TYPE_CHECKING:
    from jetwatch.content.kept import KeptSources

_OF_AN_ACCOUNT = ("git+ssh:", "git+file:")
"""What git reads with the rights and the keys of the account that it runs as."""
_PATHS = (ContentKind.DIRECTORY, ContentKind.FILE)
_RETRY = 75


class Looks:
    """Looks at the content of every watch of one agent."""

    def __init__(self, commands: Commands, new_id: Callable[[], str]) -> None:
        self._commands = commands
        self._new_id = new_id

    @cached_property
    def _sources(self) -> KeptSources:
        """Made by the first look that needs it."""
        from jetwatch.content import kept

        return kept.KeptSources()

    def look(
        self, settings: WatchSettings, known: Look | None, cancel_fd: int, on_blocked: Callable[[int, str], None]
    ) -> Look:
        """Look once. Blocks up to `timeouts.check`. Raises ContentError; a byte on `cancel_fd` ends a child, and git.

        A child that cannot be killed is waited for; `on_blocked` is told its pid and state.
        """
        content, fetch = settings.content, settings.download
        if content is None or fetch is None:
            raise ContentStalled(f"{settings.name}: there is no content to look at")
        secrets = settings.secrets.get("download", {})
        if content.kind not in _PATHS and not _is_of_another_account(content, fetch):
            from jetwatch.content.fetch import open_source, reads_alike

            env = self._environment(fetch, secrets)
            if content.kind is ContentKind.GIT:
                source = open_source(content, env=env, meanwhile=lambda: _end_if_cancelled(cancel_fd, content))
                return source.look(known, settings.timeouts.check_s)
            if reads_alike(content, env, os.environ):
                return self._sources.look(content, env, known, settings.timeouts.check_s)
        result = self._commands.check(
            _child(content, fetch, settings.timeouts.check_s),
            self._new_id(),
            variables={},
            secrets=secrets,
            cancel_fd=cancel_fd,
            on_blocked=on_blocked,
        )
        return _read_look(content, result, settings.timeouts.check_s)

    def _environment(self, fetch: Command, secrets: Mapping[str, str]) -> Mapping[str, str]:
        try:
            return self._commands.environment(fetch, secrets)
        except CommandNotStarted as error:
            raise ContentStalled(str(error)) from error


def _child(content: Content, fetch: Command, timeout_s: float) -> Command:
    """The fetch, but that it only looks; it gives up by itself before it is ended."""
    words = interpreter.jetp("fetch", "--look", full_url(content), f"--deadline={0.9 * timeout_s:g}")
    return replace(fetch, words=words, timeout_s=timeout_s, grace_s=1.0)


def _read_look(content: Content, result: CommandResult, timeout_s: float) -> Look:
    if result.ending is Ending.TIMEOUT:
        hint = ": is it a dead mount?" if content.kind in _PATHS else ""
        raise ContentRetry(f"{content.url}: no answer within {timeout_s:g} s{hint}")
    said = result.detail or result.output_tail.strip().removeprefix("jetp: ")
    said = said or f"ended with {result.shell_exit_code}"
    if result.exit_code == _RETRY:
        raise ContentRetry(said)
    outputs = result.outputs
    if result.exit_code != 0 or "revision" not in outputs:
        raise ContentStalled(said)
    settled, requests = json.loads(outputs.get("settled", "true")), int(outputs.get("requests", "0"))
    return Look(outputs["revision"], settled=settled, requests=requests)


def _end_if_cancelled(cancel_fd: int, content: Content) -> None:
    if is_readable(cancel_fd):
        raise ContentRetry(f"{content.url}: cancelled")


def _is_of_another_account(content: Content, fetch: Command) -> bool:
    return fetch.user is not None and content.url.startswith(_OF_AN_ACCOUNT)
