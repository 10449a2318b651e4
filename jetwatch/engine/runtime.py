"""What every watch's cycle stands on: one loop's inbox, descriptors and workers, the journal, and the voice.

Only the engine's thread touches the journal and the watches; others leave a call in the inbox. What a worker raises and
nobody named is the error of the action that it worked for, never the agent's end. What is told has been written first.
"""

from __future__ import annotations

import os
import selectors
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from jetwatch.clock import Clock
from jetwatch.config.model import WatchSettings
from jetwatch.content_records import Look
from jetwatch.engine.patience import Journal, PatientJournal
from jetwatch.engine.unforeseen import internal_error, unforeseen
from jetwatch.engine.variables import Host
from jetwatch.engine.workers import Workers
from jetwatch.errors import CommandNotStarted, JournalStalled, Unforeseen
from jetwatch.events import Change, Event, Told
from jetwatch.records import (
    AgentState,
    Command,
    CommandResult,
    Deadline,
    Evidence,
    OutboxEntry,
    ProcessId,
    Run,
    WatchState,
)
from jetwatch.statedir import StateDir

Result = TypeVar("Result")

_NO_ROOM_PAUSE_S = 0.5

STARTS_PER_S = 200
"""How many checks may start in one second."""

_FILES_PER_TASK = 5
_FILES_FOR_THE_REST = 128


