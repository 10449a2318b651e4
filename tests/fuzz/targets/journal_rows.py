"""Rows of the journal that hold anything: by a bug of an older version, a broken disk, a hand."""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from fuzz.target import Target, choice_and_rest, is_a_sentence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "unit"))

from builders import NOW, owed, run, watch

from jetwatch.errors import JournalError, UsageError
from jetwatch.events import Change, Cleared
from jetwatch.journal.journal import Journal
from jetwatch.records import AgentState, to_json

AGENT = AgentState(
    pid=7,
    start_ticks=8,
    boot_id="this",
    started=NOW,
    version="1",
    config_path="/etc/watch.yml",
    config_digest="digest",
    detach=True,
    cgroup="scope",
    watches=("web",),
)
TABLES = ("run", "watch", "outbox", "event", "agent")
_room = tempfile.TemporaryDirectory(prefix="fuzz-journal-")
FILE = Path(_room.name) / "journal.db"


def _made() -> tuple[Journal, sqlite3.Connection]:
    made = Journal.open(FILE)
    made.commit(
        Change(
            at=NOW,
            runs=(run(),),
            watches=(watch(),),
            hooks=(owed(id=0),),
            agent=AGENT,
            events=(Cleared(watch="web", by="root"),),
        )
    )
    made.close()
    beside = sqlite3.connect(FILE, isolation_level=None)
    beside.execute("PRAGMA synchronous = OFF")
    return Journal.open_to_read(FILE), beside


_journal, _beside = _made()
_whole = {table: _beside.execute(f"SELECT record FROM {table}").fetchone()[0] for table in TABLES}
_READERS: tuple[Callable[[], object], ...] = (
    _journal.agent,
    _journal.watches,
    _journal.open_runs,
    _journal.runs,
    _journal.unswept,
    _journal.run,
    _journal.owed_hooks,
    lambda: _journal.hooks_of("run-1"),
    lambda: list(_journal.events_after(0)),
    lambda: _journal.count_runs("web"),
)


def one_input(data: bytes) -> None:
    """One table's record is these bytes, as text or as a blob. Every reader gives records, or a JournalError."""
    road, record = choice_and_rest(data, 2 * len(TABLES))
    as_blob, table = divmod(road, len(TABLES))
    value = "?" if as_blob else "CAST(? AS TEXT)"
    name = TABLES[table]
    _beside.execute(f"UPDATE {name} SET record = {value}", (record,))
    try:
        for read in _READERS:
            try:
                found = read()
            except (JournalError, UsageError) as error:
                is_a_sentence(error)
            else:
                to_json(found)
    finally:
        _beside.execute(f"UPDATE {name} SET record = ?", (_whole[name],))


def seeds() -> list[bytes]:
    """Each record as it is, and as a blob."""
    return [
        b"%d" % (road * len(TABLES) + number) + _whole[table].encode()
        for road in (0, 1)
        for number, table in enumerate(TABLES)
    ]


TARGET = Target(
    "journal_rows",
    "a row that cannot be read is said to be so, and ends nobody",
    one_input,
    words=(
        b'"wall_us":',
        b"99999999999999999999",
        b"1e400",
        b"null",
        b"[" * 3000,
        b'{"a":' * 2000,
        b"\\ud800",
        b"\\u0000",
        b'"steps":[',
        b'"outcome":"ok"',
        b'"state":"owed"',
        b'"at":{',
        b"true",
        b"-9223372036854775809",
    ),
    seeds=seeds,
    longest_bytes=16384,
    small=300,
)
