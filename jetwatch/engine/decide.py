"""The next action of an open run: one pure function for a run that was just opened and for one that was found.

The rules: no command twice, none across a reboot, no ok that was not seen, always an end. `evidence` is that of the
first step that has not ended, None when that step was not started.
"""

from __future__ import annotations

from msgspec import Struct

from jetwatch.records import (
    STALE_AFTER_US,
    CommandResult,
    Ending,
    Evidence,
    Outcome,
    Run,
    Sight,
    Stamp,
    Step,
    StepState,
)


class Start(Struct, frozen=True):
    """Start this step: a new attempt, in a new directory."""

    step: Step


class Wait(Struct, frozen=True):
    """The step's supervisor lives: wait for its end."""

    step: Step


class Stop(Struct, frozen=True):
    """Tell the step's supervisor to end it, then wait."""

    step: Step


class Record(Struct, frozen=True):
    """The step ended: write its result down."""

    step: Step
    result: CommandResult


class Lose(Struct, frozen=True):
    """The step's supervisor died with it: end everything that it left, then write that down."""

    step: Step
    reason: str


class Close(Struct, frozen=True):
    """The run is over."""

    outcome: Outcome
    failed_step: str = ""
    reason: str | None = None
    exit_code: int | None = None


Action = Start | Wait | Stop | Record | Lose | Close

_OUTCOME_OF = {
    Ending.TIMEOUT: Outcome.TIMEOUT,
    Ending.CANCELLED: Outcome.CANCELLED,
    Ending.LOST: Outcome.LOST,
}


def first_unfinished(run: Run) -> Step | None:
    """The step that is next or under way; None when all have ended."""
    return next((step for step in run.steps if step.state in (StepState.PENDING, StepState.STARTED)), None)


def decide(run: Run, evidence: Evidence | None, now: Stamp) -> Action:
    """What is to be done next with the open `run`."""
    for ended in run.steps:
        if ended.result is not None and not ended.result.ended_well(ended.command.ok_exit_codes):
            return _closed_by(run, ended, ended.result)
    step = first_unfinished(run)
    if step is None:
        last = run.steps[-1].result
        return Close(Outcome.OK, exit_code=last.exit_code if last else None)
    if step.state is StepState.PENDING:
        return _before(run, step, now)
    return _during(run, step, evidence or Evidence(Sight.NEVER_RAN), now)


def _before(run: Run, step: Step, now: Stamp) -> Action:
    """Between two commands, or before one that was about to start and never ran."""
    if run.cancel is not None:
        return Close(Outcome.CANCELLED, step.name, run.cancel.reason)
    # Not `progressed`: the end of a command before the reboot may have been recorded after it.
    if run.opened.boot_id != now.boot_id:
        return Close(Outcome.LOST, step.name, "reboot")
    if _stood_still_us(run, step, now) > STALE_AFTER_US:
        return Close(Outcome.CANCELLED, step.name, "stale")
    return Start(step)


def _stood_still_us(run: Run, step: Step, now: Stamp) -> int:
    """For how long nothing went on before `step`: since the last record, or since a command ended with no agent there.

    Two ways to know the latter have to agree: a command's duration leaves out its machine's sleep, and the wall clock
    may have been set.
    """
    recorded_us = now.boot_us - run.progressed.boot_us
    if run.waiting_for:
        return recorded_us  # an agent that lets it wait for its turn says so again and again
    before = run.steps[step.number - 1] if step.number > 0 and step.state is StepState.PENDING else None
    if before is None or before.result is None or before.started is None or before.result.ended_us is None:
        return recorded_us
    ended_boot_us = before.started.boot_us + round(before.result.duration_s * 1_000_000)
    return max(recorded_us, min(now.boot_us - ended_boot_us, now.wall_us - before.result.ended_us))


def _during(run: Run, step: Step, evidence: Evidence, now: Stamp) -> Action:
    """A command was started."""
    if evidence.sight is Sight.ALIVE:
        return Stop(step) if run.cancel is not None else Wait(step)
    if evidence.sight is Sight.DONE and evidence.result is not None:
        return Record(step, evidence.result)
    if step.started is None or step.started.boot_id != now.boot_id:
        return Lose(step, "reboot")
    if evidence.sight is Sight.GONE:
        return Lose(step, "supervisor_died")
    return _before(run, step, now)


def _closed_by(run: Run, step: Step, result: CommandResult) -> Close:
    outcome = _OUTCOME_OF.get(result.ending, Outcome.FAILED)
    reason = result.reason
    if outcome is Outcome.CANCELLED and run.cancel is not None:
        reason = run.cancel.reason
    return Close(outcome, step.name, reason, result.shell_exit_code)


def lost_result(step_id: str, reason: str, now: Stamp) -> CommandResult:
    """The result of a command that nobody saw end."""
    return CommandResult(step_id=step_id, ending=Ending.LOST, reason=reason, ended_us=now.wall_us)
