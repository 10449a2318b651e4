"""When checks, retries, hooks and holds fall: start-up, jitter, overrun, sleep, clock steps, schedules."""

from __future__ import annotations

import random
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from jetwatch.config.model import Phase, Retry, WatchSettings
from jetwatch.engine import schedule
from jetwatch.records import Command, Deadline, Stamp

S = 1_000_000
HOUR = 3600 * S
NOON = int(datetime(2026, 1, 15, 12, tzinfo=UTC).timestamp()) * S


def stamp(wall_us: int = NOON, boot_us: int = 1_000 * S, boot_id: str = "this") -> Stamp:
    """An instant."""
    return Stamp(wall_us, boot_us, boot_id)


def later(now: Stamp, seconds: float, *, clock_set_s: float = 0) -> Stamp:
    """The instant `seconds` after `now`, the wall clock set by `clock_set_s` meanwhile."""
    return Stamp(now.wall_us + round((seconds + clock_set_s) * S), now.boot_us + round(seconds * S), now.boot_id)


def watch(**keys: Any) -> WatchSettings:
    """A watch with an interval of 100 s unless told otherwise."""
    return WatchSettings(**{"name": "web", "play": Command(words=("true",)), "check_interval_s": 100.0, **keys})


def nightly(**keys: Any) -> WatchSettings:
    """A watch that fires at 03:00 UTC."""
    return watch(schedule="0 3 * * *", timezone="UTC", **keys)


def half(limit_s: float) -> float:
    """Chance that always says the middle."""
    return limit_s / 2


def wait_s(deadline: Deadline, now: Stamp) -> float:
    """Seconds from now to the deadline."""
    return deadline.remaining_us(now) / S


