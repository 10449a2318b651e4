"""The catalogue of everything that jetwatch tells: one class per event, its name, its level, its fields.

Names and fields are stable (docs/reference/events.md is generated from here). A field whose value is None or empty is
left out of the line. Events with `history` are written to the journal in the transaction of the change they tell, and
carry its `seq`; the others are only logged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from msgspec import Struct

from jetwatch.records import AgentState, OutboxEntry, Run, Stamp, WatchState

SCHEMA_VERSION = 1
"""Rises when an event or a field goes away, or changes name, type, unit or meaning; what is new does not raise it."""


class Event(Struct, frozen=True, kw_only=True):
    """The base of all events. `watch` and `play_uuid` are empty where an event has none."""

    name: ClassVar[str]
    level: ClassVar[str] = "info"
    history: ClassVar[bool] = False

    watch: str = ""
    play_uuid: str = ""

    def told_fields(self) -> Iterator[tuple[str, object]]:
        """The event's own fields that have something to say, in their order of declaration."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and value not in ("", (), {}):
                yield name, value

    def told_level(self) -> str:
        """The level of this very event."""
        return self.level


class AgentStarted(Event, frozen=True, kw_only=True):
    """The agent holds its state directory and is about to work. `detach`: runs live on when it stops."""

    name = "agent_started"
    pid: int
    detach: bool
    cgroup: str
    watches: int
    config: str
    state_dir: str


class AgentStopping(Event, frozen=True, kw_only=True):
    """A signal stops the agent. `mode`: detach, wait or cancel. The end of `--once` has none."""

    name = "agent_stopping"
    reason: str
    mode: str


class AgentStopped(Event, frozen=True, kw_only=True):
    """The agent's last line. `open_runs` live on under their supervisors."""

    name = "agent_stopped"
    open_runs: int
    lines_dropped: int = 0


class ConfigReloaded(Event, frozen=True, kw_only=True):
    """A new configuration is in force (`changed` false: it was the same)."""

    name = "config_reloaded"
    changed: bool
    added: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class ConfigRejected(Event, frozen=True, kw_only=True):
    """A new configuration will not do; the last good one stays."""

    name = "config_rejected"
    level = "error"
    problems: tuple[str, ...]


class SplayStarted(Event, frozen=True, kw_only=True):
    """A random wait before a check."""

    name = "splay_started"
    wait_s: float
    splay_s: float


class CheckFinished(Event, frozen=True, kw_only=True):
    """A check was answered, failed, or was skipped (`reason`)."""

    name = "check_finished"
    result: str
    reason: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    timed_out: bool | None = None
    duration_s: float | None = None
    revision: str | None = None
    trigger: str | None = None
    output_tail: str | None = None
    suspended_by: str | None = None
    suspended_reason: str | None = None
    suspended_until: str | None = None

    def told_level(self) -> str:
        """Not due is everyday; an error is one."""
        return {"not_due": "debug", "error": "error"}.get(self.result, "info")


class ChecksFolded(Event, frozen=True, kw_only=True):
    """How many checks said not due since the last such line."""

    name = "checks_folded"
    count: int
    since: str


class RunStarted(Event, frozen=True, kw_only=True):
    """A run is open: recorded, with a fresh directory; its first command has not started."""

    name = "run_started"
    history = True
    trigger: str
    attempt: int
    revision: str | None = None
    download_path: str | None = None


class RunDeferred(Event, frozen=True, kw_only=True):
    """A run that is due waits: its `reason` is `window`, which opens at `until`; it is to start at `start_at`."""

    name = "run_deferred"
    history = True
    reason: str
    until: str
    start_at: str
    trigger: str
    revision: str | None = None


class StepStarted(Event, frozen=True, kw_only=True):
    """A command of a run, or a hook, is being started."""

    name = "step_started"
    history = True
    step: str
    attempt: int


