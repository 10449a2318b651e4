"""Content from a web server: one archive, unpacked strictly.

The revision is the ETag, else the Last-Modified, else the SHA-256 of the body. A look is one conditional GET: 304 when
nothing changed, and of a new state no more than the headers is read where they say enough. A fetch reads one answer,
whose own headers must name the revision that was asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

from msgspec import Struct

from jetwatch.content.deadline import within
from jetwatch.content.packed import Packed, unpack
from jetwatch.content.source import Content, ContentMoved, ContentRetry, ContentStalled, Fetched, Look, Progress

if TYPE_CHECKING:
    import ssl

    from urllib3.response import BaseHTTPResponse

    from jetwatch.content.http_client import HttpClient

CHUNK_BYTES = 256 * 1024
HEADERS_S = 60.0
STALL_S = 60.0


class State(Struct, frozen=True):
    """What an answer's headers say of its body. `validator` is for the next question, empty where there is none."""

    revision: str
    validator: str


def state_of(answer: BaseHTTPResponse) -> State:
    """The revision by ETag, else by Last-Modified; both empty where neither can be used."""
    etag = answer.headers.get("ETag", "")
    bare = etag.removeprefix("W/").strip('"')
    if re.fullmatch(r"[\x21-\x7e]{1,256}", bare):
        return State(bare, f"etag {etag}")
    from jetwatch.content.http_client import http_date

    date = answer.headers.get("Last-Modified", "")
    seconds = http_date(date)
    if seconds is not None:
        return State(datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), f"date {date}")
    return State("", "")


def condition(known: Look | None) -> dict[str, str]:
    """The headers that make a look cheap when nothing has changed."""
    kind, _, value = (known.validator if known else "").partition(" ")
    return {"etag": {"If-None-Match": value}, "date": {"If-Modified-Since": value}}.get(kind, {})


class HttpSource:
    """One archive on a web server. `stall_s`: a fetch slower than `limits.min_speed` over so long is given up."""

    def __init__(self, content: Content, *, trust: ssl.SSLContext | None = None, stall_s: float = STALL_S) -> None:
        self._content = content
        self._trust = trust
        self._stall_s = stall_s

    def look(self, known: Look | None, deadline_s: float) -> Look:
        """Which revision is there now: one conditional GET (and the whole body where no header names a revision)."""
        client = self._client()
        try:
            return within(deadline_s, self._content.url, lambda: self._look(client, known), client.close)
        finally:
            client.close()

    def fetch(self, revision: str, staging: Path, cache: Path | None, progress: Progress) -> Fetched:
        """Put exactly this revision into `staging`; an archive that the cache knows does not travel again."""
        client = self._client()
        try:
            return unpack(
                self._content,
                revision,
                staging,
                cache,
                progress,
                download=lambda file: self._download(client, revision, file, progress),
            )
        finally:
            client.close()

    def _client(self) -> HttpClient:
        try:
            from jetwatch.content.http_client import HttpClient, trust_of
        except ImportError as missing:
            raise ContentStalled("https:// needs urllib3: install jetwatch with the extra `http`") from missing
        self._trust = self._trust or trust_of(self._content.ca_file)
        return HttpClient(self._content, self._trust)

    def _look(self, client: HttpClient, known: Look | None) -> Look:
        asked = condition(known)
        with contextlib.closing(client.get(asked)) as answer:
            if answer.status != 304:
                return self._look_at(client, answer)
        if known is None or not asked:
            raise ContentRetry(f"{self._content.url}: HTTP 304 to a question without a condition")
        return Look(known.revision, validator=known.validator, requests=1)

    def _look_at(self, client: HttpClient, answer: BaseHTTPResponse) -> Look:
        state = state_of(answer)
        if not state.revision:
            digest = hashlib.sha256()
            for piece in self._pieces(client, answer):
                digest.update(piece)
            return Look(digest.hexdigest(), requests=1)
        return Look(state.revision, validator=state.validator, requests=1)

    def _download(self, client: HttpClient, revision: str, file: IO[bytes], progress: Progress) -> Packed:
        """Write the archive as it is into a file."""
        answer = within(HEADERS_S, self._content.url, lambda: client.get({}), client.close)
        with contextlib.closing(answer):
            state = state_of(answer)
            if state.revision and state.revision != revision:
                raise self._moved()
            total = answer.length_remaining
            digest, size = hashlib.sha256(), 0
            progress(0, total)
            for piece in self._pieces(client, answer):
                file.write(piece)
                digest.update(piece)
                size += len(piece)
                progress(size, total)
        if not state.revision and digest.hexdigest() != revision:
            raise self._moved()
        return Packed(size, digest.hexdigest())

    def _moved(self) -> ContentMoved:
        return ContentMoved(f"{self._content.url}: another revision is there now than the one that was asked for")

    def _pieces(self, client: HttpClient, answer: BaseHTTPResponse) -> Iterator[bytes]:
        """The body as it comes, of the length that was announced, within the limit, and not too slowly."""
        from jetwatch.content.http_client import FAILURES

        limit, size = self._content.limits.total_bytes, 0
        window_size, window_start = 0, time.monotonic()
        try:
            while piece := answer.read1(CHUNK_BYTES, decode_content=False):
                size += len(piece)
                window_size += len(piece)
                if size > limit:
                    raise ContentStalled(f"{self._content.url}: larger than the limit of {limit} bytes")
                yield piece
                elapsed = time.monotonic() - window_start
                if elapsed > self._stall_s:
                    if window_size < elapsed * self._content.limits.min_speed_bytes_s:
                        raise ContentRetry(f"{self._content.url}: {window_size} bytes in {elapsed:.0f} s: too slow")
                    window_size, window_start = 0, time.monotonic()
        except FAILURES as error:
            raise client.failure(error) from None
