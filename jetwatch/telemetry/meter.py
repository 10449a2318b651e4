"""Gives the figures out: one thread beside the engine, that asks it how things stand and never makes it wait.

Scrapers have threads of their own (`prometheus.py`): none of them keeps the text file waiting. The engine is asked when
somebody wants to know: a scraper has come, or the time for the text file and StatsD. One that does not answer within a
second is told as it was last seen; the age of that is a figure itself. A road that fails is told once and tried again:
no figure is worth stopping the agent.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from jetwatch.errors import ConfigError, NotTrusted, Problem
from jetwatch.events import Event, MetricsFailed, Told
from jetwatch.records import AgentView, Stamp
from jetwatch.telemetry.metrics import Facts, Metric, Reading, Tally, readings
from jetwatch.telemetry.statsd import Statsd, Target

if TYPE_CHECKING:
    from jetwatch.telemetry.prometheus import Listener

ANSWER_WITHIN_S = 1.0
_CLOSE_WITHIN_S = 0.3


class Roads(Struct, frozen=True):
    """Where figures go; at least one of them."""

    textfile: Path | None = None
    listen: tuple[str, int] | None = None
    statsd: Target | None = None
    interval_s: float = 15.0


class Sources(Struct, frozen=True):
    """What the figures are made of. `post` has a call made in the engine's thread, `view` is only called there."""

    facts: Facts
    now: Callable[[], Stamp]
    post: Callable[[Callable[[], None]], None]
    view: Callable[[], AgentView]
    counts: Callable[[], Mapping[Metric, float]]
    tell: Callable[[Event], None]


class Meter:
    """The figures of one agent. `start` it when the engine works, `close` it when the engine has ended."""

    def __init__(self, roads: Roads, sources: Sources, before: AgentView) -> None:
        """Raises ConfigError when a library is missing. `before` is how things stood before this agent."""
        if roads.textfile is not None or roads.listen is not None:
            _require_prometheus()
        self._roads = roads
        self._sources = sources
        self._tally = Tally(keep_timings=roads.statsd is not None)
        self._asking = _Asking(sources, before)
        self._statsd = Statsd(roads.statsd, self._read()) if roads.statsd is not None else None
        self._listener: Listener | None = None
        self._failed: set[str] = set()
        self._last: AgentView | None = None
        self._stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._work, name="metrics", daemon=True)

    def count(self, told: Told) -> None:
        """Take note of an event. For any thread; never waits."""
        self._tally.count(told)

    def start(self) -> None:
        """Begin to give figures out."""
        self._thread.start()

    def close(self, last: AgentView | None) -> None:
        """Stop; with `last`, say how things stood at the end. A road that hangs is left to end with the process."""
        self._last = last
        os.eventfd_write(self._stop_fd, 1)
        if self._thread.is_alive():
            self._thread.join(_CLOSE_WITHIN_S)

    # -- the thread

    def _work(self) -> None:
        try:
            self._serve_until_closed()
            if self._last is not None:
                self._asking.newest = self._last
                self._give_out()
        except Exception as error:  # noqa: BLE001 - the thread's one catch-all: told, and the agent works on
            self._has_failed("all", f"the figures stopped: {error!r}")
        finally:
            if self._listener is not None:
                self._listener.close()

    def _serve_until_closed(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._stop_fd, selectors.EVENT_READ)
            next_s = time.monotonic()
            while True:
                if time.monotonic() >= next_s:
                    next_s = time.monotonic() + self._roads.interval_s
                    self._listen()
                    self._asking.ask()
                    self._give_out()
                patience = None if self._sleeps_long() else max(0.0, next_s - time.monotonic())
                if selector.select(patience):
                    return

    def _sleeps_long(self) -> bool:
        """Whether there is nothing to do until a scraper comes."""
        regular = self._roads.textfile is not None or self._statsd is not None
        return not regular and self._listener is not None

    def _listen(self) -> None:
        if self._roads.listen is None or self._listener is not None:
            return
        from jetwatch.telemetry.prometheus import Listener

        address = self._roads.listen
        try:
            listener = Listener(address, self._asking.ask, self._read)
        except OSError as error:
            self._has_failed("listen", f"{address[0]}:{address[1]}: {error.strerror or error}")
            return
        try:
            listener.start()
        except RuntimeError as error:  # no room for one more thread, for now
            listener.close()
            self._has_failed("listen", f"{address[0]}:{address[1]}: {error}")
            return
        self._listener = listener
        self._failed.discard("listen")

    def _give_out(self) -> None:
        found = self._read()
        if self._roads.textfile is not None:
            from jetwatch.telemetry.prometheus import write_textfile

            path = self._roads.textfile
            self._try("textfile", str(path), lambda: write_textfile(path, found))
        if self._statsd is not None and self._roads.statsd is not None:
            statsd, timings = self._statsd, self._tally.take_timings()
            now_s = self._sources.now().wall_us / 1e6
            host, port = self._roads.statsd.address
            self._try("statsd", f"{host}:{port}", lambda: statsd.tell(found, timings, now_s))

    def _try(self, road: str, where: str, give: Callable[[], None]) -> None:
        try:
            give()
        except OSError as error:
            self._has_failed(road, f"{where}: {error.strerror or error}")
        except NotTrusted as error:
            self._has_failed(road, f"{where}: {error.reason}")
        else:
            self._failed.discard(road)

    def _has_failed(self, road: str, reason: str) -> None:
        if road not in self._failed:
            self._failed.add(road)
            self._sources.tell(MetricsFailed(road=road, reason=reason))

    def _read(self) -> list[Reading]:
        sources = self._sources
        return readings(self._asking.newest, self._tally, sources.facts, sources.counts(), sources.now())


class _Asking:
    """Asks the engine how things stand; at most one question is open, however long it takes to answer."""

    def __init__(self, sources: Sources, before: AgentView) -> None:
        self.newest = before
        self._sources = sources
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._answered.set()

    def ask(self) -> None:
        """Get a newer view, if the engine has one to give within a second."""
        with self._lock:
            if self._answered.is_set():
                self._answered.clear()
                self._sources.post(self._answer)
        self._answered.wait(ANSWER_WITHIN_S)

    def _answer(self) -> None:
        self.newest = self._sources.view()
        self._answered.set()


def _require_prometheus() -> None:
    try:
        import jetwatch.telemetry.prometheus  # noqa: F401 - its library may be missing
    except ModuleNotFoundError as missing:
        if missing.name is None or not missing.name.startswith("prometheus_client"):
            raise
        sentence = "`textfile` and `listen` need prometheus_client: install jetwatch with the extra `metrics`"
        raise ConfigError([Problem("watch.yml", 1, "metrics", sentence)]) from missing
