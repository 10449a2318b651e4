"""What the text of a time means: durations, jitter, schedules, zones. Seconds inside, units outside."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from jetwatch.config.scalars import NUMBER, Plain

YEAR_S = 366 * 86_400.0
"""Upper bound of every duration: longer ones are slips of a unit."""

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern} ?)+")


class Duration(Plain, frozen=True):
    """Seconds as float, from a number or text such as `1h30m`."""

    least_s: float = 0.0
    most_s: float = YEAR_S

    @property
    def what(self) -> str:
        """With the bounds."""
        return f"seconds or a duration such as `90s` or `1h30m`, {clock(self.least_s)} to {clock(self.most_s)}"

    def parse(self, text: str) -> float:
        """Units ms, s, m, h, d; several add up."""
        seconds = duration_s(text)
        if not self.least_s <= seconds <= self.most_s:
            raise ValueError
        return seconds

    def write(self, value: float) -> str:
        """Such as `1h30m`."""
        return clock(value)

    def show(self, value: float) -> int | float:
        """Seconds, whole where they are."""
        return int(value) if value == int(value) else value

    def schema(self) -> dict[str, Any]:
        """A number of seconds or a text."""
        number = {"type": "number", "minimum": self.least_s, "maximum": self.most_s}
        return {"anyOf": [number, {"type": "string", "pattern": f"^({NUMBER.pattern}|{_DURATION.pattern})$"}]}


class DurationOrOff(Duration, frozen=True):
    """A duration, or `off`: None, as if the key were not given."""

    @property
    def what(self) -> str:
        """With the word."""
        return f"{super().what}, or `off`"

    def parse(self, text: str) -> Any:
        """Seconds, or None."""
        return None if text.strip() == "off" else super().parse(text)

    def schema(self) -> dict[str, Any]:
        """A bare `off` is text in YAML 1.2 and false in 1.1."""
        return {"anyOf": [*super().schema()["anyOf"], {"enum": ["off", False]}]}


def duration_s(text: str) -> float:
    """Seconds in text such as `200`, `0.5`, `90s`, `1h30m`. Raises ValueError."""
    stripped = text.strip()
    if NUMBER.fullmatch(stripped):
        return float(stripped)
    if len(stripped) > 100 or not _DURATION.fullmatch(stripped):
        raise ValueError
    return sum(float(amount) * _UNITS_S[unit] for amount, unit in _DURATION_PART.findall(stripped))


def clock(seconds: float) -> str:
    """Seconds as text that `duration_s` reads back to the same number: `1h30m`, `2d`, `0.5s`."""
    if seconds != int(seconds) or seconds == 0:
        return f"{seconds:.15f}".rstrip("0").rstrip(".") + "s"
    if seconds < 600 and seconds % 60:  # `200s` is what a person writes, not `3m20s`
        return f"{int(seconds)}s"
    rest = int(seconds)
    parts = []
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        parts.append(f"{count}{unit}" if count else "")
    return "".join(parts)


class Jitter(Plain, frozen=True):
    """`(seconds, fraction)`, one of them 0: a duration, or per cent of the interval."""

    what = "a duration such as `30s`, or a share of the interval from `0%` to `100%`"

    def parse(self, text: str) -> tuple[float, float]:
        """`10%` is a fraction of 0.1."""
        stripped = text.strip()
        if not stripped.endswith("%"):
            return Duration().parse(stripped), 0.0
        share = stripped[:-1].strip()
        if not NUMBER.fullmatch(share) or float(share) > 100:
            raise ValueError
        return 0.0, float(share) / 100

    def show(self, value: tuple[float, float]) -> int | float | str:
        """As it would be written."""
        seconds, fraction = value
        return f"{fraction * 100:.12g}%" if fraction else Duration().show(seconds)

    def write(self, value: tuple[float, float]) -> str:
        """With a unit."""
        return str(self.show(value)) if value[1] else Duration().write(value[0])

    def schema(self) -> dict[str, Any]:
        """A duration or per cent."""
        return {"anyOf": [Duration().schema(), {"type": "string", "pattern": f"^{NUMBER.pattern} ?%$"}]}


class Schedule(Plain, frozen=True):
    """A crontab(5) expression: five fields, or a word such as `@daily`."""

    what = "a crontab(5) expression of five fields such as `0 3 * * *`, or `@hourly`, `@daily`, `@weekly`, `@monthly`"

    def parse(self, text: str) -> str:
        """The expression as it stands, sure to fire some day."""
        expression = text.strip()
        if expression.lower() in {"@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"}:
            return expression.lower()
        if len(expression.split()) != 5:  # cronsim takes a sixth field, for seconds
            raise ValueError
        from cronsim import CronSim, CronSimError

        try:
            next(CronSim(expression, datetime(2024, 1, 1)))  # noqa: DTZ001  # any day will do: does it ever fire?
        except CronSimError as error:
            raise ValueError(str(error)) from error
        except StopIteration:
            raise ValueError("it never fires") from None
        return expression

    def schema(self) -> dict[str, Any]:
        """Text."""
        return {"type": "string"}


class Zone(Plain, frozen=True):
    """A time zone of the system's database."""

    what = "a time zone such as `Europe/Berlin` or `UTC`"

    def parse(self, text: str) -> str:
        """The name, sure to be known on this machine."""
        from zoneinfo import ZoneInfo

        try:
            ZoneInfo(text)
        except (ValueError, OSError, LookupError):  # ZoneInfoNotFoundError is a LookupError
            raise ValueError("this machine does not know it") from None
        return text

    def schema(self) -> dict[str, Any]:
        """Text."""
        return {"type": "string"}
