"""As root, no download script writes where another account could put a link in its way."""

from __future__ import annotations

import importlib.util
import os
import pwd
from pathlib import Path

import pytest
from accounts import STRANGER, needs_accounts
from script_runner import Scripts

WORDS = {
    "download-directory": ["/usr/share/doc"],
    "download-git": ["file:///nowhere"],
    "download-http": ["http://127.0.0.1:1/archive.tar"],
    "download-minio": ["s3://bucket/", "--endpoint-url=http://127.0.0.1:1", "--anonymous"],
    "download-s3": ["s3://bucket/", "--endpoint-url=http://127.0.0.1:1", "--anonymous"],
}
NEEDS = {"download-minio": "minio", "download-s3": "boto3"}

pytestmark = needs_accounts


@pytest.fixture(params=WORDS)
def script(request: pytest.FixtureRequest) -> str:
    """Every download script whose library is installed."""
    name = str(request.param)
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{name} needs {NEEDS[name]}: pip install 'jetwatch[contrib]'")
    return name


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A directory of another account."""
    made = tmp_path / "theirs"
    made.mkdir()
    os.chown(made, pwd.getpwnam(STRANGER).pw_uid, -1)
    return made


def test_a_directory_of_another_account_is_refused(scripts: Scripts, script: str, theirs: Path) -> None:
    """It is named, and so is what to do; nothing is made."""
    ended = scripts.run(script, *WORDS[script][:1], theirs / "new/site", *WORDS[script][1:])
    assert ended.exit_code == 3
    assert f"{theirs} can be changed by another account: run this as that account, not as root" in ended.stderr
    assert list(theirs.iterdir()) == []


def test_a_link_to_there_is_refused_too(scripts: Scripts, script: str, theirs: Path, tmp_path: Path) -> None:
    """Through a link of ours to one of theirs that leads back to us."""
    (tmp_path / "site").mkdir()
    (theirs / "back").symlink_to(tmp_path / "site")
    (tmp_path / "link").symlink_to("theirs/back")
    ended = scripts.run(script, *WORDS[script][:1], tmp_path / "link", *WORDS[script][1:])
    assert ended.exit_code == 3
    assert "can be changed by another account" in ended.stderr
    assert list((tmp_path / "site").iterdir()) == []


def test_a_link_among_our_own_is_followed(scripts: Scripts, tmp_path: Path) -> None:
    """As /var/run is one."""
    for name in ("source", "real"):
        (tmp_path / name).mkdir()
    (tmp_path / "source/file").touch()
    (tmp_path / "link").symlink_to("real/../real")
    ended = scripts.run("download-directory", tmp_path / "source", tmp_path / "link/into")
    assert ended.exit_code == 0, ended.stderr
    assert (tmp_path / "real/into/file").exists()
