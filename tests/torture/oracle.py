"""Judges a ground after a fault, by what its commands wrote themselves. What must hold after any fault at all:

- the database is intact (`PRAGMA integrity_check`), and no run is left open;
- every effect has a row: nothing ran that is not known;
- no run had an effect twice, and none saw a directory that was not complete;
- `ok` is said of plays that came to their end only, and every play that did is `ok`, or `lost` where that may be;
- every outcome is told once after removing duplicates by seq, and was delivered to its hook;
- no process and no control group is left, and no agent had a traceback or a crash to tell.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path

from ground import Ground


def judge(ground: Ground, *, lost_at_most: int | None = 0) -> Counter[str]:
    """How many runs ended how, on a ground that was settled. `lost_at_most` None: any number may be lost.

    Raises AssertionError with what does not hold.
    """
    outcomes = outcomes_in(ground.state / "journal.db")
    _open = [run for run, outcome in outcomes.items() if outcome is None]
    assert not _open, f"runs are still open: {_open}"
    _judge_effects(ground, outcomes)
    lost = [run for run, outcome in outcomes.items() if outcome == "lost"]
    assert lost_at_most is None or len(lost) <= lost_at_most, f"{len(lost)} runs lost, of {lost_at_most} that may be"
    _judge_what_was_told(ground, outcomes)
    assert ground.processes() == [], "a process is left"
    assert ground.cgroups() == [], "a control group is left"
    said = ground.errors.read_text()
    assert "Traceback" not in said, said
    assert "Fatal Python error" not in said, said
    return Counter(outcome or "open" for outcome in outcomes.values())


def outcomes_in(journal: Path) -> dict[str, str | None]:
    """Outcome by run of an intact journal."""
    database = sqlite3.connect(journal)
    try:
        found = database.execute("PRAGMA integrity_check").fetchall()
        assert found == [("ok",)], f"the database is not intact: {found}"
        return dict(database.execute("SELECT id, outcome FROM run").fetchall())
    finally:
        database.close()


def _judge_effects(ground: Ground, outcomes: dict[str, str | None]) -> None:
    effects = Counter(ground.effect_lines())
    twice = [line for line, count in effects.items() if count > 1]
    assert not twice, f"effects that happened twice: {twice}"
    by_word: dict[str, set[str]] = {"download": set(), "begin": set(), "end": set(), "torn": set()}
    for line in effects:
        word, run = line.split()
        by_word[word].add(run)
    assert not by_word["torn"], f"plays that saw half a directory: {by_word['torn']}"
    for word in ("download", "begin"):
        assert by_word[word] <= set(outcomes), f"effects without a row: {by_word[word] - set(outcomes)}"
    ok = {run for run, outcome in outcomes.items() if outcome == "ok"}
    assert ok <= by_word["end"], f"an ok that was not: {ok - by_word['end']}"
    other = {run: outcomes[run] for run in by_word["end"] if outcomes[run] not in ("ok", "lost")}
    assert not other, f"plays that came to their end and are called otherwise: {other}"


def _judge_what_was_told(ground: Ground, outcomes: dict[str, str | None]) -> None:
    told: dict[str, dict[int, str]] = {}
    for line in ground.told("run_finished"):
        told.setdefault(line["play_uuid"], {})[line["seq"]] = line["outcome"]
    said = {run: list(by_seq.values()) for run, by_seq in told.items()}
    was = {run: [outcome] for run, outcome in outcomes.items()}
    differing = {
        run: (said.get(run), was.get(run)) for run in said.keys() | was.keys() if said.get(run) != was.get(run)
    }
    assert not differing, f"told, and true, where they differ: {differing}"
    delivered = {tuple(line.split()) for line in ground.delivery_lines()}
    false = delivered - {(outcome, run) for run, outcome in outcomes.items()}
    assert not false, f"hooks were told what is not so: {false}"
    owed = {(outcome, run) for run, outcome in outcomes.items()} - delivered
    assert not owed, f"hooks that were not delivered: {owed}"
