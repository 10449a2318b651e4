"""How the agent learns which revision of a content is there now.

A watch with a `user` is looked at by a child with that user's rights: no server and no file of a home is met with the
agent's. So are a path, which may lie on a dead mount; a listing of a bucket, as its library bounds no answer; and what
this process cannot look at as the watch's commands would. What is left the agent looks at itself, with a deadline and
bounds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec.structs import replace

from jetwatch import interpreter
from jetwatch.config.content import full_url
from jetwatch.config.model import WatchSettings
from jetwatch.content_records import Content, ContentKind, Look
from jetwatch.descriptors import is_readable
from jetwatch.errors import CommandNotStarted, ContentRetry, ContentStalled, ContentUnsaid
from jetwatch.process.commands import Commands
from jetwatch.records import Command, CommandResult, Ending

if TYPE_CHECKING:
    from jetwatch.content.kept import KeptSources

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
        secrets, timeout_s = settings.secrets.get("download", {}), settings.timeouts.check_s
        if fetch.user is None and not _is_heavy(content):
            from jetwatch.content.fetch import open_source, reads_alike

            env = self._environment(fetch, secrets)
            if content.kind is ContentKind.GIT:
                source = open_source(content, env=env, meanwhile=lambda: _end_if_cancelled(cancel_fd, content))
                return source.look(known, timeout_s)
            if reads_alike(content, env, os.environ):
                with suppress(ContentUnsaid):  # a child can bear to read what the server says
                    return self._sources.look(content, env, known, timeout_s)
        result = self._commands.check(
            _child(content, fetch, known, timeout_s),
            self._new_id(),
            variables={},
            secrets=secrets,
            cancel_fd=cancel_fd,
            on_blocked=on_blocked,
        )
        return _read_look(content, result, timeout_s)

    def _environment(self, fetch: Command, secrets: Mapping[str, str]) -> Mapping[str, str]:
        try:
            return self._commands.environment(fetch, secrets)
        except CommandNotStarted as error:
            raise ContentStalled(str(error)) from error


def _is_heavy(content: Content) -> bool:
    """Whether a look at it can hang for ever, or grow as large as a stranger likes."""
    return content.kind in _PATHS or (content.kind is ContentKind.BUCKET and not content.marker)


def _child(content: Content, fetch: Command, known: Look | None, timeout_s: float) -> Command:
    """The fetch, but that it only looks; it gives up by itself before it is ended."""
    from jetwatch.content import asking

    words = interpreter.jetp("fetch", "--look", full_url(content))  # the URL is for people who look at processes
    env = {**fetch.env, **asking.question(content, known, 0.9 * timeout_s)}
    return replace(fetch, words=words, env=env, timeout_s=timeout_s, grace_s=1.0)


def _read_look(content: Content, result: CommandResult, timeout_s: float) -> Look:
    from jetwatch.content import asking

    if result.ending is Ending.TIMEOUT:
        hint = ": is it a dead mount?" if content.kind in _PATHS else ""
        raise ContentRetry(f"{content.url}: no answer within {timeout_s:g} s{hint}")
    said = result.detail or result.output_tail.strip().removeprefix("jetp: ")
    said = asking.shown(said) or f"{content.url}: the look ended with {result.signal or result.shell_exit_code}"
    if result.exit_code == _RETRY:
        raise asking.wait_of(result.outputs, said) or ContentRetry(said)
    if not result.ended_well((0,)):
        raise ContentStalled(said)
    return asking.answered(result.outputs, content.url)


def _end_if_cancelled(cancel_fd: int, content: Content) -> None:
    if is_readable(cancel_fd):
        raise ContentRetry(f"{content.url}: cancelled")
