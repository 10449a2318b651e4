"""What stands in the way of a run that is due, in stable words."""

from __future__ import annotations

from typing import Any

import pytest
from builders import NOW, S, ended, later, rebooted, run, started, step, trigger, watch

from jetwatch.config.model import MIB, DiskReserve, Window
from jetwatch.engine.admission import Space, Surrounding, is_held, obstacles
from jetwatch.records import Deadline, Run, Suspension, Trigger, WatchState, WindowWait

HELD = Deadline.after(NOW, 3600 * S)
SUSPENDED = Suspension("root", "maintenance", NOW)
LOW = Space("/var", 1, 1)
NIGHT = (Window(opens_min=22 * 60, closes_min=4 * 60, timezone="UTC"),)
DAY = (Window(opens_min=8 * 60, closes_min=20 * 60, timezone="UTC"),)
WAIT = WindowWait(Deadline.after(NOW, 0), Deadline.after(NOW, 60 * S))
PASSED = WindowWait(Deadline.after(NOW, 0), Deadline.after(NOW, 0))
OTHER = run(id="run-2", watch="db")
EXCLUSIVE = run(id="run-2", watch="db", exclusive="apt")
HERE, THERE = "https://here:443", "https://there:443"


def found(
    state: WatchState | None = None,
    due: Trigger | None = None,
    *,
    exclusive: str | None = None,
    low: Space | None = None,
    origin: str | None = None,
    windows: tuple[Window, ...] = (),
    **surrounding: Any,
) -> tuple[str, ...]:
    """The obstacles, in a surrounding where nothing else goes on."""
    usual = {"open_runs": (), "max_runs": 4, "max_fetches": 16, "blocked": False, "stopping": False}
    around = Surrounding(**{**usual, **surrounding})
    return obstacles(
        state or watch(),
        due or trigger(),
        exclusive=exclusive,
        origin=origin,
        windows=windows,
        surrounding=around,
        low=low,
        now=NOW,
    )


@pytest.mark.parametrize(
    ("obstacle", "case"),
    [
        ((), {}),
        (("agent_stopping",), {"stopping": True}),
        (("suspended",), {"state": watch(suspended=SUSPENDED)}),
        ((), {"state": watch(suspended=Suspension("root", "", NOW, Deadline.after(NOW, 0)))}),
        (("held",), {"state": watch(held_until=HELD)}),
        ((), {"state": watch(held_until=Deadline.after(NOW, 0))}),
        (("quarantined",), {"state": watch(quarantined_revision="a"), "due": trigger(revision="a")}),
        ((), {"state": watch(quarantined_revision="a"), "due": trigger(revision="b")}),
        ((), {"state": watch(quarantined_revision="a"), "due": trigger()}),
        ((), {"state": watch(), "due": trigger()}),
        (("window",), {"windows": NIGHT}),
        (("window",), {"windows": NIGHT, "state": watch(window=WAIT)}),
        (("splay",), {"windows": DAY, "state": watch(window=WAIT)}),
        (("splay",), {"state": watch(window=WAIT)}),
        ((), {"windows": DAY}),
        ((), {"windows": DAY, "state": watch(window=PASSED)}),
        (("blocked",), {"blocked": True}),
        (("run_open",), {"open_runs": (run(),)}),
        ((), {"open_runs": (OTHER,)}),
        (("exclusive:apt",), {"exclusive": "apt", "open_runs": (EXCLUSIVE,)}),
        ((), {"exclusive": "dpkg", "open_runs": (EXCLUSIVE,)}),
        ((), {"exclusive": None, "open_runs": (EXCLUSIVE, OTHER)}),
        ((), {"open_runs": (OTHER,), "max_runs": 2}),
        (("max_runs",), {"open_runs": (OTHER,), "max_runs": 1}),
        (("disk_low",), {"low": LOW}),
    ],
)
def test_each_obstacle_has_its_word(obstacle: tuple[str, ...], case: dict[str, Any]) -> None:
    """And is one only as long as it stands."""
    assert found(**case) == obstacle


def test_all_obstacles_are_named_at_once() -> None:
    """In one order, so that the first one is the one to do something about."""
    everything = found(
        watch(suspended=SUSPENDED, held_until=HELD, quarantined_revision="a"),
        trigger(revision="a"),
        exclusive="apt",
        low=LOW,
        windows=NIGHT,
        open_runs=(run(), EXCLUSIVE),
        max_runs=2,
        max_fetches=16,
        blocked=True,
        stopping=True,
    )
    assert everything == (
        "agent_stopping",
        "suspended",
        "held",
        "quarantined",
        "window",
        "blocked",
        "run_open",
        "exclusive:apt",
        "max_runs",
        "disk_low",
    )