class Commands(Protocol):
    """What the engine needs done on the machine (see process/commands.py)."""

    def look(self, directory: Path, step_id: str) -> Evidence:
        """What the step directory shows now."""

    def open_pidfd(self, process: ProcessId) -> int | None:
        """A descriptor that becomes readable when this very process ends."""

    def ask_to_stop(self, directory: Path, step_id: str) -> None:
        """Cancel a command that is held."""

    def end_supervisor(self, directory: Path, step_id: str) -> None:
        """KILL a supervisor that is far over its time."""

    def bury(self, directory: Path, step_id: str, patience_s: float) -> tuple[int, str] | None:
        """End everything that a dead supervisor left; pid and state of one who cannot be ended."""

    def bury_run(self, run_id: str, patience_s: float, *, stop: bool) -> tuple[int, str] | None:
        """The same for all steps of a run, whatever they are. Raises CommandNotStarted while a supervisor lives."""

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
        """Run a check to its end."""

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
    ) -> ProcessId | None:
        """Start a step of a run under a supervisor; make `directories`, and a watch's cache, for `owner` first."""

    def start_hook(
        self,
        command: Command,
        directory: Path,
        step_id: str,
        variables: Mapping[str, str | Mapping[str, str]],
        *,
        output: tuple[Path, Path, str | None] | None,
    ) -> ProcessId | None:
        """Start a hook under a supervisor."""

    def free_space(self) -> list[tuple[str, int, int]]:
        """Path, free bytes and free inodes of the file systems that runs need."""

    def own_space(self) -> tuple[str, int, int]:
        """The same of the state directory alone, whose disk is a local one: it may be asked in the engine's thread."""

    def keep_secrets(self, run_id: str, secrets: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        """Write the secret environments of a run's commands to private files. Raises CommandNotStarted."""

    def forget_secrets(self, run_id: str) -> None:
        """Remove them."""

    def forget_try(self, directory: Path) -> None:
        """Remove the directory of a hook that belongs to no run."""

    def run_size_bytes(self, run_id: str) -> int:
        """What the run's directories take on disk."""

    def sweep(self, run_ids: tuple[str, ...]) -> list[tuple[str, str]]:
        """Remove the directories of these runs."""

    def leftovers(self) -> frozenset[str]:
        """The ids of the runs that something on disk is named after."""

    def forget_half_done(self) -> None:
        """Remove what an agent that was killed had begun for nobody: answers of checks, empty cgroups."""

    def end_old_checks(self) -> None:
        """End what the checks of an agent that was killed left."""


class Looks(Protocol):
    """How the engine learns which revision of a content is there now."""

    def look(
        self, settings: WatchSettings, known: Look | None, cancel_fd: int, on_blocked: Callable[[int, str], None]
    ) -> Look:
        """Look once, within a deadline. Blocks. Raises ContentError; a byte on `cancel_fd` ends what can be ended.

        `on_blocked(pid, state)` is called, in this thread, when a child that looks cannot be killed.
        """


class Runtime:
    """The services of one engine. Made in one thread, used in the engine's."""

    def __init__(
        self,
        *,
        clock: Clock,
        journal: Journal,
        commands: Commands,
        looks: Looks,
        layout: StateDir,
        host: Host,
        tell: Callable[[Told], None],
        on_stall: Callable[[JournalStalled | None], None] = lambda _: None,
        open_files: int = 1024,
    ) -> None:
        """`open_files`: how many this process may have. They bound how many checks are in flight."""
        self.clock = clock
        self.commands = commands
        self.looks = looks
        self.journal = PatientJournal(journal, clock, tell=self.tell, on_stall=on_stall)
        self.layout = layout
        self.host = host
        self._tell = tell
        self._inbox: deque[Callable[[], None]] = deque()
        self._inbox_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._inbox_fd, selectors.EVENT_READ, self._read_inbox)
        self._starts: deque[int] = deque()
        self._unstarted: list[tuple[Callable[[], None], str]] = []
        self._threads = Workers()
        self._most_workers = max(1, (open_files - _FILES_FOR_THE_REST) // _FILES_PER_TASK)
        self.workers = 0

    # -- from any thread

    def post(self, call: Callable[[], None]) -> None:
        """Have `call` made in the engine's thread."""
        self._inbox.append(call)
        os.eventfd_write(self._inbox_fd, 1)

    # -- in the engine's thread

    def wait(self) -> None:
        """Wait until something happened, and let it be handled."""
        for key, _ in self._selector.select(_NO_ROOM_PAUSE_S if self._unstarted else None):
            key.data()
        waiting, self._unstarted = self._unstarted, []
        for work, name in waiting:
            self._start(work, name)

    def watch_fd(self, fd: int, call: Callable[[], None]) -> None:
        """Call whenever `fd` is readable."""
        self._selector.register(fd, selectors.EVENT_READ, call)

    def forget_fd(self, fd: int) -> None:
        """The opposite; the descriptor is closed."""
        self._selector.unregister(fd)
        os.close(fd)

    def commit(
        self,
        *events: Event,
        runs: tuple[Run, ...] = (),
        watches: tuple[WatchState, ...] = (),
        hooks: tuple[OutboxEntry, ...] = (),
        agent: AgentState | None = None,
        durable: bool = True,
        abandoned: tuple[int, ...] = (),
    ) -> tuple[OutboxEntry, ...]:
        """Write a change with the events that tell it, then tell them. Returns the hooks with their ids."""
        change = Change(
            at=self.clock.now(),
            runs=runs,
            watches=watches,
            hooks=hooks,
            agent=agent,
            events=events,
            durable=durable,
            abandoned=abandoned,
        )
        told, stored = self.journal.commit(change)
        for each in told:
            self._tell(each)
        return stored

    def tell(self, event: Event) -> None:
        """Tell what is not history."""
        self._tell(Told(event, self.clock.now().wall_us))

    def work(
        self,
        task: Callable[[], Result],
        then: Callable[[Result | CommandNotStarted], None],
        *,
        name: str,
        watch: str = "",
    ) -> None:
        """Do `task`, which may block, in a thread of its own; its result, or a refusal, comes back to `then`.

        What it raises and nobody named comes back as Unforeseen, and is told as an error of `name` and `watch`.
        """
        self.workers += 1

        def report(result: Result | CommandNotStarted) -> None:
            self.workers -= 1
            if isinstance(result, Unforeseen):
                self.tell(internal_error(result, name, watch))
            then(result)

        def work() -> None:
            try:
                result: Result | CommandNotStarted = task()
            except CommandNotStarted as error:
                result = error
            except BaseException as error:  # noqa: BLE001 - the thread's one catch-all: the error of its action
                result = unforeseen(error)
            self.post(lambda: report(result))

        self._start(work, f"{name} {watch}".rstrip())

    def attempt(self, call: Callable[[], Result], *, action: str, watch: str) -> Result | Unforeseen:
        """Make a call that looks at what commands left. What it raises and nobody named is told, and returned."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - what strangers left must not end the agent
            self.tell(internal_error(error, action, watch))
            return unforeseen(error)

    def _start(self, work: Callable[[], None], name: str) -> None:
        try:
            self._threads.start(work, name)
        except RuntimeError:  # the machine has no room for one more thread: a play's fork bomb must not end the agent
            self._unstarted.append((work, name))

    def start_allowed_at(self, now_us: int) -> int:
        """The boot time from which one more check may start: now, or later when many just did, or do not end."""
        if self.workers >= self._most_workers:
            return now_us + 1_000_000
        while self._starts and self._starts[0] <= now_us - 1_000_000:
            self._starts.popleft()
        if len(self._starts) < STARTS_PER_S:
            self._starts.append(now_us)
            return now_us
        return self._starts[0] + 1_000_000

    def boot_us(self, deadline: Deadline) -> int:
        """When `deadline` comes, on the boot-time clock."""
        now = self.clock.now()
        return now.boot_us + deadline.remaining_us(now)

    def close(self) -> None:
        """Give the descriptors back."""
        self._selector.close()
        self.journal.close()
        os.close(self._inbox_fd)

    def _read_inbox(self) -> None:
        os.eventfd_read(self._inbox_fd)
        while self._inbox:
            self._inbox.popleft()()
