"""An agent that checks often forks through a small process of its own, which nobody has to know of."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from agent_process import AgentProcess, Site, is_alive, until

from jetwatch.process import tree

WATCHES = 15
"""Each checked once a second: the thirty checks that make an agent a busy one come within three."""


def busy(site: Site) -> dict[str, Any]:
    """Watches whose checks say not due, until there is a file `hang`: then they write their pid and hang."""
    check = site.shell("test -e hang || exit 1; echo $$ >> hanging; exec sleep 1000")
    watch = {"check_command": check, "jet_command": "true", "check_interval": 1}
    return {"watches": {f"w{number}": watch for number in range(WATCHES)}}


def forker_of(agent: AgentProcess) -> int | None:
    """The agent's forker, if it has one now."""
    found = (tree.look_up(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit())
    ours = [process.pid for process in found if process is not None and process.parent == agent.pid]
    return next((pid for pid in ours if tree.name_of(pid) == "jetwatch-forker" and is_alive(pid)), None)


def answers(agent: AgentProcess) -> int:
    """How many checks said not due."""
    return len(agent.told("check_finished", result="not_due"))


def test_a_busy_agent_has_a_forker_and_takes_it_along(site: Site) -> None:
    """It is the agent's child, its checks are answered as before, and it is gone when the agent is."""
    agent = site.start(busy(site), "--no-splay", "--log-level", "debug")
    forker = until(lambda: forker_of(agent))
    seen = answers(agent)
    until(lambda: answers(agent) >= seen + WATCHES)
    assert agent.told("check_finished", result="error") == []
    assert forker_of(agent) == forker
    assert agent.stop() == 0
    assert not is_alive(forker)


def test_a_forker_that_is_killed_is_missed_by_nobody(site: Site) -> None:
    """The agent forks itself, and has another one soon; no check fails by it."""
    agent = site.start(busy(site), "--no-splay", "--log-level", "debug")
    lost = until(lambda: forker_of(agent))
    seen = answers(agent)
    until(lambda: answers(agent) >= seen + 2 * WATCHES)  # it has served
    os.kill(lost, signal.SIGKILL)
    until(lambda: forker_of(agent) not in (None, lost))
    assert agent.told("check_finished", result="error") == []
    assert agent.stop() == 0


def test_nothing_of_a_busy_agent_that_is_killed_stays(site: Site) -> None:
    """Its forker leaves by itself; the checks that hang are ended by the agent that starts next."""
    config = busy(site)
    first = site.start(config, "--no-splay")
    forker = until(lambda: forker_of(first))
    (site.root / "hang").touch()
    until(lambda: len(site.read_lines("hanging")) == WATCHES)
    first.kill9()
    until(lambda: not is_alive(forker))
    hanging = [int(line) for line in site.read_lines("hanging")]
    assert all(is_alive(pid) for pid in hanging)
    (site.root / "hang").unlink()
    second = site.start(config, "--no-splay", "--log-level", "debug")
    until(lambda: answers(second) > 0)
    assert not any(is_alive(pid) for pid in hanging)
    assert second.stop() == 0
