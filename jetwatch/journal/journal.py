"""What happened, kept: one SQLite file, one writer, one way to write (`commit`), durable before it is announced.

A change and the events that tell of it are one transaction. Of a long row an excerpt is kept here, and the whole with
what its run left. The file is never deleted or rewritten to get out of
trouble: what is no journal, or a newer one, is refused and left as it was. A row that cannot be read is told and passed
over. A disk that fails for now is another thing: JournalStalled, and `recover` before the next try. Readers need no
agent; they open it read-only.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from jetwatch import packaged
from jetwatch.errors import JournalError, JournalNewer, JournalStalled, UsageError
from jetwatch.events import Change, DiskLow, Event, RowUnreadable, Told, catalogue
from jetwatch.journal import excerpt
from jetwatch.journal.reserve import Reserve
from jetwatch.journal.whole import Wholes, name_in
from jetwatch.records import (
    AgentState,
    HookState,
    OutboxEntry,
    Record,
    Run,
    UnreadHook,
    UnreadRun,
    WatchState,
    from_json,
    is_text,
    to_json,
)

APPLICATION_ID = 0x6A657470  # "jetp"
SCHEMA = 1
KEEP_ROWS = 100_000
KEEP_US = 366 * 86_400 * 1_000_000
_WAL_LIMIT_BYTES = 4 * 1024 * 1024
_BUSY_TIMEOUT_S = 10.0
_CHECKPOINT_EVERY = 100
"""Changes between two checkpoints: one is a few pages, so the write-ahead log stays at 1 to 4 MiB."""

_SQLITE_FOR_NOW = {
    sqlite3.SQLITE_FULL: "no_space",
    sqlite3.SQLITE_IOERR: "io_error",
    sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_PROTOCOL: "locked",
}
_ERRNO_FOR_NOW = {
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
    errno.EROFS: "read_only",
    errno.EIO: "io_error",
}

_DETAIL_CHARS = 300
_PRUNE_EVERY = 10_000
"""Events that belong to no run, between two prunings: a watch may have no runs, and its checks fail for ever."""

Row = tuple[Any, ...]

# As bytes: text that is no UTF-8 is an unreadable row, and no error of SQLite.
_RUNS = "SELECT seq, id, watch, CAST(record AS BLOB) FROM run"
_HOOKS = "SELECT id, watch, CAST(record AS BLOB) FROM outbox"
_EVENTS = "SELECT seq, at_us, name, CAST(record AS BLOB) FROM event WHERE seq > ? ORDER BY seq LIMIT ?"

# A plus before the column of ORDER BY lets SQLite walk a small partial index and sort, not all rows in their order.
_LAST_OLD_RUN = """
    SELECT max(coalesce((SELECT seq FROM run WHERE opened_us >= ? ORDER BY seq LIMIT 1) - 1, 0),
               coalesce((SELECT max(seq) FROM run), 0) - ?)
"""
_OLD_RUNS = """
    SELECT id FROM run WHERE seq <= ? AND outcome IS NOT NULL
    AND id NOT IN (SELECT run FROM outbox WHERE state = 'owed' AND run IS NOT NULL)
"""
_LAST_OLD_EVENT = """
    SELECT max(coalesce((SELECT seq FROM event WHERE run = '' AND at_us >= ? ORDER BY seq LIMIT 1) - 1, 0),
               coalesce((SELECT max(seq) FROM event), 0) - ?)
