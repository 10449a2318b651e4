"""Target P2: the CPU time of one check of /usr/bin/false, all in, beside other ways to run it.

Fifty watches in one agent, each checked once a second (the shortest interval); `false` is /usr/bin/true with the answer
"not due", which opens no run. Counted is what the agent and all its checks used between two moments (utime and stime of
both, from /proc), over the number of checks in it. The others run the same command as often as they can, and are
counted in the same way.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from ground import (
    ENVIRON,
    Row,
    children_cpu_s,
    cpu_s,
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
    """One agent with its watches, counted from one moment to the next."""

    def __init__(self, pid: int, log: Path) -> None:
        self._pid, self._log = pid, log
        self.own_ms: list[float] = []
        self.children_ms: list[float] = []

    def checks(self) -> int:
        """How many checks are over."""
        return self._log.read_bytes().count(b'"check_finished"')

    def measure(self) -> float:
        """Milliseconds of CPU for one check; it works on while the others are measured, too."""
        checks, (own, children) = self.checks(), cpu_s(self._pid)
        time.sleep(SECONDS)
        checks, (own_then, children_then) = self.checks() - checks, cpu_s(self._pid)
        if checks == 0:
            raise SystemExit(f"no check was over within {SECONDS} s: {self._log.read_text()[-2000:]}")
        self.own_ms.append((own_then - own) / checks * 1000)
        self.children_ms.append((children_then - children) / checks * 1000)
        return self.own_ms[-1] + self.children_ms[-1]


def main() -> None:
    """Interleave all; the agent works only while it is measured."""
    chosen = options(__doc__, rounds=5)
    watch = {"check_command": COMMAND, "jet_command": "/usr/bin/true", "check_interval": 1, "splay": 1}
    config = {"watches": {f"w{number}": watch for number in range(WATCHES)}}
    with workplace() as work:
        argv = watch_argv(
            write_config(work / "watch.yml", config), work / "state", "--log-format", "json", "--log-level", "debug"
        )
        log = work / "log"
        with process(argv, log) as running:
            agent = Agent(running.pid, log)
            until(lambda: agent.checks() > WATCHES, 60)

            def measured_agent() -> float:
                running.send_signal(signal.SIGCONT)
                time.sleep(2)  # what was missed while it stood still is over
                try:
                    return agent.measure()
                finally:
                    running.send_signal(signal.SIGSTOP)

            running.send_signal(signal.SIGSTOP)
            values = interleaved(
                chosen.rounds,
                {
                    "subprocess.run": lambda: python(SUBPROCESS),
                    "jetp watch": measured_agent,
                    "posix_spawn": lambda: python(SPAWN),
                    "fork and exec, small Python": lambda: python(FORK),
                    "fork and exec, Python as large as the agent": lambda: python(FORK, IMPORTS),
                    "sh loop": loop,
                },
            )
            running.send_signal(signal.SIGCONT)
    base = statistics.median(values["subprocess.run"])
    rows: list[Row] = [
        {"what": name, "cpu_ms": spread(each), "to_subprocess": round(statistics.median(each) / base, 2)}
        for name, each in values.items()
    ]
    rows[1] |= {"own_ms": spread(agent.own_ms[1:]), "children_ms": spread(agent.children_ms[1:])}
    tell("P2 CPU time of one check", rows, ["With each check told at level debug."], chosen.json)


if __name__ == "__main__":
    main()
