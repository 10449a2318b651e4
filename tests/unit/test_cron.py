"""A crontab(5) expression fires when crontab(5) says, through every kind of clock change.

The measure is an independent reading of crontab(5) in this file: its own field parser and a walk over every minute.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.combining import OrTrigger

from jetwatch.engine.civil import local_zone
from jetwatch.engine.cron import CronTrigger

MINUTE = timedelta(minutes=1)
BERLIN = ZoneInfo("Europe/Berlin")
LIMITS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
NAMES: tuple[tuple[str, ...], ...] = (
    (),
    (),
    (),
    ("", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
)

# Days on which clocks change (UTC, noon before and after lie in the window), each of another kind.
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
    ("UTC", "2026-03-01T00:00"),
    ("Asia/Kathmandu", "2026-02-28T20:00"),  # 5 h 45 min, no change
]


def read_field(text: str, low: int, high: int, names: tuple[str, ...]) -> set[int]:
    """The values of one field, after the words of crontab(5): lists of ranges, `*`, steps, names."""

    def number(word: str) -> int:
        return names.index(word.lower()) if word.lower() in names else int(word)

    values: set[int] = set()
    for part in text.split(","):
        extent, _, step = part.partition("/")
        first, dash, last = extent.partition("-")
        if extent == "*":
            begin, end = low, high
        elif dash:
            begin, end = number(first), number(last)
        else:
            begin, end = number(first), (high if step else number(first))
        values.update(range(begin, end + 1, int(step or 1)))
    return values


def civil_match(expression: str) -> Callable[[datetime], bool]:
    """Whether a civil minute is one of the expression's."""
    words = expression.split()
    minutes, hours, days, months, weekdays = (
        read_field(word, *limits, names) for word, limits, names in zip(words, LIMITS, NAMES, strict=True)
    )
    weekdays = {day % 7 for day in weekdays}
    either = not words[2].startswith("*") and not words[4].startswith("*")

    @cache
    def day_matches(year: int, month: int, day: int) -> bool:
        by_date, by_weekday = day in days, date(year, month, day).isoweekday() % 7 in weekdays
        return month in months and ((by_date or by_weekday) if either else (by_date and by_weekday))

    return lambda t: t.minute in minutes and t.hour in hours and day_matches(t.year, t.month, t.day)


Minute = tuple[datetime, datetime]


@cache
def minutes_around(zone_name: str, change: str, hours: int) -> tuple[Minute, ...]:
    """Every minute of the window as (instant, civil time)."""
    zone, middle = ZoneInfo(zone_name), datetime.fromisoformat(change).replace(tzinfo=UTC)
    first = middle - timedelta(hours=hours)
    instants = (first + n * MINUTE for n in range(2 * hours * 60))
    return tuple((instant, instant.astimezone(zone).replace(tzinfo=None)) for instant in instants)


