"""A bucket as a source: the shared suite on two real S3 servers, as prefix and as archive."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bucket_places import BucketPlace, MarkedPlace, ObjectPlace
from servers import S3Server
from source_suite import DEADLINE_S, Fetching, Place, SourceSuite, revision, silent, tree
from waiting import until

from jetwatch.content.bucket import BucketSource
from jetwatch.content.bucket_listing import Item, Listing
from jetwatch.content.bucket_transfer import LEAVE_S, OPEN_FILES
from jetwatch.content.source import ContentMoved, ContentRetry, ContentStalled, Limits, Look


class TestPrefix(SourceSuite):
    """A prefix by its listing."""

    @pytest.fixture
    def place(self, s3_server: S3Server, client: Any) -> Place:
        """An empty prefix; what each server takes as a key is its own affair."""
        place = BucketPlace(s3_server, client)
        place.hostile = [("new\nline", r"new\nline"), ("a\ttab", r"a\ttab")]
        # SeaweedFS lists a control character as U+FFFD, under which nothing can be read.
        place.hostile.append(("a\x01b", "a\ufffdb" if s3_server.kind == "seaweedfs" else r"a\x01b"))
        return place

    def test_an_empty_place(self, place: Place, fetching: Fetching) -> None:
        """An empty prefix may be one that is not published yet: it is asked for again."""
        place.put({"pb.yml": b"x"})
        place.remove("pb.yml")
        with pytest.raises(ContentRetry, match="nothing there yet"):
            fetching.now()


class TestMarkedPrefix(SourceSuite):
    """A prefix by its marker."""

    @pytest.fixture
    def place(self, s3_server: S3Server, client: Any) -> Place:
        """An empty prefix."""
        place = MarkedPlace(s3_server, client)
        place.hostile = [("new\nline", r"new\nline")]
        return place


class TestObject(SourceSuite):
    """An archive in a bucket."""

    @pytest.fixture
    def place(self, s3_server: S3Server, client: Any) -> Place:
        """An archive that is not there yet."""
        return ObjectPlace(s3_server, client)


@pytest.fixture
def place(s3_server: S3Server, client: Any) -> BucketPlace:
    """An empty prefix."""
    return BucketPlace(s3_server, client)


@pytest.fixture
def odd(moto_server: S3Server) -> Iterator[BucketPlace]:
    """An empty prefix on a server that takes every key."""
    with moto_server.client() as client:
        yield BucketPlace(moto_server, client)


def fetch(place: BucketPlace, into: Path, cache: Path | None = None) -> dict[str, bytes]:
    """Fetch what is there now, and read it."""
    into.mkdir()
    source = place.source()
    source.fetch(revision(source), into, cache, silent)
    return tree(into)


def test_a_cache_that_lost_everything_is_filled_again(place: BucketPlace, tmp_path: Path) -> None:
    """What is known and gone is fetched, more of it than may be open at a time."""
    published = {f"{number}": b"%d" % number for number in range(2 * OPEN_FILES)}
    place.put(published)
    cache = tmp_path / "cache"
    fetch(place, tmp_path / "first", cache)
    shutil.rmtree(cache / "objects")
    (cache / "objects").mkdir(mode=0o700)
    assert fetch(place, tmp_path / "second", cache) == published
    assert len(list(cache.glob("objects/*/*"))) == len(published)


def test_a_fetch_that_fails_leaves_no_thread(place: BucketPlace, tmp_path: Path) -> None:
    """Those who have brought something find out that nobody wants it."""
    place.put({f"{number}": b"x" * 100 for number in range(200)})
    source = place.source()
    asked = revision(source)
    (tmp_path / "into").mkdir()

    def fail(done: int, _total: int | None) -> None:
        if done:
            raise ContentRetry("enough")

    with pytest.raises(ContentRetry, match="enough"):
        source.fetch(asked, tmp_path / "into", None, fail)
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "bucket"], 3 * LEAVE_S)


def test_a_listing_costs_a_request_per_thousand_keys_and_is_not_settled(place: BucketPlace) -> None:
    """The look says so; a second one decides whether it counts."""
    place.put({f"file-{number}": b"x" for number in range(1001)})
    look = place.source().look(None, DEADLINE_S)
    assert look.requests == 2
    assert look.settled is False


def test_the_revision_of_a_listing_is_made_of_name_size_and_etag(place: BucketPlace) -> None:
    """Written again with the same bytes, it is the same revision; what lies beside the prefix has no part in it."""
    place.put({"pb.yml": b"x", "roles/a": b"y"})
    before = revision(place.source())
    place.put({"pb.yml": b"x"})
    assert revision(place.source()) == before
    place.client.put_object(Bucket=place.server.bucket, Key=place.prefix.rstrip("/") + "-other/x", Body=b"")
    assert revision(place.source()) == before


def test_a_prefix_without_its_last_slash_is_the_same_prefix(place: BucketPlace, tmp_path: Path) -> None:
    """A prefix stands for a directory: `site` does not mean `site-old` too."""
    place.put({"pb.yml": b"x"})
    content = place.content()
    bare = BucketSource(content.__class__(**{**fields(content), "url": content.url.rstrip("/")}))
    assert revision(bare) == revision(place.source())


def fields(record: Any) -> dict[str, Any]:
    """The fields of a frozen record with slots."""
    return {name: getattr(record, name) for name in record.__slots__}


def test_a_marker_costs_one_request_and_is_the_revision(place: BucketPlace) -> None:
    """The ETag of the object that the publisher writes last; everything else may change without a new revision."""
    place.options = {"marker": "REVISION"}
    place.put({"pb.yml": b"x", "REVISION": b"1"})
    first = place.source().look(None, DEADLINE_S)
    assert (first.revision, first.settled, first.requests) == ("c4ca4238a0b923820dcc509a6f75849b", True, 1)
    place.put({"pb.yml": b"y"})
    assert place.source().look(first, DEADLINE_S) == first
    place.put({"REVISION": b"2"})
    second = place.source().look(first, DEADLINE_S)
    assert (second.revision, second.requests) == ("c81e728d9d4c2f636f067f89cc14862c", 1)


def test_an_unchanged_archive_costs_one_request(s3_server: S3Server, client: Any) -> None:
    """The server says 304, and the look before still holds."""
    place = ObjectPlace(s3_server, client)
    place.put({"pb.yml": b"x"})
    first = place.source().look(None, DEADLINE_S)
    assert place.source().look(first, DEADLINE_S) == first
    assert (first.settled, first.requests) == (True, 1)


def test_a_marker_that_is_not_there_yet_is_asked_for_again(place: BucketPlace) -> None:
    """No marker: nothing is published yet."""
    place.options = {"marker": "REVISION"}
    place.put({"pb.yml": b"x"})
    with pytest.raises(ContentRetry, match="REVISION is not there"):
        revision(place.source())


@pytest.mark.parametrize("change", ["written", "removed"])
def test_a_marker_that_changes_during_the_fetch_is_another_revision(
    place: BucketPlace, tmp_path: Path, change: str
) -> None:
    """Also when nothing but the marker has changed, or it was taken away for the next publication."""
    place.options = {"marker": "REVISION"}
    place.put({"pb.yml": b"x", "REVISION": b"1"})
    source = place.source()
    asked = revision(source)

    def meddle(_done: int, _total: int | None) -> None:
        if change == "written":
            place.put({"REVISION": b"2"})
        else:
            place.remove("REVISION")

    with pytest.raises(ContentMoved):
        source.fetch(asked, tmp_path, None, meddle)


@pytest.mark.parametrize("change", ["added", "removed"])
def test_a_listing_that_changes_during_the_fetch_is_another_revision(
    place: BucketPlace, tmp_path: Path, change: str
) -> None:
    """A key more or a key less, although every listed object came as it was listed."""
    place.put({"pb.yml": b"x", "z": b"z"})
    source = place.source()
    asked = revision(source)

    def meddle(done: int, _total: int | None) -> None:
        if done == 2:
            place.put({"new": b"n"}) if change == "added" else place.remove("z")

    with pytest.raises(ContentMoved, match="changed while it was fetched"):
        source.fetch(asked, tmp_path, None, meddle)


def test_only_a_changed_object_travels(place: BucketPlace, tmp_path: Path) -> None:
    """One of three hundred changed: two listings and one object are asked for."""
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    files = {f"file-{number}": f"{number}".encode() for number in range(300)}
    place.put(files)
    fetch(place, tmp_path / "one", cache)
    place.put({"file-7": b"!"})
    source, into = place.source(), tmp_path / "two"
    into.mkdir()
    fetched = source.fetch(revision(source), into, cache, silent)
    assert tree(into) == {**files, "file-7": b"!"}
    assert (fetched.requests, fetched.total_bytes - fetched.reused_bytes) == (3, 1)


def test_a_fetch_that_failed_is_not_begun_anew(place: BucketPlace, tmp_path: Path) -> None:
    """What had come before the failure comes out of the cache in the next try."""
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    place.put({"a": os.urandom(1000), "b": os.urandom(1000)})
    source, into = place.source(), tmp_path / "one"
    asked = revision(source)
    into.mkdir()

    class Ended(ContentRetry):
        """The caller's own end."""

    def end(done: int, _total: int | None) -> None:
        if done == 2000:
            raise Ended

    with pytest.raises(Ended):
        source.fetch(asked, into, cache, end)
    again = tmp_path / "two"
    again.mkdir()
    assert place.source().fetch(asked, again, cache, silent).reused_bytes == 2000


