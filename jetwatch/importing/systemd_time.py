"""systemd.time(7) → seconds and crontab(5): spans such as `1h 30min`, calendar expressions such as `Mon..Fri 03:00`."""

from __future__ import annotations

import re

from msgspec import Struct

from jetwatch.config.times import Schedule, Zone

_UNITS_S = {
    name: seconds
    for names, seconds in {
        "us usec µs": 1e-6,
        "ms msec": 1e-3,
        "s sec second seconds": 1.0,
        "m min minute minutes": 60.0,
        "h hr hour hours": 3600.0,
        "d day days": 86_400.0,
        "w week weeks": 604_800.0,
        "M month months": 2_629_800.0,
        "y year years": 31_557_600.0,
    }.items()
    for name in names.split()
}
_SPAN_PART = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-zµ]*)")
_WORDS = {
    "minutely": "* * * * *",
    "hourly": "0 * * * *",
    "daily": "0 0 * * *",
    "weekly": "0 0 * * 1",
    "monthly": "0 0 1 * *",
    "quarterly": "0 0 1 1,4,7,10 *",
    "semiannually": "0 0 1 1,7 *",
    "semi-annually": "0 0 1 1,7 *",
    "yearly": "0 0 1 1 *",
    "annually": "0 0 1 1 *",
}
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_TIME = re.compile(r"([0-9*,./]+):([0-9*,./]+)(?::([0-9*,./]+))?")
_DATE = re.compile(r"(?:([0-9*,./]+)-)?([0-9*,./]+)([-~])([0-9*,./]+)")
_PART = re.compile(r"(\*|[0-9]+)(?:\.\.([0-9]+))?(?:/([0-9]+))?")


class Calendar(Struct, frozen=True):
    """A crontab expression, and the time zone if one was named."""

    schedule: str
    timezone: str | None = None


def span_s(text: str) -> float:
    """Seconds of a time span; a number without a unit is seconds. Raises ValueError."""
    total, position = 0.0, 0
    while position < len(text.rstrip()):
        part = _SPAN_PART.match(text, position)
        if part is None or part[2] not in ("", *_UNITS_S):
            break
        total += float(part[1]) * _UNITS_S.get(part[2], 1.0)
        position = part.end()
    if not text.strip() or position < len(text.rstrip()):
        raise ValueError(f"`{text}`: expected a time span such as `1h 30min`")
    return total


def calendar(text: str) -> Calendar:
    """The crontab expression that fires when this calendar expression does. Raises ValueError if there is none."""
    tokens = text.split()
    timezone = _zone(tokens[-1]) if tokens else None
    if timezone:
        tokens.pop()
    if len(tokens) == 1 and tokens[0].lower() in _WORDS:
        return Calendar(_WORDS[tokens[0].lower()], timezone)
    days = _weekdays(tokens.pop(0)) if tokens and tokens[0][0].isalpha() else "*"
    day, month = _date(tokens.pop(0)) if tokens and _DATE.fullmatch(tokens[0]) else ("*", "*")
    minute, hour = _time(tokens.pop(0)) if tokens and _TIME.fullmatch(tokens[0]) else ("0", "0")
    if tokens or not text.strip():
        raise ValueError(f"`{text}` is no calendar expression")
    if day != "*" and days != "*":
        raise ValueError("a weekday and a day of the month together: crontab(5) takes either, not both")
    schedule = f"{minute} {hour} {day} {month} {days}"
    try:
        return Calendar(Schedule().parse(schedule), timezone)
    except ValueError as error:
        raise ValueError(f"`{text}`: {error or 'no such time'}") from None


def _zone(token: str) -> str | None:
    if token.lower() in _WORDS or token[:3].lower() in _DAYS or not token[0].isalpha():
        return None
    return Zone().parse(token)


def _weekdays(token: str) -> str:
    return ",".join(_weekday_range(part) for part in token.strip(",").split(","))


def _weekday_range(part: str) -> str:
    first, dots, last = part.lower().partition("..")
    if not dots and "-" in first:
        first, dots, last = first.partition("-")
    begin = _weekday(first)
    end = _weekday(last) if dots else begin
    if begin == end:
        return str(begin % 7)
    if begin < end:
        return f"{begin}-{end}"  # 7 is Sunday for both
    raise ValueError(f"`{part}`: the days of a range have to rise")


def _weekday(name: str) -> int:
    for number, (short, full) in enumerate(zip(_DAYS, _DAY_NAMES, strict=True), 1):
        if name in (short, full):
            return number
    raise ValueError(f"`{name}` is no weekday")


def _date(token: str) -> tuple[str, str]:
    found = _DATE.fullmatch(token)
    assert found is not None  # noqa: S101 - the caller has looked
    if found[1] not in (None, "*"):
        raise ValueError(f"`{token}`: crontab(5) knows no years")
    if found[3] == "~":
        raise ValueError(f"`{token}`: crontab(5) does not count from the end of a month")
    return _field(found[4], 31), _field(found[2], 12)


def _time(token: str) -> tuple[str, str]:
    found = _TIME.fullmatch(token)
    assert found is not None  # noqa: S101 - the caller has looked
    if found[3] is not None and found[3].strip("0"):
        raise ValueError(f"`{token}`: crontab(5) knows no seconds")
    return _field(found[2], 59), _field(found[1], 23)


def _field(text: str, most: int) -> str:
    return ",".join(_part(part, most) for part in text.split(","))


def _part(text: str, most: int) -> str:
    """`0/15` begins at 0 and goes on to the end; crontab(5) writes that as a range."""
    found = _PART.fullmatch(text)
    if found is None or (found[1] == "*" and found[2]):
        raise ValueError(f"`{text}` is no part of a calendar expression")
    first, last, step = found[1], found[2], found[3]
    if first == "*":
        return f"*/{int(step)}" if step else "*"
    if last:
        first = f"{int(first)}-{int(last)}"
    elif step:
        first = "*" if int(first) == 0 else f"{int(first)}-{most}"
    else:
        first = str(int(first))
    return f"{first}/{int(step)}" if step else first
