"""An archive on a web server as a source: the shared suite, and what only HTTP can do."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from packed_places import PackedPlace, noise, tar_zst
from source_suite import DEADLINE_S, Place, SourceSuite, revision, silent, tree
from tcp_proxy import TcpProxy
from web_server import Authority, Page, WebServer, make_authority, saying, serving

from jetwatch.content.http import HttpSource
from jetwatch.content.http_client import LONGEST_WAIT_S, HttpClient, retry_after_s, trust_of
from jetwatch.content.source import (
    Content,
    ContentError,
    ContentKind,
    ContentMoved,
    ContentRetry,
    ContentStalled,
    ContentWait,
    Limits,
    Look,
    Source,
)

PATH = "/site.tar.zst"
FILES = {"pb.yml": b"- hosts: localhost\n"}
PACKED = tar_zst(FILES)
SECRET = "the-very-secret-token"


class WebPlace(PackedPlace):
    """One archive on a server that names it by ETag, by date, or not at all."""

    def __init__(self, server: WebServer, names: str) -> None:
        super().__init__()
        self.server = server
        self.names = names
        self.second = 1_700_000_000

    def publish(self, packed: bytes) -> None:
        """Replace the page; a date is a second later each time."""
        self.second += 1
        self.server.pages[PATH] = Page(
            packed,
            etag=f'"{hashlib.md5(packed).hexdigest()}"' if self.names == "etag" else None,
            modified=self.second if self.names == "date" else None,
        )

    def source(self) -> Source:
        """A source of it."""
        return source(self.server)

    def denied(self) -> AbstractContextManager[Source]:
        """Without the credentials that the page wants."""
        return self._denied()

    @contextlib.contextmanager
    def _denied(self) -> Iterator[Source]:
        self.server.pages[PATH].authorization = "Bearer another"
        yield self.source()


def source(server: WebServer, path: str = PATH, stall_s: float = 60.0, **options: Any) -> HttpSource:
    """A source of one path."""
    return HttpSource(Content(server.url + path, ContentKind.HTTP, **options), stall_s=stall_s)


@pytest.fixture
def server() -> Iterator[WebServer]:
    """A plain server on loopback."""
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that vouches for 127.0.0.1."""
    return make_authority(tmp_path_factory.mktemp("authority") / "ours")


@pytest.fixture
def encrypted(authority: Authority) -> Iterator[WebServer]:
    """An encrypted server."""
    with serving(context=authority.context) as server:
        yield server


class TestHttp(SourceSuite):
    """The shared suite, for each of the three ways in which a server can name a state."""

    @pytest.fixture(params=["etag", "date", "digest"])
    def place(self, server: WebServer, request: pytest.FixtureRequest) -> Place:
        """An archive that is not there yet."""
        return WebPlace(server, request.param)


@pytest.mark.parametrize(
    ("page", "expected", "condition"),
    [
        (Page(PACKED, etag='"abc"'), "abc", ("if-none-match", '"abc"')),
        (Page(PACKED, etag='W/"abc"'), "abc", ("if-none-match", 'W/"abc"')),
        (Page(PACKED, etag="abc", modified=1), "abc", ("if-none-match", "abc")),
        (
            Page(PACKED, modified=1_700_000_000),
            "2023-11-14T22:13:20Z",
            ("if-modified-since", "Tue, 14 Nov 2023 22:13:20 GMT"),
        ),
    ],
)
def test_an_unchanged_archive_costs_one_request_and_no_body(
    server: WebServer, page: Page, expected: str, condition: tuple[str, str]
) -> None:
    """The second look is conditional, and the server answers 304."""
    server.pages[PATH] = page
    first = source(server).look(None, DEADLINE_S)
    assert (first.revision, first.settled, first.requests) == (expected, True, 1)
    assert source(server).look(first, DEADLINE_S) == first
    assert condition[1] == server.asked[-1][1][condition[0]]
    assert server.answered == [200, 304]


def test_a_look_leaves_a_large_body_where_it_is(server: WebServer) -> None:
    """Of a new state only the headers are read."""
    server.pages[PATH] = Page(noise(50_000_000), etag='"abc"')
    assert revision(source(server)) == "abc"
    assert server.sent_bytes < 20_000_000


