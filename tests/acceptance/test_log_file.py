"""The log in a file, beside a real logrotate."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess, Site, until
from servers import program


def lines_in(folder: Path) -> list[dict[str, Any]]:
    """Every line of every file, the oldest file first; each is one JSON object."""
    files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def rotate(site: Site, how: str) -> None:
    """Have logrotate rotate the file now."""
    config = site.root / "logrotate.conf"
    config.write_text(f"{site.root}/log/jetwatch.log {{\nrotate 50\nsize 1\n{how}\n}}\n")
    words = [program("logrotate"), "--force", "--state", str(site.root / "rotated"), str(config)]
    subprocess.run(words, check=True, capture_output=True)


def works(site: Site) -> AgentProcess:
    """An agent that runs every second and writes a file."""
    (site.root / "log").mkdir(exist_ok=True)
    log = {"file": str(site.root / "log" / "jetwatch.log"), "level": "debug"}
    return site.ready({"check_command": site.check(0), "jet_command": "true", "check_interval": 1, "log": log})


@pytest.mark.parametrize("how", ["nocreate", "create 0600"])
def test_no_line_is_lost_or_told_twice_over_rotations(site: Site, how: str) -> None:
    """Renamed and HUP, whoever makes the new file."""
    agent = works(site)
    for turn in range(3):
        agent.wait_for("run_finished", nth=turn + 1)
        rotate(site, how)
        agent.send(signal.SIGHUP)
        agent.wait_for("config_reloaded", nth=turn + 1)
    assert agent.stop() == 0
    assert len(list((site.root / "log").iterdir())) == 4
    assert lines_in(site.root / "log") == agent.lines


def test_a_file_that_is_copied_and_truncated_is_gone_on_with(site: Site) -> None:
    """Lines of that very moment may be missing, which is logrotate's own warning; none is torn."""
    agent = works(site)
    agent.wait_for("run_finished")
    rotate(site, "copytruncate")
    agent.wait_for("run_finished", nth=2)
    assert agent.stop() == 0
    assert lines_in(site.root / "log")[-1]["event"] == "agent_stopped"


def test_a_file_without_its_directory_starts_nothing(site: Site) -> None:
    """With the place and the reason."""
    log = {"file": str(site.root / "gone" / "jetwatch.log")}
    agent = site.start({"check_command": "true", "jet_command": "true", "log": log})
    assert agent.wait() == 78
    assert "log.file: cannot be written: No such file or directory" in agent.errors


def test_an_agent_that_was_killed_has_its_history_told_by_the_next(site: Site) -> None:
    """In the file as on standard output."""
    gate = site.gate()
    (site.root / "log").mkdir()
    log = {"file": str(site.root / "log" / "jetwatch.log")}
    agent = site.ready({"check_command": site.check(0), "jet_command": site.shell(gate.text), "log": log})
    agent.wait_for("step_started", step="play")
    agent.kill9()
    gate.open()
    again = site.ready()
    again.wait_for("run_finished", outcome="ok")
    assert again.stop() == 0
    known = until(lambda: {line["seq"]: line for line in lines_in(site.root / "log") if "seq" in line})
    assert sorted(known) == list(range(1, max(known) + 1))
