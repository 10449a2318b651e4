"""The demo's unhappy ends: whatever happens, it says so and leaves nothing behind (`make demo` shows the happy one)."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from script_runner import CONTRIB
from servers import program

pytestmark = pytest.mark.slow


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory for all that the demo makes; with a short name, because it holds sockets."""
    with tempfile.TemporaryDirectory(prefix="jw-") as directory:
        yield Path(directory)


@contextlib.contextmanager
def demo_in(contrib: Path, temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the demo of a contrib tree."""
    program("weed")
    with subprocess.Popen(
        [sys.executable, contrib / "demo" / "run.py"],
        env=os.environ | {"TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def processes_that_name(directory: Path) -> list[str]:
    """The command lines of living processes in which a directory stands."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(directory) in words:
                found.append(words)
    return found


def test_a_play_that_fails_is_told_with_the_log(temporary: Path, tmp_path: Path) -> None:
    """The exit code is 1, the sentence names the step, and the end of the log is there."""
    contrib = tmp_path / "contrib"
    shutil.copytree(CONTRIB, contrib)
    (contrib / "demo" / "content" / "pb.yml").write_text("- hosts: all\n  roles: [missing]\n")
    with demo_in(contrib, temporary) as process:
        told, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "The demo failed: the run ended with failed in play" in told
    assert '"event": "run_finished"' in told
    assert list(temporary.iterdir()) == []
    assert processes_that_name(temporary) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(temporary: Path, number: signal.Signals) -> None:
    """In the middle of the play: the play is cancelled, agent and server are gone, and so is the directory."""
    with demo_in(CONTRIB, temporary) as process:
        assert process.stdout is not None
        before = []
        for line in process.stdout:
            before.append(line)
            if line.startswith("   download  ok"):
                break
        process.send_signal(number)
        rest = process.stdout.read()
        assert process.wait(60) == 130, "".join(before) + rest
    assert "Interrupted" in rest
    assert list(temporary.iterdir()) == []
    assert processes_that_name(temporary) == []
