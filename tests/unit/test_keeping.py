"""What is kept of a due answer that may not start yet, what is told of it, and when it is looked at again."""

from __future__ import annotations

from typing import Any

import pytest
from builders import NOW, S, later, trigger, wait_s, watch

from jetwatch.engine.keeping import coming_starts, keep, misses_window
from jetwatch.events import DiskLow, RunDeferred
from jetwatch.records import Deadline, Shortage, WatchState, WindowWait

DUE = trigger(revision="7")
PASSED = Deadline.after(NOW, 0)
TONIGHT = WindowWait(Deadline.after(NOW, 100 * S), Deadline.after(NOW, 130 * S))
OPEN = WindowWait(PASSED, Deadline.after(NOW, 30 * S))
OVER = WindowWait(PASSED, PASSED)
FULL = Shortage("/var", 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("state", "found", "misses"),
    [
        (watch(), ("window",), True),
        (watch(window=TONIGHT), ("window",), False),
        (watch(window=OVER), ("window",), True),
        (watch(window=OVER), ("suspended", "window"), True),
        (watch(), ("suspended",), False),
        (watch(window=OPEN), ("splay",), False),
    ],
)
def test_a_start_is_planned_for_a_window_that_is_met_anew(
    state: WatchState, found: tuple[str, ...], misses: bool
) -> None:
    """For the first time, or because it has closed before the run could start."""
    assert misses_window(state, found, NOW) is misses


def test_what_is_kept_is_told_once() -> None:
    """A wait for a window, and a disk that is too full; what is known already is no news."""
    first, events = keep(watch(), DUE, ("window", "disk_low"), window=TONIGHT, shortage=FULL)
    deferred, low = events
    assert isinstance(deferred, RunDeferred)
    assert (deferred.until, deferred.start_at) == ("2026-01-15T12:01:40.000000Z", "2026-01-15T12:02:10.000000Z")
    assert isinstance(low, DiskLow)
    assert (low.path, low.free_bytes, low.reserve_inodes) == ("/var", 1, 4)
    assert (first.due, first.waiting_for, first.window) == (DUE, ("window", "disk_low"), TONIGHT)
    again = keep(first, trigger(revision="8"), ("window", "disk_low", "held"), window=TONIGHT, shortage=FULL)
    assert again[1] == ()


def test_another_opening_is_told() -> None:
    """The window has closed before anything could start."""
    tomorrow = WindowWait(Deadline.after(NOW, 900 * S), Deadline.after(NOW, 930 * S))
    _, (event,) = keep(watch(due=DUE, window=OVER), DUE, ("window",), window=tomorrow, shortage=None)
    assert isinstance(event, RunDeferred)


SOON, LATE = Deadline.after(NOW, 10 * S), Deadline.after(NOW, 20 * S)


@pytest.mark.parametrize(
    ("state", "how", "at_s"),
    [
        ({"next_check": SOON}, {}, [10]),
        ({"next_check": SOON, "retry_at": LATE}, {}, [10, 20]),
        ({"next_check": SOON, "retry_at": LATE, "due": DUE}, {}, [10]),
        ({"next_check": SOON, "held_until": LATE, "due": DUE}, {}, [10, 20]),
        ({"next_check": SOON, "held_until": PASSED, "due": DUE}, {}, [10]),
        ({"next_check": SOON, "window": TONIGHT, "due": DUE}, {}, [10, 100, 130]),
        ({"next_check": SOON, "window": OPEN, "due": DUE}, {}, [10, 30]),
        ({"next_check": SOON, "window": OVER, "due": DUE}, {}, [10]),
        ({"next_check": SOON}, {"once": True}, [10]),
        ({"next_check": SOON}, {"once": True, "checked_once": True}, []),
        ({"window": TONIGHT, "due": DUE, "waiting_for": ("window",)}, {"once": True, "checked_once": True}, []),
        ({"window": OPEN, "due": DUE, "waiting_for": ("splay",)}, {"once": True, "checked_once": True}, [30]),
    ],
)
def test_a_watch_wakes_when_there_is_something_to_do(
    state: dict[str, Any], how: dict[str, bool], at_s: list[float]
) -> None:
    """At its checks and retries, at the end of a hold, at an opening and the start after it; never for what is over."""
    starts = coming_starts(watch(**state), later(0), **{"once": False, "checked_once": False, **how})
    assert [wait_s(each) for each in starts if each is not None] == at_s