class StepDeferred(Event, frozen=True, kw_only=True):
    """A command of a run, or a hook, could not be started now, for want of room, say. It is tried again after a wait.

    `reason`: no_room, no_supervisor (none could be started), supervisor_died (it ended before it could write a word).
    """

    name = "step_deferred"
    level = "warning"
    step: str
    attempt: int
    reason: str
    detail: str
    wait_s: float


class StepFinished(Event, frozen=True, kw_only=True):
    """A command of a run, or a hook, ended. `ok` is what counts; `reason` says why not."""

    name = "step_finished"
    history = True
    step: str
    ok: bool
    reason: str | None = None
    detail: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    timed_out: bool = False
    duration_s: float = 0.0
    cpu_s: float = 0.0
    max_rss_bytes: int = 0
    output_bytes: int = 0
    left_running: int | None = None
    output_tail: str | None = None

    def told_level(self) -> str:
        """A step that failed is a warning; what it means is told by run_finished or hook_retry."""
        return "info" if self.ok else "warning"


class RunReattached(Event, frozen=True, kw_only=True):
    """An agent that starts goes on with a run that another agent opened."""

    name = "run_reattached"
    history = True
    step: str
    alive: bool


class RunFinished(Event, frozen=True, kw_only=True):
    """The one end of a run."""

    name = "run_finished"
    history = True
    outcome: str
    reason: str | None = None
    exit_code: int | None = None
    failed_step: str | None = None
    duration_s: float
    attempt: int
    trigger: str
    revision: str | None = None

    def told_level(self) -> str:
        """Only ok is no error."""
        return {"ok": "info", "cancelled": "warning"}.get(self.outcome, "error")


class IncidentOpened(Event, frozen=True, kw_only=True):
    """Runs fail: the first one, or as many in a row as on_fail waits for (`after`). `since`: the end of the first."""

    name = "incident_opened"
    level = "warning"  # the error is told by run_finished: counted by level, it is one
    history = True
    failures: int
    since: str
    outcome: str
    failed_step: str | None = None
    revision: str | None = None


class IncidentClosed(Event, frozen=True, kw_only=True):
    """A run ended ok again, after so many `failures` in a row, `duration_s` after the first of them."""

    name = "incident_closed"
    history = True
    failures: int
    since: str
    duration_s: float


class RetryPlanned(Event, frozen=True, kw_only=True):
    """A failed run, or a check in error, will be tried again. `at` is RFC 3339."""

    name = "retry_planned"
    history = True
    at: str
    attempt: int
    wait_s: float


class Quarantined(Event, frozen=True, kw_only=True):
    """A revision starts no more runs until another one is seen or `jetp clear`."""

    name = "quarantined"
    level = "warning"
    history = True
    revision: str
    reason: str


class Held(Event, frozen=True, kw_only=True):
    """Too many lost runs in a row: the watch waits."""

    name = "held"
    level = "warning"
    history = True
    lost_in_a_row: int
    until: str


class Blocked(Event, frozen=True, kw_only=True):
    """A command cannot be killed; its watch starts nothing until it is gone."""

    name = "blocked"
    level = "error"
    history = True
    step: str
    pid: int
    state: str


class Cleared(Event, frozen=True, kw_only=True):
    """Backoff, quarantine and hold of a watch are forgotten."""

    name = "cleared"
    history = True
    by: str


class HookRetry(Event, frozen=True, kw_only=True):
    """A hook failed and will be tried again."""

    name = "hook_retry"
    level = "warning"
    history = True
    step: str
    at: str
    delivery: int
    wait_s: float


class HookAbandoned(Event, frozen=True, kw_only=True):
    """A hook was given up."""

    name = "hook_abandoned"
    level = "error"
    history = True
    step: str
    deliveries: int
    reason: str


class Suspended(Event, frozen=True, kw_only=True):
    """No new runs for this watch."""

    name = "suspended"
    history = True
    by: str
    reason: str
    until: str | None = None


class Resumed(Event, frozen=True, kw_only=True):
    """New runs may start again."""

    name = "resumed"
    history = True
    by: str


