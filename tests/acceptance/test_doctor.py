"""`jetp doctor` on this machine, with agents, configurations and directories that are well and unwell."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from agent_process import JETP, Site

QUIET = "check_command: 'true'\njet_command: 'true'\ncheck_interval: 3600\n"


def doctor(site: Site, *words: str, code: int = 0, state: Path | None = None) -> dict[str, list[dict[str, Any]]]:
    """Its findings by code, after it left with `code`."""
    options = ["--state-dir", str(state or site.state), "--json", *words]
    done = subprocess.run([JETP, "doctor", *options], env=site.environ, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["exit_code"] == code
    found: dict[str, list[dict[str, Any]]] = {}
    for each in document["findings"]:
        found.setdefault(each["code"], []).append(each)
    return found


def test_a_machine_that_will_do_is_told_topic_by_topic(site: Site) -> None:
    """Nothing is changed, and nothing is made."""
    site.configure(QUIET)
    found = doctor(site, "--watch-config", str(site.config))
    topics = {"time_service", "clock", "state_dir", "file_system", "space", "kernel", "cgroup", "init", "unit", "agent"}
    assert topics <= found.keys()
    assert [each["verdict"] for each in found["config"] + found["command"] + found["kernel"]] == ["ok"] * 3
    assert not site.state.exists()


def test_a_running_agent_is_named_and_its_configuration_found(site: Site) -> None:
    """Without a word about where the configuration is: the journal knows."""
    agent = site.ready(QUIET)
    found = doctor(site)
    assert str(agent.pid) in found["agent"][0]["found"]
    assert [found[code][0]["verdict"] for code in ("agent", "config")] == ["ok", "ok"]
    agent.kill9()
    found = doctor(site)
    assert (found["agent"][0]["verdict"], "killed" in found["agent"][0]["found"]) == ("warning", True)


def test_a_second_agent_with_the_same_configuration_is_a_warning(site: Site) -> None:
    """It does everything twice."""
    agent = site.ready(QUIET)
    found = doctor(site, "--watch-config", str(site.config), state=site.root / "another")
    assert [each["verdict"] for each in found["other_agent"] if str(agent.pid) in each["found"]] == ["warning"]


def test_what_a_person_has_to_see_to_leaves_with_78(site: Site) -> None:
    """A command that is not there, a script without its interpreter, an env_file that is missing."""
    script = site.script("play.sh", "true")
    script.write_text("#!/no/such/interpreter\n")
    hook = {"run": "true", "env_file": "none.env"}
    site.configure({"check_command": "no-such-program", "jet_command": str(script), "on_ok": hook})
    found = doctor(site, "--watch-config", str(site.config), code=78)
    said = " ".join(each["found"] for each in found["command"])
    assert "check: there is no no-such-program" in said
    assert "asks for /no/such/interpreter" in said
    assert found["env_file"][0]["verdict"] == "problem"


def test_every_problem_of_a_configuration_is_told(site: Site) -> None:
    """As `jetp check-config` tells them, beside what else there is to say."""
    site.configure("no_such_key: 1\n")
    found = doctor(site, "--watch-config", str(site.config), code=78)
    assert any("no_such_key" in each["found"] for each in found["config"])
    assert "kernel" in found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_state_directory_of_somebody_else_is_a_problem(site: Site) -> None:
    """The agent would refuse it."""
    site.configure(QUIET)
    site.state.mkdir()
    os.chown(site.state, 65534, 65534)
    found = doctor(site, "--watch-config", str(site.config), code=78)
    assert found["state_dir"][0]["verdict"] == "problem"


def test_sources_are_tried_online_only(site: Site) -> None:
    """With the words and the weight that check-config gives them."""
    site.configure({"content": f"git+file://{site.root}/nowhere", "jet_command": "true"})
    assert "source" not in doctor(site, "--watch-config", str(site.config))
    [found] = doctor(site, "--watch-config", str(site.config), "--online", code=78)["source"]
    assert found["found"].startswith("cannot work: ")
