"""Draws what grows (P6, P7) as curves: `draw.py FOLDER-OF-JSON FOLDER-FOR-SVG`, after `watches.py` and `history.py`.

Both axes grow by factors, so that what is proportional to the number is a line of slope one, and what does not depend
on it is flat. The dashed line is the target. The same figures give the same bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, LogLocator

STYLE = {
    "svg.hashsalt": "jetwatch",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
}
COLOURS = ("#0f766e", "#b45309", "#1d4ed8", "#7e22ce")


class Panel(NamedTuple):
    """One small chart: values by their names, and what they must not reach (None: the target is another)."""

    title: str
    series: dict[str, list[float]]
    limit: float | None = None


def rows(path: Path) -> list[dict[str, float | str]]:
    """The rows of a benchmark."""
    found: list[dict[str, float | str]] = json.loads(path.read_text())["rows"]
    return found


def column(table: list[dict[str, float | str]], name: str) -> list[float]:
    """The figures of a column; of `52 (50 to 60)` the first."""
    return [float(str(row[name]).split()[0]) for row in table]


def draw(path: Path, along: str, places: list[float], panels: list[Panel]) -> None:
    """All panels side by side, over the same places."""
    figure, charts = pyplot.subplots(1, len(panels), figsize=(3.4 * len(panels), 3.6), layout="constrained")
    for chart, panel in zip(charts, panels, strict=True):
        for (name, values), colour in zip(panel.series.items(), COLOURS, strict=False):
            chart.plot(places, values, marker="o", markersize=4, color=colour, label=name)
        if panel.limit is not None:
            chart.axhline(panel.limit, color="#b91c1c", linestyle="--", linewidth=1, label="target")
        chart.set_xscale("log")
        chart.set_yscale("log")
        everything = [each for values in panel.series.values() for each in values]
        bottom, top = min(everything) / 3, max(*everything, panel.limit or 0.0) * 3
        chart.set_ylim(bottom, top)
        chart.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if top < 100 * bottom else (1,)))
        for axis in (chart.xaxis, chart.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
            axis.set_minor_formatter(FuncFormatter(lambda *_: ""))
        chart.set_xlabel(along)
        chart.set_title(panel.title, fontsize=9)
        if len(panel.series) > 1 or panel.limit is not None:
            chart.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def many_watches(table: list[dict[str, float | str]]) -> list[Panel]:
    """P6. Nothing is late by less than what a clock shows."""
    late = {name: [max(each, 0.1) for each in column(table, key)] for name, key in LATE.items()}
    cpu = {"agent": column(table, "own_cpu_ms"), "agent and command": column(table, "cpu_ms")}
    return [
        Panel("private memory, MB", {"agent": column(table, "private_mb")}),
        Panel("CPU of one check, ms", cpu),
        Panel("behind the grid, ms", late, 250.0),
    ]


LATE = {"median": "late_ms", "of 100, one is later": "late_p99_ms"}


def long_history(table: list[dict[str, float | str]]) -> list[Panel]:
    """P7. The target of the commands is twice `jetp version`."""
    commands = {f"jetp {name}": column(table, f"{name}_cpu_ms") for name in ("version", "status", "runs", "show")}
    twice = 2 * min(commands["jetp version"])
    return [
        Panel("CPU of a command, ms", commands, twice),
        Panel("a run opened, without the sync, ms", {"opened": column(table, "open_unsynced_ms")}, 5.0),
        Panel("journal, MB", {"journal": column(table, "journal_mb")}),
    ]


def main() -> None:
    """Both pictures."""
    pyplot.switch_backend("svg")
    pyplot.rcParams.update(STYLE)
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    watches, history = rows(source / "watches.json"), rows(source / "history.json")
    draw(target / "many-watches.svg", "watches", column(watches, "watches"), many_watches(watches))
    draw(target / "long-history.svg", "runs kept", column(history, "runs_kept"), long_history(history))


if __name__ == "__main__":
    main()