"""


class Journal:
    """The open journal. Not for two threads at once."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._durable = True
        self._unchecked = 0
        self._is_suspect = False
        self._reserve = Reserve(path.with_name("reserve"))
        self._wholes = Wholes(path.with_name("runs"))
        self._replaced: list[tuple[str, str]] = []
        self._events_of_no_run = 0
        self._events = {event.name: event for event in catalogue()}
        self._unreadable: set[tuple[str, str]] = set()
        self.on_unreadable: Callable[[RowUnreadable], None] = lambda _: None
        """Told once of each row that cannot be read."""

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open to write; made and migrated as needed. Raises JournalError, JournalNewer, JournalStalled."""
        try:
            return cls(path, _open_to_write(path))
        except JournalStalled as error:
            if error.reason != "no_space" or Reserve(path.with_name("reserve")).give_up() is None:
                raise
        return cls(path, _open_to_write(path))

    @classmethod
    def open_to_read(cls, path: Path) -> Journal:
        """Open to read, beside an agent or without one. Raises UsageError when there is none, JournalError."""
        with _explained(path):
            if not _is_there(path) or _refuse_unknown(path) == 0:
                raise UsageError(f"{path}: no journal here: no agent has worked in this state directory yet")
            connection = _connect(path, "mode=ro")
        return cls(path, connection)

    def close(self) -> None:
        """Give the file back; the last writer leaves no write-ahead log behind."""
        self._connection.close()

    # -- writing

    def commit(self, change: Change) -> tuple[tuple[Told, ...], tuple[OutboxEntry, ...]]:
        """Write `change` in one transaction.

        Returns its events with their seq, and its hooks with their ids. Raises JournalError; then nothing was written.
        After JournalStalled call `recover` before anything else.
        """
        with self._transaction(durable=change.durable):
            for run in change.runs:
                self._put_run(run)
            for watch in change.watches:
                self._keep_unread("watch", "name", watch.watch)
                self._connection.execute(
                    "INSERT INTO watch (name, record) VALUES (?, ?) "
                    "ON CONFLICT (name) DO UPDATE SET record = excluded.record",
                    (watch.watch, to_json(watch).decode()),
                )
            hooks = tuple(self._put_hook(hook) for hook in change.hooks)
            for hook_id in change.abandoned:
                self._connection.execute("UPDATE outbox SET state = 'abandoned' WHERE id = ?", (hook_id,))
            if change.agent is not None:
                self._connection.execute(
                    "INSERT INTO agent (one, record) VALUES (1, ?) "
                    "ON CONFLICT (one) DO UPDATE SET record = excluded.record",
                    (to_json(change.agent).decode(),),
                )
            told = tuple(self._put_event(event, change.at.wall_us) for event in change.events)
        if self._events_of_no_run >= _PRUNE_EVERY:
            self.prune(change.at.wall_us)
        return told, hooks

    @contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[None]:
        """All that is written inside, or nothing."""
        with _explained(self._path):
            if self._is_suspect:
                raise JournalStalled(self._path, "io_error", "what was written before could not be synced")
            if durable != self._durable:
                self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            self._connection.execute("BEGIN IMMEDIATE")
            self._replaced = []
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        for run_id, name in self._replaced:
            self._wholes.forget(run_id, name)
        self._checkpoint_now_and_then()

    def _checkpoint_now_and_then(self) -> None:
        """Not left to SQLite, which ignores how it went: a log that could not be synced must not be written on."""
        self._unchecked += 1
        if self._unchecked < _CHECKPOINT_EVERY:
            return
        self._unchecked = 0
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error:
            self._is_suspect = True  # the change itself is written; the next one is not before all is synced anew

    def recover(self) -> DiskLow | None:
        """After JournalStalled nothing is assumed: open anew, write all of the log into the database, and sync it.

        Gives up the reserve where there is no room, and returns what there is to tell of that. Raises JournalStalled.
        """
        with suppress(sqlite3.Error):
            self._connection.execute("ROLLBACK")
        try:
            self._reopen()
        except JournalStalled as error:
            given_up = self._reserve.give_up() if error.reason == "no_space" else None
            if given_up is None:
                raise
            self._reopen()
            return given_up
        return None

    def _reopen(self) -> None:
        """The new connection is there before the old one goes: the last one to close would remove the log.

        Once the log begins anew, what is left in it of a change that failed can never be taken for a change.
        """
        with _explained(self._path, known=True):
            connection = _connect(self._path, "mode=rw")
            try:
                _set_up(connection)
                _write_log_anew(connection, self._path)
            except BaseException:
                connection.close()
                raise
        self._connection.close()
        self._connection = connection
        self._durable, self._is_suspect, self._unchecked = True, False, 0

    def keep_reserve(self) -> bool:
        """Have space in reserve again, if there is any. Returns whether there is."""
        return self._reserve.keep()

    def _put_run(self, run: Run) -> None:
        self._keep_unread("run", "id", run.id)
        record = to_json(run)
        if len(record) > excerpt.PLAIN_RUN_BYTES:
            record = self._beside(run.id, "run", run, excerpt.of_run(run))
        # Not INSERT … ON CONFLICT: that uses up a seq for every update, and `prune` counts rows by seq.
        known = self._connection.execute(
            "UPDATE run SET outcome = ?, record = ? WHERE id = ?", (run.outcome, record.decode(), run.id)
        )
        if known.rowcount == 0:
            self._connection.execute(
                "INSERT INTO run (id, watch, outcome, opened_us, record) VALUES (?, ?, ?, ?, ?)",
                (run.id, run.watch, run.outcome, run.opened.wall_us, record.decode()),
            )

    def _beside(self, run_id: str, table: str, record: Run | OutboxEntry, short: Run | OutboxEntry) -> bytes:
        """The row of a long record: an excerpt, and the name of the file that has all of it."""
        if short == record:
            return to_json(record)  # what is long is its configuration, which is never cut
        row = self._wholes.keep(run_id, f"{table}-{record.id}", to_json(record), to_json(short))
        known = f"SELECT CAST(record AS BLOB) FROM {table} WHERE id = ?"  # noqa: S608 - constants
        for (data,) in self._connection.execute(known, (record.id,)):
            before = name_in(data)
            if before is not None and before != name_in(row):
                self._replaced.append((run_id, before))
        return row

    def _keep_unread(self, table: str, column: str, row: str) -> None:
        """What cannot be read is about to be written over: whoever looks into it later is to find it."""
        if (table, row) not in self._unreadable:
            return
        self._connection.execute("CREATE TABLE IF NOT EXISTS unread (origin TEXT, row TEXT, record BLOB)")
        copy = f"INSERT INTO unread SELECT ?, {column}, record FROM {table} WHERE {column} = ?"  # noqa: S608 - constants
        self._connection.execute(copy, (table, row))
        self._unreadable.discard((table, row))

    def _put_hook(self, hook: OutboxEntry) -> OutboxEntry:
        if hook.id == 0:
            cursor = self._connection.execute(
                "INSERT INTO outbox (watch, run, state, record) VALUES (?, ?, ?, '')",
                (hook.watch, hook.run_id, hook.state),
            )
            hook = replace(hook, id=cursor.lastrowid or 0)
        if hook.run_id is None and hook.state is not HookState.OWED:
            # Of hooks without a run nobody asks how they went; what there is to tell of them stands among the events.
            self._connection.execute("DELETE FROM outbox WHERE id = ?", (hook.id,))
            return hook
        record = to_json(hook)
        if hook.run_id is not None and len(record) > excerpt.PLAIN_HOOK_BYTES:
            record = self._beside(hook.run_id, "outbox", hook, excerpt.of_hook(hook))
        self._connection.execute(
            "UPDATE outbox SET state = ?, record = ? WHERE id = ?", (hook.state, record.decode(), hook.id)
        )
        return hook

    def _put_event(self, event: Event, at_us: int) -> Told:
        if not event.history:
            return Told(event, at_us)
        record = to_json(event)
        if len(record) > excerpt.PLAIN_EVENT_BYTES:
            record = to_json(excerpt.of_event(event))
        cursor = self._connection.execute(
            "INSERT INTO event (at_us, name, watch, run, record) VALUES (?, ?, ?, ?, ?)",
            (at_us, event.name, event.watch, event.play_uuid, record.decode()),
        )
        self._events_of_no_run += not event.play_uuid
        return Told(event, at_us, cursor.lastrowid)

    def swept_among(self, run_ids: Iterable[str]) -> tuple[str, ...]:
        """Which of these runs are known here, and marked as removed. A run that is not known may be another agent's."""
        text = "SELECT id FROM run WHERE id = ? AND swept = 1"
        return tuple(run_id for run_id in run_ids if self._rows(text, (run_id,)))

    def mark_swept(self, run_ids: Iterable[str]) -> None:
        """Say that the directories of these runs are about to be removed; whatever is left of them then may go."""
        with self._transaction():
            self._connection.executemany("UPDATE run SET swept = 1 WHERE id = ?", [(run_id,) for run_id in run_ids])

    def prune(self, now_us: int) -> int:
        """Forget closed runs beyond a year or 100,000, with their events and hooks. Returns how many."""
        self._events_of_no_run = 0
        with self._transaction():
            year_ago_us = now_us - KEEP_US
            (last,) = self._connection.execute(_LAST_OLD_RUN, (year_ago_us, KEEP_ROWS)).fetchone()
            self._connection.execute(f"DELETE FROM event WHERE run IN ({_OLD_RUNS})", (last,))  # noqa: S608 - constant
            self._connection.execute(f"DELETE FROM outbox WHERE run IN ({_OLD_RUNS})", (last,))  # noqa: S608
            removed = self._connection.execute(f"DELETE FROM run WHERE id IN ({_OLD_RUNS})", (last,)).rowcount  # noqa: S608
            # Of hooks without a run nobody asks how they went; what there is to tell of them stands among the events.
            self._connection.execute("DELETE FROM outbox WHERE run IS NULL AND state <> 'owed'")
            (last,) = self._connection.execute(_LAST_OLD_EVENT, (year_ago_us, KEEP_ROWS)).fetchone()
            self._connection.execute("DELETE FROM event WHERE run = '' AND seq <= ?", (last,))
        return removed

    # -- reading

    def agent(self) -> AgentState | None:
        """What the newest agent said of itself."""
        rows = self._rows("SELECT CAST(record AS BLOB) FROM agent")
        return self._read(rows[0][0], AgentState, "agent", "1") if rows else None

    def watches(self) -> dict[str, WatchState]:
        """Every watch that was ever known, by name, but those of `unread_watches`."""
        rows = self._rows("SELECT name, CAST(record AS BLOB) FROM watch")
        found = {name: self._read(data, WatchState, "watch", name, watch=name) for name, data in rows}
        return {name: state for name, state in found.items() if state is not None}

    def unread_watches(self) -> tuple[str, ...]:
        """The watches that are known, and whose rows cannot be read."""
        known = self.watches()
        return tuple(name for (name,) in self._rows("SELECT name FROM watch") if name not in known and is_text(name))

    def open_runs(self) -> list[Run]:
        """The runs without an outcome, oldest first, but those of `unread_runs`."""
        return self._runs("WHERE outcome IS NULL ORDER BY +seq")

    def unread_runs(self) -> list[UnreadRun]:
        """The runs without an outcome whose rows cannot be read."""
        read = {run.id for run in self.open_runs()}
        rows = self._rows("SELECT id, watch, opened_us FROM run WHERE outcome IS NULL ORDER BY +seq")
        return [UnreadRun(*row) for row in rows if row[0] not in read and is_text(row[0] + row[1])]

    def runs(self, *, watch: str | None = None, limit: int | None = None) -> list[Run]:
        """The newest runs first, of one watch or of all."""
        most = -1 if limit is None else limit
        if watch is None:
            return self._runs("ORDER BY seq DESC LIMIT ?", (most,))
        return self._runs("WHERE watch = ? ORDER BY seq DESC LIMIT ?", (watch, most))

    def unswept(self, watch: str | None = None) -> list[Run]:
        """The runs whose directories still stand, newest first; of a long one the excerpt."""
        if watch is None:
            return self._runs("WHERE swept = 0 ORDER BY +seq DESC", whole=False)
        return self._runs("WHERE swept = 0 AND watch = ? ORDER BY seq DESC", (watch,), whole=False)

    def run(self, prefix: str | None = None) -> Run:
        """The one run whose id begins with `prefix`; the newest for None. Raises UsageError for none or several, and
        for one that cannot be read."""
        rows: list[Row] = []
        if prefix is None:
            rows = self._rows(f"{_RUNS} ORDER BY seq DESC LIMIT 1")
        elif prefix.isascii():  # as every id is
            rows = self._rows(f"{_RUNS} WHERE id >= ?1 AND id < ?1 || char(1114111) LIMIT 2", (prefix,))
        if not rows:
            raise UsageError(f"no run begins with {prefix}" if prefix else "there was no run yet")
        if len(rows) > 1:
            raise UsageError(f"more than one run begins with {prefix}: give more of it")
        seq, row, watch, data = rows[0]
        run = self._run(row, watch, data, whole=True)
        if run is None:
            raise UsageError(f"run {row[:8]} is in the journal, but its row cannot be read. jetp runs shows the others")
        return replace(run, seq=seq)

    def hooks_of(self, run_id: str) -> list[OutboxEntry]:
        """The hooks of one run, in their order."""
        return self._hooks("WHERE run = ? ORDER BY id", (run_id,))

    def owed_hooks(self) -> list[OutboxEntry]:
        """Every hook that is still owed, in its order, but those of `unread_hooks`."""
        return self._hooks("WHERE state = 'owed' ORDER BY +id")

    def unread_hooks(self) -> list[UnreadHook]:
        """The hooks that are still owed, and whose rows cannot be read."""
        read = {hook.id for hook in self.owed_hooks()}
        rows = self._rows("SELECT id, watch, run FROM outbox WHERE state = 'owed' ORDER BY +id")
        return [UnreadHook(*row) for row in rows if row[0] not in read and is_text(f"{row[1]}{row[2]}")]

    def events_after(self, seq: int, limit: int | None = None) -> Iterator[Told]:
        """The history after `seq`, in order; at most `limit` events."""
        left, last = limit, seq
        while rows := self._rows(_EVENTS, (last, -1 if left is None else left)):
            for last, at_us, name, data in rows:
                kind = self._events.get(name)
                event = self._read(data, kind, "event", str(last)) if kind is not None else None
                if event is not None:
                    left = None if left is None else left - 1
                    yield Told(event, at_us, last)
            if limit is None or left == 0:
                return

    def last_seq(self) -> int:
        """The seq of the newest event, 0 when there is none."""
        return int(self._rows("SELECT coalesce(max(seq), 0) FROM event")[0][0])

    def count_runs(self, watch: str) -> dict[str, int]:
        """How many runs of a watch ended how."""
        return dict(
            self._rows("SELECT outcome, count(*) FROM run WHERE watch = ? AND outcome IS NOT NULL GROUP BY 1", (watch,))
        )

    def _hooks(self, which: str, values: Row = ()) -> list[OutboxEntry]:
        rows = self._rows(f"{_HOOKS} {which}", values)
        found = (self._hook(*row) for row in rows)
        return [hook for hook in found if hook is not None]

    def _hook(self, row: int, watch: str, data: bytes) -> OutboxEntry | None:
        hook = self._read(data, OutboxEntry, "outbox", str(row), watch=watch)
        whole = self._wholes.read(hook.run_id, data) if hook is not None and hook.run_id is not None else None
        return hook if whole is None else self._read(whole, OutboxEntry, "outbox", str(row), watch=watch)

    def _runs(self, which: str, values: Row = (), *, whole: bool = True) -> list[Run]:
        rows = self._rows(f"{_RUNS} {which}", values)
        found = ((seq, self._run(row, watch, data, whole=whole)) for seq, row, watch, data in rows)
        return [replace(run, seq=seq) for seq, run in found if run is not None]

    def _run(self, row: str, watch: str, data: bytes, *, whole: bool) -> Run | None:
        """The whole run, where that is still there. One that is open without it cannot go on, and counts as unread."""
        run = self._read(data, Run, "run", row, watch=watch, run=row)
        if run is None or not whole or name_in(data) is None:
            return run
        all_of_it = self._wholes.read(row, data)
        if all_of_it is None and not run.is_open:
            return run
        return self._read(all_of_it or b"", Run, "run", row, watch=watch, run=row)

    def _read(
        self, data: bytes, kind: type[Record], table: str, row: str, *, watch: str = "", run: str = ""
    ) -> Record | None:
        """None: it is no such record. Whoever asked for more than one goes on with the others."""
        try:
            return from_json(data, kind)
        except (ValueError, TypeError, RecursionError) as error:
            if (table, row) not in self._unreadable:
                self._unreadable.add((table, row))
                detail = str(error)[:_DETAIL_CHARS]
                self.on_unreadable(RowUnreadable(watch=watch, play_uuid=run, table=table, row=row, detail=detail))
            return None

    def _rows(self, text: str, values: Row = ()) -> list[Row]:
        with _explained(self._path):
            return self._connection.execute(text, values).fetchall()


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _is_there(path: Path) -> bool:
    """Whether there is a file. Raises JournalError for what is none: who opens a FIFO waits, maybe for ever."""
    if not path.exists():
        return False
    if not stat.S_ISREG(path.stat().st_mode):
        raise JournalError(f"{path}: expected the journal, which is a file; found something else, and left it as it is")
    return True


