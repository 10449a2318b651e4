"""What every source of content must do, as one suite; a kind of source joins in with a small adapter.

A test module subclasses `SourceSuite` and gives it a fixture `place` that yields an adapter (`Place`). The cases speak
to `Source` only: `look`, and `fetch` into an empty directory.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from jetwatch.content.source import ContentError, ContentMoved, ContentRetry, ContentStalled, Fetched, Look, Source

DEADLINE_S = 60.0
FILES = {
    "pb.yml": b"- hosts: localhost\n",
    "roles/web/tasks/main.yml": b"[]\n",
    "roles/web/files/page.html": b"<p>" + b"x" * 5000 + b"</p>\n",
    "empty": b"",
}
SPACES = {"a file": b"1", "a folder/with spaces in it": b"2", " leading": b"3", "trailing ": b"4"}
UNICODE = {
    "häuser/größe.yml": b"1",
    "日本/文書": b"2",
    "emoji-🚀": b"3",
    "cafe\u0301": b"decomposed",
    "caf\u00e9": b"composed",
}
SYNTAX = {
    "a+b": b"1",
    "a%20b": b"2",
    "a&b=c": b"3",
    "a#b": b"4",
    "what?": b"5",
    "-rf": b"6",
    "$(id)": b"7",
    "'\"": b"8",
}


class Place(ABC):
    """A place that content comes from, empty at first, which the suite fills.

    `reuses`: an unchanged file is not fetched again when there is a cache. `refuses_empty`: a place without any file is
    ContentRetry (else it may be an empty tree). `hostile`: keys this place can hold that a fetch must refuse, each with
    the part of the name that the refusal must show. `many`: how many files the large case has. `marker`: the name of
    the file that a publisher of this place writes last.
    """

    marker: str | None = None

    reuses = False
    refuses_empty = True
    hostile: Sequence[tuple[str, str]] = ()
    many = 5000

    @abstractmethod
    def put(self, files: Mapping[str, bytes]) -> None:
        """Add these files, or replace them; when this returns a look shows them."""

    @abstractmethod
    def remove(self, *keys: str) -> None:
        """Take these files away."""

    @abstractmethod
    def source(self) -> Source:
        """A new source of this place, as the agent would make it."""

    @abstractmethod
    def denied(self) -> AbstractContextManager[Source]:
        """Lend a source that may not read this place: no permission, wrong credentials."""

    def put_hostile(self, key: str) -> None:
        """Add the entry that `hostile` names."""
        self.put({key: b"hostile"})

    def content_of(self, directory: Path) -> dict[str, bytes]:
        """What a fetch put there, but for the marker."""
        found = tree(directory)
        if self.marker is not None:
            del found[self.marker]
        return found


def silent(_done: int, _total: int | None) -> None:
    """No progress to show."""


def tree(directory: Path) -> dict[str, bytes]:
    """Every regular file below a directory, with its bytes."""
    paths = [path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir()]
    assert [path for path in paths if path.is_symlink()] == []
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def beside(target: Path) -> set[str]:
    """The names in the directory that `target` lies in."""
    return {path.name for path in target.parent.iterdir()}


def revision(source: Source) -> str:
    """What is there now."""
    return source.look(None, DEADLINE_S).revision


class Fetching:
    """Fetches a place again and again, each time into a new directory, with one cache."""

    def __init__(self, place: Place, root: Path) -> None:
        self.place = place
        self.cache = root / "cache"
        self.cache.mkdir(mode=0o700)
        self.root = root
        self.count = 0
        self.fetched: Fetched | None = None

    def directory(self) -> Path:
        """A new empty directory."""
        self.count += 1
        made = self.root / f"fetch-{self.count}"
        made.mkdir(mode=0o700)
        return made

    def now(self) -> Path:
        """A directory with what is there now, by a source that knows nothing of the one before."""
        source = self.place.source()
        target = self.directory()
        self.fetched = source.fetch(revision(source), target, self.cache, silent)
        return target


@contextlib.contextmanager
def tiny_disk(path: Path, size_bytes: int) -> Iterator[Path]:
    """Lend a file system of this size, or skip where this process may not mount one."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "jetwatch-test", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root and mount(8) for a tiny tmpfs")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Lend the rights of an ordinary user, where the test runs as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class SourceSuite:
    """The cases. A subclass has a fixture `place`."""

    @pytest.fixture
    def fetching(self, place: Place, tmp_path: Path) -> Fetching:
        """The place, and where to put what it has."""
        return Fetching(place, tmp_path)

    def test_a_fetch_puts_exactly_what_is_there(self, place: Place, fetching: Fetching) -> None:
        """Every file with its bytes, nothing else, and the numbers that go with it."""
        place.put(FILES)
        assert place.content_of(fetching.now()) == FILES
        assert fetching.fetched is not None
        whole = tree(fetching.root / "fetch-1")
        assert fetching.fetched.files == len(whole)
        assert fetching.fetched.total_bytes == sum(map(len, whole.values()))

    def test_an_unchanged_place_keeps_its_revision(self, place: Place) -> None:
        """Two looks, by one source and by another, say the same."""
        place.put(FILES)
        source = place.source()
        first = source.look(None, DEADLINE_S)
        assert source.look(first, DEADLINE_S).revision == first.revision
        assert revision(place.source()) == first.revision

    def test_a_look_knows_only_what_it_is_told(self, place: Place) -> None:
        """What another source saw serves as well as what this one saw, and an older look is no trap."""
        place.put(FILES)
        first = place.source().look(None, DEADLINE_S)
        place.put({"pb.yml": b"- hosts: all\n"})
        second = place.source().look(first, DEADLINE_S)
        assert second.revision != first.revision
        assert place.source().look(second, DEADLINE_S).revision == second.revision
        assert place.source().look(Look("no such revision"), DEADLINE_S).revision == second.revision

    def test_one_changed_file_is_another_revision_and_all_the_rest_is_right(
        self, place: Place, fetching: Fetching
    ) -> None:
        """A file of the same length changes: the next fetch has it, and the others as they were."""
        place.put(FILES)
        before = revision(place.source())
        fetching.now()
        place.put({"roles/web/tasks/main.yml": b"{}\n"})
        assert revision(place.source()) != before
        assert place.content_of(fetching.now()) == {**FILES, "roles/web/tasks/main.yml": b"{}\n"}
        if place.reuses:
            assert fetching.fetched is not None
            assert fetching.fetched.reused_bytes == sum(map(len, FILES.values())) - 3

    def test_a_removed_file_is_gone(self, place: Place, fetching: Fetching) -> None:
        """A key that is taken away is another revision without that file."""
        place.put(FILES)
        before = revision(place.source())
        fetching.now()
        place.remove("roles/web/tasks/main.yml")
        assert revision(place.source()) != before
        rest = {key: body for key, body in FILES.items() if key != "roles/web/tasks/main.yml"}
        assert place.content_of(fetching.now()) == rest

    def test_content_that_comes_back_is_right(self, place: Place, fetching: Fetching) -> None:
        """From one content to another and back: nothing of the middle stays."""
        place.put({"pb.yml": b"one"})
        fetching.now()
        place.put({"pb.yml": b"two", "more": b"2"})
        fetching.now()
        place.put({"pb.yml": b"one"})
        place.remove("more")
        assert place.content_of(fetching.now()) == {"pb.yml": b"one"}

    def test_an_empty_place(self, place: Place, fetching: Fetching) -> None:
        """An empty place is one where nothing is yet (not mounted, not published), or an empty tree."""
        place.put({"pb.yml": b"x"})
        place.remove("pb.yml")
        try:
            target = fetching.now()
        except ContentRetry as error:
            assert re.search("nothing there yet|no such", str(error))  # noqa: PT017 - either end is right for some
        else:
            assert not place.refuses_empty
            assert place.content_of(target) == {}

    def test_many_files(self, place: Place, fetching: Fetching) -> None:
        """Thousands of files arrive, each with its own bytes."""
        files = {f"folder-{number % 97}/file-{number:05}": f"{number}\n".encode() for number in range(place.many)}
        place.put(files)
        assert place.content_of(fetching.now()) == files

    @pytest.mark.parametrize("files", [SPACES, UNICODE, SYNTAX], ids=["spaces", "unicode", "syntax"])
    def test_unusual_names(self, place: Place, fetching: Fetching, files: Mapping[str, bytes]) -> None:
        """Names with spaces, of every script, and with the signs of shells and URLs arrive byte for byte."""
        place.put(files)
        assert place.content_of(fetching.now()) == files

    def test_hostile_names_are_refused_by_name(self, place: Place, fetching: Fetching) -> None:
        """What cannot be a file below the directory stops the fetch, and the sentence names it."""
        if not place.hostile:
            pytest.skip("this place can hold no hostile name")
        for key, shown in place.hostile:
            place.put({"pb.yml": b"fine"})
            place.put_hostile(key)
            target = fetching.directory()
            source = place.source()
            before = beside(target)
            with pytest.raises(ContentStalled) as refusal:
                source.fetch(revision(source), target, fetching.cache, silent)
            assert shown in str(refusal.value), key
            assert "\n" not in str(refusal.value)
            assert beside(target) == before, key
            place.remove(key)

    def test_a_place_that_changes_during_the_fetch_is_never_mixed(self, place: Place, fetching: Fetching) -> None:
        """Changed while it is fetched: either the old content, whole, or ContentMoved."""
        before = {f"file-{number:03}": b"old" * 1000 for number in range(50)}
        after = dict.fromkeys(before, b"new" * 1000)
        place.put(before)
        source = place.source()
        asked = revision(source)
        target = fetching.directory()
        calls: list[int] = []

        def change(done: int, _total: int | None) -> None:
            if not calls:
                place.put(after)
            calls.append(done)

        try:
            source.fetch(asked, target, fetching.cache, change)
        except ContentMoved:
            pass
        else:
            assert place.content_of(target) == before
        assert calls, "a fetch tells its progress"
        assert calls == sorted(calls)
        assert place.content_of(fetching.now()) == after

    def test_a_revision_that_is_gone_is_not_another_one(self, place: Place, fetching: Fetching) -> None:
        """Asked for a revision that was overwritten: exactly that one, or ContentMoved."""
        place.put({"pb.yml": b"old"})
        asked = revision(place.source())
        place.put({"pb.yml": b"new"})
        target = fetching.directory()
        try:
            place.source().fetch(asked, target, fetching.cache, silent)
        except ContentMoved:
            return
        assert place.content_of(target) == {"pb.yml": b"old"}

    def test_a_full_disk_is_said(self, place: Place, fetching: Fetching) -> None:
        """No space for the content: an error that says so, not a short file."""
        place.put({"pb.yml": b"x", "large": os.urandom(1_000_000)})
        source = place.source()
        asked = revision(source)
        with tiny_disk(fetching.root / "tiny", 128 * 1024) as disk:
            target = disk / "target"
            target.mkdir()
            with pytest.raises(ContentError, match=r"(?i)space"):
                source.fetch(asked, target, None, silent)

    def test_a_full_disk_of_the_cache_is_no_hindrance(self, place: Place, fetching: Fetching) -> None:
        """What cannot be kept for the next time is there this time all the same."""
        place.put({"pb.yml": b"x", "large": os.urandom(1_000_000)})
        source = place.source()
        asked = revision(source)
        target = fetching.directory()
        with tiny_disk(fetching.root / "tiny", 128 * 1024) as disk:
            cache = disk / "cache"
            cache.mkdir(mode=0o700)
            source.fetch(asked, target, cache, silent)
        assert place.content_of(target).keys() == {"pb.yml", "large"}

    def test_a_place_that_may_not_be_read_needs_a_person(self, place: Place) -> None:
        """No permission or wrong credentials: ContentStalled, not an endless retry."""
        place.put(FILES)
        with place.denied() as source, pytest.raises(ContentStalled):
            source.look(None, DEADLINE_S)

    def test_a_play_that_writes_into_its_directory_cannot_harm_the_next_one(
        self, place: Place, fetching: Fetching
    ) -> None:
        """Files overwritten in place, appended to, removed and made: the next fetch is as if nothing had been."""
        place.put(FILES)
        played = fetching.now()
        with (played / "pb.yml").open("r+b") as file:
            file.write(b"#")
        with (played / "roles/web/files/page.html").open("ab") as file:
            file.write(b"more")
        (played / "roles/web/tasks/main.yml").unlink()
        (played / "new").write_bytes(b"new")
        assert place.content_of(fetching.now()) == FILES

    def test_a_spoilt_cache_cannot_harm_a_fetch(self, place: Place, fetching: Fetching) -> None:
        """Whatever is written over in the cache is noticed, or never used."""
        place.put(FILES)
        fetching.now()
        for path in [path for path in fetching.cache.rglob("*") if path.is_file() and path.stat().st_size]:
            path.chmod(0o600)
            path.write_bytes(b"\xff" * path.stat().st_size)
        assert place.content_of(fetching.now()) == FILES

    def test_a_fetch_without_a_cache_is_right(self, place: Place, fetching: Fetching) -> None:
        """The cache is for speed only."""
        place.put(FILES)
        source = place.source()
        target = fetching.directory()
        source.fetch(revision(source), target, None, silent)
        assert place.content_of(target) == FILES