def at(text: str) -> int:
    """Unix time in microseconds of a time in UTC."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * S)


# --- start-up ---------------------------------------------------------------------------------------------------------


def test_the_first_check_falls_anywhere_within_the_splay() -> None:
    """At start-up the wait is uniform in [0, splay)."""
    chance, now = random.Random(1), stamp()

    def uniform(limit_s: float) -> float:
        return chance.random() * limit_s

    waits = [wait_s(schedule.first_check(watch(splay_s=60), now, uniform), now) for _ in range(2000)]
    assert 0 <= min(waits) < 1
    assert 59 < max(waits) < 60
    assert 28 < sum(waits) / len(waits) < 32


def test_no_splay_checks_at_once() -> None:
    """Without splay, or told to leave it out, the first check comes at once."""
    now = stamp()
    assert wait_s(schedule.first_check(watch(), now, half), now) == 0
    assert wait_s(schedule.first_check(watch(splay_s=60), now, half, no_splay=True), now) == 0


@pytest.mark.parametrize("seconds", [0, 0.5, 29.999999, 30, 31, 99, 12_345.6])
def test_stable_checks_fall_on_the_grid_whenever_the_agent_starts(seconds: float) -> None:
    """With phase stable the first check falls on offset + n * interval of Unix time, strictly after now."""
    settings, now = watch(phase=Phase.STABLE, splay_s=60), later(stamp(), seconds)
    first = schedule.first_check(settings, now, half, offset_s=30.0)
    assert first.at.wall_us % (100 * S) == 30 * S
    assert 0 < wait_s(first, now) <= 100


def test_a_stable_watch_without_an_offset_is_a_mistake_in_the_caller() -> None:
    """The grid cannot be known without the offset, and says so."""
    with pytest.raises(ValueError, match="offset"):
        schedule.first_check(watch(phase=Phase.STABLE), stamp(), half)


def test_usr1_checks_within_the_splay() -> None:
    """Asked for a check now, the watch draws its splay from now."""
    now = stamp()
    assert wait_s(schedule.within_splay(watch(splay_s=60), now, half), now) == 30


# --- start to start ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("late_s", "took_s", "expected_s"),
    [
        (0, 0, 100),
        (0, 30, 70),  # start to start
        (0.2, 30.2, 69.8),  # a late timer does not shift what follows
        (0, 99.9, 0.1),
        (0, 100, 0),
        (0, 1_000, 0),  # an overrun: one check at once
        (40, 45, 95),  # a start that came late by itself counts from when it came
        (8 * 3600, 8 * 3600 + 5, 95),  # a long sleep before the start
        (0, 8 * 3600, 0),  # a long sleep in the middle of the cycle
    ],
)
def test_the_next_check_counts_from_the_last_start(late_s: float, took_s: float, expected_s: float) -> None:
    """The interval runs from start to start; a late or long cycle is followed by one check."""
    planned = Deadline.after(stamp(), 0)
    started, now = later(planned.at, late_s), later(planned.at, took_s)
    following = schedule.next_check(watch(), planned, now, half, started=started)
    assert wait_s(following, now) == pytest.approx(expected_s)


@pytest.mark.parametrize(
    ("interval_s", "late_s", "expected_s"),
    [
        (1, 0.2, 1.0),  # of a busy machine: the grid stays
        (1, 0.3, 1.3),
        (1, 0.9925, 1.9925),  # what a stopped agent makes up for right before the next point
        (100, 0.9, 100.0),
        (100, 1.1, 101.1),
    ],
)
def test_a_late_check_is_never_followed_by_another_at_once(interval_s: float, late_s: float, expected_s: float) -> None:
    """A start that is late by a quarter of the interval, or by a second, counts from when it came."""
    planned = Deadline.after(stamp(), 0)
    started = later(planned.at, late_s)
    following = schedule.next_check(watch(check_interval_s=interval_s), planned, started, half, started=started)
    assert wait_s(following, planned.at) == pytest.approx(expected_s)


@pytest.mark.parametrize(
    ("late_s", "expected_s"),
    [
        (0.2, 100),
        (40, 100),
        (60, 200),  # nearer than half an interval: the point at 100 is left out
        (99.9925, 200),
        (340, 400),
        (399.9925, 500),
    ],
)
def test_a_late_check_stands_for_a_point_of_the_grid_that_is_near(late_s: float, expected_s: float) -> None:
    """With phase stable the point less than half an interval after a late check is left out; the grid stays."""
    planned = Deadline.after(stamp(), 0)
    started = later(planned.at, late_s)
    now = later(started, 0.001)
    settings = watch(phase=Phase.STABLE)
    following = schedule.next_check(settings, planned, now, half, started=started, offset_s=0.0)
    assert wait_s(following, planned.at) == pytest.approx(expected_s)


def test_a_check_by_hand_takes_no_point_of_the_grid_away() -> None:
    """It was asked for, and makes up for nothing."""
    by_hand = later(stamp(), 99)
    now, settings = later(by_hand, 0.1), watch(phase=Phase.STABLE)
    following = schedule.next_check(settings, by_hand, now, half, started=by_hand, offset_s=0.0)
    assert wait_s(following, by_hand) == pytest.approx(1)


def simulate(settings: WatchSettings, took_s: list[float], *, offset_s: float | None = None) -> list[float]:
    """The starts of a row of cycles that took so long each, in seconds after the first."""
    begin = now = stamp()
    due, starts = Deadline.after(now, 0), []
    for seconds in took_s:
        started = later(now, wait_s(due, now))
        starts.append((started.boot_us - begin.boot_us) / S)
        now = later(started, seconds)
        due = schedule.next_check(settings, due, now, half, started=started, offset_s=offset_s)
    return starts


def test_a_cycle_that_overran_is_followed_by_one_check_and_no_burst() -> None:
    """After an overrun one check comes at once, and the interval counts from that one."""
    assert simulate(watch(), [10, 350, 10, 10, 10]) == [0, 100, 450, 550, 650]


def test_a_stable_cycle_that_overran_goes_on_at_the_next_grid_point() -> None:
    """With phase stable an overrun leaves grid points out and never leaves the grid."""
    assert simulate(watch(phase=Phase.STABLE), [10, 350, 10, 10], offset_s=0.0) == [0, 100, 500, 600]


@pytest.mark.parametrize("jitter", [{"jitter_s": 10.0}, {"jitter_fraction": 0.1}])
def test_jitter_is_added_to_each_wait(jitter: dict[str, float]) -> None:
    """Each wait is longer by U(0, jitter), given in seconds or as a part of the interval."""
    assert simulate(watch(**jitter), [1, 1, 1]) == [0, 105, 210]
    assert simulate(watch(phase=Phase.STABLE, **jitter), [1, 1, 1], offset_s=0.0) == [0, 105, 205]


def test_an_interval_does_not_follow_the_wall_clock() -> None:
    """The wall clock set by years, either way, changes nothing about the wait of an interval."""
    for set_s in (-3e8, -60, 60, 3e8):
        begin = stamp()
        now = later(begin, 30, clock_set_s=set_s)
        following = schedule.next_check(watch(), begin, now, half, started=begin)
        assert wait_s(following, now) == 70
        assert schedule.replanned(watch(), following, now, half) == following


def test_a_wait_across_a_reboot_is_never_longer_than_the_interval() -> None:
    """In another boot the wall clock decides, and a wrong one cannot make the wait longer than at first."""
    begin = stamp()
    now = stamp(wall_us=begin.wall_us - 1_000 * HOUR, boot_us=5 * S, boot_id="next")
    assert wait_s(schedule.next_check(watch(), begin, now, half, started=begin), now) == 100


@pytest.mark.parametrize("set_s", [-3e8, -7200.5, -60, 0.25, 60, 7200.5, 3e8])
def test_the_stable_grid_is_read_anew_when_the_clock_is_set(set_s: float) -> None:
    """After a clock step the next check falls on the grid of the new time, within one interval."""
    settings, begin = watch(phase=Phase.STABLE), stamp()
    planned = schedule.first_check(settings, begin, half, offset_s=7.0)
    now = later(begin, 3, clock_set_s=set_s)
    again = schedule.replanned(settings, planned, now, half, offset_s=7.0)
    assert again.at.wall_us % (100 * S) == 7 * S
    assert 0 < wait_s(again, now) <= 100


def test_a_stable_check_that_is_due_just_now_survives_a_clock_step() -> None:
    """Steps that arrive with the timer cannot push the check away again and again."""
    settings, begin = watch(phase=Phase.STABLE), stamp()
    planned = schedule.first_check(settings, begin, half, offset_s=7.0)
    due = later(begin, wait_s(planned, begin))
    assert schedule.replanned(settings, planned, due, half, offset_s=7.0) == planned


def test_a_stable_check_that_ran_a_moment_early_is_not_repeated() -> None:
    """A grid point whose check began just before the wall clock reached it is dealt with."""
    settings, point = watch(phase=Phase.STABLE), stamp()
    early = stamp(wall_us=point.wall_us - 20_000)
    following = schedule.next_check(settings, point, early, half, started=early, offset_s=0.0)
    assert following.at.wall_us == point.wall_us + 100 * S


def test_a_stable_offset_is_the_same_for_ever_and_spreads_the_fleet() -> None:
    """The offset depends on state, machine and watch alone, lies within the span, and fills it evenly."""
    assert schedule.stable_offset_s("s", "m", "web", 200.0) == schedule.stable_offset_s("s", "m", "web", 200.0)
    assert (
        len({schedule.stable_offset_s(*ids, 200.0) for ids in [("s", "m", "w"), ("sm", "", "w"), ("s", "m", "x")]}) == 3
    )
    offsets = [schedule.stable_offset_s("state", f"machine-{n}", "web", 100.0) for n in range(10_000)]
    tenths = [sum(n * 10 <= offset < n * 10 + 10 for offset in offsets) for n in range(10)]
    assert sum(tenths) == len(offsets)
    assert all(900 < count < 1100 for count in tenths)
    assert schedule.stable_offset_s("s", "m", "web", 0.0) == 0


# --- schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "timezone", "after", "expected"),
    [
        ("0 3 * * *", "UTC", "2026-01-15T02:59:59.999999", "2026-01-15T03:00"),
        ("0 3 * * *", "UTC", "2026-01-15T03:00", "2026-01-16T03:00"),
        ("0 3 * * *", "Europe/Berlin", "2026-01-15T00:00", "2026-01-15T02:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", "2026-03-29T01:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30", "2026-10-26T01:30"),
        ("30 2 * * *", "America/New_York", "2026-03-08T00:00", "2026-03-08T07:00"),
        ("10 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", "2026-10-03T15:30"),
    ],
)
def test_the_next_firing(expression: str, timezone: str, after: str, expected: str) -> None:
    """The next firing lies strictly after the instant asked for, through clock changes too."""
    assert schedule.next_fire(expression, timezone, at(after)) == at(expected)


def test_without_a_timezone_the_machines_own_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule without `timezone` means local time."""
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    assert schedule.next_fire("0 3 * * *", None, at("2026-01-15T00:00")) == at("2026-01-15T21:15")


