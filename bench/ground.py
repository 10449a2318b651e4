"""What the programs beside this file stand on: agents to measure, what /proc says of a process, tables and JSON.

Nothing here passes or fails. Rows are medians, with the smallest and the largest value beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
JETP = Path(sys.executable).with_name("jetp")
"""Of the environment that runs this. `make bench` makes one with what a user installs: what development needs is slower
to start (msgspec imports `typing_extensions` where it happens to be)."""
# An installed program is compiled; a process that may not keep bytecode compiles at every start.
ENVIRON = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
NOW = "date +%s%N"
"""A command that prints the time in nanoseconds: what is run where the first moment of a command is asked for."""

Row = dict[str, Any]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """`median (smallest to largest)`."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(title: str, rows: list[Row]) -> str:
    """One table for people, in Markdown."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"### {title}", "", "| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def tell(title: str, rows: list[Row], remarks: Sequence[str], json_path: Path | None) -> None:
    """Print the table, and what is to be known beside it; write JSON where asked."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    said = [*remarks, f"{os.cpu_count()} processors, load {load}, Python {sys.version.split()[0]}."]
    sys.stdout.write(table(title, rows) + "\n" + "\n".join(said) + "\n\n")
    if json_path is not None:
        json_path.write_text(json.dumps({"title": title, "rows": rows, "remarks": said}, indent=1) + "\n")


def options(description: str | None, **defaults: int) -> argparse.Namespace:
    """`--json FILE`, and a whole number for each of `defaults`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    return parser.parse_args()


def interleaved(rounds: int, programs: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Every program once per round, in rotating order; the first round only warms the caches up."""
    values: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        order = list(programs)
        turn = number % len(order)
        for name in order[turn:] + order[:turn]:
            value = programs[name]()
            if number > 0:
                values[name].append(value)
    return values


@contextmanager
def workplace(parent: str | None = None) -> Iterator[Path]:
    """A directory that is gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="jetwatch-bench-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def write_config(path: Path, document: Mapping[str, Any]) -> Path:
    """A watch.yml. JSON is YAML."""
    path.write_text(json.dumps(document))
    return path


@contextmanager
def process(argv: Sequence[str | Path], log: Path | None = None, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended afterwards, by TERM and then by KILL."""
    with (log or Path(os.devnull)).open("wb") as output:
        more = {"env": ENVIRON, **more}
        running = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **more)
        try:
            yield running
        finally:
            running.send_signal(signal.SIGTERM)
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def watch_argv(config: Path, state: Path, *more: str) -> list[str | Path]:
    """The command line of an agent."""
    return [JETP, "watch", "--watch-config", config, "--state-dir", state, *more]


def jetp(state: Path, *words: str) -> Any:
    """What `jetp … --json` says of a state directory."""
    done = subprocess.run(
        [JETP, *words, "--json", "--state-dir", state], env=ENVIRON, check=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout)


def until(condition: Callable[[], bool], within_s: float, pause_s: float = 0.05) -> bool:
    """Wait for `condition`. Returns whether it came."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(pause_s)
    return False


# -- what /proc says


def family(pid: int) -> list[int]:
    """The process and everything that descends from it."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):  # a thread that has ended
                waiting += [int(child) for child in task.read_text().split()]
    return found


def private_kb(pid: int) -> int:
    """USS: memory that would be free again if this process ended, in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))


def shared_kb(pid: int) -> int:
    """PSS: private memory and this process's part of the shared, in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def status_of(pid: int, name: str) -> int:
    """A number of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def wakeups(pid: int) -> int:
    """How often all threads of a process gave the processor back to wait: each was woken as often."""
    paths = Path(f"/proc/{pid}/task").glob("*/status")
    lines = [line for path in paths for line in path.read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def cpu_s(pid: int) -> tuple[float, float]:
    """CPU time of a process, and of its children that were waited for."""
    values = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    own, children = int(values[11]) + int(values[12]), int(values[13]) + int(values[14])
    return own / TICKS_PER_S, children / TICKS_PER_S


def agent_cpu_s(pid: int) -> tuple[float, float]:
    """CPU time of an agent, with that of its forker if it has one now, and of the commands that it waited for."""
    own, children = cpu_s(pid)
    return own + sum(cpu_s(one)[0] for one in forkers(pid)), children


def forkers(pid: int) -> list[int]:
    """The process, if there is one now, that forks on an agent's behalf."""
    return [one for one in family(pid) if name_of(one) == "jetwatch-forker"]


def name_of(pid: int) -> str:
    """What a process calls itself; nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def children_cpu_s() -> float:
    """CPU time of all children of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
