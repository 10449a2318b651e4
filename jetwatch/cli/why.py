"""`jetp why`, drawn: per watch the last decision, the next one, and all that stands in the way."""

from __future__ import annotations

from typing import Any

from jetwatch.cli.obstacles import (
    REVISION_WIDTH,
    Obstacle,
    in_the_way_of_due,
    obstacles,
    time_of_check,
    waiting,
    waits_for_turn,
)
from jetwatch.cli.people import OUTCOME_STYLES, Cell, Screen, Times, comes_at_us, iso
from jetwatch.cli.standing import Standing, WatchStanding, how_it_ended, present_step
from jetwatch.records import CheckResult, Trigger, WatchState
from jetwatch.telemetry.plain import cut

_ANSWERS = {
    CheckResult.DUE: "the check said: due",
    CheckResult.NOT_DUE: "the check said: not due",
    CheckResult.LATER: "the check said: later",
    CheckResult.ERROR: "the check went into error",
    CheckResult.SKIPPED: "the check was skipped",
}


def draw(standing: Standing, watches: list[WatchStanding], screen: Screen, times: Times) -> None:
    """Print it for people."""
    troubles = of_the_agent(standing)
    if troubles:
        screen.pairs([("agent" if number == 0 else "", row) for number, row in enumerate(_agent_rows(troubles))])
        screen.line()
    if not watches:
        screen.line("There is no watch yet.")
    for number, watch in enumerate(watches):
        if number:
            screen.line()
        screen.line(watch.name, "bold")
        screen.pairs([(f"  {name}", cell) for name, cell in _rows(standing, watch, times)])


def _agent_rows(troubles: list[Obstacle]) -> list[Cell]:
    """One row per line of each: a rejected configuration has one per problem."""
    return [(line, each.style) for each in troubles for line in each.sentence.splitlines()]


def _rows(standing: Standing, watch: WatchStanding, times: Times) -> list[tuple[str, Cell]]:
    rows: list[tuple[str, Cell]] = [("last check", _last_check(watch, times))]
    if watch.newest is not None:
        rows.append(("last run", _last_run(watch, times)))
    if watch.state.due is not None:
        rows.append(("due", _due(watch.state.due, times)))
    rows.append(("next", next_decision(standing, watch, times)))
    found = of_the_watch(standing, watch, times)
    rows += [("in the way" if number == 0 else "", (each.sentence, each.style)) for number, each in enumerate(found)]
    if not found and standing.running:
        rows.append(("in the way", ("nothing", "green")))
    return rows


def _last_check(watch: WatchStanding, times: Times) -> str:
    state = watch.state
    if state.last_check is None or state.last_result is None:
        return "there was none yet"
    said = _ANSWERS[state.last_result]
    reason = f" ({state.last_reason.replace('_', ' ')})" if state.last_reason else ""
    streak = f", {state.check_errors} times in a row" if state.check_errors > 1 else ""
    has_answer = state.last_result in (CheckResult.DUE, CheckResult.NOT_DUE, CheckResult.LATER)
    revision = f", revision {cut(state.last_revision, REVISION_WIDTH)}" if state.last_revision and has_answer else ""
    return f"{times.moment(state.last_check)}: {said}{reason}{streak}{revision}"


def _due(due: Trigger, times: Times) -> str:
    revision = f", revision {cut(due.revision, REVISION_WIDTH)}" if due.revision else ""
    attempt = f", attempt {due.attempt}" if due.attempt > 1 else ""
    by = f" by {due.by}" if due.by else ""
    return f"since {times.moment(due.at)}: {due.kind}{by}{revision}{attempt}"


def _last_run(watch: WatchStanding, times: Times) -> Cell:
    run = watch.newest
    if run is None:
        return "none"
    revision = f", revision {cut(run.revision, REVISION_WIDTH)}" if run.revision else ""
    when = times.moment(run.closed) if run.closed is not None else ""
    streak = f". {failures(watch.state, times)}" if watch.state.failures_in_a_row > 1 else ""
    return f"{when}: {run.id[:8]} {how_it_ended(run)}{revision}{streak}", OUTCOME_STYLES.get(run.outcome or "", "")


