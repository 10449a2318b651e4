"""What the templates and the environment of each kind of command know. Pure: one mapping per start of a command.

Every name becomes `JETWATCH_NAME` in the environment; which of them a template may use is checked when the
configuration is read (`words.py` has the lists).
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from jetwatch.engine.verbs import rfc3339
from jetwatch.records import OutboxEntry, Run, Stamp, Step, TriggerKind, WatchState

Variables = dict[str, str | Mapping[str, str]]


class Host(Struct, frozen=True):
    """What is the same for every command of an agent."""

    hostname: str
    state_dir: str


class Streak(Struct, frozen=True):
    """How many runs failed in a row, and since when: a streak that goes on, or one that has just ended."""

    failures: int = 0
    since: Stamp | None = None


def for_check(state: WatchState, kind: TriggerKind, attempt: int, host: Host) -> Variables:
    """A check's variables. `attempt` counts the errors in a row before this one, plus one."""
    return {
        "watch": state.watch,
        "hostname": host.hostname,
        "state_dir": host.state_dir,
        "previous_revision": state.last_ok_revision,
        "attempt": str(attempt),
        "trigger": kind.value,
        "applied_revision": state.applied_revision,
        "last_ok_revision": state.last_ok_revision,
    }


def for_step(run: Run, host: Host) -> Variables:
    """The variables of a run's download and play."""
    return {
        "watch": run.watch,
        "hostname": host.hostname,
        "state_dir": host.state_dir,
        "previous_revision": run.previous_revision,
        "attempt": str(run.attempt),
        "trigger": run.trigger.kind.value,
        "play_uuid": run.id,
        "download_path": run.download_path,
        "revision": run.revision,
        "outputs": run.values,
        "applied_revision": run.applied_revision,
        "last_ok_revision": run.previous_revision,
    }


def owed_with(run: Run, state: WatchState, streak: Streak, host: Host, output_path: str) -> dict[str, str]:
    """What a hook of `run` is told, as of now: at its start, or after its end. Outputs travel beside."""
    known = {name: value for name, value in for_step(run, host).items() if isinstance(value, str)}
    duration_us = run.closed.boot_us - run.opened.boot_us if _same_boot(run) and run.closed else None
    return {
        **known,
        "outcome": run.outcome.value if run.outcome else "",
        "exit_code": "" if run.exit_code is None else str(run.exit_code),
        "failed_step": run.failed_step,
        "duration": "" if duration_us is None else f"{duration_us / 1e6:.3f}",
        "output_path": output_path,
        "failures": str(streak.failures),
        "failing_since": rfc3339(streak.since.wall_us) if streak.since is not None else "",
        "applied_revision": state.applied_revision,
        "last_ok_revision": state.last_ok_revision,
    }


def owed_for_error(state: WatchState, host: Host, exit_code: int | None) -> dict[str, str]:
    """What on_error is told: it belongs to no run, so whatever a run would say is empty."""
    known = {name: str(value) for name, value in for_check(state, TriggerKind.CHECK, state.check_errors, host).items()}
    names = ("play_uuid", "download_path", "revision", "outcome", "duration", "output_path", "failures")
    empty = dict.fromkeys((*names, "failing_since"), "")
    return {
        **known,
        **empty,
        "exit_code": "" if exit_code is None else str(exit_code),
        "failed_step": "check",
    }


def for_hook(entry: OutboxEntry) -> Variables:
    """A hook's variables: what was known when it was owed, and how often it was tried."""
    return {**entry.values, "outputs": entry.outputs, "delivery": str(entry.deliveries + 1)}


def step_id(run_id: str, step: Step) -> str:
    """The name of one start of one step, unique for ever."""
    return f"{run_id}.{step.name}.{step.attempt}"


def delivery_id(entry: OutboxEntry) -> str:
    """The name of one start of one hook."""
    return f"{entry.run_id or f'hook-{entry.id}'}.{entry.name}.{entry.attempt}"


def _same_boot(run: Run) -> bool:
    return run.closed is not None and run.closed.boot_id == run.opened.boot_id
