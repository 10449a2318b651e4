"""`ca_file` is a pin: only what is in it is believed, for https and git as for S3 (`test_bucket_strangers.py`)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from web_server import Authority, Page, make_authority, serving

from jetwatch import interpreter
from jetwatch.content.http import HttpSource
from jetwatch.content.source import Content, ContentKind, ContentStalled

PATH = "/site.tar"
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can put other authorities into the system's place")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority in `ca_file`."""
    return make_authority(tmp_path_factory.mktemp("authority") / "ours")


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that the machine believes."""
    return make_authority(tmp_path_factory.mktemp("authority") / "systems")


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_https_believes_what_is_in_ca_file_and_nothing_else(
    ours: Authority, systems: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """A server that the machine's own authorities vouch for is good without `ca_file`, and refused with it."""
    (tmp_path / "ca.pem").write_bytes(systems.ca_file.read_bytes())
    subprocess.run(["openssl", "rehash", tmp_path], check=True, capture_output=True)
    monkeypatch.setenv(variable, str(systems.ca_file if variable == "SSL_CERT_FILE" else tmp_path))
    with serving(context=systems.context) as server:
        server.pages[PATH] = Page(b"x", etag='"abc"')
        url = server.url + PATH
        assert HttpSource(Content(url, ContentKind.HTTP)).look(None, 10).revision == "abc"
        with pytest.raises(ContentStalled, match="certificate"):
            HttpSource(Content(url, ContentKind.HTTP, ca_file=str(ours.ca_file))).look(None, 10)


@ROOT_ONLY
def test_git_believes_what_is_in_ca_file_and_nothing_else(ours: Authority, systems: Authority, tmp_path: Path) -> None:
    """Neither the system's directory nor a variable brings another authority in."""
    place = tmp_path / "certs"
    place.mkdir()
    for name in ("ca.pem", "ca-certificates.crt"):
        (place / name).write_bytes(systems.ca_file.read_bytes())
    subprocess.run(["openssl", "rehash", place], check=True, capture_output=True)
    with serving(context=systems.context) as server:
        url = f"git+{server.url}/site.git@main"

        def said(*options: str) -> str:
            words = interpreter.jetp("fetch", "--look", url, *options)
            script = f'mount --bind {place} /etc/ssl/certs && exec "$@"'
            env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SSL_CERT_FILE": str(systems.ca_file)}
            argv = ["unshare", "--mount", "sh", "-c", script, "sh", *words]
            ended = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
            assert ended.returncode != 0  # there is no such repository
            return ended.stderr

        assert "not found" in said()
        assert "not found" in said(f"--option=ca_file={systems.ca_file}")
        asked = len(server.asked)
        assert "certificate" in said(f"--option=ca_file={ours.ca_file}")
        assert len(server.asked) == asked
