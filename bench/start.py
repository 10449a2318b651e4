"""Targets P3 and P4: how long it takes from nothing to the check, and from a due check to the play.

P3: from the start of `jetp watch --once --no-splay`, in a new state directory, to the first instruction of the check,
beside `ansible-pull --version`, which only starts. The check prints the time; its own start is in the figure.

P4: from the last instruction of a check that says due to the first of the play, with /usr/bin/true as download: two
supervisors are started and a dozen changes made durable. Once on a file system in memory, where a sync costs nothing,
and once where TMPDIR lies; what one sync takes there is printed beside.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from pathlib import Path

from ground import ENVIRON, JETP, NOW, Row, interleaved, options, spread, tell, watch_argv, workplace, write_config
from peers import Peers

MEMORY = "/dev/shm"  # noqa: S108 - a directory of its own is made there


def wall_ms(argv: list[str | Path]) -> float:
    """Milliseconds from the start of a program to its end."""
    started = time.monotonic()
    subprocess.run(argv, env=ENVIRON, check=True, stdout=subprocess.DEVNULL)
    return (time.monotonic() - started) * 1000


def to_the_check(parent: str | None) -> float:
    """P3, in milliseconds."""
    with workplace(parent) as work:
        stamp = work / "check"
        watch = {"check_command": {"shell": f"{NOW} > {stamp}; exit 1"}, "jet_command": "/usr/bin/true"}
        argv = watch_argv(write_config(work / "watch.yml", watch), work / "state", "--once", "--no-splay")
        started_ns = time.time_ns()
        subprocess.run(argv, env=ENVIRON, check=True, stdout=subprocess.DEVNULL)
        return (int(stamp.read_text()) - started_ns) / 1e6


def to_the_play(parent: str | None) -> float:
    """P4, in milliseconds."""
    with workplace(parent) as work:
        due, began = work / "due", work / "began"
        watch = {
            "check_command": {"shell": f"{NOW} > {due}"},
            "download_command": "/usr/bin/true",
            "jet_command": {"shell": f"{NOW} > {began}"},
        }
        argv = watch_argv(write_config(work / "watch.yml", watch), work / "state", "--once", "--no-splay")
        subprocess.run(argv, env=ENVIRON, check=True, stdout=subprocess.DEVNULL)
        return (int(began.read_text()) - int(due.read_text())) / 1e6


def sync_ms() -> float:
    """What it takes to add 4 KiB to a file and sync it, in milliseconds."""
    with workplace() as work, (work / "file").open("wb", buffering=0) as file:
        times = []
        for _ in range(20):
            file.write(b"x" * 4096)
            started = time.monotonic()
            os.fsync(file.fileno())
            times.append((time.monotonic() - started) * 1000)
        return statistics.median(times)


def main() -> None:
    """Interleave all."""
    chosen = options(__doc__, rounds=7)
    peers = Peers()
    pull = peers.of_pypi("ansible-core", "ansible-pull")
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    programs = {
        "P3 start to check": lambda: to_the_check(None),
        "P3 start to check, in memory": lambda: to_the_check(memory),
        "P4 due to play, in memory": lambda: to_the_play(memory),
        "P4 due to play": lambda: to_the_play(None),
        "one sync of 4 KiB": sync_ms,
        "jetp version": lambda: wall_ms([JETP, "version"]),
    }
    if pull is not None:
        programs["ansible-pull --version"] = lambda: wall_ms([pull, "--version"])
    values = interleaved(chosen.rounds, programs)
    rows: list[Row] = [{"what": name, "wall_ms": spread(each, 1)} for name, each in values.items()]
    remarks = peers.remarks()
    if pull is not None:
        ratio = statistics.median(values["P3 start to check"]) / statistics.median(values["ansible-pull --version"])
        remarks.append(f"From start to check is {ratio:.2f} times `ansible-pull --version`.")
    tell("P3 and P4 from start to check, from check to play", rows, remarks, chosen.json)


if __name__ == "__main__":
    main()
