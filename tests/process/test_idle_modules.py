"""Which libraries an agent that waits has in memory. Each megabyte of them is there on every machine of a fleet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# Runs a whole agent through one check, in this very interpreter, and then says what was imported on the way.
_AGENT = """
import json, sys
from jetwatch.cli.main import jetp
try:
    jetp.main(sys.argv[1:], prog_name="jetp", standalone_mode=False)
except SystemExit as leaving:
    assert not leaving.code, leaving.code
print(json.dumps(sorted(sys.modules)))
"""
_NOT_FOR_WAITING = {
    "apscheduler", "asyncio", "boto3", "botocore", "dulwich", "email", "http", "httpx", "importlib.metadata", "jinja2",
    "niquests", "obstore", "prometheus_client", "pydantic", "requests", "rich", "ssl", "tzlocal", "unittest", "urllib3",
    "xml", "zstandard",
}  # fmt: skip


def modules_after(tmp_path: Path, **keys: object) -> set[str]:
    """What an agent has imported after its first check."""
    config = tmp_path / "watch.yml"
    config.write_text(json.dumps({"check_command": "true", "jet_command": "true", **keys}))
    words = ["watch", "--watch-config", str(config), "--state-dir", str(tmp_path / "state"), "--once", "--no-splay"]
    done = subprocess.run(
        [sys.executable, "-c", _AGENT, *words, "--log-format", "json"],
        env=dict(os.environ), capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"run_finished"' in done.stdout, "the whole cycle was to be run"
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_an_agent_of_the_plainest_kind_loads_no_library_that_it_does_not_use(tmp_path: Path) -> None:
    """Clients, schedules, templates and figures are imported by the watch that asks for them."""
    assert _NOT_FOR_WAITING.isdisjoint(modules_after(tmp_path))


def test_the_list_is_read_from_a_real_agent(tmp_path: Path) -> None:
    """What is surely used is in it: a list that is empty would hold nothing against anybody."""
    assert {"jetwatch.engine.lane", "msgspec", "sqlite3"} <= modules_after(tmp_path)
