"""`jetp runs` and `jetp show`, drawn: what was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from jetwatch.cli.obstacles import last_error
from jetwatch.cli.people import OUTCOME_STYLES, Cell, Screen, Times, elapsed_s, iso
from jetwatch.cli.standing import how_it_ended, present_step
from jetwatch.records import CommandResult, Ending, HookState, OutboxEntry, Run, Step, StepState
from jetwatch.statedir import StateDir
from jetwatch.telemetry.plain import compact, cut, duration, size

_REVISION_WIDTH = 9
_STEP_STYLES = {StepState.PENDING: "dim", StepState.SKIPPED: "dim", StepState.STARTED: "cyan"}
_HOOK_STYLES = {HookState.OWED: "yellow", HookState.DELIVERED: "green", HookState.ABANDONED: "red"}


# -- runs


def draw_runs(runs: list[Run], screen: Screen, times: Times) -> None:
    """The newest first, one line each."""
    if not runs:
        screen.line("There was no run yet.")
        return
    heads = ("RUN", "WATCH", "STARTED", "TOOK", "TRIGGER", "OUTCOME", "REVISION")
    screen.table(heads, [_run_row(run, times) for run in runs])


def _run_row(run: Run, times: Times) -> list[Cell]:
    again = f" #{run.attempt}" if run.attempt > 1 else ""
    return [
        (run.id[:8], "bold"),
        run.watch,
        times.past(run.opened),
        compact(_took_s(run) if run.closed is not None else elapsed_s(run.opened, times.now)),
        f"{run.trigger.kind}{again}",
        (_how_in_short(run), OUTCOME_STYLES.get(run.outcome or "", "cyan")),
        (cut(run.revision, _REVISION_WIDTH), "dim"),
    ]


def _how_in_short(run: Run) -> str:
    """`ok`, `failed (play 4)`, `running (play)`."""
    return how_it_ended(run).replace(", exit ", " ")


def took(run: Run, times: Times) -> str:
    """How long a run took, or has been taking."""
    return times.since(run.opened) if run.closed is None else duration(_took_s(run))


def _took_s(run: Run) -> float:
    """Seconds from the opening of a closed run to its end."""
    return elapsed_s(run.opened, run.closed) if run.closed is not None else 0.0


def run_as_data(run: Run) -> dict[str, Any]:
    """One run of `jetp runs --json`."""
    return {
        "play_uuid": run.id,
        "watch": run.watch,
        "seq": run.seq,
        "trigger": run.trigger.kind,
        "attempt": run.attempt,
        "revision": run.revision or None,
        "outcome": run.outcome,
        "reason": run.reason,
        "failed_step": run.failed_step or None,
        "exit_code": run.exit_code,
        "step": present_step(run) if run.is_open else None,
        "started": iso(run.opened.wall_us),
        "ended": iso(run.closed.wall_us) if run.closed is not None else None,
        "duration_s": round(_took_s(run), 3) if run.closed is not None else None,
    }


# -- show


def draw_run(run: Run, hooks: list[OutboxEntry], layout: StateDir, screen: Screen, times: Times) -> None:
    """One run in full."""
    screen.pairs(list(_facts(run, layout, times)))
    screen.line()
    screen.table(
        ("STEP", "STATE", "TOOK", "CPU", "MEMORY", "OUTPUT", "REMARKS"), [_step_row(step, times) for step in run.steps]
    )
    if hooks:
        screen.line()
        screen.table(
            ("HOOK", "STATE", "TRIES", "TOOK", "OUTPUT", "LAST TRY"), [_hook_row(each, times) for each in hooks]
        )


def _facts(run: Run, layout: StateDir, times: Times) -> Iterator[tuple[str, Cell]]:
    yield "run", (run.id, "bold")
    yield "watch", run.watch
    yield "outcome", (how_it_ended(run), OUTCOME_STYLES.get(run.outcome or "", "cyan"))
    if run.reason and run.reason != run.outcome:
        yield "reason", run.reason.replace("_", " ")
    if run.cancel is not None:
        yield (
            "cancelled",
            f"by {run.cancel.by or 'the agent'}" + (f": {run.cancel.reason}" if run.cancel.reason else ""),
        )
    yield "started", times.moment(run.opened)
    if run.closed is not None:
        yield "ended", f"{times.moment(run.closed)}, after {took(run, times)}"
    yield "trigger", _trigger(run)
    yield "attempt", str(run.attempt)
    if run.revision:
        yield "revision", run.revision
    if run.previous_revision:
        yield "previous", run.previous_revision
    yield "download", run.download_path
    yield "records", str(layout.run(run.id))


def _trigger(run: Run) -> str:
    by = f" by {run.trigger.by}" if run.trigger.by else ""
    forced = ", forced" if run.trigger.forced else ""
    return f"{run.trigger.kind}{by}{forced}"


def _step_row(step: Step, times: Times) -> list[Cell]:
    result = step.result
    if result is None:
        took_so_far = times.since(step.started) if step.started is not None and step.state is StepState.STARTED else ""
        return [(step.name, "bold"), (step.state, _STEP_STYLES.get(step.state, "")), took_so_far, "", "", "", ""]
    is_well = result.ended_well(step.command.ok_exit_codes)
    return [
        (step.name, "bold"),
        ("ok" if is_well else ending(result), "green" if is_well else "red"),
        duration(result.duration_s),
        duration(result.cpu_user_s + result.cpu_system_s),
        size(result.max_rss_bytes) if result.max_rss_bytes else "",
        size(result.output_bytes),
        _remarks(step, result),
    ]


def ending(result: CommandResult) -> str:
    """How a command ended, in two words."""
    if result.ending is Ending.SIGNALLED:
        return result.signal or "signalled"
    if result.ending is Ending.EXITED:
        return f"exit {result.exit_code}" if result.reason in (None, "exit_code") else result.reason.replace("_", " ")
    return result.ending.replace("_", " ")


def _remarks(step: Step, result: CommandResult) -> str:
    found = []
    if result.detail:
        found.append(result.detail)
    if result.core_dumped:
        found.append("core dumped")
    if result.left_running:
        found.append(f"{result.left_running} left running")
    if result.output_kept_bytes < result.output_bytes:
        found.append(f"{size(result.output_kept_bytes)} of its output kept")
    if step.attempt > 1:
        found.append(f"start {step.attempt}")
    return ", ".join(found)


def _hook_row(hook: OutboxEntry, times: Times) -> list[Cell]:
    result = hook.result
    again = f", again {times.future(hook.not_before)}" if hook.state is HookState.OWED and hook.not_before else ""
    state = "running" if hook.in_flight else str(hook.state)
    said = "" if result is None or hook.state is HookState.DELIVERED else last_error(hook)
    return [
        (hook.name, "bold"),
        (state, _HOOK_STYLES[hook.state]),
        str(hook.deliveries),
        duration(result.duration_s) if result is not None else "",
        size(result.output_bytes) if result is not None else "",
        f"{said}{again}",
    ]


def record_as_data(run: Run, hooks: list[OutboxEntry]) -> dict[str, Any]:
    """The whole record of one run as `jetp runs --json` begins it, with its steps and the deliveries of its hooks."""
    record: dict[str, Any] = msgspec.to_builtins(run)
    named_anew = {"triggered": record["trigger"], "hook_commands": record["hooks"]}
    return (
        record
        | run_as_data(run)
        | named_anew
        | {
            "steps": [_with_result(step) for step in record["steps"]],
            "hooks": [_with_result(hook) for hook in msgspec.to_builtins(hooks)],
        }
    )


_HOISTED = ("ending", "exit_code", "signal", "duration_s", "output_bytes")


def _with_result(entry: dict[str, Any]) -> dict[str, Any]:
    """A step or hook with the facts of its result that are asked for most, beside the whole result."""
    result = entry["result"] or {}
    return entry | {name: result.get(name) for name in _HOISTED}
