"""R7: the wall clock is set, by hours and by years, under a working agent; and the agent is stopped for ten intervals.

Nobody may set the clock of a machine that others use: the agent's interpreter reads a wall clock that is shifted by
what a file says, and hears of a step through a FIFO where the kernel's timer would tell it. Everything else is real:
commands and supervisors keep the machine's clock, so that what the checks write down says when they truly began.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from datetime import datetime
from itertools import pairwise

import paths  # noqa: F401
from agent_process import JETP, AgentProcess, until
from ground import Ground
from row import Dose, Row

INTERVAL_S = 1.0
STOPPED_INTERVALS = 10
HOUR_S, DAY_S, YEAR_S = 3600, 86_400, 31_557_600
STEPS_S = (HOUR_S, DAY_S, 30 * DAY_S, YEAR_S, 10 * YEAR_S)
REPEATS_NOTHING_S = 3 * HOUR_S  # cron(8): set back by less than this, what has fired does not fire again
BEFORE_THE_MINUTE_S = 2.5
GRID_S = 60
LATE_S = 0.5  # of a machine with other work to do

STEPPED_CLOCK = """\
import os, time
_real, _told = time.time_ns, os.environ["WALL_STEPS"]
def _stepped():
    with open(_told) as file:
        return _real() + int(file.read())
