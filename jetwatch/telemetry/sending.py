"""The history, sent over HTTP: every event at least once, in order, over failures, restarts and crashes.

The journal is the queue. A watermark of its own says up to where it was sent, and rises when a batch was accepted: a
batch whose answer was lost is sent again, and `id` (the state directory's id and `seq`) tells. What the journal forgot
before it could be sent is counted as lost; nothing else is ever left out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from msgspec import Struct

from jetwatch.errors import JetwatchError
from jetwatch.events import Event, SinkFailed, SinkLost, SinkResumed, Told
from jetwatch.telemetry.watermark import Watermark

BATCH_EVENTS = 100
BATCH_BYTES = 512 * 1024
LINGER_S = 0.5
"""How long a first event waits for those that come with it: a run's end is three or four."""

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 300.0
LONGEST_ASKED_S = 3600.0
_CLOSE_WITHIN_S = 0.3


class Answer(Struct, frozen=True):
    """How one attempt went. `status` None: there was no answer, and `detail` says why."""

    status: int | None
    detail: str
    retry_after_s: float | None = None


class Verdict(Enum):
    """What an answer means for the batch."""

    ACCEPTED = "accepted"
    NOT_THIS = "not this"  # the server has looked at what it was given and does not want it, or not so much at once
    LATER = "later"


class Road(Protocol):
    """Where a batch goes, and in what form."""

    def post(self, batch: list[bytes]) -> Answer:
        """Send a batch. Blocks within a bound; never raises."""

    def form(self, told: Told) -> bytes:
        """One event as it is sent."""


Read = Callable[[int, int], list[Told]]
"""The history after a seq, at most so many events."""


def judge(answer: Answer) -> Verdict:
    """400, 413 and 422 are about the batch; everything else is about the server, the way there, or the token."""
    if answer.status is not None and 200 <= answer.status < 300:
        return Verdict.ACCEPTED
    return Verdict.NOT_THIS if answer.status in (400, 413, 422) else Verdict.LATER


def wait_s(failures: int, answer: Answer, uniform: Callable[[float], float]) -> float:
    """Full jitter, so that a fleet does not come back at once; and not before the server says (an hour at most)."""
    bound_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures - 1, 20))
    asked_s = min(LONGEST_ASKED_S, answer.retry_after_s or 0.0)
    return asked_s + uniform(bound_s)


class Sender:
    """One thread that sends what the journal holds. `news` may be called by any thread and never waits."""

    def __init__(
        self,
        road: Road,
        read: Read,
        mark: Watermark,
        *,
        newest_seq: int,
        uniform: Callable[[float], float],
        tell: Callable[[Event], None],
    ) -> None:
        self.lost = 0
        self.sent = 0
        self._road = road
        self._read = read
        self._mark = mark
        self._uniform = uniform
        self._tell = tell
        self._most = BATCH_EVENTS
        self._failures = 0
        self._newest_seq = newest_seq
        self._news = threading.Event()
        self._stop = threading.Event()
        self._idle = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sending", daemon=True)

    @property
    def waiting(self) -> int:
        """How many events are not sent yet."""
        return max(0, self._newest_seq - self._mark.seq)

    def start(self) -> None:
        """Begin with what an earlier agent left."""
        self._thread.start()

    def news(self, seq: int) -> None:
        """There is history up to `seq`."""
        self._newest_seq = seq
        self._news.set()

    def drain(self, patience_s: float) -> None:
        """Wait until everything is sent or an attempt failed, so long at most."""
        give_up = time.monotonic() + patience_s
        while self.waiting and not self._failures and self._thread.is_alive():
            self._idle.clear()
            self._news.set()
            if not self._idle.wait(max(0.0, give_up - time.monotonic())):
                return

    def close(self) -> None:
        """Stop. What is under way is left to end with the process, and sent again by the next agent."""
        self._stop.set()
        self._news.set()
        self._thread.join(_CLOSE_WITHIN_S)

    # -- the thread

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                if not self._try_next() and not self._stop.is_set():
                    self._idle.set()
                    self._news.wait()
                    self._news.clear()
                    self._stop.wait(LINGER_S)
        finally:
            self._idle.set()

    def _try_next(self) -> bool:
        try:
            return self._send_next()
        except Exception as error:  # noqa: BLE001 - the thread's one catch-all: told, tried again, and the agent works on
            self._failed(Answer(None, f"jetwatch itself failed here ({type(error).__name__}); please report that"))
            return True

    def _send_next(self) -> bool:
        """Send one batch, or wait after a failure. False: there is nothing to send."""
        try:
            events = self._read(self._mark.seq, self._most)
        except JetwatchError as error:
            self._failed(Answer(None, str(error)))
            return True
        if not events:
            return False
        batch, last = self._pack(events)
        answer = self._road.post(batch)
        match judge(answer):
            case Verdict.ACCEPTED:
                self._accepted(len(batch), last)
            case Verdict.NOT_THIS if len(batch) > 1:
                self._most = max(1, len(batch) // 2)
            case Verdict.NOT_THIS:
                self._give_up(last, answer)
            case Verdict.LATER:
                self._failed(answer)
        return True

    def _pack(self, events: list[Told]) -> tuple[list[bytes], int]:
        """As many events as fit, at least one, and the seq of the last."""
        batch: list[bytes] = []
        size, last = 0, self._mark.seq
        for told in events:
            data = self._road.form(told)
            if batch and size + len(data) > BATCH_BYTES:
                break
            batch.append(data)
            size += len(data)
            last = told.seq or last
        return batch, last

    def _accepted(self, count: int, last: int) -> None:
        self.sent += count
        self._most = min(BATCH_EVENTS, self._most * 2)
        if self._failures:
            self._tell(SinkResumed(failures=self._failures))
        self._failures = 0
        self._count_lost(last - self._mark.seq - count, "the journal forgot them before they could be sent")
        self._mark.raise_to(last)

    def _give_up(self, last: int, answer: Answer) -> None:
        """A single event that the server will never take must not hold up all that follow."""
        self._count_lost(last - self._mark.seq, f"refused: {answer.detail}")
        self._mark.raise_to(last)

    def _count_lost(self, count: int, reason: str) -> None:
        if count > 0:
            self.lost += count
            self._tell(SinkLost(count=count, reason=reason))

    def _failed(self, answer: Answer) -> None:
        self._failures += 1
        if self._failures == 1:
            self._tell(SinkFailed(reason=answer.detail))
        self._idle.set()
        self._stop.wait(wait_s(self._failures, answer, self._uniform))
