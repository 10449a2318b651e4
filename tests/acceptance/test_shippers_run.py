"""Shippers that can be run here: rsyslog and lnav take in what the agent writes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent_process import AgentProcess, Site, until
from servers import program, running

SHIPPERS = Path(__file__).parents[2] / "packaging/log-shippers"


class Collector:
    """A TCP listener that keeps every line."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.lines: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                for line in stream:
                    self.lines.append(json.loads(line))

    def close(self) -> None:
        """Give the address back."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)


@contextmanager
def rsyslog(site: Site, folder: Path, port: int) -> Iterator[None]:
    """A real rsyslog with our configuration: only paths and the target are another's."""
    text = (SHIPPERS / "rsyslog/jetwatch.conf").read_text()
    for ours, here in (
        ("/var/log/jetwatch/jetwatch.log", f"{site.root}/log/jetwatch.log"),
        ('target="logs.example.org" port="5044"', f'target="127.0.0.1" port="{port}"'),
    ):
        assert ours in text
        text = text.replace(ours, here)
    work = folder / "work"
    work.mkdir()
    config = folder / "rsyslog.conf"
    config.write_text(f'global(workDirectory="{work}" maxMessageSize="256k")\n{text}')
    daemon = program("rsyslogd")
    subprocess.run([daemon, "-N1", "-f", str(config)], check=True, capture_output=True)
    argv = [daemon, "-n", "-i", str(folder / "pid"), "-f", str(config)]
    with running(argv, folder, {}, (folder / "pid").exists):
        yield


def writes(site: Site) -> AgentProcess:
    """An agent with a log file, whose play fails and says much."""
    (site.root / "log").mkdir(exist_ok=True)
    play = site.script("play", r"""yes '"' | head -c 20000 | tr '\n' '\1'; printf 'ünïcode \177 \\'; exit 3""")
    log = {"file": str(site.root / "log" / "jetwatch.log")}
    return site.ready({"check_command": site.check(0), "jet_command": str(play), "check_interval": 1, "log": log})


def test_rsyslog_forwards_every_line_over_a_rotation(site: Site, tmp_path: Path) -> None:
    """As ECS, with every field as the agent told it."""
    collector = Collector()
    with rsyslog(site, tmp_path, collector.port):
        agent = writes(site)
        agent.wait_for("run_finished", nth=1)
        until(lambda: any(line["event"]["action"] == "run_finished" for line in collector.lines))
        (site.root / "log/jetwatch.log").rename(site.root / "log/jetwatch.log.1")
        agent.send(signal.SIGHUP)
        agent.wait_for("config_reloaded")
        agent.wait_for("run_finished", nth=3)
        assert agent.stop() == 0
        until(lambda: len(collector.lines) >= len(agent.lines))
    collector.close()
    got = sorted((line["jetwatch"] for line in collector.lines), key=lambda line: line["timestamp"])
    assert [_rounded(line) for line in got] == [_rounded(line) for line in sorted(agent.lines, key=_when)]
    failed = next(line for line in collector.lines if line["event"]["action"] == "run_finished")
    assert failed["event"]["outcome"] == "failure"
    assert failed["process"]["exit_code"] == 3
    assert failed["@timestamp"] == failed["jetwatch"]["timestamp"]


def _when(line: dict[str, Any]) -> str:
    return str(line["timestamp"])


def _rounded(line: dict[str, Any]) -> dict[str, Any]:
    """rsyslog writes 0.017 as 0.017000000000000001."""
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in line.items()}


def test_lnav_reads_the_log_as_a_table(site: Site, tmp_path: Path) -> None:
    """Level, watch, event and the run's id, asked by SQL."""
    agent = writes(site)
    agent.wait_for("run_finished")
    assert agent.stop() == 0
    form = SHIPPERS / "lnav/jetwatch.json"
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TERM": "dumb", "TZ": "UTC"}
    subprocess.run([program("lnav"), "-i", form], check=True, env=environ, capture_output=True)
    query = ";select log_level, watch, log_body, play_uuid, outcome, exit_code from jetwatch_log"
    words = [program("lnav"), "-n", "-c", query, "-c", ":write-json-to -", site.root / "log/jetwatch.log"]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout[done.stdout.index("[") :])
    assert [row["log_body"] for row in rows] == [line["event"] for line in agent.lines]
    (failed,) = (row for row in rows if row["log_body"] == "run_finished")
    told = agent.told("run_finished")[0]
    assert failed == {
        "log_level": "error",
        "watch": "watch",
        "log_body": "run_finished",
        "play_uuid": told["play_uuid"],
        "outcome": "failed",
        "exit_code": "3",
    }
