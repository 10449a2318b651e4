"""R8: checks and looks that hang, and watches beside them that keep their grid.

The hanging ones read a FIFO that nobody writes to, ignore TERM, hear a server that drips, or stand in D state on a FUSE
file system that does not answer. How punctual the others are is judged by `punctuality.py`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

import paths  # noqa: F401
import punctuality
from agent_process import AgentProcess, until
from dripping import dripping_server
from ground import Ground
from row import Dose, NotHere, Row
from stalling_fuse import StallingFuse, can_mount

KILLABLE = ("fifo", "stubborn", "drip")
UNKILLABLE = ("dead-mount", "dead-content")
TIMEOUT_S = 1.5
GRACE_S = 0.3
PIN = "0" * 64


def torture(dose: Dose) -> str:
    """`count` is how often each watch on the grid is checked."""
    if not can_mount():
        raise NotHere("no FUSE here: it needs root and /dev/fuse")
    with Ground() as ground, ExitStack() as stack:
        (ground.root / "mount").mkdir()
        mount = StallingFuse(ground.root / "mount")
        stack.callback(mount.close)
        port = stack.enter_context(dripping_server())
        _configure(ground, mount, port)
        with punctuality.control_beside(ground, dose.random.random()):
            agent = ground.start(None, "--log-level", "debug")
            punctuality.wait_for_ticks(ground, agent, dose.count)
            killed = _hanging_ones_were_ended(agent)
        mount.close()
        assert agent.stop(within_s=60) == 0
        until(lambda: ground.processes() == [])
        said = f"{killed} hanging checks killed at their timeout, {len(UNKILLABLE)} watches blocked and said so; "
        return punctuality.check_punctual(ground, said)


def _configure(ground: Ground, mount: StallingFuse, port: int) -> None:
    fifo = ground.root / "fifo"
    os.mkfifo(fifo)
    hanging = {
        "fifo": {"check_command": f"cat {fifo}"},
        "stubborn": {"check_command": {"shell": "trap '' TERM; while :; do sleep 1; done"}},
        "drip": {"content": {"url": f"http://127.0.0.1:{port}/content.tar", "sha256": PIN}},
        "dead-mount": {"check_command": f"stat {mount.stall}"},
        "dead-content": {"content": f"file://{mount.stall}/content"},
    }
    ground.configure(
        {
            "defaults": {
                "jet_command": "true",
                **punctuality.DEFAULTS,
                "timeouts": {"check": TIMEOUT_S, "grace": GRACE_S},
            },
            "watches": {**hanging, **punctuality.watches_on_the_grid(ground)},
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


ROW = Row(
    "R8",
    "a check that hangs is killed at its timeout or said to be blocked; other watches keep their grid",
    torture,
    count=120,
    small=8,
)

if __name__ == "__main__":
    ROW.main()
