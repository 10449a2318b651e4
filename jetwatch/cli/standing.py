"""How things stand: what the journal says of the agent and of every watch, and what of it is unwell. No output here."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from jetwatch.cli.opening import is_running, known_watches
from jetwatch.cli.people import elapsed_s
from jetwatch.engine.admission import is_held
from jetwatch.engine.verbs import is_suspended
from jetwatch.journal.journal import Journal
from jetwatch.journal.reserve import RESERVE_BYTES
from jetwatch.process import tree
from jetwatch.records import AgentState, CheckResult, OutboxEntry, Outcome, Run, Stamp, StepState, WatchState
from jetwatch.statedir import STALLED_NAME, StateDir

HOOKS_LATE_AFTER_S = 3600.0


class WatchStanding(Struct, frozen=True):
    """One watch. `newest` is its newest closed run. `configured` false: removed, but something of it is still open."""

    name: str
    state: WatchState
    open_run: Run | None
    newest: Run | None
    hooks: tuple[OutboxEntry, ...]
    blocked: str | None
    configured: bool


class Standing(Struct, frozen=True):
    """The agent and its watches at one instant. `agent` None: none ever said anything of itself.

    `stalled`: the agent waits for a disk that does not take its journal. `low`: bytes that are free, where the journal
    has no space in reserve.
    """

    now: Stamp
    root: Path
    running: bool
    agent: AgentState | None
    watches: tuple[WatchStanding, ...]
    stalled: bool = False
    low: int | None = None

    @property
    def config_rejected(self) -> str | None:
        """Why the newest configuration is not in force; None when it is, or when nobody runs."""
        return self.agent.config_rejected if self.agent is not None and self.running else None


def look(layout: StateDir, journal: Journal, now: Stamp) -> Standing:
    """Gather everything."""
    agent = journal.agent()
    configured = known_watches(journal)
    states = journal.watches()
    open_runs = {run.watch: run for run in journal.open_runs()}
    owed: dict[str, list[OutboxEntry]] = {}
    for entry in journal.owed_hooks():
        owed.setdefault(entry.watch, []).append(entry)
    names = sorted({*configured, *open_runs, *owed})
    running = is_running(layout, agent)
    return Standing(
        now=now,
        root=layout.root,
        running=running,
        agent=agent,
        stalled=running and agent is not None and tree.name_of(agent.pid) == STALLED_NAME,
        low=_too_few_bytes(layout) if running else None,
        watches=tuple(
            WatchStanding(
                name=name,
                state=states.get(name, WatchState(name)),
                open_run=open_runs.get(name),
                newest=_newest_closed(journal, name),
                hooks=tuple(owed.get(name, ())),
                blocked=agent.blocked.get(name) if agent is not None and running else None,
                configured=name in configured,
            )
            for name in names
        ),
    )


def _too_few_bytes(layout: StateDir) -> int | None:
    """The free bytes, where the journal's reserve was given up and there is no room for another."""
    stat = os.statvfs(layout.root)
    free_bytes = stat.f_bavail * stat.f_frsize
    return free_bytes if free_bytes < 2 * RESERVE_BYTES and not layout.reserve.exists() else None


def _newest_closed(journal: Journal, watch: str) -> Run | None:
    # At most one run of a watch is open, and it is the newest.
    return next((run for run in journal.runs(watch=watch, limit=2) if not run.is_open), None)


def present_step(run: Run) -> str:
    """The step at which an open run stands."""
    for step in run.steps:
        if step.state is StepState.STARTED:
            return step.name
    return next((step.name for step in run.steps if step.state is StepState.PENDING), "")


def how_it_ended(run: Run) -> str:
    """`ok`, `failed (play, exit 4)`, `failed (play, SIGKILL)`, `lost (play)`; an open one is `running` or `waiting`."""
    if run.outcome is None:
        doing = "waiting" if run.waiting_for else "running"
        return f"{doing} ({present_step(run)})" if present_step(run) else doing
    if run.outcome is Outcome.OK:
        return "ok"
    facts = [run.failed_step] if run.failed_step else []
    if run.outcome is Outcome.FAILED and run.exit_code:
        facts.append(_signal_of(run) or f"exit {run.exit_code}")
    elif run.reason and run.reason not in (run.outcome, "exit_code"):
        facts.append(run.reason.replace("_", " "))
    return f"{run.outcome} ({', '.join(facts)})" if facts else str(run.outcome)


def _signal_of(run: Run) -> str | None:
    """The signal that ended the failed step, where one did."""
    return next((step.result.signal for step in run.steps if step.name == run.failed_step and step.result), None)


class Complaint(Struct, frozen=True):
    """One thing that is unwell: a stable word, and whose it is (empty: the agent's)."""

    code: str
    watch: str = ""


def complaints(standing: Standing) -> list[Complaint]:
    """Everything that makes `jetp status --check` leave with 1."""
    found = [] if standing.running else [Complaint("agent_not_running")]
    if standing.config_rejected:
        found.append(Complaint("config_rejected"))
    if standing.stalled:
        found.append(Complaint("journal_stalled"))
    if standing.low is not None:
        found.append(Complaint("disk_low"))
    for watch in standing.watches:
        found += [Complaint(code, watch.name) for code in _complaints_of(watch, standing.now)]
    return found


def _complaints_of(watch: WatchStanding, now: Stamp) -> list[str]:
    state, newest = watch.state, watch.newest
    late = any(elapsed_s(hook.owed_since, now) > HOOKS_LATE_AFTER_S for hook in watch.hooks)
    found = {
        "last_run": watch.configured and newest is not None and newest.outcome is not Outcome.OK,
        "check_error": watch.configured and state.last_result is CheckResult.ERROR,
        "quarantined": state.quarantined_revision is not None,
        "held": is_held(state, now),
        "blocked": watch.blocked is not None,
        "hooks_late": late,
        "hooks_abandoned": state.hooks_abandoned > 0,
    }
    return [code for code, is_so in found.items() if is_so]


def suspension_in_force(watch: WatchStanding, now: Stamp) -> bool:
    """Whether the watch is suspended at this instant."""
    return is_suspended(watch.state, now)
