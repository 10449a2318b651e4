"""Civil time and real time: what a clock on the wall shows, with its gaps and its hours that come twice. Pure.

A civil time stands for the first instant at which the clock has come to it: one that is skipped for the end of the
gap, one that comes twice for the first time. Schedules and windows both mean this.
"""

from __future__ import annotations

import io
import os
import struct
from bisect import bisect_left
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from pathlib import Path

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

_LOCALTIME = Path("/etc/localtime")


def first_instant(civil: datetime, zone: tzinfo) -> datetime:
    """The instant (UTC) at which a clock in `zone` first reads the naive `civil`, or has jumped over it."""
    instant = civil.replace(tzinfo=zone, fold=0).astimezone(UTC)
    return instant if instant.astimezone(zone).replace(tzinfo=None) == civil else _end_of_gap(civil, zone)


def _end_of_gap(civil: datetime, zone: tzinfo) -> datetime:
    # In a gap fold 1 reads the civil time by the later offset: an instant before the change; fold 0 one after it.
    before = civil.replace(tzinfo=zone, fold=1).astimezone(UTC)
    after = civil.replace(tzinfo=zone, fold=0).astimezone(UTC)
    new_offset = offset_of(after.astimezone(zone))

    def changed(second: int) -> bool:
        return offset_of((before + timedelta(seconds=second)).astimezone(zone)) == new_offset

    seconds = range(int((after - before).total_seconds()))
    return before + timedelta(seconds=bisect_left(seconds, True, key=changed))


def offset_of(aware: datetime) -> timedelta:
    """How far its clock is ahead of UTC."""
    return aware.utcoffset() or timedelta()


def zone_named(name: str | None) -> tzinfo:
    """The zone of this IANA name; None: the machine's own. Raises KeyError for one that is not known."""
    if name is None:
        return local_zone()
    return _zone_once_read(name)


@cache  # the configuration names few, and one that was read once is not missed while a play replaces tzdata
def _zone_once_read(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo  # in each that needs it: most agents have no zone

    return ZoneInfo(name)


def local_zone(environ: Mapping[str, str] = os.environ, localtime: Path = _LOCALTIME) -> tzinfo:
    """The machine's time zone, read anew: what `TZ` says, else /etc/localtime, else UTC.

    The C library's own rule, so that a schedule means what the machine's cron means. tzlocal, which comes with
    APScheduler, is not used: it also reads other files (/etc/timezone, …), raises when they disagree, and remembers.
    """
    try:
        name = environ.get("TZ")
        return _read_zone(localtime) if name is None else _zone_of_tz(name.removeprefix(":"))
    except (OSError, ValueError):
        return UTC


def _zone_of_tz(name: str) -> tzinfo:
    """The zone that a value of `TZ` means: a file, a name, or a POSIX rule (`CET-1CEST,M3.5.0,M10.5.0/3`)."""
    if not name:
        return UTC
    if name.startswith("/"):
        return _read_zone(Path(name))
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        return _zone_of_rule(name)


def _read_zone(path: Path) -> tzinfo:
    from zoneinfo import ZoneInfo

    with path.open("rb") as file:
        return ZoneInfo.from_file(file)


def _zone_of_rule(rule: str) -> tzinfo:
    from zoneinfo import ZoneInfo

    # The standard library reads such a rule only as the last line of a TZif file (RFC 8536): this is the smallest one.
    block = b"TZif2" + bytes(15) + struct.pack(">6L", 0, 0, 0, 0, 1, 1) + bytes(6) + b"\0"
    return ZoneInfo.from_file(io.BytesIO(block * 2 + b"\n" + rule.encode("ascii") + b"\n"))
