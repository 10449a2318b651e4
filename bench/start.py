"""Targets P3 and P4: how long it takes from nothing to the check, and from a due check to the play.

P3: from the start of `jetp watch --once --no-splay`, with the keys of a first watch.yml, to the check's first
instruction, in a new state directory (26 syncs make it) and in one that is there, beside `ansible-pull --version`,
which only starts. Wall time has the start of the check's shell in it, and whatever else the machine does; CPU time is
that of all threads until then.

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

from ground import (
    ENVIRON,
    JETP,
    NOW,
    Row,
    children_cpu_s,
    interleaved,
    options,
    spread,
    tell,
    watch_argv,
    workplace,
    write_config,
)
from peers import Peers

MEMORY = "/dev/shm"  # noqa: S108 - a directory of its own is made there
FIRST_KEYS = {
    "download_command": "/usr/bin/true {{ download_path }}",
    "jet_command": "/usr/bin/true {{ download_path }}/pb.yml",
    "on_ok": "/usr/bin/true {{ play_uuid }}",
    "on_fail": "/usr/bin/true {{ play_uuid }}",
}


class Spent:
    """CPU time, in milliseconds, beside the wall times of the same rounds; the first round warms up."""

    def __init__(self) -> None:
        self._ms: dict[str, list[float]] = {}

    def add(self, name: str, ms: float) -> None:
        """One more round."""
        self._ms.setdefault(name, []).append(ms)

    def of(self, name: str) -> list[float]:
        """All but the first."""
        return self._ms.get(name, [])[1:]


def wall_ms(argv: list[str | Path], name: str, spent: Spent) -> float:
    """Milliseconds from the start of a program to its end."""
    before, started = children_cpu_s(), time.monotonic()
    subprocess.run(argv, env=ENVIRON, check=True, stdout=subprocess.DEVNULL)
    taken = time.monotonic() - started
    spent.add(name, (children_cpu_s() - before) * 1000)
    return taken * 1000


def to_the_check(parent: str | None, name: str, spent: Spent, *, starts: int = 1) -> float:
    """P3, in milliseconds, of the last of so many starts. The lock of the state directory holds the agent's pid."""
    with workplace(parent) as work:
        stamp, cpu, state = work / "check", work / "cpu", work / "state"
        check = f"{NOW} > {stamp}; read pid start < {state}/lock; cat /proc/$pid/task/*/schedstat > {cpu}; exit 1"
        watch = {"check_command": {"shell": check}, **FIRST_KEYS}
        argv = watch_argv(write_config(work / "watch.yml", watch), state, "--once", "--no-splay")
        for _ in range(starts):
            started_ns = time.time_ns()
            subprocess.run(argv, env=ENVIRON, check=True, stdout=subprocess.DEVNULL)
        spent.add(name, sum(int(line.split()[0]) for line in cpu.read_text().splitlines()) / 1e6)
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
    spent = Spent()
    first, again, ram = "P3 start to check", "P3 start to check, the second time", "P3 start to check, in memory"
    other = "ansible-pull --version"
    programs = {
        first: lambda: to_the_check(None, first, spent),
        again: lambda: to_the_check(None, again, spent, starts=2),
        ram: lambda: to_the_check(memory, ram, spent),
        "P4 due to play, in memory": lambda: to_the_play(memory),
        "P4 due to play": lambda: to_the_play(None),
        "one sync of 4 KiB": sync_ms,
        "jetp version": lambda: wall_ms([JETP, "version"], "jetp version", spent),
    }
    if pull is not None:
        programs[other] = lambda: wall_ms([pull, "--version"], other, spent)
    values = interleaved(chosen.rounds, programs)
    rows: list[Row] = []
    for name, each in values.items():
        cpu = spent.of(name)
        rows.append({"what": name, "wall_ms": spread(each, 1), "cpu_ms": spread(cpu, 1) if cpu else ""})
    remarks = peers.remarks()
    if pull is not None:
        for name in (first, again, ram):
            wall = statistics.median(values[name]) / statistics.median(values[other])
            cpu_ratio = statistics.median(spent.of(name)) / statistics.median(spent.of(other))
            remarks.append(f"{name}: {wall:.2f} times `{other}` in wall time, {cpu_ratio:.2f} times in CPU time.")
    tell("P3 and P4 from start to check, from check to play", rows, remarks, chosen.json)


if __name__ == "__main__":
    main()
