"""`jetp init`: a file that is valid, complete, private, and never in another's place unasked."""

from __future__ import annotations

import json
import os
import pty
import pwd
import select
import subprocess
from pathlib import Path

import pytest
from accounts import STRANGER, needs_accounts
from agent_process import JETP

_ENVIRON = {"PATH": "/usr/bin:/bin", "HOME": "/nowhere", "LANG": "C.UTF-8"}


def jetp(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """`jetp WORDS`, with nobody to answer."""
    done = subprocess.run(
        [JETP, *words], env=_ENVIRON, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    return done


def watch_of(path: Path) -> dict[str, object]:
    """The one watch of this file, as check-config understands it."""
    (watch,) = json.loads(jetp("check-config", "--json", path).stdout)["watches"].values()
    return dict(watch)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--kind", "scripts"], {"check_interval": 200, "splay": 100}),
        (["--kind", "scripts", "--check", "/bin/x 'a: b' #c", "--splay", "7"], {"splay": 7}),
        (["--content", "file:///srv/site", "--playbook", "a b.yml"], {"check_interval": 300}),
        (["--schedule", "@daily", "--run", 'echo "it\'s" | cat'], {"schedule": "@daily", "splay": 300}),
    ],
    ids=["scripts", "quoting", "content", "schedule"],
)
def test_every_kind_is_valid(tmp_path: Path, words: list[str], expected: dict[str, object]) -> None:
    """With the values that were said, private to its owner, and without anything left beside it."""
    path = tmp_path / "My Site.yml"
    assert "check-config" in jetp("init", *words, path).stdout
    watch = watch_of(path)
    assert {key: watch[key] for key in expected} == expected
    assert "name: my-site\n" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_command_on_a_schedule_runs_as_it_was_given(tmp_path: Path) -> None:
    """Quotes and pipes included."""
    path = tmp_path / "a.yml"
    jetp("init", "--schedule", "@daily", "--run", 'echo "it\'s" | tr a-z A-Z', path)
    jetp("watch", "--watch-config", path, "--once", "--no-splay", "--state-dir", tmp_path / "state")
    assert jetp("logs", "--state-dir", tmp_path / "state").stdout == "IT'S\n"


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    """Without --force."""
    path = tmp_path / "watch.yml"
    path.write_text("mine\n")
    assert "--force" in jetp("init", "--kind", "scripts", path, code=2).stderr
    assert path.read_text() == "mine\n"
    jetp("init", "--kind", "scripts", "--force", path)
    watch_of(path)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "--kind"),
        (["--kind", "content"], 2, "--content"),
        (["--kind", "schedule", "--run", "x", "--check", "y"], 2, "--check"),
        (["--kind", "schedule", "--run", "x", "--schedule", "daily"], 78, "watch.schedule"),
        (["--kind", "scripts", "--run", "x {{ nothing }}"], 78, "no such variable"),
    ],
    ids=["no kind", "no content", "not for this kind", "no schedule", "no such variable"],
)
def test_what_will_not_do_is_said_and_not_written(tmp_path: Path, words: list[str], code: int, said: str) -> None:
    """And nothing is left behind."""
    done = jetp("init", *words, tmp_path / "watch.yml", code=code)
    assert said.removeprefix("watch.") in done.stderr
    assert ".jetp-init" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_on_a_terminal_it_asks(tmp_path: Path) -> None:
    """For what no option says; an empty answer takes the default."""
    ours, theirs = pty.openpty()
    words = [JETP, "init", tmp_path / "watch.yml"]
    with subprocess.Popen(words, env=_ENVIRON, stdin=theirs, stdout=theirs, stderr=theirs) as child:
        os.close(theirs)
        seen = ""
        for question, answer in (("Kind", "schedule"), ("When", ""), ("Command", "uptime"), ("Random wait", "1m")):
            while question not in seen:
                assert select.select([ours], [], [], 60)[0], seen
                seen += os.read(ours, 4096).decode()
            seen = ""
            os.write(ours, f"{answer}\n".encode())
        assert child.wait(60) == 0
    os.close(ours)
    watch = watch_of(tmp_path / "watch.yml")
    assert (watch["schedule"], watch["splay"]) == ("0 3 * * *", 60)


@needs_accounts
def test_a_directory_of_another_account_is_refused(tmp_path: Path) -> None:
    """Whoever it belongs to could lead the file elsewhere, and could change it afterwards."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, pwd.getpwnam(STRANGER).pw_uid, -1)
    ended = jetp("init", "--schedule", "@daily", "--run", "true", theirs / "watch.yml", code=2)
    assert "another account can change it" in ended.stderr
    assert list(theirs.iterdir()) == []
