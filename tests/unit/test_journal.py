"""What happened, kept: all or nothing, one open run per watch, readable beside a writer, untouched when not ours."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from builders import BAD, DAY, NOW, OK, YEAR, closed, ended, later, owed, run, started, step, trigger, watch
from children import NOBODY, as_nobody, in_child
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from jetwatch.errors import JournalError, JournalNewer, UsageError
from jetwatch.events import (
    Change,
    CheckFinished,
    Cleared,
    Event,
    RowUnreadable,
    RunFinished,
    RunStarted,
    StepFinished,
    StepStarted,
    Told,
)
from jetwatch.journal.journal import APPLICATION_ID, KEEP_ROWS, KEEP_US, Journal
from jetwatch.records import AgentState, Command, HookState, OutboxEntry, Outcome, Run, Stamp, WatchState

STARTED = RunStarted(watch="web", play_uuid="run-1", trigger="check", attempt=1)
CLEARED = Cleared(watch="web", by="root")
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


def change(
    *events: Event,
    runs: tuple[Run, ...] = (),
    watches: tuple[WatchState, ...] = (),
    hooks: tuple[OutboxEntry, ...] = (),
    agent: AgentState | None = None,
    at: Stamp = NOW,
    durable: bool = True,
) -> Change:
    """What is written in one transaction."""
    return Change(at=at, runs=runs, watches=watches, hooks=hooks, agent=agent, events=events, durable=durable)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a journal may be made."""
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    """A new journal, open to write."""
    with closing(Journal.open(path)) as journal:
        yield journal


def reading(path: Path) -> closing[Journal]:
    """The journal, opened to read."""
    return closing(Journal.open_to_read(path))


def history(journal: Journal, seq: int = 0) -> list[Told]:
    """The events after `seq`."""
    return list(journal.events_after(seq))


# --- writing and reading ----------------------------------------------------------------------------------------------


def test_a_new_journal_is_empty(journal: Journal) -> None:
    """Every question has an answer all the same."""
    assert (journal.runs(), journal.unswept(), journal.open_runs(), journal.watches()) == ([], [], [], {})
    assert (journal.owed_hooks(), journal.agent(), journal.last_seq(), history(journal)) == ([], None, 0, [])
    assert journal.prune(NOW.wall_us) == 0


def test_what_was_committed_is_read_back(journal: Journal) -> None:
    """Every record as it was, with the numbers that the journal gave it."""
    told, hooks = journal.commit(change(STARTED, runs=(run(),), watches=(watch(),), hooks=(owed(id=0),), agent=AGENT))
    assert journal.runs() == journal.open_runs() == [run(seq=1)]
    assert journal.watches() == {"web": watch()}
    assert journal.owed_hooks() == journal.hooks_of("run-1") == list(hooks) == [owed(id=1)]
    assert journal.agent() == AGENT
    assert history(journal) == list(told) == [Told(STARTED, NOW.wall_us, 1)]


def test_it_is_still_there_when_opened_again(journal: Journal, path: Path) -> None:
    """By the next agent, or by somebody who only reads."""
    journal.commit(change(STARTED, runs=(run(),)))
    journal.close()
    with closing(Journal.open(path)) as again:
        assert again.runs() == [run(seq=1)]
        again.commit(change(CLEARED))
    with reading(path) as read:
        assert [each.seq for each in history(read)] == [1, 2]


def test_a_record_that_is_written_again_is_replaced(journal: Journal) -> None:
    """A run keeps its seq, a hook its id."""
    journal.commit(change(runs=(run(started()),), watches=(watch(),), hooks=(owed(id=0),), agent=AGENT))
    over = closed(Outcome.FAILED, ended("play", BAD))
    delivered = owed(state=HookState.DELIVERED, result=OK)
    gone = replace(AGENT, stopped=later(1))
    journal.commit(change(runs=(over,), watches=(watch(attempt=1),), hooks=(delivered,), agent=gone))
    assert journal.runs() == [replace(over, seq=1)]
    assert journal.open_runs() == journal.owed_hooks() == []
    assert journal.hooks_of("run-1") == [delivered]
    assert (journal.watches(), journal.agent()) == ({"web": watch(attempt=1)}, gone)


def test_events_are_numbered_in_their_order(journal: Journal) -> None:
    """Seq rises over commits, and is never given twice, not even after a rollback."""
    seqs = []
    for _ in range(3):
        told, _ = journal.commit(change(STARTED, CLEARED))
        seqs += [each.seq for each in told]
        with pytest.raises(JournalError):
            journal.commit(change(STARTED, runs=(run(id="a"), run(id="b"))))
    assert seqs == sorted(set(seqs))
    assert [each.seq for each in history(journal)] == seqs
    assert [each.seq for each in history(journal, seqs[2])] == seqs[3:]
    assert journal.last_seq() == seqs[-1]


def test_an_event_that_is_no_history_has_no_number(journal: Journal) -> None:
    """It is told, and not kept."""
    check = CheckFinished(watch="web", result="due")
    told, _ = journal.commit(change(check, STARTED, check))
    assert told == (Told(check, NOW.wall_us), Told(STARTED, NOW.wall_us, 1), Told(check, NOW.wall_us))
    assert history(journal) == [Told(STARTED, NOW.wall_us, 1)]


