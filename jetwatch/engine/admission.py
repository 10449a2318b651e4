"""What stands in the way of a run that is due. Pure: the engine gathers the facts, `jetp why` prints the words."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import Struct
from msgspec.structs import replace

from jetwatch.config.model import DiskReserve, Window
from jetwatch.engine.verbs import is_suspended
from jetwatch.engine.windows import open_at
from jetwatch.records import Run, Shortage, Stamp, Trigger, WatchState

WINDOW = "window"
SPLAY = "splay"
ORIGIN = "origin:"


class Space(Struct, frozen=True):
    """Free room on one file system, for the agent's own use."""

    path: str
    free_bytes: int
    free_inodes: int

    def is_below(self, reserve: DiskReserve) -> bool:
        """Whether less than the reserve is left. A file system that does not count inodes has enough of them."""
        too_few_inodes = 0 <= self.free_inodes < reserve.free_inodes
        return self.free_bytes < reserve.free_bytes or too_few_inodes

    def shortage(self, reserve: DiskReserve) -> Shortage:
        """What is there beside what is wanted."""
        return Shortage(self.path, self.free_bytes, self.free_inodes, reserve.free_bytes, reserve.free_inodes)


class Surrounding(Struct, frozen=True):
    """What is going on beside this watch."""

    open_runs: Collection[Run]
    max_runs: int
    max_fetches: int
    blocked: bool
    stopping: bool


def obstacles(
    state: WatchState,
    trigger: Trigger,
    *,
    exclusive: str | None,
    origin: str | None = None,
    windows: Sequence[Window] = (),
    surrounding: Surrounding,
    low: Space | None,
    now: Stamp,
) -> tuple[str, ...]:
    """Why the due `trigger` may not start a run now, in stable words; empty: it may.

    `origin`: whom its content is fetched from; None: it has none, and begins with a place among the runs.
    """
    found = []
    if surrounding.stopping:
        found.append("agent_stopping")
    if is_suspended(state, now):
        found.append("suspended")
    if is_held(state, now):
        found.append("held")
    if trigger.revision and trigger.revision == state.quarantined_revision:
        found.append("quarantined")
    if not open_at(windows, now.wall_us):
        found.append(WINDOW)
    elif state.window is not None and state.window.start.remaining_us(now) > 0:
        found.append(SPLAY)
    if surrounding.blocked:
        found.append("blocked")
    if any(run.watch == state.watch for run in surrounding.open_runs):
        found.append("run_open")
    if exclusive is not None and any(run.exclusive == exclusive for run in surrounding.open_runs):
        found.append(f"exclusive:{exclusive}")
    if origin is None:
        found += before_play(surrounding)
    else:
        found += _before_fetch(surrounding, origin)
    if low is not None:
        found.append("disk_low")
    return tuple(found)


def before_play(surrounding: Surrounding) -> tuple[str, ...]:
    """Why no further run may go on to its play now. Runs that fetch, or wait for this, take none of its places."""
    playing = sum(not run.is_before_play for run in surrounding.open_runs)
    return ("max_runs",) if playing >= surrounding.max_runs else ()


def _before_fetch(surrounding: Surrounding, origin: str) -> tuple[str, ...]:
    """Why no further fetch may begin now. One origin gets a quarter of the places: a slow one leaves the others theirs.

    A place is held until the play begins, so that no more content lies on the disk unused than is fetched at a time.
    """
    fetching = [run for run in surrounding.open_runs if run.is_before_play]
    if len(fetching) >= surrounding.max_fetches:
        return ("max_fetches",)
    of_origin = sum(run.origin == origin for run in fetching)
    return (f"{ORIGIN}{origin}",) if of_origin >= max(1, surrounding.max_fetches // 4) else ()


def without_due(state: WatchState) -> WatchState:
    """The watch with no answer kept: its run is open, or nothing is to be done any more."""
    return replace(state, due=None, waiting_for=(), window=None, shortage=None)


def waits_for_window(state: WatchState) -> bool:
    """Whether the kept answer waits for a window, or for its time within the splay after the opening."""
    return state.due is not None and (WINDOW in state.waiting_for or SPLAY in state.waiting_for)


def is_a_matter_of_turn(word: str) -> bool:
    """Whether an obstacle goes away when other runs end, not when a person or an hour does something."""
    return word in ("max_runs", "max_fetches", "run_open") or word.startswith(("exclusive:", ORIGIN))


def is_held(state: WatchState, now: Stamp) -> bool:
    """Whether too many lost runs in a row still hold the watch."""
    return state.held_until is not None and state.held_until.remaining_us(now) > 0
