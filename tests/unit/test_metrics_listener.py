"""Who asks for the figures over HTTP, and who only takes up the line: real connections, of any account."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from waiting import until

from jetwatch.telemetry import prometheus
from jetwatch.telemetry.metrics import REQUESTS, Reading
from jetwatch.telemetry.prometheus import Listener

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def port() -> Iterator[int]:
    """A listener with one figure."""
    yield from listening([Reading(REQUESTS, ("web",), 7)])


def listening(readings: list[Reading]) -> Iterator[int]:
    """A listener with these figures, as its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
    listener = Listener(("127.0.0.1", number), lambda: None, lambda: readings)
    listener.start()
    yield number
    listener.close()


def connect(port: int) -> socket.socket:
    """A connection that waits for nothing longer than 20 s."""
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            answer += piece
    return answer


def scrape(port: int) -> bytes:
    """The answer to an ordinary scraper."""
    with connect(port) as connection:
        connection.sendall(GET)
        return everything(connection)


def dribble(connection: socket.socket, over: threading.Event) -> None:
    """A byte now and then, so that no single read ever takes long."""
    with contextlib.suppress(OSError):
        while not over.wait(0.05):
            connection.send(b"a")


def test_a_scraper_is_answered_while_another_one_dawdles(port: int) -> None:
    """However many bytes it sends, one by one."""
    over = threading.Event()
    with connect(port) as dawdler:
        dawdler.sendall(b"GET /")
        sender = threading.Thread(target=dribble, args=(dawdler, over))
        sender.start()
        try:
            assert b'jetwatch_requests_total{watch="web"} 7.0' in scrape(port)
        finally:
            over.set()
            sender.join()


def test_a_request_has_a_deadline_as_a_whole(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that go on coming do not put it off."""
    monkeypatch.setattr(prometheus, "REQUEST_WITHIN_S", 0.5)
    over = threading.Event()
    with connect(port) as dawdler:
        began = time.monotonic()
        sender = threading.Thread(target=dribble, args=(dawdler, over))
        sender.start()
        try:
            assert everything(dawdler) == b""
            assert 0.4 <= time.monotonic() - began < 15
        finally:
            over.set()
            sender.join()


def test_any_number_of_silent_connections_keeps_no_scraper_away(port: int) -> None:
    """The one that has been silent longest makes room, and threads are few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    before = threading.active_count()
    try:
        with contextlib.ExitStack() as held:
            for _ in range(1_000):
                held.enter_context(connect(port))
            assert b" 200 OK" in scrape(port)
            until(lambda: threading.active_count() - before <= prometheus.MOST_CONNECTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_asks_and_does_not_read_keeps_nobody_away() -> None:
    """An answer larger than all buffers waits for its reader until the deadline, and no longer."""
    figures = [Reading(REQUESTS, (f"web-{number}" + "x" * 1_000_000,), 7) for number in range(10)]
    served = listening(figures)
    port = next(served)
    before = threading.active_count()
    with contextlib.ExitStack() as held:
        for _ in range(3):
            held.enter_context(connect(port)).sendall(GET)
        assert b" 200 OK" in scrape(port)[:100]
        until(lambda: threading.active_count() <= before, 30)
    assert next(served, None) is None


@pytest.mark.parametrize("long", [b"GET /" + b"a" * 20_000, b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000])
def test_a_request_of_any_length_is_read_up_to_its_bound(port: int, long: bytes) -> None:
    """Neither the first line nor the headers take more memory than that."""
    with connect(port) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(long)
        assert everything(connection) == b""
    assert b" 200 OK" in scrape(port)


def test_of_pipelined_requests_the_first_one_is_answered(port: int) -> None:
    """And the connection is over."""
    with connect(port) as connection:
        connection.sendall(GET * 3)
        assert everything(connection).count(b" 200 OK") <= 1
    assert b" 200 OK" in scrape(port)


def test_many_scrapers_at_once_are_rendered_one_after_the_other() -> None:
    """They take no more of the processor, and ask the engine no more often, than one."""
    at_once, most = [0], [0]

    class Slow(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
            time.sleep(0.02)
            at_once[0] -= 1
            return super().__iter__()

    served = listening(Slow([Reading(REQUESTS, ("web",), 7)]))
    port = next(served)
    answers: list[bytes] = []
    work: Callable[[], None] = lambda: answers.append(scrape(port))  # noqa: E731
    scrapers = [threading.Thread(target=work) for _ in range(8)]
    for scraper in scrapers:
        scraper.start()
    for scraper in scrapers:
        scraper.join()
    assert (most[0], sum(b" 200 OK" in answer for answer in answers)) == (1, 8)
    assert next(served, None) is None
