"""The cache gives out exactly the bytes that were asked for, or nothing; it stays private and bounded."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jetwatch.content.cache import Cache, Kept
from jetwatch.content.source import ContentStalled

SMALL = b"small"
LARGE = bytes(range(256)) * 1000


def digest(body: bytes) -> str:
    """Its sha256."""
    return hashlib.sha256(body).hexdigest()


@contextmanager
def opened(path: Path, body: bytes | None = None) -> Iterator[int]:
    """Lend a descriptor of a file, new and empty or with these bytes."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if body is not None:
        os.write(descriptor, body)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty cache."""
    return Cache(tmp_path / "cache")


def keep(cache: Cache, tmp_path: Path, body: bytes) -> bool:
    """Keep these bytes, as a fetch would."""
    with opened(tmp_path / f"fetched-{digest(body)}", body) as descriptor:
        return cache.keep(descriptor, digest(body))


def take(cache: Cache, path: Path, body: bytes) -> bytes | None:
    """What the cache gives out for these bytes; None where it has nothing."""
    with opened(path) as descriptor:
        if cache.take(digest(body), len(body), descriptor):
            return path.read_bytes()
        assert os.fstat(descriptor).st_size == 0
        os.write(descriptor, b"again")
        assert path.read_bytes() == b"again"
        return None


def objects(tmp_path: Path) -> list[Path]:
    """The files that the cache has."""
    return [path for path in (tmp_path / "cache/objects").rglob("*") if path.is_file()]


@pytest.mark.parametrize("body", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
def test_what_was_kept_is_given_out_as_a_file_of_its_own(cache: Cache, tmp_path: Path, body: bytes) -> None:
    """The bytes are the same and the file is another one: writing into it spoils nothing."""
    assert keep(cache, tmp_path, body)
    assert take(cache, tmp_path / "one", body) == body
    assert (tmp_path / "one").stat().st_nlink == 1
    (tmp_path / "one").write_bytes(b"written over by a play")
    assert take(cache, tmp_path / "two", body) == body


def test_what_was_never_kept_is_not_there(cache: Cache, tmp_path: Path) -> None:
    """No bytes, and an empty file to fetch into."""
    assert take(cache, tmp_path / "one", SMALL) is None


@pytest.mark.parametrize("spoilt", [b"SMALL", b"smal", b"", b"small and more"])
def test_spoilt_bytes_are_dropped_and_may_be_kept_anew(cache: Cache, tmp_path: Path, spoilt: bytes) -> None:
    """Changed, cut or longer: never given out, and gone."""
    keep(cache, tmp_path, SMALL)
    (kept,) = objects(tmp_path)
    kept.write_bytes(spoilt)
    assert take(cache, tmp_path / "one", SMALL) is None
    assert objects(tmp_path) == []
    assert keep(cache, tmp_path, SMALL)
    assert take(cache, tmp_path / "two", SMALL) == SMALL


def test_bytes_with_another_digest_are_not_kept(cache: Cache, tmp_path: Path) -> None:
    """Whoever names a digest wrongly leaves nothing behind."""
    with opened(tmp_path / "wrong", b"other") as descriptor:
        assert cache.keep(descriptor, digest(SMALL)) is False
    assert objects(tmp_path) == []


def test_a_link_in_the_cache_is_not_followed(cache: Cache, tmp_path: Path) -> None:
    """Somebody who got in cannot make the cache read another file."""
    keep(cache, tmp_path, SMALL)
    (kept,) = objects(tmp_path)
    (tmp_path / "elsewhere").write_bytes(SMALL)
    kept.unlink()
    kept.symlink_to(tmp_path / "elsewhere")
    assert take(cache, tmp_path / "one", SMALL) is None


def test_extents_are_shared_where_that_is_possible(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large file is cloned, not written, and verified all the same. (The clone is stood in for by a copy.)"""
    keep(cache, tmp_path, LARGE)
    cloned = []

    def clone(copy: int, _request: int, source: int) -> int:
        cloned.append(copy)
        os.pwrite(copy, os.pread(source, len(LARGE), 0), 0)
        return 0

    again = Cache(tmp_path / "cache")
    monkeypatch.setattr(fcntl, "ioctl", clone)
    assert take(again, tmp_path / "one", LARGE) == LARGE
    assert len(cloned) == 1
    (kept,) = objects(tmp_path)
    kept.write_bytes(LARGE[::-1])
    assert take(again, tmp_path / "two", LARGE) is None


