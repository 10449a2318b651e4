"""A directory as a source: the shared suite, by times and by checksum, and what only a directory can do."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote

import pytest
from source_suite import DEADLINE_S, FILES, Fetching, Place, SourceSuite, as_nobody, revision, silent, tree

from jetwatch.content.directory import DirectorySource
from jetwatch.content.source import (
    Content,
    ContentError,
    ContentKind,
    ContentMoved,
    ContentRetry,
    ContentStalled,
    Source,
)

SPECIAL = ("a-fifo", "a-socket", "leads-out", "leads-to-root", "goes-up-late")


class DirectoryPlace(Place):
    """A directory on this machine."""

    hostile = (
        ("new\nline", r"new\nline"),
        *((name, name) for name in SPECIAL),
    )

    def __init__(self, root: Path, *, checksum: bool = False, marker: str | None = None) -> None:
        self.root = root
        self.root.mkdir()
        self.checksum = checksum
        self.marker = marker

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write the files; a new time shows what has the same size."""
        for key, body in files.items():
            path = self.root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
            moment = path.stat().st_mtime_ns + 1
            os.utime(path, ns=(moment, moment))

    def remove(self, *keys: str) -> None:
        """Remove the files and the directories that they leave empty."""
        for key in keys:
            path = self.root / key
            path.unlink()
            while path.parent != self.root and not any(path.parent.iterdir()):
                path = path.parent
                path.rmdir()

    def put_hostile(self, key: str) -> None:
        """Make an entry that is no file, or a file with such a name."""
        path = self.root / key
        if key == "a-fifo":
            os.mkfifo(path)
        elif key == "a-socket":
            with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(self.root):
                made.bind(key)
        elif key == "leads-out":
            path.symlink_to("../secret")
        elif key == "leads-to-root":
            path.symlink_to("/etc")
        elif key == "goes-up-late":
            path.symlink_to("folder/../x")
        else:
            path.write_bytes(b"hostile")

    def content(self) -> Content:
        """What names it."""
        url = f"file://{quote(str(self.root))}"
        return Content(url, ContentKind.DIRECTORY, checksum=self.checksum, marker=self.marker)

    def source(self) -> Source:
        """A source of it."""
        return DirectorySource(self.content())

    def denied(self) -> AbstractContextManager[Source]:
        """For a user who may not enter it."""
        return self._denied()

    @contextlib.contextmanager
    def _denied(self) -> Iterator[Source]:
        self.root.chmod(0)
        try:
            with as_nobody():
                yield self.source()
        finally:
            self.root.chmod(0o700)


class MarkedDirectory(DirectoryPlace):
    """A directory with a marker, which its publisher writes last, anew each time."""

    marker = "DONE"
    refuses_empty = False

    def __init__(self, root: Path) -> None:
        super().__init__(root, marker=self.marker)
        self._publications = 0

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write the files, and then the marker."""
        super().put(files)
        self._mark()

    def put_hostile(self, key: str) -> None:
        """Make the entry, and write the marker."""
        super().put_hostile(key)
        self._mark()

    def remove(self, *keys: str) -> None:
        """Remove the files, and write the marker."""
        super().remove(*keys)
        self._mark()

    def _mark(self) -> None:
        self._publications += 1
        super().put({"DONE": f"{self._publications}\n".encode()})


class TestDirectory(SourceSuite):
    """A directory by path, size and time."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        """An empty directory with a name that a URL has to quote."""
        return DirectoryPlace(tmp_path / "a place #1")


class TestDirectoryByChecksum(SourceSuite):
    """A directory by path and bytes."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        """An empty directory."""
        return DirectoryPlace(tmp_path / "place", checksum=True)


class TestMarkedDirectory(SourceSuite):
    """A directory by its marker."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        """An empty directory."""
        return MarkedDirectory(tmp_path / "place")


@pytest.fixture
def place(tmp_path: Path) -> DirectoryPlace:
    """An empty directory."""
    return DirectoryPlace(tmp_path / "place")


def test_a_listing_has_to_settle(place: DirectoryPlace) -> None:
    """A look at a listing counts only when a second one says the same."""
    place.put({"pb.yml": b"x"})
    assert place.source().look(None, DEADLINE_S).settled is False


def test_a_marker_counts_at_once(place: DirectoryPlace) -> None:
    """With a marker the revision changes when the marker does, and only then."""
    place.marker = "DONE"
    place.put({"pb.yml": b"x", "DONE": b"1"})
    first = place.source().look(None, DEADLINE_S)
    assert first.settled
    place.put({"pb.yml": b"y"})
    assert revision(place.source()) == first.revision
    place.put({"DONE": b"2"})
    assert revision(place.source()) != first.revision


def test_a_marker_that_is_not_there_yet_is_asked_for_again(place: DirectoryPlace) -> None:
    """No marker: nothing is published yet."""
    place.marker = "DONE"
    place.put({"pb.yml": b"x"})
    with pytest.raises(ContentRetry, match="DONE"):
        revision(place.source())


def test_a_marker_that_changes_during_the_fetch_is_another_revision(place: DirectoryPlace, tmp_path: Path) -> None:
    """Also when nothing but the marker has changed."""
    place.marker = "DONE"
    place.put({"pb.yml": b"x", "DONE": b"1"})
    source = place.source()
    asked = revision(source)
    with pytest.raises(ContentMoved):
        source.fetch(asked, Fetching(place, tmp_path).directory(), None, lambda *_: place.put({"DONE": b"2"}))


def test_a_directory_that_is_not_there_is_asked_for_again(place: DirectoryPlace) -> None:
    """A mount that is not there yet may come."""
    place.root.rmdir()
    with pytest.raises(ContentRetry, match="No such file"):
        revision(place.source())


def test_a_file_in_place_of_the_directory_needs_a_person(place: DirectoryPlace) -> None:
    """A name that is no directory does not become one."""
    place.root.rmdir()
    place.root.write_bytes(b"")
    with pytest.raises(ContentStalled, match="Not a directory"):
        revision(place.source())


@pytest.mark.parametrize("call", ["scandir", "stat", "open"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ESTALE, ContentRetry),
        (errno.EIO, ContentRetry),
        (errno.ETIMEDOUT, ContentRetry),
        (errno.ENOENT, ContentRetry),
        (errno.EACCES, ContentStalled),
        (errno.EPERM, ContentStalled),
    ],
)
def test_an_error_of_the_file_system_says_what_to_do_next(
    place: DirectoryPlace, monkeypatch: pytest.MonkeyPatch, call: str, code: int, kind: type[ContentError]
) -> None:
    """A server that is gone may come back; a permission does not come by itself. The path is named."""
    place.put(FILES)

    def broken(*_: object, **__: object) -> object:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, broken)
    with pytest.raises(ContentError) as raised:
        place.source().look(None, DEADLINE_S)
    monkeypatch.undo()
    assert type(raised.value) is kind
    assert str(place.root) in str(raised.value)


def test_a_file_that_vanishes_during_the_fetch_is_another_revision(place: DirectoryPlace, tmp_path: Path) -> None:
    """What was listed and is gone."""
    place.put({f"file-{number}": b"x" for number in range(20)})
    source = place.source()
    asked = revision(source)

    def vanish(_done: int, _total: int | None) -> None:
        (place.root / "file-9").unlink(missing_ok=True)

    with pytest.raises(ContentMoved):
        source.fetch(asked, Fetching(place, tmp_path).directory(), None, vanish)


@pytest.mark.parametrize("size", [0, 1, 99_999, 100_001])
def test_a_file_that_gets_another_size_during_the_fetch_is_another_revision(
    place: DirectoryPlace, tmp_path: Path, size: int
) -> None:
    """Cut short or grown after it was listed: not delivered, whatever was copied by then."""
    place.put({f"file-{number}": b"x" * 100_000 for number in range(3)})
    source = place.source()
    asked = revision(source)

    def resize(_done: int, _total: int | None) -> None:
        os.truncate(place.root / "file-2", size)

    with pytest.raises(ContentMoved):
        source.fetch(asked, Fetching(place, tmp_path).directory(), None, resize)


def test_a_copy_without_copy_file_range_is_the_same(
    place: DirectoryPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two file systems, or on one that does not know it."""

    def unknown(*_: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "copy_file_range", unknown)
    place.put(FILES)
    assert tree(Fetching(place, tmp_path).now()) == FILES


