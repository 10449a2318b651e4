"""A real engine with real commands on a clock that the test moves: hours pass in milliseconds, nothing sleeps."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from jetwatch import statedir
from jetwatch.config.load import load
from jetwatch.content_records import Look
from jetwatch.engine.engine import Engine, Found
from jetwatch.engine.runtime import Commands as RunsCommands
from jetwatch.engine.runtime import Looks, Runtime
from jetwatch.engine.timetable import Identity, Timetable
from jetwatch.engine.variables import Host
from jetwatch.events import Told
from jetwatch.journal.journal import Journal
from jetwatch.process import launch
from jetwatch.process.commands import Commands
from jetwatch.process.place import Place
from jetwatch.process.prepare import Surroundings
from jetwatch.process.shim import boot_id
from jetwatch.records import AgentState, Run, Stamp, WatchState
from jetwatch.statedir import StateDir

START_WALL_US = 1_790_000_000_000_000
WITHIN_S = 60.0


class MovedClock:
    """Time stands still until `pass_s` is called. Chance always says half."""

    def __init__(self) -> None:
        self.boot_id = boot_id()  # the machine's own, so that supervisors and the engine agree
        self._wall_us, self._boot_us = START_WALL_US, 1_000_000_000
        self._timer = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._step = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._armed_us: int | None = None
        self._lock = threading.Lock()

    timer_fd = property(lambda self: self._timer)
    step_fd = property(lambda self: self._step)

    def now(self) -> Stamp:
        """The instant that the test has reached."""
        return Stamp(self._wall_us, self._boot_us, self.boot_id)

    def monotonic_us(self) -> int:
        """The machine's own: supervisors count in it."""
        return time.monotonic_ns() // 1000

    def uniform(self, limit_s: float) -> float:
        """The middle."""
        return limit_s / 2

    def new_id(self) -> str:
        """A real one: processes are found by it, and other tests have theirs at the same time."""
        return str(uuid.uuid4())

    def arm(self, boot_us: int | None) -> None:
        """Ring at `boot_us`."""
        with self._lock:
            self._armed_us = boot_us
            self._ring()

    def pass_s(self, seconds: float) -> None:
        """Let time go by, sleep included, on both clocks."""
        with self._lock:
            self._wall_us += round(seconds * 1e6)
            self._boot_us += round(seconds * 1e6)
            self._ring()

    def reboot(self, seconds: float) -> None:
        """Another boot of the machine, so much later; nothing waits for the timer any more."""
        with self._lock:
            self.boot_id = f"{self.boot_id}+"
            self._wall_us += round(seconds * 1e6)
            self._boot_us, self._armed_us = 10_000_000, None

    def set_wall(self, wall_us: int) -> None:
        """Step the wall clock alone."""
        with self._lock:
            self._wall_us = wall_us
            os.eventfd_write(self._step, 1)

    def timer_seen(self) -> None:
        """The engine has noticed."""
        with self._lock:
            self._drain(self._timer)

    def step_seen(self) -> None:
        """The engine has noticed."""
        self._drain(self._step)

    def _ring(self) -> None:
        if self._armed_us is not None and self._armed_us <= self._boot_us:
            self._armed_us = None
            os.eventfd_write(self._timer, 1)

    @staticmethod
    def _drain(fd: int) -> None:
        try:
            os.eventfd_read(fd)
        except BlockingIOError:
            return


class NoContent:
    """Looks at nothing: these watches have no content."""

    def look(self, *_: object) -> Look:
        """Never called."""
        raise AssertionError("nobody asked for content")


