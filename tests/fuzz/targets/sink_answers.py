"""Whatever the server of `log.http` answers to what is posted. Real sockets, loopback only."""

from __future__ import annotations

import os
import time

from fuzz.answering import Answering, stay_at_home
from fuzz.target import Target
from jetwatch.telemetry import http_sink
from jetwatch.telemetry.sending import Answer

TOKEN = "a-token-of-ours"
TIMEOUT_S = 1.0
SLACK_S = 5.0
LONGEST_DETAIL = 1024
LONGEST_WAIT_S = 10**9

stay_at_home()
os.environ["FUZZ_TOKEN"] = TOKEN
_server = Answering()


def one_input(data: bytes) -> None:
    """One batch is posted; what is said of the answer is bounded, printable, and has no token in it."""
    url = f"http://127.0.0.1:{_server.port}/history"
    target = http_sink.Target(url, hec=False, token_env="FUZZ_TOKEN", timeout_s=TIMEOUT_S)
    _server.say(data)
    began_s = time.monotonic()
    answer = http_sink.HttpRoad(target, lambda _: {}, "origin").post([b"{}\n"])
    assert time.monotonic() - began_s <= 3 * TIMEOUT_S + SLACK_S
    assert isinstance(answer, Answer)
    assert answer.status is None or 100 <= answer.status <= 999, answer
    assert answer.retry_after_s is None or 0 <= answer.retry_after_s <= LONGEST_WAIT_S, answer
    assert len(answer.detail) <= LONGEST_DETAIL
    assert TOKEN not in answer.detail


TARGET = Target(
    "sink_answers",
    "whatever the server of the history answers, it is an answer or the lack of one, bounded and without our token",
    one_input,
    words=(
        *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 503 x\r\n", b"HTTP/1.1 307 x\r\n", b"Retry-After: ", b"Location: /"),
        *(b"Content-Length: ", b"Content-Encoding: gzip\r\n", b"Transfer-Encoding: chunked\r\n", b"X: y\r\n" * 120),
        *(TOKEN.encode(), b"\r\n\r\n"),
    ),
    small=40,
    longest_bytes=16384,
    cpu_s=5.0,
)
