"""Brings the objects of a listing into a staging directory, many at a time, each checked before it counts.

Every request carries the ETag of the listing, so no mix of two states can come together; size and, where the ETag is
an MD5, the digest must be right. Threads are bounded in number and hold two pieces each, so memory is bounded too. When
nothing arrives for a while, the transfer ends, whatever the server does meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, Queue, SimpleQueue
from threading import Event, Lock, Thread
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
OPEN_FILES = 256
"""So many are open at most while what is missing in the cache is fetched."""
LEAVE_S = 2.0
"""A thread that waits for its turn looks so often whether the transfer has failed."""


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


class _Arrived(Struct, frozen=True):
    """What a thread brings: some bytes of an object, or why there will be none. `sha256`: of all of it, at its end."""

    item: Item
    turn: Lock
    data: bytes | memoryview = b""
    sha256: str = ""
    error: BaseException | None = None


class Transfer:
    """One fetch of what was listed below a prefix.

    Threads wait for the server and check what comes, the caller's thread does everything else: small files are little
    work, and threads that each do all of it spend as long again on handing the interpreter's lock about.
    """

    def __init__(self, prefix: Prefix, staging: Staging, limits: Limits, digests: Digests, reuse: Reuse | None) -> None:
        self.tally = Tally()
        self._prefix = prefix
        self._staging = staging
        self._limits = limits
        self._digests = digests
        self._reuse = reuse
        self._wanted: SimpleQueue[Item | None] = SimpleQueue()
        self._arrived: SimpleQueue[_Arrived] = SimpleQueue()
        self._threads = 0
        self._left = 0
        self._files: dict[str, int] = {}
        self._has_ended = False

    def run(self, items: Sequence[Item], progress: Progress, stall_s: float) -> Tally:
        """Fetch them all; `progress` is called in this thread. Raises ContentError; then nothing counts."""
        known = [item for item in items if self._reuse is not None and self._reuse.knows(item)]
        names = {item.name for item in known}
        total = sum(item.size for item in items)
        progress(0, total)
        try:
            for item in items:
                if item.name not in names:
                    self._want(item)
            self._work(known, lambda: progress(self.tally.done_bytes, total), stall_s)
        finally:
            self._has_ended = True
            for _ in range(self._threads):
                self._wanted.put(None)
            for descriptor in self._files.values():
                os.close(descriptor)
        return self.tally

    def _work(self, known: list[Item], progress: Callable[[], None], stall_s: float) -> None:
        """Write down what comes; when nothing does, take the next of what is known from the cache."""
        told_s = moved_s = time.monotonic()
        while self._left or known:
            may_reuse = bool(known) and len(self._files) < OPEN_FILES
            arrived = self._next(0.0 if may_reuse else PROGRESS_S)
            now_s = time.monotonic()
            if arrived is not None:
                self._take_in(arrived)
            elif may_reuse:
                self._take_known(known.pop())
            elif now_s - moved_s > stall_s:
                raise ContentRetry(f"{self._prefix.name}: nothing arrived for {stall_s:g} s")
            if arrived is not None or may_reuse:
                moved_s = now_s
            if now_s - told_s >= PROGRESS_S:
                told_s = now_s
                progress()
        progress()

    def _want(self, item: Item) -> None:
        """Have it fetched."""
        self._left += 1
        self._wanted.put(item)
        if self._threads < THREADS:
            self._threads += 1
            Thread(target=self._bring, name="bucket", daemon=True).start()

    # -- in the threads

    def _bring(self) -> None:
        """One object after the other. At most two pieces are in memory, one of which waits to be written."""
        turn = Lock()
        while not self._has_ended and (item := self._wanted.get()) is not None:
            try:
                for data, sha256 in self._pieces(item):
                    self._hand_over(_Arrived(item, turn, data, sha256))
            except BaseException as error:  # noqa: BLE001 - it is raised, or counted, where everything is
                self._hand_over(_Arrived(item, turn, error=error))

    def _hand_over(self, arrived: _Arrived) -> None:
        """Wait until what this thread brought before was written, or nobody writes any more."""
        while not arrived.turn.acquire(timeout=LEAVE_S):
            if self._has_ended:
                return
        self._arrived.put(arrived)

    def _pieces(self, item: Item) -> Iterator[tuple[bytes | memoryview, str]]:
        """The object's bytes, with the SHA-256 of all of them beside the last, when it is known to be what was listed.

        Raises Gone, ContentError.
        """
        what, key = f"{self._prefix.name}{item.name}", self._prefix.key + item.name
        result, body = download(self._prefix.store, key, item.etag, what)
        if result.meta["size"] != item.size:
            raise ContentMoved(f"{what} has {result.meta['size']} bytes, and {item.size} were listed")
        came = self._digests.expect(item.etag)
        last: bytes | memoryview | None = None
        for piece in body:
            if last is not None:
                yield last, ""
            came.add(piece)
            last = piece
        self._digests.check(self._prefix.store, key, item, came)
        yield last or b"", came.sha256

    # -- in the caller's thread

    def _next(self, within_s: float) -> _Arrived | None:
        try:
            return self._arrived.get(timeout=within_s) if within_s else self._arrived.get_nowait()
        except Empty:
            return None

    def _take_in(self, arrived: _Arrived) -> None:
        if isinstance(arrived.error, Gone):
            self.tally.absent.append(arrived.item)
        elif arrived.error is not None:
            raise arrived.error
        else:
            self._write(arrived.item, arrived)
        if arrived.error is not None or arrived.sha256:
            self.tally.requests += 1
            self._left -= 1
        arrived.turn.release()

    def _write(self, item: Item, arrived: _Arrived) -> None:
        try:
            if item.name not in self._files:
                self._files[item.name] = self._create(item)
            descriptor = self._files[item.name]
            write_all(descriptor, arrived.data)
            self.tally.done_bytes += len(arrived.data)
            if arrived.sha256:
                if self._reuse is not None:
                    whole = arrived.data if len(arrived.data) == item.size else None
                    self._reuse.keep(item, descriptor, arrived.sha256, whole=whole)
                self._finish(item)
        except OSError as error:
            raise path_error(error, shown(item.name)) from None

    def _take_known(self, item: Item) -> None:
        """Take its bytes from the cache, or have it fetched where they are gone."""
        try:
            descriptor = self._files[item.name] = self._create(item)
            if self._reuse is not None and self._reuse.take(item, descriptor):
                self.tally.reused_bytes += item.size
                self.tally.done_bytes += item.size
                self._finish(item)
            else:
                self._want(item)
        except OSError as error:
            raise path_error(error, shown(item.name)) from None

    def _create(self, item: Item) -> int:
        parts = parts_of(item.name, self._limits)
        self._staging.count_bytes(parts, item.size)
        return self._staging.create(parts)

    def _finish(self, item: Item) -> None:
        descriptor = self._files[item.name]
        self._staging.seal(descriptor, FILE_MODE, item.mtime_ns)
        del self._files[item.name]
        os.close(descriptor)
        self.tally.files += 1
