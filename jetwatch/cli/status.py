"""`jetp status`, drawn: the agent, one line per watch, and under it whatever is out of the ordinary."""

from __future__ import annotations

from typing import Any

from jetwatch.cli.obstacles import Obstacle, last_error, obstacles, waiting
from jetwatch.cli.people import OUTCOME_STYLES, Cell, Screen, Times, comes_at_us, iso
from jetwatch.cli.standing import Complaint, Standing, WatchStanding, complaints, how_it_ended, present_step
from jetwatch.records import CheckResult, Deadline, Run, Stamp

_CHECK_STYLES = {CheckResult.ERROR: "red", CheckResult.LATER: "yellow", CheckResult.SKIPPED: "yellow"}


def draw(standing: Standing, screen: Screen, times: Times) -> None:
    """Print it for people."""
    screen.pairs(_agent_rows(standing, times))
    if not standing.watches:
        return
    screen.line()
    screen.table(
        ("WATCH", "LAST CHECK", "NEXT CHECK", "LAST RUN"), [_row(standing, each, times) for each in standing.watches]
    )
    notes = [(watch, note) for watch in standing.watches for note in _notes(watch, times)]
    if notes:
        screen.line()
        screen.pairs([(watch.name, (note.sentence, note.style)) for watch, note in notes])


def _agent_rows(standing: Standing, times: Times) -> list[tuple[str, Cell]]:
    agent = standing.agent
    rows: list[tuple[str, Cell]] = [("agent", _agent_cell(standing, times))]
    if agent is not None:
        rows.append(("config", agent.config_path))
    rows.append(("state", str(standing.root)))
    if agent is not None and standing.running:
        rows.append(("stop", f"detach: {'true' if agent.detach else 'false'} ({_detach_meaning(agent.detach)})"))
        if agent.cgroup:
            rows.append(("cgroup", agent.cgroup))
    if standing.stalled:
        rows.append(("disk", ("its journal cannot be written: it waits, and what runs goes on; see its log", "red")))
    elif standing.low is not None:
        free_mib = standing.low // 1024**2
        rows.append(("disk", (f"low: {free_mib} MiB free, and the journal has no space in reserve", "red")))
    if agent is not None and agent.insecure:
        sentence = "plain http, unproven: whoever is on the way decides what is run by "
        rows.append(("insecure", (sentence + ", ".join(agent.insecure), "red")))
    if standing.config_rejected:
        sentence = f"the newest configuration is not in force:\n{standing.config_rejected}"
        rows += [("" if number else "rejected", (line, "red")) for number, line in enumerate(sentence.splitlines())]
    return rows


def _detach_meaning(detach: bool) -> str:
    return "open runs live on" if detach else "open runs are waited for"


def _agent_cell(standing: Standing, times: Times) -> Cell:
    agent = standing.agent
    if agent is not None and standing.running:
        return f"running, pid {agent.pid}, version {agent.version}, since {times.moment(agent.started)}", "green"
    if agent is not None and agent.stopped is not None:
        return f"not running; it stopped {times.moment(agent.stopped)}", "red"
    return "not running", "red"


def _row(standing: Standing, watch: WatchStanding, times: Times) -> list[Cell]:
    next_check = times.future(watch.state.next_check) if standing.running else "-"
    return [(watch.name, "bold"), _check_cell(watch, times), next_check, _run_cell(watch, times)]


def _check_cell(watch: WatchStanding, times: Times) -> Cell:
    state = watch.state
    if state.last_check is None or state.last_result is None:
        return "never", "dim"
    said = state.last_result.replace("_", " ")
    again = f" x{state.check_errors}" if state.check_errors > 1 else ""
    return f"{said}{again} {times.past(state.last_check)}", _CHECK_STYLES.get(state.last_result, "")


def _run_cell(watch: WatchStanding, times: Times) -> Cell:
    run = watch.open_run
    if run is not None:
        return f"{run.id[:8]} {how_it_ended(run)} for {times.since(run.opened)}", "cyan"
    if watch.newest is None:
        return "none yet", "dim"
    outcome = watch.newest.outcome
    return f"{how_it_ended(watch.newest)} {times.past(watch.newest.closed)}", OUTCOME_STYLES.get(outcome or "", "")


def _notes(watch: WatchStanding, times: Times) -> list[Obstacle]:
    return [*obstacles(watch, times), *waiting(watch, times)]


# -- for programs


