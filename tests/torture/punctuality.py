"""Watches on a grid, and how late they are beside a plain timer.

How punctual they are is measured by what they run themselves, and compared with a control: a plain loop in a process of
its own that starts the same command on a grid of its own, at the same time on the same machine. So what is judged is
the agent, not how busy the machine is.
"""

from __future__ import annotations

import heapq
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import paths  # noqa: F401
from agent_process import AgentProcess, until
from ground import Ground

GRID = tuple(f"grid{number}" for number in range(10))
INTERVAL_S = 1.0
KEPT_WITHIN_S = 0.25
HOPS = 3  # timer to engine, to a worker, to the command: each waits for its turn on a busy machine, as the control does
TICK = "date +%s.%N >> {root}/$1; exit 1"
DEFAULTS = {"check_interval": INTERVAL_S, "splay": INTERVAL_S}
"""What the watches on the grid need."""


def watches_on_the_grid(ground: Ground) -> Mapping[str, Mapping[str, Any]]:
    """Their keys; they say of each check when it was, and that nothing is due."""
    tick = ground.script("tick", TICK.format(root=ground.root))
    return {name: {"check_command": f"{tick} agent.{name}"} for name in GRID}


@contextmanager
def control_beside(ground: Ground, seed: float) -> Iterator[None]:
    """The plain timer, from now to the end."""
    control = subprocess.Popen([sys.executable, __file__, str(ground.root), str(seed)])
    try:
        yield
    finally:
        control.kill()
        control.wait()


def wait_for_ticks(ground: Ground, agent: AgentProcess, count: int) -> None:
    """Until each watch, and each grid of the control, has had more than so many; the agent has to live so long."""
    until(lambda: not agent.is_running or _fewest_ticks(ground, "agent") > count, within_s=60 + 5 * INTERVAL_S * count)
    assert agent.is_running, f"the agent ended by itself:\n{agent.story()[-4000:]}"
    until(lambda: _fewest_ticks(ground, "control") > count, within_s=60)


def _fewest_ticks(ground: Ground, who: str) -> int:
    return min(len(ground.read_lines(f"{who}.{name}")) for name in GRID)


def check_punctual(ground: Ground, before: str = "") -> str:
    """The figure, behind what else there is to say. Raises AssertionError where the grid was not kept."""
    ours, plain = _lateness_s(ground, "agent"), _lateness_s(ground, "control")
    figure = (
        f"{before}{len(ours)} checks of {len(GRID)} other watches were late by {_shown(ours)}; "
        f"a plain timer beside them, {len(plain)} times, by {_shown(plain)}"
    )
    assert _nearly_worst(ours) <= KEPT_WITHIN_S + HOPS * plain[-1], figure
    return figure


def _lateness_s(ground: Ground, who: str) -> list[float]:
    """Sorted: of each tick against the grid that its watch's most punctual tick is on."""
    found: list[float] = []
    for name in GRID:
        at_s = [float(line) for line in ground.read_lines(f"{who}.{name}")]
        after_s = [each - at_s[0] for each in at_s]
        off_s = [each - INTERVAL_S * round(each / INTERVAL_S) for each in after_s]
        # The first tick may have been a late one: then the others seem to be early.
        found += [each - min(off_s) for each in off_s]
    return sorted(found)


def _nearly_worst(late_s: Sequence[float]) -> float:
    return statistics.quantiles(late_s, n=100)[98]


def _shown(late_s: Sequence[float]) -> str:
    median, worst = statistics.median(late_s) * 1000, late_s[-1] * 1000
    return f"{median:.0f} ms (median), {_nearly_worst(late_s) * 1000:.0f} ms (99 of 100), {worst:.0f} ms (worst)"


def control(root: str, seed: str) -> None:
    """As simple as can be: at its time, each of as many grids starts the same command. Until killed."""
    dealt = random.Random(seed)
    begin_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    due = [(begin_s + dealt.uniform(0, INTERVAL_S), name) for name in GRID]
    heapq.heapify(due)
    running: list[subprocess.Popen[bytes]] = []
    while True:
        at_s, name = heapq.heappop(due)
        time.sleep(max(0.0, at_s - time.clock_gettime(time.CLOCK_BOOTTIME)))
        running = [each for each in running if each.poll() is None]
        running.append(subprocess.Popen([f"{root}/tick", f"control.{name}"]))
        heapq.heappush(due, (at_s + INTERVAL_S, name))


if __name__ == "__main__":
    control(*sys.argv[1:])
