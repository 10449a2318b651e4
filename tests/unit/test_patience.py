"""An engine whose journal stalls waits inside the call, says so, and ends at once when it is told to hurry."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jetwatch.clock import SystemClock
from jetwatch.engine.patience import PatientJournal
from jetwatch.errors import JournalStalled
from jetwatch.events import Change, DiskLow, Event
from jetwatch.journal import journal as room
from jetwatch.journal.journal import Journal
from jetwatch.journal.reserve import RESERVE_BYTES, Reserve
from jetwatch.records import WatchState

STALLED = JournalStalled(Path("journal.db"), "no_space", "database or disk is full")
LOW = DiskLow(path="/state", free_bytes=RESERVE_BYTES, free_inodes=1, reserve_bytes=RESERVE_BYTES, reserve_inodes=1)


class StallingJournal:
    """Fails as often as it is told to, first in `prune`, then in `recover`."""

    def __init__(self, stalls: int, low: DiskLow | None = None) -> None:
        self.stalls = stalls
        self.low = low
        self.calls: list[str] = []

    def prune(self, now_us: int) -> int:
        """The call that stalls."""
        self._stall("prune")
        return now_us

    def recover(self) -> DiskLow | None:
        """Opens anew."""
        self._stall("recover")
        return self.low

    def keep_reserve(self) -> bool:
        """There is room."""
        return True

    def _stall(self, name: str) -> None:
        self.calls.append(name)
        if self.stalls:
            self.stalls -= 1
            raise STALLED


class Patience:
    """A patient journal over one that stalls, and everything that it said."""

    def __init__(self, journal: Any) -> None:
        self.told: list[Event] = []
        self.stalled: list[bool] = []
        self.clock = SystemClock()
        self.journal = PatientJournal(
            journal,
            self.clock,
            tell=self.told.append,
            on_stall=lambda error: self.stalled.append(error is not None),
            retry_s=0.0,
        )

    def names(self) -> list[str]:
        """The events so far."""
        return [event.name for event in self.told]

    def close(self) -> None:
        """Give the descriptors back."""
        self.journal.close()
        self.clock.close()


@pytest.fixture
def patience(request: pytest.FixtureRequest) -> Iterator[Patience]:
    """Over a journal that stalls as the test's parameter says."""
    made = Patience(StallingJournal(*request.param))
    yield made
    made.close()


@pytest.mark.parametrize("patience", [(4,)], indirect=True)
def test_a_call_comes_back_when_it_is_done(patience: Patience) -> None:
    """It is opened anew before each further try; said once that it stalls, and once that it goes on."""
    patience.journal.begin()
    assert patience.journal.prune(7) == 7
    assert patience.names() == ["journal_stalled", "journal_resumed"]
    assert patience.stalled == [True, True, True, False]
    assert patience.journal.stalled is None


@pytest.mark.parametrize("patience", [(1, LOW)], indirect=True)
def test_what_the_reserve_was_good_for_is_no_stall(patience: Patience) -> None:
    """One failure, the reserve is given up, done: the disk is low, and nobody waited."""
    patience.journal.begin()
    assert patience.journal.prune(7) == 7
    assert patience.told == [LOW]
    assert patience.stalled == []


@pytest.mark.parametrize("patience", [(1000,)], indirect=True)
@pytest.mark.parametrize("begun", [False, True])
def test_who_may_not_wait_gets_the_error(patience: Patience, begun: bool) -> None:
    """Before the engine works, and after it was told to hurry: one try to mend it, then the error."""
    if begun:
        patience.journal.begin()
        patience.journal.hurry()
    with pytest.raises(JournalStalled):
        patience.journal.prune(7)
    assert patience.journal.stalled is STALLED


def test_the_reserve_is_taken_and_given_up(tmp_path: Path) -> None:
    """It holds what it says; given up it is gone, and there is something to tell."""
    reserve = Reserve(tmp_path / "reserve")
    assert reserve.give_up() is None
    assert reserve.keep()
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= RESERVE_BYTES
    assert (tmp_path / "reserve").stat().st_mode & 0o777 == 0o600
    low = reserve.give_up()
    assert low is not None
    assert low.free_bytes > 0
    assert not reserve.is_held


class FailingCheckpoint:
    """A connection whose checkpoints fail as on a disk that does not sync."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, text: str, *values: Any) -> Any:
        """Everything but a checkpoint."""
        if "wal_checkpoint" in text:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error
        return self._connection.execute(text, *values)


def test_after_a_checkpoint_that_failed_nothing_is_written_before_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change itself is done, the next one stalls, and after `recover` it is written, once."""
    monkeypatch.setattr(room, "_CHECKPOINT_EVERY", 1)
    journal = Journal.open(tmp_path / "journal.db")
    clock = SystemClock()
    now = clock.now()
    clock.close()
    change = Change(at=now, watches=(WatchState("web"),))
    connection = journal._connection
    journal._connection = FailingCheckpoint(connection)
    journal.commit(change)
    with pytest.raises(JournalStalled):
        journal.commit(change)
    journal.recover()
    assert journal._connection is not connection
    journal.commit(change)
    assert set(journal.watches()) == {"web"}
    journal.close()
    assert not (tmp_path / "journal.db-wal").exists()
