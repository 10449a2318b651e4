"""What is measured: every metric by name, and what each is now. Pure, but for the count of what was told.

A figure has one source. What must be right over restarts is counted in the journal with the change itself (runs by
outcome, requests, bytes); how things stand is what the engine sees, the same records that `jetp status` reads; the rest
(checks, durations of steps) is counted from the events since this agent began. Labels are bounded: the watch, and one
word of a closed list; never a command or a revision.
"""

from __future__ import annotations

import platform
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from jetwatch.events import CheckFinished, StepFinished, Told
from jetwatch.records import AgentView, Deadline, Outcome, Stamp, WatchView

BUCKETS_S = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 7200.0)
"""Upper bounds: from a hook that writes a file to a play that takes its whole `timeouts.play`."""

_TIMINGS_KEPT = 10_000


class Kind(StrEnum):
    """What the value of a metric is. `instant`: Unix time in seconds; `coming`: one that lies ahead; `info`: 1."""

    COUNTER = "counter"
    GAUGE = "gauge"
    INSTANT = "instant"
    COMING = "coming"
    HISTOGRAM = "histogram"
    INFO = "info"


class Metric(Struct, frozen=True):
    """One metric. `name` is that of Prometheus, without `jetwatch_` before it."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


class Distribution(Struct, frozen=True):
    """How often a duration was at most each of BUCKETS_S (not cumulated; the last one: longer), and their sum."""

    counts: tuple[int, ...] = (0,) * (len(BUCKETS_S) + 1)
    sum_s: float = 0.0

    def with_one(self, duration_s: float) -> Distribution:
        """The same with one more."""
        place = bisect_left(BUCKETS_S, duration_s)
        counts = (*self.counts[:place], self.counts[place] + 1, *self.counts[place + 1 :])
        return replace(self, counts=counts, sum_s=self.sum_s + duration_s)


class Reading(Struct, frozen=True):
    """The value of one metric with these label values, in the order of its labels."""

    metric: Metric
    labels: tuple[str, ...]
    value: float | Distribution


_WATCH = ("watch",)
BUILD_INFO = Metric("build_info", Kind.INFO, "The agent's version and that of its Python.", ("version", "python"))
STARTED = Metric("start_timestamp_seconds", Kind.INSTANT, "When this agent started.")
PROGRESS = Metric(
    "engine_progress_timestamp_seconds", Kind.INSTANT, "When the engine last answered. It is asked for each scrape."
)
CONFIG_OK = Metric(
    "config_last_reload_successful", Kind.GAUGE, "Whether the newest configuration is in force: 0 when it was rejected."
)
DROPPED = Metric("log_lines_dropped_total", Kind.COUNTER, "Log lines that nobody took, since this agent started.")
UNSENT = Metric("history_unsent", Kind.GAUGE, "Events of the history that wait to be sent over HTTP.")
SENT = Metric("history_sent_total", Kind.COUNTER, "Events that were sent over HTTP, since this agent started.")
LOST = Metric("history_lost_total", Kind.COUNTER, "Events that will never be sent over HTTP, since this agent started.")
RUNS = Metric("runs_total", Kind.COUNTER, "Runs that ended, by outcome, since the journal began.", ("watch", "outcome"))
CHECKS = Metric("checks_total", Kind.COUNTER, "Checks by result, since this agent started.", ("watch", "result"))
STEPS = Metric(
    "step_duration_seconds",
    Kind.HISTOGRAM,
    "How long commands of runs and hooks took, since this agent started.",
    ("watch", "step"),
)
OPEN = Metric("run_open", Kind.GAUGE, "Whether a run is open.", _WATCH)
LAST_OK = Metric("last_success_timestamp_seconds", Kind.INSTANT, "When a run last ended ok.", _WATCH)
LAST_CHECK = Metric("last_check_timestamp_seconds", Kind.INSTANT, "When the check was last answered.", _WATCH)
NEXT_CHECK = Metric("next_check_timestamp_seconds", Kind.COMING, "When the next check is due.", _WATCH)
FAILURES = Metric(
    "consecutive_failures", Kind.GAUGE, "Runs that failed, timed out or were lost since one ended ok.", _WATCH
)
CHECK_ERRORS = Metric("consecutive_check_errors", Kind.GAUGE, "Checks in error since one was not.", _WATCH)
SUSPENDED = Metric("suspended", Kind.GAUGE, "Whether a person has suspended the watch.", _WATCH)
QUARANTINED = Metric("quarantined", Kind.GAUGE, "Whether a revision is quarantined.", _WATCH)
HELD = Metric("held", Kind.GAUGE, "Whether too many lost runs in a row hold the watch.", _WATCH)
BLOCKED = Metric("blocked", Kind.GAUGE, "Whether a command cannot be killed.", _WATCH)
DUE = Metric("due_waiting", Kind.GAUGE, "Whether a due answer waits for something that stands in its way.", _WATCH)
OUTBOX = Metric("outbox_depth", Kind.GAUGE, "Hooks that are owed.", _WATCH)
OUTBOX_OLDEST = Metric("outbox_oldest_timestamp_seconds", Kind.INSTANT, "Since when the oldest hook is owed.", _WATCH)
ABANDONED = Metric("hooks_abandoned_total", Kind.COUNTER, "Hooks that were given up, since the journal began.", _WATCH)
REQUESTS = Metric("requests_total", Kind.COUNTER, "Requests to the content's source, since the journal began.", _WATCH)
BYTES = Metric(
    "downloaded_bytes_total",
    Kind.COUNTER,
    "Bytes of content, unpacked, that fetches brought in and did not have in their cache, since the journal began.",
    _WATCH,
)

CATALOGUE = (
    BUILD_INFO, STARTED, PROGRESS, CONFIG_OK, DROPPED, UNSENT, SENT, LOST, RUNS, CHECKS, STEPS, OPEN, LAST_OK,
    LAST_CHECK, NEXT_CHECK, FAILURES, CHECK_ERRORS, SUSPENDED, QUARANTINED, HELD, BLOCKED, DUE, OUTBOX,
    OUTBOX_OLDEST, ABANDONED, REQUESTS, BYTES,
)  # fmt: skip


def prometheus_name(metric: Metric) -> str:
    """The metric's whole name there."""
    return f"jetwatch_{metric.name}"


