"""Buckets behind TLS with an authority of their own: known by `ca_file`, and refused clearly where it is another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bucket_places import BucketPlace, ObjectPlace
from servers import Certificate, S3Server, rclone, seaweedfs
from source_suite import DEADLINE_S, revision, silent, tree
from web_server import Authority, make_authority

from jetwatch.content.bucket import BucketSource
from jetwatch.content.source import ContentStalled

FILES = {"pb.yml": b"- hosts: localhost\n", "roles/web/tasks/main.yml": b"[]\n"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that vouches for 127.0.0.1."""
    return make_authority(tmp_path_factory.mktemp("authority") / "ours")


@pytest.fixture(scope="module", params=[seaweedfs, rclone], ids=["seaweedfs", "rclone"])
def encrypted(authority: Authority, request: pytest.FixtureRequest) -> Iterator[S3Server]:
    """Each of the two servers, encrypted."""
    with request.param(Certificate(authority.own_file, authority.ca_file)) as server:
        yield server


@pytest.fixture
def client(encrypted: S3Server) -> Iterator[Any]:
    """A client that knows the authority."""
    with encrypted.client() as client:
        yield client


def filled(server: S3Server, client: Any) -> BucketPlace:
    """A prefix with two files, written with the other client: ours is what is tried."""
    place = BucketPlace(server, client, ca_file=server.ca_file)
    for key, body in FILES.items():
        client.put_object(Bucket=server.bucket, Key=place.prefix + key, Body=body)
    return place


def test_a_prefix_behind_a_private_authority_is_fetched(encrypted: S3Server, client: Any, tmp_path: Path) -> None:
    """By listing and by marker."""
    place = filled(encrypted, client)
    for number, options in enumerate(({}, {"marker": "pb.yml"})):
        place.options |= options
        source, into = place.source(), tmp_path / str(number)
        into.mkdir()
        source.fetch(revision(source), into, None, silent)
        assert tree(into) == FILES


def test_an_archive_behind_a_private_authority_is_fetched(encrypted: S3Server, client: Any, tmp_path: Path) -> None:
    """One object."""
    place = ObjectPlace(encrypted, client)
    place.put(FILES)
    source = BucketSource(place.content(ca_file=encrypted.ca_file))
    source.fetch(revision(source), tmp_path, None, silent)
    assert tree(tmp_path) == FILES


def test_the_right_authority_may_stand_behind_others(
    encrypted: S3Server, client: Any, authority: Authority, tmp_path: Path
) -> None:
    """A bundle, with words between, as companies hand them out."""
    another = make_authority(tmp_path / "another")
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(f"# theirs\n{another.ca_file.read_text()}\n# ours\n{authority.ca_file.read_text()}")
    place = filled(encrypted, client)
    source = BucketSource(place.content(ca_file=str(bundle)))
    assert revision(source) == revision(place.source())


def test_an_authority_that_is_not_the_right_one_needs_a_person(
    encrypted: S3Server, client: Any, tmp_path: Path
) -> None:
    """None at all, or another: the sentence says that it is the certificate, and where a private one goes."""
    another = make_authority(tmp_path / "another")
    place = filled(encrypted, client)
    for ca_file in (None, str(another.ca_file)):
        for content in (place.content(ca_file=ca_file), place.content(ca_file=ca_file, marker="pb.yml")):
            with pytest.raises(ContentStalled, match=r"certificate is not trusted.*`ca_file`"):
                BucketSource(content).look(None, DEADLINE_S)


def test_a_file_without_a_certificate_needs_a_person(encrypted: S3Server, client: Any, tmp_path: Path) -> None:
    """Named, and not taken for an empty list of authorities."""
    place = filled(encrypted, client)
    for text in ("", "nonsense"):
        (tmp_path / "ca.pem").write_text(text)
        with pytest.raises(ContentStalled, match=r"ca\.pem: no certificate in it"):
            BucketSource(place.content(ca_file=str(tmp_path / "ca.pem"))).look(None, DEADLINE_S)
