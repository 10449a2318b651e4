"""Target P6: what grows with the number of watches in one agent.

`kb_per_watch` is private memory beyond that of an agent with one watch, while all wait for a check that is far away.
`own_cpu_ms` and `cpu_ms` are what one check costs the agent, and the agent and its command together, with each watch
checked once in ten seconds; where checks come so often that it has a forker, that one is counted with it. `late_ms` is
how far a check began behind its grid: the median, and `late_p99_ms` that which one of a hundred is beyond.
"""

from __future__ import annotations

import json
import statistics
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from ground import (
    Row,
    agent_cpu_s,
    forkers,
    options,
    private_kb,
    process,
    status_of,
    tell,
    until,
    watch_argv,
    workplace,
    write_config,
)

SIZES = (1, 10, 100, 1000)
INTERVAL_S = 10
COMMAND = "/usr/bin/false"


def config(watches: int, **keys: Any) -> dict[str, Any]:
    """So many watches of the same kind."""
    watch = {"check_command": COMMAND, "jet_command": "/usr/bin/true", **keys}
    return {"watches": {f"w{number}": watch for number in range(watches)}}


def waiting_kb(watches: int) -> tuple[int, int]:
    """Private memory and threads of an agent whose watches all wait for their first check."""
    with workplace() as work:
        document = config(watches, check_interval=86_400, splay=86_400)
        argv = watch_argv(write_config(work / "watch.yml", document), work / "state", "--log-format", "json")
        with process(argv, work / "log") as agent:
            if not until(lambda: "agent_started" in (work / "log").read_text(), 60):
                raise SystemExit((work / "log").read_text())
            time.sleep(4)  # what a worker lingers, and more
            return private_kb(agent.pid), status_of(agent.pid, "Threads")


def late_ms(lines: list[dict[str, Any]]) -> list[float]:
    """How far each check began behind the earliest place on its watch's grid, in milliseconds."""
    began: dict[str, list[float]] = {}
    for line in lines:
        at_s = datetime.fromisoformat(line["timestamp"]).timestamp() - line.get("duration_s", 0.0)
        began.setdefault(line["watch"], []).append(at_s)
    late: list[float] = []
    for times in began.values():
        places = [at_s % INTERVAL_S for at_s in times]
        origin = min(places, key=lambda place: sum((other - place) % INTERVAL_S for other in places))
        late += [((place - origin) % INTERVAL_S) * 1000 for place in places]
    return sorted(late)


def working(watches: int, seconds: int) -> Row:
    """CPU time of a check and its lateness, with each watch checked once in ten seconds."""
    with workplace() as work:
        document = config(watches, check_interval=INTERVAL_S, splay=INTERVAL_S)
        argv = watch_argv(write_config(work / "watch.yml", document), work / "state")
        log = work / "log"
        with process([*argv, "--log-format", "json", "--log-level", "debug"], log) as agent:
            time.sleep(INTERVAL_S + 5)
            before, (own, children) = len(checks_in(log)), agent_cpu_s(agent.pid)
            time.sleep(seconds)
            lines, (own_then, children_then) = checks_in(log)[before:], agent_cpu_s(agent.pid)
            threads = status_of(agent.pid, "Threads")
            forker_kb = sum(private_kb(one) for one in forkers(agent.pid))
        late = late_ms(lines)
        own_ms = (own_then - own) * 1000 / len(lines)
        return {
            "checks": len(lines),
            "own_cpu_ms": round(own_ms, 2),
            "cpu_ms": round(own_ms + (children_then - children) * 1000 / len(lines), 2),
            "late_ms": round(statistics.median(late), 1),
            "late_p99_ms": round(late[len(late) * 99 // 100], 1),
            "threads_at_work": threads,
            "forker_mb": round(forker_kb / 1024, 1) if forker_kb else "",
        }


def checks_in(log: Path) -> list[dict[str, Any]]:
    """The lines of checks that are over."""
    whole = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in whole if '"check_finished"' in line]


def main() -> None:
    """One agent after the other."""
    chosen = options(__doc__, seconds=40)
    waiting_kb(1)  # compiles
    rows: list[Row] = []
    first_kb = 0
    for size in SIZES:
        kb, threads = waiting_kb(size)
        first_kb = first_kb or kb
        row: Row = {"watches": size, "private_mb": round(kb / 1024, 1), "threads_waiting": threads}
        row["kb_per_watch"] = round((kb - first_kb) / (size - 1), 1) if size > 1 else ""
        rows.append(row | working(size, chosen.seconds))
    tell("P6 many watches in one agent", rows, [], chosen.json)


if __name__ == "__main__":
    main()