def failures(state: WatchState, times: Times) -> str:
    """How many runs have failed in a row, and since when."""
    since = f" since {times.moment(state.failing_since)}" if state.failing_since is not None else ""
    return f"{state.failures_in_a_row} failures in a row{since}"


def next_decision(standing: Standing, watch: WatchStanding, times: Times) -> str:
    """What happens next if nobody does anything, in the order of time."""
    if not standing.running:
        return "nothing, until an agent runs: jetp watch --watch-config PATH"
    state = watch.state
    parts = []
    if watch.open_run is not None:
        run = watch.open_run
        ending = ", it is being cancelled" if run.cancel is not None else ""
        step = present_step(run) or "its end"
        goes_on = f"begins {step} as soon as it is its turn" if run.waiting_for else f"goes on with {step}"
        parts.append(f"run {run.id[:8]} {goes_on}, {times.since(run.opened)} so far{ending}")
    elif state.due is not None and state.window is None:
        parts.append("a run, as soon as nothing is in the way")
    planned = {
        "a run": state.window.start if state.window is not None else None,
        "a retry": state.retry_at,
        "a check": state.next_check,
    }
    coming = sorted(
        (at.remaining_us(times.now), f"{what} {times.coming(at)}") for what, at in planned.items() if at is not None
    )
    return "; then ".join([*parts, *(sentence for _, sentence in coming)]) or "nothing is planned"


def in_the_way(standing: Standing, watch: WatchStanding, times: Times) -> list[Obstacle]:
    """Whatever stands in the way, the agent's troubles first."""
    return of_the_agent(standing) + of_the_watch(standing, watch, times)


def of_the_agent(standing: Standing) -> list[Obstacle]:
    """What stands in the way of every watch."""
    found = []
    if not standing.running:
        found.append(Obstacle("agent_not_running", f"no agent is running on {standing.root}", "red"))
    if standing.config_rejected:
        sentence = f"the newest configuration was rejected, the one before it is in force:\n{standing.config_rejected}"
        found.append(Obstacle("config_rejected", sentence, "red"))
    return found


def of_the_watch(standing: Standing, watch: WatchStanding, times: Times) -> list[Obstacle]:
    """What stands in the way of this one: what stops it, what its run waits for, what else waits, its next time."""
    found = obstacles(watch, times)
    if watch.open_run is not None:
        found.append(Obstacle("run_open", f"run {watch.open_run.id[:8]} is open: one run at a time", "cyan"))
    open_runs = [each.open_run for each in standing.watches if each.open_run]
    if watch.open_run is not None:
        found += waits_for_turn(watch.open_run, open_runs, times)
    found += in_the_way_of_due(watch, open_runs, times)
    found += [each for each in waiting(watch, times) if each.code != "due"]
    check = time_of_check(watch, times, alone=not found) if standing.running else None
    return [*found, check] if check is not None else found


def as_data(standing: Standing, watches: list[WatchStanding], times: Times) -> list[dict[str, Any]]:
    """The same for programs."""
    return [_watch_data(standing, watch, times) for watch in watches]


def _watch_data(standing: Standing, watch: WatchStanding, times: Times) -> dict[str, Any]:
    state = watch.state
    at_us = None if state.next_check is None else comes_at_us(state.next_check, times.now)
    return {
        "watch": watch.name,
        "agent_running": standing.running,
        "last_check": iso(state.last_check.wall_us) if state.last_check is not None else None,
        "last_result": state.last_result,
        "last_reason": state.last_reason,
        "last_revision": state.last_revision or None,
        "last_run": watch.newest.id if watch.newest is not None else None,
        "last_outcome": watch.newest.outcome if watch.newest is not None else None,
        "open_run": watch.open_run.id if watch.open_run is not None else None,
        "next": next_decision(standing, watch, times),
        "next_check": iso(at_us) if at_us is not None else None,
        "waiting_for": list(state.waiting_for),
        "due_since": iso(state.due.at.wall_us) if state.due is not None else None,
        "failures_in_a_row": state.failures_in_a_row,
        "in_the_way": [
            {
                "code": each.code,
                "sentence": each.sentence,
                "until": iso(comes_at_us(each.until, times.now)) if each.until is not None else None,
            }
            for each in in_the_way(standing, watch, times)
        ],
    }
