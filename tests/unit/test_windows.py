"""Windows open when a clock on the wall says so, through every kind of clock change.

The measure is an independent reading in this file: a walk over every minute with the latest time that the clock has
shown so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from builders import HOUR, NOON, S, later, rebooted, stamp
from hypothesis import given, settings
from hypothesis import strategies as st

from jetwatch.config.model import Window
from jetwatch.engine.windows import closes_at, next_opening, open_at, wait_again, wait_for_opening
from jetwatch.records import Stamp, WindowWait

MINUTE = timedelta(minutes=1)
EVERY_DAY = tuple(range(7))
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def window(text: str) -> Window:
    """A window from `days from to zone`, days as `mon,tue` or `*`; `24:00` and `local` have their meaning."""
    days, opens, closes, zone = text.split()
    return Window(
        days=EVERY_DAY if days == "*" else tuple(DAYS.index(day) for day in days.split(",")),
        opens_min=minutes(opens),
        closes_min=minutes(closes),
        timezone=None if zone == "local" else zone,
    )


def minutes(clock: str) -> int:
    """Minutes since midnight."""
    hours, _, rest = clock.partition(":")
    return int(hours) * 60 + int(rest)


def us(instant: datetime) -> int:
    """Unix time."""
    return round(instant.timestamp()) * S


def at(text: str) -> int:
    """Unix time of an RFC 3339 instant."""
    return us(datetime.fromisoformat(text))


def shown(wall_us: int | None, zone: str) -> str | None:
    """An instant as a clock in the zone shows it, with its offset."""
    if wall_us is None:
        return None
    return datetime.fromtimestamp(wall_us / S, ZoneInfo(zone)).strftime("%a %m-%d %H:%M%z").lower()


# -- the table: windows, an instant, when they open next, when that closes

TABLE = [
    # within one day
    ("* 22:00 23:00 UTC", "2026-11-22T21:59Z", "sun 11-22 22:00+0000", "sun 11-22 23:00+0000"),
    ("* 22:00 23:00 UTC", "2026-11-22T22:00Z", "sun 11-22 22:00+0000", "sun 11-22 23:00+0000"),
    ("* 22:00 23:00 UTC", "2026-11-22T22:59Z", "sun 11-22 22:59+0000", "sun 11-22 23:00+0000"),
    ("* 22:00 23:00 UTC", "2026-11-22T23:00Z", "mon 11-23 22:00+0000", "mon 11-23 23:00+0000"),
    ("mon 08:00 24:00 UTC", "2026-11-22T12:00Z", "mon 11-23 08:00+0000", "tue 11-24 00:00+0000"),
    ("mon 00:00 08:00 UTC", "2026-11-23T08:00Z", "mon 11-30 00:00+0000", "mon 11-30 08:00+0000"),
    ("sat,sun 10:00 12:00 UTC", "2026-11-23T08:00Z", "sat 11-28 10:00+0000", "sat 11-28 12:00+0000"),
    # across midnight: the day is the one it opens on
    ("sun 22:00 04:00 UTC", "2026-11-22T03:00Z", "sun 11-22 22:00+0000", "mon 11-23 04:00+0000"),
    ("sun 22:00 04:00 UTC", "2026-11-23T03:59Z", "mon 11-23 03:59+0000", "mon 11-23 04:00+0000"),
    ("sun 22:00 04:00 UTC", "2026-11-23T22:00Z", "sun 11-29 22:00+0000", "mon 11-30 04:00+0000"),
    ("sun 22:00 00:00 UTC", "2026-11-22T23:30Z", "sun 11-22 23:30+0000", "mon 11-23 00:00+0000"),
    ("* 22:00 21:00 UTC", "2026-11-22T21:30Z", "sun 11-22 22:00+0000", "mon 11-23 21:00+0000"),
    # another zone has another day
    ("mon 08:00 09:00 Asia/Tokyo", "2026-11-22T12:00Z", "mon 11-23 08:00+0900", "mon 11-23 09:00+0900"),
    ("sun 22:00 04:00 America/Los_Angeles", "2026-11-23T11:00Z", "mon 11-23 03:00-0800", "mon 11-23 04:00-0800"),
    ("* 06:00 07:00 Asia/Kathmandu", "2026-11-22T00:14Z", "sun 11-22 06:00+0545", "sun 11-22 07:00+0545"),
    # opening skipped: right after the gap; closing skipped: when the clock jumps over it
    ("* 02:30 05:00 Europe/Berlin", "2026-03-29T00:30Z", "sun 03-29 03:00+0200", "sun 03-29 05:00+0200"),
    ("* 01:00 02:30 Europe/Berlin", "2026-03-28T23:30Z", "sun 03-29 01:00+0100", "sun 03-29 03:00+0200"),
    ("* 22:00 02:15 Europe/Berlin", "2026-03-28T23:30Z", "sun 03-29 00:30+0100", "sun 03-29 03:00+0200"),
    # wholly skipped: not that day
    ("* 02:00 03:00 Europe/Berlin", "2026-03-28T23:30Z", "mon 03-30 02:00+0200", "mon 03-30 03:00+0200"),
    ("sun 02:15 02:45 Europe/Berlin", "2026-03-28T23:30Z", "sun 04-05 02:15+0200", "sun 04-05 02:45+0200"),
    # coming twice: opens and closes the first time
    ("* 02:30 05:00 Europe/Berlin", "2026-10-24T23:00Z", "sun 10-25 02:30+0200", "sun 10-25 05:00+0100"),
    ("* 02:30 05:00 Europe/Berlin", "2026-10-25T01:10Z", "sun 10-25 02:10+0100", "sun 10-25 05:00+0100"),
    ("* 01:00 02:30 Europe/Berlin", "2026-10-24T23:00Z", "sun 10-25 01:00+0200", "sun 10-25 02:30+0200"),
    ("* 01:00 02:30 Europe/Berlin", "2026-10-25T01:10Z", "mon 10-26 01:00+0100", "mon 10-26 02:30+0100"),
    ("* 02:00 02:30 Europe/Berlin", "2026-10-25T00:30Z", "mon 10-26 02:00+0100", "mon 10-26 02:30+0100"),
    ("* 02:00 03:00 Europe/Berlin", "2026-10-25T00:00Z", "sun 10-25 02:00+0200", "sun 10-25 03:00+0100"),
    ("* 02:10 04:00 Australia/Lord_Howe", "2026-10-03T15:00Z", "sun 10-04 02:30+1100", "sun 10-04 04:00+1100"),
    ("* 00:00 01:30 Asia/Beirut", "2026-03-28T21:00Z", "sun 03-29 01:00+0300", "sun 03-29 01:30+0300"),
]


@pytest.mark.parametrize(("windows", "instant", "opens", "closes"), TABLE)
def test_a_window_opens_and_closes_by_the_clock_on_the_wall(
    windows: str, instant: str, opens: str, closes: str
) -> None:
    """In its own zone, on its own days, once a day."""
    one, zone = (window(windows),), windows.rsplit(maxsplit=1)[-1]
    found = next_opening(one, at(instant))
    assert shown(found, zone) == opens
    assert found is not None
    assert shown(closes_at(one, found), zone) == closes
    assert open_at(one, at(instant)) is (found == at(instant))


def test_no_windows_are_always_open() -> None:
    """A watch without windows starts its runs at any time."""
    assert open_at((), NOON)
    assert next_opening((), NOON) == NOON
    assert closes_at((), NOON) is None


def test_windows_that_follow_one_another_are_one() -> None:
    """The end is that of the last one; a gap of a minute ends it."""
    night = [window("fri 22:00 24:00 UTC"), window("sat 00:00 06:00 UTC"), window("sat 05:00 07:30 UTC")]
    friday = at("2026-11-27T23:00Z")
    assert shown(closes_at(night, friday), "UTC") == "sat 11-28 07:30+0000"
    apart = [window("fri 22:00 23:59 UTC"), window("sat 00:00 06:00 UTC")]
    assert shown(closes_at(apart, friday), "UTC") == "fri 11-27 23:59+0000"
    assert closes_at(apart, at("2026-11-27T23:59Z")) == at("2026-11-27T23:59Z")


def test_windows_around_the_clock_never_close() -> None:
    """Every day from midnight to midnight, or the hours shared among several."""
    assert closes_at([window("* 00:00 24:00 Europe/Berlin")], NOON) is None
    assert closes_at([window("* 08:00 20:00 UTC"), window("* 20:00 08:00 UTC")], NOON) is None


def test_windows_of_several_zones_are_all_counted() -> None:
    """Whichever opens first."""
    two = [window("* 22:00 23:00 Asia/Tokyo"), window("* 22:00 23:00 Europe/Berlin")]
    assert shown(next_opening(two, at("2026-11-22T12:00Z")), "UTC") == "sun 11-22 13:00+0000"
    assert shown(next_opening(two, at("2026-11-22T14:00Z")), "UTC") == "sun 11-22 21:00+0000"


def test_without_a_zone_it_is_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the C library reads TZ, anew each time."""
    one = (window("* 08:00 09:00 local"),)
    for zone, opens in (("Asia/Tokyo", "sun 11-22 23:00+0000"), ("UTC", "mon 11-23 08:00+0000")):
        monkeypatch.setenv("TZ", zone)
        assert shown(next_opening(one, at("2026-11-22T12:00Z")), "UTC") == opens


