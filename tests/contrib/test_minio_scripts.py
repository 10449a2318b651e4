"""check-minio and download-minio, the minio client, against two real S3 servers."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from script_runner import Ended, Scripts, files_below
from servers import S3Server, free_ports

TREE = {"pb.yml": "- hosts: all\n", "roles/web/files/größe + & 100%.txt": "é", "empty": ""}


@dataclass
class Publisher:
    """Puts objects below a prefix that no other test has, and runs the scripts on it."""

    client: Any
    bucket: str
    prefix: str
    scripts: Scripts

    @property
    def url(self) -> str:
        """The place to give to a script."""
        return f"s3://{self.bucket}/{self.prefix}"

    def put(self, tree: dict[str, str]) -> None:
        """Write objects."""
        for key, text in tree.items():
            self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=text.encode())

    def check(self, *words: str, applied: str = "", **variables: str) -> Ended:
        """Run check-minio."""
        return self.scripts.run("check-minio", self.url, *words, JETWATCH_APPLIED_REVISION=applied, **variables)

    def download(self, directory: Path, *words: str, revision: str = "") -> Ended:
        """Run download-minio."""
        return self.scripts.run("download-minio", self.url, directory, *words, JETWATCH_REVISION=revision)


@contextlib.contextmanager
def publisher_of(server: S3Server, scripts: Scripts) -> Iterator[Publisher]:
    """Lend a publisher for one test."""
    scripts.env |= {
        "MINIO_ENDPOINT": server.endpoint,
        "MINIO_ACCESS_KEY": server.access_key,
        "MINIO_SECRET_KEY": server.secret_key,
    }
    with server.client() as client:
        yield Publisher(client, server.bucket, f"{uuid.uuid4()}/site/", scripts)


@pytest.fixture
def publisher(s3_server: S3Server, scripts: Scripts) -> Iterator[Publisher]:
    """A publisher on each server in turn."""
    with publisher_of(s3_server, scripts) as made:
        yield made


@pytest.fixture
def seaweedfs_publisher(seaweedfs_server: S3Server, scripts: Scripts) -> Iterator[Publisher]:
    """A publisher where keys may be anything."""
    with publisher_of(seaweedfs_server, scripts) as made:
        yield made


def test_content_is_due_until_it_is_applied(publisher: Publisher) -> None:
    """Later while nothing is there, due, not due, due again when one object changed."""
    assert publisher.check().exit_code == 75
    publisher.put(TREE)
    first = publisher.check("--settle", "0.1")
    assert (first.exit_code, first.stderr) == (0, "")
    assert publisher.check(applied=first.outputs["revision"]).exit_code == 1
    publisher.put({"pb.yml": "newer"})
    assert publisher.check(applied=first.outputs["revision"]).exit_code == 0


def test_the_marker_alone_decides(publisher: Publisher) -> None:
    """Its ETag is the revision; while it is missing, later."""
    publisher.put(TREE)
    assert publisher.check("--marker", "REVISION").exit_code == 75
    publisher.put({"REVISION": "1"})
    first = publisher.check("--marker", "REVISION").outputs["revision"]
    publisher.put({"pb.yml": "half published"})
    assert publisher.check("--marker", "REVISION", applied=first).exit_code == 1
    publisher.put({"REVISION": "2"})
    assert publisher.check("--marker", "REVISION", applied=first).exit_code == 0


@pytest.mark.parametrize("words", [(), ("--marker", "empty")])
def test_a_download_is_the_revision_and_nothing_else(
    publisher: Publisher, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Every object with its bytes; another revision than the run's is left to the next check."""
    publisher.put(TREE)
    revision = publisher.check(*words).outputs["revision"]
    ended = publisher.download(tmp_path / "site", *words, revision=revision)
    assert (ended.exit_code, ended.stderr, ended.outputs) == (0, "", {"revision": revision})
    assert files_below(tmp_path / "site") == TREE
    publisher.put({"empty": "not any more"})
    moved = publisher.download(tmp_path / "other", *words, revision=revision)
    assert moved.exit_code == 75
    assert list((tmp_path / "other").iterdir()) == []


def test_hostile_keys_are_refused_by_name(seaweedfs_publisher: Publisher, tmp_path: Path) -> None:
    """Nothing is fetched."""
    seaweedfs_publisher.put({"pb.yml": "x", "pb.yml/below": "y"})
    ended = seaweedfs_publisher.download(tmp_path / "site")
    assert (ended.exit_code, list((tmp_path / "site").iterdir())) == (3, [])
    assert "'pb.yml/below' lies below a key that is a file" in ended.stderr


def test_errors_are_one_line(publisher: Publisher) -> None:
    """A missing bucket, a wrong secret, nobody there, no server named."""
    publisher.put(TREE)
    missing = publisher.scripts.run("check-minio", f"s3://nope-{uuid.uuid4()}/")
    denied = publisher.check(MINIO_SECRET_KEY="wrong-secret")
    gone = publisher.check(MINIO_ENDPOINT=f"http://127.0.0.1:{free_ports(1)[0]}")
    for ended in (missing, denied, gone):
        assert (ended.exit_code, ended.stderr.count("\n")) == (3, 1), ended.stderr
    assert "does not exist" in missing.stderr
    assert "look at the credentials" in denied.stderr
    assert publisher.check(MINIO_ENDPOINT="").exit_code == 2
    nobody = publisher.check(MINIO_ACCESS_KEY="")
    assert (nobody.exit_code, "set MINIO_ACCESS_KEY" in nobody.stderr) == (3, True)
