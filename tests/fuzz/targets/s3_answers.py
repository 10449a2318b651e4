"""Whatever a server answers to a look at a bucket: listings in XML, heads of objects. Real sockets, loopback only."""

from __future__ import annotations

from fuzz.answering import Answering, stay_at_home
from fuzz.target import Target, choice_and_rest
from fuzz.targets.http_answers import DATES, look_twice
from jetwatch.content.kept import KeptSources
from jetwatch.content_records import Content, ContentKind

stay_at_home()
_server = Answering()
_sources = KeptSources()
_KINDS = (
    {"url": "s3://bucket/p/", "kind": ContentKind.BUCKET},
    {"url": "s3://bucket/p/", "kind": ContentKind.BUCKET, "marker": "DONE"},
    {"url": "s3://bucket/k.tar", "kind": ContentKind.OBJECT},
)


def one_input(data: bytes) -> None:
    """A listing, a marker or an object, as the first byte says. A body that is alone gets its head."""
    road, answers = choice_and_rest(data, len(_KINDS))
    if not answers.startswith(b"HTTP/"):
        length = len(answers)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        answers = head % length + answers
    _server.say(answers)
    endpoint = f"http://127.0.0.1:{_server.port}"
    content = Content(**_KINDS[road], endpoint=endpoint, anonymous=True, region="us-east-1")  # type: ignore[arg-type]
    look_twice(_sources, content)


def seeds() -> list[bytes]:
    """A marker and an object of each date."""
    head = b'HTTP/1.1 200 OK\r\nETag: "a"\r\nLast-Modified: %s\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx'
    return [road + head % date for road in (b"1", b"2") for date in DATES]


TARGET = Target(
    "s3_answers",
    "whatever a bucket's server answers, a look ends in time with a revision or a ContentError",
    one_input,
    words=(
        *(
            b"<Contents>",
            b"</Contents>",
            b"<Key>",
            b"</Key>",
            b"<Size>",
            b"<ETag>",
            b"<LastModified>",
            b"&#x1b;",
            b"&#0;",
        ),
        *(b"<IsTruncated>true</IsTruncated>", b"<NextContinuationToken>x</NextContinuationToken>", b"<a>" * 2000),
        *(b"9999-12-31T23:59:59-23:59", b"0000-01-01T00:00:00Z", b"+262142-12-31T23:59:59Z", b"10000-01-01T00:00:00Z"),
        *(b"p/../a", b"p//a", b"/etc/passwd", b"p/", b"&quot;", b"<!DOCTYPE l [<!ENTITY a 'aaaaaaaaaa'>]>", b"&a;"),
        *(b"HTTP/1.1 200 OK\r\n", b'ETag: "a"\r\n', b"Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n"),
        *(
            b"HTTP/1.1 307 x\r\nLocation: http://127.0.0.1:99999/\r\nContent-Length: 0\r\n\r\n",
            b"Content-Range: bytes 0-0/1\r\n",
        ),
    ),
    seeds=seeds,
    small=100,
    longest_bytes=16384,
    cpu_s=5.0,
)