def as_data(standing: Standing, times: Times) -> dict[str, Any]:
    """The whole standing as plain data. Times are RFC 3339."""
    return {
        "agent": _agent_data(standing),
        "state_dir": str(standing.root),
        "config_rejected": standing.config_rejected,
        "insecure": list(standing.agent.insecure) if standing.agent is not None else [],
        "watches": [_watch_data(each, times) for each in standing.watches],
        "unwell": [_complaint_data(each) for each in complaints(standing)],
    }


def _complaint_data(complaint: Complaint) -> dict[str, str]:
    return {"code": complaint.code} | ({"watch": complaint.watch} if complaint.watch else {})


def _agent_data(standing: Standing) -> dict[str, Any]:
    agent = standing.agent
    if agent is None:
        return {"running": False}
    return {
        "running": standing.running,
        "pid": agent.pid if standing.running else None,
        "since": iso(agent.started.wall_us),
        "stopped": _at(agent.stopped),
        "version": agent.version,
        "detach": agent.detach,
        "cgroup": agent.cgroup or None,
        "config_path": agent.config_path,
        "config_digest": agent.config_digest,
        "stalled": standing.stalled,
    }


def _watch_data(watch: WatchStanding, times: Times) -> dict[str, Any]:
    state = watch.state
    return {
        "watch": watch.name,
        "configured": watch.configured,
        "last_check": _at(state.last_check),
        "last_result": state.last_result,
        "last_reason": state.last_reason,
        "check_errors": state.check_errors,
        "next_check": _until(state.next_check, times),
        "open_run": _open_data(watch.open_run, times),
        "last_run": _closed_data(watch.newest),
        "applied_revision": state.applied_revision or None,
        "last_ok_revision": state.last_ok_revision or None,
        "last_ok": _at(state.last_ok),
        "requests": state.requests,
        "fetched_bytes": state.fetched_bytes,
        "runs_ended": dict(state.ended),
        "failures_in_a_row": state.failures_in_a_row,
        "failing_since": _at(state.failing_since),
        "incident": state.incident,
        "attempt": state.attempt,
        "retry_at": _until(state.retry_at, times),
        "due_since": _at(state.due.at) if state.due is not None else None,
        "waiting_for": list(state.waiting_for),
        "window_opens": _until(state.window.opens, times) if state.window is not None else None,
        "starts_at": _until(state.window.start, times) if state.window is not None else None,
        "suspended": _suspension_data(watch, times),
        "quarantined_revision": state.quarantined_revision,
        "quarantine_reason": state.quarantine_reason,
        "held_until": _until(state.held_until, times),
        "blocked": watch.blocked,
        "hooks": _hooks_data(watch),
    }


def _open_data(run: Run | None, times: Times) -> dict[str, Any] | None:
    if run is None:
        return None
    return {
        "play_uuid": run.id,
        "step": present_step(run),
        "started": iso(run.opened.wall_us),
        "trigger": run.trigger.kind,
        "attempt": run.attempt,
        "revision": run.revision or None,
        "for_s": round((times.now.wall_us - run.opened.wall_us) / 1_000_000, 1),
        "cancelled_by": run.cancel.by if run.cancel is not None else None,
        "waiting_for": list(run.waiting_for),
    }


def _closed_data(run: Run | None) -> dict[str, Any] | None:
    if run is None:
        return None
    return {
        "play_uuid": run.id,
        "outcome": run.outcome,
        "reason": run.reason,
        "failed_step": run.failed_step or None,
        "exit_code": run.exit_code,
        "revision": run.revision or None,
        "attempt": run.attempt,
        "ended": _at(run.closed),
    }


def _suspension_data(watch: WatchStanding, times: Times) -> dict[str, Any] | None:
    suspension = watch.state.suspended
    if suspension is None or not any(each.code == "suspended" for each in obstacles(watch, times)):
        return None
    return {
        "by": suspension.by,
        "reason": suspension.reason,
        "since": iso(suspension.since.wall_us),
        "until": _until(suspension.until, times),
    }


def _hooks_data(watch: WatchStanding) -> dict[str, Any]:
    oldest = watch.hooks[0] if watch.hooks else None
    return {
        "owed": len(watch.hooks),
        "oldest": iso(oldest.owed_since.wall_us) if oldest is not None else None,
        "oldest_name": oldest.name if oldest is not None else None,
        "tries": oldest.deliveries if oldest is not None else 0,
        "last_error": last_error(oldest) or None if oldest is not None else None,
        "abandoned": watch.state.hooks_abandoned,
    }


def _at(stamp: Stamp | None) -> str | None:
    return iso(stamp.wall_us) if stamp is not None else None


def _until(deadline: Deadline | None, times: Times) -> str | None:
    return iso(comes_at_us(deadline, times.now)) if deadline is not None else None
