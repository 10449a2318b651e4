"""Brings the objects of a listing into a staging directory, many at a time, each checked before it counts.

Every request carries the ETag of the listing, so no mix of two states can come together; size and, where the ETag is
an MD5, the digest must be right. Threads are bounded in number and hold one piece each, so memory is bounded too. One
thread watches the others: when nothing arrives for a while, the transfer ends, whatever the server does meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, Queue
from threading import Condition, Event, Thread
from typing import TYPE_CHECKING

from msgspec import Struct, field

from jetwatch.content.bucket_digest import Digests
from jetwatch.content.bucket_listing import Item, Prefix, plain_etag
from jetwatch.content.bucket_reuse import Reuse
from jetwatch.content.bucket_store import failures, is_absent, refusal
from jetwatch.content.source import ContentMoved, ContentRetry, Limits, Progress
from jetwatch.content.staging import Staging, parts_of, path_error, shown, write_all

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import S3Store

THREADS = 32
WHOLE_BYTES = 512 * 1024
PIECE_BYTES = 256 * 1024
FILE_MODE = 0o644
AHEAD_PIECES = 4
PROGRESS_S = 0.1
LEAVE_S = 2.0
"""After a failure the threads may end what they have in hand for so long; one that waits for a server is left."""


class Gone(Exception):
    """The server has no object under this name now."""


class Tally(Struct):
    """What a transfer did. `absent`: objects that the server lists and then does not have."""

    done_bytes: int = 0
    reused_bytes: int = 0
    requests: int = 0
    files: int = 0
    absent: list[Item] = field(default_factory=list)


def download(store: S3Store, key: str, etag: str, what: str) -> tuple[GetResult, Iterator[bytes | memoryview]]:
    """Ask for one object, only if it still has this ETag (any, if empty); return the answer and its body, piecewise.

    Raises Gone, ContentMoved for another ETag, ContentRetry or ContentStalled; so does the body.
    """
    import obstore

    try:
        result = obstore.get(store, key, options={"if_match": f'"{etag}"'} if etag else None)
    except failures() as error:
        raise _failure(error, what) from None
    # Not every server heeds If-Match.
    if etag and plain_etag(result.meta["e_tag"]) != etag:
        raise ContentMoved(f"{what} was written anew while it was fetched")
    return result, _body(result, what)


def _body(result: GetResult, what: str) -> Iterator[bytes | memoryview]:
    try:
        if result.meta["size"] <= WHOLE_BYTES:
            yield memoryview(result.bytes())
            return
        for piece in result.stream(min_chunk_size=PIECE_BYTES):
            yield memoryview(piece)
    except failures() as error:
        raise _failure(error, what) from None


def _failure(error: Exception, what: str) -> Exception:
    if type(error).__name__ == "PreconditionError":
        return ContentMoved(f"{what} was written anew while it was fetched")
    if is_absent(error):
        return Gone(what)
    return refusal(error, what)


def watched(body: Iterator[bytes | memoryview], stall_s: float, what: str) -> Iterator[bytes | memoryview]:
    """The same pieces, or ContentRetry when the next one does not come in time: obstore waits for whole pieces."""
    pieces: Queue[bytes | memoryview | BaseException | None] = Queue(AHEAD_PIECES)
    left = Event()

    def pump() -> None:
        end: BaseException | None = None
        try:
            for piece in body:
                if left.is_set():
                    return
                pieces.put(piece)
        except BaseException as error:  # noqa: BLE001 - it is raised by the one who reads
            end = error
        if not left.is_set():
            pieces.put(end)

    Thread(target=pump, name="bucket-pieces", daemon=True).start()
    try:
        while (piece := pieces.get(timeout=stall_s)) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    except Empty:
        raise ContentRetry(f"{what}: nothing arrived for {stall_s:g} s") from None
    finally:
        left.set()
        with suppress(Empty):
            while True:
                pieces.get_nowait()


class Transfer:
    """One fetch of what was listed below a prefix."""

    def __init__(self, prefix: Prefix, staging: Staging, limits: Limits, digests: Digests, reuse: Reuse | None) -> None:
        self.tally = Tally()
        self._prefix = prefix
        self._staging = staging
        self._limits = limits
        self._digests = digests
        self._reuse = reuse
        self._changed = Condition()
        self._running = 0
        self._ended: BaseException | None = None

    def run(self, items: Sequence[Item], progress: Progress, stall_s: float) -> Tally:
        """Fetch them all; `progress` is called in this thread. Raises ContentError; then nothing counts."""
        known = [item for item in items if self._reuse is not None and self._reuse.knows(item)]
        names = {item.name for item in known}
        new = [item for item in items if item.name not in names]
        # What is known takes no waiting: more than one thread for it would only be in each other's way.
        parts = [iter(known)] * bool(known) + [iter(new)] * min(THREADS, len(new))
        threads = [Thread(target=self._work, args=(part,), daemon=True) for part in parts]
        self._running = len(threads)
        total = sum(item.size for item in items)
        try:
            progress(0, total)
            for thread in threads:
                thread.start()
            self._watch(progress, total, stall_s)
        except BaseException as error:
            self._end(error)
            until = time.monotonic() + LEAVE_S
            for thread in threads:
                if thread.ident is not None:
                    thread.join(max(0.0, until - time.monotonic()))
            raise
        for thread in threads:
            thread.join()
        return self.tally

    def _watch(self, progress: Progress, total: int, stall_s: float) -> None:
        """Wait for the threads, tell how far they are, and end it all when nothing moves."""
        seen, since = (-1, 0), time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._running or self._ended, PROGRESS_S)
                ended, running = self._ended, self._running
                done, moved = self.tally.done_bytes, (self.tally.done_bytes, self.tally.files)
            if ended is not None:
                raise ended
            progress(done, total)
            if not running:
                return
            if moved != seen:
                seen, since = moved, time.monotonic()
            elif time.monotonic() - since > stall_s:
                raise ContentRetry(f"{self._prefix.name}: nothing arrived for {stall_s:g} s")

    def _end(self, error: BaseException) -> None:
        """From now on nobody opens another file: the staging directory may be gone."""
        with self._changed:
            self._ended = self._ended or error
            self._changed.notify_all()

    def _work(self, part: Iterator[Item]) -> None:
        try:
            while (item := self._following(part)) is not None:
                self._fetch(item)
        except BaseException as error:  # noqa: BLE001 - it ends the transfer and is raised there
            self._end(error)
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _following(self, part: Iterator[Item]) -> Item | None:
        with self._changed:
            return None if self._ended is not None else next(part, None)

    def _fetch(self, item: Item) -> None:
        descriptor = -1
        try:
            if self._reuse is not None and self._reuse.knows(item):
                descriptor = self._create(item)
                if self._reuse.take(item, descriptor):
                    self._finish(item, descriptor, travelled=False)
                    return
            body = self._ask(item)
            if descriptor < 0:
                descriptor = self._create(item)
            self._receive(item, body, descriptor)
            self._finish(item, descriptor, travelled=True)
        except Gone:
            with self._changed:
                self.tally.absent.append(item)
                self.tally.requests += 1
        except OSError as error:
            raise path_error(error, shown(item.name)) from None
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _ask(self, item: Item) -> Iterator[bytes | memoryview]:
        what = f"{self._prefix.name}{item.name}"
        result, body = download(self._prefix.store, self._prefix.key + item.name, item.etag, what)
        if result.meta["size"] != item.size:
            raise ContentMoved(f"{what} has {result.meta['size']} bytes, and {item.size} were listed")
        return body

    def _receive(self, item: Item, body: Iterable[bytes | memoryview], descriptor: int) -> None:
        came = self._digests.expect(item.etag)
        for piece in body:
            came.add(piece)
            write_all(descriptor, piece)
            with self._changed:
                self.tally.done_bytes += len(piece)
        self._digests.check(self._prefix.store, self._prefix.key + item.name, item, came)
        if self._reuse is not None:
            self._reuse.keep(item, descriptor, came.sha256)

    def _finish(self, item: Item, descriptor: int, *, travelled: bool) -> None:
        self._staging.seal(descriptor, FILE_MODE, item.mtime_ns)
        with self._changed:
            self.tally.files += 1
            if travelled:
                self.tally.requests += 1
            else:
                self.tally.reused_bytes += item.size
                self.tally.done_bytes += item.size

    def _create(self, item: Item) -> int:
        with self._changed:
            if self._ended is not None:
                raise self._ended
            parts = parts_of(item.name, self._limits)
            self._staging.count_bytes(parts, item.size)
            return self._staging.create(parts)
