"""check-http and download-http against a real HTTP server, and archives that want out."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from script_runner import Ended, Scripts, files_below

FILES = {"pb.yml": "- hosts: all\n", "roles/web/main.yml": "[]\n", "empty": ""}


@dataclass
class Site:
    """What the server answers, and what it was asked."""

    url: str = ""
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    seen: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    """An HTTP server that understands If-None-Match and If-Modified-Since."""
    made = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.seen.append(dict(self.headers))
            told = made.headers.get("ETag"), made.headers.get("Last-Modified")
            asked = self.headers.get("If-None-Match"), self.headers.get("If-Modified-Since")
            same = any(have is not None and have == want for have, want in zip(told, asked, strict=True))
            self.send_response(304 if same and made.status == 200 else made.status)
            body = b"" if same else made.body
            for name, value in ({"Content-Length": str(len(body))} | made.headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}/site.tar.gz"
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def check(scripts: Scripts, site: Site, *words: str, applied: str = "", **env: str) -> Ended:
    """Run check-http."""
    return scripts.run("check-http", site.url, *words, JETWATCH_APPLIED_REVISION=applied, **env)


def download(scripts: Scripts, site: Site, directory: Path, *words: str, revision: str = "") -> Ended:
    """Run download-http."""
    return scripts.run("download-http", site.url, directory, *words, JETWATCH_REVISION=revision)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("ETag", '"one"', '"two"'),
        ("ETag", 'W/"one"', 'W/"two"'),
        ("Last-Modified", "Mon, 02 Nov 2026 10:00:00 GMT", "Mon, 02 Nov 2026 10:00:01 GMT"),
    ],
)
def test_what_the_server_calls_it_is_the_revision(
    scripts: Scripts, site: Site, name: str, first: str, second: str
) -> None:
    """Due, not due by a 304, due again."""
    site.headers, site.body = {name: first}, b"x" * 1000
    ended = check(scripts, site)
    assert (ended.exit_code, ended.outputs, ended.stderr) == (0, {"revision": first}, "")
    assert check(scripts, site, applied=first).exit_code == 1
    assert first in site.seen[-1].values()
    site.headers = {name: second}
    assert check(scripts, site, applied=first).outputs == {"revision": second}


def test_without_headers_the_bytes_are_the_revision(scripts: Scripts, site: Site) -> None:
    """A digest of the body."""
    site.body = b"one"
    revision = check(scripts, site).outputs["revision"]
    assert revision == "sha256:" + hashlib.sha256(b"one").hexdigest()
    assert check(scripts, site, applied=revision).exit_code == 1
    site.body = b"two"
    assert check(scripts, site, applied=revision).exit_code == 0


@pytest.mark.parametrize(
    ("pointer", "revision"),
    [("/version", "1.2"), ("/items/1/id", "7"), ("/a~1b", "slash"), ("/items/1", None), ("/flag", "true")],
)
def test_a_field_of_json_is_the_revision(scripts: Scripts, site: Site, pointer: str, revision: str | None) -> None:
    """Text and numbers as they are, objects by digest; other fields do not matter."""
    value = {"version": "1.2", "items": [{}, {"id": 7}], "a/b": "slash", "flag": True, "other": 1}
    site.body = json.dumps(value).encode()
    ended = check(scripts, site, "--pointer", pointer)
    assert ended.exit_code == 0
    assert ended.outputs["revision"] == revision or (revision is None and "sha256:" in ended.outputs["revision"])
    site.body = json.dumps(value | {"other": 2}).encode()
    assert check(scripts, site, "--pointer", pointer, applied=ended.outputs["revision"]).exit_code == 1


def test_a_field_that_is_missing_is_later_and_no_json_an_error(scripts: Scripts, site: Site) -> None:
    """Nothing to be due, or the wrong address."""
    site.body = b'{"items": [], "none": null}'
    for pointer in ("/version", "/items/0", "/none", "/items/x"):
        assert check(scripts, site, "--pointer", pointer).exit_code == 75
    site.body = b"<html>"
    assert check(scripts, site, "--pointer", "/version").exit_code == 3
    assert check(scripts, site, "--pointer", "version").exit_code == 2


@pytest.mark.parametrize(("status", "exit_code"), [(404, 75), (503, 75), (429, 75), (500, 3), (401, 3), (403, 3)])
def test_other_answers_are_later_or_an_error(scripts: Scripts, site: Site, status: int, exit_code: int) -> None:
    """In one line, with the number."""
    site.status = status
    ended = check(scripts, site)
    assert (ended.exit_code, ended.outputs, ended.stderr.count("\n")) == (exit_code, {}, 1)
    assert str(status) in ended.stderr


def test_credentials_go_to_one_host_only(scripts: Scripts, site: Site) -> None:
    """Sent to the server, not along with a redirect; https is never left; nobody there is an error."""
    site.headers = {"ETag": '"x"'}
    check(scripts, site, HTTP_USER="me", HTTP_PASSWORD="a secret")
    assert site.seen[-1]["Authorization"] == "Basic " + base64.b64encode(b"me:a secret").decode()
    check(scripts, site, HTTP_TOKEN="token")
    assert site.seen[-1]["Authorization"] == "Bearer token"
    mirror = site.url.replace("127.0.0.1", "localhost")
    site.status, site.headers = 302, {"Location": mirror}
    ended = check(scripts, site, HTTP_TOKEN="token")
    assert ended.exit_code == 3
    assert ["Authorization" in headers for headers in site.seen[2:4]] == [True, False]
    site.headers = {"Location": mirror.replace("http:", "https:")}
    assert "refused" in check(scripts, site).stderr
    gone = scripts.run("check-http", "http://127.0.0.1:1/x")
    assert (gone.exit_code, gone.stderr.count("\n")) == (3, 1)
    assert scripts.run("check-http", "file:///etc/passwd").exit_code == 2


def tar_of(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> bytes:
    """Pack members as they are."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:  # type: ignore[call-overload]
        for member, body in members:
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return packed.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    """One entry of a tar archive."""
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, target, mode
    return made


