"""R13: an account, a publisher, servers and plays do all that strangers can do, at once, beside healthy watches.

What they do stands in `strangers.py`. The healthy watches keep their grid, as `punctuality.py` judges it, and all their
runs end well. The agent is the same process from beginning to end, says nothing on standard error but a warning, holds
little memory, meets no error that nobody named, and ends when it is told to; nobody becomes anybody else.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import paths  # noqa: F401
import punctuality
import pytest
from accounts import STRANGER, jetp_for_all
from agent_process import AgentProcess, until
from dripping import dripping_server
from ground import Ground
from row import Dose, NotHere, Row
from strangers import DEEP_TREE, OUTPUTS, Strangers, may_mount

HOSTILE = Path(__file__).resolve().parent.parent / "process" / "scripts" / "hostile.py"
TREES = ("daemon", "cleared_daemon", "stopped", "silent")
PIN = "0" * 64
MOST_MEMORY_KIB = 256 * 1024
CHECKS = ("answers", "credentials", "bucket", "endless", "drip", "linked-home", "outputs", "archive")
"""Watches whose checks are hostile; the answer of each is an error, or is made of what a stranger said."""
PLAYS = ("deep", "flood", "trees")
"""Watches whose runs are hostile."""
WELL = "well"
WARNED = "any account of this machine may answer at that port"
"""All that is said on standard error: the servers here speak http, on loopback."""


def torture(dose: Dose) -> str:
    """`count` is how many seconds it lasts."""
    if os.geteuid() != 0:
        raise NotHere("only root can become another account")
    with Ground() as ground, ExitStack() as stack:
        try:
            ground.jetp_watch = jetp_for_all()
        except pytest.skip.Exception as reason:
            raise NotHere(str(reason)) from None
        strangers = Strangers(ground.root, dose.random)
        stack.callback(strangers.end)
        drip = stack.enter_context(dripping_server())
        metrics = _free_port()
        _configure(ground, strangers, drip, metrics)
        with punctuality.control_beside(ground, dose.random.random()):
            agent = ground.start(None, "--log-level", "debug")
            agent.wait_for("agent_started")
            strangers.begin(ground.state / "control.socket", metrics)
            punctuality.wait_for_ticks(ground, agent, dose.count)
            _wait_for_everybody(agent)
        peak_kib = _peak_kib(agent.pid)
        strangers.end()
        assert not strangers.broken, strangers.broken
        assert agent.stop(within_s=120) == 0, agent.story()
        until(lambda: ground.processes() == [])
        said = _judged(agent, strangers, peak_kib, dose.count)
        return punctuality.check_punctual(ground, said)


def _wait_for_everybody(agent: AgentProcess) -> None:
    """Until each hostile watch has been heard of: who hangs is ended, and who is ended is told."""
    for name in CHECKS:
        agent.wait_for("check_finished", watch=name, within_s=120)
    for name in PLAYS:
        agent.wait_for("run_finished", watch=name, within_s=120)


def _judged(agent: AgentProcess, strangers: Strangers, peak_kib: int, seconds: int) -> str:
    """What the strangers did, and that nothing came of it."""
    assert all(WARNED in line for line in agent.errors.splitlines()), agent.errors
    assert len(agent.told("agent_started")) == 1
    assert not agent.told("internal_error"), agent.told("internal_error")
    assert peak_kib <= MOST_MEMORY_KIB, f"the agent held {peak_kib} KiB"
    became = strangers.became.read_text()
    assert became == "", f"a file of the stranger's was run as Python:\n{became}"
    ended = [line["outcome"] for line in agent.told("run_finished", watch=WELL)]
    assert set(ended) == {"ok"}, ended
    assert len(ended) >= seconds // 5, f"{len(ended)} runs of a healthy watch in {seconds} s"
    deeds = ", ".join(f"{count} {name}" for name, count in sorted(strangers.done.items()))
    hostile = [line["outcome"] for line in agent.told("run_finished") if line["watch"] != WELL]
    missing = "" if may_mount() else " (no mounts: this root may not mount)"
    return (
        f"{deeds}{missing}, {strangers.endless.pages} pages of a listing without end; "
        f"the agent held {peak_kib // 1024} MiB at most; {len(hostile)} hostile runs ended; "
        f"{len(ended)} runs beside them ended ok; "
    )


def _configure(ground: Ground, strangers: Strangers, drip: int, metrics: int) -> None:
    of_the_stranger = {
        "user": STRANGER,
        "cwd": str(strangers.home),
        "env": {"HOME": str(strangers.home), "PYTHONPATH": str(strangers.home)},
    }
    watches = {
        **_hostile_checks(ground, strangers, drip, of_the_stranger),
        **_hostile_plays(ground, strangers, of_the_stranger),
        **punctuality.watches_on_the_grid(ground),
        WELL: {"check_command": "true", "check_interval": 2, "jet_command": "true"},
    }
    ground.configure(
        {
            "max_runs": 20,
            "metrics": {"listen": f"127.0.0.1:{metrics}"},
            "defaults": {
                "jet_command": "true",
                **punctuality.DEFAULTS,
                "timeouts": {"check": 3, "download": 5, "play": 2, "grace": 0.3},
                "retry": {"initial": "1s", "max": "1s"},
                "retain": {"runs": 2},
            },
            "watches": watches,
        }
    )


def _hostile_checks(
    ground: Ground, strangers: Strangers, drip: int, of_the_stranger: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Servers that say anything, some to a look that has credentials, and an account that says anything."""
    web = {"url": f"http://127.0.0.1:{strangers.web.port}/x.tar", "sha256": PIN}
    bucket = {"anonymous": True, "region": "us-east-1", "settle": 0}
    bucket_at = {**bucket, "url": "s3://bucket/p/", "endpoint": f"http://127.0.0.1:{strangers.bucket.port}"}
    outputs = ground.script("outputs", OUTPUTS)
    return {
        "answers": {"content": web},
        "credentials": {"content": {**web, "bearer_token": "a-token-of-ours"}},
        "bucket": {"content": bucket_at},
        "endless": {"content": {**bucket_at, "endpoint": f"http://127.0.0.1:{strangers.endless.port}"}},
        "drip": {"content": {"url": f"http://127.0.0.1:{drip}/x.tar", "sha256": PIN}},
        "linked-home": {"content": bucket_at, **of_the_stranger},
        "outputs": {"check_command": str(outputs), **of_the_stranger},
    }


def _hostile_plays(
    ground: Ground, strangers: Strangers, of_the_stranger: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Archives of the publisher, trees without end in a download, output without end, processes that do not end."""
    register = ground.root / "register"
    register.touch()
    register.chmod(0o666)
    deep = ground.script("deep", f"exec /usr/bin/python3 -I -c '{DEEP_TREE}'")
    trees = ground.script("trees", f"exec {sys.executable} -I -S {HOSTILE} {register} {' '.join(TREES)}")
    return {
        "archive": {"content": {"url": f"file://{strangers.home}/content/x.tar", "settle": 0}, **of_the_stranger},
        "deep": {"check_command": "true", "download_command": str(deep), **of_the_stranger},
        "flood": {"check_command": "true", "jet_command": "yes", **of_the_stranger},
        "trees": {"check_command": "true", "check_interval": 5, "jet_command": str(trees), **of_the_stranger},
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port


def _peak_kib(pid: int) -> int:
    """The most memory that a process has held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


ROW = Row(
    "R13",
    "strangers of every kind at once end nobody, become nobody, and hold up no watch but their own",
    torture,
    count=300,
    small=15,
)

if __name__ == "__main__":
    ROW.main()
