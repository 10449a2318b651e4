"""An archive on a file system as a source: the shared suite for each kind of archive, and what only a file can do."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import zstandard
from msgspec.structs import replace
from source_suite import DEADLINE_S, FILES, Place, SourceSuite, as_nobody, revision, silent, tree

from jetwatch.content.directory import FileSource
from jetwatch.content.source import Content, ContentKind, ContentMoved, ContentRetry, ContentStalled, Source


class FilePlace(Place):
    """An archive that is written anew, as a publisher does it, with every change."""

    hostile = (
        ("../up", "'../up'"),
        ("/absolute", "'/absolute'"),
        ("a//b", "'a//b'"),
        ("a/../b", "'a/../b'"),
        ("new\nline", r"new\nline"),
        ("pb.yml/inside", "pb.yml"),
    )

    def __init__(self, path: Path, *, checksum: bool = False) -> None:
        self.path = path
        self.files: dict[str, bytes] = {}
        self.content = Content(f"file://{path}", ContentKind.FILE, checksum=checksum)

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write the archive with these files too."""
        self.files.update(files)
        self._write()

    def remove(self, *keys: str) -> None:
        """Write the archive without these files."""
        for key in keys:
            del self.files[key]
        self._write()

    def source(self) -> Source:
        """A source of it."""
        return FileSource(self.content)

    def denied(self) -> AbstractContextManager[Source]:
        """For a user who may not read it."""
        return self._denied()

    @contextlib.contextmanager
    def _denied(self) -> Iterator[Source]:
        self.path.chmod(0)
        with as_nobody():
            yield self.source()

    def _write(self) -> None:
        torn = self.path.with_name("torn")
        torn.write_bytes(packed(self.files, self.path.name))
        torn.rename(self.path)


def packed(files: Mapping[str, bytes], name: str) -> bytes:
    """The files as an archive of the kind that the name says."""
    made = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            for key, body in files.items():
                archive.writestr(zipfile.ZipInfo(key), body)
        return made.getvalue()
    with tarfile.open(fileobj=made, mode="w:gz" if name.endswith("gz") else "w") as archive:
        for key, body in files.items():
            entry = tarfile.TarInfo(key)
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
    return zstandard.compress(made.getvalue()) if name.endswith(".zst") else made.getvalue()


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.zst", "a.zip"])
class TestFile(SourceSuite):
    """Every kind of archive, by size and time."""

    @pytest.fixture
    def place(self, tmp_path: Path, name: str) -> Place:
        """No archive yet."""
        return FilePlace(tmp_path / name)


class TestFileByChecksum(SourceSuite):
    """By its bytes."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        """No archive yet."""
        return FilePlace(tmp_path / "a.tar.zst", checksum=True)


@pytest.fixture
def place(tmp_path: Path) -> FilePlace:
    """An archive with some files."""
    made = FilePlace(tmp_path / "a.tar.gz")
    made.put(FILES)
    return made


def fetch(source: Source, asked: str, tmp_path: Path) -> Path:
    """Fetch into a new directory."""
    (tmp_path / "into").mkdir()
    source.fetch(asked, tmp_path / "into", None, silent)
    return tmp_path / "into"


def test_a_file_that_is_being_copied_has_to_settle(place: FilePlace) -> None:
    """Somebody may be writing it in place: one look does not count."""
    assert place.source().look(None, DEADLINE_S).settled is False


def test_a_file_that_is_not_there_yet_is_asked_for_again(place: FilePlace) -> None:
    """Also for a look."""
    place.path.unlink()
    with pytest.raises(ContentRetry, match="No such file"):
        revision(place.source())


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_what_is_no_file_needs_a_person(place: FilePlace, kind: str) -> None:
    """And does not block."""
    place.path.unlink()
    place.path.mkdir() if kind == "directory" else os.mkfifo(place.path)
    with pytest.raises(ContentStalled, match=r"no regular file|Is a directory"):
        revision(place.source())


def test_the_digest_that_was_asked_for(place: FilePlace, tmp_path: Path) -> None:
    """Right, it changes nothing; wrong, nothing of the archive is read as one."""
    digest = hashlib.sha256(place.path.read_bytes()).hexdigest()
    right, wrong = (FileSource(replace(place.content, sha256=word)) for word in (digest, "0" * 64))
    asked = revision(right)
    assert tree(fetch(right, asked, tmp_path)) == FILES
    (tmp_path / "into").rename(tmp_path / "right")
    with pytest.raises(ContentStalled, match="sha256"):
        fetch(wrong, asked, tmp_path)
    assert tree(tmp_path / "into") == {}


def test_a_file_that_grows_while_it_is_read_is_another_revision(place: FilePlace, tmp_path: Path) -> None:
    """Written to in place during the fetch: not delivered."""
    (tmp_path / "into").mkdir()
    source = place.source()
    asked = revision(source)

    def grow(_done: int, _total: int | None) -> None:
        with place.path.open("ab") as file:
            file.write(b"\0")

    with pytest.raises((ContentMoved, ContentStalled)):
        source.fetch(asked, tmp_path / "into", None, grow)


def test_a_damaged_file_needs_a_person_and_is_named(place: FilePlace, tmp_path: Path) -> None:
    """With its path."""
    place.path.write_bytes(place.path.read_bytes()[:-20])
    source = place.source()
    with pytest.raises(ContentStalled, match=r"a\.tar\.gz: is damaged"):
        fetch(source, revision(source), tmp_path)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.zst", "a.zip"])
def test_an_archive_cut_anywhere_never_counts(tmp_path: Path, name: str) -> None:
    """A copy that stopped at any 1/64 of it: damaged, or nothing there yet, but never a part of the content."""
    place = FilePlace(tmp_path / name)
    place.put({**FILES, "large": os.urandom(50_000)})
    whole = place.path.read_bytes()
    refused = 0
    for part in range(64):
        place.path.write_bytes(whole[: len(whole) * part // 64])
        into = tmp_path / str(part)
        into.mkdir()
        source = place.source()
        try:
            source.fetch(revision(source), into, None, silent)
        except (ContentStalled, ContentRetry):
            refused += 1
        else:  # a tar is followed by zeros, and nothing is missing without the last of them
            assert name == "a.tar"
            assert tree(into) == place.files
    assert refused == 64 or (name == "a.tar" and refused > 50)
