"""A load over time as a picture: columns of block characters for a terminal, and an SVG.

Each column is the busiest of its seconds, so that a peak is never averaged away. Drawn here, as a chart of two series
is sixty lines, and the libraries for it are larger than the agent.
"""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from msgspec import Struct

_BLOCKS = " ▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT = 800, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 50, 40
_COLOURS = ("#b45309", "#0f766e")


class Series(Struct, frozen=True):
    """A named load, in requests per second."""

    name: str
    per_second: Sequence[float]


def busiest(per_second: Sequence[float], columns: int) -> list[float]:
    """The largest value of each of at most `columns` equal parts."""
    columns = max(1, min(columns, len(per_second)))
    edges = [len(per_second) * index // columns for index in range(columns + 1)]
    return [max(per_second[start:end]) for start, end in itertools.pairwise(edges)]


def rounded_up(value: float) -> float:
    """The next round number: the top of an axis."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10) if value <= step * power * (1 + 1e-9))


def tick(value: float) -> str:
    """A number beside an axis."""
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def columns_of_blocks(per_second: Sequence[float], top: float, width: int, height: int) -> list[str]:
    """Lines of text, the highest first: one column per part, in eighths of a line."""
    filled = [round(min(1.0, value / top) * height * 8) for value in busiest(per_second, width)]
    rows = range(height - 1, -1, -1)
    return ["".join(_BLOCKS[max(0, min(8, eighths - row * 8))] for eighths in filled) for row in rows]


def svg(title: str, series: Sequence[Series]) -> str:
    """The loads as lines over seconds, in one picture with axes and a legend."""
    top = rounded_up(max(max(each.per_second, default=0.0) for each in series))
    window_s = max(len(each.per_second) for each in series)
    root = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {_WIDTH} {_HEIGHT}",
            "font-family": "sans-serif",
            "font-size": "12",
        },
    )
    ET.SubElement(root, "rect", {"width": str(_WIDTH), "height": str(_HEIGHT), "fill": "white"})
    _text(root, _LEFT, 20, title, size=14)
    for part in range(5):
        y = _y(top * part / 4, top)
        ends = {"x1": str(_LEFT), "x2": str(_WIDTH - _RIGHT), "y1": f"{y:.1f}", "y2": f"{y:.1f}"}
        ET.SubElement(root, "line", {**ends, "stroke": "#ddd"})
        _text(root, _LEFT - 8, y + 4, tick(top * part / 4), anchor="end")
        _text(root, _x(window_s * part / 4, window_s), _HEIGHT - 18, f"{window_s * part / 4:,.0f} s", anchor="middle")
    for number, each in enumerate(series):
        colour = _COLOURS[number % len(_COLOURS)]
        ET.SubElement(root, "path", {"d": _steps(each, top, window_s), "fill": "none", "stroke": colour})
        _text(root, _LEFT + number * 260, 40, each.name, colour=colour)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _steps(series: Series, top: float, window_s: int) -> str:
    values = busiest(series.per_second, _WIDTH - _LEFT - _RIGHT)
    width_s = len(series.per_second) / len(values)
    parts: list[str] = []
    for index, value in enumerate(values):
        x, y = _x((index + 0.5) * width_s, window_s), _y(value, top)
        parts.append(f"{'L' if parts else 'M'}{x:.1f} {y:.1f}")
    return " ".join(parts)


def _x(second: float, window_s: int) -> float:
    return _LEFT + second / window_s * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - value / top * (_HEIGHT - _TOP - _BOTTOM)


def _text(
    root: ET.Element, x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "#222"
) -> None:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "font-size": str(size), "fill": colour}
    ET.SubElement(root, "text", place).text = text