def test_an_archive_is_not_fetched_again_for_another_try(s3_server: S3Server, client: Any, tmp_path: Path) -> None:
    """The same revision asked for twice: the second time nothing travels."""
    place = ObjectPlace(s3_server, client)
    place.put({"pb.yml": b"x"})
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    source = place.source()
    asked = revision(source)
    for number, requests in enumerate((1, 0)):
        into = tmp_path / str(number)
        into.mkdir()
        assert source.fetch(asked, into, cache, silent).requests == requests
        assert tree(into) == {"pb.yml": b"x"}


def test_large_and_small_objects_arrive_whole(place: BucketPlace, tmp_path: Path) -> None:
    """Around every bound of the transfer's pieces."""
    sizes = (0, 1, 256 * 1024, 512 * 1024 - 1, 512 * 1024, 512 * 1024 + 1, 5_000_000)
    files = {f"size-{size}": os.urandom(size) for size in sizes}
    place.put(files)
    assert fetch(place, tmp_path / "into") == files


def test_an_object_put_in_parts_arrives_whole(seaweedfs_server: S3Server, tmp_path: Path) -> None:
    """Its ETag has a dash and is no MD5."""
    with seaweedfs_server.client() as client:
        place = BucketPlace(seaweedfs_server, client)
        where = {"Bucket": place.server.bucket, "Key": place.prefix + "large"}
        parts = [os.urandom(5 * 1024 * 1024), b"end"]
        upload = client.create_multipart_upload(**where)["UploadId"]
        etags = [
            client.upload_part(**where, UploadId=upload, PartNumber=number, Body=part)["ETag"]
            for number, part in enumerate(parts, 1)
        ]
        done = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": done})
        assert fetch(place, tmp_path / "into") == {"large": b"".join(parts)}


