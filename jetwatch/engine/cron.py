"""When a crontab(5) expression fires, as an APScheduler trigger. Loaded only when a watch has a `schedule`.

cronsim reads the expression and steps through civil time: dates and hours without a zone. How civil time lies on real
time is decided here: a fixed hour that is skipped fires right after the gap, one that comes twice fires the first time;
an hour field that begins with `*` follows real time, so it leaves out what is skipped and fires in both passes.
"""

from __future__ import annotations

import io
import os
import re
import struct
from bisect import bisect_left
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

from apscheduler.triggers.base import BaseTrigger
from cronsim import CronSim, CronSimError

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""The nicknames of crontab(5). `@reboot` is no time."""

_LOCALTIME = Path("/etc/localtime")
_RANGE_OF_ONE = re.compile(r"\b0*(\w+)-0*\1/\d+", re.IGNORECASE)


class CronTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler 3 carries no types
    """The instants at which `expression` fires in `zone`; composes with APScheduler's own triggers.

    Raises ValueError when the expression is not one of crontab(5): five fields or a nickname. A seconds field and
    `@reboot` are refused; a date that no year has (30 February) too.
    """

    __slots__ = ("_expression", "_follows_real_time", "_zone")

    def __init__(self, expression: str, zone: tzinfo) -> None:
        self._expression = _five_fields(expression)
        self._follows_real_time = self._expression.split()[1].startswith("*")
        self._zone = zone

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """The first firing after `previous_fire_time`, or at or after `now` when there is none. Both are aware."""
        if previous_fire_time is not None:
            return self.after(previous_fire_time)
        return self.after(now - timedelta(microseconds=1))

    def after(self, instant: datetime) -> datetime | None:
        """The first firing strictly after the aware `instant`, in the trigger's zone. None: none in 50 years."""
        # Where civil time comes twice, each pass (fold 0, fold 1) is a rising sequence of its own.
        folds = (0, 1) if self._follows_real_time else (0,)
        found = [fired for fold in folds if (fired := self._first(instant.astimezone(UTC), fold)) is not None]
        return min(found).astimezone(self._zone) if found else None

    def _first(self, instant: datetime, fold: int) -> datetime | None:
        for civil in CronSim(self._expression, self._civil_start(instant)):
            fired = self._real(civil, fold)
            if fired is not None and fired > instant:
                return fired
        return None

    def _civil_start(self, instant: datetime) -> datetime:
        """A civil time that no firing after `instant` lies at or before, in either pass."""
        local = instant.astimezone(self._zone)
        offset = min(_offset(local.replace(fold=0)), _offset(local.replace(fold=1)))
        return (instant + offset).replace(tzinfo=None)

    def _real(self, civil: datetime, fold: int) -> datetime | None:
        """The instant (UTC) of a civil time. One that is skipped: the end of the gap, None if real time is followed."""
        instant = civil.replace(tzinfo=self._zone, fold=fold).astimezone(UTC)
        if instant.astimezone(self._zone).replace(tzinfo=None) == civil:
            return instant
        return None if self._follows_real_time else self._end_of_gap(civil)

    def _end_of_gap(self, civil: datetime) -> datetime:
        # In a gap fold 1 reads the civil time by the later offset: an instant before the change; fold 0 one after it.
        before = civil.replace(tzinfo=self._zone, fold=1).astimezone(UTC)
        after = civil.replace(tzinfo=self._zone, fold=0).astimezone(UTC)
        new_offset = _offset(after.astimezone(self._zone))

        def changed(second: int) -> bool:
            return _offset((before + timedelta(seconds=second)).astimezone(self._zone)) == new_offset

        seconds = range(int((after - before).total_seconds()))
        return before + timedelta(seconds=bisect_left(seconds, True, key=changed))


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
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        return _zone_of_rule(name)


def _read_zone(path: Path) -> ZoneInfo:
    with path.open("rb") as file:
        return ZoneInfo.from_file(file)


def _zone_of_rule(rule: str) -> ZoneInfo:
    # The standard library reads such a rule only as the last line of a TZif file (RFC 8536): this is the smallest one.
    block = b"TZif2" + bytes(15) + struct.pack(">6L", 0, 0, 0, 0, 1, 1) + bytes(6) + b"\0"
    return ZoneInfo.from_file(io.BytesIO(block * 2 + b"\n" + rule.encode("ascii") + b"\n"))


def _offset(aware: datetime) -> timedelta:
    return aware.utcoffset() or timedelta()


def _five_fields(expression: str) -> str:
    """The expression as cronsim reads it rightly. Raises ValueError with a sentence when it is none."""
    # cronsim takes `7-7/2` for `7/2`, that is 7 and every second value above it.
    text = _RANGE_OF_ONE.sub(r"\1", MACROS.get(expression.strip().lower(), expression))
    if len(text.split()) != 5:
        raise ValueError(f"{expression!r}: expected five fields (minute hour day month weekday) or {', '.join(MACROS)}")
    try:
        CronSim(text, datetime(2000, 1, 1))  # noqa: DTZ001 - civil time has no zone
    except CronSimError as error:
        raise ValueError(f"{expression!r}: {error}") from error
    return text
