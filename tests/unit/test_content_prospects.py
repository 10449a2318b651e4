"""What shows of a source without asking anybody: programs, files, credentials."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jetwatch.content.prospects import Forbidden, doubts, file_doubt
from jetwatch.content.source import Content, ContentKind

HOME = {"HOME": "/nonexistent", "PATH": os.environ["PATH"]}
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
NO_ROLE = {"AWS_EC2_METADATA_DISABLED": "true"}
OF_CONTENT = {"access_key_id": "a", "secret_access_key": "b"}


def bucket(**options: Any) -> Content:
    """A prefix."""
    return Content("s3://bucket/x/", ContentKind.BUCKET, **options)


def git(scheme: str = "https", **options: Any) -> Content:
    """A repository."""
    return Content(f"git+{scheme}://host/x", ContentKind.GIT, **options)


def found(content: Content, env: Mapping[str, str] | None = None, *, env_files: bool = False) -> list[tuple[str, str]]:
    """Every doubt."""
    return list(doubts(content, HOME | dict(env or {}), env_files=env_files))


@pytest.mark.parametrize(
    ("content", "env", "key", "sentence"),
    [
        (bucket(), NO_ROLE, "url", "no credentials"),
        (bucket(), {"AWS_ACCESS_KEY_ID": "a"}, "url", "cannot work without AWS_SECRET_ACCESS_KEY"),
        (bucket(profile="site"), {}, "profile", "no profile 'site'"),
        (bucket(), {"AWS_PROFILE": "site"}, "url", "no profile 'site'"),
        (bucket(), {"AWS_WEB_IDENTITY_TOKEN_FILE": "/nonexistent"}, "url", "AWS_WEB_IDENTITY_TOKEN_FILE /nonexistent"),
        (bucket(endpoint="http://minio:9000"), {}, "url", "only a role"),
        (bucket(ca_file="/nonexistent/ca.pem"), KEYS, "ca_file", "/nonexistent/ca.pem: No such file"),
        (git("ssh", ssh_key="/nonexistent/key"), {}, "ssh_key", "/nonexistent/key: No such file"),
        (git(), {"PATH": "/nonexistent"}, "url", "git is not on PATH"),
        (git("ssh"), {"PATH": "/nonexistent"}, "url", "ssh is not on PATH"),
        (git(allowed_signers="/dev/null"), {}, "allowed_signers", "it is no file"),
        (
            git(allowed_signers="/etc/hostname"),
            {"PATH": "/nonexistent"},
            "allowed_signers",
            "ssh-keygen is not on PATH",
        ),
    ],
)
def test_what_cannot_work_here_is_named_by_its_key(
    content: Content, env: dict[str, str], key: str, sentence: str
) -> None:
    """With a sentence that says what to do about it."""
    assert any(where == key and sentence in said for where, said in found(content, env)), found(content, env)


@pytest.mark.parametrize(
    ("content", "env"),
    [
        (bucket(), {}),  # the machine may have a role
        (bucket(), KEYS),
        (bucket(secrets=OF_CONTENT), NO_ROLE),
        (bucket(anonymous=True, endpoint="http://minio:9000"), NO_ROLE),
        (bucket(endpoint="http://minio:9000"), KEYS),
        (bucket(endpoint="https://s3.eu-central-1.amazonaws.com"), {}),
        (bucket(), {**NO_ROLE, "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://x"}),
        (git(), {}),
        (Content("https://host/x.tar", ContentKind.HTTP), {}),
        (Content("file:///nonexistent", ContentKind.DIRECTORY), {}),
    ],
)
def test_what_may_work_is_no_doubt(content: Content, env: dict[str, str]) -> None:
    """A warning that is wrong is not read the next time."""
    assert found(content, env) == []


def test_credentials_that_should_come_from_a_file_are_missed(tmp_path: Path) -> None:
    """A watch with an env_file means them to come from it."""
    ((key, sentence),) = found(bucket(), env_files=True)
    assert key == "url"
    assert "`env_file`" in sentence
    assert found(bucket(), KEYS, env_files=True) == []


def test_an_environment_that_is_not_known_gives_no_doubt() -> None:
    """The account may live on another machine."""
    assert list(doubts(bucket(), None, env_files=True)) == []


@pytest.mark.parametrize(
    ("file", "text"), [("credentials", "[site]\nx = y\n"), ("config", "[default]\n[profile site]\nregion = r\n")]
)
def test_a_profile_of_either_file_is_found(tmp_path: Path, file: str, text: str) -> None:
    """In the home of the watch's user, or where the variables say."""
    (tmp_path / ".aws").mkdir()
    path = tmp_path / ".aws" / file
    path.write_text(text)
    assert found(bucket(profile="site"), {"HOME": str(tmp_path)}) == []
    variable = {"credentials": "AWS_SHARED_CREDENTIALS_FILE", "config": "AWS_CONFIG_FILE"}[file]
    assert found(bucket(profile="site"), {variable: str(path)}) == []
    assert found(bucket(profile="other"), {variable: str(path)}) != []
    default = found(bucket(), {"HOME": str(tmp_path), **NO_ROLE})
    assert bool(default) is (file == "credentials")  # which has no default


@pytest.mark.parametrize(
    ("mode", "forbidden", "said"),
    [
        (0o600, Forbidden.ALL_BUT_OWNER, ""),
        (0o640, Forbidden.ALL_BUT_OWNER, "0640, lets others read it: chmod go="),
        (0o640, Forbidden.OTHERS, ""),
        (0o644, Forbidden.OTHERS, "0644, lets others read it: chmod o="),
        (0o644, Forbidden.WRITING, ""),
        (0o664, Forbidden.WRITING, "0664, lets others write to it: chmod go-w"),
    ],
)
def test_a_mode_that_lets_others_in_is_told_with_its_remedy(
    tmp_path: Path, mode: int, forbidden: Forbidden, said: str
) -> None:
    """The command can be pasted into a shell."""
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    assert said in file_doubt(path, forbidden)
    assert bool(said) is bool(file_doubt(path, forbidden))


@pytest.mark.parametrize("what", ["a link", "a FIFO", "a huge file"])
def test_a_file_of_a_home_that_cannot_be_read_safely_is_no_doubt(tmp_path: Path, what: str) -> None:
    """Who looks may be root, and the home another account's: nothing is followed, waited for or read beyond bounds."""
    (tmp_path / ".aws").mkdir()
    credentials = tmp_path / ".aws" / "credentials"
    if what == "a link":
        credentials.symlink_to("/dev/zero")
    elif what == "a FIFO":
        os.mkfifo(credentials)
    else:
        with credentials.open("wb") as sparse:
            sparse.truncate(2**40)
    assert found(bucket(profile="site"), {"HOME": str(tmp_path)}) == []


@pytest.mark.parametrize(("library", "kind"), [("obstore", bucket()), ("boto3", bucket(profile="p"))])
def test_a_missing_library_is_named(library: str, kind: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra that brings it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == library else object())
    assert any(library in said and "pip install 'jetwatch[s3]'" in said for _, said in found(kind))