def test_a_forced_run_passes_nothing_that_stands_in_the_way() -> None:
    """`trigger --force` overrules the check, not suspension or quarantine."""
    state = watch(suspended=SUSPENDED, quarantined_revision="a")
    assert found(state, trigger(revision="a", forced=True)) == ("suspended", "quarantined")


@pytest.mark.parametrize(
    ("free_bytes", "free_inodes", "below"),
    [
        (64 * MIB, 1_000, False),
        (64 * MIB - 1, 1_000, True),
        (64 * MIB, 999, True),
        (64 * MIB, 0, True),
        (64 * MIB, -1, False),
        (0, -1, True),
    ],
)
def test_space_is_low_below_the_reserve(free_bytes: int, free_inodes: int, below: bool) -> None:
    """Bytes or inodes; a file system that does not count inodes (-1) has enough of them."""
    assert Space("/var", free_bytes, free_inodes).is_below(DiskReserve()) is below


def test_no_reserve_is_never_below() -> None:
    """Zero switches the obstacle off."""
    assert not Space("/var", 0, 0).is_below(DiskReserve(free_bytes=0, free_inodes=0))


@pytest.mark.parametrize(
    ("state", "now", "held"),
    [
        (watch(), NOW, False),
        (watch(held_until=HELD), NOW, True),
        (watch(held_until=HELD), later(3599), True),
        (watch(held_until=HELD), later(3600), False),
        (watch(held_until=HELD), rebooted(3599), True),
        (watch(held_until=HELD), rebooted(3600), False),
    ],
)
def test_a_hold_ends_by_itself(state: WatchState, now: Any, held: bool) -> None:
    """Across a reboot too."""
    assert is_held(state, now) is held


def test_an_open_run_of_the_same_watch_is_named_beside_its_lock() -> None:
    """Both words are true of it."""
    open_run: Run = run(exclusive="apt")
    assert found(exclusive="apt", open_runs=(open_run,)) == ("run_open", "exclusive:apt")


def fetching(count: int, origin: str = HERE) -> tuple[Run, ...]:
    """So many runs that fetch from there."""
    steps = (started("download"), step("play", 1))
    return tuple(
        run(*steps, id=f"run-{origin}-{number}", watch=f"{origin}-{number}", has_cache=True, origin=origin)
        for number in range(count)
    )


PLAYING = run(ended("download"), started("play", 1), id="run-3", watch="p", has_cache=True, origin=HERE)
WAITING = run(ended("download"), step("play", 1), id="run-4", watch="q", has_cache=True, origin=HERE)


@pytest.mark.parametrize(
    ("obstacle", "case"),
    [
        ((), {"open_runs": fetching(4), "max_runs": 1}),
        (("max_runs",), {"open_runs": (*fetching(4), PLAYING), "max_runs": 1}),
        ((), {"open_runs": (*fetching(4), WAITING), "max_runs": 1}),
        ((), {"open_runs": (OTHER, PLAYING), "max_runs": 1, "origin": HERE}),
        ((), {"open_runs": fetching(3), "origin": HERE}),
        ((f"origin:{HERE}",), {"open_runs": fetching(4), "origin": HERE}),
        ((f"origin:{HERE}",), {"open_runs": (*fetching(3), WAITING), "origin": HERE}),
        ((), {"open_runs": (*fetching(3), PLAYING), "origin": HERE}),
        ((), {"open_runs": fetching(4), "origin": THERE}),
        (("max_fetches",), {"open_runs": fetching(2), "max_fetches": 2, "origin": THERE}),
        ((), {"open_runs": (), "max_fetches": 1, "origin": HERE}),
        (("max_fetches",), {"open_runs": fetching(1), "max_fetches": 1, "origin": HERE}),
        ((f"origin:{HERE}",), {"open_runs": fetching(1), "max_fetches": 3, "origin": HERE}),
    ],
)
def test_fetches_and_plays_have_places_of_their_own(obstacle: tuple[str, ...], case: dict[str, Any]) -> None:
    """A run with content holds one among the fetches until its play begins; one origin has a quarter of them."""
    assert found(**case) == obstacle