def test_a_firing_waits_its_splay_each_time() -> None:
    """Splay is drawn before every firing, not only at start-up; --no-splay takes it away."""
    settings, now = nightly(splay_s=600), stamp()
    first = schedule.first_check(settings, now, half)
    assert first.at.wall_us == at("2026-01-16T03:05")
    ended = later(first.at, 10)
    assert schedule.next_check(settings, first, ended, half, started=first.at).at.wall_us == at("2026-01-17T03:05")
    plain = schedule.first_check(settings, now, half, no_splay=True)
    assert plain.at.wall_us == at("2026-01-16T03:00")


def test_a_stable_schedule_has_the_same_splay_every_night() -> None:
    """With phase stable the offset takes the place of the drawn splay, and never exceeds it."""
    now, settings = stamp(), nightly(splay_s=600, phase=Phase.STABLE)
    assert schedule.first_check(settings, now, half, offset_s=42.0).at.wall_us == at("2026-01-16T03:00:42")
    unsplayed = nightly(phase=Phase.STABLE)
    assert schedule.first_check(unsplayed, now, half, offset_s=42.0).at.wall_us == at("2026-01-16T03:00")


@pytest.mark.parametrize(
    ("last_fire", "now", "missed"),
    [
        (None, "2026-01-15T12:00", False),  # nothing is known to have been promised
        ("2026-01-15T03:00", "2026-01-15T12:00", False),
        ("2026-01-15T03:00", "2026-01-16T02:59", False),
        ("2026-01-15T03:00", "2026-01-16T03:00", True),
        ("2026-01-15T02:59", "2026-01-15T12:00", True),
        ("2025-12-01T03:00", "2026-01-15T12:00", True),
        ("2030-01-01T00:00", "2026-01-15T12:00", False),  # the clock was wrong then
    ],
)
def test_whether_a_firing_was_missed(last_fire: str | None, now: str, missed: bool) -> None:
    """A firing since the last one that was dealt with is missed."""
    last_us = None if last_fire is None else at(last_fire)
    assert schedule.firing_missed("0 3 * * *", "UTC", last_us, at(now)) is missed