def test_a_disk_without_space_for_the_cache_is_no_error(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is for speed: a fetch goes on without it."""

    def full(_descriptor: int, _chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("jetwatch.content.cache.write_all", full)
    with opened(tmp_path / "fetched") as descriptor:
        os.write(descriptor, SMALL)
        assert cache.keep(descriptor, digest(SMALL)) is False
    cache.remember("s3://b/", {"k": Kept(5, "e", digest(SMALL))})
    assert cache.known("s3://b/") == {}
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_source_is_remembered_by_itself(cache: Cache, tmp_path: Path) -> None:
    """What one fetch put down the next one reads; another source has nothing."""
    kept = {"a key\n": Kept(5, '"etag"', digest(SMALL)), "ü": Kept(0, "", digest(b""))}
    cache.remember("s3://b/one/", kept)
    assert Cache(tmp_path / "cache").known("s3://b/one/") == kept
    assert cache.known("s3://b/two/") == {}


@pytest.mark.parametrize(
    "document", [b"", b"{", b"[]", b"null", b'{"entries": [["k", 1]]}', b'{"entries": [], "version": 99}', b"\xff"]
)
def test_a_manifest_that_is_not_one_is_an_empty_one(cache: Cache, tmp_path: Path, document: bytes) -> None:
    """A torn or newer manifest only means that all is fetched."""
    cache.remember("s3://b/", {"k": Kept(5, "e", digest(SMALL))})
    (manifest,) = (tmp_path / "cache/sources").iterdir()
    manifest.write_bytes(document)
    assert cache.known("s3://b/") == {}


def test_what_was_used_least_lately_goes_first(tmp_path: Path) -> None:
    """Beyond the bound the oldest uses are forgotten, not the oldest files."""
    cache = Cache(tmp_path / "cache", most_bytes=2500)
    bodies = [bytes([number]) * 1000 for number in range(3)]
    for age, body in zip((30_000, 20_000, 10_000), bodies, strict=True):
        keep(cache, tmp_path, body)
        moment = time.time() - age
        os.utime(tmp_path / "cache/objects" / digest(body)[:2] / digest(body), (moment, moment))
    assert take(cache, tmp_path / "used", bodies[0]) == bodies[0]
    cache.trim()
    assert take(cache, tmp_path / "first", bodies[0]) == bodies[0]
    assert take(cache, tmp_path / "second", bodies[1]) is None
    assert take(cache, tmp_path / "third", bodies[2]) == bodies[2]


def test_what_was_torn_or_long_unused_is_swept(cache: Cache, tmp_path: Path) -> None:
    """Half-written files of a fetch that was killed, and bytes that nobody wanted for a month."""
    keep(cache, tmp_path, SMALL)
    keep(cache, tmp_path, LARGE)
    torn = tmp_path / "cache/objects" / digest(SMALL)[:2] / ".torn"
    fresh = torn.with_name(".fresh")
    for path, age_s in ((torn, 2 * 86_400), (fresh, 60), (torn.with_name(digest(SMALL)), 40 * 86_400)):
        path.touch()
        moment = time.time() - age_s
        os.utime(path, (moment, moment))
    cache.trim()
    assert {path.name for path in objects(tmp_path)} == {".fresh", digest(LARGE)}


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o722])
def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """Who writes a manifest says what an unchanged file is."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    with pytest.raises(ContentStalled, match="nobody else may write"):
        Cache(tmp_path / "cache")


def test_a_link_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    """The cache is a directory of its own."""
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "cache").symlink_to("real")
    with pytest.raises(ContentStalled):
        Cache(tmp_path / "cache")


def test_the_cache_is_private_from_the_start(cache: Cache, tmp_path: Path) -> None:
    """Nobody else may read what was fetched."""
    keep(cache, tmp_path, SMALL)
    modes = {path.stat().st_mode & 0o777 for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]}
    assert modes <= {0o700, 0o600}
