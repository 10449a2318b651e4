"""R9: configurations that are broken in every way a file can be, on reload. The last good one stays.

Every broken file goes to the loader, in a process that is watched for time and memory: it must refuse it in words that
name file and line, and do nothing else. One in thirty of them, and what is no file at all, also goes to an agent that
works, by HUP: one `config_rejected`, nothing else said, and the configuration in force is what it was.
"""

from __future__ import annotations

import collections
import resource
import signal
import threading
import time
from pathlib import Path
from typing import Any

import mutations
import paths  # noqa: F401
from agent_process import AgentProcess, until
from ground import Ground
from row import Dose, Row

from jetwatch.config.load import load
from jetwatch.errors import ConfigError

LONGEST_CPU_S = 10.0
MOST_GROWTH_KIB = 192 * 1024  # beyond what this process, which may have run other tests, has ever held before
ONE_IN = 30
"""How many of them go to the agent: it answers a HUP in milliseconds, but its story is to be read to the end."""

WORKING = "echo {name} $JETWATCH_TRIGGER >> {root}/played"


def torture(dose: Dose) -> str:
    """`count` broken files; the cuts at each byte of the good one are among them where there is room."""
    with Ground() as ground:
        path = ground.root / "broken.yml"
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sample, longest_s, harmless = _refused_by_loader(dose, path)
        growth_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
        assert growth_kib <= MOST_GROWTH_KIB, f"{growth_kib} KiB more memory"
        reloads = _refused_by_agent(dose, ground, sample)
    return (
        f"{dose.count} broken configurations refused with file and line, {longest_s:.2f} s at most, "
        f"{growth_kib // 1024} MiB more ({harmless} changes did no harm); {reloads} of them on reload: "
        "the configuration in force stayed what it was"
    )


# -- the loader


def _refused_by_loader(dose: Dose, path: Path) -> tuple[list[bytes], float, int]:
    good = mutations.GOOD.encode()
    path.write_bytes(good)
    load(path, agent_user="root")
    cuts = mutations.every_cut(good)
    dose.random.shuffle(cuts)
    waiting = cuts[: dose.count // 3]
    sample: list[bytes] = []
    longest_s, harmless, refused = 0.0, 0, 0
    while refused < dose.count:
        content = waiting.pop() if waiting else dose.random.choice(mutations.MUTATIONS)(dose.random, good)
        path.write_bytes(content)
        began_s = time.thread_time()
        try:
            load(path, agent_user="root")
            error = None
        except ConfigError as refusal:
            error = refusal
        longest_s = max(longest_s, time.thread_time() - began_s)
        assert longest_s <= LONGEST_CPU_S, f"{longest_s} s of processor time for {path}"
        if error is None:
            harmless += 1
            continue
        _names_its_place(error, path, content)
        if refused % (ONE_IN if dose.count > 1000 else 10) == 0:
            sample.append(content)
        refused += 1
        if refused % 1000 == 0:
            dose.say(f"  {refused} refused")
    return sample, longest_s, harmless


def _names_its_place(error: ConfigError, path: Path, content: bytes) -> None:
    """Every problem has its file and a line that the file has; nothing in it can break a line."""
    assert error.problems
    last = len(content.decode("utf-8", "replace").splitlines()) + 1
    for problem in error.problems:
        assert problem.file == str(path), problem
        assert 1 <= problem.line <= last, problem
        assert str(problem).isprintable(), problem
        assert len(str(problem)) < 4096, f"{len(str(problem))} characters: {str(problem)[:200]}"


# -- the agent


def _refused_by_agent(dose: Dose, ground: Ground, broken: list[bytes]) -> int:
    config = {
        "defaults": {"check_command": "true", "check_interval": 1},
        "watches": {name: {"jet_command": ground.shell(WORKING.format(name=name, root=ground.root))} for name in "ab"},
    }
    ground.configure(config)
    last_good = ground.config.read_bytes()
    agent = ground.start(None, "--no-splay")
    agent.wait_for("run_finished")
    before = _in_force(ground)
    kinds: collections.Counter[str] = collections.Counter()
    reloads = 0
    for content in broken:
        mutations.remove(ground.config)
        ground.config.write_bytes(content)
        reloads += 1
        _is_rejected(agent, ground, reloads)
    for _ in range(max(7, len(broken) // 10)):
        kinds[mutations.put_no_file(dose.random, ground.config)] += 1
        reloads += 1
        _is_rejected(agent, ground, reloads)
    mutations.remove(ground.config)
    reloads += _while_it_changes(dose, agent, ground, reloads)
    assert _in_force(ground) == before
    played = len(ground.read_lines("played"))
    until(lambda: len(ground.read_lines("played")) > played + 3)
    assert set(ground.read_lines("played")) <= {"a check", "b check"}
    _says_nothing_else(agent)
    ground.config.write_bytes(last_good)
    agent.send(signal.SIGHUP)
    agent.wait_for("config_reloaded")
    assert _in_force(ground) == before
    assert agent.stop() == 0
    assert agent.errors == "", agent.errors
    return reloads


def _is_rejected(agent: AgentProcess, ground: Ground, nth: int) -> None:
    agent.send(signal.SIGHUP)
    line = agent.wait_for("config_rejected", nth=nth)
    first, *others = line["problems"]
    assert first.startswith(f"{ground.config}:"), line
    assert all(each.startswith((f"{ground.config}:", "… (cut: ")) for each in others), others


def _while_it_changes(dose: Dose, agent: AgentProcess, ground: Ground, rejected: int) -> int:
    """Someone writes the file while it is read, over and over; how often it was rejected meanwhile."""
    half = [b"check_command: [\n" + b"# \n" * 200_000, b"jet_comand: x\n" * 3, b""]
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            with ground.config.open("wb") as file:
                for _ in range(20):
                    file.write(dose.random.choice(half))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(20):
            _is_rejected(agent, ground, rejected + number + 1)
    finally:
        done.set()
        writer.join()
    return 20


def _in_force(ground: Ground) -> tuple[Any, ...]:
    """The configuration's digest and watches, as told to everybody."""
    status = ground.data("status")
    agent = status["agent"]
    return agent["pid"], agent["config_digest"], agent["config_path"], [each["watch"] for each in status["watches"]]


def _says_nothing_else(agent: AgentProcess) -> None:
    assert agent.errors == "", agent.errors
    events = collections.Counter(line["event"] for line in agent.lines)
    assert not events["config_reloaded"], events
    assert {line["outcome"] for line in agent.told("run_finished")} == {"ok"}


ROW = Row("R9", "a broken configuration changes nothing, and is refused in words", torture, count=10_000, small=200)

if __name__ == "__main__":
    ROW.main()
