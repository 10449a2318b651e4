"""A forker serves a busy agent and no other, makes the agent's own children, and can be lost at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from waiting import until
from workbench import MARK, Workbench

from jetwatch.process import tree
from jetwatch.process.forks import WORTH_FORKS, WORTH_WITHIN_S, Forks
from jetwatch.records import Ending

# Forks as it should, then ends before it can say whom.
_DIES_AFTER_THE_FORK = """
import os, sys
sys.path.insert(0, {program!r})
from jetwatch.process import forker
forker.socket.socket.send = lambda *_: os._exit(1)
forker.main()
"""
# Is told by the kernel that there is no such thing.
_IS_REFUSED = """
import ctypes, errno, sys
sys.path.insert(0, {program!r})
from jetwatch.process import forker
class Refusing:
    def syscall(*_):
        ctypes.set_errno(errno.EINVAL)
        return -1
forker._libc = Refusing()
forker.main()
"""
_AGENT = """
import os, signal, sys
from pathlib import Path
from jetwatch.process.forks import Forks
forks = Forks(Path(sys.argv[1]), sys.argv[2], worth_forks=1)
forks.ways()
print(forks.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def _is_gone(pid: int) -> bool:
    process = tree.look_up(pid)
    return process is None or process.is_dead


def _with_forker(bench: Workbench, folder: Path, program: str) -> Forks:
    """Whose forker is about to run this program."""
    (folder / "program").mkdir()
    (folder / "program" / "__main__.py").write_text(program.format(program=str(bench.program)))
    forks = Forks(folder / "program", f"{MARK}={bench.mark}", worth_forks=1, patience_s=60.0)
    forks.ways()
    return forks


def test_an_agent_that_checks_often_gets_one_and_keeps_it(bench: Workbench) -> None:
    """Not for the first checks, which would wait for it; from the thirtieth in a minute on."""
    forks = Forks(bench.program, f"{MARK}={bench.mark}")
    try:
        for _ in range(WORTH_FORKS - 1):
            forks.ways()
        assert forks.pid is None
        assert len(forks.ways()) == 1
        first = forks.pid
        assert first is not None
        assert len(forks.ways()) == 2
        assert forks.pid == first
    finally:
        forks.close()
    assert forks.pid is None


def test_an_agent_that_checks_seldom_never_gets_one(bench: Workbench) -> None:
    """A forker's memory is there for good, what it saves comes with each check."""
    time_s = iter(range(0, 100_000, round(WORTH_WITHIN_S / WORTH_FORKS) + 1))
    forks = Forks(bench.program, f"{MARK}={bench.mark}", now_s=lambda: float(next(time_s)))
    for _ in range(1000):
        assert len(forks.ways()) == 1
    assert forks.pid is None


def test_who_is_closed_starts_no_other(bench: Workbench) -> None:
    """A worker that is still on its way when the agent stops forks itself."""
    forks = Forks(bench.program, f"{MARK}={bench.mark}", worth_forks=1)
    forks.close()
    forks.ways()
    assert forks.pid is None


def test_what_it_forks_is_the_agents_child(bench: Workbench) -> None:
    """Nobody else can wait for it, and a check sees the agent as its parent, as ever."""
    assert bench.as_forked_check("echo $PPID").output == b"%d\n" % os.getpid()


def test_its_name_says_what_it_is(bench: Workbench) -> None:
    """Who reads a list of processes need not guess."""
    bench.as_forked_check("true")
    assert tree.name_of(bench.forks.pid or 0) == "jetwatch-forker"


def test_many_ask_at_once(bench: Workbench) -> None:
    """Each of twenty threads is given its own child."""
    codes: dict[int, int | None] = {}

    def check(code: int) -> None:
        codes[code] = bench.as_forked_check(f"exit {code}").result.exit_code

    bench.as_forked_check("true")
    threads = [threading.Thread(target=check, args=(code,)) for code in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {code: code for code in range(20)}


@pytest.mark.usefixtures("no_child_left")
def test_a_check_outlives_its_forker_and_is_told_right(bench: Workbench, fifo: Path) -> None:
    """The one that runs ends as it would have, the next one is forked by the agent, later ones by another forker."""
    forks = bench.forks
    lost = forks.pid
    assert lost is not None

    def kill() -> None:
        with fifo.open("w"):  # opened by both sides: the command runs
            os.kill(lost, signal.SIGKILL)
            until(lambda: _is_gone(lost))

    killer = threading.Thread(target=kill)
    killer.start()
    ended = bench.as_check(f"cat {fifo}; exit 7", forks=forks)
    killer.join()
    assert (ended.result.ending, ended.result.exit_code) == (Ending.EXITED, 7)
    assert bench.as_check("exit 8", forks=forks).result.exit_code == 8
    assert forks.pid is None
    assert bench.as_check("exit 9", forks=forks).result.exit_code == 9
    assert forks.pid not in (None, lost)
    assert bench.as_forked_check("exit 10").result.exit_code == 10
    bench.close()


def test_one_that_says_nothing_is_ended(bench: Workbench) -> None:
    """A check waits for it only so long; then it is gone, and the check is forked by the agent."""
    forks = Forks(bench.program, f"{MARK}={bench.mark}", worth_forks=1, patience_s=0.3)
    forks.ways()
    stopped = forks.pid
    assert stopped is not None
    os.kill(stopped, signal.SIGSTOP)
    assert bench.as_check("exit 5", forks=forks).result.exit_code == 5
    assert forks.pid is None
    assert _is_gone(stopped)


def test_nothing_runs_twice_when_it_is_lost_after_the_fork(bench: Workbench, tmp_path: Path) -> None:
    """The child that nobody was told of finds its gate shut; the one that the agent makes in its place runs."""
    forks = _with_forker(bench, tmp_path, _DIES_AFTER_THE_FORK)
    effects = tmp_path / "effects"
    assert bench.as_check(f"echo once >> {effects}; exit 3", forks=forks).result.exit_code == 3
    assert forks.pid is None
    assert effects.read_text() == "once\n"
    os.waitpid(-1, 0)  # the one at the gate: nobody knows its number


def test_it_ends_with_its_agent(bench: Workbench) -> None:
    """Also with one that is killed."""
    agent = subprocess.run(
        [sys.executable, "-c", _AGENT, bench.program, f"{MARK}={bench.mark}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert agent.returncode == -signal.SIGKILL, agent.stderr
    until(lambda: _is_gone(int(agent.stdout)))


def test_an_environment_that_fits_no_message_is_no_obstacle(bench: Workbench) -> None:
    """The agent forks itself, and the forker stays."""
    assert bench.as_forked_check("echo ${#LONG}", env={"LONG": "x" * 100_000}).output == b"100000\n"


def test_bytes_that_are_no_utf8_pass_through_it(bench: Workbench) -> None:
    """Words and environment arrive as they were."""
    odd = os.fsdecode(b"\xff\xfe")
    ended = bench.as_forked_check(("/bin/sh", "-c", 'printf %s "$0$ODD"', odd), env={"ODD": odd})
    assert ended.output == b"\xff\xfe\xff\xfe"


def test_where_the_kernel_refuses_it_the_agent_forks_itself(bench: Workbench, tmp_path: Path) -> None:
    """A sandbox that knows no such call costs no check; no other forker is tried there."""
    forks = _with_forker(bench, tmp_path, _IS_REFUSED)
    for code in range(5):
        assert bench.as_check(f"exit {code}", forks=forks).result.exit_code == code
        assert forks.pid is None