def test_an_event_of_a_version_to_come_is_passed_over(journal: Journal, path: Path) -> None:
    """A name that this version does not know harms nobody."""
    journal.commit(change(STARTED))
    by_hand(path, "INSERT INTO event (at_us, name, watch, run, record) VALUES (1, 'invented_later', '', '', '{}')")
    journal.commit(change(CLEARED))
    assert [each.event for each in history(journal)] == [STARTED, CLEARED]


def test_hooks_are_owed_in_the_order_in_which_they_came(journal: Journal) -> None:
    """By id, whatever watch or run they are of; delivered ones are not among them."""
    journal.commit(change(hooks=(owed(id=0, name="on_start"), owed(id=0, watch="db", run_id="run-2"))))
    journal.commit(change(hooks=(owed(id=0), owed(id=0, run_id=None, name="on_error"))))
    journal.commit(change(hooks=(owed(id=2, watch="db", run_id="run-2", state=HookState.DELIVERED),)))
    journal.commit(change(hooks=(owed(id=3, state=HookState.ABANDONED),)))
    assert [(entry.id, entry.name) for entry in journal.owed_hooks()] == [(1, "on_start"), (4, "on_error")]
    assert [entry.id for entry in journal.hooks_of("run-1")] == [1, 3]


def test_a_change_that_need_not_be_durable_is_written_too(journal: Journal, path: Path) -> None:
    """Only a power cut may take it; a reader sees it at once, and what comes next is durable again."""
    with reading(path) as read:
        journal.commit(change(watches=(watch(check_errors=1),), durable=False))
        assert read.watches() == {"web": watch(check_errors=1)}
        assert pragma(journal, "synchronous") == 1
        journal.commit(change(watches=(watch(check_errors=2),)))
        assert read.watches() == {"web": watch(check_errors=2)}
        assert pragma(journal, "synchronous") == 2


def test_what_starts_or_ends_a_run_is_durable_before_it_is_announced(journal: Journal) -> None:
    """A write-ahead log that is fsynced by every commit."""
    assert (pragma(journal, "journal_mode"), pragma(journal, "synchronous")) == ("wal", 2)
    journal.commit(change(watches=(watch(),), durable=False))
    journal.mark_swept(["run-1"])
    assert pragma(journal, "synchronous") == 2


def pragma(journal: Journal, name: str) -> object:
    """A setting of the journal's own connection."""
    return journal._connection.execute(f"PRAGMA {name}").fetchone()[0]