def test_modes_times_and_inner_links_are_kept(place: DirectoryPlace, tmp_path: Path) -> None:
    """The copy has the permission bits, the times, the empty directories and the links, and no setuid bit."""
    place.put({"bin/run": b"#!/bin/sh\n", "lib/x": b"x"})
    (place.root / "bin/run").chmod(0o4755)
    (place.root / "hollow").mkdir(mode=0o711)
    (place.root / "bin/lib").symlink_to("../lib")
    os.utime(place.root / "lib/x", ns=(5, 1_000_000_000_000_000_123))
    target = Fetching(place, tmp_path).directory()
    source = place.source()
    fetched = source.fetch(revision(source), target, None, silent)
    assert fetched.files == 3
    assert (target / "bin/run").stat().st_mode & 0o7777 == 0o755
    assert (target / "hollow").stat().st_mode & 0o7777 == 0o711
    assert (target / "bin/lib").readlink() == Path("../lib")
    assert (target / "lib/x").stat().st_mtime_ns == 1_000_000_000_000_000_123


@pytest.mark.parametrize("change", ["mode", "link", "folder"])
def test_every_change_that_a_play_could_see_is_another_revision(place: DirectoryPlace, change: str) -> None:
    """A permission, a link's target, an empty directory."""
    place.put({"pb.yml": b"x"})
    (place.root / "link").symlink_to("pb.yml")
    before = revision(place.source())
    if change == "mode":
        (place.root / "pb.yml").chmod(0o755)
    elif change == "link":
        (place.root / "link").unlink()
        (place.root / "link").symlink_to("other")
    else:
        (place.root / "folder").mkdir()
    assert revision(place.source()) != before


def test_the_same_bytes_copied_anew_are_the_same_revision_by_checksum(place: DirectoryPlace) -> None:
    """With checksum the times of files do not count."""
    place.checksum = True
    place.put({"pb.yml": b"x"})
    before = revision(place.source())
    place.put({"pb.yml": b"x"})
    assert revision(place.source()) == before


def test_bytes_that_change_behind_the_times_are_noticed_by_checksum(place: DirectoryPlace, tmp_path: Path) -> None:
    """A file rewritten with its old time during the fetch is not delivered."""
    place.checksum = True
    place.put({"a": b"old" * 100, "b": b"old" * 100})
    source = place.source()
    asked = revision(source)
    moment = (place.root / "b").stat().st_mtime_ns

    def rewrite(_done: int, _total: int | None) -> None:
        (place.root / "b").write_bytes(b"new" * 100)
        os.utime(place.root / "b", ns=(moment, moment))

    target = Fetching(place, tmp_path).directory()
    with pytest.raises(ContentMoved):
        source.fetch(asked, target, None, rewrite)
    assert tree(target).get("b") != b"old" * 100
