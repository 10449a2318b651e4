"""check-s3 and download-s3 against two real S3 servers."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from script_runner import Ended, Scripts, files_below, path_of
from servers import S3Server, free_ports

TREE = {
    "pb.yml": "- hosts: all\n",
    "roles/web/tasks/main.yml": "- debug:\n",
    "roles/web/files/größe + & 100%.txt": "é",
    "empty": "",
}


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

    def check(self, *arguments: str, applied: str = "", **variables: str) -> Ended:
        """Run check-s3."""
        return self.scripts.run("check-s3", self.url, *arguments, JETWATCH_APPLIED_REVISION=applied, **variables)

    def download(self, directory: Path, *arguments: str, revision: str = "") -> Ended:
        """Run download-s3."""
        return self.scripts.run("download-s3", self.url, directory, *arguments, JETWATCH_REVISION=revision)


def publisher_of(server: S3Server, scripts: Scripts) -> Iterator[Publisher]:
    """Lend a publisher for one test."""
    scripts.env.update(server.env())
    with server.client() as client:
        yield Publisher(client, server.bucket, f"{uuid.uuid4()}/site/", scripts)


@pytest.fixture
def publisher(s3_server: S3Server, scripts: Scripts) -> Iterator[Publisher]:
    """A publisher on each server in turn."""
    yield from publisher_of(s3_server, scripts)


@pytest.fixture
def seaweedfs_publisher(seaweedfs_server: S3Server, scripts: Scripts) -> Iterator[Publisher]:
    """A publisher where keys may be anything (rclone's keys are paths of a file system)."""
    yield from publisher_of(seaweedfs_server, scripts)


def test_content_that_was_never_applied_is_due_and_has_a_revision(publisher: Publisher) -> None:
    """A fresh machine is due, and the run gets the revision."""
    publisher.put(TREE)
    ended = publisher.check()
    assert ended.exit_code == 0
    assert re.fullmatch(r"[0-9a-f]{64}", ended.outputs["revision"])


def test_the_applied_revision_is_not_due(publisher: Publisher) -> None:
    """What was applied is not due, and still told."""
    publisher.put(TREE)
    revision = publisher.check().outputs["revision"]
    again = publisher.check(applied=revision)
    assert again.exit_code == 1
    assert again.outputs == {"revision": revision}


@pytest.mark.parametrize("change", ["overwrite", "add", "remove"])
def test_any_change_of_the_content_is_due(publisher: Publisher, change: str) -> None:
    """One object overwritten in its size, added or removed makes another revision."""
    publisher.put(TREE)
    revision = publisher.check().outputs["revision"]
    match change:
        case "overwrite":
            publisher.put({"pb.yml": TREE["pb.yml"].upper()})
        case "add":
            publisher.put({"another": ""})
        case _:
            publisher.client.delete_object(Bucket=publisher.bucket, Key=publisher.prefix + "empty")
    ended = publisher.check(applied=revision)
    assert ended.exit_code == 0
    assert ended.outputs["revision"] != revision


def test_a_prefix_stands_for_a_directory(publisher: Publisher) -> None:
    """`site` without its slash is `site/`, and a neighbour `site-old/` is no part of it."""
    publisher.put(TREE)
    revision = publisher.check().outputs["revision"]
    neighbour = publisher.prefix.removesuffix("/") + "-old/pb.yml"
    publisher.client.put_object(Bucket=publisher.bucket, Key=neighbour, Body=b"x")
    ended = publisher.scripts.run("check-s3", publisher.url.removesuffix("/"), JETWATCH_APPLIED_REVISION=revision)
    assert ended.exit_code == 1


def test_an_empty_prefix_is_later(publisher: Publisher) -> None:
    """Nothing published yet is neither due nor an error."""
    ended = publisher.check()
    assert ended.exit_code == 75
    assert "nothing is below" in ended.stderr
    assert ended.outputs == {}


def test_the_marker_alone_decides(publisher: Publisher) -> None:
    """With a marker its ETag is the revision: due when it changed, whatever else did."""
    publisher.put(TREE | {"REVISION": "1"})
    first = publisher.check("--marker", "REVISION")
    assert first.exit_code == 0
    publisher.put({"pb.yml": "half published"})
    assert publisher.check("--marker", "REVISION", applied=first.outputs["revision"]).exit_code == 1
    publisher.put({"REVISION": "2"})
    assert publisher.check("--marker", "REVISION", applied=first.outputs["revision"]).exit_code == 0


def test_a_missing_marker_is_later(publisher: Publisher) -> None:
    """A publisher that has not written its marker has not finished."""
    publisher.put(TREE)
    ended = publisher.check("--marker", "REVISION")
    assert ended.exit_code == 75
    assert "REVISION is not there" in ended.stderr


def test_content_that_stands_still_is_due_after_settling(publisher: Publisher) -> None:
    """With --settle an unchanged listing counts."""
    publisher.put(TREE)
    assert publisher.check("--settle", "0.1").exit_code == 0


def test_content_that_moves_while_settling_is_later(publisher: Publisher) -> None:
    """With --settle a publisher in the middle of its work is not taken for a revision."""
    publisher.put(TREE)
    stop = threading.Event()

    def publish() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            publisher.put({"growing": "x" * number})

    busy = threading.Thread(target=publish)
    busy.start()
    try:
        ended = publisher.check("--settle", "0.5")
    finally:
        stop.set()
        busy.join()
    assert ended.exit_code == 75
    assert "changed within 0.5 s" in ended.stderr


def test_a_missing_bucket_is_an_error_in_one_line(publisher: Publisher) -> None:
    """The sentence names the bucket."""
    ended = publisher.scripts.run("check-s3", "s3://no-such-bucket/site/")
    assert ended.exit_code == 3
    assert ended.stderr == "check-s3: bucket 'no-such-bucket' does not exist\n"


@pytest.mark.parametrize("arguments", [(), ("--marker", "REVISION")])
def test_wrong_credentials_are_an_error_in_one_line(publisher: Publisher, arguments: tuple[str, ...]) -> None:
    """The sentence says that access was denied, and the secret is not in it."""
    publisher.put(TREE)
    ended = publisher.check(*arguments, AWS_SECRET_ACCESS_KEY="wrong-secret")
    assert ended.exit_code == 3
    assert ended.stderr.startswith("check-s3: access to s3://")
    assert ended.stderr.count("\n") == 1
    assert "wrong-secret" not in ended.stderr


def test_no_credentials_are_an_error_that_says_what_to_do(publisher: Publisher) -> None:
    """Without credentials nothing is guessed."""
    ended = publisher.check(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert ended.exit_code == 3
    assert "set AWS_ACCESS_KEY_ID" in ended.stderr


def test_anonymous_sends_no_credentials(publisher: Publisher) -> None:
    """With --anonymous a server that wants credentials refuses, although there are some."""
    publisher.put(TREE)
    ended = publisher.check("--anonymous")
    assert ended.exit_code == 3
    assert "no credentials" not in ended.stderr


def test_the_endpoint_can_be_given_as_an_option(publisher: Publisher, s3_server: S3Server) -> None:
    """--endpoint-url and --region do what the environment does."""
    publisher.put(TREE)
    options = ("--endpoint-url", s3_server.endpoint, "--region", "us-east-1")
    assert publisher.check(*options, AWS_ENDPOINT_URL="", AWS_DEFAULT_REGION="").exit_code == 0


def test_a_server_that_is_not_there_is_an_error(scripts: Scripts, tmp_path: Path) -> None:
    """Both scripts give up in bounded time, with one line."""
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, arguments in (("check-s3", ()), ("download-s3", (tmp_path / "site",))):
        ended = scripts.run(name, "s3://content/site/", *arguments, "--endpoint-url", endpoint, **keys)
        assert ended.exit_code == 3
        assert endpoint in ended.stderr
        assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("url", ["content/site/", "s3://", "s3:///site/", "https://content/site/"])
def test_a_place_that_is_no_s3_url_is_wrong_usage(scripts: Scripts, url: str) -> None:
    """The sentence shows what was expected and what was found."""
    ended = scripts.run("check-s3", url)
    assert ended.exit_code == 2
    assert f"expected s3://bucket/prefix/, found '{url}'" in ended.stderr


def test_a_download_is_the_whole_tree(publisher: Publisher, tmp_path: Path) -> None:
    """Every object becomes a file of the same name and content, into a directory that is there and empty."""
    publisher.put(TREE)
    revision = publisher.check().outputs["revision"]
    directory = tmp_path / "site"
    directory.mkdir()
    ended = publisher.download(directory, revision=revision)
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert ended.outputs == {"revision": revision}
    assert files_below(directory) == TREE


def test_an_object_that_was_uploaded_in_parts_is_fetched(publisher: Publisher, tmp_path: Path) -> None:
    """Its ETag is no digest of its bytes, and still names exactly this object."""
    part = b"0123456789abcdef" * (5 << 16)  # the least that a part may have: 5 MiB
    where = {"Bucket": publisher.bucket, "Key": publisher.prefix + "large"}
    upload = publisher.client.create_multipart_upload(**where)["UploadId"]
    tags = [
        publisher.client.upload_part(**where, UploadId=upload, PartNumber=number, Body=body)["ETag"]
        for number, body in ((1, part), (2, b"the end"))
    ]
    parts = {"Parts": [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]}
    publisher.client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload=parts)
    revision = publisher.check().outputs["revision"]
    ended = publisher.download(tmp_path / "site", revision=revision)
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert (tmp_path / "site" / "large").read_bytes() == part + b"the end"


def test_a_download_follows_the_umask(publisher: Publisher, tmp_path: Path) -> None:
    """Files are made as any program would make them."""
    publisher.put(TREE)
    publisher.download(tmp_path / "site")
    reference = tmp_path / "reference"
    reference.touch()
    assert (tmp_path / "site" / "pb.yml").stat().st_mode == reference.stat().st_mode


def test_a_thousand_and_one_objects_are_listed_and_fetched(seaweedfs_publisher: Publisher, tmp_path: Path) -> None:
    """A listing of more than one page is complete."""
    tree = {f"files/{number:04}": str(number) for number in range(1001)}
    seaweedfs_publisher.put(tree)
    ended = seaweedfs_publisher.download(tmp_path / "site")
    assert ended.exit_code == 0
    assert files_below(tmp_path / "site") == tree


def test_markers_of_directories_are_skipped(seaweedfs_publisher: Publisher, tmp_path: Path) -> None:
    """Empty `dir/` objects, as consoles make them, are no content."""
    seaweedfs_publisher.put(TREE)
    revision = seaweedfs_publisher.check().outputs["revision"]
    seaweedfs_publisher.put({"roles/": "", "new/": ""})
    assert seaweedfs_publisher.check().outputs["revision"] == revision
    assert seaweedfs_publisher.download(tmp_path / "site").exit_code == 0
    assert files_below(tmp_path / "site") == TREE


def test_another_revision_than_the_runs_is_not_downloaded(publisher: Publisher, tmp_path: Path) -> None:
    """Content that moved on after the check is left to the next check."""
    publisher.put(TREE)
    revision = publisher.check().outputs["revision"]
    publisher.put({"pb.yml": "newer"})
    ended = publisher.download(tmp_path / "site", revision=revision)
    assert ended.exit_code == 75
    assert f"this run is for {revision}" in ended.stderr
    assert files_below(tmp_path / "site") == {}


def test_a_download_by_marker_is_the_markers_revision(publisher: Publisher, tmp_path: Path) -> None:
    """The same --marker gives the same revision to both scripts; another marker is another revision."""
    publisher.put(TREE | {"REVISION": "1"})
    revision = publisher.check("--marker", "REVISION").outputs["revision"]
    ended = publisher.download(tmp_path / "one", "--marker", "REVISION", revision=revision)
    assert (ended.exit_code, ended.outputs) == (0, {"revision": revision})
    publisher.put({"REVISION": "2"})
    assert publisher.download(tmp_path / "two", "--marker", "REVISION", revision=revision).exit_code == 75


def test_a_directory_that_is_not_empty_is_refused(publisher: Publisher, tmp_path: Path) -> None:
    """Content never mixes with what is there, and what is there stays."""
    publisher.put(TREE)
    (tmp_path / "mine").write_text("mine")
    ended = publisher.download(tmp_path)
    assert ended.exit_code == 3
    assert "is not empty" in ended.stderr
    assert (tmp_path / "mine").read_text() == "mine"


def test_an_empty_prefix_is_not_downloaded(publisher: Publisher, tmp_path: Path) -> None:
    """An emptied prefix is no revision to apply."""
    assert publisher.download(tmp_path / "site").exit_code == 75


class OddServer(BaseHTTPRequestHandler):
    """An S3 server with a listing and bodies that no proper server would give."""

    listing: dict[str, int]
    """Keys with their sizes as the listing tells them."""
    bodies: dict[str, bytes]
    """What a GET of a key gives."""
    second_listing: dict[str, int] | None = None
    """What every listing but the first tells, if it is another."""
    listed = 0
    fetched: list[str]

    def do_GET(self) -> None:
        """Answer a listing or an object."""
        if "list-type=2" in self.path:
            self.reply(200, self.listing_xml().encode())
            return
        type(self).fetched.append(self.path)
        body = self.bodies.get(self.path.partition("?")[0])
        self.reply(*((404, b"<Error><Code>NoSuchKey</Code></Error>") if body is None else (200, body)))

    def listing_xml(self) -> str:
        """Return the listing as S3 writes it, keys in their URL encoding."""
        type(self).listed += 1
        listing = self.listing if self.listed == 1 or self.second_listing is None else self.second_listing
        contents = "".join(
            f'<Contents><Key>{quote(key)}</Key><Size>{size}</Size><ETag>"e"</ETag></Contents>'
            for key, size in listing.items()
        )
        return f"<ListBucketResult><EncodingType>url</EncodingType>{contents}</ListBucketResult>"

    def reply(self, status: int, body: bytes) -> None:
        """Send one answer."""
        self.send_response(status)
        self.send_header("ETag", '"e"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def odd_server(scripts: Scripts) -> Iterator[type[OddServer]]:
    """Run an odd server; the test says what it tells."""
    handler = type("Handler", (OddServer,), {"listing": {}, "bodies": {}, "fetched": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    scripts.env |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    scripts.env |= {"AWS_DEFAULT_REGION": "us-east-1"}
    try:
        yield handler
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (["../../etc/cron.d/x"], "contains a part `..` or `.`"),
        (["a/../b"], "contains a part `..` or `.`"),
        (["./a"], "contains a part `..` or `.`"),
        (["/etc/passwd"], "is absolute"),
        (["a//b"], "contains an empty part"),
        (["a/"], "contains an empty part"),
        (["a\0b"], "contains NUL"),
        (["a", "a/b/c"], "lies below a key that is a file"),
    ],
)
def test_a_key_that_cannot_be_a_file_is_refused_by_name(
    odd_server: type[OddServer], scripts: Scripts, tmp_path: Path, keys: list[str], problem: str
) -> None:
    """Nothing is fetched, nothing is written, and the sentence names the key."""
    odd_server.listing = {"site/good": 1} | {f"site/{key}": 1 for key in keys}
    ended = scripts.run("download-s3", "s3://content/site/", tmp_path / "site")
    assert ended.exit_code == 3
    assert f"{keys[-1]!r} {problem}" in ended.stderr
    assert odd_server.fetched == []
    assert files_below(tmp_path / "site") == {}


def test_every_key_that_will_not_do_is_named_at_once(
    odd_server: type[OddServer], scripts: Scripts, tmp_path: Path
) -> None:
    """A publisher learns all that is wrong in one go."""
    odd_server.listing = {"site/../a": 1, "site//b": 1, "site/good": 1}
    ended = scripts.run("download-s3", "s3://content/site/", tmp_path / "site")
    assert "'../a'" in ended.stderr
    assert "'/b'" in ended.stderr
    assert "good" not in ended.stderr


def test_a_name_that_the_file_system_does_not_take_is_an_error(
    odd_server: type[OddServer], scripts: Scripts, tmp_path: Path
) -> None:
    """A failure to write is told in one line, like one to read, and the directory is empty again."""
    name = "x" * 300
    odd_server.listing = {"site/a": 1, f"site/{name}": 1}
    odd_server.bodies = {"/content/site/a": b"1", f"/content/site/{name}": b"1"}
    ended = scripts.run("download-s3", "s3://content/site/", tmp_path / "site")
    assert ended.exit_code == 3
    assert "File name too long" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert list((tmp_path / "site").iterdir()) == []


def test_a_body_of_another_size_than_listed_is_refused(
    odd_server: type[OddServer], scripts: Scripts, tmp_path: Path
) -> None:
    """A short or long body fails the download, and its directory is empty again."""
    odd_server.listing = {"site/a": 5, "site/b": 5}
    odd_server.bodies = {"/content/site/a": b"12345", "/content/site/b": b"1234"}
    ended = scripts.run("download-s3", "s3://content/site/", tmp_path / "site")
    assert ended.exit_code == 75
    assert "site/b changed while it was fetched" in ended.stderr
    assert list((tmp_path / "site").iterdir()) == []


def test_an_object_that_vanished_after_the_listing_is_refused(
    odd_server: type[OddServer], scripts: Scripts, tmp_path: Path
) -> None:
    """An object removed in between means that somebody is publishing."""
    odd_server.listing = {"site/a": 5}
    ended = scripts.run("download-s3", "s3://content/site/", tmp_path / "site")
    assert ended.exit_code == 75
    assert "site/a changed while it was fetched" in ended.stderr


def test_a_listing_that_changed_during_the_fetch_is_refused(
    odd_server: type[OddServer], scripts: Scripts, tmp_path: Path
) -> None:
    """Files of two revisions are never left to be applied."""
    odd_server.listing = {"site/a": 1}
    odd_server.second_listing = {"site/a": 1, "site/b": 1}
    odd_server.bodies = {"/content/site/a": b"1"}
    ended = scripts.run("download-s3", "s3://content/site/", tmp_path / "site")
    assert ended.exit_code == 75
    assert "s3://content/site/ changed while it was fetched" in ended.stderr
    assert list((tmp_path / "site").iterdir()) == []


def test_a_server_that_accepts_and_says_nothing_is_given_up(scripts: Scripts) -> None:
    """The read timeout is there: a silent server cannot hold a check for ever."""
    source = path_of("check-s3").read_text()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        impatient = scripts.work / "check-s3"
        impatient.write_text(source.replace("read_timeout=30", "read_timeout=0.2"))
        assert impatient.read_text() != source
        done = subprocess.run(
            [sys.executable, impatient, "s3://content/site/", "--endpoint-url", endpoint, "--anonymous"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 3
    assert "Read timeout" in done.stderr
