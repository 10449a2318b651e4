"""Which runs keep their directories: by count, by age, by total size, and whatever is still needed."""

from __future__ import annotations

import random

import pytest
from builders import NOW, closed, later

from jetwatch.config.model import DAY_S, Retain
from jetwatch.engine.retention import to_sweep
from jetwatch.records import Outcome, Run

MANY = Retain(runs=100, age_s=3650 * DAY_S)


def runs(count: int, *, every_s: float = 3600) -> list[Run]:
    """So many closed runs, newest first: `r0` was opened just now."""
    return [
        closed(Outcome.OK, id=f"r{place}", opened=later(-place * every_s), closed=later(-place * every_s))
        for place in range(count)
    ]


def swept(closed_runs: list[Run], retain: Retain, *keep: str, **sizes_bytes: int) -> tuple[str, ...]:
    """The ids to remove."""
    return to_sweep(closed_runs, retain, NOW, sizes_bytes=sizes_bytes, keep=keep)


@pytest.mark.parametrize(("count", "gone"), [(0, ()), (9, ()), (10, ()), (11, ("r10",)), (13, ("r10", "r11", "r12"))])
def test_the_newest_ten_are_kept(count: int, gone: tuple[str, ...]) -> None:
    """That is the default of `runs`."""
    assert swept(runs(count), Retain()) == gone


def test_what_is_older_than_a_month_goes() -> None:
    """That is the default of `age`, however few there are."""
    assert swept(runs(4, every_s=15 * DAY_S), Retain()) == ("r3",)
    assert swept(runs(4, every_s=15 * DAY_S), Retain(age_s=14 * DAY_S)) == ("r1", "r2", "r3")


def test_what_exceeds_the_size_goes_from_the_oldest_on() -> None:
    """The newest ones that fit together stay."""
    assert swept(runs(4), Retain(max_bytes=100), r0=40, r1=60, r2=1, r3=0) == ("r2", "r3")
    assert swept(runs(4), MANY, r0=40, r1=60, r2=1, r3=0) == ()


def test_the_newest_run_stays_whatever_its_size() -> None:
    """It is what a person wants to look at."""
    assert swept(runs(3), Retain(max_bytes=100), r0=500, r1=1) == ("r1", "r2")


def test_a_run_of_unknown_size_has_none() -> None:
    """Its directories are gone, or were never made."""
    assert swept(runs(3), Retain(max_bytes=100)) == ()


def test_what_is_still_needed_stays_and_counts() -> None:
    """A run with an owed hook keeps its place, and its size."""
    assert swept(runs(13), Retain(), "r11") == ("r10", "r12")
    assert swept(runs(3, every_s=40 * DAY_S), Retain(), "r2") == ("r1",)
    assert swept(runs(3), Retain(max_bytes=100), "r1", r0=50, r1=60, r2=1) == ("r2",)


def test_a_clock_that_was_ahead_ages_nobody() -> None:
    """A run stamped in the future is young."""
    future = closed(Outcome.OK, id="r0", opened=later(3650 * DAY_S))
    assert swept([future, *runs(2)[1:]], Retain()) == ()


def test_what_was_swept_and_what_is_kept_are_all_there_is() -> None:
    """Over random limits: an order that never changes, the count kept, the newest never swept for its size."""
    for seed in range(500):
        chance = random.Random(seed)
        all_runs = runs(chance.randrange(30))
        sizes = {each.id: chance.randrange(100) for each in all_runs}
        retain = Retain(runs=chance.randrange(1, 20), max_bytes=chance.choice((None, chance.randrange(800))))
        gone = swept(all_runs, retain, **sizes)
        left = [each.id for each in all_runs if each.id not in gone]
        assert list(gone) == [each.id for each in all_runs][len(left) :]
        assert len(left) <= retain.runs
        assert retain.max_bytes is None or sum(sizes[each] for each in left[1:]) <= retain.max_bytes
        assert all_runs == [] or left