def test_objects_that_stand_for_folders_are_left_out(odd: BucketPlace, tmp_path: Path) -> None:
    """Consoles make an empty `folder/` object for a folder, and one for the prefix itself."""
    odd.put({"pb.yml": b"x", "folder/a": b"a", "empty": b""})
    for key in ("", "folder/", "hollow/"):
        odd.client.put_object(Bucket=odd.server.bucket, Key=odd.prefix + key, Body=b"")
    assert fetch(odd, tmp_path / "into") == {"pb.yml": b"x", "folder/a": b"a", "empty": b""}


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("a//b", "a//b"),
        ("/lead", "//lead"),
        ("../up", "../up"),
        ("..", ".."),
        ("a/../b", "a/../b"),
        ("a/./b", "a/./b"),
        ("a\x01b", r"a\x01b"),
        ("a\x7fb", r"a\x7fb"),
        ("long-" + "x" * 251, "long-xxx"),
        ("folder/with bytes/", "folder/with bytes"),
        ("/".join("d" * 66), "d/d/d/d"),
        ("pb.yml/inside", "pb.yml"),
        ("empty/inside", "empty"),
    ],
)
def test_keys_that_cannot_be_files_are_refused_by_name(odd: BucketPlace, tmp_path: Path, key: str, shown: str) -> None:
    """Not a failed listing, not a repaired name: a sentence that says which key it is."""
    odd.put({"pb.yml": b"x", "empty": b""})
    odd.put_hostile(key)
    with pytest.raises(ContentStalled) as refusal:
        fetch(odd, tmp_path / "into")
    assert shown in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["into"]


@pytest.mark.parametrize(
    ("limits", "said"),
    [(Limits(entries=1), "limit is 1"), (Limits(total_bytes=3), "4 bytes"), (Limits(depth=1), "deeper")],
)
def test_more_than_the_limits_is_refused(seaweedfs_server: S3Server, tmp_path: Path, limits: Limits, said: str) -> None:
    """Before anything is fetched."""
    with seaweedfs_server.client() as client:
        place = BucketPlace(seaweedfs_server, client, limits=limits)
        place.put({"pb.yml": b"xx", "a/b": b"yy"})
        with pytest.raises(ContentStalled, match=said):
            fetch(place, tmp_path / "into")
        assert tree(tmp_path / "into") == {}


def test_the_digest_depends_on_every_part_of_a_listing() -> None:
    """Name, size and ETag; not on what is merely joined differently."""
    from datetime import UTC, datetime

    now = datetime.now(UTC)

    def digest(*parts: tuple[str, int, str]) -> str:
        return Listing(tuple(Item(*part, now) for part in parts), 1).digest

    seen = {
        digest(),
        digest(("a", 1, "e")),
        digest(("b", 1, "e")),
        digest(("a", 2, "e")),
        digest(("a", 1, "f")),
        digest(("a", 1, "e"), ("b", 1, "e")),
        digest(("a 1 e", 1, "e")),
    }
    assert len(seen) == 7


def test_a_look_of_another_kind_of_source_is_no_trap(place: BucketPlace) -> None:
    """A validator that means nothing here costs nothing but itself."""
    place.options = {"marker": "M"}
    place.put({"M": b"1"})
    strange = Look("x", validator='etag "abc"')
    assert place.source().look(strange, DEADLINE_S).revision == "c4ca4238a0b923820dcc509a6f75849b"
