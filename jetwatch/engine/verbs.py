"""What a person may ask for, as pure functions of a watch's state: with an agent or without one, the same change."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec.structs import replace

from jetwatch.events import Cleared, Event, Resumed, Suspended
from jetwatch.records import Deadline, Run, Stamp, Suspension, Trigger, TriggerKind, WatchState


def rfc3339(wall_us: int) -> str:
    """A Unix time in microseconds as RFC 3339 in UTC."""
    moment = datetime.fromtimestamp(wall_us / 1_000_000, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def suspend(
    state: WatchState, *, by: str, reason: str, for_s: float | None, now: Stamp
) -> tuple[WatchState, tuple[Event, ...]]:
    """No new runs, for `for_s` seconds (None: until `resume`). A second suspension replaces the first."""
    until = None if for_s is None else Deadline.after(now, round(for_s * 1_000_000))
    suspension = Suspension(by=by, reason=reason, since=now, until=until)
    event = Suspended(
        watch=state.watch, by=by, reason=reason, until=rfc3339(until.at.wall_us) if until is not None else None
    )
    return replace(state, suspended=suspension), (event,)


def resume(state: WatchState, *, by: str) -> tuple[WatchState, tuple[Event, ...]]:
    """Runs may start again. Nothing happens to a watch that is not suspended."""
    if state.suspended is None:
        return state, ()
    return replace(state, suspended=None), (Resumed(watch=state.watch, by=by),)


def clear(state: WatchState, *, by: str) -> tuple[WatchState, tuple[Event, ...]]:
    """Forget backoff, quarantine and hold, and that hooks were abandoned."""
    cleared = replace(
        state,
        check_errors=0,
        attempt=0,
        attempt_revision="",
        retry=None,
        retry_at=None,
        quarantined_revision=None,
        quarantine_reason=None,
        lost_in_a_row=0,
        held_until=None,
        hooks_abandoned=0,
    )
    return cleared, (Cleared(watch=state.watch, by=by),)


def cancel(run: Run, *, by: str, reason: str, now: Stamp) -> Run:
    """The run as one that is to end as soon as it can."""
    return replace(run, cancel=Trigger(TriggerKind.MANUAL, now, by=by, reason=reason))


def is_suspended(state: WatchState, now: Stamp) -> bool:
    """Whether a suspension is in force."""
    suspension = state.suspended
    return suspension is not None and (suspension.until is None or suspension.until.remaining_us(now) > 0)
