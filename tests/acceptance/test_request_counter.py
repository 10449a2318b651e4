"""`requests` in `jetp status --json` is what a server was really asked: of looks and fetches together, kind by kind."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from agent_process import Site
from servers import BUCKET, S3Server, git_over_http
from servers import seaweedfs_server as seaweedfs_server  # noqa: PLC0414 - a fixture
from tcp_proxy import TcpProxy
from web_server import Page, make_authority, serving

Count = Callable[[], int]
Publish = Callable[[str], None]


def packed(text: str) -> bytes:
    """An archive with a playbook."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        entry = tarfile.TarInfo("pb.yml")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
    return made.getvalue()


@contextlib.contextmanager
def in_front_of(url: str) -> Iterator[TcpProxy]:
    """A proxy that counts what a server is asked."""
    with TcpProxy(urlsplit(url).port or 0) as proxy:
        yield proxy


@contextlib.contextmanager
def bucket(site: Site, server: S3Server, kind: str) -> Iterator[tuple[Count, dict[str, Any], Publish]]:
    """A prefix of a bucket by its listing or its marker, or an archive in it."""
    prefix = f"{site.root.name}-{kind}/"
    with in_front_of(server.endpoint) as proxy, server.client() as client:

        def publish(text: str) -> None:
            put = partial(client.put_object, Bucket=BUCKET)
            if kind == "archive":
                put(Key=f"{prefix}site.tar", Body=packed(text))
                return
            for number in range(3):
                put(Key=f"{prefix}file-{number}", Body=b"always the same")
            put(Key=f"{prefix}pb.yml", Body=text.encode())
            put(Key=f"{prefix}RELEASE", Body=text.encode())

        options = {
            "url": f"s3://{BUCKET}/{prefix}{'site.tar' if kind == 'archive' else ''}",
            "endpoint": proxy.endpoint,
            "region": "us-east-1",
            "access_key_id": server.access_key,
            "secret_access_key": server.secret_key,
        }
        yield (
            lambda: proxy.questions,
            options | {"listing": {"settle": "0.1s"}, "marker": {"marker": "RELEASE"}}.get(kind, {}),
            publish,
        )


@contextlib.contextmanager
def web(site: Site) -> Iterator[tuple[Count, dict[str, Any], Publish]]:
    """An archive on an encrypted web server."""
    authority = make_authority(site.root / "authority")
    with serving(context=authority.context) as server:

        def publish(text: str) -> None:
            server.pages["/site.tar"] = Page(packed(text), etag=f'"{text.strip()}"')

        content = {"url": f"{server.url}/site.tar", "ca_file": str(authority.ca_file)}
        yield lambda: len(server.asked), content, publish


@contextlib.contextmanager
def git(site: Site) -> Iterator[tuple[Count, dict[str, Any], Publish]]:
    """A repository by http."""
    bare = site.root / "served/site.git"
    clone = site.root / "clone"

    def run(*words: str | Path) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
        subprocess.run(["git", *identity, *words], check=True, capture_output=True)

    run("init", "--bare", "--initial-branch=main", bare)
    run("clone", bare, clone)

    def publish(text: str) -> None:
        (clone / "pb.yml").write_text(text)
        run("-C", clone, "add", "--all")
        run("-C", clone, "commit", "--message", text)
        run("-C", clone, "push", "origin", "HEAD:main")

    with git_over_http(site.root / "served") as base, in_front_of(base) as proxy:
        yield lambda: proxy.questions, {"url": f"git+{proxy.endpoint}/site.git@main"}, publish


@pytest.mark.parametrize("kind", ["listing", "marker", "archive", "web", "git"])
def test_the_counter_is_what_the_server_was_asked(site: Site, seaweedfs_server: S3Server, kind: str) -> None:
    """First time, nothing new, and one change: after each the figure is the one that was counted on the way."""
    made = {"web": web, "git": git}.get(kind)
    with made(site) if made else bucket(site, seaweedfs_server, kind) as (count, content, publish):
        config = {"content": content, "jet_command": site.shell('cat "$JETWATCH_DOWNLOAD_PATH/pb.yml" >> played')}
        publish("first ")
        site.once(config)
        assert site.standing()["requests"] == count() > 0
        before = count()
        site.once(config)
        assert site.standing()["requests"] == count() > before
        publish("second")
        site.once(config)
        assert site.standing()["requests"] == count()
        assert site.read("played") == "first second"
