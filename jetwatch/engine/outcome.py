"""What an answer of a check and an end of a run mean for a watch: attempts, retries, quarantine, hold. Pure.

With a retry policy a failed run is tried again after a backoff; after `max_attempts` its revision is quarantined. A
cancelled run holds its revision in the same way and is no failed attempt. Three lost runs in a row hold the watch.
"""

from __future__ import annotations

from msgspec import Struct, field
from msgspec.structs import replace

from jetwatch.config.model import Retry, WatchSettings
from jetwatch.engine.schedule import Uniform, backoff_s, hold_s
from jetwatch.engine.verbs import rfc3339
from jetwatch.events import Event, Held, Quarantined, RetryPlanned
from jetwatch.records import (
    CheckResult,
    CommandResult,
    Deadline,
    Ending,
    Outcome,
    Run,
    Stamp,
    Trigger,
    TriggerKind,
    WatchState,
)

CANCELLED_BY_STOP = "agent_stopping"
"""The reason of a run that the agent's own stop cancelled: it is not held."""

WINDOW_CLOSED = "window"
"""The reason of a run that waited for its turn until its window closed: it is due again when that opens."""

_ANSWERS = {0: CheckResult.DUE, 1: CheckResult.NOT_DUE, 75: CheckResult.LATER}


class Answer(Struct, frozen=True):
    """What a check said. `reason` tells an error's kind, `detail` its sentence; `values` are all its outputs.

    `wait_s`: not before so many seconds, says a server.
    """

    result: CheckResult
    reason: str | None = None
    detail: str | None = None
    wait_s: float | None = None
    revision: str = ""
    values: dict[str, str] = field(default_factory=dict)


def read_check(result: CommandResult) -> Answer:
    """The meaning of a check's end. Anything but exit code 0, 1 and 75 is an error, never "not due"."""
    if result.ending is not Ending.EXITED or result.reason is not None:
        return Answer(CheckResult.ERROR, result.reason or result.ending.value)
    answer = _ANSWERS.get(result.exit_code if result.exit_code is not None else -1)
    if answer is None:
        return Answer(CheckResult.ERROR, "exit_code")
    values = dict(result.outputs)
    return Answer(answer, revision=values.get("revision", ""), values=values)


def is_due(result: CommandResult) -> bool:
    """Whether a check's end says that a run is due."""
    return read_check(result).result is CheckResult.DUE


def after_answer(state: WatchState, answer: Answer, now: Stamp) -> WatchState:
    """The watch after its check was answered: the streak of errors, and a quarantine that another revision lifts."""
    in_error = answer.result is CheckResult.ERROR
    seen_another = answer.revision and answer.revision != state.quarantined_revision
    return replace(
        state,
        last_check=now,
        last_result=answer.result,
        last_reason=answer.reason,
        last_revision=answer.revision or state.last_revision,
        check_errors=state.check_errors + 1 if in_error else 0,
        quarantined_revision=None if seen_another else state.quarantined_revision,
        quarantine_reason=None if seen_another else state.quarantine_reason,
    )


def next_attempt(state: WatchState, revision: str) -> int:
    """The number of the next run of `revision`: it counts on until one ends ok or another revision comes."""
    return state.attempt + 1 if state.attempt and state.attempt_revision == revision else 1


def after_run(
    state: WatchState, run: Run, retry: Retry | None, now: Stamp, uniform: Uniform
) -> tuple[WatchState, tuple[Event, ...]]:
    """The watch after `run` was closed, and what there is to tell besides run_finished."""
    state = replace(
        _counted(state, run),
        last_run=run.id,
        applied_revision=_applied(state, run),
        lost_in_a_row=state.lost_in_a_row + 1 if run.outcome is Outcome.LOST else 0,
        held_until=None,
        retry=None,
        retry_at=None,
    )
    if run.outcome is Outcome.OK:
        return replace(state, last_ok=now, last_ok_revision=run.revision, attempt=0, attempt_revision=""), ()
    if run.outcome is Outcome.CANCELLED:
        return _after_cancel(state, run)
    state = replace(state, attempt=run.attempt, attempt_revision=run.revision)
    state, held = _hold(state, now)
    state, retried = _retry(state, run, retry, now, uniform)
    return state, held + retried


