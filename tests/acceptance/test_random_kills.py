"""SIGKILL at any instant: no outcome is lost, no effect repeated. Judged by a file that the plays themselves write."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

JETP = Path(sys.executable).with_name("jetp")
KILLS_OF_AGENT = 120
KILLS_OF_BOTH = 80
WATCHES = ("red", "green", "blue")

PLAY = """#!/bin/sh
echo "begin $JETWATCH_PLAY_UUID" >> {effects}
sleep 0.15
echo "end $JETWATCH_PLAY_UUID" >> {effects}
"""
HOOK = """#!/bin/sh
echo "$JETWATCH_OUTCOME $JETWATCH_PLAY_UUID" >> {hooks}
"""


class Ordeal:
    """One state directory that agents are started in and killed in, again and again."""

    def __init__(self, top: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.state = top / "state"
        self.effects = top / "effects"
        self.hooks = top / "hooks"
        self.log = top / "log"
        self.config = top / "watch.yml"
        for name, text in (("play", PLAY), ("hook", HOOK)):
            (top / name).write_text(text.format(effects=self.effects, hooks=self.hooks))
            (top / name).chmod(0o755)
        watches = "\n".join(f"  {name}: {{}}" for name in WATCHES)
        self.config.write_text(
            f"defaults:\n  check_command: 'true'\n  check_interval: 1\n  download_command: 'true'\n"
            f"  jet_command: {top}/play\n  on_done: {top}/hook\n  retain: {{runs: 1000}}\nwatches:\n{watches}\n"
        )

    def jetp(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """One command on this state directory."""
        return subprocess.run([JETP, *words, "--state-dir", self.state], capture_output=True, timeout=60, check=False)

    def start(self) -> subprocess.Popen[bytes]:
        """A new agent, whose log goes to one file with all the others'."""
        with self.log.open("ab") as log:
            command = [JETP, "watch", "--watch-config", self.config, "--state-dir", self.state, "--no-splay"]
            return subprocess.Popen(command, stdout=log, stderr=log)

    def supervisors(self) -> list[int]:
        """The pids of the supervisors of this state directory."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if len(words) > 4 and words[4].startswith(bytes(self.state / "runs")):
                found.append(int(process.name))
        return found

    def kill(self, *, supervisors_too: bool) -> int:
        """Start an agent, kill something at a random instant. Returns how many supervisors were killed."""
        agent = self.start()
        deadline = time.monotonic() + self.random.uniform(0.0, 1.2)
        victims: list[int] = []
        while time.monotonic() < deadline and agent.poll() is None:
            time.sleep(0.005)  # the instant of the kill is the point of this test, not something to wait for
        if supervisors_too and self.random.random() < 0.6:
            victims = self.supervisors()[:1]
            for pid in victims:
                _kill(pid)
        if not victims or self.random.random() < 0.5:
            agent.kill()
        else:
            agent.send_signal(self.random.choice((signal.SIGKILL, signal.SIGTERM)))
        agent.wait(timeout=30)
        return len(victims)

    def settle(self) -> None:
        """Let everything that is open come to its end."""
        self.jetp("clear")
        result = self.jetp("watch", "--watch-config", str(self.config), "--once", "--no-splay")
        with self.log.open("ab") as log:
            log.write(result.stdout)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def judge(ordeal: Ordeal, killed_supervisors: int) -> Counter[str]:
    """The oracle: every effect has a row and happened once, every outcome is true and told once, nobody is left."""
    database = sqlite3.connect(ordeal.state / "journal.db")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    outcomes = dict(database.execute("SELECT id, outcome FROM run").fetchall())
    database.close()
    assert None not in outcomes.values(), "a run is still open"
    effects = Counter(ordeal.effects.read_text().splitlines())
    assert set(effects.values()) == {1}, "an effect happened twice"
    began = {line.split()[1] for line in effects if line.startswith("begin")}
    ended = {line.split()[1] for line in effects if line.startswith("end")}
    assert began <= set(outcomes), "an effect has no row"
    assert {run for run, outcome in outcomes.items() if outcome == "ok"} <= ended, "an ok that was not"
    lost = [run for run, outcome in outcomes.items() if outcome == "lost"]
    assert len(lost) <= killed_supervisors, "lost although no supervisor was killed"
    assert ended - {run for run, outcome in outcomes.items() if outcome in ("ok", "lost")} == set()
    told = {}
    for line in ordeal.log.read_text().splitlines():
        if line.startswith("{") and json.loads(line)["event"] == "run_finished":
            event = json.loads(line)
            told.setdefault(event["play_uuid"], {})[event["seq"]] = event["outcome"]
    assert {run: list(seen.values()) for run, seen in told.items()} == {r: [o] for r, o in outcomes.items()}
    delivered = {tuple(line.split()) for line in ordeal.hooks.read_text().splitlines()}
    assert delivered >= {(outcome, run) for run, outcome in outcomes.items()}, "a hook was not delivered"
    assert ordeal.supervisors() == []
    return Counter(outcomes.values())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kills", "supervisors_too"), [(KILLS_OF_AGENT, False), (KILLS_OF_BOTH, True)], ids=["agent", "agent-or-supervisor"]
)
def test_nothing_is_lost_or_repeated_by_random_kills(tmp_path: Path, kills: int, supervisors_too: bool) -> None:
    """200 SIGKILLs in all: `lost` only where a supervisor was killed, nothing twice, every end told once."""
    seed = int(os.environ.get("JETWATCH_TEST_SEED", time.time_ns() % 100_000))
    print(f"seed {seed}")
    ordeal = Ordeal(tmp_path, seed)
    killed = 0
    for number in range(kills):
        killed += ordeal.kill(supervisors_too=supervisors_too)
        if supervisors_too and number % 5 == 4:
            ordeal.jetp("clear")  # three lost runs in a row would hold the watch for an hour
    ordeal.settle()
    outcomes = judge(ordeal, killed)
    print(f"{kills} kills, {killed} of supervisors: {dict(outcomes)}")
    assert outcomes["ok"] > kills / 4, "the test hardly ran anything"