def test_without_etag_and_date_the_body_is_the_revision(server: WebServer) -> None:
    """The whole body is read, within the limit."""
    server.pages[PATH] = Page(PACKED)
    assert revision(source(server)) == hashlib.sha256(PACKED).hexdigest()
    with pytest.raises(ContentStalled, match="larger than the limit of 10 bytes"):
        revision(source(server, limits=Limits(total_bytes=10)))


def test_an_etag_or_date_that_is_none_is_passed_over(server: WebServer) -> None:
    """The next best names the state."""
    server.pages[PATH] = Page(PACKED, etag='""', modified=1_700_000_000)
    assert revision(source(server)) == "2023-11-14T22:13:20Z"
    server.pages[PATH] = Page(PACKED, etag='"with space"', headers={"Last-Modified": "yesterday"})
    assert revision(source(server)) == hashlib.sha256(PACKED).hexdigest()


def test_a_304_to_a_question_without_condition_is_no_answer(server: WebServer) -> None:
    """A broken server is asked again later."""
    server.pages[PATH] = Page(status=304)
    with pytest.raises(ContentRetry, match="304"):
        revision(source(server))


def test_another_state_than_the_one_asked_for_does_not_travel(server: WebServer, tmp_path: Path) -> None:
    """The answer's own headers decide, before its body."""
    server.pages[PATH] = Page(noise(50_000_000), etag='"new"')
    with pytest.raises(ContentMoved):
        source(server).fetch("old", tmp_path, None, silent)
    assert server.sent_bytes < 20_000_000


def test_an_archive_is_not_fetched_again_for_another_try(server: WebServer, tmp_path: Path) -> None:
    """The same revision asked for twice: the second time nothing is asked of the server."""
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    server.pages[PATH] = Page(PACKED, etag='"abc"')
    for number in range(2):
        into = tmp_path / str(number)
        into.mkdir()
        assert source(server).fetch("abc", into, cache, silent).requests == 1 - number
        assert tree(into) == FILES
    assert len(server.asked) == 1


@pytest.mark.parametrize("spelt", ["{}", "sha256:{}", "SHA256:{}"])
def test_a_demanded_digest_is_checked(server: WebServer, tmp_path: Path, spelt: str) -> None:
    """The right one is taken however it is spelt, another one needs a person and leaves nothing."""
    server.pages[PATH] = Page(PACKED, etag='"abc"')
    right = hashlib.sha256(PACKED).hexdigest()
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    with pytest.raises(ContentStalled, match=right):
        source(server, sha256=spelt.format("0" * 64)).fetch("abc", wrong, None, silent)
    assert tree(wrong) == {}
    source(server, sha256=spelt.format(right)).fetch("abc", tmp_path, None, silent)
    assert (tmp_path / "pb.yml").read_bytes() == FILES["pb.yml"]


def test_what_is_no_archive_is_refused_as_such(server: WebServer, tmp_path: Path) -> None:
    """A web page under the URL is not content."""
    server.pages[PATH] = Page(b"<html>" + b"hello" * 1000, etag='"abc"')
    with pytest.raises(ContentStalled, match=r"site.tar.zst: .*no tar archive"):
        source(server).fetch("abc", tmp_path, None, silent)
    assert tree(tmp_path) == {}


def test_a_body_that_says_it_is_compressed_is_taken_as_it_is(server: WebServer, tmp_path: Path) -> None:
    """Some servers call a .tar.gz a compressed tar; unpacked on the way it would not be the archive any more."""
    server.pages[PATH] = Page(PACKED, etag='"abc"', headers={"Content-Encoding": "gzip"})
    source(server).fetch("abc", tmp_path, None, silent)
    assert tree(tmp_path) == FILES
    assert server.asked[-1][1]["accept-encoding"] == "identity"


