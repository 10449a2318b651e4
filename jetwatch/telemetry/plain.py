"""Foreign text and numbers as people read them: nothing in them can move a cursor, break a line or look like another.

Used for log lines and by the commands that print for people. Imports nothing heavy.
"""

from __future__ import annotations

from jetwatch import errors

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400

visible = errors.visible


def visible_lines(text: str) -> str:
    """As `visible`, but ends of lines and tabs stay: of text that has lines of its own."""
    if text.isprintable():
        return text
    return "\n".join("\t".join(visible(cell) for cell in line.split("\t")) for line in text.split("\n"))


def cut(text: str, width: int) -> str:
    """At most `width` characters of `text`; an ellipsis says that there was more."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def duration(seconds: float) -> str:
    """A length of time in two units at most: `0.21 s`, `4.2 s`, `42 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return _pair(whole, _MINUTE_S, "min", 1, "s")
    if whole < _DAY_S:
        return _pair(whole, _HOUR_S, "h", _MINUTE_S, "min")
    return _pair(whole, _DAY_S, "d", _HOUR_S, "h")


def _pair(whole: int, major: int, major_name: str, minor: int, minor_name: str) -> str:
    count, rest = divmod(whole, major)
    return f"{count} {major_name} {rest // minor} {minor_name}" if rest // minor else f"{count} {major_name}"


def compact(seconds: float) -> str:
    """A length of time for a narrow column: `0.2s`, `42s`, `3m20s`, `2h05m`, `3d04h`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for length, unit, minor, minor_unit in ((_DAY_S, "d", _HOUR_S, "h"), (_HOUR_S, "h", _MINUTE_S, "m")):
        if whole >= length:
            return f"{whole // length}{unit}{whole % length // minor:02}{minor_unit}"
    return f"{whole // _MINUTE_S}m{whole % _MINUTE_S:02}s" if whole >= _MINUTE_S else f"{whole}s"


def size(count: int) -> str:
    """A number of bytes: `512 B`, `4.0 KiB`, `12 MiB`."""
    amount, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{amount:.1f} {unit}" if unit != "B" and amount < 10 else f"{amount:.0f} {unit}"
