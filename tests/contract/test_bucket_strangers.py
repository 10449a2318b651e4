"""A server of S3 that is not what it should be: it leads elsewhere, lists without end, answers without end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from source_suite import silent
from web_server import Authority, Page, WebServer, make_authority, serving

from jetwatch.content.bucket import BucketSource
from jetwatch.content.source import Content, ContentKind, ContentRetry, ContentStalled, ContentUnsaid, Limits

KEYS = {"access_key_id": "AK", "secret_access_key": "SK", "session_token": "canary-token"}
OBJECT = "/bucket/site.tar"
LIST = "/bucket?list-type=2&prefix=site%2F"
THERE = Page(b"x", etag='"abc"', modified=1e9)


@pytest.fixture
def server() -> Iterator[WebServer]:
    """The endpoint."""
    with serving() as server:
        yield server


@pytest.fixture
def elsewhere() -> Iterator[WebServer]:
    """Another server, which would answer."""
    with serving("127.0.0.2") as server:
        server.pages[OBJECT] = THERE
        yield server


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority in `ca_file`."""
    return make_authority(tmp_path_factory.mktemp("authority") / "ours")


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that the machine believes."""
    return make_authority(tmp_path_factory.mktemp("authority") / "systems")


def archive(server: WebServer, **options: Any) -> BucketSource:
    """One archive in its bucket, asked for with credentials."""
    by_head = options.pop("by_head", False)
    content = Content(
        "s3://bucket/site.tar", ContentKind.OBJECT, endpoint=server.url, region="x", secrets=KEYS, **options
    )
    return BucketSource(content, env={}, by_head=by_head)


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_credentials_do_not_follow_a_redirect_to_another_host(
    server: WebServer, elsewhere: WebServer, status: int, by_head: bool
) -> None:
    """Nothing is asked there, so nothing of it is believed."""
    server.pages[OBJECT] = Page(status=status, headers={"Location": elsewhere.url + OBJECT})
    with pytest.raises(ContentStalled, match="leads to another address"):
        archive(server, by_head=by_head).look(None, 10)
    assert elsewhere.asked == []


def test_a_listing_does_not_follow_a_redirect_either(server: WebServer, elsewhere: WebServer) -> None:
    """Whatever is asked."""

    class Anything(dict[str, Page]):
        def get(self, path: str, default: Page | None = None) -> Page:  # type: ignore[override]
            return Page(status=302, headers={"Location": elsewhere.url + path})

    server.pages = Anything()
    content = Content("s3://bucket/site/", ContentKind.BUCKET, endpoint=server.url, region="x", secrets=KEYS)
    with pytest.raises(ContentStalled, match="leads to another address"):
        BucketSource(content, env={}).look(None, 10)
    assert elsewhere.asked == []


def test_what_began_encrypted_does_not_go_on_in_the_open(ours: Authority, server: WebServer) -> None:
    """Not even on the same host."""
    server.pages[OBJECT] = THERE
    with serving(context=ours.context) as encrypted:
        encrypted.pages[OBJECT] = Page(status=307, headers={"Location": server.url + OBJECT})
        with pytest.raises(ContentStalled, match="leads to another address"):
            archive(encrypted, ca_file=str(ours.ca_file)).look(None, 10)
    assert server.asked == []


def test_only_what_is_in_ca_file_is_believed(
    ours: Authority, systems: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate that the machine's own authorities vouch for is good without `ca_file`, and none with it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(systems.ca_file))
    with serving(context=systems.context) as server:
        server.pages[OBJECT] = THERE
        assert archive(server).look(None, 10).revision == "abc"
        with pytest.raises(ContentStalled, match="certificate is not trusted"):
            archive(server, ca_file=str(ours.ca_file)).look(None, 10)


def test_no_variable_makes_certificates_worthless(ours: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets it, the key decides."""
    monkeypatch.setenv("AWS_ALLOW_INVALID_CERTIFICATES", "true")
    with serving(context=ours.context) as server:
        server.pages[OBJECT] = THERE
        with pytest.raises(ContentStalled, match="certificate is not trusted"):
            archive(server).look(None, 10)


