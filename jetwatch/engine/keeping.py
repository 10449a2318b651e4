"""A due answer that may not start its run yet: what is kept of it, what is told, when to look at it again. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from jetwatch.engine.admission import SPLAY, WINDOW
from jetwatch.engine.opening import deferred, disk_low
from jetwatch.events import Event
from jetwatch.records import Deadline, Shortage, Stamp, Trigger, WatchState, WindowWait


def misses_window(state: WatchState, found: tuple[str, ...], now: Stamp) -> bool:
    """Whether a window that is closed has no start planned: it is met for the first time, or has closed again."""
    return WINDOW in found and (state.window is None or state.window.start.remaining_us(now) == 0)


def keep(
    state: WatchState,
    trigger: Trigger,
    found: tuple[str, ...],
    *,
    window: WindowWait | None,
    shortage: Shortage | None,
) -> tuple[WatchState, tuple[Event, ...]]:
    """The watch with `trigger` kept for what was `found` in its way, and what is news of that."""
    kept = replace(state, due=trigger, waiting_for=found, window=window, shortage=shortage)
    events: tuple[Event, ...] = deferred(kept, before=state.window)
    if shortage is not None and "disk_low" not in state.waiting_for:
        events += (disk_low(state.watch, shortage),)
    return kept, events


def coming_starts(state: WatchState, looked: Stamp, *, once: bool, checked_once: bool) -> list[Deadline | None]:
    """The times at which a watch without an open run has something to do, after all that was due at `looked`."""
    opening = [state.window.opens, state.window.start] if state.window is not None else []
    # What has passed and still waits for something else would ring for ever.
    waits = [each for each in (state.held_until, *opening) if each is not None and each.remaining_us(looked) > 0]
    if once:
        return [*([] if checked_once else [state.next_check]), *(waits if SPLAY in state.waiting_for else [])]
    return [state.next_check, *(waits if state.due is not None else [state.retry_at])]