class DiskLow(Event, frozen=True, kw_only=True):
    """Too little free space or too few inodes: a run that is due does not start.

    Without a `watch`: the disk is full, and the journal's own reserve was given up to it so that it could be written.
    """

    name = "disk_low"
    level = "error"
    path: str
    free_bytes: int
    free_inodes: int
    reserve_bytes: int
    reserve_inodes: int


class JournalStalled(Event, frozen=True, kw_only=True):
    """The journal cannot be written: nothing is decided until it can. What runs goes on; each second it is tried anew.

    `reason`: no_space, read_only, io_error, locked. Told again every ten minutes.
    """

    name = "journal_stalled"
    level = "error"
    reason: str
    detail: str
    since_s: float


class JournalResumed(Event, frozen=True, kw_only=True):
    """The journal can be written again; nothing was lost meanwhile."""

    name = "journal_resumed"
    level = "warning"
    after_s: float


class RetentionSwept(Event, frozen=True, kw_only=True):
    """Old run directories and outputs were removed."""

    name = "retention_swept"
    level = "debug"
    runs: int


class RetentionRefused(Event, frozen=True, kw_only=True):
    """A directory could not be removed safely; it stays."""

    name = "retention_refused"
    level = "warning"
    path: str
    reason: str


class RowUnreadable(Event, frozen=True, kw_only=True):
    """A row of the journal cannot be read; everything else goes on. Told once by each agent that meets it.

    `table`: run, watch, outbox, event, agent. An open run is closed as lost once nothing of it lives, a hook is
    abandoned, a watch is suspended until a person resumes it. What stood there is kept in the journal's table `unread`.
    """

    name = "row_unreadable"
    level = "error"
    table: str
    row: str
    detail: str


class InternalError(Event, frozen=True, kw_only=True):
    """Something went wrong that nobody has foreseen: it is the error of this `action`, and everything else goes on.

    `error` is the kind of it, `traceback` the calls that led there, the newest last. No values: they may be secrets.
    `action`: check, start, cancel, look, end, bury, measure, sweep, tidy, secrets, reload, verb, control.
    """

    name = "internal_error"
    level = "error"
    action: str
    error: str
    traceback: str | None = None


class MetricsFailed(Event, frozen=True, kw_only=True):
    """Figures cannot be given out by this road; it is tried again. Told once, until it worked again."""

    name = "metrics_failed"
    level = "warning"
    road: str
    reason: str


class SinkFailed(Event, frozen=True, kw_only=True):
    """History cannot be sent over HTTP; it is kept and tried again. Told once, until it worked again."""

    name = "sink_failed"
    level = "warning"
    reason: str


class SinkResumed(Event, frozen=True, kw_only=True):
    """History is sent over HTTP again, after so many failures."""

    name = "sink_resumed"
    failures: int


class SinkLost(Event, frozen=True, kw_only=True):
    """Events of the history will never be sent over HTTP."""

    name = "sink_lost"
    level = "error"
    count: int
    reason: str


def catalogue() -> tuple[type[Event], ...]:
    """Every event class, in the order of this file."""
    return tuple(Event.__subclasses__())


class Change(Struct, frozen=True):
    """Everything that is written in one transaction: new states of records, and the events that tell of them.

    `durable` false: the newest checks may be forgotten by a power cut (never by a kill); nothing that starts or
    ends a run is such a change. `abandoned`: ids of owed hooks whose rows cannot be read.
    """

    at: Stamp
    runs: tuple[Run, ...] = ()
    watches: tuple[WatchState, ...] = ()
    hooks: tuple[OutboxEntry, ...] = ()
    agent: AgentState | None = None
    events: tuple[Event, ...] = ()
    durable: bool = True
    abandoned: tuple[int, ...] = ()


class Told(Struct, frozen=True):
    """An event with its place in history (`seq`; None: it is not history) and its time."""

    event: Event
    at_us: int
    seq: int | None = None