def reference(expression: str, minutes: tuple[Minute, ...]) -> Iterator[datetime]:
    """The firings within `minutes` by brute force: look at the clock on the wall each minute, as a person would."""
    matches = civil_match(expression)
    real_time = expression.split()[1].startswith("*")
    newest = minutes[0][1] - MINUTE
    for instant, civil in minutes:
        if real_time:
            fires = matches(civil)
        else:  # every civil minute that the clock has come to for the first time, or jumped over
            fires = any(matches(newest + n * MINUTE) for n in range(1, (civil - newest) // MINUTE + 1))
        newest = max(newest, civil)
        if fires:
            yield instant


def random_field(chance: random.Random, low: int, high: int, names: tuple[str, ...] = ()) -> str:
    """One field in any of the forms that crontab(5) knows."""

    def word(value: int) -> str:
        return names[value] if value < len(names) and names[value] and chance.random() < 0.3 else str(value)

    form = chance.random()
    first, last = sorted((chance.randint(low, high), chance.randint(low, high)))
    if form < 0.3:
        return word(first)
    if form < 0.5:
        return f"{word(first)}-{last}"
    if form < 0.65:
        return f"*/{chance.randint(1, max(2, (high - low) // 2))}"
    if form < 0.8:
        return f"{first}-{last}/{chance.randint(1, 5)}"
    return ",".join(random_field(chance, low, high, names) for _ in range(chance.randint(2, 3)))


def random_expression(chance: random.Random) -> str:
    """An expression whose days match often enough for most to fire around the change."""
    hour_stars = ["*", "*/2", "*/3", "*/5"]
    minute = "*" if chance.random() < 0.1 else random_field(chance, 0, 59)
    hour = chance.choice(hour_stars) if chance.random() < 0.35 else random_field(chance, 0, chance.choice([3, 23]))
    day = "*" if chance.random() < 0.6 else random_field(chance, 1, 31)
    month = "*" if chance.random() < 0.85 else random_field(chance, 1, 12, NAMES[3])
    weekday = "*" if chance.random() < 0.6 else random_field(chance, 0, 7, NAMES[4])
    return " ".join((minute, hour, day, month, weekday))


def trigger(expression: str, zone_name: str) -> CronTrigger | None:
    """The trigger; None for a date that no year has."""
    try:
        return CronTrigger(expression, ZoneInfo(zone_name))
    except ValueError:
        _, _, day, month, _ = expression.split()
        if "*" in (day, month):
            raise
        return None


def disagreements(expression: str, zone_name: str, change: str, chance: random.Random) -> list[str]:
    """Where trigger and reference differ: asked in a chain through the window, and from instants around the change."""
    cron = trigger(expression, zone_name)
    minutes = minutes_around(zone_name, change, 30)
    expected = list(reference(expression, minutes))
    if cron is None:
        return [f"{expression}: refused, but fires"] if expected else []
    begin, end = minutes[0][0] - timedelta(seconds=1), minutes[-1][0]
    middle = datetime.fromisoformat(change).replace(tzinfo=UTC)
    asked = [middle + timedelta(seconds=chance.randint(-3 * 3600, 3 * 3600)) for _ in range(12)]
    asked += [begin, *expected[:15], middle - MINUTE, middle, *expected[-1:]]
    found = []
    for instant in asked:
        answer = cron.after(instant)
        place = bisect_right(expected, instant)
        wanted = expected[place] if place < len(expected) else None
        got = answer.astimezone(UTC) if answer is not None and answer.astimezone(UTC) <= end else None
        if got != wanted:
            found.append(f"{expression} in {zone_name} after {instant}: {got}, by crontab(5) {wanted}")
    return found


@pytest.mark.parametrize("part", range(4))
def test_a_thousand_random_expressions_fire_as_crontab_says(part: int) -> None:
    """Random expressions, asked around clock changes of every kind, agree with crontab(5) read by the minute."""
    chance = random.Random(f"cron-{part}")
    found, fired = [], 0
    for _ in range(250):
        expression, (zone_name, change) = random_expression(chance), chance.choice(CHANGES)
        found += disagreements(expression, zone_name, change, chance)
        fired += any(True for _ in reference(expression, minutes_around(zone_name, change, 30)))
    assert not found, "\n".join(found[:20])
    assert fired > 125, "too few of the expressions fire within the window for the comparison to mean anything"


def test_dates_months_and_weekdays_agree_over_ten_years() -> None:
    """Random day fields, asked across ten years, agree with a walk over every day."""
    chance = random.Random("days")
    days = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(3653)]
    for _ in range(60):
        fields = (random_field(chance, 1, 31), random_field(chance, 1, 12, NAMES[3]), random_field(chance, 0, 7))
        expression = " ".join(("0", "0", *(chance.choice([field, field, "*"]) for field in fields)))
        cron, matches = trigger(expression, "UTC"), civil_match(expression)
        expected = [day for day in days if matches(day)]
        if cron is None:
            assert not expected, expression
            continue
        for asked in (days[0] - MINUTE, *chance.sample(days, 20)):
            later = [day for day in expected if day > asked]
            answer = cron.after(asked)
            assert (answer if answer is None or answer <= days[-1] else None) == (later[0] if later else None), (
                expression
            )


def firings(expression: str, zone_name: str, start: str, count: int) -> list[str]:
    """The next firings after the civil time `start`, as civil times with their offset."""
    cron = CronTrigger(expression, ZoneInfo(zone_name))
    instant, told = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone_name)), []
    for _ in range(count):
        fired = cron.after(instant)
        assert fired is not None
        instant = fired
        told.append(f"{fired:%m-%d %H:%M%z}")
    return told


@pytest.mark.parametrize(
    ("expression", "zone_name", "start", "expected"),
    [
        # skipped: right after the gap, and only once
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29 03:00+0200", "03-30 02:30+0200"]),
        ("0,30 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29 03:00+0200", "03-29 03:30+0200"]),
        ("*/15 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29 03:00+0200", "03-30 02:00+0200"]),
        ("30 2 * * *", "America/New_York", "2026-03-07T12:00", ["03-08 03:00-0400", "03-09 02:30-0400"]),
        ("10 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", ["10-04 02:30+1100", "10-05 02:10+1100"]),
        ("0 0 * * *", "Asia/Beirut", "2026-03-28T12:00", ["03-29 01:00+0300", "03-30 00:00+0300"]),
        # twice: once, the first time
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["10-25 02:30+0200", "10-26 02:30+0100"]),
        ("*/30 2 * * *", "Europe/Berlin", "2026-10-25T02:00", ["10-25 02:30+0200", "10-26 02:00+0100"]),
        ("30 1 * * *", "America/New_York", "2026-10-31T12:00", ["11-01 01:30-0400", "11-02 01:30-0500"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00", ["04-05 01:45+1100", "04-06 01:45+1030"]),
        # `*` hours follow real time
        ("0 * * * *", "Europe/Berlin", "2026-03-29T00:30", ["03-29 01:00+0100", "03-29 03:00+0200"]),
        ("0 * * * *", "Europe/Berlin", "2026-10-25T01:30", ["10-25 02:00+0200", "10-25 02:00+0100"]),
        ("0 */2 * * *", "Europe/Berlin", "2026-03-28T23:30", ["03-29 00:00+0100", "03-29 04:00+0200"]),
        ("0 */2 * * *", "Australia/Lord_Howe", "2026-04-05T00:30", ["04-05 02:00+1030", "04-05 04:00+1030"]),
        ("0 */2 29 3 *", "Asia/Beirut", "2026-03-28T12:00", ["03-29 02:00+0300", "03-29 04:00+0300"]),
    ],
)
def test_clock_changes(expression: str, zone_name: str, start: str, expected: list[str]) -> None:
    """What is skipped fires right after the gap, what comes twice fires once, `*` hours follow real time."""
    assert firings(expression, zone_name, start, len(expected)) == expected


