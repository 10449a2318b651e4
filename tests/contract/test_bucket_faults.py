"""A bucket whose server fails, refuses, drips or lies: each has its kind of error, and no half of a fetch counts."""

from __future__ import annotations

import socket
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bucket_places import BucketPlace, ObjectPlace, content_of
from packed_places import noise, packed_tar
from servers import S3Server, has_bucket
from source_suite import DEADLINE_S, revision, silent, tree
from tcp_proxy import TcpProxy

from jetwatch.content import bucket_store
from jetwatch.content.bucket import BucketSource
from jetwatch.content.bucket_store import needs_boto3, of_status
from jetwatch.content.source import Content, ContentError, ContentKind, ContentRetry, ContentStalled

SECRET = "the-very-secret-key"


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[TcpProxy]:
    """A proxy before the server at hand."""
    with TcpProxy(urllib.parse.urlsplit(s3_server.endpoint).port or 0) as proxy:
        yield proxy


@pytest.fixture
def place(s3_server: S3Server, client: Any, proxy: TcpProxy) -> BucketPlace:
    """A prefix that is read through the proxy, and written past it."""
    return BucketPlace(s3_server, client, endpoint=proxy.endpoint)


def canned(status: str, body: str = "", headers: str = "") -> bytes:
    """An answer as it stands on the wire."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n{body}".encode()


def error(code: str) -> str:
    """The body that S3 servers give an error."""
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{SECRET} was given</Message></Error>'


def test_a_bucket_that_does_not_exist_needs_a_person(s3_server: S3Server) -> None:
    """With the server's own code."""
    for url in ("s3://no-such-bucket/x/", "s3://no-such-bucket/x.tar"):
        with pytest.raises(ContentStalled, match=r"no such bucket.*NoSuchBucket"):
            BucketSource(content_of(s3_server, url)).look(None, DEADLINE_S)


@pytest.mark.parametrize(
    ("secrets", "code"),
    [
        ({"access_key_id": "NOBODY", "secret_access_key": SECRET}, "InvalidAccessKeyId"),
        ({"secret_access_key": SECRET}, "SignatureDoesNotMatch"),
    ],
)
def test_wrong_credentials_need_a_person(s3_server: S3Server, secrets: dict[str, str], code: str) -> None:
    """The sentence has the server's code, and no secret."""
    given = {"access_key_id": s3_server.access_key, **secrets}
    for url in (f"s3://{s3_server.bucket}/x/", f"s3://{s3_server.bucket}/x.tar"):
        with pytest.raises(ContentStalled, match=code) as refusal:
            BucketSource(content_of(s3_server, url, secrets=given)).look(None, DEADLINE_S)
        assert SECRET not in str(refusal.value)


def test_a_closed_bucket_needs_a_person(seaweedfs_server: S3Server) -> None:
    """Nobody's requests are denied."""
    content = content_of(seaweedfs_server, f"s3://{seaweedfs_server.bucket}/x/", secrets={}, anonymous=True)
    with pytest.raises(ContentStalled, match=r"may not read it.*AccessDenied"):
        BucketSource(content).look(None, DEADLINE_S)