def test_a_month_of_missed_firings_is_made_up_once_within_the_splay() -> None:
    """After a long time off one check is made up, splayed, and then the schedule goes on as it was."""
    settings, now = nightly(splay_s=600), stamp(wall_us=at("2026-01-15T12:00"))
    first = schedule.first_check(settings, now, half, last_fire_us=at("2025-12-15T03:00"))
    assert wait_s(first, now) == 300
    following = schedule.next_check(settings, first, later(first.at, 5), half, started=first.at)
    assert following.at.wall_us == at("2026-01-16T03:05")


def test_a_scheduled_cycle_that_overran_is_followed_by_one_check() -> None:
    """Firings that came while a cycle was going on are made up by one check."""
    settings, begin = watch(schedule="* * * * *", timezone="UTC"), stamp()
    now = later(begin, 605)
    following = schedule.next_check(settings, begin, now, half, started=begin)
    assert wait_s(following, now) == 0
    after = schedule.next_check(settings, following, later(now, 1), half, started=following.at)
    assert after.at.wall_us == begin.wall_us + 660 * S


def test_a_firing_whose_timer_rang_a_moment_early_is_not_repeated() -> None:
    """A check that began just before the wall clock read the planned time has dealt with that firing."""
    planned = Deadline.after(stamp(wall_us=at("2026-01-15T02:00")), HOUR)
    early = stamp(wall_us=at("2026-01-15T02:59:59.990"))
    assert schedule.fired_us(planned, early) == at("2026-01-15T03:00")
    following = schedule.next_check(nightly(), planned, later(early, 0.001), half, started=early)
    assert following.at.wall_us == at("2026-01-16T03:00")


def test_a_check_by_hand_does_not_take_the_next_firing_away() -> None:
    """A manual check hours before a firing leaves it in place."""
    begin = stamp()
    assert schedule.fired_us(Deadline.after(begin, 15 * HOUR), begin) == begin.wall_us
    following = schedule.next_check(nightly(), begin, later(begin, 5), half, started=begin)
    assert following.at.wall_us == at("2026-01-16T03:00")


@pytest.mark.parametrize(
    ("set_to", "expected"),
    [
        ("2026-01-15T20:00", "2026-01-16T03:00"),  # forward, nothing passed over
        ("2026-01-16T04:00", "2026-01-16T04:00"),  # forward over one firing: made up at once
        ("2026-02-16T04:00", "2026-02-16T04:00"),  # over a month of them: once
        ("2026-01-15T11:00", "2026-01-16T03:00"),  # back a little
        ("2026-01-15T02:00", "2026-01-15T03:00"),  # back by much: the new time counts
        ("1970-01-01T00:00", "1970-01-01T03:00"),
    ],
)
def test_a_schedule_is_read_anew_when_the_clock_is_set(set_to: str, expected: str) -> None:
    """After a clock step the wait follows the new wall clock, with one check for all that was passed over."""
    settings, begin = nightly(), stamp()
    planned = schedule.first_check(settings, begin, half)
    now = Stamp(at(set_to), begin.boot_us + S, begin.boot_id)
    again = schedule.replanned(settings, planned, now, half, last_fire_us=begin.wall_us)
    assert again.at.wall_us == at(expected)


