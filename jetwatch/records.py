"""The records that cross rooms: frozen, typed, storable as JSON.

Every room below the engine knows the others through these alone. Units stand in the names: `_us` whole
microseconds, `_s` seconds, `_bytes` bytes. A secret never stands in any of them, except in `CommandSpec`, which
travels by pipe and is never stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, field
from msgspec.structs import astuple

from jetwatch.content_records import Look

FORMAT = 1
"""Version of the files that a shim and an agent exchange (spec, started.json, exit.json)."""

STALE_AFTER_US = 3600 * 1_000_000
"""A run that stood still between two commands for longer than this is not gone on with (contract 2)."""


class Outcome(StrEnum):
    """How a run ended. `lost`: its supervisor or the machine died with it; it may have run in part."""

    OK = "ok"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    LOST = "lost"


class StepState(StrEnum):
    """Where a step of a run stands."""

    PENDING = "pending"
    STARTED = "started"
    ENDED = "ended"
    SKIPPED = "skipped"


class Ending(StrEnum):
    """How a command ended. `not_started`: it never ran, and `CommandResult.reason` says why."""

    NOT_STARTED = "not_started"
    EXITED = "exited"
    SIGNALLED = "signalled"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    LOST = "lost"


class TriggerKind(StrEnum):
    """What made a run due."""

    CHECK = "check"
    SCHEDULE = "schedule"
    MANUAL = "manual"
    RETRY = "retry"
    REAPPLY = "reapply"


class CheckResult(StrEnum):
    """The answer of a check. `skipped`: it was not asked, or its answer may not start a run; a reason says why."""

    DUE = "due"
    NOT_DUE = "not_due"
    LATER = "later"
    ERROR = "error"
    SKIPPED = "skipped"


class Stamp(Struct, frozen=True):
    """One instant by both clocks: Unix time, and time since boot with sleep counted, within `boot_id`."""

    wall_us: int
    boot_us: int
    boot_id: str


class Deadline(Struct, frozen=True):
    """An instant to wait for that outlives a process and a reboot.

    Within its boot the boot-time clock counts; after a reboot the wall clock does, and the wait is never longer
    than it was at first (`span_us`).
    """

    at: Stamp
    span_us: int

    @classmethod
    def after(cls, now: Stamp, span_us: int) -> Deadline:
        """The instant `span_us` microseconds from `now`."""
        return cls(Stamp(now.wall_us + span_us, now.boot_us + span_us, now.boot_id), span_us)

    def remaining_us(self, now: Stamp) -> int:
        """Microseconds to wait from `now`, 0 when the deadline has passed."""
        if now.boot_id == self.at.boot_id:
            return max(0, self.at.boot_us - now.boot_us)
        return min(self.span_us, max(0, self.at.wall_us - now.wall_us))


class ProcessId(Struct, frozen=True):
    """A process that cannot be mistaken for another: a pid is worth nothing without its start time and its boot."""

    pid: int
    start_ticks: int
    boot_id: str
    cgroup: str | None = None


class Command(Struct, frozen=True):
    """A command as it was asked for: templates, storable, without secrets.

    Exactly one of `words` (templates of argv) and `shell` (text for `/bin/sh -c`, never a template) is set.
    `env` holds plain values; `env_files` name private files that are read anew for each start; `inherits` are patterns
    of names whose values are the agent's own, where it has them. `capabilities` None: all that its account has.
    """

    words: tuple[str, ...] | None = None
    shell: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    env_files: tuple[str, ...] = ()
    inherits: tuple[str, ...] = ()
    cwd: str | None = None
    user: str | None = None
    group: str | None = None
    umask: int | None = None
    nice: int | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    no_new_privileges: bool = False
    capabilities: tuple[str, ...] | None = None
    timeout_s: float = 60.0
    grace_s: float = 10.0
    ok_exit_codes: tuple[int, ...] = (0,)
    keep_bytes: int = 16 * 1024 * 1024


class CommandSpec(Struct, frozen=True):
    """A command rendered and complete. It may hold secrets: it travels by pipe and is never written to disk.

    `mark` is one `NAME=value` that every process of the command has in its environment, so that it can be found.
    `outputs_path` is the command's JETWATCH_OUTPUT file. `limits` are `RLIMIT_` names in lower case. `secret_names` are
    the names in `env` whose values are masked in `CommandResult.output_tail`. A `cwd` that is not given is the agent's,
    or `/` where its user may not go there. `open_files`: the soft limit that was the agent's before it raised its own
    (None: as it is). `capabilities`: the bits of what it has, and may get at most (None: what its account has).
    """

    step_id: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    mark: str
    outputs_path: str | None
    uid: int | None
    gid: int | None
    groups: tuple[int, ...] | None
    umask: int
    nice: int | None
    limits: Mapping[str, int]
    timeout_s: float
    grace_s: float
    keep_bytes: int
    secret_names: tuple[str, ...] = ()
    cwd_is_given: bool = True
    cgroup: str | None = None
    open_files: int | None = None
    no_new_privileges: bool = False
    capabilities: int | None = None
    format: int = FORMAT


class CommandResult(Struct, frozen=True):
    """How a command ended, and what it cost.

    `reason` is a code, not a sentence (`no_such_file`, `bad_output`, …); `detail` is the sentence for a person.
    `left_running` counts processes that the command started and left behind. `outputs` are the `key=value` lines of its
    JETWATCH_OUTPUT file. `output_tail` is the end of its output as text, secrets masked. `started_us` and `ended_us`
    are Unix time.
    """

    step_id: str
    ending: Ending
    reason: str | None = None
    detail: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    core_dumped: bool = False
    pid: int | None = None
    started_us: int | None = None
    ended_us: int | None = None
    duration_s: float = 0.0
    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    max_rss_bytes: int = 0
    output_bytes: int = 0
    output_kept_bytes: int = 0
    output_tail: str = ""
    left_running: int = 0
    outputs: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def shell_exit_code(self) -> int | None:
        """The exit code as a shell would tell it: 128 + n for signal n, 127 and 126 for one that could not start."""
        if self.ending is Ending.NOT_STARTED:
            return 127 if self.reason == "no_such_file" else 126
        return self.exit_code

    def ended_well(self, ok_exit_codes: tuple[int, ...]) -> bool:
        """Whether the command did what was asked of it."""
        return self.ending is Ending.EXITED and self.reason is None and self.exit_code in ok_exit_codes


class Sight(StrEnum):
    """What a look at a step's directory shows."""

    ALIVE = "alive"
    DONE = "done"
    NEVER_RAN = "never_ran"
    GONE = "gone"


