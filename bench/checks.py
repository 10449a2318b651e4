"""Target P2: the CPU time of one check of /usr/bin/false, all in, beside other ways to run it.

Fifty watches in one agent, each checked once a second (the shortest interval); `false` is /usr/bin/true with the answer
"not due", which opens no run. Counted is what the agent, its forker and all its checks used between two moments (utime
and stime, from /proc), over the number of checks in it. Two agents: one with the defaults of `jetp watch`, which tell
nothing of such a check (fifty a second are reckoned; what it says of its checks when it ends confirms that), and one
that tells each at level debug. The others run the same command as often as they can, and are counted in the same way;
one of them at the agents' pace, since whoever sleeps between two commands finds the processor's caches cold.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from ground import (
    ENVIRON,
    Row,
    agent_cpu_s,
    children_cpu_s,
    interleaved,
    options,
    process,
    spread,
    tell,
    until,
    watch_argv,
    workplace,
    write_config,
)

WATCHES = 50
OTHERS = 200
SECONDS = 5
COMMAND = "/usr/bin/false"
SUBPROCESS = f"import subprocess\nfor _ in range({OTHERS}): subprocess.run(['{COMMAND}'])"
PACED = f"import subprocess, time\nfor _ in range({OTHERS}): subprocess.run(['{COMMAND}']); time.sleep({1 / WATCHES})"
SPAWN = f"import os\nfor _ in range({OTHERS}): os.waitpid(os.posix_spawn('{COMMAND}', ['{COMMAND}'], os.environ), 0)"
FORK = f"""
import os
for _ in range({OTHERS}):
    pid = os.fork()
    if not pid:
        os.execv('{COMMAND}', ['{COMMAND}'])
    os.waitpid(pid, 0)
"""
IMPORTS = "import jetwatch.agent, jetwatch.config.load, jetwatch.process.hold\n"
LOOP = f"i=0; while [ $i -lt {OTHERS} ]; do {COMMAND}; i=$((i+1)); done"


def cpu_of(argv: list[str]) -> float:
    """Seconds of CPU that a program and everything it started used."""
    before = children_cpu_s()
    subprocess.run(argv, env=ENVIRON, check=False)
    return children_cpu_s() - before


def python(text: str, setup: str = "") -> float:
    """Milliseconds of CPU for one command that Python starts, without the start and the imports of that Python."""
    whole = cpu_of([sys.executable, "-c", setup + text])
    alone = cpu_of([sys.executable, "-c", setup + text.replace(str(OTHERS), "0")])
    return (whole - alone) / OTHERS * 1000


def loop() -> float:
    """The same for a loop of the shell."""
    return cpu_of(["sh", "-c", LOOP]) / OTHERS * 1000


class Agent:
    """One agent with its watches, at work only while it is measured."""

    def __init__(self, work: Path, *, told: bool) -> None:
        watch = {"check_command": COMMAND, "jet_command": "/usr/bin/true", "check_interval": 1, "splay": 1}
        config = write_config(work / "watch.yml", {"watches": {f"w{number}": watch for number in range(WATCHES)}})
        more = ("--log-level", "debug") if told else ()
        self.argv = watch_argv(config, work / f"state-{told}", "--log-format", "json", *more)
        self.log = work / f"log-{told}"
        self.own_ms: list[float] = []
        self.children_ms: list[float] = []
        self._told = told

    def begin(self, running: subprocess.Popen[bytes]) -> None:
        """From now on `measure` lets it work."""
        self._running = running
        if not until(lambda: b"agent_started" in self.log.read_bytes(), 60):
            raise SystemExit(f"no agent: {self.log.read_text()[-2000:]}")
        time.sleep(4)  # the first checks, and the start of a forker
        running.send_signal(signal.SIGSTOP)

    def measure(self) -> float:
        """Milliseconds of CPU for one check."""
        self._running.send_signal(signal.SIGCONT)
        time.sleep(2)  # what was missed while it stood still is over
        try:
            return self._measure()
        finally:
            self._running.send_signal(signal.SIGSTOP)

    def _measure(self) -> float:
        checks, (own, children) = self._checks(), agent_cpu_s(self._running.pid)
        time.sleep(SECONDS)
        checks, (own_then, children_then) = self._checks() - checks, agent_cpu_s(self._running.pid)
        if checks < SECONDS * WATCHES * 0.9:
            raise SystemExit(f"{checks} checks within {SECONDS} s: the machine is too busy to measure")
        self.own_ms.append((own_then - own) / checks * 1000)
        self.children_ms.append((children_then - children) / checks * 1000)
        return self.own_ms[-1] + self.children_ms[-1]

    def _checks(self) -> float:
        """How many were told so far, or how many a clock says that there were."""
        return self.log.read_bytes().count(b'"check_finished"') if self._told else time.monotonic() * WATCHES

    def all_checks(self) -> int:
        """How many there were in its whole life, in its own words at its end."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if '"checks_folded"' in line]
        return sum(line["count"] for line in lines)


def main() -> None:
    """Interleave all."""
    chosen = options(__doc__, rounds=5)
    with workplace() as work:
        silent, told = Agent(work, told=False), Agent(work, told=True)
        with process(silent.argv, silent.log) as first, process(told.argv, told.log) as second:
            silent.begin(first)
            told.begin(second)
            values = interleaved(
                chosen.rounds,
                {
                    "subprocess.run": lambda: python(SUBPROCESS),
                    "subprocess.run, fifty a second": lambda: python(PACED),
                    "jetp watch": silent.measure,
                    "jetp watch, each check told": told.measure,
                    "posix_spawn": lambda: python(SPAWN),
                    "fork and exec, small Python": lambda: python(FORK),
                    "fork and exec, Python as large as the agent": lambda: python(FORK, IMPORTS),
                    "sh loop": loop,
                },
            )
            for running in (first, second):
                running.send_signal(signal.SIGCONT)
        counted = silent.all_checks()
    base = statistics.median(values["subprocess.run"])
    paced = statistics.median(values["subprocess.run, fifty a second"])
    rows: list[Row] = [
        {
            "what": name,
            "cpu_ms": spread(each),
            "to_subprocess": round(statistics.median(each) / base, 2),
            "to_paced": round(statistics.median(each) / paced, 2),
        }
        for name, each in values.items()
    ]
    for row, agent in ((rows[2], silent), (rows[3], told)):
        row |= {"own_ms": spread(agent.own_ms[1:]), "children_ms": spread(agent.children_ms[1:])}
    expected = round(((chosen.rounds + 1) * (SECONDS + 2) + 4) * WATCHES)
    remark = f"The agent that told nothing of its checks counted {counted} in all; fifty a second are {expected}."
    tell("P2 CPU time of one check", rows, [remark], chosen.json)


if __name__ == "__main__":
    main()