# -- the reading by the minute

# Around noon of these days (UTC) clocks change, each in another way.
CHANGES = [
    ("Europe/Berlin", "2026-03-29T01:00"),
    ("Europe/Berlin", "2026-10-25T01:00"),
    ("America/New_York", "2026-03-08T07:00"),
    ("America/New_York", "2026-11-01T06:00"),
    ("Australia/Lord_Howe", "2026-10-03T15:30"),  # half an hour
    ("Australia/Lord_Howe", "2026-04-04T15:00"),
    ("America/Havana", "2026-03-08T05:00"),  # midnight is skipped
    ("America/Havana", "2026-11-01T05:00"),  # the hour after midnight comes twice
    ("Asia/Beirut", "2026-03-28T22:00"),  # midnight is skipped
    ("Asia/Beirut", "2026-10-24T21:00"),  # the hour before midnight comes twice
    ("America/St_Johns", "2010-11-07T02:31"),  # one minute after midnight the day before comes back
    ("Antarctica/Troll", "2026-03-29T01:00"),  # two hours
    ("Antarctica/Troll", "2026-10-25T01:00"),
    ("Pacific/Apia", "2011-12-30T10:00"),  # a whole day is skipped
    ("Asia/Kathmandu", "2026-02-28T20:00"),  # no change
]
HOURS_AROUND = 50