class Evidence(Struct, frozen=True):
    """What is known of a started step from its directory alone: its lock, `exit.json`, `started.json`, in this order.

    `alive`: the lock is held, `supervisor` says by whom (None: it has not written that down yet). `done`: `result` is
    there. `never_ran`: the command's first instruction was never reached. `gone`: its supervisor died with it.
    `since_monotonic_us`: when a living command began (CLOCK_MONOTONIC). `blocked`: pid and state of a process that KILL
    does not end.
    """

    sight: Sight
    supervisor: ProcessId | None = None
    result: CommandResult | None = None
    since_monotonic_us: int | None = None
    blocked: tuple[int, str] | None = None


class Step(Struct, frozen=True):
    """One command of a run. `attempt` counts its starts; each start has a directory of its own."""

    number: int
    name: str
    command: Command
    state: StepState = StepState.PENDING
    attempt: int = 0
    started: Stamp | None = None
    result: CommandResult | None = None


class Alarm(Struct, frozen=True):
    """Which failed runs are told by on_fail: from the `after`th in a row on, each of them or the `first_only`."""

    after: int = 1
    first_only: bool = False


EVERY_FAILURE = Alarm()


class Trigger(Struct, frozen=True):
    """What made something due, when, and by whom. `revision` and `values` are what the check said."""

    kind: TriggerKind
    at: Stamp
    revision: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 1
    by: str | None = None
    reason: str | None = None
    forced: bool = False


