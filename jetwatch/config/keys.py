"""The one table of the keys of watch.yml.

The loader walks it, `jetp check-config` prints by it, the JSON Schema and the reference page are generated from it.
Defaults are those of the records in `model.py`; bounds stand here, beside what a key means.
"""

from __future__ import annotations

import sys
from enum import StrEnum

from jetwatch.config import commands
from jetwatch.config.commands import CommandKind, hook
from jetwatch.config.content import Source
from jetwatch.config.metrics import METRICS
from jetwatch.config.model import (
    ControlSettings,
    DiskReserve,
    LogFormat,
    LogSettings,
    Phase,
    Retain,
    Retry,
    Settings,
    StopMode,
    Timeouts,
    WatchSettings,
)
from jetwatch.config.scalars import Boolean, Choice, Integer, Location, Mode, Number, Size, Text
from jetwatch.config.sink import HTTP
from jetwatch.config.tables import Either, Key, Table
from jetwatch.config.times import Duration, DurationOrOff, Jitter, Schedule, Zone
from jetwatch.config.windows import Windows
from jetwatch.records import Command

NAME_PATTERN = r"[a-z0-9][a-z0-9_-]{0,63}"
NAME = Text("a name of small letters, digits, `_` and `-`, at most 64, such as `web`", NAME_PATTERN)
HOOKS = ("on_start", "on_ok", "on_fail", "on_recover", "on_done", "on_error")