@cache
def clock_readings(zone_name: str, change: str) -> tuple[tuple[int, datetime], ...]:
    """Each minute of four days as (instant, the latest time that a clock on the wall has shown so far)."""
    zone, middle = ZoneInfo(zone_name), datetime.fromisoformat(change).replace(tzinfo=UTC)
    latest, found = datetime.min, []  # noqa: DTZ901 - civil time has no zone
    for number in range(-HOURS_AROUND * 60, HOURS_AROUND * 60):
        instant = middle + number * MINUTE
        latest = max(latest, instant.astimezone(zone).replace(tzinfo=None))
        found.append((us(instant), latest))
    return tuple(found)


def is_within(each: Window, civil: datetime) -> bool:
    """Whether a time on the wall lies in the window of its day or of the day before."""
    for day in (civil.date(), civil.date() - timedelta(days=1)):
        midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - civil time has no zone
        closes = each.closes_min if each.closes_min > each.opens_min else each.closes_min + 24 * 60
        opened = midnight + each.opens_min * MINUTE <= civil < midnight + closes * MINUTE
        if opened and day.weekday() in each.days:
            return True
    return False


def some_windows(zone_name: str) -> st.SearchStrategy[list[Window]]:
    """One to three windows, most of them in the small hours where clocks change."""
    minute = st.one_of(st.integers(0, 4 * 60), st.integers(22 * 60, 24 * 60 - 1), st.integers(0, 24 * 60 - 1))
    days = st.one_of(st.just(EVERY_DAY), st.sets(st.integers(0, 6), min_size=1).map(lambda days: tuple(sorted(days))))
    one = st.tuples(days, minute, st.one_of(minute, st.just(24 * 60))).filter(lambda each: each[1] != each[2])
    return st.lists(one.map(lambda each: Window(*each, timezone=zone_name)), min_size=1, max_size=3)


def turns(readings: Iterator[tuple[int, bool]]) -> list[tuple[int, bool]]:
    """The first reading and every one that differs from the one before."""
    found: list[tuple[int, bool]] = []
    for instant, is_open in readings:
        if not found or found[-1][1] is not is_open:
            found.append((instant, is_open))
    return found


