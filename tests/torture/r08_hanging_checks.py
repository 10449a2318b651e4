"""R8: checks and looks that hang, and watches beside them that keep their grid.

The hanging ones read a FIFO that nobody writes to, ignore TERM, hear a server that drips, or stand in D state on a FUSE
file system that does not answer. How punctual the others are is measured by what they run themselves, and compared with
a control: a plain loop in a process of its own that starts the same command on a grid of its own, at the same time on
the same machine. So what is judged is the agent, not how busy the machine is.
"""

from __future__ import annotations

import heapq
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import paths  # noqa: F401
from agent_process import AgentProcess, until
from ground import Ground
from row import Dose, NotHere, Row
from stalling_fuse import StallingFuse, can_mount

GRID = tuple(f"grid{number}" for number in range(10))
KILLABLE = ("fifo", "stubborn", "drip")
UNKILLABLE = ("dead-mount", "dead-content")
INTERVAL_S = 1.0
TIMEOUT_S = 1.5
GRACE_S = 0.3
KEPT_WITHIN_S = 0.25
HOPS = 3  # timer to engine, to a worker, to the command: each waits for its turn on a busy machine, as the control does
TICK = "date +%s.%N >> {root}/$1; exit 1"
PIN = "0" * 64


def torture(dose: Dose) -> str:
    """`count` is how often each watch on the grid is checked."""
    if not can_mount():
        raise NotHere("no FUSE here: it needs root and /dev/fuse")
    with Ground() as ground, ExitStack() as stack:
        (ground.root / "mount").mkdir()
        mount = StallingFuse(ground.root / "mount")
        stack.callback(mount.close)
        port = stack.enter_context(_dripping_server())
        _configure(ground, mount, port)
        control = subprocess.Popen([sys.executable, __file__, "control", str(ground.root), str(dose.random.random())])
        stack.callback(control.wait)
        stack.callback(control.kill)
        agent = ground.start(None, "--log-level", "debug")
        until(lambda: _fewest_ticks(ground, "agent") > dose.count, within_s=60 + 5 * INTERVAL_S * dose.count)
        until(lambda: _fewest_ticks(ground, "control") > dose.count, within_s=60)
        killed = _hanging_ones_were_ended(agent)
        control.kill()
        mount.close()
        assert agent.stop(within_s=60) == 0
        until(lambda: ground.processes() == [])
        ours, plain = _lateness_s(ground, "agent"), _lateness_s(ground, "control")
    figure = (
        f"{killed} hanging checks killed at their timeout, {len(UNKILLABLE)} watches blocked and said so; "
        f"{len(ours)} checks of {len(GRID)} other watches were late by {_shown(ours)}; "
        f"a plain timer beside them, {len(plain)} times, by {_shown(plain)}"
    )
    assert _nearly_worst(ours) <= KEPT_WITHIN_S + HOPS * plain[-1], figure
    return figure


def _configure(ground: Ground, mount: StallingFuse, port: int) -> None:
    fifo = ground.root / "fifo"
    os.mkfifo(fifo)
    tick = ground.script("tick", TICK.format(root=ground.root))
    hanging = {
        "fifo": {"check_command": f"cat {fifo}"},
        "stubborn": {"check_command": {"shell": "trap '' TERM; while :; do sleep 1; done"}},
        "drip": {"content": {"url": f"http://127.0.0.1:{port}/content.tar", "sha256": PIN}},
        "dead-mount": {"check_command": f"stat {mount.stall}"},
        "dead-content": {"content": f"file://{mount.stall}/content"},
    }
    on_time = {name: {"check_command": f"{tick} agent.{name}"} for name in GRID}
    ground.configure(
        {
            "defaults": {
                "jet_command": "true",
                "check_interval": INTERVAL_S,
                "splay": INTERVAL_S,
                "timeouts": {"check": TIMEOUT_S, "grace": GRACE_S},
            },
            "watches": {**hanging, **on_time},
        }
    )


def _hanging_ones_were_ended(agent: AgentProcess) -> int:
    """How many checks were killed at their timeout. Raises AssertionError where one was not, or nothing was said."""
    killed = 0
    for name in KILLABLE:
        agent.wait_for("check_finished", watch=name)
        lines = agent.told("check_finished", watch=name)
        assert {line["result"] for line in lines} == {"error"}, lines
        assert all(line["duration_s"] >= TIMEOUT_S for line in lines), lines
        killed += len(lines)
        assert not agent.told("blocked", watch=name)
    for name in UNKILLABLE:
        said = agent.wait_for("blocked", watch=name)
        assert (said["pid"] > 0, said["state"]) == (True, "D"), said
        assert not agent.told("check_finished", watch=name)
    return killed


# -- how late


def _fewest_ticks(ground: Ground, who: str) -> int:
    return min(len(ground.read_lines(f"{who}.{name}")) for name in GRID)


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


# -- a peer that drips


@contextmanager
def _dripping_server() -> Iterator[int]:
    """Its port. It begins an answer and goes on with one byte of a header every tenth of a second."""
    listener = socket.create_server(("127.0.0.1", 0))
    closed = threading.Event()

    def drip(client: socket.socket) -> None:
        try:
            with client:
                client.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not closed.wait(0.1):
                    client.sendall(b"x")
        except OSError:
            return

    def accept() -> None:
        while not closed.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        closed.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


ROW = Row(
    "R8",
    "a check that hangs is killed at its timeout or said to be blocked; other watches keep their grid",
    torture,
    count=120,
    small=8,
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["control"]:
        control(*sys.argv[2:])
    else:
        ROW.main()
