"""What `windows:` means: days and hours in which runs may start."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

from jetwatch.config.model import Window
from jetwatch.config.nodes import Broken, Mapping, Node, Notes, Scalar, Sequence, nearest, quoted
from jetwatch.config.scalars import Kind, Plain
from jetwatch.config.tables import Key, Table
from jetwatch.config.times import Zone

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LONG_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_NUMBERS = {name: number for names in (DAYS, _LONG_DAYS) for number, name in enumerate(names)}
_CLOCK = re.compile(r"([01]?[0-9]|2[0-4]):([0-5][0-9])")
_DAY_MIN = 24 * 60


class TimeOfDay(Plain, frozen=True):
    """Minutes since midnight, from text such as `22:00`."""

    latest_min: int

    @property
    def what(self) -> str:
        """With the bounds."""
        return f"a time of day such as `22:00`, `00:00` to `{self.write(self.latest_min)}`"

    def parse(self, text: str) -> int:
        """Hours and minutes."""
        found = _CLOCK.fullmatch(text.strip())
        minutes = int(found[1]) * 60 + int(found[2]) if found else _DAY_MIN + 1
        if minutes > self.latest_min:
            raise ValueError
        return minutes

    def show(self, value: int) -> str:
        """Two digits each."""
        return f"{value // 60:02}:{value % 60:02}"

    def schema(self) -> dict[str, Any]:
        """Text."""
        return {"type": "string", "pattern": f"^{_CLOCK.pattern}$"}


class Days(Kind, frozen=True):
    """Numbers of weekdays (0 is Monday), from names, ranges, or a list of both."""

    what = "days such as `mon`, `mon-fri` or `[sat, sun]`"

    def read(self, node: Node, notes: Notes) -> tuple[int, ...] | None:
        """In order, none twice; None when one cannot be read."""
        if isinstance(node, Broken | Mapping) or (isinstance(node, Sequence) and not node.items):
            notes.expected(node, self.what)
            return None
        members = node.items if isinstance(node, Sequence) else (node,)
        found = [self._some(member, notes) for member in members]
        return tuple(sorted({day for some in found for day in some or ()})) if all(found) else None

    def _some(self, node: Node, notes: Notes) -> list[int] | None:
        """The days of one member; commas part them as in a crontab."""
        if not isinstance(node, Scalar) or node.is_null:
            notes.expected(node, self.what)
            return None
        parts = [part.strip().lower() for part in node.text.split(",")]
        spans = [[_NUMBERS.get(day.strip()) for day in part.split("-")] for part in parts]
        days: list[int] = []
        for part, span in zip(parts, spans, strict=True):
            first, last = span[0], span[-1]
            if first is None or last is None or len(span) > 2:
                notes.problem(node, f"expected {self.what}; found {quoted(part)}{nearest(part, _NUMBERS)}")
                return None
            days += [day % 7 for day in range(first, last + 1 if first <= last else last + 8)]
        return days

    def show(self, value: tuple[int, ...]) -> str | list[str]:
        """Runs of days as ranges: `mon-fri`, `[mon, sat-sun]`."""
        runs = [[day for _, day in run] for _, run in groupby(enumerate(value), lambda pair: pair[1] - pair[0])]
        shown = [DAYS[run[0]] + (f"-{DAYS[run[-1]]}" if len(run) > 1 else "") for run in runs]
        return shown[0] if len(shown) == 1 else shown

    def schema(self) -> dict[str, Any]:
        """A text, or a list of texts."""
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}


TABLE = Table(
    (
        Key(
            "days",
            Days(),
            "The days it opens on: names, ranges, or a list. Across midnight a window belongs to the day it opens on.",
            record=Window,
        ),
        Key("from", TimeOfDay(_DAY_MIN - 1), "When it opens.", into="opens_min", record=Window),
        Key(
            "to",
            TimeOfDay(_DAY_MIN),
            "When it closes. Not later than `from`: on the next day.",
            into="closes_min",
            record=Window,
        ),
        Key("timezone", Zone(), "Whose days and hours these are.", default_text="the watch's, else the machine's"),
    ),
    Window,
)


class Windows(Kind, frozen=True):
    """A list of windows."""

    what = "a list of windows such as `{days: mon-fri, from: 22:00, to: 04:00}`"
    table = TABLE

    def read(self, node: Node, notes: Notes) -> tuple[Window, ...] | None:
        """All of them, None when one cannot be read."""
        if not isinstance(node, Sequence):
            notes.expected(node, self.what)
            return None
        if not node.items:
            notes.problem(
                node, f"expected {self.what}; found an empty list. Leave `windows` out: runs may always start"
            )
            return None
        found = [self._window(item, notes) for item in node.items]
        return tuple(window for window in found if window is not None)

    def _window(self, node: Node, notes: Notes) -> Window | None:
        window: Window | None = TABLE.read(node, notes)
        if window is None or not isinstance(node, Mapping):
            return None
        if window.opens_min == window.closes_min:
            place = node.entries.get("to", node.entries.get("from", node))
            notes.problem(
                place, "a window has a length: `from` and `to` are the same; leave both out for the whole day"
            )
        if not node.entries:
            notes.problem(node, "expected one of `days`, `from`, `to`; found an empty window")
        return window

    def show(self, value: tuple[Window, ...]) -> list[dict[str, Any]]:
        """In full; None where there are none."""
        return [TABLE.show(window) for window in value]

    def schema(self) -> dict[str, Any]:
        """An array of objects."""
        return {"type": "array", "items": TABLE.schema(), "minItems": 1}
