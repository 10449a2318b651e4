"""One question at a time, asked in a worker: what the check says, which content is there, how much room is left."""

from __future__ import annotations

import os
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from jetwatch.config.model import WatchSettings
from jetwatch.content_records import Look
from jetwatch.descriptors import is_readable
from jetwatch.engine.admission import Space
from jetwatch.engine.outcome import is_due
from jetwatch.engine.runtime import Runtime
from jetwatch.engine.variables import for_check
from jetwatch.errors import CommandNotStarted, ContentError
from jetwatch.records import CommandResult, Deadline, Stamp, Trigger, TriggerKind, WatchState, sound


class Question(Struct, frozen=True):
    """`known`: the answer stands already, and only the disk is looked at; with `again` its content, too.

    `planned`: the time that it was due at. `forced`: a run is wanted whatever the check says.
    """

    kind: TriggerKind
    asked: Stamp
    planned: Deadline | None
    known: Trigger | None = None
    again: bool = False
    forced: bool = False


class Told(Struct, frozen=True):
    """`result` None: no check was run. `look` None: the watch has no content, or its check said that nothing is due.

    `failure`: the question could not be asked to its end, and nothing else is known.
    """

    result: CommandResult | None
    look: Look | ContentError | None
    spaces: tuple[Space, ...]
    failure: CommandNotStarted | None = None


Hear = Callable[[Question, Told], None]
Parts = tuple[CommandResult | None, Look | ContentError | None, list[tuple[str, int, int]]]


class Asking:
    """At most one question under way. `hear` is not called for one that was dropped."""

    def __init__(self, runtime: Runtime, *, hear: Hear, on_change: Callable[[], None]) -> None:
        self.blocked: tuple[int, str] | None = None
        self._runtime = runtime
        self._hear = hear
        self._on_change = on_change
        self._cancel_fd: int | None = None
        self._dropped = False

    @property
    def under_way(self) -> bool:
        """Whether a worker is out."""
        return self._cancel_fd is not None

    def ask(self, question: Question, settings: WatchSettings, state: WatchState) -> None:
        """Send a worker out."""
        cancel_fd = self._cancel_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._dropped = False
        commands = self._runtime.commands

        def ask() -> Parts:
            result = look = None
            if question.known is None and settings.check is not None:
                result = self._check(question, settings, state, cancel_fd)
            if settings.content is not None and _wants_look(question, result):
                look = look_until_settled(self._looker(settings, cancel_fd), settings, state, cancel_fd)
            return result, look, commands.free_space()

        self._runtime.work(ask, lambda parts: self._back(question, parts), name="check", watch=settings.name)

    def _check(
        self, question: Question, settings: WatchSettings, state: WatchState, cancel_fd: int
    ) -> CommandResult | None:
        """Called in the worker."""
        if settings.check is None:
            return None
        result = self._runtime.commands.check(
            settings.check,
            self._runtime.clock.new_id(),
            variables=for_check(state, question.kind, state.check_errors + 1, self._runtime.host),
            secrets=settings.secrets.get("check", {}),
            cancel_fd=cancel_fd,
            on_blocked=self._post_blocked,
        )
        return sound(result)

    def _looker(self, settings: WatchSettings, cancel_fd: int) -> Callable[[Look | None], Look]:
        return lambda known: sound(self._runtime.looks.look(settings, known, cancel_fd, self._post_blocked))

    def drop(self) -> None:
        """End a check that is running; whatever it says no longer counts."""
        if self._cancel_fd is not None and not self._dropped:
            self._dropped = True
            os.eventfd_write(self._cancel_fd, 1)

    def _post_blocked(self, pid: int, number: str) -> None:
        """Called in the worker."""
        self._runtime.post(lambda: self._note_blocked(pid, number))

    def _note_blocked(self, pid: int, state: str) -> None:
        self.blocked = (pid, state)
        self._on_change()

    def _back(self, question: Question, parts: Parts | CommandNotStarted) -> None:
        if self._cancel_fd is not None:
            os.close(self._cancel_fd)
        self._cancel_fd = None
        self.blocked = None
        if not self._dropped:
            self._hear(question, _told(parts))
        self._on_change()


def _told(parts: Parts | CommandNotStarted) -> Told:
    if isinstance(parts, CommandNotStarted):
        return Told(None, None, (), failure=parts)
    result, look, spaces = parts
    return Told(result, look, tuple(Space(*space) for space in spaces))


def _wants_look(question: Question, result: CommandResult | None) -> bool:
    """Whether the content is looked at: after a check that said due, or where there is none."""
    if question.known is not None:
        return question.again
    return question.forced or result is None or is_due(result)


def look_until_settled(
    look: Callable[[Look | None], Look], settings: WatchSettings, state: WatchState, cancel_fd: int
) -> Look | ContentError:
    """Which revision `look` finds. A listing that is new counts when it is the same `settle` later. Blocks."""
    content = settings.content
    try:
        first = look(state.look)
        if content is None or first.settled:
            return first
        if first.revision == state.applied_revision:
            return replace(first, settled=True)  # it was complete when it was applied
        if is_readable(cancel_fd, within_s=content.settle_s):
            return first
        second = look(first)
    except ContentError as error:
        return error
    settled = second.settled or second.revision == first.revision
    return replace(second, settled=settled, requests=first.requests + second.requests)