def _counted(state: WatchState, run: Run) -> WatchState:
    """What is counted of every run: how it ended, and what its download says that it cost."""
    outcome = str(run.outcome)
    ok, cancelled = run.outcome is Outcome.OK, run.outcome is Outcome.CANCELLED
    cost = next((step.result.outputs for step in run.steps if step.name == "download" and step.result), {})
    return replace(
        state,
        ended={**state.ended, outcome: state.ended.get(outcome, 0) + 1},
        failures_in_a_row=0 if ok else state.failures_in_a_row + (not cancelled),
        requests=state.requests + _count(cost.get("fetch_requests")),
        fetched_bytes=state.fetched_bytes + _count(cost.get("fetched_bytes")),
    )


def _count(text: str | None) -> int:
    """A number that a command wrote; whatever is none counts as nothing."""
    return int(text) if text and len(text) <= 15 and text.isascii() and text.isdigit() else 0


def _applied(state: WatchState, run: Run) -> str:
    if not run.play_began:
        return state.applied_revision
    return run.revision if run.outcome is Outcome.OK else ""


def _after_cancel(state: WatchState, run: Run) -> tuple[WatchState, tuple[Event, ...]]:
    by_person = run.cancel is not None and run.reason not in (CANCELLED_BY_STOP, WINDOW_CLOSED)
    if not by_person or not run.revision:
        return state, ()
    return _quarantine(state, run, "cancelled")


def _hold(state: WatchState, now: Stamp) -> tuple[WatchState, tuple[Event, ...]]:
    seconds = hold_s(state.lost_in_a_row)
    if seconds is None:
        return state, ()
    until = Deadline.after(now, round(seconds * 1_000_000))
    event = Held(watch=state.watch, lost_in_a_row=state.lost_in_a_row, until=rfc3339(until.at.wall_us))
    return replace(state, held_until=until), (event,)


def _retry(
    state: WatchState, run: Run, retry: Retry | None, now: Stamp, uniform: Uniform
) -> tuple[WatchState, tuple[Event, ...]]:
    if retry is None:
        return state, ()
    if retry.max_attempts is not None and run.attempt >= retry.max_attempts:
        return _quarantine(state, run, "max_attempts") if run.revision else (state, ())
    wait_s = backoff_s(retry, run.attempt, uniform)
    at = Deadline.after(now, round(wait_s * 1_000_000))
    trigger = Trigger(TriggerKind.RETRY, at=at.at, revision=run.revision, values=run.values, attempt=run.attempt + 1)
    event = RetryPlanned(
        watch=state.watch,
        play_uuid=run.id,
        at=rfc3339(at.at.wall_us),
        attempt=run.attempt + 1,
        wait_s=round(wait_s, 3),
    )
    return replace(state, retry=trigger, retry_at=at), (event,)


def _quarantine(state: WatchState, run: Run, reason: str) -> tuple[WatchState, tuple[Event, ...]]:
    event = Quarantined(watch=state.watch, play_uuid=run.id, revision=run.revision, reason=reason)
    return replace(state, quarantined_revision=run.revision, quarantine_reason=reason), (event,)


def error_backoff(
    settings: WatchSettings, state: WatchState, now: Stamp, uniform: Uniform
) -> tuple[Deadline | None, tuple[Event, ...]]:
    """With a retry policy, a check in error is asked again after the backoff instead of at its regular time."""
    if settings.retry is None or state.check_errors == 0:
        return None, ()
    wait_s = backoff_s(settings.retry, state.check_errors, uniform)
    at = Deadline.after(now, round(wait_s * 1_000_000))
    event = RetryPlanned(
        watch=state.watch, at=rfc3339(at.at.wall_us), attempt=state.check_errors + 1, wait_s=round(wait_s, 3)
    )
    return at, (event,)
