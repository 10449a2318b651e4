"""A machine for an engine under test: its commands end when and how the test says, and survive the engine.

What a supervisor guarantees is taken as given here (it has tests of its own, with real processes): a started command is
alive until it ended, its result is there from then on, and a reboot or the supervisor's death leaves none.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jetwatch.errors import CommandNotStarted
from jetwatch.records import Command, CommandResult, Ending, Evidence, ProcessId, Sight

PLENTY = 10**12


@dataclass
class Held:
    """One started command. `boot`: in which boot of the machine."""

    step_id: str
    boot: int
    ended_fd: int
    result: CommandResult | None = None
    is_gone: bool = False


@dataclass
class SimulatedMachine:
    """Implements the engine's `Commands`. `answer` is the exit code of the next checks, `hook_code` that of hooks."""

    answer: int = 1
    hook_code: int = 0
    free_bytes: int = PLENTY
    boot: int = 0
    effects: list[str] = field(default_factory=list)
    """Step ids, in the order in which commands began."""
    hooks: list[tuple[str, int]] = field(default_factory=list)
    """Step id and exit code of every try of a hook."""
    checks: int = 0
    _held: dict[str, Held] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    # -- what a test does

    @property
    def running(self) -> Held | None:
        """The command that runs now: with one watch there is at most one."""
        with self._lock:
            return next((held for held in self._held.values() if self._sight(held) is Sight.ALIVE), None)

    def end(self, exit_code: int) -> None:
        """The running command ends."""
        if (held := self.running) is not None:
            self._finish(held, CommandResult(held.step_id, Ending.EXITED, exit_code=exit_code))

    def alive(self) -> list[str]:
        """The step ids of all commands that run now."""
        with self._lock:
            return [held.step_id for held in self._held.values() if self._sight(held) is Sight.ALIVE]

    def end_step(self, step_id: str, exit_code: int) -> None:
        """This command ends."""
        with self._lock:
            held = next(held for held in self._held.values() if held.step_id == step_id)
        self._finish(held, CommandResult(step_id, Ending.EXITED, exit_code=exit_code))

    def kill_supervisor(self) -> None:
        """The running command dies with its supervisor."""
        if (held := self.running) is not None:
            held.is_gone = True
            os.eventfd_write(held.ended_fd, 1)

    def reboot(self) -> None:
        """Nothing that ran runs any more."""
        self.boot += 1

    def close(self) -> None:
        """Give the descriptors back."""
        for held in self._held.values():
            os.close(held.ended_fd)

    def _finish(self, held: Held, result: CommandResult) -> None:
        with self._lock:
            held.result = result
            os.eventfd_write(held.ended_fd, 1)

    def _sight(self, held: Held) -> Sight:
        if held.result is not None:
            return Sight.DONE
        return Sight.GONE if held.is_gone or held.boot != self.boot else Sight.ALIVE

    # -- what an engine sees

    def start_step(
        self,
        command: Command,
        directory: Path,
        step_id: str,
        variables: Mapping[str, str | Mapping[str, str]],
        *,
        directories: tuple[Path, ...],
        owner: str | None,
        cache_of: str | None = None,
    ) -> ProcessId:
        """It begins at once."""
        with self._lock:
            self.effects.append(step_id)
            return self._start(directory, step_id)

    def start_hook(
        self,
        command: Command,
        directory: Path,
        step_id: str,
        variables: Mapping[str, str | Mapping[str, str]],
        *,
        output: tuple[Path, Path, str | None] | None,
    ) -> ProcessId:
        """It begins and ends at once."""
        with self._lock:
            self.hooks.append((step_id, self.hook_code))
            process = self._start(directory, step_id)
            result = CommandResult(step_id, Ending.EXITED, exit_code=self.hook_code)
            self._finish(self._held[str(directory)], result)
            return process

    def _start(self, directory: Path, step_id: str) -> ProcessId:
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._held[str(directory)] = Held(step_id, self.boot, fd)
        return ProcessId(fd, 1, str(self.boot))

    def open_pidfd(self, process: ProcessId) -> int:
        """A copy: the engine closes its own."""
        return os.dup(process.pid)

    def look(self, directory: Path, step_id: str) -> Evidence:
        """As the files of a step directory would say it."""
        with self._lock:
            held = self._held.get(str(directory))
            if held is None:
                return Evidence(Sight.NEVER_RAN)
            process = ProcessId(held.ended_fd, 1, str(held.boot))
            return Evidence(self._sight(held), supervisor=process, result=held.result)

    def ask_to_stop(self, directory: Path, step_id: str) -> None:
        """It obeys."""
        held = self._held[str(directory)]
        if self._sight(held) is Sight.ALIVE:
            self._finish(held, CommandResult(held.step_id, Ending.CANCELLED, exit_code=143))

    def end_supervisor(self, directory: Path, step_id: str) -> None:
        """Nothing here outlives its time: the engine's clock for that is the real one."""
        raise AssertionError("no command is overdue")

    def bury(self, directory: Path, step_id: str, patience_s: float) -> None:
        """Nothing is left."""

    def bury_run(self, run_id: str, patience_s: float, *, stop: bool) -> None:
        """Nothing is left of what has ended; what runs is let run, or told to stop."""
        with self._lock:
            alive = [held for held in self._held.values() if held.step_id.startswith(run_id)]
            alive = [held for held in alive if self._sight(held) is Sight.ALIVE]
            for held in alive if stop else []:
                self._finish(held, CommandResult(held.step_id, Ending.CANCELLED, exit_code=143))
        if alive:
            raise CommandNotStarted("still_running", run_id)

    def check(
        self,
        command: Command,
        check_id: str,
        *,
        variables: Mapping[str, str | Mapping[str, str]],
        secrets: Mapping[str, str],
        cancel_fd: int,
        on_blocked: Callable[[int, str], None],
    ) -> CommandResult:
        """The answer that the test has set."""
        self.checks += 1
        return CommandResult(check_id, Ending.EXITED, exit_code=self.answer)

    def free_space(self) -> list[tuple[str, int, int]]:
        """One file system."""
        return [("/", self.free_bytes, PLENTY)]

    def own_space(self) -> tuple[str, int, int]:
        """The same one."""
        return self.free_space()[0]

    def keep_secrets(self, run_id: str, secrets: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        """There are none."""
        return {}

    def forget_secrets(self, run_id: str) -> None:
        """There are none."""

    def forget_try(self, directory: Path) -> None:
        """Nothing is on disk."""

    def run_size_bytes(self, run_id: str) -> int:
        """Nothing is on disk."""
        return 0

    def sweep(self, run_ids: tuple[str, ...]) -> list[tuple[str, str]]:
        """Nothing is on disk."""
        return []

    def leftovers(self) -> frozenset[str]:
        """Nothing is on disk."""
        return frozenset()

    def forget_half_done(self) -> None:
        """There are none."""

    def end_old_checks(self) -> None:
        """There are none."""
