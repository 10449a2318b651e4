"""Failed runs in a row are one incident: when it opens, when it closes, which of the runs on_fail is told of. Pure.

Failed, timed-out and lost runs count, retries among them; a cancelled run is neither a failure nor a recovery. The
count is kept with the watch, so a restart changes nothing. An incident opens with the first failure, or with the
`after`th where on_fail says so, and closes with the first run that ends ok.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from jetwatch.engine.verbs import rfc3339
from jetwatch.events import Event, IncidentClosed, IncidentOpened
from jetwatch.records import EVERY_FAILURE, Outcome, Run, Stamp, WatchState


class Turn(Struct, frozen=True):
    """What the end of a run means for the streak of failures.

    `failures` and `since` are of the streak that goes on, or that this run has ended. `tells_failure`: on_fail is owed,
    should the run have failed; `recovered`: on_recover is.
    """

    state: WatchState
    events: tuple[Event, ...] = ()
    failures: int = 0
    since: Stamp | None = None
    tells_failure: bool = True
    recovered: bool = False


def after_run(before: WatchState, state: WatchState, run: Run, now: Stamp) -> Turn:
    """The turn that `run` has given to the watch, which was `before` and has counted it in `state`."""
    if run.outcome is Outcome.OK:
        return _after_ok(before, state, run, now)
    if run.outcome is Outcome.CANCELLED:
        # A person, or the agent's end, did that: it is told as ever, but to those who want to hear of incidents only.
        failures, since = state.failures_in_a_row, state.failing_since
        return Turn(state, (), failures, since, tells_failure=run.alarm == EVERY_FAILURE)
    return _after_failure(before, state, run, now)


def _after_ok(before: WatchState, state: WatchState, run: Run, now: Stamp) -> Turn:
    since, failures = before.failing_since, before.failures_in_a_row
    state = replace(state, failing_since=None, incident=False)
    if not before.incident:
        return Turn(state, (), failures, since)
    event = IncidentClosed(
        watch=run.watch,
        play_uuid=run.id,
        failures=failures,
        since=rfc3339((since or now).wall_us),
        duration_s=round(_elapsed_us(since or now, now) / 1e6, 3),
    )
    return Turn(state, (event,), failures, since, recovered=True)


def _after_failure(before: WatchState, state: WatchState, run: Run, now: Stamp) -> Turn:
    failures, since = state.failures_in_a_row, before.failing_since or now
    is_incident = before.incident or failures >= run.alarm.after
    opens = is_incident and not before.incident
    state = replace(state, failing_since=since, incident=is_incident)
    event = IncidentOpened(
        watch=run.watch,
        play_uuid=run.id,
        failures=failures,
        since=rfc3339(since.wall_us),
        outcome=str(run.outcome),
        failed_step=run.failed_step or None,
        revision=run.revision or None,
    )
    tells = is_incident and (opens or not run.alarm.first_only)
    return Turn(state, (event,) if opens else (), failures, since, tells_failure=tells)


def _elapsed_us(since: Stamp, now: Stamp) -> int:
    """By the boot-time clock within a boot, else by the wall clock; never below 0."""
    if since.boot_id == now.boot_id:
        return max(0, now.boot_us - since.boot_us)
    return max(0, now.wall_us - since.wall_us)
