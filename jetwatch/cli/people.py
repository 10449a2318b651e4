"""Output for people: tables, colours and relative times on a terminal, plain text with stable columns anywhere else.

rich is imported when a terminal is written to, never otherwise. Text of others is escaped before it is shown.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO, cast

from jetwatch.cli.streams import Styled
from jetwatch.records import Deadline, Outcome, Stamp
from jetwatch.telemetry.plain import duration, visible

if TYPE_CHECKING:
    from rich.console import Console

Cell = str | tuple[str, str]
"""Text, or text and the name of a style of rich."""

OUTCOME_STYLES: Mapping[str, str] = {
    Outcome.OK: "green",
    Outcome.FAILED: "red",
    Outcome.TIMEOUT: "red",
    Outcome.LOST: "red",
    Outcome.CANCELLED: "yellow",
}
_LAST_COLUMN_LEAST = 6
_LAST_S = 253_402_128_000  # the last day but one of the year 9999: a day of any time zone is in the calendar


class Screen:
    """Where a command prints. `is_terminal`: a person reads it as it comes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self.is_terminal = self._stream.isatty()
        self._console = _console(self._stream) if self.is_terminal else None

    def line(self, text: str = "", style: str = "") -> None:
        """One paragraph, wrapped on a terminal."""
        if self._console is None:
            print(visible(text), file=self._stream)
            return
        from rich.text import Text

        self._console.print(Text(visible(text), style=style))

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Columns with a head each. On a terminal too long a cell is cut, in a pipe it is not."""
        if self._console is None:
            self._plain_table([list(heads), *([_text(cell) for cell in row] for row in rows)])
            return
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        widths = [max(len(_text(cell)) for cell in column) for column in zip(heads, *rows, strict=True)]
        # The last column gives way first; where that is not enough, all of them do.
        fits = sum(widths[:-1]) + 2 * len(widths) + _LAST_COLUMN_LEAST <= self._console.width
        for head, width in zip(heads, widths, strict=True):
            least = width if fits and head != heads[-1] else None
            table.add_column(head, no_wrap=True, overflow="ellipsis", min_width=least)
        self._add(table, rows)

    def pairs(self, rows: Sequence[tuple[str, Cell]]) -> None:
        """A name and what there is to say about it, line after line."""
        if self._console is None:
            self._plain_table([[name, _text(cell)] for name, cell in rows])
            return
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        self._add(table, rows)

    def _add(self, table: Any, rows: Sequence[Sequence[Cell]]) -> None:
        from rich.text import Text

        for row in rows:
            table.add_row(*(Text(_text(cell), style=_style(cell)) for cell in row))
        assert self._console is not None  # noqa: S101 - both callers have one
        self._console.print(table)

    def _plain_table(self, rows: list[list[str]]) -> None:
        widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print("  ".join(cells).rstrip(), file=self._stream)


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    dumb = os.environ.get("TERM") == "dumb"
    return Console(file=cast(TextIO, Styled(stream)), highlight=False, markup=False, emoji=False, no_color=dumb or None)


def _text(cell: Cell) -> str:
    return visible(cell if isinstance(cell, str) else cell[0])


def _style(cell: Cell) -> str:
    return "" if isinstance(cell, str) else cell[1]


class Times:
    """Instants as this reader wants them: relative for a person, RFC 3339 for a pipe."""

    def __init__(self, now: Stamp, *, relative: bool) -> None:
        self.now = now
        self._relative = relative

    def past(self, stamp: Stamp | None) -> str:
        """`3 min ago`, or when it was."""
        if stamp is None:
            return "never"
        return f"{rough(elapsed_s(stamp, self.now))} ago" if self._relative else iso(stamp.wall_us)

    def future(self, deadline: Deadline | None) -> str:
        """`in 40 s`, or when it will be."""
        if deadline is None:
            return "-"
        left_s = deadline.remaining_us(self.now) / 1_000_000
        if self._relative:
            return f"in {rough(left_s)}" if left_s > 0 else "now"
        return iso(comes_at_us(deadline, self.now))

    def moment(self, stamp: Stamp) -> str:
        """`14:03:22, 3 min ago`, or when it was."""
        return f"{local(stamp.wall_us, self.now.wall_us)}, {self.past(stamp)}" if self._relative else self.past(stamp)

    def coming(self, deadline: Deadline) -> str:
        """`14:03:22, in 40 s`, or when it will be."""
        if not self._relative:
            return self.future(deadline)
        return f"{local(comes_at_us(deadline, self.now), self.now.wall_us)}, {self.future(deadline)}"

    def since(self, stamp: Stamp) -> str:
        """How long it has been: `3 min 20 s`."""
        return duration(elapsed_s(stamp, self.now))


def elapsed_s(stamp: Stamp, now: Stamp) -> float:
    """Seconds from `stamp` to `now`: by the boot-time clock within a boot, else by the wall clock; never below 0."""
    if stamp.boot_id == now.boot_id:
        return max(0, now.boot_us - stamp.boot_us) / 1_000_000
    return max(0, now.wall_us - stamp.wall_us) / 1_000_000


def comes_at_us(deadline: Deadline, now: Stamp) -> int:
    """When it comes by the wall clock as of now, to the nearest second: the two clocks are not read at one instant."""
    return round((now.wall_us + deadline.remaining_us(now)) / 1_000_000) * 1_000_000


def rough(seconds: float) -> str:
    """A length of time in its largest unit."""
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def iso(wall_us: int) -> str:
    """Unix time as RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(_within_calendar_s(wall_us), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def local(wall_us: int, now_us: int) -> str:
    """Unix time as a person's clock and calendar say it: the time alone for today."""
    moment = datetime.fromtimestamp(_within_calendar_s(wall_us)).astimezone()
    today = datetime.fromtimestamp(_within_calendar_s(now_us)).astimezone().date()
    return moment.strftime("%H:%M:%S" if moment.date() == today else "%Y-%m-%d %H:%M")


def _within_calendar_s(wall_us: int) -> int:
    """Unix time in seconds. A journal may say any number: what no calendar has is shown as the nearest that it has."""
    return min(max(wall_us // 1_000_000, 0), _LAST_S)
