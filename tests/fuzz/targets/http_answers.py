"""Whatever a server answers to a look over http: status, headers, redirects, dates. Real sockets, loopback only."""

from __future__ import annotations

import math
import time

from fuzz.answering import Answering, stay_at_home
from fuzz.target import Target, is_a_sentence
from fuzz.targets.look_answers import check_look
from jetwatch.content.kept import KeptSources
from jetwatch.content_records import Content, ContentKind, Look
from jetwatch.errors import ContentError, ContentWait

DEADLINE_S = 3.0
SLACK_S = 5.0
"""A busy machine may be late by so much."""
LONGEST_WAIT_S = 366 * 86_400.0
TOKEN = "a-token-of-ours"

stay_at_home()
_server = Answering()
_sources = KeptSources()


def one_input(data: bytes) -> None:
    """A Look, and then another one with what the first one said, or a ContentError, within the deadline.

    With a token, too: who has credentials looks closer at where it is led.
    """
    for secrets in ({}, {"bearer_token": TOKEN}):
        content = Content(url=f"http://127.0.0.1:{_server.port}/x.tar", kind=ContentKind.HTTP, secrets=secrets)
        _server.say(data)
        look_twice(_sources, content)


def look_twice(sources: KeptSources, content: Content) -> None:
    """The second look asks whether something changed, as every look after the first does."""
    known: Look | None = None
    for _ in range(2):
        began_s = time.monotonic()
        try:
            known = sources.look(content, {"AWS_EC2_METADATA_DISABLED": "true"}, known, DEADLINE_S)
        except ContentError as error:
            _check_refusal(error)
            return
        finally:
            took_s = time.monotonic() - began_s
            assert took_s <= DEADLINE_S + SLACK_S, f"a look of {took_s:.1f} s, and {DEADLINE_S} s are allowed"
        check_look(known)


def _check_refusal(error: ContentError) -> None:
    """It can be told, has no secret, and never makes anybody wait for ever."""
    is_a_sentence(error)
    assert TOKEN not in str(error)
    if isinstance(error, ContentWait):
        assert math.isfinite(error.after_s)
        assert 0 <= error.after_s <= LONGEST_WAIT_S, error.after_s


DATES = (
    *(b"Mon, 01 Jan 2024 00:00:00 GMT", b"Fri, 31 Dec 9999 23:59:59 GMT", b"Fri, 31 Dec 9999 23:59:59 -1200"),
    *(b"Mon, 01 Jan 0001 00:00:00 GMT", b"Mon, 01 Jan 0001 00:00:00 +2359", b"Mon, 01 Jan 0000 00:00:00 GMT"),
    *(b"Mon, 01 Jan 99999 00:00:00 GMT", b"Mon, 01 Jan 2024 00:00:00 -99999999999", b"Mon, 01 Jan 2024 99:99:99 GMT"),
    *(b"-1", b"9" * 400, b"1e9", b"\xb2", b"", b"x"),
)
"""What a server may say of a time, in any header that has one."""
_PLACES = (
    *(b"http://127.0.0.1:PORT/y.tar", b"/x.tar", b"//127.0.0.1:99999/x", b"http://127.0.0.1:65536/", b"", b"?", b"#"),
    *(
        b"http://127.0.0.1:99999/x.tar",
        b"http://127.0.0.1:-1/x.tar",
        b"http://127.0.0.1:x/x.tar",
        b"http://127.0.0.1:0/",
    ),
    *(
        b"http://[::1/x.tar",
        b"http://[::1]:x/",
        b"https://[fe80::1%25eth0]:99999/",
        b"https://[v1.x]:1/",
        b"https://a:b:c/",
    ),
    *(
        b"https://.x/x.tar",
        b"https://x../",
        b"https://" + b"a" * 70 + b".com/",
        b"https://xn--a/",
        b"https://\xe2\x80\xae/",
    ),
    *(b"https://a%00b/", b"https://a b/", b"http://127.0.0.1\x00/", b"http://127.0.0.1:\xc2\xb2/", b"\xff\xfe"),
    *(b"file:///etc/passwd", b"ftp://x/", b"http://169.254.169.254/latest", b"http://u:p@127.0.0.1/", b"javascript:1"),
)


def _answer(status: bytes, name: bytes, value: bytes) -> bytes:
    return b"HTTP/1.1 %s x\r\n%s: %s\r\nContent-Length: 0\r\n\r\n" % (status, name, value)


def seeds() -> list[bytes]:
    """Each place in a redirect, each date in each header that has one, each odd status."""
    return [
        *(_answer(b"302", b"Location", place) for place in _PLACES),
        *(_answer(b"200", b"Last-Modified", date) for date in DATES),
        *(_answer(b"503", b"Retry-After", date) for date in DATES),
        *(
            _answer(status, b"ETag", b'"a"')
            for status in (b"100", b"101", b"204", b"206", b"300", b"304", b"416", b"999", b"0", b"-1")
        ),
    ]


TARGET = Target(
    "http_answers",
    "whatever a server answers, a look ends in time with a revision or a ContentError",
    one_input,
    words=(
        *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 302 x\r\n", b"HTTP/1.1 304 x\r\n", b"HTTP/1.1 503 x\r\n", b"\r\n\r\n"),
        *(b"Location: http://127.0.0.1:", b"ETag: ", b"Last-Modified: ", b"Retry-After: ", b"Content-Length: "),
        *(b"Content-Encoding: gzip\r\n", b"Transfer-Encoding: chunked\r\n", b"Date: ", b"X: y\r\n" * 120, b"\n%%\n"),
        *(b"Fri, 31 Dec 9999 23:59:59 -1200", b"Mon, 01 Jan 0001 00:00:00 +2359", b"//", b"@", b"[", b"]", b"%", b":"),
        *(b"http://127.0.0.1:99999/", b"https://.x/", b"https://" + b"a" * 70 + b".x/", b"HTTP/1.1 100 x\r\n\r\n" * 50),
    ),
    seeds=seeds,
    small=150,
    longest_bytes=8192,
    cpu_s=5.0,
)