def test_redirects_are_followed_and_credentials_stay(server: WebServer, tmp_path: Path) -> None:
    """The password goes to the host of the URL and to no other."""
    with serving() as other:
        basic = "Basic dXNlcjpwYXNzd8O2cmQ="
        server.pages["/start"] = Page(status=302, headers={"Location": "/next"}, authorization=basic)
        server.pages["/next"] = Page(status=307, headers={"Location": other.url + PATH}, authorization=basic)
        other.pages[PATH] = Page(PACKED, etag='"abc"')
        given = {"username": "user", "password": "passwörd"}
        source(server, "/start", secrets=given).fetch("abc", tmp_path, None, silent)
        assert tree(tmp_path) == FILES
        assert [headers.get("authorization") for _, headers in server.asked] == [basic, basic]
        assert "authorization" not in other.asked[0][1]


def test_a_bearer_token_is_sent(server: WebServer) -> None:
    """And a wrong one needs a person, without the token in the sentence."""
    server.pages[PATH] = Page(PACKED, etag='"abc"', authorization=f"Bearer {SECRET}")
    assert revision(source(server, secrets={"bearer_token": SECRET})) == "abc"
    with pytest.raises(ContentStalled, match="access denied") as refusal:
        revision(source(server, secrets={"bearer_token": SECRET + "x"}))
    assert SECRET not in str(refusal.value)


def test_a_token_that_no_header_can_carry_is_not_shown(server: WebServer) -> None:
    """The library's complaint would have it."""
    with pytest.raises(ContentStalled, match="bearer_token") as refusal:
        revision(source(server, secrets={"bearer_token": SECRET + "\r\nX: y"}))
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        (None, "without a place"),
        ("/site.tar.zst", "more than 5 redirects"),
        ("http://192.0.2.1/x", "only https"),
        ("file:///etc/passwd", "expected https"),
        ("ftp://127.0.0.1/x", "expected https"),
        (f"http://user:{SECRET}@127.0.0.1/x", "without a user"),
        ("http://[/", "no URL"),
        ("http://127.0.0.1/\u00fc", "redirect"),
    ],
)
def test_redirects_that_lead_astray_are_refused(server: WebServer, location: str | None, said: str) -> None:
    """Round in circles, to the open network, to a file."""
    server.pages[PATH] = Page(status=301, headers={"Location": location} if location else {})
    with pytest.raises(ContentStalled, match=said) as refusal:
        revision(source(server))
    assert SECRET not in str(refusal.value)


def test_what_began_encrypted_stays_encrypted(server: WebServer, encrypted: WebServer, authority: Authority) -> None:
    """From https no redirect leads to http, not even on loopback; within https it does."""
    ca_file = str(authority.ca_file)
    encrypted.pages[PATH] = Page(status=302, headers={"Location": server.url + PATH})
    server.pages[PATH] = Page(PACKED, etag='"abc"')
    with pytest.raises(ContentStalled, match="from https to http"):
        revision(source(encrypted, ca_file=ca_file))
    assert server.asked == []
    encrypted.pages[PATH] = Page(status=302, headers={"Location": "/other"})
    encrypted.pages["/other"] = Page(PACKED, etag='"abc"')
    assert revision(source(encrypted, ca_file=ca_file)) == "abc"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("http://192.0.2.1/x.tar", {}),
        ("http://example.com/x.tar", {}),
        ("http://127.0.0.1.example.com/x.tar", {}),
        ("ftp://127.0.0.1/x.tar", {}),
        ("https:///x.tar", {}),
        (f"https://u:{SECRET}@127.0.0.1/x.tar", {}),
        ("https://127.0.0.1/a b.tar", {}),
    ],
)
def test_only_safe_urls_are_taken(url: str, options: dict[str, Any]) -> None:
    """https, or http on loopback; what is wrong is said without the password."""
    with pytest.raises(ContentStalled) as refusal:
        revision(HttpSource(Content(url, ContentKind.HTTP, **options)))
    assert SECRET not in str(refusal.value)


def test_http_is_taken_where_the_digest_is_demanded() -> None:
    """Nobody in between can change what is pinned. (No such host exists, so it is asked for again.)"""
    with pytest.raises(ContentRetry, match=r"resolved|proxy|connection"):
        HttpSource(Content("http://no-such-host.invalid/x.tar", ContentKind.HTTP, sha256="0" * 64)).look(None, 20)


