"""What the tests of this room share: a workbench each, and nobody left running at its end."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # tests/ is no package, and waiting.py lies one directory up

from waiting import until  # noqa: E402
from workbench import Ended, Workbench, children  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """From Python 3.12 on os.fork() warns in a process with threads: become.py keeps its child to system calls."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"))


@pytest.fixture
def bench() -> Iterator[Workbench]:
    """A workbench that every user can pass through. A test that leaves a process running fails; it is ended."""
    with tempfile.TemporaryDirectory(prefix="jetwatch-") as root:
        Path(root).chmod(0o711)
        made = Workbench(Path(root), str(uuid.uuid4()))
        yield made
        made.close()
        _leave_nobody(made)


@pytest.fixture
def no_child_left() -> Iterator[None]:
    """A test after which this process has no child that it had not before, dead or alive.

    It need not be without any: servers of other tests may be children of the same worker.
    """
    before = {child.pid for child in children(os.getpid())}
    yield
    assert {child.pid for child in children(os.getpid())} <= before


def _leave_nobody(made: Workbench) -> None:
    try:
        until(lambda: not made.left_behind(), within_s=3.0)
    except AssertionError:
        left = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in made.left_behind()}
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        pytest.fail(f"left running: {left}")


@pytest.fixture(params=["check", "forked check", "step"])
def run(request: pytest.FixtureRequest, bench: Workbench) -> Callable[..., Ended]:
    """Runs a command to its end, in all ways in which the agent does."""
    ways = {"check": bench.as_check, "forked check": bench.as_forked_check, "step": bench.as_step}
    return ways[request.param]


@pytest.fixture(params=["check", "forked check", "step"])
def cancelled(request: pytest.FixtureRequest, bench: Workbench) -> Callable[..., Ended]:
    """Runs a command and cancels it, in all ways in which the agent does."""
    ways = {
        "check": bench.cancelled_check,
        "forked check": bench.cancelled_forked_check,
        "step": bench.cancelled_step,
    }
    return ways[request.param]


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A FIFO that lets a command wait for the test, or the test for a command."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    path.chmod(0o666)
    return path
