"""The journal as the engine sees it: a call comes back when it is done, however long the disk takes to allow that.

While the journal cannot be written nothing is decided, so no run begins and nothing is forgotten; what has begun lives
on under its supervisors, and what comes in waits in the inbox. Each second everything is opened and tried anew. Who
stops the agent meanwhile ends it as a kill would: the next one goes on from what is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from jetwatch.clock import Clock
from jetwatch.descriptors import is_readable
from jetwatch.errors import JournalStalled
from jetwatch.events import Change, DiskLow, Event, JournalResumed, Told
from jetwatch.events import JournalStalled as StalledEvent
from jetwatch.records import OutboxEntry, Run

Result = TypeVar("Result")

RETRY_S = 1.0
_SAY_AGAIN_US = 600_000_000
_KEEP_AGAIN_US = 10_000_000


class Journal(Protocol):
    """What the engine needs of the journal. Every method may raise JournalStalled; then it has done nothing."""

    def commit(self, change: Change) -> tuple[tuple[Told, ...], tuple[OutboxEntry, ...]]:
        """Write all of `change` or nothing."""

    def unswept(self, watch: str | None = None) -> list[Run]:
        """The runs whose directories still stand, newest first."""

    def swept_among(self, run_ids: Iterable[str]) -> tuple[str, ...]:
        """Which of these runs are known, and marked as removed."""

    def mark_swept(self, run_ids: Iterable[str]) -> None:
        """Say that the directories of these runs are about to be removed."""

    def prune(self, now_us: int) -> int:
        """Forget the oldest rows."""

    def recover(self) -> DiskLow | None:
        """Open anew, and assume nothing of what was not acknowledged; give up the reserve where there is no room."""

    def keep_reserve(self) -> bool:
        """Have space in reserve again, if there is any. Returns whether there is."""


class PatientJournal:
    """All methods but `hurry` are for one thread. `on_stall` is told the reason each second, and None at the end."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        *,
        tell: Callable[[Event], None],
        on_stall: Callable[[JournalStalled | None], None],
        retry_s: float = RETRY_S,
    ) -> None:
        self.stalled: JournalStalled | None = None
        self._journal = journal
        self._clock = clock
        self._tell = tell
        self._on_stall = on_stall
        self._retry_s = retry_s
        self._hurry_fd = os.eventfd(1, os.EFD_CLOEXEC)  # readable: nobody waits
        self._stalled_us = 0
        self._said_us = 0
        self._keep_us: int | None = None

    def begin(self) -> None:
        """From now on a stalled call waits; before, it fails."""
        os.eventfd_read(self._hurry_fd)

    def hurry(self) -> None:
        """From now on a stalled call fails, one that waits already, too. From any thread."""
        os.eventfd_write(self._hurry_fd, 1)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._hurry_fd)

    def commit(self, change: Change) -> tuple[tuple[Told, ...], tuple[OutboxEntry, ...]]:
        """Write all of `change`."""
        return self._do(lambda: self._journal.commit(change))

    def unswept(self, watch: str | None = None) -> list[Run]:
        """The runs whose directories still stand, newest first."""
        return self._do(lambda: self._journal.unswept(watch))

    def swept_among(self, run_ids: Iterable[str]) -> tuple[str, ...]:
        """Which of these runs are known, and marked as removed."""
        return self._do(lambda: self._journal.swept_among(run_ids))

    def mark_swept(self, run_ids: Iterable[str]) -> None:
        """Say that the directories of these runs are about to be removed."""
        self._do(lambda: self._journal.mark_swept(run_ids))

    def prune(self, now_us: int) -> int:
        """Forget the oldest rows."""
        return self._do(lambda: self._journal.prune(now_us))

    def _do(self, call: Callable[[], Result]) -> Result:
        """Raises JournalStalled when nobody may wait any more."""
        try:
            result = call()
        except JournalStalled:
            result = self._try_anew(call)
        self._keep_reserve()
        return result

    def _try_anew(self, call: Callable[[], Result]) -> Result:
        while True:
            try:
                given_up = self._journal.recover()
                if given_up is not None:
                    self._keep_us = self._clock.now().boot_us + _KEEP_AGAIN_US
                    self._tell(given_up)
                result = call()
            except JournalStalled as error:
                self._wait(error)
            else:
                self._resume()
                return result

    def _wait(self, error: JournalStalled) -> None:
        now_us = self._clock.now().boot_us
        if self.stalled is None:
            self._stalled_us = now_us
        if self.stalled is None or now_us >= self._said_us + _SAY_AGAIN_US:
            self._said_us = now_us
            self._tell(StalledEvent(reason=error.reason, detail=error.detail, since_s=self._since_s(now_us)))
        self.stalled = error
        self._on_stall(error)
        if is_readable(self._hurry_fd, within_s=self._retry_s):
            raise error

    def _resume(self) -> None:
        if self.stalled is not None:
            self.stalled = None
            self._on_stall(None)
            self._tell(JournalResumed(after_s=self._since_s(self._clock.now().boot_us)))

    def _since_s(self, now_us: int) -> float:
        return round((now_us - self._stalled_us) / 1e6, 3)

    def _keep_reserve(self) -> None:
        """After it was given up, and at the first call of all."""
        now_us = self._clock.now().boot_us
        if self._keep_us is not None and now_us < self._keep_us:
            return
        self._keep_us = None if self._journal.keep_reserve() else now_us + _KEEP_AGAIN_US