def by_hand(path: Path, *texts: str) -> None:
    """Do something to an SQLite file that the journal itself never does."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for text in texts:
            connection.execute(text)


# --- all or nothing ---------------------------------------------------------------------------------------------------


def test_an_open_run_is_alone_in_its_watch(journal: Journal) -> None:
    """The database itself refuses a second one, and with it all that was to be written beside."""
    journal.commit(change(STARTED, runs=(run(),), watches=(watch(),), agent=AGENT))
    with pytest.raises(JournalError):
        journal.commit(
            change(
                STARTED,
                CLEARED,
                runs=(run(id="run-2"),),
                watches=(watch(attempt=9), WatchState("db")),
                hooks=(owed(id=0),),
                agent=replace(AGENT, pid=9),
            )
        )
    assert journal.runs() == [run(seq=1)]
    assert (journal.watches(), journal.agent()) == ({"web": watch()}, AGENT)
    assert (journal.owed_hooks(), len(history(journal))) == ([], 1)


def test_another_run_may_be_opened_when_the_first_one_is_closed(journal: Journal) -> None:
    """In the same transaction too; and other watches have their own."""
    journal.commit(change(runs=(run(), run(id="run-2", watch="db"))))
    journal.commit(change(runs=(closed(), run(id="run-3"))))
    assert [each.id for each in journal.open_runs()] == ["run-2", "run-3"]


def test_a_change_that_cannot_be_written_leaves_the_journal_usable(journal: Journal) -> None:
    """Whatever went wrong in the middle, nothing is left half done and the next change goes through."""
    unwritable = watch(last_reason=object())
    with pytest.raises(TypeError):
        journal.commit(change(STARTED, runs=(run(),), watches=(unwritable,)))
    with pytest.raises(JournalError):
        journal.mark_swept([object()])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        journal.prune(None)  # type: ignore[arg-type]
    assert journal.runs() == history(journal) == []
    journal.commit(change(STARTED, runs=(run(),)))
    assert len(journal.runs()) == len(history(journal)) == 1


def test_a_reader_sees_whole_transactions_beside_a_writer(journal: Journal, path: Path) -> None:
    """Nothing of one that is not committed, all of one that is; and it never keeps the writer waiting."""
    journal.commit(change(runs=(run(),)))
    with reading(path) as read:
        with journal._transaction():
            journal._put_run(run(id="run-2", watch="db"))
            assert [each.id for each in read.runs()] == ["run-1"]
        assert [each.id for each in read.runs()] == ["run-2", "run-1"]
        with pytest.raises(JournalError):
            read.commit(change(CLEARED))
        assert history(journal) == []


def test_killing_the_writer_leaves_whole_transactions(tmp_path: Path) -> None:
    """At random moments, twenty times over, each time going on where the last one left off."""
    path, chance = tmp_path / "journal.db", random.Random(5)
    written = 0
    for _ in range(20):
        with subprocess.Popen(
            [sys.executable, __file__, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parent
        ) as writer:
            assert writer.stdout is not None
            said = [writer.stdout.readline() for _ in range(chance.randrange(1, 40))]
            writer.send_signal(signal.SIGKILL)
        written = _assert_whole(path, at_least=max(int(said[-1]), written + len(said) - 1))


def _assert_whole(path: Path, *, at_least: int) -> int:
    """Every transaction of `_write_for_ever` is there with all its parts, or not at all. Returns how many."""
    with reading(path) as journal:
        runs = journal.runs()
        whole = len(runs)
        assert whole >= at_least
        assert [each.seq for each in runs] == list(range(whole, 0, -1))
        assert [each.id for each in runs] == [f"run-{number}" for number in range(whole - 1, -1, -1)]
        told = history(journal)
        assert [each.event.play_uuid for each in told] == [f"run-{number // 2}" for number in range(2 * whole)]
        assert [each.seq for each in told] == list(range(1, 2 * whole + 1))
        assert len(journal.owed_hooks()) == whole
        assert {name: state.attempt for name, state in journal.watches().items()} == ({"web": whole} if whole else {})
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    return whole


def _write_for_ever(path: Path) -> None:
    """In a child: one transaction of all kinds after the other, each announced when it is written."""
    with closing(Journal.open(path)) as journal:
        number = len(journal.runs())
        while True:
            print(number, flush=True)
            one = closed(Outcome.OK, id=f"run-{number}")
            journal.commit(
                change(
                    StepStarted(watch="web", play_uuid=one.id, step="play", attempt=1),
                    RunFinished(watch="web", play_uuid=one.id, outcome="ok", duration_s=0, attempt=1, trigger="check"),
                    runs=(one,),
                    watches=(watch(attempt=number + 1),),
                    hooks=(owed(id=0, run_id=one.id),),
                    durable=number % 3 > 0,
                )
            )
            number += 1


# --- what is not a journal of ours ------------------------------------------------------------------------------------


def foreign(path: Path, *, journal_mode: str, application_id: int = 0, user_version: int = 0, rows: int = 3) -> None:
    """An SQLite file of another program, or of another version."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal_mode}")
        connection.execute(f"PRAGMA application_id = {application_id}")
        connection.execute(f"PRAGMA user_version = {user_version}")
        connection.execute("CREATE TABLE run (number)")
        connection.executemany("INSERT INTO run VALUES (?)", [(number,) for number in range(rows)])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file and what is in it."""
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}


OPENINGS: list[Callable[[Path], Journal]] = [Journal.open, Journal.open_to_read]
either_way = pytest.mark.parametrize("opening", OPENINGS, ids=["to write", "to read"])
in_either_mode = pytest.mark.parametrize("journal_mode", ["wal", "delete"])


@either_way
@in_either_mode
def test_a_journal_of_a_newer_version_is_refused_and_not_touched(
    path: Path, opening: Callable[[Path], Journal], journal_mode: str
) -> None:
    """To the byte, and without a file beside it."""
    foreign(path, journal_mode=journal_mode, application_id=APPLICATION_ID, user_version=99)
    before = contents(path.parent)
    assert list(before) == ["journal.db"]
    with pytest.raises(JournalNewer, match=r"has schema 99, and this jetwatch knows up to 1.* Install that version"):
        opening(path)
    assert contents(path.parent) == before


@either_way
@in_either_mode
def test_a_file_of_another_program_is_refused_and_not_touched(
    path: Path, opening: Callable[[Path], Journal], journal_mode: str
) -> None:
    """Even if it has a table of the same name."""
    foreign(path, journal_mode=journal_mode, application_id=1234)
    before = contents(path.parent)
    with pytest.raises(JournalError, match="of another program"):
        opening(path)
    assert contents(path.parent) == before


@either_way
def test_what_a_killed_program_left_is_looked_at_too(path: Path, opening: Callable[[Path], Journal]) -> None:
    """The newer schema may stand in the write-ahead log alone; neither file is changed."""
    with closing(Journal.open(path)):
        pass

    def die_in_the_middle() -> None:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 99")
        os.kill(os.getpid(), signal.SIGKILL)

    in_child(die_in_the_middle)
    before = contents(path.parent)
    assert len(before["journal.db-wal"]) > 0
    with pytest.raises(JournalNewer):
        opening(path)
    assert {name: before[name] for name in ("journal.db", "journal.db-wal")} == {
        name: data for name, data in contents(path.parent).items() if name != "journal.db-shm"
    }


@either_way
@pytest.mark.parametrize("data", [b"not a database\n", b"SQLite format 3\0", b"\0" * 4096, os.urandom(8192)])
def test_a_file_that_is_no_database_is_refused_and_not_touched(
    path: Path, opening: Callable[[Path], Journal], data: bytes
) -> None:
    """Whatever is in it."""
    path.write_bytes(data)
    with pytest.raises(JournalError):
        opening(path)
    assert contents(path.parent) == {"journal.db": data}


@either_way
def test_a_directory_is_refused(path: Path, opening: Callable[[Path], Journal]) -> None:
    """And stays one."""
    path.mkdir()
    with pytest.raises(JournalError):
        opening(path)
    assert list(path.iterdir()) == []


def test_a_link_is_refused(path: Path, tmp_path: Path) -> None:
    """The agent writes to no place that somebody else chose."""
    (tmp_path / "elsewhere").mkdir()
    path.symlink_to(tmp_path / "elsewhere" / "journal.db")
    with pytest.raises(JournalError):
        Journal.open(path)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_journal_that_is_not_there_is_not_made_by_reading(path: Path) -> None:
    """Who reads is told that no agent has been here."""
    with pytest.raises(UsageError, match="no agent has worked"):
        Journal.open_to_read(path)
    assert not path.exists()


@pytest.mark.parametrize("data", [b"", None], ids=["empty", "without tables"])
def test_a_journal_that_was_only_begun_is_none_yet(path: Path, data: bytes | None) -> None:
    """An agent was killed in its first moment; the next one begins anew."""
    if data is None:
        by_hand(path, "PRAGMA journal_mode = WAL")
    else:
        path.write_bytes(data)
    with pytest.raises(UsageError, match="no agent has worked"):
        Journal.open_to_read(path)
    with closing(Journal.open(path)) as journal:
        journal.commit(change(CLEARED))


DAMAGE = {
    "torn": "substr(record, 1, length(record) - 3)",
    "not UTF-8": "CAST(x'7bff7d' AS TEXT)",
    "of another kind": "'[1, 2]'",
    "a number without end": "'{\"attempt\":1' || printf('%.5000d', 0) || '}'",
    "half a character": '\'{"watch":"\\ud800"}\'',
    "nested without end": "'" + '{"watch":' * 5_000 + "'",
    "empty": "''",
    "no text": "x'00'",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_row_that_cannot_be_read_is_told_and_passed_over(journal: Journal, path: Path, damage: str) -> None:
    """Somebody wrote into the file: what can be read is read, and of each other row it is said once which it is."""
    for number in (1, 2):
        each = run(id=f"run-{number}", watch=f"web{number}")
        hook = owed(id=0, watch=f"web{number}", run_id=each.id)
        event = replace(STARTED, watch=each.watch, play_uuid=each.id)
        journal.commit(change(event, runs=(each,), watches=(watch(watch=each.watch, attempt=1),), hooks=(hook,)))
    by_hand(
        path,
        f"UPDATE run SET record = {damage} WHERE id = 'run-1'",
        f"UPDATE watch SET record = {damage} WHERE name = 'web1'",
        f"UPDATE outbox SET record = {damage} WHERE id = 1",
        f"UPDATE event SET record = {damage} WHERE seq = 1",
    )
    told: list[RowUnreadable] = []
    journal.on_unreadable = told.append
    for _ in range(2):
        assert [each.id for each in journal.runs()] == ["run-2"]
        assert [each.id for each in journal.unswept()] == ["run-2"]
        assert [each.id for each in journal.open_runs()] == ["run-2"]
        assert list(journal.watches()) == ["web2"]
        assert [hook.id for hook in journal.owed_hooks()] == [2]
        assert [each.seq for each in history(journal)] == [2]
    assert [(each.table, each.row) for each in told] == [
        ("run", "run-1"),
        ("watch", "web1"),
        ("outbox", "1"),
        ("event", "1"),
    ]
    assert journal.unread_watches() == ("web1",)
    assert [(each.id, each.watch) for each in journal.unread_runs()] == [("run-1", "web1")]
    assert [(each.id, each.watch, each.run_id) for each in journal.unread_hooks()] == [(1, "web1", "run-1")]


def test_an_agent_that_cannot_be_read_is_none(journal: Journal, path: Path) -> None:
    """It is as if none had worked here yet; the next one writes itself down."""
    journal.commit(change(agent=AGENT))
    by_hand(path, "UPDATE agent SET record = '{'")
    assert journal.agent() is None
    journal.commit(change(agent=AGENT))
    assert journal.agent() == AGENT


def test_what_could_not_be_read_is_kept_when_it_is_written_over(journal: Journal, path: Path) -> None:
    """In a table of its own, as it was, for whoever looks into it."""
    journal.commit(change(runs=(run(),), watches=(watch(),)))
    by_hand(path, "UPDATE run SET record = '{run'", "UPDATE watch SET record = '{watch'")
    assert journal.runs() == []
    assert journal.watches() == {}
    journal.commit(change(runs=(closed(),), watches=(watch(),)))
    assert len(journal.runs()) == len(journal.watches()) == 1
    with closing(sqlite3.connect(path)) as connection:
        kept = connection.execute("SELECT origin, row, record FROM unread ORDER BY 1").fetchall()
    assert kept == [("run", "run-1", "{run"), ("watch", "web", "{watch")]


def test_events_that_cannot_be_read_do_not_end_a_batch(journal: Journal, path: Path) -> None:
    """Whoever reads some at a time gets as many as asked for, however many of them are passed over."""
    journal.commit(change(*[CLEARED] * 30))
    by_hand(path, "UPDATE event SET record = '{' WHERE seq BETWEEN 3 AND 20")
    assert [told.seq for told in journal.events_after(0, 4)] == [1, 2, 21, 22]
    assert [told.seq for told in journal.events_after(2, 2)] == [21, 22]


def test_bytes_that_are_no_text_are_written_out(journal: Journal) -> None:
    """A name on disk need not be UTF-8: it is told with escapes, and the row can be read."""
    journal.commit(change(replace(CLEARED, by="caf\udce9"), watches=(watch(last_reason="\ud800"),)))
    (told,) = history(journal)
    assert told.event == replace(CLEARED, by="caf\\udce9")
    assert journal.watches()["web"].last_reason == "\\ud800"


def test_a_damaged_file_is_an_error_with_a_name(path: Path) -> None:
    """Pages of noise in the middle of it."""
    with closing(Journal.open(path)) as journal:
        journal.commit(change(runs=tuple(closed(id=f"run-{number}") for number in range(200))))
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))
    before = path.read_bytes()
    with reading(path) as read, pytest.raises(JournalError, match="It was left as it is"):
        read.runs()
    assert path.read_bytes() == before


# --- owners and modes -------------------------------------------------------------------------------------------------

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that another user gets to, too."""
    with TemporaryDirectory(prefix="jetwatch-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@as_root
@pytest.mark.parametrize("mode", [0o000, 0o400, 0o600])
@either_way
def test_a_journal_that_may_not_be_used_is_refused(shared: Path, opening: Callable[[Path], Journal], mode: int) -> None:
    """It belongs to somebody else; the sentence names the file."""
    path = shared / "journal.db"
    Journal.open(path).close()
    path.chmod(mode)
    before = contents(shared)
    assert re.match(rf"JournalError: {path}: .+", as_nobody(lambda: opening(path)))
    assert contents(shared) == before


@as_root
def test_a_journal_that_may_only_be_read_is_not_opened_to_write(shared: Path) -> None:
    """Not even half: the error comes at once, and not with the first commit."""
    path = shared / "journal.db"
    Journal.open(path).close()
    path.chmod(0o444)
    assert as_nobody(lambda: Journal.open(path)).startswith(f"JournalError: {path}: ")


@as_root
@either_way
def test_a_directory_that_may_not_be_entered_is_an_error_with_a_name(
    shared: Path, opening: Callable[[Path], Journal]
) -> None:
    """Not a traceback."""
    Journal.open(shared / "journal.db").close()
    shared.chmod(0o700)
    assert as_nobody(lambda: opening(shared / "journal.db")).startswith(f"JournalError: {shared / 'journal.db'}: ")


@as_root
def test_reading_as_root_does_not_take_the_files_away_from_their_owner(shared: Path) -> None:
    """The files that SQLite makes beside it belong to the agent's user, who can go on working."""
    path = shared / "journal.db"
    Journal.open(path).close()
    for each in (shared, path):
        os.chown(each, NOBODY, NOBODY)
    with reading(path) as read:
        assert read.runs() == []
        assert {each.stat().st_uid for each in shared.iterdir()} == {NOBODY}
        assert as_nobody(lambda: Journal.open(path).commit(change(CLEARED))) == ""
        assert len(history(read)) == 1


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_every_file_is_private_to_its_owner(path: Path, umask: int) -> None:
    """The write-ahead log and its index too, whatever the umask."""
    before = os.umask(umask)
    try:
        with closing(Journal.open(path)) as journal:
            journal.commit(change(CLEARED))
            with reading(path) as read:
                assert len(history(read)) == 1
                modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("journal.db", "journal.db-wal", "journal.db-shm"), 0o600)


