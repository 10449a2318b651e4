"""An archive on its way into a directory: a file without a name, checked, kept for the next try, and unpacked.

Where it comes from is the source's affair. A play that failed is tried again with the same revision: the archive then
comes out of the cache, verified, and nothing is asked of a server.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from msgspec import Struct

from jetwatch.content import archive
from jetwatch.content.cache import Cache, Kept
from jetwatch.content.source import Content, ContentStalled, Fetched, Progress
from jetwatch.content.staging import path_error


class Packed(Struct, frozen=True):
    """What was written: its size and digest."""

    size_bytes: int
    sha256: str


def unpack(
    content: Content,
    revision: str,
    staging: Path,
    cache: Path | None,
    progress: Progress,
    *,
    download: Callable[[IO[bytes]], Packed],
) -> Fetched:
    """Unpack the archive of this revision into `staging`; `download` writes it into a file if it is not known."""
    try:
        shelf = Cache(cache) if cache is not None else None
        # Below `staging`, which has room and is private; it has no name there, so the directory stays empty.
        with tempfile.TemporaryFile(dir=staging) as file:
            packed = _recall(shelf, content, revision, file)
            reused = packed is not None
            if packed is None:
                packed = download(file)
                file.flush()
                _check(content, packed)
                _keep(shelf, content, revision, file, packed)
            size = packed.size_bytes
            file.seek(0)
            done = archive.extract(
                file, staging, name=content.url, limits=content.limits, check=lambda: progress(size, size)
            )
    except OSError as error:
        raise path_error(error, staging) from None
    return Fetched(
        revision,
        files=done.files,
        total_bytes=done.total_bytes,
        reused_bytes=done.total_bytes if reused else 0,
        requests=0 if reused else 1,
    )


def _check(content: Content, packed: Packed) -> None:
    wanted = (content.sha256 or "").lower().removeprefix("sha256:")
    if wanted and packed.sha256 != wanted:
        raise ContentStalled(f"{content.url}: its SHA-256 is {packed.sha256}, not the one in `sha256`")


def _source(content: Content) -> str:
    return f"{content.endpoint or ''} {content.url}"


def _recall(shelf: Cache | None, content: Content, revision: str, file: IO[bytes]) -> Packed | None:
    known = shelf.known(_source(content)).get("") if shelf is not None else None
    if shelf is None or known is None or known.etag != revision:
        return None
    packed = Packed(known.size_bytes, known.sha256)
    _check(content, packed)
    return packed if shelf.take(known.sha256, known.size_bytes, file.fileno()) else None


def _keep(shelf: Cache | None, content: Content, revision: str, file: IO[bytes], packed: Packed) -> None:
    if shelf is not None and shelf.keep(file.fileno(), packed.sha256):
        shelf.remember(_source(content), {"": Kept(packed.size_bytes, revision, packed.sha256)})
        shelf.trim()