@pytest.mark.parametrize(("zone_name", "change"), CHANGES)
def test_windows_agree_with_a_reading_by_the_minute(zone_name: str, change: str) -> None:
    """Random windows, asked at every turn and between: open, next opening and closing are those of a patient reader."""

    @settings(max_examples=12, deadline=None, database=None, derandomize=True)
    @given(some_windows(zone_name), st.lists(st.integers(24 * 60, 76 * 60 - 1), min_size=3, max_size=6))
    def agree(windows: list[Window], asked: list[int]) -> None:
        readings = clock_readings(zone_name, change)[24 * 60 :]  # a day ahead, for what opened before
        seen = turns((instant, any(is_within(each, civil) for each in windows)) for instant, civil in readings)
        places = [instant for instant, _ in seen[1:]]
        moments = [*places, *(place - 1 for place in places), *(readings[n - 24 * 60][0] for n in asked)]
        for moment in moments:
            is_open = next(state for instant, state in reversed(seen) if instant <= moment)
            assert open_at(windows, moment) is is_open
            following = next((instant for instant, _ in seen if instant > moment), None)
            if following is None:
                continue
            assert next_opening(windows, moment) == (moment if is_open else following)
            assert closes_at(windows, moment) == (following if is_open else moment)

    agree()


# -- waiting for one


def half(limit_s: float) -> float:
    """Chance that always says the middle."""
    return limit_s / 2


NIGHT = (window("* 22:00 04:00 UTC"),)


def told(wait: WindowWait, now: Stamp) -> tuple[float, float]:
    """Hours until it opens, and until the start."""
    return wait.opens.remaining_us(now) / HOUR, wait.start.remaining_us(now) / HOUR


@pytest.mark.parametrize(
    ("windows", "splay_s", "expected"),
    [
        (NIGHT, 0, (10, 10)),
        (NIGHT, 3600, (10, 10.5)),
        (NIGHT, 7 * 86_400, (10, 13)),  # never beyond the window's end
        ((window("* 11:00 13:00 UTC"),), 3600, (0, 0.5)),
        ((window("* 11:00 13:00 UTC"),), 86_400, (0, 0.5)),
        ((window("* 00:00 24:00 UTC"),), 86_400, (0, 12)),
        ((), 3600, (0, 0.5)),
    ],
)
def test_a_start_lies_within_the_splay_after_the_opening(
    windows: tuple[Window, ...], splay_s: float, expected: tuple[float, float]
) -> None:
    """Uniform, and before the window closes, so that no splay can make a watch miss every window."""
    now = stamp(wall_us=NOON)
    assert told(wait_for_opening(windows, now, splay_s, half), now) == expected


def test_windows_that_never_open_are_waited_for_without_end() -> None:
    """No day at all: nothing starts, nothing breaks."""
    now = stamp(wall_us=NOON)
    assert told(wait_for_opening((Window(days=()),), now, 60, half), now)[0] > 24 * 365


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (later(0), (10, 10.5)),
        (later(3600), (9, 9.5)),
        (later(0, clock_set_s=3600), (9, 9.5)),  # the clock was set: read anew
        (later(0, clock_set_s=-3600), (11, 11.5)),
        (later(36_000), (0, 0.5)),  # it is open, and the wait goes on
        (later(37_000), (0, 0.5 - 1000 / 3600)),
        (later(39_000), (0, 0)),  # its time has passed in an open window: at once
        (later(16 * 3600), (18, 18.5)),  # it closed meanwhile: the next one
        (later(0, clock_set_s=36_000), (0, 0.5)),  # open all at once: within the splay
        (rebooted(3600), (9, 9.5)),
        (rebooted(37_000), (0, 0.5 - 1000 / 3600)),
        (rebooted(39_000), (0, 0)),
    ],
)
def test_a_wait_is_taken_up_again(now: Stamp, expected: tuple[float, float]) -> None:
    """After a restart, a reboot, a reload or a step of the wall clock it is where the clock on the wall says."""
    wait = wait_for_opening(NIGHT, stamp(wall_us=NOON), 3600, half)
    assert told(wait_again(NIGHT, wait, now, 3600, half), now) == pytest.approx(expected)


def test_a_wait_for_windows_that_are_gone_is_one_splay() -> None:
    """A reload that takes them away lets the run start soon."""
    now = stamp(wall_us=NOON)
    wait = wait_for_opening(NIGHT, now, 3600, half)
    assert told(wait_again((), wait, now, 3600, half), now) == (0, 0.5)
