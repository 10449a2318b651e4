"""When the next thing happens: checks, retries, hooks, holds. Pure arithmetic; clock and chance are handed in.

Intervals are counted on the boot-time clock, schedules and the stable grid on the wall clock, so the engine asks
`replanned` again whenever the wall clock was set or the machine woke up. Late is never repeated: however much was
missed, one check follows. The crontab reader (`cron.py`) is loaded by the first watch that has a `schedule`.
"""

from __future__ import annotations

from collections.abc import Callable

from jetwatch.config.model import DAY_S, Phase, Retry, WatchSettings
from jetwatch.records import Deadline, PlannedBy, Stamp

Uniform = Callable[[float], float]
"""A random number of seconds in [0, limit_s)."""

HOUR_S = 3600.0
HOOK_RETRY_INITIAL_S = 10.0
HOOK_RETRY_MAX_S = HOUR_S
HOOK_NO_ROOM_S = 30.0
HOOK_GIVE_UP_S = DAY_S
HOOK_MAX_WAITING = 1_000
LOST_BEFORE_HOLD = 3
HOLD_INITIAL_S = HOUR_S
HOLD_MAX_S = DAY_S
MIN_BACKOFF_S = 1.0

_NEVER_S = 100 * 365 * DAY_S  # a schedule that has no firing in sight; no machine is up for that long
_LATE_US = 1_000_000  # a start up to this late is the timer's and the queue's doing, and the planned start counts
_LATE_PART = 4  # but up to this part of the interval only: else the next start would come right behind the late one
_STEP_BACK_US = 3 * 3600 * 1_000_000  # cron(8): a clock set back by less than this does not repeat what has fired


def first_check(
    watch: WatchSettings,
    now: Stamp,
    uniform: Uniform,
    *,
    offset_s: float | None = None,
    no_splay: bool = False,
    last_fire_us: int | None = None,
) -> Deadline:
    """The first check of a watch that is new to this agent: at start-up, or after a reload that changed it.

    `offset_s` is the watch's `stable_offset_s`, needed with `phase: stable`. `last_fire_us` (Unix time) is up to when
    the firings of a schedule are dealt with; None: nothing is to be made up. `no_splay` takes away the splay only: a
    grid point or a firing is still waited for.
    """
    if watch.schedule is not None:
        return _scheduled(watch, last_fire_us, now, uniform, offset_s=offset_s, no_splay=no_splay)
    if watch.phase is Phase.STABLE:
        return _next_grid_point(watch, None, now, offset_s, 0)
    return Deadline.after(now, 0) if no_splay else within_splay(watch, now, uniform)


def next_check(
    watch: WatchSettings,
    last_due: Deadline | Stamp,
    now: Stamp,
    uniform: Uniform,
    *,
    started: Stamp,
    offset_s: float | None = None,
    no_splay: bool = False,
) -> Deadline:
    """The check after a cycle that was planned for `last_due` (a manual one: its start) and began at `started`.

    Start to start: the interval is counted from the planned start, or from the real one if that was late (overrun,
    sleep), so that one late check is not followed by another. A cycle that took longer than its interval is followed by
    a check at once; on the stable grid by the next grid point. A late check on the grid stands for the points less than
    half an interval after it, too.
    """
    if watch.schedule is not None:
        return _scheduled(watch, fired_us(last_due, started), now, uniform, offset_s=offset_s, no_splay=no_splay)
    jitter_us = _us(_jitter_s(watch, uniform))
    planned, interval_us = _instant(last_due), _us(watch.check_interval_s)
    in_time = _in_time(planned, started, interval_us)
    if watch.phase is Phase.STABLE:
        dealt_with_us = planned.wall_us if in_time else started.wall_us + interval_us // 2
        return _next_grid_point(watch, dealt_with_us, now, offset_s, jitter_us)
    counted = planned if in_time else started
    return Deadline.after(now, Deadline.after(counted, interval_us + jitter_us).remaining_us(now))