class Run(Struct, frozen=True):
    """One run of a watch, from its opening to its outcome. Its id is the `play_uuid`.

    The steps and hooks keep the configuration that the run began with; a run whose row cannot be read has none.
    `progressed` is the last time that something was recorded of it. `outcome` is None while the run is open.
    `has_cache`: its first step is a fetch that keeps what it fetched; where, is a matter of the account. `origin`: the
    server that it fetches from. `waiting_for`: what an open run waits for between two commands, in the words of
    `WatchState.waiting_for`. `seq` is the journal's own count, 0 until it is stored.
    """

    id: str
    watch: str
    trigger: Trigger
    attempt: int
    revision: str
    previous_revision: str
    applied_revision: str
    values: Mapping[str, str]
    config_digest: str
    download_path: str
    download_owner: str | None
    steps: tuple[Step, ...]
    hooks: Mapping[str, Command]
    opened: Stamp
    progressed: Stamp
    exclusive: str | None = None
    alarm: Alarm = EVERY_FAILURE
    has_cache: bool = False
    origin: str | None = None
    waiting_for: tuple[str, ...] = ()
    cancel: Trigger | None = None
    outcome: Outcome | None = None
    reason: str | None = None
    exit_code: int | None = None
    failed_step: str = ""
    closed: Stamp | None = None
    seq: int = 0

    @property
    def is_open(self) -> bool:
        """Whether the run has no outcome yet."""
        return self.outcome is None

    @property
    def is_before_play(self) -> bool:
        """Whether it fetches content, or has done so and waits: its place is one among the fetches, not the runs."""
        return self.has_cache and bool(self.steps) and self.steps[-1].state is StepState.PENDING

    @property
    def play_began(self) -> bool:
        """Whether the play's command may have changed the machine. Of a run that cannot be read nobody knows."""
        return not self.steps or any(
            step.name == "play" and step.attempt > 0 and not (step.result and step.result.ending is Ending.NOT_STARTED)
            for step in self.steps
        )


class UnreadRun(Struct, frozen=True):
    """An open run whose row cannot be read: what stands in its columns."""

    id: str
    watch: str
    opened_us: int


class UnreadHook(Struct, frozen=True):
    """An owed hook whose row cannot be read: what stands in its columns."""

    id: int
    watch: str
    run_id: str | None


class Suspension(Struct, frozen=True):
    """No new runs, by whom, why, and until when (None: until `jetp resume`)."""

    by: str
    reason: str
    since: Stamp
    until: Deadline | None = None


class PlannedBy(StrEnum):
    """What the time of the next check comes from."""

    SPLAY = "splay"
    INTERVAL = "interval"
    SCHEDULE = "schedule"
    GRID = "grid"  # phase: stable
    BACKOFF = "backoff"  # after a check in error
    SERVER = "server"  # which asked not to be asked before


class Shortage(Struct, frozen=True):
    """Less is free on the file system of `path` than is to stay free."""

    path: str
    free_bytes: int
    free_inodes: int
    reserve_bytes: int
    reserve_inodes: int


class WindowWait(Struct, frozen=True):
    """A due answer waits for a window: when it opens, and when the run is to start (the splay later)."""

    opens: Deadline
    start: Deadline


class WatchState(Struct, frozen=True):
    """What is remembered of a watch between two checks.

    `applied_revision` is that of the newest run whose play began, if that run ended ok. `attempt` counts runs
    of one revision that ended other than ok. `due` is an answer that waits for its turn (`waiting_for` says for what;
    `window` and `shortage`: until when, and how much room is missing). `planned_by` is where `next_check` comes from.
    `last_fire_us` is up to when the firings of the schedule `fires_by` are dealt with. `look` is the last look at the
    watch's content. Counted since the journal began: `requests` to content sources, `fetched_bytes` that came from
    them, `ended` runs by outcome; `failures_in_a_row` since the last run that ended ok, the first of them at
    `failing_since`; `incident`: there were enough of them to be told.
    """

    watch: str
    applied_revision: str = ""
    last_ok_revision: str = ""
    last_ok: Stamp | None = None
    last_run: str | None = None
    last_check: Stamp | None = None
    last_result: CheckResult | None = None
    last_reason: str | None = None
    last_revision: str = ""
    next_check: Deadline | None = None
    planned_by: PlannedBy | None = None
    fires_by: str | None = None
    last_fire_us: int | None = None
    check_errors: int = 0
    attempt: int = 0
    attempt_revision: str = ""
    retry_at: Deadline | None = None
    retry: Trigger | None = None
    due: Trigger | None = None
    waiting_for: tuple[str, ...] = ()
    window: WindowWait | None = None
    shortage: Shortage | None = None
    trigger: Trigger | None = None
    look: Look | None = None
    requests: int = 0
    fetched_bytes: int = 0
    ended: Mapping[str, int] = field(default_factory=dict)
    failures_in_a_row: int = 0
    failing_since: Stamp | None = None
    incident: bool = False
    quarantined_revision: str | None = None
    quarantine_reason: str | None = None
    lost_in_a_row: int = 0
    held_until: Deadline | None = None
    suspended: Suspension | None = None
    hooks_abandoned: int = 0


