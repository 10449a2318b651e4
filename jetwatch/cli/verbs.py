"""`jetp trigger`, `cancel`, `clear`, `suspend`, `resume`: asked of the agent, or, where none runs, done in its place.

Both ways change the same records by the same functions; only `trigger` needs an agent. Without one the state
directory's lock is held meanwhile, so that no agent can start in between.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from jetwatch.cli.durations import duration
from jetwatch.cli.opening import (
    asked_by,
    is_running,
    known_watches,
    present,
    reading,
    refuse_foreign,
    require_watch,
    state_dir_option,
    writing,
)
from jetwatch.cli.streams import say
from jetwatch.control.client import call
from jetwatch.control.protocol import Request, Response, Verb
from jetwatch.engine import verbs as change
from jetwatch.errors import NoAgent, UsageError
from jetwatch.events import Change, Event
from jetwatch.journal.journal import Journal
from jetwatch.process.launch import ask_to_stop
from jetwatch.records import Run, Stamp, StepState, WatchState
from jetwatch.statedir import StateDir

ANSWER_TIMEOUT_S = 15.0
_ENDED_BADLY = 1

Turn = Callable[[WatchState, Stamp], tuple[WatchState, tuple[Event, ...]]]


@click.command()
@click.argument("watch", required=False)
@state_dir_option
@click.option("--force", is_flag=True, help="Open a run whatever the check says.")
@click.option("--wait", is_flag=True, help="Wait for what comes of it; leave with 1 when a run ends other than ok.")
def trigger(watch: str | None, layout: StateDir, force: bool, wait: bool) -> None:
    """Check now: every watch, or this one.

    Past splay, interval and backoff; not past suspension, quarantine or windows. During a run it is remembered once.

    \b
    Example:
      jetp trigger web --wait
    """
    refuse_foreign(layout)
    if layout.journal.exists():
        _require(layout, watch)
    request = Request(Verb.TRIGGER, watch=watch, force=force, wait=wait, by=asked_by())
    _report(call(_door(layout), request, None if wait else ANSWER_TIMEOUT_S))


@click.command()
@click.argument("uuid", required=False)
@state_dir_option
def cancel(uuid: str | None, layout: StateDir) -> None:
    """End a run: the only open one, or the one whose UUID begins with this.

    Its commands get TERM, and KILL after `grace`. Its revision is not tried again until another one is seen, or
    `jetp clear`.

    \b
    Example:
      jetp cancel 548400f7
    """
    with reading(layout) as journal:
        run = _open_run(journal, uuid)
    by = asked_by()
    _ask(layout, Request(Verb.CANCEL, run=run.id, by=by), lambda: _cancel_here(layout, run.id, by))


@click.command()
@click.argument("watch", required=False)
@state_dir_option
def clear(watch: str | None, layout: StateDir) -> None:
    """Forget backoff, quarantine and hold: of every watch, or of this one.

    \b
    Example:
      jetp clear web
    """
    by = asked_by()
    _require(layout, watch)
    _ask(layout, Request(Verb.CLEAR, watch=watch, by=by), lambda: _clear_here(layout, watch, by))


def _said(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    if not text.strip():
        raise click.BadParameter("it says nothing")
    return text


@click.command()
@click.argument("watch", required=False)
@state_dir_option
@click.option(
    "--reason", metavar="TEXT", required=True, callback=_said, help="Why; shown in status and in every skipped check."
)
@click.option(
    "--for", "for_s", type=duration(least_s=1.0), metavar="2h", help="Until then; without it until `jetp resume`."
)
def suspend(watch: str | None, layout: StateDir, reason: str, for_s: float | None) -> None:
    """No new runs: of every watch, or of this one. An open run goes on.

    \b
    Example:
      jetp suspend web --reason "disk is being replaced" --for 2h
    """
    by = asked_by()
    _require(layout, watch)
    request = Request(Verb.SUSPEND, watch=watch, reason=reason, for_s=for_s, by=by)
    _ask(layout, request, lambda: _suspend_here(layout, watch, by, reason, for_s))


@click.command()
@click.argument("watch", required=False)
@state_dir_option
def resume(watch: str | None, layout: StateDir) -> None:
    """Allow new runs again: of every watch, or of this one.

    \b
    Example:
      jetp resume web
    """
    by = asked_by()
    _require(layout, watch)
    _ask(layout, Request(Verb.RESUME, watch=watch, by=by), lambda: _resume_here(layout, watch, by))


def _require(layout: StateDir, watch: str | None) -> None:
    """Raise UsageError for a watch that nobody knows."""
    with reading(layout) as journal:
        if watch is not None:
            require_watch(watch, {*known_watches(journal), *journal.watches()})


def _open_run(journal: Journal, prefix: str | None) -> Run:
    """The open run that is meant. Raises UsageError for none or several."""
    if prefix is not None:
        run = journal.run(prefix)
        if not run.is_open:
            raise UsageError(f"run {run.id[:8]} has ended already: {run.outcome}")
        return run
    found = journal.open_runs()
    if not found:
        raise UsageError("no run is open")
    if len(found) > 1:
        names = ", ".join(f"{run.id[:8]} ({run.watch})" for run in found)
        raise UsageError(f"{len(found)} runs are open, name one: {names}")
    return found[0]


# -- asked of the agent


def _ask(layout: StateDir, request: Request, do_here: Callable[[], list[str]]) -> None:
    try:
        response = call(_door(layout), request, ANSWER_TIMEOUT_S)
    except NoAgent:
        # An agent that is there all the same (it has no socket, or hangs) holds the lock: StateDirBusy says so.
        response = Response(ok=True, lines=do_here())
    _report(response)


def _report(response: Response) -> None:
    well_asked = response.ok or response.exit_code == _ENDED_BADLY
    for line in response.lines:
        say(line if well_asked else f"jetp: {line}", err=not well_asked)
    if response.exit_code:
        raise SystemExit(response.exit_code)


# -- done in its place


def _clear_here(layout: StateDir, watch: str | None, by: str) -> list[str]:
    return _turn_here(layout, watch, "cleared", lambda state, _now: change.clear(state, by=by))


def _suspend_here(layout: StateDir, watch: str | None, by: str, reason: str, for_s: float | None) -> list[str]:
    def turn(state: WatchState, now: Stamp) -> tuple[WatchState, tuple[Event, ...]]:
        return change.suspend(state, by=by, reason=reason, for_s=for_s, now=now)

    return _turn_here(layout, watch, "suspended", turn)


def _resume_here(layout: StateDir, watch: str | None, by: str) -> list[str]:
    return _turn_here(layout, watch, "resumed", lambda state, _now: change.resume(state, by=by))


def _turn_here(layout: StateDir, watch: str | None, word: str, turn: Turn) -> list[str]:
    """Change the state of one watch, or of all, in one transaction. The next agent goes on from there."""
    with writing(layout) as journal:
        states = journal.watches()
        names = known_watches(journal) if watch is None else [watch]
        now = present()
        turned = [turn(states.get(name, WatchState(name)), now) for name in names]
        events = tuple(event for _, told in turned for event in told)
        journal.commit(Change(at=now, watches=tuple(state for state, _ in turned), events=events))
    return [f"{name}: {word}" for name in names] or ["there is no watch yet"]


def _cancel_here(layout: StateDir, run_id: str, by: str) -> list[str]:
    with writing(layout) as journal:
        run = _open_run(journal, run_id)
        now = present()
        journal.commit(Change(at=now, runs=(change.cancel(run, by=by, reason="cancelled", now=now),)))
    started = next((step for step in run.steps if step.state is StepState.STARTED), None)
    if started is None:
        return [f"{run.watch}: run {run.id[:8]} is cancelled; the next agent records its end"]
    name = started.name
    directory = layout.step(run.id, name, started.attempt)
    if directory.is_dir():  # else the command was never handed to a supervisor
        ask_to_stop(directory, f"{run.id}.{name}.{started.attempt}")
    return [f"{run.watch}: {name} of run {run.id[:8]} was told to stop; the next agent records its end"]


def _door(layout: StateDir) -> Path:
    """Where the newest agent of this state directory listens, or would. Raises NoAgent for one that never listens."""
    if not layout.journal.exists():
        return layout.socket
    with reading(layout) as journal:
        agent = journal.agent()
    if agent is not None and agent.socket is None and is_running(layout, agent):
        raise NoAgent(
            f"the agent (process {agent.pid}) takes no calls: `control: false`; USR1 has it check every watch"
        )
    return Path(agent.socket) if agent is not None and agent.socket is not None else layout.socket