class EngineInTime:
    """One engine in a thread of its own, over a state directory that outlives it."""

    def __init__(
        self,
        top: Path,
        config: str,
        clock: MovedClock,
        looks: Callable[..., Looks] | None = None,
        *,
        once: bool = False,
        commands: RunsCommands | None = None,
        wrap: Callable[[Journal], Journal] = lambda journal: journal,
    ) -> None:
        self.clock = clock
        self.lines: list[Told] = []
        self.top = top
        (top / "watch.yml").write_text(config)
        settings, _ = load(top / "watch.yml")
        self.layout = StateDir.at(top / "state")
        statedir.prepare(self.layout, passable=False)
        self.journal = Journal.open(self.layout.journal)
        self._real = real = Commands(
            self.layout,
            launch.install(self.layout.shim),
            Place("none", None, True),
            Surroundings({"PATH": os.environ["PATH"]}, 0o022),
            self.layout.state_id(),
        )
        self.runtime = Runtime(
            clock=clock,
            journal=wrap(self.journal),
            commands=commands or real,
            looks=looks(real, clock.new_id) if looks else NoContent(),
            layout=self.layout,
            host=Host("box", str(self.layout.root)),
            tell=self.lines.append,
        )
        self.journal.on_unreadable = self.runtime.tell
        agent = AgentState(
            os.getpid(), 0, clock.boot_id, clock.now(), "0", "", "", True, "none", tuple(settings.watches)
        )
        self.engine = Engine(self.runtime, settings, agent, Timetable(clock, Identity("state", "machine"), once=once))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure: BaseException | None = None

    def remember(self, *, run: Run | None = None, state: WatchState | None = None) -> None:
        """What an earlier agent left in the journal."""
        self.runtime.commit(runs=(run,) if run else (), watches=(state,) if state else ())

    def start(self) -> EngineInTime:
        """Let it work."""
        self._thread.start()
        return self

    @property
    def failure(self) -> BaseException | None:
        """What ended it against its will."""
        return self._failure

    @property
    def is_alive(self) -> bool:
        """Whether it still works."""
        return self._thread.is_alive()

    def leave(self) -> None:
        """End it as TERM does: what runs goes on, and the next engine finds it."""
        self.runtime.post(lambda: self.engine.stop("detach", "test"))
        until(lambda: not self._thread.is_alive(), "the engine did not leave")

    def bury(self) -> None:
        """Give back what a dead engine had open."""
        self._thread.join(WITHIN_S)
        assert not self._thread.is_alive(), "the engine is not dead"
        self._real.close()
        self.runtime.close()
        self.journal.close()

    def stop(self) -> None:
        """End it, leaving what runs."""
        if self._thread.is_alive() and not self.engine.once:
            self.runtime.post(lambda: self.engine.stop("cancel", "test"))
        if self._thread.is_alive():
            until(lambda: not self._thread.is_alive(), "the engine did not stop")
        self._thread.join()
        self._real.close()
        self.runtime.close()
        self.journal.close()
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> EngineInTime:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        found = Found.of(self.journal)
        try:
            self.engine.run(found)
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            self._failure = error

    def told(self, name: str, **fields: Any) -> list[Any]:
        """The events of this name so far with these fields."""
        return [
            line.event
            for line in list(self.lines)
            if line.event.name == name and all(getattr(line.event, key) == value for key, value in fields.items())
        ]

    def wait_for(self, count: int, name: str, **fields: Any) -> list[Any]:
        """As many such events as that, and no more."""
        until(
            lambda: len(self.told(name, **fields)) >= count or self._failure is not None,
            lambda: f"{name} {fields}: {len(self.told(name, **fields))} of {count} in {[t.event for t in self.lines]}",
        )
        found = self.told(name, **fields)
        assert len(found) == count, found
        return found

    def settle(self) -> None:
        """Let the engine do everything that is due at this instant, unless it dies of it."""
        for _ in range(3):
            done = threading.Event()
            until(lambda: self.runtime.workers == 0 or not self.is_alive, "a worker did not come back")
            self.runtime.post(done.set)
            until(lambda event=done: event.wait(0.001) or not self.is_alive, "the engine did not answer")  # type: ignore[misc]

    def state(self, watch: str = "watch") -> WatchState:
        """What the engine thinks of a watch."""
        found: list[WatchState] = []
        self.runtime.post(lambda: found.append(self.engine._lanes[watch].state))
        until(lambda: bool(found), "no answer")
        return found[0]


def until(condition: Callable[[], bool], what: str | Callable[[], str]) -> None:
    """Wait for a condition, not for a time."""
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.002)


def moved(stamp: Stamp, seconds: float) -> Stamp:
    """The same boot, so much later."""
    return replace(stamp, wall_us=stamp.wall_us + round(seconds * 1e6), boot_us=stamp.boot_us + round(seconds * 1e6))