def test_the_certificate_must_be_known(encrypted: WebServer, authority: Authority, tmp_path: Path) -> None:
    """By the authority in `ca_file`; unknown or signed by another one, it needs a person."""
    encrypted.pages[PATH] = Page(PACKED, etag='"abc"')
    source(encrypted, ca_file=str(authority.ca_file)).fetch("abc", tmp_path, None, silent)
    assert tree(tmp_path) == FILES
    another = make_authority(tmp_path / "another")
    for ca_file in (None, str(another.ca_file)):
        with pytest.raises(ContentStalled, match="certificate"):
            revision(source(encrypted, ca_file=ca_file))
    for name, text in (("missing.pem", None), ("nonsense.pem", "nonsense")):
        if text:
            (tmp_path / name).write_text(text)
        with pytest.raises(ContentStalled, match=name):
            revision(source(encrypted, ca_file=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (401, ContentStalled, "access denied"),
        (403, ContentStalled, "access denied"),
        (404, ContentRetry, "not there"),
        (410, ContentStalled, "refused"),
        (400, ContentStalled, "refused"),
        (408, ContentRetry, "failed"),
        (429, ContentRetry, "busy"),
        (500, ContentRetry, "failed"),
        (502, ContentRetry, "failed"),
        (503, ContentRetry, "busy"),
        (206, ContentStalled, "refused"),
    ],
)
def test_every_status_has_its_kind(server: WebServer, status: int, kind: type[ContentError], said: str) -> None:
    """Ask again, or tell a person."""
    server.pages[PATH] = Page(status=status)
    with pytest.raises(ContentError, match=f"{said}.*HTTP {status}") as refusal:
        revision(source(server))
    assert type(refusal.value) is kind


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_says_when_to_come_back(server: WebServer, tmp_path: Path, status: int) -> None:
    """Retry-After, of a look and of a fetch."""
    server.pages[PATH] = Page(status=status, headers={"Retry-After": "120"})
    with pytest.raises(ContentWait) as wait:
        revision(source(server))
    assert wait.value.after_s == 120
    with pytest.raises(ContentWait):
        source(server).fetch("abc", tmp_path, None, silent)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "0"}, 1),
        ({"Retry-After": "30"}, 30),
        ({"Retry-After": "999999999"}, LONGEST_WAIT_S),
        ({"Retry-After": "9" * 400}, None),
        ({"Retry-After": "Tue, 14 Nov 2023 22:14:20 GMT"}, 60),
        ({"Retry-After": "Tue, 14 Nov 2023 22:14:20 GMT", "Date": "Tue, 14 Nov 2023 22:14:10 GMT"}, 10),
        ({"Retry-After": "Tue, 14 Nov 2000 22:14:20 GMT"}, 1),
        ({"Retry-After": "Tue, 14 Nov 2123 22:14:20 GMT"}, LONGEST_WAIT_S),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_bounded(headers: dict[str, str], expected: float | None) -> None:
    """A date is taken relative to the server's own clock, where it tells it."""
    assert retry_after_s(headers, lambda: 1_700_000_000.0) == expected


