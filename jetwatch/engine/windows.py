"""When the windows of a watch are open. Pure: instants are Unix time in microseconds; no windows are always open.

A window opens and closes when a clock on the wall of its zone first comes to that time: at the end of the gap for a
time that is skipped, the first time for one that comes twice. So each opens once and closes once per day, whatever the
clocks do, and one that lies in a gap as a whole does not open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, time, timedelta

from jetwatch.config.model import DAY_S, Window
from jetwatch.engine.civil import EPOCH, MICROSECOND, first_instant, zone_named
from jetwatch.engine.schedule import Uniform
from jetwatch.records import Deadline, Stamp, WindowWait

_DAY = timedelta(days=1)
_DAYS_BACK = 2  # a window that is open now has opened today or yesterday, by a clock that was set back the day before
_DAYS_AHEAD = 22  # a weekly window that a gap swallows opens a week later
_LONGEST_DAYS = 8  # windows that follow one another for longer than a week never end
_NEVER_US = round(36_500 * DAY_S * 1e6)


def open_at(windows: Sequence[Window], wall_us: int) -> bool:
    """Whether a run may start at this instant. A window contains its opening and not its closing."""
    return not windows or _end_of_open(windows, wall_us) is not None


def next_opening(windows: Sequence[Window], wall_us: int) -> int | None:
    """The first instant from `wall_us` on at which a run may start, `wall_us` itself if open; None: none in 3 weeks."""
    if open_at(windows, wall_us):
        return wall_us
    coming = (opens_us for window in windows for opens_us, _ in _spans(window, wall_us) if opens_us > wall_us)
    return min(coming, default=None)


def closes_at(windows: Sequence[Window], wall_us: int) -> int | None:
    """The end of what is open at `wall_us`, windows that overlap or follow at once taken together.

    `wall_us` itself if nothing is open; None: it never ends.
    """
    if not windows:
        return None
    end_us = wall_us
    while (later_us := _end_of_open(windows, end_us)) is not None:
        end_us = later_us
        if end_us - wall_us > _LONGEST_DAYS * DAY_S * 1e6:
            return None
    return end_us


def wait_for_opening(windows: Sequence[Window], now: Stamp, splay_s: float, uniform: Uniform) -> WindowWait:
    """The next opening (now, if open), and a start uniform within the splay after it, before the window closes."""
    opens_us = next_opening(windows, now.wall_us)
    if opens_us is None:
        never = Deadline.after(now, _NEVER_US)
        return WindowWait(never, never)
    closes_us = closes_at(windows, opens_us)
    room_s = splay_s if closes_us is None else min(splay_s, (closes_us - opens_us) / 1e6)
    opens = Deadline.after(now, opens_us - now.wall_us)
    return WindowWait(opens, Deadline.after(now, opens.span_us + int(uniform(room_s) * 1e6)))


def wait_again(windows: Sequence[Window], wait: WindowWait, now: Stamp, splay_s: float, uniform: Uniform) -> WindowWait:
    """The same wait after a restart, a reload or a step of the wall clock.

    It is kept where the window is open and the start within the splay; else it is read off the clock anew.
    """
    within_splay = wait.start.remaining_us(now) <= splay_s * 1e6
    if within_splay and open_at(windows, now.wall_us):
        return wait
    return wait_for_opening(windows, now, splay_s, uniform)


def _end_of_open(windows: Sequence[Window], wall_us: int) -> int | None:
    """The latest closing of the windows that are open at `wall_us`; None: none is."""
    ends = (
        closes_us for window in windows for opens_us, closes_us in _spans(window, wall_us, 1) if opens_us <= wall_us
    )
    return max((closes_us for closes_us in ends if closes_us > wall_us), default=None)


def _spans(window: Window, wall_us: int, days_ahead: int = _DAYS_AHEAD) -> Iterator[tuple[int, int]]:
    """Opening and closing of the window on the days around `wall_us`, in order; those that are not empty."""
    zone = zone_named(window.timezone)
    today = (EPOCH + wall_us * MICROSECOND).astimezone(zone).date()
    closes = timedelta(minutes=window.closes_min) + (_DAY if window.closes_min <= window.opens_min else timedelta())
    for ahead in range(-_DAYS_BACK, days_ahead + 1):
        midnight = datetime.combine(today + ahead * _DAY, time())
        if midnight.weekday() not in window.days:
            continue
        opens_us, closes_us = (
            (first_instant(midnight + after, zone) - EPOCH) // MICROSECOND
            for after in (timedelta(minutes=window.opens_min), closes)
        )
        if opens_us < closes_us:
            yield opens_us, closes_us