def test_an_endpoint_of_this_machine_is_not_asked_by_a_proxy(
    server: WebServer, elsewhere: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy is another machine, and what it says is not proven."""
    server.pages[OBJECT] = THERE
    monkeypatch.setenv("http_proxy", elsewhere.url)
    monkeypatch.delenv("no_proxy", raising=False)
    assert archive(server).look(None, 10).revision == "abc"
    assert elsewhere.asked == []


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"])
def test_plain_http_by_a_variable_is_refused_as_by_a_key(name: str) -> None:
    """`check-config` cannot see it; the look and the fetch do."""
    content = Content("s3://bucket/site.tar", ContentKind.OBJECT, region="x", secrets=KEYS)
    with pytest.raises(ContentStalled, match="not protected on its way"):
        BucketSource(content, env={name: "http://192.0.2.1"}).look(None, 10)


@pytest.mark.parametrize("options", [{"sha256": "0" * 64}, {"insecure": True}])
def test_plain_http_is_taken_with_a_digest_or_where_somebody_says_so(options: dict[str, Any]) -> None:
    """It is asked, and nobody is there."""
    content = Content(
        "s3://bucket/site.tar", ContentKind.OBJECT, endpoint="http://192.0.2.1", region="x", secrets=KEYS, **options
    )
    with pytest.raises(ContentRetry):
        BucketSource(content, env={}).look(None, 0.5)


def test_a_look_by_head_finds_the_same_revision(server: WebServer) -> None:
    """In one request."""
    server.pages[OBJECT] = THERE
    look = archive(server, by_head=True).look(None, 10)
    assert look == archive(server).look(None, 10)
    assert look.requests == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_not_read_by_head(server: WebServer, status: int) -> None:
    """An answer to HEAD has no body, however long a server says that it is; somebody else has to ask why."""
    asked: list[str] = []
    headers = {"Content-Length": "50000000000"}
    server.pages[OBJECT] = Page(status=status, headers=headers, before=lambda handler: asked.append(handler.command))
    with pytest.raises(ContentUnsaid):
        archive(server, by_head=True).look(None, 10)
    assert asked == ["HEAD"]


def endless(page_keys: int) -> type[dict[str, Page]]:
    """Pages that always have one more after them."""
    entry = (
        "<Contents><Key>site/{}{}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
        '<ETag>"abc"</ETag><Size>1</Size></Contents>'
    )

    class Endless(dict[str, Page]):
        asked = 0

        def get(self, path: str, default: Page | None = None) -> Page:  # type: ignore[override]
            Endless.asked += 1
            keys = "".join(entry.format(Endless.asked * page_keys + number, "x" * 100) for number in range(page_keys))
            more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{Endless.asked}</NextContinuationToken>"
            return Page(f"<ListBucketResult><Name>bucket</Name>{more}{keys}</ListBucketResult>".encode())

    return Endless


def listing(server: WebServer, **options: Any) -> BucketSource:
    """A prefix without a marker."""
    content = Content(
        "s3://bucket/site/", ContentKind.BUCKET, endpoint=server.url, region="x", anonymous=True, **options
    )
    return BucketSource(content, env={})


def test_a_listing_beyond_the_limit_ends_as_it_comes(server: WebServer) -> None:
    """The page that goes over it is the last that is asked for."""
    pages = endless(1000)
    server.pages = pages()
    with pytest.raises(ContentStalled, match="the limit is 2500"):
        listing(server, limits=Limits(entries=2500)).look(None, 60)
    assert pages.asked <= 5  # type: ignore[attr-defined]


def test_a_listing_that_was_given_up_leaves_no_thread_and_asks_no_more(server: WebServer) -> None:
    """The deadline ends it between two pages."""
    pages = endless(10)
    server.pages = pages()
    with pytest.raises(ContentRetry, match=r"within 0\.5 s"):
        listing(server).look(None, 0.5)
    for thread in [each for each in threading.enumerate() if each.name == "content-question"]:
        thread.join(10)
        assert not thread.is_alive()


def test_a_listing_that_hangs_inside_a_page_leaves_no_thread(server: WebServer) -> None:
    """A request has an end of its own."""

    def dawdle(handler: Any) -> None:
        time.sleep(3)

    class Slow(dict[str, Page]):
        def get(self, path: str, default: Page | None = None) -> Page:  # type: ignore[override]
            return Page(before=dawdle)

    server.pages = Slow()
    with pytest.raises(ContentRetry):
        listing(server).look(None, 0.3)
    for thread in [each for each in threading.enumerate() if each.name == "content-question"]:
        thread.join(2)
        assert not thread.is_alive()


def test_an_answer_without_an_end_ends_the_process_that_looks_and_no_other(server: WebServer, tmp_path: Path) -> None:
    """obstore takes in whatever a page has; the process that looks may have so much memory and no more."""
    from jetwatch.content import asking

    server.pages = type("Large", (dict,), {"get": lambda *_: Page(b"<x>" + b" " * 400_000_000)})()
    content = Content("s3://bucket/site/", ContentKind.BUCKET, endpoint=server.url, region="x", anonymous=True)
    small = (
        "import sys; from jetwatch.content import looking, memory; memory.MEMORY_BYTES = 300_000_000;"
        "memory.ENTRY_BYTES = 0; looking.main()"
    )
    env = {"PATH": "/usr/bin:/bin", "JETWATCH_OUTPUT": str(tmp_path / "out"), **asking.question(content, None, 30)}
    ended = subprocess.run([sys.executable, "-c", small], env=env, capture_output=True, timeout=100, check=False)
    assert ended.returncode != 0
    assert not (tmp_path / "out").exists()


def test_an_answer_without_an_end_ends_the_fetch_and_no_other(server: WebServer, tmp_path: Path) -> None:
    """The same, where a prefix is fetched: it is a process of its own, and may have so much memory."""
    server.pages = type("Large", (dict,), {"get": lambda *_: Page(b"<x>" + b" " * 400_000_000)})()
    small = (
        "import sys; from jetwatch.content import memory; memory.MEMORY_BYTES = 300_000_000; memory.ENTRY_BYTES = 0;"
        "from jetwatch.cli.main import main; main()"
    )
    options = (f"endpoint={server.url}", "region=x", "anonymous=true")
    words = ["fetch", "s3://bucket/site/", tmp_path / "out", *(part for each in options for part in ("--option", each))]
    env = {"PATH": "/usr/bin:/bin"}
    ended = subprocess.run(
        [sys.executable, "-c", small, *words], env=env, capture_output=True, timeout=100, check=False
    )
    assert ended.returncode != 0
    assert b"memory allocation" in ended.stderr, ended.stderr
    assert list((tmp_path / "out").glob("*")) == []


def test_a_fetch_does_not_follow_a_redirect_either(server: WebServer, elsewhere: WebServer, tmp_path: Path) -> None:
    """The same client."""
    server.pages[OBJECT] = Page(status=302, headers={"Location": elsewhere.url + OBJECT})
    with pytest.raises(ContentStalled, match="leads to another address"):
        archive(server).fetch("abc", tmp_path, None, silent)
    assert elsewhere.asked == []