def test_nobody_listens() -> None:
    """A refused connection is tried again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ContentRetry, match="no connection"):
        HttpSource(Content(f"http://127.0.0.1:{port}/x.tar", ContentKind.HTTP)).look(None, DEADLINE_S)


@pytest.fixture
def proxy(server: WebServer) -> Iterator[TcpProxy]:
    """A proxy before the server."""
    with TcpProxy(urllib.parse.urlsplit(server.url).port or 0) as proxy:
        yield proxy


def through(proxy: TcpProxy, **options: Any) -> HttpSource:
    """The same source, read through the proxy."""
    stall_s = options.pop("stall_s", 60.0)
    return HttpSource(Content(proxy.endpoint + PATH, ContentKind.HTTP, **options), stall_s=stall_s)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_cut_anywhere_never_counts(server: WebServer, proxy: TcpProxy, tmp_path: Path, chunked: bool) -> None:
    """At every 1/64 of the answer, headers included: ContentRetry, and nothing lies in the directory."""
    server.pages[PATH] = Page(tar_zst({"large": noise(100_000)}), etag='"abc"', chunked=chunked)
    into = tmp_path / "whole"
    into.mkdir()
    through(proxy).fetch("abc", into, None, silent)
    whole = proxy.answered
    for part in range(64):
        proxy.cut_after = whole * part // 64
        into = tmp_path / str(part)
        into.mkdir()
        with pytest.raises(ContentRetry):
            through(proxy).fetch("abc", into, None, silent)
        assert tree(into) == {}


def test_a_look_at_a_server_that_drips_ends_in_time(server: WebServer, proxy: TcpProxy) -> None:
    """In the headers, and in a body that has to be read."""
    server.pages[PATH] = Page(noise(100_000))
    for drip_s in (0.02, 0.001):
        proxy.drip_s = drip_s
        started = time.monotonic()
        with pytest.raises(ContentRetry, match=r"within 0.5 s"):
            through(proxy).look(None, 0.5)
        assert time.monotonic() - started < 3


def test_a_look_that_was_given_up_leaves_no_thread(server: WebServer, proxy: TcpProxy) -> None:
    """Its connection is ended, and with it the thread that waited."""
    server.pages[PATH] = Page(PACKED, etag='"abc"')
    proxy.drip_s = 0.05
    with pytest.raises(ContentRetry):
        through(proxy).look(None, 0.2)
    for thread in [each for each in threading.enumerate() if each.name == "content-question"]:
        thread.join(10)
        assert not thread.is_alive()


def test_who_was_given_up_makes_no_connection_any_more(server: WebServer) -> None:
    """A redirect, or a slow connection, after the deadline would be a thread that nobody ends."""
    server.pages[PATH] = Page(PACKED, etag='"abc"')
    client = HttpClient(Content(server.url + PATH, ContentKind.HTTP), trust_of(None))
    client.close()
    with pytest.raises(ContentRetry):
        client.get({})
    assert server.asked == []


def test_a_server_that_only_says_continue_is_given_up() -> None:
    """Answers before the answer have no number and no end."""
    with saying(b"HTTP/1.1 100 Continue\r\n\r\n") as port:
        with pytest.raises(ContentRetry, match="within"):
            HttpSource(Content(f"http://127.0.0.1:{port}/x.tar", ContentKind.HTTP)).look(None, 0.3)
        for thread in [each for each in threading.enumerate() if each.name == "content-question"]:
            thread.join(10)
            assert not thread.is_alive()


def test_an_encrypted_server_that_never_answers_leaves_no_thread() -> None:
    """Also in the middle of the handshake."""
    with socket.create_server(("127.0.0.1", 0)) as silent_server:
        content = Content(f"https://127.0.0.1:{silent_server.getsockname()[1]}/x.tar", ContentKind.HTTP)
        with pytest.raises(ContentRetry):
            HttpSource(content).look(None, 0.2)
        for thread in [each for each in threading.enumerate() if each.name == "content-question"]:
            thread.join(10)
            assert not thread.is_alive()


def test_a_fetch_from_a_server_that_drips_is_given_up(server: WebServer, proxy: TcpProxy, tmp_path: Path) -> None:
    """Bytes come all the time, and far too few."""
    server.pages[PATH] = Page(noise(100_000), etag='"abc"')

    proxy.drip_s = 0.003
    with pytest.raises(ContentRetry, match="too slow"):
        through(proxy, stall_s=0.5).fetch("abc", tmp_path, None, silent)
    assert tree(tmp_path) == {}


def test_a_server_that_stops_in_the_middle_is_tried_again(server: WebServer, proxy: TcpProxy, tmp_path: Path) -> None:
    """The connection is closed by the other side."""
    server.pages[PATH] = Page(noise(20_000_000), etag='"abc"')
    with pytest.raises(ContentRetry):
        through(proxy).fetch("abc", tmp_path, None, lambda *_: proxy.stop())


def test_more_than_the_limit_is_refused(server: WebServer, tmp_path: Path) -> None:
    """While it comes, whatever the server announced."""
    server.pages[PATH] = Page(noise(1_000_000), etag='"abc"', chunked=True)
    with pytest.raises(ContentStalled, match="limit"):
        source(server, limits=Limits(total_bytes=1000)).fetch("abc", tmp_path, None, silent)


def test_a_state_that_changes_between_look_and_fetch_is_moved(server: WebServer, tmp_path: Path) -> None:
    """Also where only the body names it."""
    server.pages[PATH] = Page(PACKED)
    asked = revision(source(server))
    server.pages[PATH] = Page(tar_zst({"other": b"x"}))
    with pytest.raises(ContentMoved):
        source(server).fetch(asked, tmp_path, None, silent)
    assert tree(tmp_path) == {}


def test_a_look_of_another_kind_of_source_is_no_trap(server: WebServer) -> None:
    """A validator that means nothing here is not sent."""
    server.pages[PATH] = Page(PACKED, etag='"abc"')
    assert source(server).look(Look("x", validator="c4ca4238"), DEADLINE_S).revision == "abc"
    assert "if-none-match" not in server.asked[-1][1]


@pytest.mark.parametrize("credentials", [{}, {"bearer_token": "abc"}])
@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:99999/x.tar",
        "http://127.0.0.1:-1/x.tar",
        "http://127.0.0.1:x/x.tar",
        "http://[::1/x.tar",
        "http://[::1]:x/x.tar",
        "http://[zz]/x.tar",
        "http://:80/x.tar",
        "//",
        "http://127.0.0.1\\@evil/x.tar",
        "http://" + "a" * 300 + "/x.tar",
        "http://" + "a." * 4000 + "/x.tar",
        "\u00e9",
        "javascript:x",
    ],
)
def test_a_redirect_to_whatever_it_is_raises_nothing_but_our_error(
    server: WebServer, location: str, credentials: dict[str, str]
) -> None:
    """No port, no host, no URL: the server is to blame, and nobody else suffers."""
    server.pages[PATH] = Page(status=302, headers={"Location": location})
    with pytest.raises((ContentStalled, ContentRetry)) as caught:
        source(server, secrets=credentials).look(None, 10)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "date",
    [
        "Fri, 31 Dec 9999 23:59:59 -1200",
        "01 Jan 1900 00:00:00 GMT",
        "Mon, 01 Jan 2024 00:00:00 +99999999",
        "1 Jan 2024 " + "9" * 5000,
        "Mon, 99 Jan 2024 00:00:00 GMT",
    ],
)
def test_a_date_of_no_age_is_none(server: WebServer, date: str) -> None:
    """The body's digest is the revision then; as a date to come back at, it is left out."""
    server.pages[PATH] = Page(PACKED, headers={"Last-Modified": date})
    assert revision(source(server)) == hashlib.sha256(PACKED).hexdigest()
    server.pages[PATH] = Page(status=503, headers={"Retry-After": date, "Date": date})
    with pytest.raises(ContentRetry, match="asks for fewer requests"):
        source(server).look(None, 10)


