"""What happened, kept: one SQLite file, one writer, one way to write (`commit`), durable before it is announced.

A change and the events that tell of it are one transaction. The file is never deleted or rewritten to get out of
trouble: what is no journal, or a newer one, is refused and left as it was. Readers need no agent; they open it
read-only.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from jetwatch.errors import JournalError, JournalNewer, UsageError
from jetwatch.events import Change, Event, Told, catalogue
from jetwatch.records import AgentState, OutboxEntry, Run, WatchState, from_json, to_json

APPLICATION_ID = 0x6A657470  # "jetp"
SCHEMA = 1
KEEP_ROWS = 100_000
KEEP_US = 366 * 86_400 * 1_000_000
_WAL_LIMIT_BYTES = 4 * 1024 * 1024
_BUSY_TIMEOUT_S = 10.0

Row = tuple[Any, ...]


class Journal:
    """The open journal. Not for two threads at once."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._durable = True
        self._events = {event.name: event for event in catalogue()}

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open to write; made and migrated as needed. Raises JournalError, JournalNewer."""
        with _explained(path):
            if path.exists() and path.stat().st_size > 0:
                _refuse_unknown(path)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            connection = _connect(f"file:{_quoted(path)}?mode=rw")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
            _migrate(connection)
        return cls(path, connection)

    @classmethod
    def open_to_read(cls, path: Path) -> Journal:
        """Open to read, beside an agent or without one. Raises UsageError when there is none, JournalError."""
        if not path.exists():
            raise UsageError(f"{path}: no journal here: no agent has worked in this state directory yet")
        with _explained(path):
            _refuse_unknown(path)
            connection = _connect(f"file:{_quoted(path)}?mode=ro")
        return cls(path, connection)

    def close(self) -> None:
        """Give the file back; the last writer leaves no write-ahead log behind."""
        self._connection.close()

    # -- writing

    def commit(self, change: Change) -> tuple[tuple[Told, ...], tuple[OutboxEntry, ...]]:
        """Write `change` in one transaction.

        Returns its events with their seq, and its hooks with their ids. Raises JournalError; then nothing was written.
        """
        with _explained(self._path):
            self._set_durable(change.durable)
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for run in change.runs:
                    self._put_run(run)
                for watch in change.watches:
                    self._connection.execute(
                        "INSERT INTO watch (name, record) VALUES (?, ?) "
                        "ON CONFLICT (name) DO UPDATE SET record = excluded.record",
                        (watch.watch, to_json(watch).decode()),
                    )
                hooks = tuple(self._put_hook(hook) for hook in change.hooks)
                if change.agent is not None:
                    self._connection.execute(
                        "INSERT INTO agent (one, record) VALUES (1, ?) "
                        "ON CONFLICT (one) DO UPDATE SET record = excluded.record",
                        (to_json(change.agent).decode(),),
                    )
                told = tuple(self._put_event(event, change.at.wall_us) for event in change.events)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        return told, hooks

    def _set_durable(self, durable: bool) -> None:
        if durable != self._durable:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._durable = durable

    def _put_run(self, run: Run) -> None:
        self._connection.execute(
            "INSERT INTO run (id, watch, outcome, opened_us, record) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET outcome = excluded.outcome, record = excluded.record",
            (run.id, run.watch, run.outcome, run.opened.wall_us, to_json(run).decode()),
        )

    def _put_hook(self, hook: OutboxEntry) -> OutboxEntry:
        if hook.id == 0:
            cursor = self._connection.execute(
                "INSERT INTO outbox (watch, run, state, record) VALUES (?, ?, ?, '')",
                (hook.watch, hook.run_id, hook.state),
            )
            hook = replace(hook, id=cursor.lastrowid or 0)
        self._connection.execute(
            "UPDATE outbox SET state = ?, record = ? WHERE id = ?", (hook.state, to_json(hook).decode(), hook.id)
        )
        return hook

    def _put_event(self, event: Event, at_us: int) -> Told:
        if not event.history:
            return Told(event, at_us)
        cursor = self._connection.execute(
            "INSERT INTO event (at_us, name, watch, run, record) VALUES (?, ?, ?, ?, ?)",
            (at_us, event.name, event.watch, event.play_uuid, to_json(event).decode()),
        )
        return Told(event, at_us, cursor.lastrowid)

    def mark_swept(self, run_ids: Iterable[str]) -> None:
        """Say that the directories of these runs are about to be removed; whatever is left of them then may go."""
        with _explained(self._path):
            self._set_durable(True)
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("UPDATE run SET swept = 1 WHERE id = ?", [(run_id,) for run_id in run_ids])
            self._connection.execute("COMMIT")

    def prune(self, now_us: int) -> int:
        """Forget closed runs beyond a year or 100,000, with their events and hooks. Returns how many."""
        with _explained(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            old = (
                "SELECT id FROM run WHERE outcome IS NOT NULL AND (opened_us < ? OR "
                "seq <= (SELECT max(seq) FROM run) - ?) "
                "AND id NOT IN (SELECT run FROM outbox WHERE state = 'owed' AND run IS NOT NULL)"
            )
            limits = (now_us - KEEP_US, KEEP_ROWS)
            self._connection.execute(f"DELETE FROM event WHERE run IN ({old})", limits)  # noqa: S608 - no value in it
            self._connection.execute(f"DELETE FROM outbox WHERE run IN ({old})", limits)  # noqa: S608
            removed = self._connection.execute(f"DELETE FROM run WHERE id IN ({old})", limits).rowcount  # noqa: S608
            self._connection.execute(
                "DELETE FROM event WHERE run = '' AND seq <= (SELECT max(seq) FROM event) - ?", (KEEP_ROWS,)
            )
            self._connection.execute("COMMIT")
        return removed

    # -- reading

    def agent(self) -> AgentState | None:
        """What the newest agent said of itself."""
        rows = self._rows("SELECT record FROM agent")
        return from_json(rows[0][0], AgentState) if rows else None

    def watches(self) -> dict[str, WatchState]:
        """Every watch that was ever known, by name."""
        return {name: from_json(text, WatchState) for name, text in self._rows("SELECT name, record FROM watch")}

    def open_runs(self) -> list[Run]:
        """The runs without an outcome, oldest first."""
        return [_run(row) for row in self._rows("SELECT seq, record FROM run WHERE outcome IS NULL ORDER BY seq")]

    def runs(self, *, watch: str | None = None, limit: int | None = None) -> list[Run]:
        """The newest runs first, of one watch or of all."""
        text = "SELECT seq, record FROM run WHERE (?1 IS NULL OR watch = ?1) ORDER BY seq DESC LIMIT ?2"
        return [_run(row) for row in self._rows(text, (watch, -1 if limit is None else limit))]

    def unswept(self, watch: str | None = None) -> list[Run]:
        """The runs whose directories still stand, newest first."""
        text = "SELECT seq, record FROM run WHERE swept = 0 AND (?1 IS NULL OR watch = ?1) ORDER BY seq DESC"
        return [_run(row) for row in self._rows(text, (watch,))]

    def run(self, prefix: str | None = None) -> Run:
        """The one run whose id begins with `prefix`; the newest for None. Raises UsageError for none or several."""
        if prefix is None:
            rows = self._rows("SELECT seq, record FROM run ORDER BY seq DESC LIMIT 1")
        else:
            rows = self._rows("SELECT seq, record FROM run WHERE substr(id, 1, length(?1)) = ?1 LIMIT 2", (prefix,))
        if not rows:
            raise UsageError(f"no run begins with {prefix}" if prefix else "there was no run yet")
        if len(rows) > 1:
            raise UsageError(f"more than one run begins with {prefix}: give more of it")
        return _run(rows[0])

    def hooks_of(self, run_id: str) -> list[OutboxEntry]:
        """The hooks of one run, in their order."""
        return self._hooks("SELECT record FROM outbox WHERE run = ? ORDER BY id", (run_id,))

    def owed_hooks(self) -> list[OutboxEntry]:
        """Every hook that is still owed, in its order."""
        return self._hooks("SELECT record FROM outbox WHERE state = 'owed' ORDER BY id")

    def events_after(self, seq: int) -> Iterator[Told]:
        """The history after `seq`, in order."""
        for number, at_us, name, text in self._rows(
            "SELECT seq, at_us, name, record FROM event WHERE seq > ? ORDER BY seq", (seq,)
        ):
            kind = self._events.get(name)
            if kind is not None:
                yield Told(from_json(text, kind), at_us, number)

    def last_seq(self) -> int:
        """The seq of the newest event, 0 when there is none."""
        return int(self._rows("SELECT coalesce(max(seq), 0) FROM event")[0][0])

    def count_runs(self, watch: str) -> dict[str, int]:
        """How many runs of a watch ended how."""
        return dict(
            self._rows("SELECT outcome, count(*) FROM run WHERE watch = ? AND outcome IS NOT NULL GROUP BY 1", (watch,))
        )

    def _hooks(self, text: str, values: Row = ()) -> list[OutboxEntry]:
        return [from_json(record, OutboxEntry) for (record,) in self._rows(text, values)]

    def _rows(self, text: str, values: Row = ()) -> list[Row]:
        with _explained(self._path):
            return self._connection.execute(text, values).fetchall()


def _run(row: Row) -> Run:
    return replace(from_json(row[1], Run), seq=row[0])


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _connect(uri: str) -> sqlite3.Connection:
    # One thread at a time uses it, but not always the one that opened it.
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S, check_same_thread=False)


def _refuse_unknown(path: Path) -> None:
    """Look before anything is opened to write: a foreign or newer file stays as it is, to the byte."""
    connection = _connect(f"file:{_quoted(path)}?mode=ro")
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        schema = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    finally:
        connection.close()
    if tables and application != APPLICATION_ID:
        raise JournalError(f"{path}: an SQLite file of another program, not a journal of jetwatch; it was not touched")
    if schema > SCHEMA:
        raise JournalNewer(path, schema, SCHEMA)


def _migrate(connection: sqlite3.Connection) -> None:
    """From the schema found to ours, one transaction per step: killed at any point, it goes on from where it was."""
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    folder = resources.files("jetwatch.journal").joinpath("migrations")
    for number in range(found + 1, SCHEMA + 1):
        script = folder.joinpath(f"{number:04}.sql").read_text("utf-8")
        connection.executescript(
            f"BEGIN IMMEDIATE;\nPRAGMA application_id = {APPLICATION_ID};\n{script}\n"
            f"PRAGMA user_version = {number};\nCOMMIT;"
        )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, msgspec.ValidationError, msgspec.DecodeError) as error:
        raise JournalError(
            f"{path}: the journal cannot be used: {error}. It was left as it is; "
            "move it away to begin a new one, or restore it from a backup"
        ) from error
    except OSError as error:
        raise JournalError(f"{path}: the journal cannot be opened: {error.strerror}") from error
