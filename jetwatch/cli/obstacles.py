"""All that stands in the way of a watch, and all that waits, in sentences. Shared by `status` and `why`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from jetwatch.cli.people import Times
from jetwatch.cli.standing import WatchStanding, suspension_in_force
from jetwatch.engine.admission import ORIGIN, SPLAY, WINDOW, is_held
from jetwatch.records import Deadline, OutboxEntry, PlannedBy, Run, Shortage, WatchState
from jetwatch.telemetry.plain import cut, size

REVISION_WIDTH = 12

_WAITING: Mapping[str, str] = {
    "agent_stopping": "the next agent",
    "suspended": "the end of the suspension",
    "held": "the end of the hold",
    "quarantined": "another revision (this one is quarantined)",
    "blocked": "a command that cannot be killed",
    "run_open": "the open run to end",
    "max_runs": "another run to end: max_runs of them go on",
    "max_fetches": "another fetch to end: max_fetches of them go on",
    "disk_low": "room on the disk: less is free than disk_reserve",
    "hooks": "the first try of its hooks",
}
_QUARANTINE: Mapping[str, str] = {
    "max_attempts": "its attempts are used up",
    "cancelled": "its run was cancelled",
}


class Obstacle(Struct, frozen=True):
    """A stable word, the sentence for a person, the style it is shown in, and when it ends (None: nobody knows)."""

    code: str
    sentence: str
    style: str = "yellow"
    until: Deadline | None = None


def obstacles(watch: WatchStanding, times: Times) -> list[Obstacle]:
    """Whatever stands in the way of new runs of this watch now."""
    state = watch.state
    found = []
    if not watch.configured:
        found.append(Obstacle("removed", "not in the configuration any more: what is open is finished"))
    if suspension_in_force(watch, times.now):
        until = state.suspended.until if state.suspended is not None else None
        found.append(Obstacle("suspended", _suspended(state, times), until=until))
    if state.quarantined_revision is not None:
        found.append(Obstacle("quarantined", _quarantined(state), "red"))
    if is_held(state, times.now) and state.held_until is not None:
        sentence = f"held until {times.coming(state.held_until)}: {state.lost_in_a_row} lost runs in a row"
        found.append(Obstacle("held", sentence, "red", state.held_until))
    if watch.blocked is not None:
        found.append(Obstacle("blocked", f"blocked: {watch.blocked} cannot be killed", "red"))
    return found


def waiting(watch: WatchStanding, times: Times) -> list[Obstacle]:
    """Whatever of this watch waits for its time or its turn."""
    return list(_waiting(watch, times))


def _waiting(watch: WatchStanding, times: Times) -> Iterator[Obstacle]:
    state = watch.state
    if state.retry_at is not None:
        attempt = state.retry.attempt if state.retry is not None else state.attempt + 1
        sentence = f"backoff: attempt {attempt} waits until {times.coming(state.retry_at)}"
        yield Obstacle("retry", sentence, until=state.retry_at)
    if state.due is not None:
        reasons = " and ".join(_reason(code, state, times) for code in state.waiting_for) or "its turn"
        yield Obstacle("due", f"due since {times.moment(state.due.at)}; it waits for {reasons}")
    if state.trigger is not None:
        by = f" by {state.trigger.by}" if state.trigger.by else ""
        yield Obstacle("trigger", f"a check was asked for{by}, {times.past(state.trigger.at)}")
    if watch.hooks:
        yield Obstacle("hooks", _hooks(watch.hooks, times))
    if state.hooks_abandoned:
        yield Obstacle("hooks_abandoned", f"{_count(state.hooks_abandoned, 'hook')} given up so far", "red")


def in_the_way_of_due(watch: WatchStanding, open_runs: Sequence[Run], times: Times) -> list[Obstacle]:
    """What a run that is due waits for, each by itself, but for what `obstacles` says already."""
    state = watch.state
    if state.due is None:
        return []
    said = {each.code for each in obstacles(watch, times)} | {"run_open"}
    return [_in_full(code, state, open_runs, times) for code in state.waiting_for if code not in said]


def _in_full(code: str, state: WatchState, open_runs: Sequence[Run], times: Times) -> Obstacle:
    kind, _, name = code.partition(":")
    holders = [run for run in open_runs if _holds(run, kind, name)]
    goes_on = ", ".join(f"{run.id[:8]} of {run.watch} for {times.since(run.opened)}" for run in holders)
    if kind == "exclusive":
        return Obstacle(code, f"exclusive: `{name}` is held by run {goes_on or 'of another watch'}", "cyan")
    if kind == "max_runs":
        return Obstacle(code, f"max_runs: no more than {len(holders) or 'these'} at a time: {goes_on}", "cyan")
    if kind in ("max_fetches", "origin"):
        share = " from one server" if kind == "origin" else ""
        sentence = f"max_fetches: no more than {len(holders) or 'these'} at a time{share}: {goes_on}"
        return Obstacle(code, sentence, "cyan")
    if kind == "disk_low" and state.shortage is not None:
        return Obstacle(code, _short(state.shortage), "red")
    if kind in (WINDOW, SPLAY) and state.window is not None:
        start = f"the run starts {times.coming(state.window.start)}"
        sentence = (
            f"window: it opens {times.coming(state.window.opens)}; {start}"
            if kind == WINDOW
            else (f"window: it is open; {start}, to spread the load (splay)")
        )
        return Obstacle(code, sentence, until=state.window.start)
    return Obstacle(code, f"it waits for {_reason(code, state, times)}")


def _holds(run: Run, kind: str, name: str) -> bool:
    if kind == "exclusive":
        return run.exclusive == name
    if kind == "origin":
        return run.is_before_play and run.origin == name
    return run.is_before_play is (kind == "max_fetches")


def waits_for_turn(run: Run, open_runs: Sequence[Run], times: Times) -> list[Obstacle]:
    """What an open run waits for between two commands, each by itself."""
    state = WatchState(run.watch)
    return [_in_full(code, state, open_runs, times) for code in run.waiting_for]


def _short(shortage: Shortage) -> str:
    free = f"{size(shortage.free_bytes)} and {shortage.free_inodes} inodes are free on {shortage.path}"
    return f"disk_reserve: {free}, {size(shortage.reserve_bytes)} and {shortage.reserve_inodes} are to stay free"


_PLANNED: Mapping[PlannedBy, str] = {
    PlannedBy.SPLAY: "splay: the check comes",
    PlannedBy.INTERVAL: "check_interval: the next check comes",
    PlannedBy.SCHEDULE: "schedule: the next firing, its splay included, comes",
    PlannedBy.GRID: "phase: stable: this machine's next turn comes",
    PlannedBy.BACKOFF: "backoff: after an error the next check comes",
    PlannedBy.SERVER: "the server asked to be left alone: the next look comes",
}


def time_of_check(watch: WatchStanding, times: Times, *, alone: bool) -> Obstacle | None:
    """What the next check waits for. None: no check is planned. `alone`: nothing else stands in the way."""
    state = watch.state
    if state.next_check is None or state.planned_by is None:
        return None
    sentence = f"{_PLANNED[state.planned_by]} {times.coming(state.next_check)}"
    style = "yellow" if state.planned_by in (PlannedBy.BACKOFF, PlannedBy.SERVER) else "dim"
    hint = f" (jetp trigger {watch.name} checks now)" if alone else ""
    return Obstacle(state.planned_by, sentence + hint, style, state.next_check)


def _reason(code: str, state: WatchState, times: Times) -> str:
    """What a code of `WatchState.waiting_for` means."""
    if state.window is not None and code == WINDOW:
        splay = state.window.start.remaining_us(times.now) - state.window.opens.remaining_us(times.now)
        return f"its window to open {times.coming(state.window.opens)}" + (", and its splay then" if splay else "")
    if state.window is not None and code == SPLAY:
        return f"its time in the open window: {times.coming(state.window.start)}"
    if code.startswith("exclusive:"):
        return f"a run that holds {code.partition(':')[2]}"
    if code.startswith(ORIGIN):
        return f"another fetch from {code.removeprefix(ORIGIN)} to end: a quarter of max_fetches of them go on"
    return _WAITING.get(code, code.replace("_", " "))


def _suspended(state: WatchState, times: Times) -> str:
    suspension = state.suspended
    if suspension is None:
        return ""
    until = f"until {times.coming(suspension.until)}" if suspension.until else "until jetp resume"
    return f"suspended by {suspension.by} {until}: {suspension.reason}"


def _quarantined(state: WatchState) -> str:
    why = _QUARANTINE.get(state.quarantine_reason or "", state.quarantine_reason or "")
    revision = cut(state.quarantined_revision or "", REVISION_WIDTH)
    return f"revision {revision} is quarantined: {why}. Another one or jetp clear {state.watch} ends it"


def _hooks(hooks: tuple[OutboxEntry, ...], times: Times) -> str:
    first = hooks[0]
    verb = "waits" if len(hooks) == 1 else "wait"
    said = f"{_count(len(hooks), 'hook')} {verb}; the oldest, {first.name}, since {times.moment(first.owed_since)}"
    if first.result is None:
        return said
    again = f", again {times.future(first.not_before)}" if first.not_before is not None else ""
    return f"{said}. {_count(first.deliveries, 'try', 'tries')}, the last: {last_error(first)}{again}"


def last_error(hook: OutboxEntry) -> str:
    """How the newest try of a hook ended."""
    result = hook.result
    if result is None:
        return ""
    if result.detail:
        return result.detail
    if result.signal:
        return result.signal
    return f"exit {result.exit_code}" if result.exit_code is not None else result.ending.value.replace("_", " ")


def _count(number: int, word: str, plural: str = "") -> str:
    return f"{number} {word if number == 1 else plural or word + 's'}"
