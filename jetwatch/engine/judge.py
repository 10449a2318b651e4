"""What an answer means: the watch's next state, the run that is due if one is, and what is to be told. Pure."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from jetwatch.config.model import WatchSettings
from jetwatch.content_records import Look
from jetwatch.engine import schedule
from jetwatch.engine.admission import without_due
from jetwatch.engine.outcome import Answer, after_answer, error_backoff, next_attempt, read_check
from jetwatch.engine.question import Question, Told
from jetwatch.engine.schedule import Uniform
from jetwatch.engine.weigh import weigh
from jetwatch.events import CheckFinished, Event
from jetwatch.records import (
    CheckResult,
    CommandResult,
    Deadline,
    Ending,
    PlannedBy,
    Stamp,
    Trigger,
    TriggerKind,
    WatchState,
)


class Judgement(Struct, frozen=True):
    """`due` None: no run. `first_error`: a streak of errors began with this answer."""

    answer: Answer
    state: WatchState
    due: Trigger | None
    manual: Trigger | None
    first_error: bool
    events: tuple[Event, ...]


def judge(
    settings: WatchSettings,
    state: WatchState,
    question: Question,
    told: Told,
    *,
    following: Deadline,
    now: Stamp,
    uniform: Uniform,
) -> Judgement:
    """The meaning of what was told. `following`: the next regular time."""
    answer = _answer(settings, state, question, told)
    manual = state.trigger if question.kind is TriggerKind.MANUAL and not question.again else None
    first_error = answer.result is CheckResult.ERROR and state.check_errors == 0
    state = _after_look(after_answer(state, answer, now), told)
    if question.known is not None:
        state, due = _taken_up(state, question.known, answer)
    else:
        due = _due(settings, state, question, answer, manual=manual, now=now)
    if due is not None and due.revision and due.revision == state.quarantined_revision:
        due, answer = None, replace(answer, result=CheckResult.SKIPPED, reason="quarantined")
        state = replace(state, last_result=answer.result, last_reason=answer.reason)
        if question.known is not None:
            state = without_due(state)
    state, events = _plan_next(settings, state, question, answer, following=following, now=now, uniform=uniform)
    if due is not None:
        # A check that is due takes the place of a retry, and of an answer that was still waiting.
        due = _said_again(state, due)
        window = None if due.kind is TriggerKind.MANUAL else state.window  # a person does not wait for the splay
        state = replace(state, due=due, waiting_for=(), window=window, retry=None, retry_at=None)
    if manual is not None:
        state = replace(state, trigger=None)
    if told.result is not None or told.look is not None or told.failure is not None:
        events = (_finished(state.watch, question, answer, told.result, now), *events)
    return Judgement(answer, state, due, manual, first_error, events)


def _answer(settings: WatchSettings, state: WatchState, question: Question, told: Told) -> Answer:
    if told.failure is not None:
        return Answer(CheckResult.ERROR, told.failure.code, detail=str(told.failure))
    checked = read_check(told.result) if told.result is not None else None
    if question.known is not None and settings.check is not None:
        checked = Answer(CheckResult.DUE, values=dict(question.known.values))
    if told.look is not None:
        return weigh(state, question, told.look, checked)
    return checked or Answer(CheckResult.DUE)


def _after_look(state: WatchState, told: Told) -> WatchState:
    if not isinstance(told.look, Look):
        return state
    return replace(state, look=told.look, requests=state.requests + told.look.requests)


def _plan_next(
    settings: WatchSettings,
    state: WatchState,
    question: Question,
    answer: Answer,
    *,
    following: Deadline,
    now: Stamp,
    uniform: Uniform,
) -> tuple[WatchState, tuple[Event, ...]]:
    """When to ask again: the regular time, after an error the backoff, or when a server said."""
    backoff, events = error_backoff(settings, state, now, uniform)
    if answer.wait_s is not None:
        backoff = Deadline.after(now, max(following.remaining_us(now), round(answer.wait_s * 1e6)))
    fired_us = schedule.fired_us(question.planned or question.asked, question.asked)
    by = PlannedBy.SERVER if answer.wait_s is not None else PlannedBy.BACKOFF
    by = by if backoff is not None else schedule.planned_by(settings)
    state = replace(state, next_check=backoff or following, planned_by=by, last_fire_us=fired_us)
    if question.known is not None and state.window is not None:
        # The content could not be told: the run waits on, and looks again when a check would.
        state = replace(state, window=replace(state.window, start=state.next_check or following))
    if question.kind is TriggerKind.RETRY and question.known is None and answer.result is not CheckResult.DUE:
        # The retry of a run looks at its content first: what it finds decides whether there is anything to try again.
        gone = answer.result is CheckResult.NOT_DUE
        retry, retry_at = (None, None) if gone else (state.retry, state.next_check)
        state = replace(state, retry=retry, retry_at=retry_at)
    return state, events


def _due(
    settings: WatchSettings,
    state: WatchState,
    question: Question,
    answer: Answer,
    *,
    manual: Trigger | None,
    now: Stamp,
) -> Trigger | None:
    """What makes a run due now, if anything does."""
    forced = manual is not None and manual.forced
    revision, kind = answer.revision, question.kind
    if kind is TriggerKind.RETRY and (state.retry is None or revision != state.retry.revision):
        kind = TriggerKind.CHECK
    if answer.result is CheckResult.NOT_DUE and not forced and schedule.reapply_due(settings, state.last_ok, now):
        kind, revision = TriggerKind.REAPPLY, revision or state.last_ok_revision
    elif answer.result is not CheckResult.DUE and not forced:
        return None
    return Trigger(
        kind,
        at=now,
        revision=revision,
        values=answer.values,
        attempt=next_attempt(state, revision),
        by=manual.by if manual else None,
        forced=forced,
    )


def _taken_up(state: WatchState, known: Trigger, answer: Answer) -> tuple[WatchState, Trigger | None]:
    """What becomes of an answer that waited for a window, after another look at the content.

    Something that is due starts as what it is now; nothing to do ends the wait; what could not be told goes on with it.
    """
    if answer.result is CheckResult.NOT_DUE:
        return without_due(state), None
    if answer.result is not CheckResult.DUE:
        return state, None
    values = {**known.values, **answer.values}
    if answer.revision == known.revision:
        return replace(state, window=None), replace(known, values=values)
    kind = TriggerKind.CHECK if known.kind is TriggerKind.RETRY else known.kind
    attempt = next_attempt(state, answer.revision)
    another = replace(known, kind=kind, revision=answer.revision, values=values, attempt=attempt)
    return replace(state, window=None), another


def _said_again(state: WatchState, due: Trigger) -> Trigger:
    """The same answer as the one that waits for a window: since when it is due, and as which attempt, stays."""
    kept = state.due
    if kept is None or state.window is None or kept.revision != due.revision or due.kind is TriggerKind.MANUAL:
        return due
    return replace(kept, values=due.values)


def _finished(
    watch: str, question: Question, answer: Answer, result: CommandResult | None, now: Stamp
) -> CheckFinished:
    failed = answer.result is CheckResult.ERROR
    tail = answer.detail or (result and (result.detail or result.output_tail)) or None
    return CheckFinished(
        watch=watch,
        result=answer.result.value,
        reason=answer.reason,
        exit_code=result.shell_exit_code if result else None,
        signal=result.signal if result else None,
        timed_out=True if result and result.ending is Ending.TIMEOUT else None,
        duration_s=round((now.boot_us - question.asked.boot_us) / 1e6, 3),
        revision=answer.revision or None,
        trigger=question.kind.value if question.kind is not TriggerKind.CHECK else None,
        output_tail=tail if failed or answer.wait_s is not None else None,
    )


def in_words(watch: str, judged: Judgement) -> str:
    """The answer to a person who asked."""
    answer = judged.answer
    if answer.reason == "quarantined":
        return f"{watch}: revision {judged.state.quarantined_revision} is quarantined; jetp clear {watch}"
    known = {CheckResult.NOT_DUE: "not due", CheckResult.LATER: "later"}
    said = known.get(answer.result, answer.result.value)
    return f"{watch}: the check said {said}" + (f" ({answer.reason})" if answer.reason else "")
