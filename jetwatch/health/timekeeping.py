"""Does somebody keep this machine's clock, and can what it says be true?

Schedules, windows, timestamps and certificates go by the wall clock; intervals, backoff and timeouts do not.
"""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from jetwatch.health.finding import Finding, Verdict
from jetwatch.telemetry.plain import duration

_TIMEX = struct.Struct("@illlli")
"""The head of struct timex (adjtimex(2)): modes, offset, freq, maxerror, esterror, status."""
_TIMEX_ROOM_BYTES = 512
_UNSYNCHRONISED = 0x40  # STA_UNSYNC
_TIMESYNCD = Path("run/systemd/timesync/synchronized")
_CHRONYD = (Path("run/chrony/chronyd.pid"), Path("run/chronyd.pid"))
_TOLERATED_S = 120.0
"""Files of a network share or of an archive may carry the time of a machine that is a little ahead."""
_ADVICE = "install and start one: systemd-timesyncd, chrony or another NTP client"


class Timekeeping(Struct, frozen=True):
    """`kernel`: whether somebody told the kernel that the clock is right; None: it does not say.

    `newest_s` is the latest modification time of `newest`, among files that were written in the past.
    """

    kernel: bool | None
    timesyncd: bool
    chronyd: bool
    now_s: float
    newest: Path | None = None
    newest_s: float = 0.0


def findings(facts: Timekeeping) -> Iterator[Finding]:
    """What keeps the clock, and whether it is behind the machine's own files."""
    yield _kept(facts)
    yield _sane(facts)


def _kept(facts: Timekeeping) -> Finding:
    by = [
        name
        for name, keeps in (
            ("kernel clock synchronised", facts.kernel),
            ("systemd-timesyncd has synchronised it", facts.timesyncd),
            ("chronyd runs; chronyc tracking says how well", facts.chronyd),
        )
        if keeps
    ]
    if by:
        return Finding("time_service", Verdict.OK, "time service", by[0])
    found = "nobody keeps the clock, and schedules, windows, timestamps and TLS go by it"
    return Finding("time_service", Verdict.WARNING, "time service", found, _ADVICE)


def _sane(facts: Timekeeping) -> Finding:
    says = f"it says {datetime.fromtimestamp(facts.now_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
    behind_s = facts.newest_s - facts.now_s
    if facts.newest is None or behind_s <= _TOLERATED_S:
        return Finding("clock", Verdict.OK, "clock", says)
    found = f"{says}, which is {duration(behind_s)} before {facts.newest} was changed: one of them is wrong"
    return Finding("clock", Verdict.NOT_NOW, "clock", found, "set the clock, or touch the file")


def read(witnesses: Iterable[Path], root: Path = Path("/")) -> Timekeeping:
    """The machine's clock beside the times of `witnesses`, those of them that are there."""
    times = {path: changed_s for path in witnesses if (changed_s := _changed_s(path)) is not None}
    newest = max(times, key=times.__getitem__, default=None)
    return Timekeeping(
        kernel=_kernel_is_synchronised(),
        timesyncd=(root / _TIMESYNCD).exists(),
        chronyd=any((root / path).exists() for path in _CHRONYD),
        now_s=time.time(),
        newest=newest,
        newest_s=times[newest] if newest is not None else 0.0,
    )


def _changed_s(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _kernel_is_synchronised() -> bool | None:
    room = ctypes.create_string_buffer(_TIMEX_ROOM_BYTES)  # modes 0: nothing is changed
    try:
        if ctypes.CDLL(None).adjtimex(room) < 0:
            return None
    except AttributeError:
        return None
    return not _TIMEX.unpack_from(room)[5] & _UNSYNCHRONISED