def test_a_clock_set_back_a_little_does_not_repeat_a_firing() -> None:
    """Set back by less than three hours, a firing that was dealt with does not come again; by more, it does."""
    settings, fired = nightly(), at("2026-01-15T03:00:01")
    little, much = stamp(wall_us=at("2026-01-15T02:30")), stamp(wall_us=at("2026-01-14T12:00"))
    planned = Deadline.after(little, HOUR)
    again = schedule.replanned(settings, planned, little, half, last_fire_us=fired)
    assert again.at.wall_us == at("2026-01-16T03:00")
    again = schedule.replanned(settings, planned, much, half, last_fire_us=fired)
    assert again.at.wall_us == at("2026-01-15T03:00")


def test_repeated_clock_steps_cannot_put_a_waiting_firing_off() -> None:
    """A firing that waits out its splay keeps its place when the clock is set meanwhile."""
    settings = nightly(splay_s=600)
    planned = Deadline.after(stamp(wall_us=at("2026-01-15T03:00")), 100 * S)
    now = later(stamp(wall_us=at("2026-01-15T03:00")), 30, clock_set_s=1)
    assert schedule.replanned(settings, planned, now, half, last_fire_us=at("2026-01-14T03:00")) == planned


def test_the_crontab_reader_is_loaded_by_watches_with_a_schedule_only() -> None:
    """Interval watches cost neither APScheduler nor cronsim nor the time zone library."""
    code = "import sys, jetwatch.engine.schedule; print({'apscheduler', 'cronsim', 'zoneinfo'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- retries, hooks, holds, reapply -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "limit_s"), [(1, 30), (2, 60), (3, 120), (7, 1920), (8, 3600), (9, 3600), (10_000, 3600), (10**9, 3600)]
)
def test_the_backoff_grows_to_its_limit(n: int, limit_s: float) -> None:
    """Delay n is drawn from [0, min(max, initial * factor^(n-1))), and no n is too great."""
    asked: list[float] = []

    def uniform(limit: float) -> float:
        asked.append(limit)
        return limit / 2

    assert schedule.backoff_s(Retry(), n, uniform) == limit_s / 2
    assert asked == [limit_s]


def test_a_backoff_is_at_least_a_second() -> None:
    """However small the draw, a retry does not come in less than a second."""
    assert schedule.backoff_s(Retry(), 1, lambda _: 0.0) == 1
    assert schedule.backoff_s(Retry(initial_s=0.5, factor=1.0), 5, half) == 1


def test_a_hook_is_tried_again_after_ten_seconds_doubling_to_an_hour() -> None:
    """10 s, 20 s, 40 s, … and never more than an hour."""
    assert [schedule.hook_retry_s(n) for n in (1, 2, 3, 9, 10, 100_000)] == [10, 20, 40, 2560, 3600, 3600]
    assert (schedule.HOOK_GIVE_UP_S, schedule.HOOK_MAX_WAITING) == (24 * 3600, 1000)


def test_lost_runs_in_a_row_hold_the_watch_longer_and_longer() -> None:
    """From the third on: 1 h, 2 h, 4 h, … up to 24 h."""
    hours = [
        None if held is None else held / 3600 for held in map(schedule.hold_s, (0, 1, 2, 3, 4, 5, 6, 7, 8, 10_000))
    ]
    assert hours == [None, None, None, 1, 2, 4, 8, 16, 24, 24]


@pytest.mark.parametrize(
    ("last_ok", "due"),
    [
        (None, False),
        (stamp(boot_us=0), False),
        (stamp(boot_us=-500 * S), True),  # same boot: the boot clock counts
        (stamp(wall_us=0, boot_us=900 * S), False),  # … whatever the wall clock says
        (stamp(wall_us=NOON - 1499 * S, boot_id="before"), False),
        (stamp(wall_us=NOON - 1500 * S, boot_id="before"), True),
        (stamp(wall_us=NOON + 60 * S, boot_id="before"), False),
        (stamp(wall_us=NOON + 10_000 * HOUR, boot_id="before"), True),  # stamped by a wrong clock
    ],
)
def test_reapply_is_due_when_the_last_ok_run_is_too_old(last_ok: Stamp | None, due: bool) -> None:
    """Age is told by the boot clock within a boot, else by the wall clock; a stamp far ahead counts as old."""
    assert schedule.reapply_due(watch(reapply_s=1500.0), last_ok, stamp()) is due
    assert schedule.reapply_due(watch(), last_ok, stamp()) is False