def test_the_last_one_leaves_no_write_ahead_log_behind(journal: Journal, path: Path) -> None:
    """A journal at rest is one file."""
    journal.commit(change(CLEARED))
    journal.close()
    assert list(contents(path.parent)) == ["journal.db"]


@pytest.mark.parametrize("name", ["a b", "a?b", "a#b", "a%41b", "ä", "//", "."])
def test_the_journal_may_lie_anywhere(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is a path, also one that a URI would read otherwise."""
    if name == "//":
        path = Path(f"/{tmp_path}") / "journal.db"
    elif name == ".":
        monkeypatch.chdir(tmp_path)
        path = Path("journal.db")
    else:
        (tmp_path / name).mkdir()
        path = tmp_path / name / "journal.db"
    with closing(Journal.open(path)) as journal:
        journal.commit(change(CLEARED))
        with reading(path) as read:
            assert len(history(read)) == 1
    assert path.stat().st_size > 0


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """A FIFO in the journal's place: whoever opened it would wait until somebody writes."""
    os.mkfifo(tmp_path / "journal.db")
    for opened in (Journal.open, Journal.open_to_read):
        with pytest.raises(JournalError, match="expected the journal, which is a file; found something else"):
            opened(tmp_path / "journal.db")


# --- finding ----------------------------------------------------------------------------------------------------------


def test_a_run_is_found_by_the_beginning_of_its_id(journal: Journal) -> None:
    """If that is enough to tell it from all others."""
    ids = ("a1b2", "a1c3", "b1d4", "b1d4e5")
    journal.commit(change(runs=tuple(closed(id=each) for each in ids)))
    assert [journal.run(each).id for each in ("a1b", "a1c3", "b1d4e")] == ["a1b2", "a1c3", "b1d4e5"]
    for prefix in ("a", "a1", "b1d4", ""):
        with pytest.raises(UsageError, match="more than one run begins with"):
            journal.run(prefix)


@pytest.mark.parametrize("prefix", ["c", "a1b2c", "A1B2", "%", "_1b2", "a1b2'", "ä", "\udcff"])
def test_a_run_that_is_not_there_is_not_found(journal: Journal, prefix: str) -> None:
    """No letter means anything but itself."""
    journal.commit(change(runs=(closed(id="a1b2"),)))
    with pytest.raises(UsageError, match="no run begins with"):
        journal.run(prefix)


def test_without_a_beginning_it_is_the_newest_run(journal: Journal) -> None:
    """Of whatever watch; if there is any."""
    with pytest.raises(UsageError, match="there was no run yet"):
        journal.run()
    journal.commit(change(runs=(closed(id="run-1"), closed(id="run-2", watch="db"))))
    assert journal.run().id == "run-2"


@pytest.mark.parametrize("prefix", [None, "b1", "b1d4"])
def test_a_run_that_cannot_be_read_is_not_said_to_be_missing(path: Path, journal: Journal, prefix: str | None) -> None:
    """Nor is another one shown in its place."""
    journal.commit(change(runs=(closed(id="a1b2"), closed(id="b1d4"))))
    by_hand(path, "UPDATE run SET record = '{' WHERE id = 'b1d4'")
    with pytest.raises(UsageError, match="run b1d4 is in the journal, but its row cannot be read"):
        journal.run(prefix)


def test_a_run_that_cannot_be_read_counts_among_those_that_begin_alike(path: Path, journal: Journal) -> None:
    """Whoever asked may have meant that one."""
    journal.commit(change(runs=(closed(id="b1d3"), closed(id="b1d4"))))
    by_hand(path, "UPDATE run SET record = '{' WHERE id = 'b1d4'")
    with pytest.raises(UsageError, match="more than one run begins with b1"):
        journal.run("b1")


@pytest.fixture
def thousand(journal: Journal) -> Journal:
    """A thousand closed runs of ten watches, all but the newest ten swept, and one that is open."""
    runs = tuple(closed(id=f"{number:04}", watch=f"w{number % 10}", opened=later(number)) for number in range(1_000))
    journal.commit(change(runs=(*runs, run(id="open"))))
    journal.mark_swept(each.id for each in runs[:-10])
    return journal


def test_runs_are_read_newest_first(thousand: Journal) -> None:
    """All, or so many, of all watches or of one."""
    assert [each.id for each in thousand.runs(limit=3)] == ["open", "0999", "0998"]
    assert [each.id for each in thousand.runs(watch="w3", limit=3)] == ["0993", "0983", "0973"]
    assert (len(thousand.runs()), len(thousand.runs(watch="w3")), thousand.runs(watch="w")) == (1_001, 100, [])
    assert [each.seq for each in thousand.runs()] == list(range(1_001, 0, -1))


def test_runs_whose_directories_stand_are_the_ones_not_swept(thousand: Journal) -> None:
    """Newest first."""
    assert [each.id for each in thousand.unswept()] == ["open", *(f"{number:04}" for number in range(999, 989, -1))]
    assert [each.id for each in thousand.unswept("w3")] == ["0993"]


QUESTIONS: dict[str, tuple[Callable[[Journal], object], str]] = {
    "newest": (lambda journal: journal.runs(limit=10), "SCAN run"),  # by seq, and no further than the limit
    "newest of one": (lambda journal: journal.runs(watch="w3", limit=10), "SEARCH run USING INDEX run_by_watch"),
    "open": (Journal.open_runs, "SCAN run USING INDEX run_one_open"),
    "unswept": (Journal.unswept, "SCAN run USING INDEX run_unswept"),
    "unswept of one": (lambda journal: journal.unswept("w3"), "SEARCH run USING INDEX run_unswept"),
    "by prefix": (lambda journal: journal.run("0123"), "SEARCH run USING INDEX sqlite_autoindex_run_1"),
    "owed": (Journal.owed_hooks, "SCAN outbox USING INDEX outbox_owed"),
    "hooks of a run": (lambda journal: journal.hooks_of("0123"), "SEARCH outbox USING INDEX outbox_by_run"),
    "history": (lambda journal: history(journal, 5), "SEARCH event USING INTEGER PRIMARY KEY"),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_question_reads_the_whole_history(thousand: Journal, name: str) -> None:
    """A hundred thousand rows later each of them is as quick: an index, or the newest rows alone."""
    ask, expected = QUESTIONS[name]
    asked: list[str] = []
    thousand._connection.set_trace_callback(asked.append)
    ask(thousand)
    thousand._connection.set_trace_callback(None)
    plan = [row[3] for text in asked for row in thousand._connection.execute(f"EXPLAIN QUERY PLAN {text}")]
    assert plan[0].startswith(expected), plan
    sorts = any("TEMP B-TREE" in step for step in plan)
    assert sorts is (name in ("open", "unswept", "owed"))


# --- forgetting -------------------------------------------------------------------------------------------------------


def test_what_is_older_than_a_year_is_forgotten(journal: Journal) -> None:
    """Closed runs with their events and hooks, and events of no run; whatever is younger stays."""
    for number, age_days in enumerate((500, 400, 367, 365, 1)):
        at = later(-age_days * 86_400)
        one = closed(id=f"run-{number}", opened=at)
        hook = owed(id=0, run_id=one.id, state=HookState.DELIVERED)
        journal.commit(change(replace(STARTED, play_uuid=one.id), CLEARED, runs=(one,), hooks=(hook,), at=at))
    assert journal.prune(NOW.wall_us) == 3
    assert [each.id for each in journal.runs()] == ["run-4", "run-3"]
    assert [each.event.play_uuid for each in history(journal)] == ["run-3", "", "run-4", ""]
    assert [journal.hooks_of(f"run-{number}") != [] for number in range(5)] == [False, False, False, True, True]
    assert journal.prune(NOW.wall_us) == 0


def test_more_than_a_hundred_thousand_runs_are_too_many(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted by run, however often each was written. (Five stand for a hundred thousand.)"""
    assert KEEP_ROWS == 100_000
    assert KEEP_US == 366 * DAY
    monkeypatch.setattr("jetwatch.journal.journal.KEEP_ROWS", 5)
    for number in range(8):
        for one in (run(id=f"run-{number}"), run(started(), id=f"run-{number}"), closed(id=f"run-{number}")):
            journal.commit(change(runs=(one,)))
    assert journal.prune(NOW.wall_us) == 3
    assert [each.id for each in journal.runs()] == [f"run-{number}" for number in range(7, 2, -1)]


def test_an_open_run_and_an_owed_hook_are_never_forgotten(journal: Journal) -> None:
    """However old they are: somebody still has to do something about them."""
    ages = {"open": run(id="open"), "owing": closed(id="owing", watch="db"), "done": closed(id="done", watch="db")}
    for each in ages.values():
        event = replace(STARTED, play_uuid=each.id)
        journal.commit(change(event, runs=(replace(each, opened=later(-3 * 365 * 86_400)),)))
    journal.commit(change(hooks=(owed(id=0, run_id="owing"), owed(id=0, run_id=None, name="on_error"))))
    journal.commit(change(runs=(closed(id="young", watch="db"),)))
    assert journal.prune(NOW.wall_us) == 1
    assert [each.id for each in journal.runs()] == ["young", "owing", "open"]
    assert [entry.run_id for entry in journal.owed_hooks()] == ["owing", None]
    assert [each.event.play_uuid for each in history(journal)] == ["open", "owing"]


def test_hooks_of_no_run_do_not_pile_up(journal: Journal) -> None:
    """An on_error that was delivered or given up has nothing more to say."""
    for state in (HookState.DELIVERED, HookState.ABANDONED, HookState.OWED):
        (stored,) = journal.commit(change(hooks=(owed(id=0, run_id=None, name="on_error"),)))[1]
        journal.commit(change(hooks=(replace(stored, state=state),)))
    journal.prune(NOW.wall_us)
    assert rows(journal, "outbox") == 1
    assert len(journal.owed_hooks()) == 1


def test_forgotten_numbers_are_not_given_again(journal: Journal) -> None:
    """A line of the log that carries a seq means one event for ever."""
    journal.commit(change(STARTED, CLEARED, at=later(-2 * 365 * 86_400)))
    journal.commit(change(runs=(closed(opened=later(-2 * 365 * 86_400)),)))
    journal.commit(change(CLEARED, runs=(closed(id="young"),)))
    journal.prune(NOW.wall_us + YEAR)
    told, _ = journal.commit(change(CLEARED))
    assert told[0].seq == 4


def rows(journal: Journal, table: str) -> int:
    """How many there are."""
    return int(journal._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


# --- the schema -------------------------------------------------------------------------------------------------------


def test_the_journal_says_whose_it_is_and_of_which_version(journal: Journal) -> None:
    """`file journal.db` can tell it from other SQLite files."""
    assert (pragma(journal, "application_id"), pragma(journal, "user_version")) == (0x6A657470, 1)


def test_the_schema_asks_for_no_newer_sqlite_than_there_is() -> None:
    """Python runs on the library of the distribution; STRICT tables and RETURNING came with 3.37 and 3.35."""
    package = resources.files("jetwatch.journal")
    texts = [each.read_text() for each in package.joinpath("migrations").iterdir() if each.name.endswith(".sql")]
    assert texts
    for text in (*texts, package.joinpath("journal.py").read_text()):
        statements = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
        assert not re.search(r"\b(STRICT|RETURNING)\b", statements)


def test_a_migration_that_was_interrupted_is_begun_again(path: Path) -> None:
    """It is one transaction: a kill in its middle leaves the schema before it."""
    script = resources.files("jetwatch.journal").joinpath("migrations", "0001.sql").read_text()

    def die_in_the_middle() -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript("BEGIN IMMEDIATE;" + script[: script.index("CREATE TABLE watch")])
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die_in_the_middle) == ""
    assert path.stat().st_size > 0
    with closing(Journal.open(path)) as journal:
        journal.commit(change(CLEARED, runs=(run(),)))
        assert len(journal.runs()) == 1


if __name__ == "__main__":
    _write_for_ever(Path(sys.argv[1]))


# --- long rows --------------------------------------------------------------------------------------------------------

SEVEN = {f"k{number}": str(number) * 9_000 for number in range(1, 8)}


def long_run(values: Mapping[str, str] = SEVEN, revision: str = "r" * 60_000, tail: str = "") -> Run:
    """A closed run whose check and download said as much as they may."""
    said = replace(OK, outputs=values, output_tail=tail)
    steps = (ended("download", said), ended("play", said))
    known: dict[str, Any] = {"previous_revision": revision, "applied_revision": revision}
    return closed(
        Outcome.OK, *steps, trigger=trigger(revision=revision, values=values), values=values, revision=revision, **known
    )


def sizes(path: Path, table: str) -> list[int]:
    """The bytes of each row."""
    with closing(sqlite3.connect(path)) as connection:
        return [size for (size,) in connection.execute(f"SELECT length(CAST(record AS BLOB)) FROM {table}")]


def test_of_a_long_run_an_excerpt_is_kept_and_the_whole_beside_it(journal: Journal, path: Path) -> None:
    """While its directory stands everything can be read; then every name, and 4 KiB of each value."""
    whole = long_run()
    hook = owed(id=0, values={"revision": "r" * 60_000}, outputs=whole.values)
    told = replace(STARTED, revision="r" * 60_000)
    _, (stored,) = journal.commit(change(told, runs=(whole,), hooks=(hook,)))
    assert [replace(run, seq=0) for run in journal.runs()] == [whole]
    assert journal.hooks_of("run-1") == [stored]
    assert stored.outputs == SEVEN
    assert max(sizes(path, "run")) < 40_000
    assert max(sizes(path, "outbox") + sizes(path, "event")) < 4_000
    directory = path.parent / "runs" / "run-1"
    assert {file.stat().st_mode & 0o777 for file in directory.iterdir()} == {0o600}
    assert directory.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(directory)
    (left,) = journal.runs()
    assert left.values == {name: f"{value[:4096]}…" for name, value in SEVEN.items()}
    assert left.revision == "r" * 1024 + "…"
    assert (left.outcome, left.steps[1].command) == (Outcome.OK, whole.steps[1].command)
    (hook_left,) = journal.owed_hooks()
    assert (hook_left.name, hook_left.command) == (hook.name, hook.command)


TEXTS = st.one_of(st.text(max_size=200), st.sampled_from(["\x01", "é", "😀", "x"]).map(lambda each: each * 9_000))


@given(
    st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,40}", fullmatch=True), TEXTS, max_size=256),
    st.sampled_from(["", "r", "\x01" * 20_000]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_no_row_of_a_run_is_longer_than_sixty_kilobytes(
    values: dict[str, str], revision: str, has_long_name: bool
) -> None:
    """Whatever its commands said, and however many bytes a character takes."""
    if has_long_name:
        values = {**values, "n" * 60_000: "x"}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"
        with closing(Journal.open(path)) as journal:
            whole = long_run(values, revision, "\x01" * 4096)
            hook = owed(id=0, values=dict.fromkeys(["revision", "previous_revision"], revision), outputs=values)
            told = StepFinished(watch="web", play_uuid="run-1", step="play", ok=False, output_tail="\x01" * 4096)
            journal.commit(change(told, replace(STARTED, revision=revision or None), runs=(whole,), hooks=(hook,)))
            assert [replace(run, seq=0) for run in journal.runs()] == [whole]
        assert max(sizes(path, "run")) < 60_000
        assert max(sizes(path, "outbox")) < 20_000
        assert max(sizes(path, "event")) < 12_000


def test_a_row_and_what_lies_beside_it_always_fit(journal: Journal, path: Path) -> None:
    """A change that was not written is not read, a change that was leaves one file, and what was before is gone."""
    first, second = long_run(), long_run(revision="s" * 60_000)
    journal.commit(change(runs=(first,)))
    with pytest.raises(TypeError):
        journal.commit(change(runs=(second,), watches=(watch(last_reason=object()),)))
    assert [replace(run, seq=0) for run in journal.runs()] == [first]
    journal.commit(change(runs=(second,)))
    assert [replace(run, seq=0) for run in journal.runs()] == [second]
    assert len(list((path.parent / "runs" / "run-1").iterdir())) == 1


@pytest.mark.parametrize("harm", ["gone", "torn"])
def test_an_open_run_without_its_whole_record_cannot_go_on(journal: Journal, path: Path, harm: str) -> None:
    """Its commands would get a part of what they are to get: it counts as one that cannot be read."""
    journal.commit(change(runs=(replace(long_run(), outcome=None),)))
    (file,) = (path.parent / "runs" / "run-1").iterdir()
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    assert journal.open_runs() == []
    assert [run.id for run in journal.unread_runs()] == ["run-1"]


def test_what_is_configured_is_never_cut(journal: Journal, path: Path) -> None:
    """However long: a run goes on with the very commands that it began with, and needs no file for them."""
    long = Command(shell="true # " + "x" * 100_000)
    each = run(step("play", command=long), values={"k": "v"})
    journal.commit(change(runs=(each,)))
    assert [replace(run, seq=0) for run in journal.runs()] == [each]
    assert not (path.parent / "runs").exists()


def test_hooks_of_no_run_are_forgotten_once_they_are_settled(journal: Journal, path: Path) -> None:
    """A check that fails again and again, in a watch without runs, fills nothing."""
    _, hooks = journal.commit(change(hooks=(owed(id=0, run_id=None), owed(id=0, run_id=None))))
    states = (HookState.DELIVERED, HookState.ABANDONED)
    journal.commit(change(hooks=tuple(replace(hook, state=state) for hook, state in zip(hooks, states, strict=True))))
    assert sizes(path, "outbox") == []


def test_events_of_no_run_are_pruned_without_any_run(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they come, not only when runs end."""
    monkeypatch.setattr("jetwatch.journal.journal.KEEP_ROWS", 5)
    monkeypatch.setattr("jetwatch.journal.journal._PRUNE_EVERY", 10)
    for _ in range(35):
        journal.commit(change(CLEARED))
    assert [told.seq for told in history(journal)] == list(range(26, 36))
