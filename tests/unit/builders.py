"""Records for tests, complete but for what a test says: instants, commands, steps, runs, hooks."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from jetwatch.records import (
    Command,
    CommandResult,
    Deadline,
    Ending,
    OutboxEntry,
    Outcome,
    Run,
    Stamp,
    Step,
    StepState,
    Trigger,
    TriggerKind,
    WatchState,
)

S = 1_000_000
HOUR = 3600 * S
DAY = 24 * HOUR
YEAR = 365 * DAY
NOON = 1_768_478_400 * S  # 2026-01-15 12:00 UTC

TRUE = Command(words=("true",))


def stamp(*, wall_us: int = NOON, boot_us: int = 1_000 * S, boot_id: str = "this") -> Stamp:
    """An instant."""
    return Stamp(wall_us, boot_us, boot_id)


NOW = stamp()


def later(seconds: float, now: Stamp = NOW, *, clock_set_s: float = 0) -> Stamp:
    """The instant `seconds` after `now`, the wall clock set by `clock_set_s` meanwhile."""
    return Stamp(now.wall_us + round((seconds + clock_set_s) * S), now.boot_us + round(seconds * S), now.boot_id)


def rebooted(seconds: float = 60, now: Stamp = NOW, *, clock_set_s: float = 0) -> Stamp:
    """The instant `seconds` after `now`, ten seconds after a boot that came meanwhile."""
    return Stamp(now.wall_us + round((seconds + clock_set_s) * S), 10 * S, f"{now.boot_id}+")


def wait_s(deadline: Deadline | None, now: Stamp = NOW) -> float | None:
    """Seconds from now to the deadline."""
    return None if deadline is None else deadline.remaining_us(now) / S


def most(limit_s: float) -> float:
    """Chance that always says the upper end, so that a backoff can be read off."""
    return limit_s


def result(ending: Ending = Ending.EXITED, **fields: Any) -> CommandResult:
    """The end of a command; exit code 0 unless told otherwise."""
    if ending is Ending.EXITED:
        fields = {"exit_code": 0, **fields}
    return CommandResult(**{"step_id": "run-1.play.1", "ending": ending, "ended_us": NOW.wall_us, **fields})


OK = result()
BAD = result(exit_code=3)


def step(name: str = "play", number: int = 0, **fields: Any) -> Step:
    """A step that was not started."""
    return Step(**{"number": number, "name": name, "command": TRUE, **fields})


def started(name: str = "play", number: int = 0, at: Stamp = NOW, **fields: Any) -> Step:
    """A step whose first start is recorded, and nothing more."""
    return step(name, number, **{"state": StepState.STARTED, "attempt": 1, "started": at, **fields})


def ended(name: str = "play", how: CommandResult = OK, number: int = 0, at: Stamp = NOW, **fields: Any) -> Step:
    """A step whose end is recorded."""
    return started(name, number, at, **{"state": StepState.ENDED, "result": how, **fields})


def trigger(kind: TriggerKind = TriggerKind.CHECK, **fields: Any) -> Trigger:
    """What makes a run due."""
    return Trigger(**{"kind": kind, "at": NOW, **fields})


def run(*steps: Step, **fields: Any) -> Run:
    """An open run of the watch `web`: a play that was not started, unless `steps` say otherwise."""
    numbered = tuple(replace(each, number=number) for number, each in enumerate(steps or (step(),)))
    known: dict[str, Any] = {
        "id": "run-1",
        "watch": "web",
        "trigger": trigger(revision=fields.get("revision", "")),
        "attempt": 1,
        "revision": "",
        "previous_revision": "",
        "applied_revision": "",
        "values": {},
        "config_digest": "digest",
        "download_path": "/downloads/run-1",
        "download_owner": None,
        "steps": numbered,
        "hooks": {},
        "opened": NOW,
        "progressed": NOW,
    }
    return Run(**{**known, **fields})


_END_OF_PLAY = {
    Outcome.OK: OK,
    Outcome.FAILED: BAD,
    Outcome.TIMEOUT: result(Ending.TIMEOUT),
    Outcome.CANCELLED: result(Ending.CANCELLED),
    Outcome.LOST: result(Ending.LOST),
}


def closed(outcome: Outcome = Outcome.OK, *steps: Step, **fields: Any) -> Run:
    """A run that is over; its play began, unless `steps` say otherwise."""
    return run(*(steps or (ended("play", _END_OF_PLAY[outcome]),)), **{"outcome": outcome, "closed": NOW, **fields})


def watch(**fields: Any) -> WatchState:
    """What is remembered of the watch `web`."""
    return WatchState(**{"watch": "web", **fields})


def owed(**fields: Any) -> OutboxEntry:
    """An `on_ok` of a run, owed since now and never tried."""
    known: dict[str, Any] = {
        "watch": "web",
        "run_id": "run-1",
        "name": "on_ok",
        "command": TRUE,
        "values": {},
        "outputs": {},
        "owed_since": NOW,
        "id": 1,
    }
    return OutboxEntry(**{**known, **fields})
