"""History over HTTP: what an answer means, how long to wait, what is sent, sent again, and lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import NOW
from waiting import until
from web_server import saying

from jetwatch.errors import JournalError
from jetwatch.events import Event, Resumed, SinkFailed, SinkLost, SinkResumed, Told
from jetwatch.telemetry.http_sink import HttpRoad, Target
from jetwatch.telemetry.sending import Answer, Sender, Verdict, judge, wait_s
from jetwatch.telemetry.watermark import Watermark

OK = Answer(200, "HTTP 200")


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.ACCEPTED),
        (202, Verdict.ACCEPTED),
        (301, Verdict.LATER),  # no redirect is followed with a token
        (400, Verdict.NOT_THIS),
        (401, Verdict.LATER),  # a token can be renewed; history that was thrown away cannot
        (403, Verdict.LATER),
        (404, Verdict.LATER),
        (413, Verdict.NOT_THIS),
        (429, Verdict.LATER),
        (500, Verdict.LATER),
        (503, Verdict.LATER),
        (None, Verdict.LATER),
    ],
)
def test_only_what_is_about_the_batch_is_not_tried_again(status: int | None, verdict: Verdict) -> None:
    """Everything else may pass."""
    assert judge(Answer(status, "")) is verdict


@pytest.mark.parametrize(
    ("failures", "retry_after_s", "longest"),
    [(1, None, 1), (2, None, 2), (5, None, 16), (30, None, 300), (1, 60, 61), (1, 10**6, 3601)],
)
def test_waits_double_and_heed_the_server(failures: int, retry_after_s: float | None, longest: float) -> None:
    """Within a bound; anything from what the server asks up to it."""
    answer = Answer(503, "", retry_after_s)
    assert wait_s(failures, answer, lambda limit: limit) == longest
    assert wait_s(failures, answer, lambda _limit: 0.0) == min(3600, retry_after_s or 0)


class History:
    """A journal in memory. What is taken out of it was trimmed."""

    def __init__(self, count: int) -> None:
        self.events = {seq: Told(Resumed(watch="web", by=f"x{seq}"), NOW.wall_us, seq) for seq in range(1, count + 1)}

    def read(self, seq: int, most: int) -> list[Told]:
        """As the journal does it."""
        return [told for number, told in sorted(self.events.items()) if number > seq][:most]


class Server:
    """Takes batches; `answers` come first, then everything is accepted. What is `hated` is refused."""

    def __init__(self, *answers: Answer, hated: frozenset[int] = frozenset(), most: int = 1000) -> None:
        self._answers = list(answers)
        self._hated = hated
        self._most = most
        self.accepted: list[int] = []
        self.attempts: list[int] = []

    def form(self, told: Told) -> bytes:
        """Its seq alone."""
        return str(told.seq).encode()

    def post(self, batch: list[bytes]) -> Answer:
        """One answer."""
        self.attempts.append(len(batch))
        if self._answers:
            return self._answers.pop(0)
        seqs = [int(each) for each in batch]
        if len(seqs) > self._most:
            return Answer(413, "too much")
        if self._hated & set(seqs):
            return Answer(400, "not this")
        self.accepted += seqs
        return OK


class Bench:
    """A sender between a history and a server, with what it told."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.told: list[Event] = []
        self.senders: list[Sender] = []

    def send(self, history: History, server: Server, default: int = 0) -> Sender:
        """A sender at work."""
        newest = max(history.events, default=0)
        mark = Watermark(self._path / "sent", default)
        sender = Sender(
            server, history.read, mark, newest_seq=newest, uniform=lambda _limit: 0.0, tell=self.told.append
        )
        self.senders.append(sender)
        sender.start()
        return sender

    def of(self, kind: type[Event]) -> list[Event]:
        """What was told of this kind."""
        return [event for event in self.told if isinstance(event, kind)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Ended with the test."""
    made = Bench(tmp_path)
    yield made
    for sender in made.senders:
        sender.close()


def test_everything_is_sent_in_order_in_batches(bench: Bench) -> None:
    """Of a hundred at most."""
    server = Server()
    sender = bench.send(History(250), server)
    until(lambda: sender.waiting == 0)
    assert server.accepted == list(range(1, 251))
    assert server.attempts == [100, 100, 50]
    assert (sender.sent, sender.lost, bench.told) == (250, 0, [])


def test_what_is_new_is_sent_when_there_is_news(bench: Bench) -> None:
    """And nothing is asked before."""
    history, server = History(0), Server()
    sender = bench.send(history, server)
    history.events = History(3).events
    sender.news(3)
    until(lambda: server.accepted == [1, 2, 3])


def test_what_nobody_foresaw_is_a_failure_like_others(bench: Bench) -> None:
    """It is told without its words, which may hold the token, and everything is sent in the end."""
    server = Server()
    post, faults = server.post, [ValueError("hunter2"), RecursionError(), MemoryError()]

    def faulty(batch: list[bytes]) -> Answer:
        if faults:
            raise faults.pop(0)
        return post(batch)

    server.post = faulty  # type: ignore[method-assign]
    sender = bench.send(History(5), server)
    until(lambda: sender.waiting == 0)
    assert server.accepted == [1, 2, 3, 4, 5]
    failed, resumed = bench.told
    assert "ValueError" in failed.reason  # type: ignore[attr-defined]
    assert "hunter2" not in repr(failed)
    assert resumed == SinkResumed(failures=3)


def test_a_failure_is_told_once_and_its_end_too(bench: Bench) -> None:
    """Nothing is lost, nothing left out."""
    server = Server(Answer(None, "no connection"), Answer(503, "HTTP 503"), Answer(403, "HTTP 403"))
    sender = bench.send(History(5), server)
    until(lambda: sender.waiting == 0)
    assert server.accepted == [1, 2, 3, 4, 5]
    assert bench.told == [SinkFailed(reason="no connection"), SinkResumed(failures=3)]


def test_the_next_agent_goes_on_where_this_one_was(bench: Bench) -> None:
    """What was accepted is not sent again."""
    server = Server()
    first = bench.send(History(5), server)
    until(lambda: first.waiting == 0)
    first.close()
    second = bench.send(History(8), server, default=8)
    until(lambda: second.waiting == 0)
    assert server.accepted == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_sink_that_is_new_begins_with_what_is_new(bench: Bench) -> None:
    """A year of history is nobody's news."""
    server = Server()
    sender = bench.send(History(5), server, default=4)
    until(lambda: sender.waiting == 0)
    assert server.accepted == [5]


def test_a_batch_that_is_too_large_is_halved(bench: Bench) -> None:
    """As often as need be."""
    server = Server(most=30)
    sender = bench.send(History(100), server)
    until(lambda: sender.waiting == 0)
    assert server.accepted == list(range(1, 101))
    assert (sender.lost, bench.of(SinkLost)) == (0, [])


def test_an_event_that_is_never_taken_holds_up_no_other(bench: Bench) -> None:
    """It alone is lost, and that is told."""
    server = Server(hated=frozenset({7}))
    sender = bench.send(History(20), server)
    until(lambda: sender.waiting == 0)
    assert server.accepted == [seq for seq in range(1, 21) if seq != 7]
    assert sender.lost == 1
    assert bench.of(SinkLost) == [SinkLost(count=1, reason="refused: not this")]


def test_what_the_journal_forgot_is_counted_as_lost(bench: Bench) -> None:
    """To the event."""
    history, server = History(20), Server()
    for seq in (1, 2, 3, 11):
        del history.events[seq]
    sender = bench.send(history, server)
    until(lambda: sender.waiting == 0)
    assert sender.sent + sender.lost == 20
    assert sender.lost == 4


def test_a_journal_that_cannot_be_read_is_tried_again(bench: Bench) -> None:
    """As a server that cannot be reached."""
    history, server = History(3), Server()
    read, broken = history.read, [True]

    def read_later(seq: int, most: int) -> list[Told]:
        if broken:
            broken.clear()
            raise JournalError("locked")
        return read(seq, most)

    history.read = read_later  # type: ignore[method-assign]
    sender = bench.send(history, server)
    until(lambda: sender.waiting == 0)
    assert bench.told == [SinkFailed(reason="locked"), SinkResumed(failures=1)]


def test_draining_ends_with_the_last_event_or_the_first_failure(bench: Bench) -> None:
    """`--once` waits for a server that works, and not for one that does not."""
    working = bench.send(History(250), Server())
    working.drain(30)
    assert working.waiting == 0
    working.close()
    broken = bench.send(History(500), Server(*[Answer(503, "down", 3600.0)] * 5))
    broken.drain(30)
    assert broken.waiting == 250


def test_a_receiver_that_goes_on_and_on_is_left() -> None:
    """Each byte comes in time; the whole never does."""
    with saying(b"HTTP/1.1 100 Continue\r\n\r\n") as port:
        road = HttpRoad(Target(f"http://127.0.0.1:{port}/x", hec=False, timeout_s=0.1), lambda _: {}, "here")
        for _ in range(2):
            assert judge(road.post([b"{}"])) is Verdict.LATER
        road.leave()


def test_connections_that_a_receiver_ends_do_not_add_up() -> None:
    """Each batch has its own, and the one before is gone."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with saying(answer) as port:
        road = HttpRoad(Target(f"http://127.0.0.1:{port}/x", hec=False), lambda _: {}, "here")
        road.post([b"{}"])
        before = open_files()
        assert all(judge(road.post([b"{}"])) is Verdict.ACCEPTED for _ in range(5))
        until(lambda: open_files() <= before + 1)
        road.leave()


def open_files() -> int:
    """Of this process, which is the receiver, too."""
    return len(list(Path("/proc/self/fd").iterdir()))
