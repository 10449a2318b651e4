"""R4: the disk is full, has no inodes, or fails at a system call. Nothing is lost, and the agent goes on by itself.

A third of the dose each: a disk in memory that a runaway writer fills for a while, the same with its inodes, and one
call of agent or supervisor (write, sync, rename, …) that fails as strace is told to.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable

import paths  # noqa: F401
from agent_process import until
from disks import Filling, small_disk, why_no_mount
from ground import Ground
from oracle import judge
from row import Dose, NotHere, Row

CALLS = ("pwrite64", "fdatasync", "fsync", "ftruncate", "fallocate", "rename", "unlink", "mkdir")
ERRORS = ("EIO", "ENOSPC", "EROFS")
NO_RESERVE = {"bytes": 0, "inodes": 0}
PATIENCE_S = 120.0
LAST_CALL = 40


def torture(dose: Dose) -> str:
    """Full disks first, then calls that fail."""
    if why_no_mount() is not None:
        raise NotHere(str(why_no_mount()))
    if shutil.which("strace") is None:
        raise NotHere("strace is not installed")
    third = dose.count // 3
    full = _fill(dose, third, Filling.fill, inodes=20_000)
    bare = _fill(dose, third, Filling.take_inodes, inodes=3_000)
    failing = _fail(dose, dose.count - 2 * third)
    return f"full disk: {full}; no inodes: {bare}; calls that fail: {failing}; no record lost, no effect twice"


def _fill(dose: Dose, count: int, take: Callable[[Filling], None], *, inodes: int) -> str:
    """One agent at work; again and again somebody takes all there is, all the time, and then gives it back."""
    recovered_s = []
    with Ground() as ground, small_disk(ground.root / "disk", size="64m", inodes=inodes) as disk:
        try:
            ground.state = disk / "state"
            ground.configure_watches(disk_reserve=NO_RESERVE, retain={"runs": 20})
            agent = ground.launch()
            _next_end_s(ground)
            filling = Filling(disk)
            for _ in range(count):
                time.sleep(dose.random.uniform(0.0, 1.0))  # the instant is the point
                _keep_taking(filling, take, for_s=dose.random.uniform(0.1, 2.5))
                filling.empty()
                recovered_s.append(_next_end_s(ground))
                assert agent.poll() is None, f"the agent ended: {ground.errors.read_text()}"
            agent.terminate()
            code = agent.wait(timeout=60)
            assert code == 0, f"the agent left with {code}: {ground.errors.read_text()}"
            ground.settle()
            outcomes = judge(ground)
            said = Counter(line["event"] for line in ground.told("disk_low", "journal_stalled"))
        finally:
            ground.end()
    return (
        f"{count} times, runs {dict(outcomes)}, said {dict(said)}, the next run had ended "
        f"{statistics.median(recovered_s):.1f} s (median) after there was room, at most {max(recovered_s):.1f} s"
    )


def _keep_taking(filling: Filling, take: Callable[[Filling], None], *, for_s: float) -> None:
    deadline = time.monotonic() + for_s
    while time.monotonic() < deadline:
        take(filling)
        time.sleep(0.02)


def _next_end_s(ground: Ground) -> float:
    """Seconds until a run ends ok that was not told of before."""
    began_s = time.monotonic()
    before = ground.log.read_bytes().count(b'"outcome": "ok"')
    until(lambda: ground.log.read_bytes().count(b'"outcome": "ok"') > before, PATIENCE_S)
    return time.monotonic() - began_s


def _fail(dose: Dose, count: int) -> str:
    """One cycle of an agent after the other, in each of which a call fails: the Nth of every process and thread."""
    cases = list(itertools.product(CALLS, ERRORS, range(1, LAST_CALL + 1)))
    dose.random.shuffle(cases)
    codes: Counter[int] = Counter()
    still_trying = 0
    with Ground() as ground:
        ground.configure_watches(["red"])
        for call, error, number in itertools.islice(itertools.cycle(cases), count):
            last = number + dose.random.randrange(4)
            inject = f"inject={call}:error={error}:when={number}..{last}"
            before = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
            agent = ground.launch("--once", before=before)
            if not _ends_or_says_why(ground, agent):
                still_trying += 1  # each thread that it starts meets the fault anew: this disk never gets better
                # Not the tracer, which lets no signal end it.
                os.kill(ground.told("agent_started")[-1]["pid"], signal.SIGTERM)
            try:
                codes[agent.wait(timeout=PATIENCE_S)] += 1
            except subprocess.TimeoutExpired:
                raise AssertionError(f"an agent did not end in which {call} {number}..{last} gave {error}") from None
        ground.settle()
        outcomes = judge(ground)
    stopped = f"{still_trying} of them still trying when they were stopped"
    return f"{count} cycles, {stopped}, runs {dict(outcomes)}, exit codes {dict(codes)}"


def _ends_or_says_why(ground: Ground, agent: subprocess.Popen[bytes]) -> bool:
    """Wait until the agent has ended (True), or has said for the fourth time why a command cannot be started."""
    before = len(ground.told("step_deferred"))
    until(lambda: agent.poll() is not None or len(ground.told("step_deferred")) >= before + 4, PATIENCE_S)
    return agent.poll() is not None


ROW = Row(
    "R4", "a disk that is full or fails loses no record, and the agent goes on by itself", torture, count=450, small=12
)

if __name__ == "__main__":
    ROW.main()
