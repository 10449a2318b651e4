"""Target P7: what reading costs when the journal has grown, up to the 100,000 runs that are kept.

The journals are written by the journal itself, in large transactions: every run with its two steps, two events and one
delivered hook, as the agent leaves them. `jetp version` reads nothing: it is what starting takes. Opening a run is one
change: with its sync as it is done, and without, which shows what grows.
"""

from __future__ import annotations

import statistics
import subprocess
import time
import uuid
from pathlib import Path

from ground import ENVIRON, JETP, Row, children_cpu_s, interleaved, options, spread, tell, workplace
from msgspec.structs import replace

from jetwatch.events import Change, RunFinished, RunStarted
from jetwatch.journal.journal import Journal
from jetwatch.records import (
    AgentState,
    Command,
    CommandResult,
    Ending,
    HookState,
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

SIZES = (100, 1_000, 10_000, 100_000)
WATCHES = 10
WATCHED = [f"w{number}" for number in range(WATCHES)]
PER_CHANGE = 1_000
US = 1_000_000
COMMAND = Command(words=("/opt/play.sh", "{{ download_path }}"))


def run_number(number: int, now_us: int, *, is_open: bool = False) -> Run:
    """One run that ended well, of one of ten watches; the newest ended a minute ago."""
    at = Stamp(now_us - (SIZES[-1] - number + 1) * 60 * US, 1_000 * US, "boot")
    run_id, watch = str(uuid.uuid4()), f"w{number % WATCHES}"
    ended_us, tail = at.wall_us + US, "ok\n" * 40
    result = CommandResult(f"{run_id}.play.1", Ending.EXITED, exit_code=0, ended_us=ended_us, output_tail=tail)
    steps = tuple(
        Step(place, name, COMMAND, state=StepState.ENDED, attempt=1, started=at, result=result)
        for place, name in enumerate(("download", "play"))
    )
    run = Run(
        id=run_id, watch=watch, trigger=Trigger(kind=TriggerKind.CHECK, at=at), attempt=1, revision="r" * 40,
        previous_revision="", applied_revision="", values={}, config_digest="d" * 64,
        download_path=f"/var/lib/jetwatch/downloads/{run_id}", download_owner=None, steps=steps,
        hooks={"on_ok": COMMAND}, opened=at, progressed=at,
    )  # fmt: skip
    return run if is_open else replace(run, outcome=Outcome.OK, exit_code=0, closed=at)


def change_of(runs: list[Run], at: Stamp) -> Change:
    """All that the agent writes of these runs, as one change."""
    started = [
        RunStarted(watch=run.watch, play_uuid=run.id, trigger="check", attempt=1, download_path=run.download_path)
        for run in runs
    ]
    ended = [run for run in runs if run.outcome is not None]
    finished = [
        RunFinished(watch=run.watch, play_uuid=run.id, outcome="ok", duration_s=1.0, attempt=1, trigger="check")
        for run in ended
    ]
    hooks = [OutboxEntry(run.watch, run.id, "on_ok", COMMAND, {}, {}, at, state=HookState.DELIVERED) for run in ended]
    return Change(at=at, runs=tuple(runs), events=(*started, *finished), hooks=tuple(hooks), durable=False)


def fill(state: Path, size: int) -> float:
    """A journal of so many runs. Returns its megabytes."""
    journal = Journal.open(state / "journal.db")
    now_us = time.time_ns() // 1000
    at = Stamp(now_us, 1_000 * US, "boot")
    agent = AgentState(1, 1, "boot", at, "bench", "/watch.yml", "digest", True, "none", tuple(WATCHED))
    journal.commit(Change(at=at, agent=agent, watches=tuple(WatchState(watch=name) for name in WATCHED)))
    for first in range(0, size, PER_CHANGE):
        numbers = range(first, min(first + PER_CHANGE, size))
        journal.commit(change_of([run_number(SIZES[-1] - size + number, now_us) for number in numbers], at))
    journal.close()
    return (state / "journal.db").stat().st_size / 1e6


def cpu_ms(*words: str | Path) -> float:
    """Milliseconds of CPU of a command of jetp: on a machine that does other things, too, its wall time says little."""
    before = children_cpu_s()
    subprocess.run([JETP, *words], env=ENVIRON, check=True, stdout=subprocess.DEVNULL)
    return (children_cpu_s() - before) * 1000


def opening_ms(state: Path, *, durable: bool) -> float:
    """Milliseconds to write down that a run began, and is over at once; the median of twenty."""
    journal = Journal.open(state / "journal.db")
    now_us, times = time.time_ns() // 1000, []
    for number in range(20):
        run = run_number(SIZES[-1] + number, now_us, is_open=True)
        started = time.monotonic()
        journal.commit(replace(change_of([run], run.opened), durable=durable))
        times.append((time.monotonic() - started) * 1000)
        journal.commit(
            Change(at=run.opened, runs=(replace(run, outcome=Outcome.OK, closed=run.opened),), durable=False)
        )
    journal.close()
    return statistics.median(times)


def main() -> None:
    """A journal of each size; all commands interleaved."""
    chosen = options(__doc__, rounds=5)
    rows: list[Row] = []
    with workplace() as work:
        for size in SIZES:
            state = work / str(size)
            state.mkdir(mode=0o700)
            megabytes = fill(state, size)
            where = ("--state-dir", state)
            values = interleaved(
                chosen.rounds,
                {
                    "version": lambda: cpu_ms("version"),
                    "status": lambda where=where: cpu_ms("status", *where),
                    "runs": lambda where=where: cpu_ms("runs", *where),
                    "show": lambda where=where: cpu_ms("show", *where),
                },
            )
            base = statistics.median(values["version"])
            row: Row = {"runs_kept": size, "journal_mb": round(megabytes, 1)}
            for name, each in values.items():
                row[f"{name}_cpu_ms"] = spread(each, 0)
            for name in ("status", "runs", "show"):
                row[f"{name}_to_version"] = round(statistics.median(values[name]) / base, 2)
            row["open_synced_ms"] = round(opening_ms(state, durable=True), 2)
            row["open_unsynced_ms"] = round(opening_ms(state, durable=False), 2)
            rows.append(row)
    tell("P7 reading and writing when the journal has grown", rows, [], chosen.json)


if __name__ == "__main__":
    main()