def zip_of(files: dict[str, str], mode: int = 0o100644) -> bytes:
    """Pack files as zip."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            archive.writestr(entry, text)
    return packed.getvalue()


def packed_in(form: str) -> bytes:
    """The usual files in one of the forms."""
    if form == "zip":
        return zip_of(FILES)
    return tar_of(*((member(f"./{name}"), text.encode()) for name, text in FILES.items()), mode=form)


@pytest.mark.parametrize("form", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_an_archive_is_unpacked_whole(scripts: Scripts, site: Site, tmp_path: Path, form: str) -> None:
    """Every form; the revision is what check-http says."""
    site.body = packed_in(form)
    revision = check(scripts, site).outputs["revision"]
    digest = hashlib.sha256(site.body).hexdigest()
    ended = download(scripts, site, tmp_path / "site", "--sha256", digest, revision=revision)
    assert (ended.exit_code, ended.stderr, ended.outputs) == (0, "", {"revision": revision})
    assert files_below(tmp_path / "site") == FILES


def test_modes_and_links_are_kept(scripts: Scripts, site: Site, tmp_path: Path) -> None:
    """Never setuid."""
    run, link = member("bin/run", mode=0o4755), member("bin/again", tarfile.SYMTYPE, "../bin/run")
    site.body = tar_of((member("bin", tarfile.DIRTYPE, mode=0o755), b""), (run, b"x"), (link, b""))
    assert download(scripts, site, tmp_path / "site").exit_code == 0
    assert (tmp_path / "site/bin/run").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "site/bin/again").read_text() == "x"


HOSTILE = {
    "'/etc/x'": tar_of((member("/etc/x"), b"x")),
    "'a/../../x'": tar_of((member("a/../../x"), b"x")),
    "'evil'": tar_of((member("evil", tarfile.SYMTYPE, "/etc"), b"")),
    "'d/up'": tar_of((member("d/up", tarfile.SYMTYPE, "../../x"), b"")),
    "'hard'": tar_of((member("pb.yml"), b"x"), (member("hard", tarfile.LNKTYPE, "pb.yml"), b"")),
    "'null'": tar_of((member("null", tarfile.CHRTYPE), b"")),
    "twice": tar_of((member("a"), b"1"), (member("a"), b"2")),
    "is there twice": tar_of((member("l", tarfile.SYMTYPE, "d"), b""), (member("l/x"), b"2")),
    "'../x'": zip_of({"../x": "x"}),
    "'zip-link'": zip_of({"zip-link": "/etc"}, 0o120777),
    "is no tar or zip archive": b"neither",
    "--max-bytes": tar_of((member("bomb"), b"\0" * 2_000_000)),
    "entries": tar_of(*((member(f"f{number}"), b"") for number in range(60))),
}


@pytest.mark.parametrize("said", HOSTILE)
def test_a_hostile_archive_is_refused_by_name(scripts: Scripts, site: Site, tmp_path: Path, said: str) -> None:
    """And leaves nothing behind."""
    site.body = HOSTILE[said]
    ended = download(scripts, site, tmp_path / "site", "--max-bytes", "1000000", "--max-entries", "50")
    assert (ended.exit_code, ended.stderr.count("\n")) == (3, 1)
    assert said in ended.stderr
    assert list((tmp_path / "site").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "site"]


def test_another_revision_digest_or_length_is_not_unpacked(scripts: Scripts, site: Site, tmp_path: Path) -> None:
    """What was checked is what is applied."""
    site.body, site.headers = packed_in("w:gz"), {"ETag": '"two"'}
    moved = download(scripts, site, tmp_path / "site", revision='"one"')
    assert (moved.exit_code, "this run is for" in moved.stderr) == (75, True)
    wrong = download(scripts, site, tmp_path / "site", "--sha256", "0" * 64)
    assert (wrong.exit_code, "expected the sha256" in wrong.stderr) == (3, True)
    site.headers = {"Content-Length": str(len(site.body) + 10)}
    short = download(scripts, site, tmp_path / "site")
    assert (short.exit_code, short.stderr.count("\n")) == (3, 1)
    assert list((tmp_path / "site").iterdir()) == []


@pytest.mark.parametrize("form", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_an_archive_that_is_cut_off_anywhere_is_refused(
    scripts: Scripts, site: Site, tmp_path: Path, form: str
) -> None:
    """Although no server says how long it is; the padding of a plain tar may be missing."""
    whole = packed_in(form)
    length = len(whole.rstrip(b"\0")) if form == "w" else len(whole)
    for part in range(1, 9):
        site.body = whole[: length * part // 8 - 1]
        ended = download(scripts, site, tmp_path / "site")
        assert (ended.exit_code, ended.stderr.count("\n")) == (3, 1), part
        assert list((tmp_path / "site").iterdir()) == []