class LogLevel(StrEnum):
    """What is logged: this and what is graver."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _timeout(name: str, doc: str, least_s: float = 0.1) -> Key:
    return Key(name, Duration(least_s), doc, into=f"{name}_s", record=Timeouts)


TIMEOUTS = Table(
    (
        _timeout("check", "A check that takes longer is an error; so is a look at `content`."),
        _timeout("download", "A download that takes longer fails the run."),
        _timeout("play", "A play that takes longer ends the run with outcome `timeout`."),
        _timeout("hook", "A hook that takes longer is tried again."),
        _timeout("grace", "Between TERM and KILL.", least_s=0.0),
    ),
    Timeouts,
)

RETRY = Either(
    Boolean(),
    Table(
        (
            Key("initial", Duration(), "Upper bound of the first delay.", into="initial_s", record=Retry),
            Key("max", Duration(), "Upper bound of every delay.", into="max_s", record=Retry),
            Key("factor", Number(1, 100), "What each upper bound is multiplied with.", record=Retry),
            Key(
                "max_attempts",
                Integer(1, 1_000_000),
                "After as many attempts the revision is quarantined.",
                record=Retry,
                default_text="no limit",
            ),
        ),
        Retry,
    ),
    widen=lambda on: Retry() if on else False,
    narrow=lambda retry: None if retry else False,
)

RETAIN = Table(
    (
        Key("runs", Integer(1, 1_000_000), "Run directories with their outputs, by count.", record=Retain),
        Key("age", Duration(), "By age.", into="age_s", record=Retain),
        Key("bytes", Size(), "By total size.", into="max_bytes", record=Retain),
    ),
    Retain,
)

DISK_RESERVE = Either(
    Size(),
    Table(
        (
            Key("bytes", Size(), "Free space.", into="free_bytes", record=DiskReserve),
            Key("inodes", Integer(0, 10**12), "Free inodes.", into="free_inodes", record=DiskReserve),
        ),
        DiskReserve,
    ),
    widen=lambda size: DiskReserve(free_bytes=size),
    narrow=lambda _: None,
)

LOG = Table(
    (
        Key(
            "format",
            Choice(LogFormat),
            "How a line looks.",
            record=LogSettings,
            default_text="`console` on a terminal, else `json`",
        ),
        Key("level", Choice(LogLevel), "What is logged: this and what is graver.", record=LogSettings),
        Key(
            "fold",
            Duration(0.1),
            "How often the checks with nothing due are counted in one line.",
            into="fold_s",
            record=LogSettings,
        ),
        Key("file", Location(), "A file that gets every line as JSON, besides standard output.", record=LogSettings),
        Key("file_mode", Mode(), "The file's mode, when the agent makes it.", record=LogSettings),
        Key("http", HTTP, "A server that gets the history over HTTP.", record=LogSettings, default_text="none"),
    ),
    LogSettings,
)

CONTROL = Either(
    Boolean(),
    Table((Key("socket", Location(), "Where the socket lies.", record=ControlSettings),), ControlSettings),
    widen=lambda on: ControlSettings(enabled=on),
    narrow=lambda control: None if control.socket else control.enabled,
)

WATCH_KEYS = (
    Key(
        "name",
        NAME,
        "The watch's name. Under `watches:` the key is the name.",
        default_text="the file's name without its ending",
    ),
    Key(
        "check_command",
        CommandKind(commands.CHECK),
        "Asks whether a run is due: exit code 0 due, 1 not due, 75 later, anything else an error. "
        "Required, unless there is `content` or a `schedule`.",
        into="check",
    ),
    Key(
        "download_command",
        CommandKind(commands.DOWNLOAD),
        "Puts the content into `{{ download_path }}`, a fresh, empty directory of each run.",
        into="download",
    ),
    Key(
        "content",
        Source(),
        "A native content source: its URL, or a mapping with `url` and options. It replaces `download_command`, and "
        "`check_command` may be left out: a run is due when another revision is there than was applied.",
    ),
    Key(
        "jet_command",
        CommandKind(commands.PLAY),
        "Applies the content. Required.",
        into="play",
        aliases=("play_command",),
    ),
    Key("on_start", CommandKind(hook("on_start")), "A run began."),
    Key("on_ok", CommandKind(hook("on_ok")), "A run ended ok."),
    Key(
        "on_fail",
        CommandKind(commands.ON_FAIL),
        "A run ended other than ok. As a mapping it may be limited to one call per incident (below).",
    ),
    Key(
        "on_recover",
        CommandKind(hook("on_recover")),
        "A run ended ok after an incident: after failures that `on_fail` was told of, or would have been.",
    ),
    Key("on_done", CommandKind(hook("on_done")), "A run ended, whatever its outcome."),
    Key("on_error", CommandKind(hook("on_error")), "The check went into error (once per streak)."),
    Key(
        "check_interval",
        Duration(0.1),
        "From the start of one check to the start of the next.",
        into="check_interval_s",
        record=WatchSettings,
    ),
    Key("schedule", Schedule(), "A crontab(5) expression, instead of `check_interval`."),
    Key("timezone", Zone(), "The time zone of `schedule` and `windows`.", default_text="the machine's"),
    Key(
        "splay",
        Duration(),
        "A random wait at start-up, uniform in [0, splay); with `schedule`, before every firing; with `windows`, after "
        "an opening that was waited for.",
        into="splay_s",
        record=WatchSettings,
    ),
    Key(
        "phase",
        Choice(Phase),
        "`random`: checks fall where the start put them. `stable`: always on this machine's own grid of Unix time.",
        record=WatchSettings,
    ),
    Key(
        "jitter",
        Jitter(),
        "A random part added to each wait: a duration, or per cent of the interval.",
        default_text="`0s`",
    ),
    Key("timeouts", TIMEOUTS, "How long commands may take."),
    Key(
        "retry",
        RETRY,
        "A failed run is tried again after a random delay; delay n is uniform in "
        "[0, min(max, initial × factor^(n−1))), at least 1 s. A mapping (or `on`) turns it on.",
        default_text="`off`; with `content` `on`",
    ),
    Key(
        "reapply",
        DurationOrOff(0.1),
        "A run is due when the last ok run is older than this, although nothing changed.",
        into="reapply_s",
        default_text="`off`",
    ),
    Key("exclusive", NAME, "Name of a lock: watches that share it never have runs at the same time."),
    Key(
        "windows",
        Windows(),
        "When runs may start. A run that is due outside waits until a window opens, and then a random time within "
        "`splay`. One that is going on when a window closes goes on.",
        default_text="always",
    ),
    Key("retain", RETAIN, "How much of past runs is kept."),
    Key(
        "disk_reserve",
        DISK_RESERVE,
        "No run starts with less free than this; a size, or both bounds.",
        default_text="as below",
    ),
    *commands.SHARED_KEYS,
    Key(
        "output",
        Size(0, sys.maxsize),
        "Bytes kept of each command's output: head and tail, the middle counted.",
        into="keep_bytes",
        record=Command,
    ),
)
"""Keys of a watch; in a file with one watch they stand on the top level."""

AGENT_KEYS = (
    Key(
        "state_dir",
        Location(),
        "Where the agent keeps what it must not forget.",
        default_text="`/var/lib/jetwatch` as root, else `$XDG_STATE_HOME/jetwatch`",
    ),
    Key("download_dir", Location(), "Where the runs' directories lie.", default_text="`downloads` in `state_dir`"),
    Key("max_runs", Integer(1, 10_000), "How many runs may be going on at the same time.", record=Settings),
    Key(
        "max_fetches",
        Integer(1, 10_000),
        "How many runs may fetch `content` at the same time, a quarter from one server. `max_runs` counts plays.",
        record=Settings,
    ),
    Key("log", LOG, "The log: on standard output, and in a file."),
    Key(
        "control",
        CONTROL,
        "The control socket: `false` for none, or where it lies.",
        default_text="`true`",
    ),
    Key(
        "stop",
        Choice(StopMode),
        "What TERM does to open runs: leave them to the next agent, wait for their end, or cancel them.",
        default_text="`detach`; `wait` as PID 1 or where a run cannot outlive the agent",
    ),
    Key("metrics", METRICS, "Figures for Prometheus and StatsD.", default_text="none"),
)
"""Keys of the whole agent, on the top level only."""

AGENT_NAMES = frozenset(key.name for key in AGENT_KEYS)
WATCH_NAMES = frozenset(name for key in WATCH_KEYS for name in (key.name, *key.aliases))
