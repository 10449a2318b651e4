"""Target P5: what it takes to take in the output of a command that writes 1 GiB.

The play of one run writes zeroes with head(1). Beside it the same command into a bare read loop of 1 MiB in Python,
which keeps nothing. `agent_mb` and `supervisor_mb` are the most that each ever had resident, `kept_mb` is what lies on
disk afterwards (the cap is 16 MiB).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from pathlib import Path

from ground import (
    Row,
    interleaved,
    jetp,
    options,
    process,
    spread,
    status_of,
    tell,
    watch_argv,
    workplace,
    write_config,
)

MEBIBYTES = 1024
WRITER = ["/usr/bin/head", "--bytes=1G", "/dev/zero"]


def bare() -> float:
    """MiB per second of a loop that only reads."""
    started = time.monotonic()
    with subprocess.Popen(WRITER, stdout=subprocess.PIPE, bufsize=0) as command:
        pipe = command.stdout
        assert pipe is not None  # noqa: S101 - it was asked for
        while os.read(pipe.fileno(), 1024**2):
            continue
    return MEBIBYTES / (time.monotonic() - started)


def supervisors(state: Path) -> list[int]:
    """Who runs out of this state directory: nobody's children, so found by what they were started with."""
    mark = os.fsencode(state / "shim")
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


class Runs:
    """Runs of the agent, one per call, and the memory that they took."""

    def __init__(self) -> None:
        self.agent_mb: list[float] = []
        self.supervisor_mb: list[float] = []
        self.kept_mb: list[float] = []

    def once(self) -> float:
        """MiB per second, from the command's start to its end as its supervisor counted it."""
        with workplace() as work:
            watch = {"check_command": "/usr/bin/true", "jet_command": WRITER, "check_interval": 3600}
            argv = watch_argv(write_config(work / "watch.yml", watch), work / "state", "--once", "--no-splay")
            agent_kb = supervisor_kb = 0
            with process(argv, work / "log") as agent:
                while agent.poll() is None:
                    agent_kb = max(agent_kb, _peak_kb(agent.pid))
                    supervisor_kb = max([supervisor_kb, *map(_peak_kb, supervisors(work / "state"))])
                    time.sleep(0.05)
            play = jetp(work / "state", "show")["steps"][-1]
            if play["output_bytes"] != MEBIBYTES * 1024**2:
                raise SystemExit(f"not all of the output came: {play}")
            self.agent_mb.append(agent_kb / 1024)
            self.supervisor_mb.append(supervisor_kb / 1024)
            kept = sum(path.stat().st_size for path in (work / "state/runs").rglob("*") if path.is_file())
            self.kept_mb.append(kept / 1024**2)
            return MEBIBYTES / play["duration_s"]


def _peak_kb(pid: int) -> int:
    try:
        return status_of(pid, "VmHWM")
    except (OSError, StopIteration):  # it has ended meanwhile
        return 0


def main() -> None:
    """The agent and the bare loop in turn."""
    chosen = options(__doc__, rounds=3)
    runs = Runs()
    speeds = interleaved(chosen.rounds, {"a bare read loop": bare, "jetp watch": runs.once})
    rows: list[Row] = [{"what": name, "mib_per_s": spread(values, 0)} for name, values in speeds.items()]
    rows[1] |= {
        "agent_mb": spread(runs.agent_mb, 1),
        "supervisor_mb": spread(runs.supervisor_mb, 1),
        "kept_mb": spread(runs.kept_mb, 1),
    }
    ratio = statistics.median(speeds["jetp watch"]) / statistics.median(speeds["a bare read loop"])
    tell("P5 output of one command, 1 GiB", rows, [f"jetp watch reads {ratio:.2f} times as fast."], chosen.json)


if __name__ == "__main__":
    main()