time.time_ns = _stepped
time.time = lambda: _stepped() / 1e9
from jetwatch import clock
def _watch(self):
    if not hasattr(self, "_fifo"):
        os.close(self._step)
        self._step = self._fifo = os.open(_told + ".fifo", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
clock.SystemClock._watch_wall_clock = _watch
"""
TICK = "date +%s.%N >> {root}/ticks; exit 1"
LONG_PLAY = "until [ -e {root}/gate ]; do sleep 0.2; done; echo end >> {root}/ended"


def torture(dose: Dose) -> str:
    """`count` steps of the clock, and two stops of the agent after every tenth: a long one, and one before a point."""
    with Ground() as ground:
        clock = _Clock(ground)
        _configure(ground)
        agent = ground.start(None, "--no-splay", "--log-level", "debug", environ=clock.environ)
        agent.wait_for("step_started", watch="long", step="play")
        until(lambda: len(_ticks(ground)) > 1)
        until(lambda: clock.next_check("stable"))
        fired = stops = 0
        point_s = _point_s(clock)
        for number in range(dose.count):
            fired += _step(dose.random, number, ground, clock, agent)
            until(lambda: _away_s(clock, point_s) < 1)  # the stable grid is where it was
            if number % 10 == 4:
                _stop_and_continue(ground, agent)
                _stop_until_before_a_point(ground, agent)
                stops += 1
        late_s = _grid_was_kept(ground, stops)
        (ground.root / "gate").touch()
        assert agent.wait_for("run_finished", watch="long")["outcome"] == "ok"
        assert ground.read_lines("ended") == ["end"]
        assert {line["outcome"] for line in agent.told("run_finished")} == {"ok"}
        ticks = len(_ticks(ground))
        assert agent.stop() == 0
        assert agent.errors == "" or agent.errors.count("\n") == agent.errors.count("warning: "), agent.errors
    return (
        f"{dose.count} steps of the clock by an hour to ten years: {ticks} checks each {INTERVAL_S:.0f} s, late by "
        f"{late_s * 1000:.0f} ms at most; {fired} firings of a schedule at the new time, the stable grid where it was; "
        f"{stops} stops for {STOPPED_INTERVALS} intervals, and {stops} until right before a point: one check, then the "
        "grid; one play open all the time, ok"
    )


class _Clock:
    """The wall clock of the agent, and of who asks about it."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._path = ground.root / "wall"
        self.ahead_s = 0.0
        folder = ground.root / "clock"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(STEPPED_CLOCK)
        os.mkfifo(f"{self._path}.fifo")
        self.environ = {"PYTHONPATH": str(folder), "WALL_STEPS": str(self._path)}
        self._tell()

    def now_s(self) -> float:
        return time.time() + self.ahead_s

    def set(self, ahead_s: float) -> None:
        """The clock is set to so much ahead of the machine's."""
        self.ahead_s = ahead_s
        self._tell()
        fifo = os.open(f"{self._path}.fifo", os.O_WRONLY | os.O_NONBLOCK)
        os.write(fifo, b"x")
        os.close(fifo)

    def _tell(self) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(str(round(self.ahead_s * 1e9)))
        new.rename(self._path)

    def next_check(self, watch: str) -> float:
        """When the agent says that it checks next, by its own clock; 0 when it does not say."""
        done = subprocess.run(
            [JETP, "status", "--json", "--state-dir", self._ground.state],
            env=self._ground.environ | self.environ,
            capture_output=True,
            check=True,
            timeout=60,
        )
        (text,) = (each["next_check"] for each in json.loads(done.stdout)["watches"] if each["watch"] == watch)
        return datetime.fromisoformat(text).timestamp() if text else 0.0


def _configure(ground: Ground) -> None:
    quiet = {"check_command": "false", "jet_command": "true"}
    ground.configure(
        {
            "watches": {
                "interval": {
                    **quiet,
                    "check_command": {"shell": TICK.format(root=ground.root)},
                    "check_interval": INTERVAL_S,
                },
                "stable": {**quiet, "check_interval": GRID_S, "phase": "stable"},
                "scheduled": {"schedule": "* * * * *", "timezone": "UTC", "jet_command": "true", "splay": "1ms"},
                "long": {
                    "check_command": "true",
                    "check_interval": "7d",
                    "jet_command": {"shell": LONG_PLAY.format(root=ground.root)},
                    "timeouts": {"play": "1h"},
                },
            }
        }
    )


def _ticks(ground: Ground) -> list[float]:
    return [float(line) for line in ground.read_lines("ticks")]


def _point_s(clock: _Clock) -> float:
    return clock.next_check("stable") % GRID_S


def _away_s(clock: _Clock, point_s: float) -> float:
    return abs((_point_s(clock) - point_s + GRID_S / 2) % GRID_S - GRID_S / 2)


# -- the clock is set


def _step(dealt: random.Random, number: int, ground: Ground, clock: _Clock, agent: AgentProcess) -> int:
    """Set the clock to just before a full minute, by about so much; how often the schedule fired."""
    size_s = STEPS_S[number // 2 % len(STEPS_S)] * dealt.uniform(1, 1.5)
    ahead_s = clock.ahead_s + (size_s if clock.ahead_s <= 0 else -size_s)
    to_the_minute_s = -(time.time() + ahead_s + BEFORE_THE_MINUTE_S) % 60
    before_s = clock.now_s()
    fired = len(agent.told("run_started", watch="scheduled"))
    clock.set(ahead_s + to_the_minute_s)
    back_s = before_s - clock.now_s()
    minute_s = clock.now_s() + BEFORE_THE_MINUTE_S
    if 0 < back_s < REPEATS_NOTHING_S:
        until(lambda: clock.next_check("scheduled") >= before_s - 60)  # what has fired does not fire again
        return len(agent.told("run_started", watch="scheduled")) - fired

    def has_fired() -> bool:
        lines = agent.told("run_started", watch="scheduled")[fired:]
        return any(_told_s(line) >= minute_s - 1 for line in lines)

    until(has_fired)
    more = len(agent.told("run_started", watch="scheduled")) - fired
    assert more <= 2, f"{more} firings after one step: at most one is made up"
    return more


def _told_s(line: dict[str, str]) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()


# -- the agent is stopped


def _stop_and_continue(ground: Ground, agent: AgentProcess) -> None:
    agent.send(signal.SIGSTOP)
    time.sleep(0.3)  # a check that had begun writes down when
    before = len(_ticks(ground))
    time.sleep(STOPPED_INTERVALS * INTERVAL_S)
    assert len(_ticks(ground)) == before
    agent.send(signal.SIGCONT)
    until(lambda: len(_ticks(ground)) >= before + 4)


def _stop_until_before_a_point(ground: Ground, agent: AgentProcess) -> None:
    """The check that makes up for this stop is late by nearly an interval."""
    before = len(_ticks(ground))
    until(lambda: len(_ticks(ground)) > before)
    time.sleep(0.5 * INTERVAL_S)  # the next check is planned by now
    agent.send(signal.SIGSTOP)
    time.sleep(1.4 * INTERVAL_S)
    before = len(_ticks(ground))
    agent.send(signal.SIGCONT)
    until(lambda: len(_ticks(ground)) >= before + 4)


def _grid_was_kept(ground: Ground, stops: int) -> float:
    """The latest check, in seconds after its time; a stop is one gap. Raises AssertionError for a burst or a stall."""
    gaps = sorted(later - earlier for earlier, later in pairwise(_ticks(ground)))
    kept = gaps[: len(gaps) - stops]
    stopped = gaps[len(gaps) - stops :]
    assert all(gap > STOPPED_INTERVALS * INTERVAL_S for gap in stopped), stopped
    assert kept[0] > INTERVAL_S - LATE_S, f"a burst: {kept[0]} s between two checks"
    assert kept[-1] < INTERVAL_S + 4 * LATE_S, f"a stall: {kept[-1]} s between two checks"
    return max(0.0, kept[-1] - INTERVAL_S)


ROW = Row(
    "R7",
    "a step of the wall clock or a stopped agent gives one check, then the grid again; a running play goes on",
    torture,
    count=100,
    small=6,
)

if __name__ == "__main__":
    ROW.main()
