"""When a crontab(5) expression fires, as an APScheduler trigger. Loaded only when a watch has a `schedule`.

cronsim reads the expression and steps through civil time: dates and hours without a zone. How civil time lies on real
time is decided here: a fixed hour that is skipped fires right after the gap, one that comes twice fires the first time;
an hour field that begins with `*` follows real time, so it leaves out what is skipped and fires in both passes.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

from apscheduler.triggers.base import BaseTrigger
from cronsim import CronSim, CronSimError

from jetwatch.engine.civil import first_instant, offset_of

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
        offset = min(offset_of(local.replace(fold=0)), offset_of(local.replace(fold=1)))
        return (instant + offset).replace(tzinfo=None)

    def _real(self, civil: datetime, fold: int) -> datetime | None:
        """The instant (UTC) of a civil time. One that is skipped: the end of the gap, None if real time is followed."""
        if not self._follows_real_time:
            return first_instant(civil, self._zone)
        instant = civil.replace(tzinfo=self._zone, fold=fold).astimezone(UTC)
        return instant if instant.astimezone(self._zone).replace(tzinfo=None) == civil else None


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