def statsd_name(metric: Metric) -> str:
    """The metric's name there, without prefix and labels. StatsD has no instants, so ages and waits are told."""
    name = metric.name.removesuffix("_total")
    if metric.kind is Kind.INSTANT:
        return name.replace("_timestamp_seconds", "_age_seconds")
    if metric.kind is Kind.COMING:
        return name.replace("_timestamp_seconds", "_in_seconds")
    return name.removesuffix("_seconds") if metric.kind is Kind.HISTOGRAM else name


class Tally:
    """What the events of this agent add up to. For any thread. `keep_timings`: somebody takes each single duration."""

    def __init__(self, *, keep_timings: bool = False) -> None:
        self._lock = threading.Lock()
        self._checks: dict[tuple[str, str], int] = {}
        self._steps: dict[tuple[str, str], Distribution] = {}
        self._timings: deque[tuple[str, str, float]] | None = deque(maxlen=_TIMINGS_KEPT) if keep_timings else None

    def count(self, told: Told) -> None:
        """Take note of an event."""
        event = told.event
        if isinstance(event, CheckFinished):
            with self._lock:
                key = (event.watch, event.result)
                self._checks[key] = self._checks.get(key, 0) + 1
        elif isinstance(event, StepFinished):
            with self._lock:
                key = (event.watch, event.step)
                self._steps[key] = self._steps.get(key, Distribution()).with_one(event.duration_s)
                if self._timings is not None:
                    self._timings.append((event.watch, event.step, event.duration_s))

    def take_timings(self) -> list[tuple[str, str, float]]:
        """Watch, step and seconds of every step that ended since this was last asked."""
        with self._lock:
            taken = list(self._timings or ())
            if self._timings is not None:
                self._timings.clear()
        return taken

    def readings(self, watches: frozenset[str]) -> list[Reading]:
        """What was counted for these watches."""
        with self._lock:
            checks, steps = dict(self._checks), dict(self._steps)
        counted: list[Reading] = [Reading(CHECKS, key, count) for key, count in checks.items() if key[0] in watches]
        return counted + [Reading(STEPS, key, spread) for key, spread in steps.items() if key[0] in watches]


class Facts(Struct, frozen=True):
    """What stays the same as long as the agent lives."""

    version: str
    started: Stamp


def readings(view: AgentView, tally: Tally, facts: Facts, counts: Mapping[Metric, float], now: Stamp) -> list[Reading]:
    """Every figure at this instant, in the order of the catalogue. `now` may be later than the view: it is stuck.

    `counts` are figures without labels that others keep: of log lines, of what is sent.
    """
    found = [
        Reading(BUILD_INFO, (facts.version, platform.python_version()), 1),
        Reading(STARTED, (), _seconds(facts.started)),
        Reading(PROGRESS, (), _seconds(view.at)),
        Reading(CONFIG_OK, (), not view.config_rejected),
        *(Reading(metric, (), value) for metric, value in counts.items()),
        *tally.readings(frozenset(watch.state.watch for watch in view.watches)),
    ]
    for watch in view.watches:
        found += _of_watch(watch, now)
    order = {metric: place for place, metric in enumerate(CATALOGUE)}
    return sorted(found, key=lambda reading: (order[reading.metric], reading.labels))


def _of_watch(watch: WatchView, now: Stamp) -> Iterator[Reading]:
    state, name = watch.state, (watch.state.watch,)
    for outcome in Outcome:
        yield Reading(RUNS, (*name, outcome.value), state.ended.get(outcome.value, 0))
    instants = {LAST_OK: state.last_ok, LAST_CHECK: state.last_check, OUTBOX_OLDEST: watch.owed_since}
    for metric, instant in instants.items():
        if instant is not None:
            yield Reading(metric, name, _seconds(instant))
    if state.next_check is not None:
        yield Reading(NEXT_CHECK, name, (now.wall_us + state.next_check.remaining_us(now)) / 1e6)
    suspension = state.suspended
    values = {
        OPEN: watch.run_open,
        FAILURES: state.failures_in_a_row,
        CHECK_ERRORS: state.check_errors,
        SUSPENDED: suspension is not None and (suspension.until is None or _is_ahead(suspension.until, now)),
        QUARANTINED: state.quarantined_revision is not None,
        HELD: _is_ahead(state.held_until, now),
        BLOCKED: watch.blocked,
        DUE: state.due is not None,
        OUTBOX: watch.owed,
        ABANDONED: state.hooks_abandoned,
        REQUESTS: state.requests,
        BYTES: state.fetched_bytes,
    }
    for metric, value in values.items():
        yield Reading(metric, name, value)


def _is_ahead(deadline: Deadline | None, now: Stamp) -> bool:
    return deadline is not None and deadline.remaining_us(now) > 0


def _seconds(stamp: Stamp) -> float:
    return stamp.wall_us / 1e6