def replanned(
    watch: WatchSettings,
    planned: Deadline,
    now: Stamp,
    uniform: Uniform,
    *,
    offset_s: float | None = None,
    no_splay: bool = False,
    last_fire_us: int | None = None,
) -> Deadline:
    """The same wait after the wall clock was set or the machine woke up.

    An interval is not touched by that. A schedule and the stable grid are read off the wall clock anew; what is due
    just now stays due, and a firing to be made up never comes later than it was planned.
    """
    if watch.schedule is not None:
        again = _scheduled(watch, last_fire_us, now, uniform, offset_s=offset_s, no_splay=no_splay)
        missed = firing_missed(watch.schedule, watch.timezone, last_fire_us, now.wall_us)
        return planned if missed and planned.remaining_us(now) < again.span_us else again
    if watch.phase is Phase.STABLE and not 0 <= now.boot_us - planned.at.boot_us < _LATE_US:
        return _next_grid_point(watch, None, now, offset_s, _us(_jitter_s(watch, uniform)))
    return planned


def within_splay(watch: WatchSettings, now: Stamp, uniform: Uniform) -> Deadline:
    """A uniform time within the watch's splay from now: at start-up, on USR1, when a window opens."""
    return Deadline.after(now, _us(uniform(watch.splay_s)))


def planned_by(watch: WatchSettings) -> PlannedBy:
    """What the regular times of a watch come from."""
    if watch.schedule is not None:
        return PlannedBy.SCHEDULE
    return PlannedBy.GRID if watch.phase is Phase.STABLE else PlannedBy.INTERVAL


def stable_offset_s(state_id: str, machine_id: str, watch_name: str, span_s: float) -> float:
    """Where in [0, span_s) the grid of this watch lies on this machine; `span_s`: its splay, else its interval."""
    import hashlib  # the commands that read the journal come by here as well, and have no use for OpenSSL

    digest = hashlib.sha256("\0".join((state_id, machine_id, watch_name)).encode()).digest()
    return int.from_bytes(digest, "big") % max(1, _us(span_s)) / 1e6


def next_fire(schedule: str, timezone: str | None, after_wall_us: int) -> int | None:
    """The first firing strictly after `after_wall_us` (both Unix time, microseconds). None: none in 50 years.

    `timezone` is an IANA name; None: the machine's own. Raises ValueError for an expression that is not crontab(5) and
    KeyError for a zone that is not known.
    """
    from jetwatch.engine.civil import EPOCH, MICROSECOND, zone_named
    from jetwatch.engine.cron import CronTrigger

    fired = CronTrigger(schedule, zone_named(timezone)).after(EPOCH + after_wall_us * MICROSECOND)
    return None if fired is None else (fired - EPOCH) // MICROSECOND


def firing_missed(schedule: str, timezone: str | None, last_fire_us: int | None, now_wall_us: int) -> bool:
    """Whether firings came since `last_fire_us` that nobody dealt with: they are made up by one, however many."""
    if last_fire_us is None or last_fire_us >= now_wall_us:
        return False
    missed = next_fire(schedule, timezone, last_fire_us)
    return missed is not None and missed <= now_wall_us


def fired_us(last_due: Deadline | Stamp, started: Stamp) -> int:
    """Up to when (Unix time) the firings of a schedule are dealt with by a cycle: what `WatchState.last_fire_us` holds.

    A timer may ring a moment before the wall clock reads the planned time, and the firing is dealt with all the same.
    """
    early_us = _instant(last_due).wall_us - started.wall_us
    return started.wall_us + early_us if 0 < early_us < _LATE_US else started.wall_us


def backoff_s(retry: Retry, n: int, uniform: Uniform) -> float:
    """Seconds before retry `n` (from 1): uniform in [0, min(max, initial * factor^(n-1))), at least 1."""
    try:
        limit_s = min(retry.max_s, retry.initial_s * retry.factor ** (n - 1))
    except OverflowError:
        limit_s = retry.max_s
    return max(MIN_BACKOFF_S, uniform(limit_s))


def hook_retry_s(deliveries: int) -> float:
    """Seconds before a hook is tried again after `deliveries` (from 1) tries that failed."""
    return _doubled_s(HOOK_RETRY_INITIAL_S, deliveries - 1, HOOK_RETRY_MAX_S)