def test_a_firing_lies_after_the_instant_asked_for_in_the_second_pass_too() -> None:
    """Asked during the repeated hour, a fixed time that passed in the first pass is over for the day."""
    second_pass = datetime(2026, 10, 25, 2, 15, tzinfo=BERLIN, fold=1)
    fired = CronTrigger("30 2 * * *", BERLIN).after(second_pass)
    assert fired == datetime(2026, 10, 26, 2, 30, tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("@hourly", "01-01 11:00+0000"),
        ("@daily", "01-02 00:00+0000"),
        ("@midnight", "01-02 00:00+0000"),
        ("@weekly", "01-04 00:00+0000"),
        ("@monthly", "02-01 00:00+0000"),
        ("@yearly", "01-01 00:00+0000"),
        ("@Annually", "01-01 00:00+0000"),
        ("0 3 * * 0", "01-04 03:00+0000"),
        ("0 3 * * 7", "01-04 03:00+0000"),
        ("0 3 * * sun", "01-04 03:00+0000"),
        ("0 3 * * 6-7", "01-03 03:00+0000"),
        ("0 3 13 * 5", "01-02 03:00+0000"),  # either day field
        ("0 3 */2 * 5", "01-09 03:00+0000"),  # a day field that begins with `*`: both
        ("5/20 10 * * *", "01-01 10:45+0000"),  # from 5 in steps of 20
        ("5-5/20 10 * * *", "01-02 10:05+0000"),  # a range of one value, whatever the step
        ("05-5/20 10 * * *", "01-02 10:05+0000"),
        ("0 0 29 feb *", "02-29 00:00+0000"),
    ],
)
def test_the_words_of_crontab(expression: str, expected: str) -> None:
    """Nicknames, names, both Sundays, steps and either day field mean what crontab(5) says."""
    assert firings(expression, "UTC", "2026-01-01T10:30", 1) == [expected]


@pytest.mark.parametrize(
    "expression",
    ["", "* * * *", "0 0 3 * * *", "@reboot", "@noon", "60 * * * *", "* * 0 * *", "* * * * 8", "0 0 30 2 *"],
)
def test_what_is_no_crontab_expression_is_refused(expression: str) -> None:
    """A wrong number of fields, a seconds field, @reboot, a value out of range and an impossible date are refused."""
    with pytest.raises(ValueError, match=r".+: .+"):
        CronTrigger(expression, UTC)


def test_a_date_that_no_year_has_is_refused() -> None:
    """31 June alone is refused; with weekdays beside it, the weekdays fire."""
    assert firings("0 0 31 4,6 1", "UTC", "2026-01-01T00:00", 1) == ["04-06 00:00+0000"]
    with pytest.raises(ValueError, match=r".+: .+"):
        CronTrigger("0 0 31 4,6 *", UTC)


def test_the_trigger_composes_with_those_of_apscheduler() -> None:
    """Two schedules joined by APScheduler fire at whichever comes first, `now` included when nothing fired yet."""
    both = OrTrigger([CronTrigger("0 3 * * *", UTC), CronTrigger("0 5 * * *", UTC)])
    now = datetime(2026, 1, 1, 3, tzinfo=UTC)
    assert both.get_next_fire_time(None, now) == now
    assert both.get_next_fire_time(now, now) == datetime(2026, 1, 1, 5, tzinfo=UTC)


def test_the_machines_zone_is_that_of_the_c_library(tmp_path: Path) -> None:
    """`TZ` comes first (a name, a file, a POSIX rule), then /etc/localtime, then UTC; what is unknown is UTC."""
    localtime, summer = tmp_path / "localtime", datetime(2026, 7, 1, 12, tzinfo=UTC)
    localtime.write_bytes(Path("/usr/share/zoneinfo/America/New_York").read_bytes())

    def hours(environ: dict[str, str], file: Path = localtime) -> float:
        offset = summer.astimezone(local_zone(environ, file)).utcoffset()
        assert offset is not None
        return offset.total_seconds() / 3600

    assert hours({}) == -4
    assert hours({"TZ": "Europe/Berlin"}) == hours({"TZ": ":Europe/Berlin"}) == 2
    assert hours({"TZ": "/usr/share/zoneinfo/Asia/Kathmandu"}) == 5.75
    assert hours({"TZ": "CET-1CEST,M3.5.0,M10.5.0/3"}) == 2
    assert hours({"TZ": ""}) == hours({"TZ": "Nowhere/At_All"}) == hours({}, tmp_path / "none") == 0