def _connect(path: Path, options: str) -> sqlite3.Connection:
    # One thread at a time uses it, but not always the one that opened it.
    uri = f"file://{_quoted(path.absolute())}?{options}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S, check_same_thread=False)
    connection.text_factory = _text
    return connection


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _open_to_write(path: Path) -> sqlite3.Connection:
    with _explained(path):
        if _is_there(path) and path.stat().st_size > 0:
            _refuse_unknown(path)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        connection = _connect(path, "mode=rw")
        try:
            _set_up(connection)
            _migrate(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _set_up(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")


def _write_log_anew(connection: sqlite3.Connection, path: Path) -> None:
    """Everything that the log holds goes into the database and is synced; the log begins anew."""
    (is_busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if is_busy:
        raise JournalStalled(path, "locked", "somebody else reads or writes it for a long time")


def _refuse_unknown(path: Path) -> int:
    """Look before anything is opened to write: a foreign or newer file stays as it is, to the byte. Returns its schema.

    Without a write-ahead log the file is all there is, and `immutable` keeps SQLite from making one beside it.
    """
    log = path.with_name(f"{path.name}-wal")
    has_log = log.exists() and log.stat().st_size > 0
    connection = _connect(path, "mode=ro" if has_log else "mode=ro&immutable=1")
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        schema = int(connection.execute("PRAGMA user_version").fetchone()[0])
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    finally:
        connection.close()
    if tables and application != APPLICATION_ID:
        raise JournalError(f"{path}: an SQLite file of another program, not a journal of jetwatch; it was not touched")
    if schema > SCHEMA:
        raise JournalNewer(path, schema, SCHEMA)
    return schema


def _migrate(connection: sqlite3.Connection) -> None:
    """From the schema found to ours, one transaction per step: killed at any point, it goes on from where it was."""
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    for number in range(found + 1, SCHEMA + 1):
        script = packaged.read("jetwatch.journal", f"migrations/{number:04}.sql").decode()
        connection.executescript(
            f"BEGIN IMMEDIATE;\nPRAGMA application_id = {APPLICATION_ID};\n{script}\n"
            f"PRAGMA user_version = {number};\nCOMMIT;"
        )


@contextmanager
def _explained(path: Path, *, known: bool = False) -> Iterator[None]:
    """`known`: it was opened before; that it cannot be now is the disk's doing, not that of its owner or mode."""
    try:
        yield
    except sqlite3.Error as error:
        reason = _for_now(error, path, known=known)
        if reason is not None:
            raise JournalStalled(path, reason, str(error)) from error
        raise JournalError(
            f"{path}: the journal cannot be used: {error}. It was left as it is; "
            "move it away to begin a new one, or restore it from a backup"
        ) from error
    except OSError as error:
        if error.errno in _ERRNO_FOR_NOW:
            raise JournalStalled(path, _ERRNO_FOR_NOW[error.errno], str(error)) from error
        raise JournalError(f"{path}: the journal cannot be opened: {error.strerror}") from error


def _for_now(error: Exception, path: Path, *, known: bool) -> str | None:
    """Why it cannot be used at the moment; None when waiting would not help."""
    # The low byte is the kind of error, the rest says where it happened. Not all that want room say so.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR) and _is_full(path):
        return "no_space"
    if code == sqlite3.SQLITE_CANTOPEN and known:
        return "io_error"
    return _SQLITE_FOR_NOW.get(code)


def _is_full(path: Path) -> bool:
    """Whether a file beside `path` would find no inode or no block."""
    try:
        facts = os.statvfs(path.parent)
    except OSError:
        return False
    return facts.f_bavail == 0 or (facts.f_files > 0 and facts.f_favail == 0)