def hold_s(lost_in_a_row: int) -> float | None:
    """Seconds for which a watch is held after so many lost runs in a row: 1 h, 2 h, 4 h, … 24 h. None: no hold."""
    if lost_in_a_row < LOST_BEFORE_HOLD:
        return None
    return _doubled_s(HOLD_INITIAL_S, lost_in_a_row - LOST_BEFORE_HOLD, HOLD_MAX_S)


def reapply_due(watch: WatchSettings, last_ok: Stamp | None, now: Stamp) -> bool:
    """Whether the last ok run is older than `reapply`. No ok run so far: no, the check decides.

    Within one boot the boot-time clock counts, else the wall clock. A last run that lies further ahead than `reapply`
    was stamped by a wrong clock; it counts as old, or the wait could be years.
    """
    if watch.reapply_s is None or last_ok is None:
        return False
    if last_ok.boot_id == now.boot_id:
        return now.boot_us - last_ok.boot_us >= _us(watch.reapply_s)
    return abs(now.wall_us - last_ok.wall_us) >= _us(watch.reapply_s)


def _scheduled(
    watch: WatchSettings,
    last_fire_us: int | None,
    now: Stamp,
    uniform: Uniform,
    *,
    offset_s: float | None,
    no_splay: bool,
) -> Deadline:
    """The next firing and its splay; a missed one counts as firing now."""
    schedule = watch.schedule or ""
    splay_us = 0 if no_splay else _us(_firing_splay_s(watch, uniform, offset_s))
    if firing_missed(schedule, watch.timezone, last_fire_us, now.wall_us):
        return Deadline.after(now, splay_us)
    fire_us = next_fire(schedule, watch.timezone, _dealt_with_us(last_fire_us, now.wall_us, _STEP_BACK_US))
    if fire_us is None:
        return Deadline.after(now, _us(_NEVER_S))
    return Deadline.after(now, fire_us - now.wall_us + splay_us + _us(uniform(watch.jitter_s)))


def _firing_splay_s(watch: WatchSettings, uniform: Uniform, offset_s: float | None) -> float:
    """The splay of one firing: drawn anew, or with `phase: stable` the same on this machine every time."""
    if watch.phase is Phase.STABLE and offset_s is not None:
        return min(offset_s, watch.splay_s)
    return uniform(watch.splay_s)


def _next_grid_point(
    watch: WatchSettings, dealt_with_us: int | None, now: Stamp, offset_s: float | None, jitter_us: int
) -> Deadline:
    """The grid point after the later of now and the instant up to which points are dealt with, plus jitter."""
    if offset_s is None:
        raise ValueError(f"watch {watch.name}: phase stable needs an offset")
    interval_us, offset_us = max(1, _us(watch.check_interval_s)), _us(offset_s)
    after_us = _dealt_with_us(dealt_with_us, now.wall_us, interval_us // 2)
    point_us = offset_us + ((after_us - offset_us) // interval_us + 1) * interval_us
    return Deadline.after(now, point_us - now.wall_us + jitter_us)


def _dealt_with_us(last_us: int | None, now_us: int, step_back_us: int) -> int:
    """The later of now and the last fire; a last fire further ahead than `step_back_us` is a wrong clock's and void."""
    if last_us is not None and now_us < last_us <= now_us + step_back_us:
        return last_us
    return now_us


def _in_time(planned: Stamp, started: Stamp, interval_us: int) -> bool:
    """Whether a cycle began as planned; it began late where the agent was stopped or had no processor."""
    late_us = min(_LATE_US, interval_us // _LATE_PART)
    return planned.boot_id == started.boot_id and abs(started.boot_us - planned.boot_us) < late_us


def _jitter_s(watch: WatchSettings, uniform: Uniform) -> float:
    return uniform(watch.jitter_s + watch.jitter_fraction * watch.check_interval_s)


def _doubled_s(initial_s: float, times: int, max_s: float) -> float:
    # Above 64 doublings every limit is long reached, and a float would overflow in the end.
    return min(max_s, initial_s * 2.0 ** min(max(times, 0), 64))


def _instant(due: Deadline | Stamp) -> Stamp:
    return due.at if isinstance(due, Deadline) else due


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