def test_a_redirect_to_plain_http_elsewhere_is_refused_unless_somebody_says_so(server: WebServer) -> None:
    """At run time as in the configuration."""
    server.pages[PATH] = Page(status=302, headers={"Location": "http://192.0.2.1/x.tar"})
    with pytest.raises(ContentStalled, match="refused a redirect"):
        source(server).look(None, 10)
    with pytest.raises(ContentRetry):
        source(server, insecure=True).look(None, 0.3)


def test_credentials_are_not_sent_in_the_open() -> None:
    """Whatever the options say."""
    content = Content("http://192.0.2.1/x.tar", ContentKind.HTTP, insecure=True, secrets={"bearer_token": "abc"})
    with pytest.raises(ContentStalled, match="travel in the open"):
        HttpSource(content).look(None, 10)


def test_what_may_only_come_from_this_machine_does_not_go_by_a_proxy(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy is another machine, and what it says is not proven."""
    server.pages[PATH] = Page(PACKED, etag='"abc"')
    with serving("127.0.0.2") as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        assert revision(source(server)) == "abc"
        assert proxy.asked == []


def test_a_proxy_that_is_none_is_named(encrypted: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its variable."""
    monkeypatch.setenv("https_proxy", "nonsense://x")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(ContentStalled, match="https_proxy"):
        source(encrypted).look(None, 10)
