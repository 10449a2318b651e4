"""`jetp fetch`, through the installed command: what it puts where, what it says, and what it leaves with."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import pty
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

JETP = Path(sys.executable).parent / "jetp"
FILES = {"pb.yml": b"- hosts: localhost\n", "roles/web/tasks/main.yml": b"[]\n"}
AT_ONCE = {"JETWATCH_CONTENT_OPTIONS": '{"settle_s": 0.05}'}


class Ended:
    """What a command left."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on standard output."""
        found: dict[str, Any] = json.loads(self.out)
        return found


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """What a command is started with."""
    return {"PATH": "/usr/bin:/bin", "HOME": "/nowhere", "LANG": "C.UTF-8", "TERM": "xterm", **more}


def jetp(*words: str | Path, **env: str) -> Ended:
    """Run `jetp fetch`."""
    done = subprocess.run(
        [JETP, "fetch", *words], capture_output=True, text=True, env=environment(env), timeout=60, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def lines(path: Path) -> dict[str, str]:
    """What a command wrote for the engine."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """A directory of content."""
    for key, body in FILES.items():
        path = tmp_path / "content" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return tmp_path / "content"


@pytest.fixture
def archive(content: Path) -> Path:
    """The same as an archive."""
    path = content.parent / "content.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        packed.add(content, ".")
    return path


def arrived(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_directory_is_fetched(content: Path, tmp_path: Path) -> None:
    """The files are there, and two lines say what was done."""
    ended = jetp(content.as_uri(), tmp_path / "into", "--option", "settle=0.1")
    assert ended.code == 0, ended.err
    assert arrived(tmp_path / "into") == FILES
    assert "2 files" in ended.out
    assert ended.out.splitlines()[1].startswith("revision ")
    assert ended.err == ""


def test_directories_above_are_made(content: Path, tmp_path: Path) -> None:
    """As git clone does it; where none can be, a person is needed."""
    assert jetp(content.as_uri(), tmp_path / "a/b/into", **AT_ONCE).code == 0
    assert arrived(tmp_path / "a/b/into") == FILES
    ended = jetp(content.as_uri(), content / "pb.yml" / "into", **AT_ONCE)
    assert (ended.code, "no directory can be made there" in ended.err) == (1, True)


def test_json_is_one_document(archive: Path, tmp_path: Path) -> None:
    """With the figures and the revision, which `--look` says too, and which the engine is told."""
    target = tmp_path / "engine"
    ended = jetp(archive.as_uri(), tmp_path / "into", "--json", JETWATCH_OUTPUT=str(target), **AT_ONCE)
    assert ended.code == 0, ended.err
    document = ended.document
    assert document.pop("duration_s") >= 0
    revision = document.pop("revision")
    assert document == {"files": 2, "total_bytes": sum(map(len, FILES.values())), "reused_bytes": 0, "requests": 0}
    size = str(sum(map(len, FILES.values())))
    assert lines(target) == {"revision": revision, "fetch_requests": "0", "fetched_bytes": size}
    assert jetp(archive.as_uri(), "--look").out == f"{revision}\n"


def test_a_look_says_whether_it_counts_already(content: Path, tmp_path: Path) -> None:
    """A listing has to settle: the engine is told, and looks again."""
    target = tmp_path / "engine"
    ended = jetp(content.as_uri(), "--look", JETWATCH_OUTPUT=str(target))
    assert lines(target) == {"revision": ended.out.strip(), "settled": "false", "requests": "0"}
    assert jetp(content.as_uri(), "--look", "--json").document["settled"] is False


def test_exactly_the_revision_that_was_asked_for(archive: Path, tmp_path: Path) -> None:
    """Or exit 75 at once, and nothing."""
    revision = jetp(archive.as_uri(), "--look").out.strip()
    assert jetp(archive.as_uri(), tmp_path / "into", "--revision", revision).code == 0
    os.utime(archive, ns=(1, 1))
    ended = jetp(archive.as_uri(), tmp_path / "other", "--revision", revision)
    assert ended.code == 75
    assert "another revision" in ended.err
    assert not (tmp_path / "other").exists()


def test_what_needs_a_person_leaves_with_1_and_nothing_behind(content: Path, tmp_path: Path) -> None:
    """A hostile entry is named in one line, and neither the target nor its neighbours have anything of it."""
    (content / "way-out").symlink_to("/etc/passwd")
    ended = jetp(content.as_uri(), tmp_path / "into", "--option", "settle=0")
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert "'way-out'" in ended.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["content"]


def test_what_may_pass_leaves_with_75(tmp_path: Path) -> None:
    """A mount that is not there, looked at or fetched, when the time is over."""
    url = (tmp_path / "missing").as_uri()
    assert jetp(url, "--look").code == 75
    ended = jetp(url, tmp_path / "into", "--deadline", "0.5s")
    assert ended.code == 75
    assert "missing" in ended.err


def test_a_directory_with_something_in_it_is_refused(content: Path, tmp_path: Path) -> None:
    """Nothing is overwritten."""
    (tmp_path / "into").mkdir()
    (tmp_path / "into/mine").write_bytes(b"x")
    ended = jetp(content.as_uri(), tmp_path / "into", "--option", "settle=0")
    assert ended.code == 1
    assert arrived(tmp_path / "into") == {"mine": b"x"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["file:///x"], "DIR is missing"),
        (["ftp://host/x", "into"], "s3://"),
        (["file:///x", "into", "--option", "sette=1"], "settle"),
        (["file:///x", "into", "--option", "region=eu"], "no use for `region`"),
        (["file:///x", "into", "--option", "settle"], "KEY=VALUE"),
        (["file:///x", "into", "--option", "limits.deep=1"], "depth"),
        (["file:///x", "into", "--option", "marker.x=1"], "marker"),
        (["file:///x", "into", "--option", "settle=soon"], "duration"),
        (["file:///x", "into", "--deadline", "soon"], "--deadline"),
        (["http://host/x.tar", "into"], "https://"),
        (["s3://bucket/x/", "into", "--option", "secret_access_key=hunter2"], "JETWATCH_CONTENT_SECRETS"),
    ],
)
def test_a_wrong_command_line_leaves_with_2(tmp_path: Path, words: list[str], said: str) -> None:
    """One sentence says what is wrong, with the nearest right word, and repeats no secret."""
    ended = jetp(*words)
    assert ended.code == 2, ended.err
    assert said in ended.err
    assert "hunter2" not in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("text", ["{", "[]", '{"nonsense": 1}', '{"limits": {"nonsense": 1}}'])
def test_wrong_options_in_the_environment_leave_with_2(tmp_path: Path, text: str) -> None:
    """The variable is named."""
    ended = jetp("file:///x", "into", JETWATCH_CONTENT_OPTIONS=text)
    assert ended.code == 2
    assert "JETWATCH_CONTENT_OPTIONS" in ended.err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("limits.bytes=1MiB", "1048576"),
        ("limits.entries=2", "2 entries"),
        ("limits.depth=2", "2 directories"),
        ("limits.ratio=1.5", "1.5 times its size"),
    ],
)
def test_every_limit_can_be_set(tmp_path: Path, option: str, said: str) -> None:
    """And is kept: what is more than it is refused, by name."""
    (tmp_path / "content/a/b/c").mkdir(parents=True)
    (tmp_path / "content/a/b/c/zeros").write_bytes(bytes(70 << 20))
    with tarfile.open(tmp_path / "content.tar.gz", "w:gz", compresslevel=1) as packed:
        packed.add(tmp_path / "content", ".")
    url = (tmp_path / "content.tar.gz").as_uri()
    ended = jetp(url, tmp_path / "into", "--option", option, **AT_ONCE)
    assert ended.code == 1, ended.err
    assert said in ended.err
    assert not (tmp_path / "into").exists()


def test_options_come_from_the_environment_too(content: Path, tmp_path: Path) -> None:
    """As the engine hands them to the download step of a run."""
    (content / "DONE").write_bytes(b"1")
    options = json.dumps({"marker": "DONE", "limits": {"entries": 3}})
    assert jetp(content.as_uri(), "--look", "--json", JETWATCH_CONTENT_OPTIONS=options).document["settled"] is True
    ended = jetp(content.as_uri(), tmp_path / "into", JETWATCH_CONTENT_OPTIONS=options)
    assert ended.code == 1
    assert "more than 3 entries" in ended.err


class _Guarded(http.server.SimpleHTTPRequestHandler):
    """Files for who knows the password."""

    def do_GET(self) -> None:
        """Answer, or ask who it is."""
        if self.headers.get("Authorization") != "Basic dXNlcjpodW50ZXIy":
            self.send_error(401)
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(archive: Path) -> Iterator[str]:
    """A web server with the archive, behind a password."""
    handler = partial(_Guarded, directory=archive.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/{archive.name}"
        running.shutdown()
        thread.join()


def test_secrets_come_from_the_environment_and_are_never_said(server: str, archive: Path, tmp_path: Path) -> None:
    """The password opens the server; neither output nor error repeats it, right or wrong."""
    pytest.importorskip("jetwatch.content.http")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    options = json.dumps({"sha256": digest})
    good, bad = (json.dumps({"username": "user", "password": word}) for word in ("hunter2", "hunter3"))
    env = {"JETWATCH_CONTENT_OPTIONS": options}
    ended = jetp(server, tmp_path / "into", JETWATCH_CONTENT_SECRETS=good, **env)
    assert ended.code == 0, ended.err
    assert arrived(tmp_path / "into") == FILES
    wrong = jetp(server, tmp_path / "other", JETWATCH_CONTENT_SECRETS=bad, **env)
    assert wrong.code == 1
    assert "hunter" not in ended.out + ended.err + wrong.out + wrong.err


def test_a_cache_that_cannot_be_is_no_hindrance(archive: Path, tmp_path: Path) -> None:
    """A word about it, and the content all the same."""
    (tmp_path / "file").write_bytes(b"")
    ended = jetp(archive.as_uri(), tmp_path / "into", "--cache", tmp_path / "file/cache", **AT_ONCE)
    assert ended.code == 0
    assert "going on without a cache" in ended.err
    assert arrived(tmp_path / "into") == FILES


def test_a_person_at_a_terminal_sees_a_bar(archive: Path, tmp_path: Path) -> None:
    """On standard error; standard output stays plain."""
    leader, follower = pty.openpty()
    words = [JETP, "fetch", archive.as_uri(), tmp_path / "into"]
    env = environment(AT_ONCE)
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=follower, env=env, timeout=60, check=False)
    os.close(follower)
    seen = os.read(leader, 100_000)
    os.close(leader)
    assert done.returncode == 0
    assert b"into" in seen
    assert b"\x1b[" in seen
    assert b"\x1b[" not in done.stdout


def test_a_fetch_that_is_ended_leaves_nothing(tmp_path: Path) -> None:
    """TERM in the middle of it, as a deadline of the engine sends it: the target is empty and nothing lies beside."""
    content = tmp_path / "content"
    content.mkdir()
    for number in range(3000):
        (content / f"file-{number:05}").write_bytes(os.urandom(20_000))
    (tmp_path / "parent/into").mkdir(parents=True)
    words = [JETP, "fetch", content.as_uri(), tmp_path / "parent/into", "--option", "settle=0"]
    with subprocess.Popen(words, env=environment({}), stderr=subprocess.PIPE) as child:
        until = time.monotonic() + 30
        while not any(len(list(path.iterdir())) > 5 for path in (tmp_path / "parent").glob(".jetwatch-*")):
            assert time.monotonic() < until
            assert child.poll() is None
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=30)
    assert child.returncode == 143, said
    assert [path.name for path in (tmp_path / "parent").iterdir()] == ["into"]
    assert list((tmp_path / "parent/into").iterdir()) == []


def test_help_names_the_ways_to_give_options() -> None:
    """`--help` loads no source and shows an example."""
    ended = jetp("--help")
    assert ended.code == 0
    assert "--option KEY=VALUE" in ended.out
    assert "jetp fetch s3://" in ended.out
    assert io.StringIO(ended.out).readline().startswith("Usage: jetp fetch")


def test_a_first_fetch_of_signed_commits_says_whom_it_believes(tmp_path: Path) -> None:
    """How many keys of which file, where; nothing of it where a commit is applied that the next one must follow."""
    signers = tmp_path / "signers"
    signers.write_text("# ours\na@example.org ssh-ed25519 AAAA\nb@example.org ssh-ed25519 BBBB\n")
    words = ("git+file:///nowhere/site.git@main", tmp_path / "into", "--option", f"verify.allowed_signers={signers}")
    first = jetp(*words, "--deadline", "1")
    assert f"believed is a commit of whatever age and repository, signed by one of 2 keys in {signers}" in first.err
    assert "at git+file:///nowhere/site.git@main" in first.err
    assert "believed" not in jetp(*words, "--deadline", "1", JETWATCH_APPLIED_REVISION="a" * 40).err
