"""Which modules `jetp` has in memory. An agent's are there on every machine of a fleet; a command's cost its start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Runs one command of `jetp` in this very interpreter, and then says what was imported on the way.
_COMMAND = """
import json, sys
from jetwatch.cli.main import jetp
try:
    jetp.main(sys.argv[1:], prog_name="jetp", standalone_mode=False)
except SystemExit as leaving:
    assert not leaving.code, leaving.code
print(json.dumps(sorted(sys.modules)))
"""
_NOT_FOR_WAITING = {
    "apscheduler", "asyncio", "boto3", "botocore", "bz2", "dataclasses", "difflib", "dulwich", "email", "http", "httpx",
    "importlib.metadata", "importlib.resources", "jinja2", "logging", "lzma", "niquests", "obstore", "pickle",
    "prometheus_client", "pydantic", "requests", "rich", "shutil", "ssl", "structlog", "tempfile", "traceback",
    "tzlocal", "unittest", "urllib3", "xml", "zipfile", "zoneinfo", "zstandard",
}  # fmt: skip
_NOT_OURS_FOR_WAITING = {
    "jetwatch.content", "jetwatch.engine.cron", "jetwatch.expressions", "jetwatch.importing", "jetwatch.metering",
    "jetwatch.plan", "jetwatch.sending", "jetwatch.telemetry.console", "jetwatch.telemetry.logfile",
    "jetwatch.telemetry.metrics", "jetwatch.telemetry.reference",
}  # fmt: skip
_NOT_FOR_READING = _NOT_FOR_WAITING | {"hashlib", "jetwatch.agent", "jetwatch.config.load", "subprocess", "yaml"}


def modules_after(*words: str | Path, says: str = "") -> set[str]:
    """What a command has imported when it is done. It must end with 0, and have said so."""
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, *words],
        env=dict(os.environ), capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    return set(json.loads(done.stdout.splitlines()[-1]))


def modules_of_an_agent(tmp_path: Path) -> set[str]:
    """What an agent with the keys of a first watch.yml has imported after a whole run."""
    config = tmp_path / "watch.yml"
    keys = {
        "check_command": "true",
        "download_command": "true {{ download_path }}",
        "jet_command": "true {{ download_path }}/pb.yml",
        "on_ok": "true {{ play_uuid }}",
    }
    config.write_text(json.dumps(keys))
    where = ("--watch-config", config, "--state-dir", tmp_path / "state")
    how = ("--once", "--no-splay", "--log-format", "json")
    return modules_after("watch", *where, *how, says='"run_finished"')


def test_an_agent_of_the_plainest_kind_loads_no_library_that_it_does_not_use(tmp_path: Path) -> None:
    """Clients, schedules, expressions and figures are imported by the watch that asks for them."""
    found = modules_of_an_agent(tmp_path)
    assert _NOT_FOR_WAITING & found == set()
    assert _NOT_OURS_FOR_WAITING & found == set()


@pytest.mark.parametrize(
    ("keys", "loaded"),
    [
        ({"check_command": "true"}, False),
        ({"content": "file:///srv/content"}, False),
        ({"content": {"url": "https://127.0.0.1/x.tar"}}, True),
        ({"content": "s3://bucket/prefix/"}, True),
        ({"check_command": "true", "metrics": {"textfile": "/run/x.prom"}}, True),
    ],
    ids=json.dumps,
)
def test_what_hooks_into_forks_is_loaded_before_anybody_forks(tmp_path: Path, keys: object, loaded: bool) -> None:
    """Loaded in a thread, while another one forks, logging makes the interpreter complain on standard error."""
    config = tmp_path / "watch.yml"
    config.write_text(json.dumps({"jet_command": "true", **keys}))  # type: ignore[dict-item]
    code = (
        "import sys, pathlib; from jetwatch import agent; from jetwatch.config.load import load\n"
        "settings, _ = load(pathlib.Path(sys.argv[1]))\n"
        "before = 'logging' in sys.modules\n"
        "agent._import_what_hooks_into_forks(settings)\n"
        "print(before, 'logging' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, config], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == f"False {loaded}\n", done.stdout + done.stderr


def test_the_list_is_read_from_a_real_agent(tmp_path: Path) -> None:
    """What is surely used is in it: a list that is empty would hold nothing against anybody."""
    assert {"jetwatch.engine.lane", "jetwatch.process.launch", "msgspec", "sqlite3"} <= modules_of_an_agent(tmp_path)


def test_a_command_that_reads_loads_neither_agent_nor_configuration(tmp_path: Path) -> None:
    """`jetp status`, `runs` and `show` start about as fast as `jetp version`, which reads nothing."""
    modules_of_an_agent(tmp_path)
    for command in ("status", "runs", "show"):
        assert _NOT_FOR_READING & modules_after(command, "--state-dir", tmp_path / "state") == set(), command


def test_the_version_is_told_without_any_record() -> None:
    """What every start of every command costs is click and what Python brings."""
    found = modules_after("version")
    assert {"msgspec", "sqlite3", "socket", "subprocess", *_NOT_FOR_READING} & found == set()
    rooms = {name.split(".")[1] for name in found if name.startswith("jetwatch.")}
    assert rooms == {"cli", "errors", "telemetry"}
