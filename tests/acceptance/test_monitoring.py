"""Figures as the receivers see them: a real Prometheus, promtool, node_exporter, and a StatsD socket."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import stat
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_process import Site, until
from servers import free_ports, program, running

ROOT = Path(__file__).parents[2]
EVERY_SECOND = {"check_interval": 1}


def get(url: str) -> str:
    """The text behind a URL on this machine."""
    with urllib.request.urlopen(url, timeout=20) as answer:
        return str(answer.read().decode())


def sample(text: str, name: str, **labels: str) -> float | None:
    """The value of one series in Prometheus's text format."""
    inside = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    found = re.search(rf"^{name}{re.escape('{' + inside + '}') if labels else ''} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


def promtool(*words: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """What promtool says."""
    return subprocess.run([program("promtool"), *words], input=text, capture_output=True, text=True, check=False)


class Prometheus:
    """A real one that scrapes these addresses every second."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The samples that a query finds now. A query that is wrong fails the test."""
        address = f"{self._url}/query?{urllib.parse.urlencode({'query': query})}"
        try:
            answer = json.loads(get(address))
        except urllib.error.HTTPError as error:
            pytest.fail(f"{query}: {error.read().decode()}")
        found = answer["data"]["result"]
        assert isinstance(found, list)
        return found

    def value(self, query: str) -> float | None:
        """The one value that a query finds now, None when it finds nothing yet."""
        found = self.ask(query)
        return float(found[0]["value"][1]) if found else None


@contextlib.contextmanager
def prometheus(directory: Path, *targets: str) -> Iterator[Prometheus]:
    """Run one, and end it."""
    (port,) = free_ports(1)
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "jetwatch", "static_configs": [{"targets": list(targets)}]}],
    }
    (directory / "prometheus.yml").write_text(json.dumps(config))
    argv = [
        program("prometheus"),
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running(argv, directory, {}, lambda: _answers(f"http://127.0.0.1:{port}/-/ready")):
        yield Prometheus(port)


def _answers(url: str) -> bool:
    try:
        get(url)
    except OSError:
        return False
    return True


def metrics_url(port: int) -> str:
    """Where the agent's listener is asked."""
    return f"http://127.0.0.1:{port}/metrics"


def test_a_real_prometheus_scrapes_the_listener_over_a_restart(site: Site, tmp_path: Path) -> None:
    """Runs, durations and standing arrive; the count of runs goes on where the agent before left it."""
    (port,) = free_ports(1)
    config = {
        "check_command": site.check(0),
        "jet_command": "true",
        **EVERY_SECOND,
        "metrics": {"listen": port},
    }
    with prometheus(tmp_path, f"127.0.0.1:{port}") as server:
        agent = site.ready(config)
        until(lambda: (server.value('jetwatch_runs_total{watch="watch",outcome="ok"}') or 0) >= 2)
        assert server.value("jetwatch_build_info") == 1
        assert server.value('jetwatch_step_duration_seconds_count{step="play"}')
        assert server.value('time() - jetwatch_last_success_timestamp_seconds{watch="watch"}')
        assert agent.stop() == 0
        site.answer(1)  # from now on nothing is due
        again = site.ready(config)
        total = sum(run["outcome"] == "ok" for run in site.runs())
        until(
            lambda: (
                server.value("jetwatch_start_timestamp_seconds > 0") and sample(get(metrics_url(port)), "up") is None
            )
        )
        until(lambda: server.value('jetwatch_checks_total{result="not_due"}'))
        assert server.value('jetwatch_runs_total{outcome="ok"}') == total
        assert not again.told("metrics_failed")  # the address is free again at once
        for query in queries_of_the_dashboard():
            server.ask(query)


def queries_of_the_dashboard() -> list[str]:
    """Every query of the Grafana dashboard, its variables filled in."""
    dashboard = json.loads((ROOT / "packaging/grafana/jetwatch.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(found) > 15
    for name, value in (("$instance", ".*"), ("$watch", ".*"), ("$__rate_interval", "1m")):
        found = [query.replace(name, value) for query in found]
    return found


def test_promtool_finds_nothing_to_say_of_the_figures(site: Site) -> None:
    """Over both roads, with every metric that can be there."""
    (port,) = free_ports(1)
    path = site.root / "jetwatch.prom"
    agent = site.ready(
        {
            "check_command": site.check(0, revision="1"),
            "jet_command": "true",
            "on_ok": "false",
            "metrics": {"listen": port, "textfile": str(path), "interval": 1},
        }
    )
    agent.wait_for("hook_retry")
    over_http = get(metrics_url(port))
    until(lambda: path.exists() and "outbox_oldest" in path.read_text())
    for text in (over_http, path.read_text()):
        done = promtool("check", "metrics", text=text)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sample(over_http, "jetwatch_outbox_depth", watch="watch") == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_the_alerts_fire_when_they_should_and_not_before() -> None:
    """promtool plays their cases."""
    folder = ROOT / "packaging/alerts"
    assert promtool("check", "rules", folder / "jetwatch.rules.yml").returncode == 0
    done = promtool("test", "rules", folder / "jetwatch.rules.test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_node_exporter_serves_the_text_file(site: Site, tmp_path: Path) -> None:
    """Without a word of its own about the file, as another user who may read it."""
    (port,) = free_ports(1)
    folder = tmp_path / "textfiles"
    folder.mkdir()
    path = folder / "jetwatch.prom"
    site.once({"check_command": site.check(0), "jet_command": "true", "metrics": {"textfile": str(path)}})
    argv = [
        program("prometheus-node-exporter"),
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={folder}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    url = f"http://127.0.0.1:{port}/metrics"
    with running(argv, tmp_path, {}, lambda: _answers(url)):
        text = get(url)
    assert sample(text, "jetwatch_runs_total", watch="watch", outcome="ok") == 1
    assert sample(text, "node_textfile_scrape_error") == 0


def test_once_after_once_counts_on_in_the_text_file(site: Site) -> None:
    """A timer that starts `--once` is as good as an agent that stays."""
    path = site.root / "jetwatch.prom"
    config = {"check_command": site.check(0), "jet_command": "true", "metrics": {"textfile": str(path)}}
    for number in (1, 2, 3):
        site.once(config)
        assert sample(path.read_text(), "jetwatch_runs_total", watch="watch", outcome="ok") == number


def test_statsd_is_told_of_every_run_once(site: Site) -> None:
    """What is added up at the other end is what happened, over a restart too."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as daemon:
        daemon.bind(("127.0.0.1", 0))
        daemon.settimeout(30)
        statsd = {"address": daemon.getsockname()[1], "prefix": "ops.jetwatch"}
        config = {
            "check_command": site.check(0),
            "jet_command": "true",
            **EVERY_SECOND,
            "metrics": {"statsd": statsd, "interval": 1},
        }
        for _ in range(2):
            agent = site.ready(config)
            agent.wait_for("run_finished", nth=2)
            assert agent.stop() == 0
        lines = _received(daemon)
    runs = re.compile(r"ops\.jetwatch\.runs\.watch\.ok:(\d+)\|c")
    counted = sum(int(found[1]) for line in lines if (found := runs.fullmatch(line)))
    assert counted == sum(run["outcome"] == "ok" for run in site.runs())
    assert any(re.fullmatch(r"ops\.jetwatch\.step_duration\.watch\.play:[\d.]+\|ms", line) for line in lines)
    assert any(line.startswith("ops.jetwatch.next_check_in_seconds.watch:") for line in lines)


def _received(daemon: socket.socket) -> list[str]:
    daemon.setblocking(False)
    lines: list[str] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            lines += daemon.recv(65536).decode().split("\n")
    return lines


def test_a_scraper_that_says_nothing_holds_up_no_run(site: Site) -> None:
    """It only keeps other scrapers waiting, for a few seconds."""
    (port,) = free_ports(1)
    agent = site.ready(
        {"check_command": site.check(0), "jet_command": "true", **EVERY_SECOND, "metrics": {"listen": port}}
    )
    until(lambda: _answers(metrics_url(port)))
    with contextlib.ExitStack() as mute:
        for _ in range(5):
            mute.enter_context(socket.create_connection(("127.0.0.1", port)))
        before = len(agent.told("run_finished"))
        agent.wait_for("run_finished", nth=before + 3)
        assert agent.stop(within_s=20) == 0


def test_an_address_that_is_taken_is_told_and_tried_again(site: Site) -> None:
    """Figures are worth no machine that is not looked after."""
    with contextlib.closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        agent = site.ready(
            {"check_command": site.check(0), "jet_command": "true", "metrics": {"listen": port, "interval": 1}}
        )
        failed = agent.wait_for("metrics_failed", road="listen")
        assert str(port) in failed["reason"]
        agent.wait_for("run_finished", outcome="ok")
    until(lambda: _answers(metrics_url(port)))


def test_without_its_library_the_key_is_refused_with_the_way_out(site: Site) -> None:
    """Before anything was started."""
    stub = site.root / "stub" / "prometheus_client"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("raise ModuleNotFoundError('not here', name='prometheus_client')\n")
    agent = site.start(
        {"check_command": site.check(0), "jet_command": "true", "metrics": {"listen": 9}},
        environ={"PYTHONPATH": str(stub.parent)},
    )
    assert agent.wait() == 78
    assert "extra `metrics`" in agent.errors
    assert not agent.lines