class HookState(StrEnum):
    """Where the delivery of a hook stands."""

    OWED = "owed"
    DELIVERED = "delivered"
    ABANDONED = "abandoned"


class OutboxEntry(Struct, frozen=True):
    """A hook that is owed to somebody: delivered at least once, in the order of `id`, across crash and reboot.

    `attempt` counts starts (each has a directory of its own), `deliveries` counts tries that ran. `in_flight` says that
    a start is recorded whose end is not; `started` is when the newest one was. `values` and `outputs` are the variables
    of the moment it was owed.
    """

    watch: str
    run_id: str | None
    name: str
    command: Command
    values: Mapping[str, str]
    outputs: Mapping[str, str]
    owed_since: Stamp
    id: int = 0
    state: HookState = HookState.OWED
    attempt: int = 0
    deliveries: int = 0
    in_flight: bool = False
    started: Stamp | None = None
    not_before: Deadline | None = None
    result: CommandResult | None = None


class AgentState(Struct, frozen=True):
    """What the agent says of itself in the journal, for readers that need no agent.

    `cgroup` is the kind of cgroups that commands get (v2, hybrid, none). `socket` None: it listens nowhere.
    `insecure` names the watches whose content comes by plain http, unproven.
    """

    pid: int
    start_ticks: int
    boot_id: str
    started: Stamp
    version: str
    config_path: str
    config_digest: str
    detach: bool
    cgroup: str
    watches: tuple[str, ...]
    socket: str | None = None
    insecure: tuple[str, ...] = ()
    config_rejected: str | None = None
    blocked: Mapping[str, str] = field(default_factory=dict)
    stopped: Stamp | None = None


class WatchView(Struct, frozen=True):
    """One configured watch at one instant. `owed` hooks wait, the oldest since `owed_since`."""

    state: WatchState
    run_open: bool
    blocked: bool
    owed: int
    owed_since: Stamp | None


class AgentView(Struct, frozen=True):
    """What the engine sees at one instant, for those that count and measure. Made in its thread, safe in any other."""

    at: Stamp
    watches: tuple[WatchView, ...]
    config_rejected: bool


Record = TypeVar("Record")
Said = TypeVar("Said", bound=Struct)

_BEYOND_64_BITS = 2**63


def is_text(text: str) -> bool:
    """Whether a record can hold it: a path or a word of the system may have bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def sound(record: Said) -> Said:
    """`record`, made of what a stranger said, if the journal can hold it.

    Raises ValueError when it holds what no row can: a number beyond 64 bits or none at all, half a character, anything
    of another type.
    """
    kind = type(record).__name__
    numbers = (value for value in astuple(record) if isinstance(value, int))
    if any(not -_BEYOND_64_BITS <= number < _BEYOND_64_BITS for number in numbers):
        raise ValueError(f"{kind}: a number has more than 64 bits")
    try:
        read_back = from_json(msgspec.json.encode(record), type(record))
    except (TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{kind}: {error}") from error
    if read_back != record:
        raise ValueError(f"{kind}: it would not be read back as it is")
    return record


def to_json(record: Any) -> bytes:
    """A record as JSON (one line, UTF-8). Bytes of a name that are no UTF-8 are written as escapes (`\\udcff`)."""
    try:
        return msgspec.json.encode(record)
    except UnicodeEncodeError:
        return msgspec.json.encode(_written_out(msgspec.to_builtins(record)))


def _written_out(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_written_out(name): _written_out(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_written_out(each) for each in value]
    return value


def from_json(data: bytes | str, kind: type[Record]) -> Record:
    """The record of type `kind` in `data`. Raises ValueError when it is not one; unknown keys are ignored."""
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deep") from error
