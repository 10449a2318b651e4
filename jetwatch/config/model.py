"""The configuration as the rest of the program sees it: complete, typed, units in the names.

Defaults and bounds of watch.yml stand here and nowhere else; `load.py` fills these records from YAML, and
`schema.json` is generated from the same table. Values of secrets live in `secrets` fields, which no repr shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from msgspec import Struct, field

from jetwatch.content_records import Content, shown_without
from jetwatch.records import EVERY_FAILURE, Alarm, Command

MIB = 1024 * 1024
DAY_S = 86_400.0


class Phase(StrEnum):
    """Where in the interval a watch's checks fall: drawn at each start, or the same for ever on this machine."""

    RANDOM = "random"
    STABLE = "stable"


class StopMode(StrEnum):
    """What TERM does to open runs: leave them to the next agent, wait for their end, or cancel them."""

    DETACH = "detach"
    WAIT = "wait"
    CANCEL = "cancel"


class LogFormat(StrEnum):
    """How a log line looks."""

    JSON = "json"
    CONSOLE = "console"
    LOGFMT = "logfmt"


class Retry(Struct, frozen=True):
    """Delay n is uniform in [0, min(max_s, initial_s * factor^(n-1))), at least 1 s. `max_attempts` None: no limit."""

    initial_s: float = 30.0
    max_s: float = 3600.0
    factor: float = 2.0
    max_attempts: int | None = None


class Retain(Struct, frozen=True):
    """How many run directories and outputs are kept: by count, by age, by total size (None: no limit)."""

    runs: int = 10
    age_s: float = 30 * DAY_S
    max_bytes: int | None = None


class Timeouts(Struct, frozen=True):
    """Seconds that each kind of command may take, and between TERM and KILL."""

    check_s: float = 60.0
    download_s: float = 1800.0
    play_s: float = 7200.0
    hook_s: float = 300.0
    grace_s: float = 10.0


class DiskReserve(Struct, frozen=True):
    """No run starts with less than this free."""

    free_bytes: int = 64 * MIB
    free_inodes: int = 1_000


class Window(Struct, frozen=True):
    """Hours of some days in which runs may start. It belongs to the day it opens on, and may close on the next.

    `days`: 0 is Monday. `opens_min` and `closes_min` are minutes of civil time since midnight; a `closes_min` that is
    not later than `opens_min` is one of the next day. `timezone` None: the machine's own.
    """

    days: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    opens_min: int = 0
    closes_min: int = 24 * 60
    timezone: str | None = None


class WatchSettings(Struct, frozen=True):
    """One watch. Without `check` and `content` every firing of `schedule` is due; with `content` `download` fetches it.

    `hooks` has the keys on_start, on_ok, on_fail, on_recover, on_done, on_error, where configured; `alarm` says which
    failures on_fail is told of. `jitter_s` and
    `jitter_fraction` (of the interval) add up; at most one is set. Without `windows` runs may start at any time.
    `secrets` maps the name of a command (`check`, `download`, `play`, `on_ok`, …) to the secret part of its
    environment. `digest` identifies the whole of it.
    """

    name: str
    play: Command
    check: Command | None = None
    content: Content | None = None
    download: Command | None = None
    timeouts: Timeouts = Timeouts()
    hooks: Mapping[str, Command] = field(default_factory=dict)
    check_interval_s: float = 200.0
    schedule: str | None = None
    timezone: str | None = None
    splay_s: float = 0.0
    phase: Phase = Phase.RANDOM
    jitter_s: float = 0.0
    jitter_fraction: float = 0.0
    retry: Retry | None = None
    reapply_s: float | None = None
    exclusive: str | None = None
    windows: tuple[Window, ...] = ()
    alarm: Alarm = EVERY_FAILURE
    retain: Retain = Retain()
    disk_reserve: DiskReserve = DiskReserve()
    user: str | None = None
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    digest: str = ""

    def __repr__(self) -> str:
        return shown_without(self, "secrets")


class SinkFormat(StrEnum):
    """In what form history is posted: one JSON object a line, or in the envelopes of Splunk's HTTP Event Collector."""

    NDJSON = "ndjson"
    HEC = "hec"


class HttpSettings(Struct, frozen=True):
    """Where history is posted, and where the token stands that opens the door."""

    url: str = ""
    format: SinkFormat = SinkFormat.NDJSON
    token_file: Path | None = None
    token_env: str | None = None
    ca_file: Path | None = None
    index: str | None = None
    timeout_s: float = 10.0


class LogSettings(Struct, frozen=True):
    """`format` None: console on a terminal, else JSON. `fold_s`: how often not-due checks are counted in one line.

    `file` has the same lines as JSON; `file_mode` is its mode where it is made.
    """

    format: LogFormat | None = None
    level: str = "info"
    fold_s: float = 3600.0
    file: Path | None = None
    file_mode: int = 0o640
    http: HttpSettings | None = None


class ControlSettings(Struct, frozen=True):
    """The control socket. `socket` None: the standard place of the state directory."""

    enabled: bool = True
    socket: Path | None = None


class StatsdSettings(Struct, frozen=True):
    """Where StatsD listens (host, port) and how it is spoken to."""

    address: tuple[str, int] = ("127.0.0.1", 8125)
    prefix: str = "jetwatch"
    dogstatsd: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


class MetricsSettings(Struct, frozen=True):
    """Where figures go: one or more of a text file, an address (host, port) to listen on, StatsD."""

    textfile: Path | None = None
    listen: tuple[str, int] | None = None
    allow_remote: bool = False
    statsd: StatsdSettings | None = None
    interval_s: float = 15.0


class Settings(Struct, frozen=True):
    """A whole configuration: the agent-wide keys and every watch by name. `stop` None: what fits the place."""

    watches: Mapping[str, WatchSettings]
    state_dir: Path | None = None
    download_dir: Path | None = None
    max_runs: int = 4
    max_fetches: int = 16
    log: LogSettings = LogSettings()
    control: ControlSettings = ControlSettings()
    metrics: MetricsSettings | None = None
    stop: StopMode | None = None
    digest: str = ""

    @property
    def insecure(self) -> tuple[str, ...]:
        """The watches whose content somebody on the way can change, as watch.yml says that it may."""
        found = {name: watch.content for name, watch in self.watches.items()}
        return tuple(name for name, content in found.items() if content and content.insecure and not content.is_proven)
