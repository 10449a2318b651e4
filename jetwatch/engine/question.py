"""One question at a time, asked in a worker: what the check says, and how much room is left on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jetwatch.engine.admission import Space
from jetwatch.engine.runtime import Runtime
from jetwatch.errors import CommandNotStarted
from jetwatch.records import Command, CommandResult, Deadline, Stamp, Trigger, TriggerKind


@dataclass(frozen=True, slots=True)
class Question:
    """`known`: the answer stands already, and only the disk is looked at. `planned`: the time that it was due at."""

    kind: TriggerKind
    asked: Stamp
    planned: Deadline | None
    known: Trigger | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """`result` None: no check was run."""

    result: CommandResult | None
    spaces: tuple[Space, ...]


Hear = Callable[[Question, Told], None]
Parts = tuple[CommandResult | None, list[tuple[str, int, int]]]


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

    def ask(
        self,
        question: Question,
        command: Command | None,
        variables: Mapping[str, str | Mapping[str, str]],
        secrets: Mapping[str, str],
    ) -> None:
        """Send a worker out. `command` None: look at the disk only."""
        cancel_fd = self._cancel_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._dropped = False
        commands, check_id = self._runtime.commands, self._runtime.clock.new_id()

        def ask() -> Parts:
            result = None
            if command is not None:
                result = commands.check(
                    command,
                    check_id,
                    variables=variables,
                    secrets=secrets,
                    cancel_fd=cancel_fd,
                    on_blocked=lambda pid, state: self._runtime.post(lambda: self._note_blocked(pid, state)),
                )
            return result, commands.free_space()

        name = variables.get("watch", "")
        self._runtime.work(ask, lambda parts: self._back(question, parts), name=f"check {name}")

    def drop(self) -> None:
        """End a check that is running; whatever it says no longer counts."""
        if self._cancel_fd is not None and not self._dropped:
            self._dropped = True
            os.eventfd_write(self._cancel_fd, 1)

    def _note_blocked(self, pid: int, state: str) -> None:
        self.blocked = (pid, state)
        self._on_change()

    def _back(self, question: Question, parts: Parts | CommandNotStarted) -> None:
        if self._cancel_fd is not None:
            os.close(self._cancel_fd)
        self._cancel_fd = None
        self.blocked = None
        if not self._dropped and not isinstance(parts, CommandNotStarted):
            result, spaces = parts
            self._hear(question, Told(result, tuple(Space(*space) for space in spaces)))
        self._on_change()
