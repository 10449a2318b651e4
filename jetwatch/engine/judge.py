"""What an answer means: the watch's next state, the run that is due if one is, and what is to be told. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jetwatch.config.model import WatchSettings
from jetwatch.engine import schedule
from jetwatch.engine.outcome import Answer, after_answer, error_backoff, next_attempt, read_check
from jetwatch.engine.question import Question
from jetwatch.engine.schedule import Uniform
from jetwatch.events import CheckFinished, Event
from jetwatch.records import (
    CheckResult,
    CommandResult,
    Deadline,
    Ending,
    Stamp,
    Trigger,
    TriggerKind,
    WatchState,
)


@dataclass(frozen=True, slots=True)
class Judgement:
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
    result: CommandResult | None,
    *,
    following: Deadline,
    now: Stamp,
    uniform: Uniform,
) -> Judgement:
    """The meaning of `result` (None: there is no check, so it is due). `following`: the next regular time."""
    answer = read_check(result) if result is not None else Answer(CheckResult.DUE)
    manual = state.trigger if question.kind is TriggerKind.MANUAL else None
    first_error = answer.result is CheckResult.ERROR and state.check_errors == 0
    state = after_answer(state, answer, now)
    due = _due(settings, state, question, answer, manual=manual, now=now)
    if due is not None and due.revision and due.revision == state.quarantined_revision:
        due, answer = None, replace(answer, result=CheckResult.SKIPPED, reason="quarantined")
        state = replace(state, last_result=answer.result, last_reason=answer.reason)
    backoff, events = error_backoff(settings, state, now, uniform)
    fired_us = schedule.fired_us(question.planned or question.asked, question.asked)
    state = replace(state, next_check=backoff or following, last_fire_us=fired_us)
    if due is not None:
        # A check that is due takes the place of a retry, and of an answer that was still waiting.
        state = replace(state, due=due, waiting_for=(), retry=None, retry_at=None)
    if manual is not None:
        state = replace(state, trigger=None)
    if result is not None:
        events = (_finished(state.watch, question, answer, result, now), *events)
    return Judgement(answer, state, due, manual, first_error, events)


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


def _finished(watch: str, question: Question, answer: Answer, result: CommandResult, now: Stamp) -> CheckFinished:
    failed = answer.result is CheckResult.ERROR
    return CheckFinished(
        watch=watch,
        result=answer.result.value,
        reason=answer.reason,
        exit_code=result.shell_exit_code,
        signal=result.signal,
        timed_out=True if result.ending is Ending.TIMEOUT else None,
        duration_s=round((now.boot_us - question.asked.boot_us) / 1e6, 3),
        revision=answer.revision or None,
        trigger=question.kind.value if question.kind is not TriggerKind.CHECK else None,
        output_tail=(result.detail or result.output_tail) if failed else None,
    )


def in_words(watch: str, answer: Answer) -> str:
    """The answer as a sentence."""
    known = {CheckResult.NOT_DUE: "not due", CheckResult.LATER: "later"}
    said = known.get(answer.result, answer.result.value)
    return f"{watch}: the check said {said}" + (f" ({answer.reason})" if answer.reason else "")
