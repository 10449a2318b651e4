"""R6: processes that do not want to end, in plays that are timed out or cancelled: nobody may be left.

The trees are those of `../process/scripts/hostile.py`: they double-fork, change their session, ignore TERM, hold the
pipe, fill it, close it, clear their environment, stop themselves, fork without end, alone and together. Each process
writes down who it is before it goes on; whoever of them lives after its run has ended is a survivor. Tried with a
cgroup for each command and without any.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

import paths  # noqa: F401
from agent_process import AgentProcess
from ground import Ground
from row import Dose, NotHere, Row

HOSTILE = Path(__file__).resolve().parent.parent / "process" / "scripts" / "hostile.py"
KINDS = (
    "stay",
    "session",
    "daemon",
    "cleared",
    "cleared_daemon",
    "stopped",
    "threaded",
    "swarm",
    "flood",
    "silent",
)
AT_ONCE = 6
TIMEOUTS_A_ROUND = 20
WITHOUT_CGROUPS = 'for point in $0; do umount -l "$point" || exit 1; done; exec "$@"'


def torture(dose: Dose) -> str:
    """Half of the trees with a cgroup, where the machine has them, half without."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        raise NotHere("only root can hide the cgroups in a mount namespace")
    here, without = _place(()), _hidden()
    assert _place(without) == "none"
    halves = [("without a cgroup", without)]
    if here != "none":
        halves.append((f"with one ({here})", ()))
    said = []
    for name, before in halves:
        ended, processes = _trees(dose, dose.count // len(halves), before)
        said.append(f"{ended['timeout']} timed out and {ended['cancelled']} cancelled {name}, {processes} processes")
    return f"trees {', '.join(said)}: 0 survivors"


def _hidden() -> tuple[str, ...]:
    """The words that start a program where no cgroups of version 2 are mounted."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    points = " ".join(words[4] for words in mounts if words[words.index("-") + 1] == "cgroup2")
    return ("unshare", "--mount", "sh", "-c", WITHOUT_CGROUPS, points)


def _place(before: tuple[str, ...]) -> str:
    """What an agent says about cgroups: v2, hybrid, none."""
    with Ground() as ground:
        ground.configure_watches(["red"], check_command="false")
        agent = ground.start(None, "--once", "--no-splay", before=before)
        found = agent.wait_for("agent_started")["cgroup"]
        agent.wait()
    return str(found)


def _trees(dose: Dose, count: int, before: tuple[str, ...]) -> tuple[Counter[str], int]:
    """How many plays ended how, and how many processes they had. Raises AssertionError for a survivor."""
    ended: Counter[str] = Counter()
    processes = 0
    for number in itertools.count():
        if ended.total() >= count:
            return ended, processes
        more, had = _round(dose, before, timed_out=number % 2 == 0, at_most=count - ended.total())
        ended += more
        processes += had
        dose.say(f"{dict(ended)} of {count}, {processes} processes")
    raise AssertionError


def _round(dose: Dose, before: tuple[str, ...], *, timed_out: bool, at_most: int) -> tuple[Counter[str], int]:
    """One life of an agent: some plays run into their timeout, those that are left at the end are cancelled."""
    groups = [(kind,) for kind in KINDS] + [dose.random.sample(KINDS, dose.random.randint(2, 4)) for _ in range(6)]
    dose.random.shuffle(groups)
    with Ground() as ground:
        register = ground.root / "register"
        register.touch()
        play = f"exec {sys.executable} -I -S {HOSTILE} {register} $(echo $JETWATCH_WATCH | tr - ' ')"
        ground.configure_watches(
            list(dict.fromkeys("-".join(group) for group in groups)),
            download_command="true",
            jet_command=str(ground.script("play", play)),
            on_done="true",
            timeouts={"play": "1s" if timed_out else "60s", "grace": "0.2s"},
        )
        ground.config.write_text(f"max_runs: {AT_ONCE}\n{ground.config.read_text()}")
        agent = ground.start(None, "--no-splay", before=before)
        if timed_out:
            agent.wait_for("run_finished", nth=min(TIMEOUTS_A_ROUND, at_most), outcome="timeout", within_s=300)
        else:
            agent.wait_for("step_started", nth=min(AT_ONCE, at_most), step="play", within_s=300)
        _cancel_what_is_open(agent)
        ended = Counter(line["outcome"] for line in agent.told("run_finished") if line.get("failed_step") == "play")
        assert set(ended) <= {"timeout", "cancelled"}, ended
        everybody = {tuple(map(int, line.split())) for line in register.read_text().splitlines()}
        survivors = [pid for pid, ticks in everybody if _lives(pid, ticks)]
        assert not survivors, f"{[Path(f'/proc/{pid}/stat').read_text() for pid in survivors]}"
        assert "blocked" not in {line["event"] for line in agent.lines}, agent.story()
    return ended, len(everybody)


def _cancel_what_is_open(agent: AgentProcess) -> None:
    """A second INT cancels what the first one waits for."""
    agent.send(signal.SIGINT)
    agent.wait_for("agent_stopping", mode="wait")
    agent.send(signal.SIGINT)
    assert agent.wait(within_s=120) == 0, agent.story()


def _lives(pid: int, start_ticks: int) -> bool:
    """Whether this very process does; a zombie does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[19]) == start_ticks and (fields[0] not in "ZX" or int(fields[17]) > 1)


ROW = Row(
    "R6",
    "nobody survives a play that is timed out or cancelled, however stubborn, with a cgroup and without one",
    torture,
    count=1000,
    small=24,
)

if __name__ == "__main__":
    ROW.main()