def test_given_credentials_are_not_mixed_with_those_of_the_environment(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session token of the environment does not belong to a key of the configuration."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NOBODY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "x")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    with pytest.raises(ContentRetry, match="nothing there yet"):
        BucketSource(content_of(s3_server, f"s3://{s3_server.bucket}/none/", region="us-east-1")).look(None, 9)


def test_the_usual_variables_are_enough(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoint, region and credentials from the environment, as every S3 client takes them."""
    for name, value in s3_server.env().items():
        monkeypatch.setenv(name, value)
    content = Content(f"s3://{s3_server.bucket}/none/", ContentKind.BUCKET)
    assert not needs_boto3(content, s3_server.env())
    with pytest.raises(ContentRetry, match="nothing there yet"):
        BucketSource(content).look(None, DEADLINE_S)


def test_a_profile_is_read_by_boto3(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, or because the files of the AWS command line are all there is."""
    file = tmp_path / "credentials"
    file.write_text(
        f"[site]\naws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    url = f"s3://{s3_server.bucket}/none/"
    with pytest.raises(ContentRetry, match="nothing there yet"):
        BucketSource(content_of(s3_server, url, secrets={}, profile="site")).look(None, DEADLINE_S)
    monkeypatch.setenv("AWS_PROFILE", "site")
    with pytest.raises(ContentRetry, match="nothing there yet"):
        BucketSource(content_of(s3_server, url, secrets={})).look(None, DEADLINE_S)
    with pytest.raises(ContentStalled, match="profile 'other'"):
        BucketSource(content_of(s3_server, url, secrets={}, profile="other")).look(None, DEADLINE_S)


def test_boto3_is_loaded_for_nothing_but_profiles() -> None:
    """It is many times as large as all the rest."""
    plain = Content("s3://bucket/x/", ContentKind.BUCKET)
    keys = Content("s3://bucket/x/", ContentKind.BUCKET, secrets={"access_key_id": "a", "secret_access_key": "b"})
    named = Content("s3://bucket/x/", ContentKind.BUCKET, profile="p")
    files = {"AWS_SHARED_CREDENTIALS_FILE": __file__}
    assert [needs_boto3(each, {"AWS_PROFILE": "p"}) for each in (plain, keys, named)] == [True, False, True]
    assert [needs_boto3(each, {"HOME": "/nonexistent"}) for each in (plain, keys, named)] == [False, False, True]
    assert [needs_boto3(each, files) for each in (plain, keys)] == [True, False]
    assert not needs_boto3(plain, {**files, "AWS_ACCESS_KEY_ID": "a"})
    assert not needs_boto3(plain, {**files, "AWS_WEB_IDENTITY_TOKEN_FILE": "/x"})


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install, not a traceback."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ContentStalled, match="extra `s3`"):
        BucketSource(Content("s3://bucket/x/", ContentKind.BUCKET, profile="p")).look(None, 9)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ContentStalled, match="extra `s3`"):
        BucketSource(Content("s3://bucket/x/", ContentKind.BUCKET)).look(None, 9)


def test_without_any_credentials_the_sentence_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that has no role either."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ContentStalled, match=r"no credentials.*access_key_id.*anonymous"):
        BucketSource(Content("s3://bucket/x/", ContentKind.BUCKET)).look(None, 9)


@pytest.mark.parametrize(
    "endpoint", ["nonsense", "ftp://x", "http://", "http://a b/", "http://u:secret@h/", "http://h:99999", "http://h/?q"]
)
def test_an_endpoint_that_is_none_needs_a_person(endpoint: str) -> None:
    """obstore would end its thread on some of these."""
    with pytest.raises(ContentStalled, match="`endpoint` must be") as refusal:
        BucketSource(Content("s3://bucket/x/", ContentKind.BUCKET, endpoint=endpoint)).look(None, 9)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3://a b/x", "https://h/x", "s3://u@h/x"])
def test_a_url_that_is_none_needs_a_person(url: str) -> None:
    """What was expected is said."""
    with pytest.raises(ContentStalled, match="expected s3://"):
        BucketSource(Content(url, ContentKind.BUCKET))


def test_nobody_listens(s3_server: S3Server) -> None:
    """A refused connection is tried again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    content = content_of(s3_server, "s3://bucket/x/", endpoint=f"http://127.0.0.1:{port}")
    with pytest.raises(ContentRetry, match="connection refused"):
        BucketSource(content).look(None, DEADLINE_S)


def test_a_name_that_cannot_be_resolved_is_tried_again(s3_server: S3Server) -> None:
    """The network may not be up yet."""
    content = content_of(s3_server, "s3://bucket/x/", endpoint="https://no-such-host.invalid:1")
    with pytest.raises(ContentRetry, match="cannot be resolved"):
        BucketSource(content).look(None, DEADLINE_S)


@pytest.mark.parametrize(
    ("status", "code", "kind", "said"),
    [
        ("503 Slow Down", "SlowDown", ContentRetry, "busy.*SlowDown"),
        ("429 Too Many Requests", "", ContentRetry, "busy.*429"),
        ("500 Internal Server Error", "InternalError", ContentRetry, "failed.*InternalError"),
        ("502 Bad Gateway", "", ContentRetry, "failed.*502"),
        ("400 Bad Request", "RequestTimeout", ContentRetry, "failed.*RequestTimeout"),
        ("400 Bad Request", "ExpiredToken", ContentStalled, "expired"),
        ("403 Forbidden", "RequestTimeTooSkewed", ContentStalled, "clock"),
        ("403 Forbidden", "", ContentStalled, "access denied"),
        ("401 Unauthorized", "", ContentStalled, "access denied"),
        ("400 Bad Request", "AuthorizationHeaderMalformed", ContentStalled, "region"),
        ("405 Method Not Allowed", "MethodNotAllowed", ContentStalled, "refused the request"),
    ],
)
def test_every_answer_has_its_kind(
    place: BucketPlace, proxy: TcpProxy, status: str, code: str, kind: type[ContentError], said: str
) -> None:
    """Of a listing and of a single object alike; the server's own text is never repeated."""
    proxy.canned = canned(status, error(code) if code else "")
    for options in ({}, {"marker": "M"}):
        place.options.update(options)
        with pytest.raises(ContentError, match=said) as refusal:
            place.source().look(None, DEADLINE_S)
        assert type(refusal.value) is kind
        assert SECRET not in str(refusal.value)


def test_an_answer_of_something_that_is_no_s3_server_is_tried_again(place: BucketPlace, proxy: TcpProxy) -> None:
    """A captive portal, a proxy's page."""
    for answer in (canned("200 OK", "<html>Sign in</html>"), b"rubbish\r\n\r\n", canned("200 OK", "")):
        proxy.canned = answer
        with pytest.raises(ContentRetry):
            place.source().look(None, DEADLINE_S)


def test_an_object_without_an_etag_needs_a_person(place: BucketPlace, proxy: TcpProxy) -> None:
    """Nobody could see it change."""
    place.options["marker"] = "M"
    proxy.canned = canned("200 OK", "x", "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n")
    with pytest.raises(ContentStalled, match="no usable ETag"):
        place.source().look(None, DEADLINE_S)


def test_a_busy_server_in_the_middle_of_a_fetch_is_tried_again(
    place: BucketPlace, proxy: TcpProxy, tmp_path: Path
) -> None:
    """Every connection that is opened from now on gets 503."""
    place.put({f"file-{number}": noise(1000) for number in range(100)})
    source = place.source()
    asked = revision(source)

    def busy(_done: int, _total: int | None) -> None:
        proxy.canned = canned("503 Slow Down", error("SlowDown"))

    with pytest.raises(ContentRetry, match=r"busy.*SlowDown"):
        source.fetch(asked, tmp_path, None, busy)


def test_a_server_that_stops_in_the_middle_is_tried_again(place: BucketPlace, proxy: TcpProxy, tmp_path: Path) -> None:
    """Its connections are closed and no new one is taken."""
    place.put({"large": noise(8_000_000), **{f"file-{number}": noise(1000) for number in range(100)}})
    source = place.source()
    asked = revision(source)
    with pytest.raises(ContentRetry):
        source.fetch(asked, tmp_path, None, lambda *_: proxy.stop())


def test_an_archive_cut_anywhere_never_counts(
    s3_server: S3Server, client: Any, proxy: TcpProxy, tmp_path: Path
) -> None:
    """At every 1/64 of the answer, headers included: ContentRetry, and nothing lies in the directory."""
    place = ObjectPlace(s3_server, client)
    place.put({"large": noise(100_000)})
    content = place.content(endpoint=proxy.endpoint)
    asked = revision(place.source())
    into = tmp_path / "whole"
    into.mkdir()
    BucketSource(content).fetch(asked, into, None, silent)
    assert tree(into) == place.files
    whole = proxy.answered
    for part in range(64):
        proxy.cut_after = whole * part // 64
        into = tmp_path / str(part)
        into.mkdir()
        with pytest.raises(ContentRetry):
            BucketSource(content).fetch(asked, into, None, silent)
        assert tree(into) == {}


def test_a_prefix_cut_anywhere_never_counts(place: BucketPlace, proxy: TcpProxy, tmp_path: Path) -> None:
    """Cut in the listing or in any object, there is no fetch that says that it is whole."""
    files = {f"file-{number}": noise(20_000) for number in range(4)}
    place.put(files)
    asked = revision(place.source())
    for part in range(64):
        proxy.cut_after = 20_800 * part // 64
        into = tmp_path / str(part)
        into.mkdir()
        with pytest.raises(ContentRetry):
            place.source().fetch(asked, into, None, silent)


@pytest.mark.parametrize("options", [{}, {"marker": "M"}])
def test_a_look_at_a_server_that_drips_ends_in_time(
    place: BucketPlace, proxy: TcpProxy, options: dict[str, str]
) -> None:
    """No byte is late by itself, and yet it is over at the deadline."""
    place.options.update(options)
    place.put({"M": b"x"})
    proxy.drip_s = 0.02
    started = time.monotonic()
    with pytest.raises(ContentRetry):
        place.source().look(None, 0.5)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("kind", ["prefix", "archive"])
def test_a_fetch_from_a_server_that_drips_is_given_up(
    s3_server: S3Server, client: Any, proxy: TcpProxy, tmp_path: Path, kind: str
) -> None:
    """Nothing whole arrives for a while, although a byte comes all the time."""
    place = (BucketPlace if kind == "prefix" else ObjectPlace)(s3_server, client)
    place.put({"large": noise(600_000)})
    content = place.content(endpoint=proxy.endpoint)
    asked = revision(BucketSource(content))

    def drip(_done: int, _total: int | None) -> None:
        proxy.drip_s = 0.02

    if kind == "archive":
        proxy.drip_s = 0.001
    with pytest.raises(ContentRetry, match=r"nothing arrived for 0.5 s"):
        BucketSource(content, stall_s=0.5).fetch(asked, tmp_path, None, drip)


@pytest.fixture(scope="module")
def lying_server() -> Iterator[S3Server]:
    """A server in this process, whose store a test can reach: see `spoil`."""
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        server = S3Server(kind="moto", endpoint=f"http://{host}:{port}", access_key="any", secret_key="any")
        assert has_bucket(server)
        yield server
    finally:
        moto.stop()


def spoil(server: S3Server, key: str, body: bytes) -> None:
    """Have the server deliver other bytes of the same length, under the ETag that it listed before."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    stored = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[server.bucket].keys[key]
    assert stored.etag
    assert stored.contentsize == len(body)
    stored._value_buffer.seek(0)
    stored._value_buffer.write(body)


def test_bytes_that_are_not_those_of_the_etag_never_count(lying_server: S3Server, tmp_path: Path) -> None:
    """Same length, same ETag, other bytes: asked for again, and what the cache then has is right."""
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    with lying_server.client() as client:
        place = BucketPlace(lying_server, client)
        place.put({"file": b"right", "other": b"other"})
        source = place.source()
        asked = revision(source)
        for number, body in enumerate((b"wrong", b"right")):
            spoil(lying_server, place.prefix + "file", body)
            into = tmp_path / str(number)
            into.mkdir()
            if body == b"wrong":
                with pytest.raises(ContentRetry, match=r"file: the bytes that came are not those of its ETag"):
                    source.fetch(asked, into, cache, silent)
            else:
                source.fetch(asked, into, cache, silent)
                assert tree(into) == {"file": b"right", "other": b"other"}


def test_an_archive_that_is_not_that_of_its_etag_never_counts(lying_server: S3Server, tmp_path: Path) -> None:
    """One byte of a plain tar, which has no checksum of its own, is another one."""
    with lying_server.client() as client:
        place = ObjectPlace(lying_server, client)
        packed = packed_tar({"pb.yml": b"right"})
        place.publish(packed)
        source = BucketSource(place.content())
        asked = revision(source)
        spoil(lying_server, place.key, packed.replace(b"right", b"wrong"))
        with pytest.raises(ContentRetry, match=r"not those of its ETag"):
            source.fetch(asked, tmp_path, None, silent)
        assert tree(tmp_path) == {}


def test_of_an_encrypted_object_the_etag_says_nothing(
    place: BucketPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key of KMS the ETag looks like an MD5 and is none; the server says so when it is asked."""
    place.put({"file": b"right"})
    source = place.source()
    asked = revision(source)
    monkeypatch.setattr("jetwatch.content.bucket_digest.Came.md5", "0" * 32)
    monkeypatch.setattr("jetwatch.content.bucket_digest._ENCRYPTED", ("Last-Modified",))
    source.fetch(asked, tmp_path, None, silent)
    assert tree(tmp_path) == {"file": b"right"}


def test_an_archive_with_another_digest_than_the_one_demanded_needs_a_person(
    s3_server: S3Server, client: Any, tmp_path: Path
) -> None:
    """`sha256` pins the bytes, whatever the ETag."""
    place = ObjectPlace(s3_server, client)
    place.put({"pb.yml": b"x"})
    source = BucketSource(place.content(sha256="0" * 64))
    with pytest.raises(ContentStalled, match="SHA-256"):
        source.fetch(revision(source), tmp_path, None, silent)


def test_an_unknown_refusal_is_for_a_person() -> None:
    """Asking again would not help."""
    assert isinstance(of_status(418, "", "x"), ContentStalled)
    assert isinstance(of_status(599, "", "x"), ContentRetry)


def test_a_virtual_hosted_endpoint_has_the_bucket_in_its_name() -> None:
    """Where `path_style` is off, as Amazon prefers it."""
    content = Content("s3://bucket/x/", ContentKind.BUCKET, endpoint="https://s3.example.com:8443", path_style=False)
    store = bucket_store.open_store(content, request_s=1, env={"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
    assert "https://bucket.s3.example.com:8443" in store.config.values()


def test_a_ca_file_that_cannot_be_read_needs_a_person(tmp_path: Path) -> None:
    """With its name."""
    missing = tmp_path / "ca.pem"
    content = Content("s3://bucket/x/", ContentKind.BUCKET, endpoint="https://h", ca_file=str(missing))
    with pytest.raises(ContentStalled, match=r"ca.pem: No such file"):
        BucketSource(content).look(None, 1)
    missing.write_text("nonsense")
    with pytest.raises(ContentStalled):
        BucketSource(content).look(None, 1)
