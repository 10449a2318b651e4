"""The files of packaging/container: what they name exists, and the agent would take its configuration."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import yaml

from jetwatch.config.load import load

HERE = Path(__file__).resolve().parents[2] / "packaging" / "container"
COMPOSE = yaml.safe_load((HERE / "compose.yml").read_text())


def test_the_example_is_a_valid_configuration() -> None:
    """With one warning: that its server is asked without encryption, between two containers."""
    settings, (warning,) = load(HERE / "watch.yml")
    assert [*settings.watches] == ["watch"]
    assert "endpoint" in str(warning) or "http://" in str(warning)


def test_everything_that_is_mounted_is_there() -> None:
    """A file that is missing would become an empty directory."""
    mounts = [each.split(":")[0] for service in COMPOSE["services"].values() for each in service.get("volumes", ())]
    assert [each for each in mounts if each.startswith(".") and not (HERE / each).exists()] == []
    assert {each for each in mounts if not each.startswith(".")} == COMPOSE["volumes"].keys()


def test_the_servers_accounts_are_those_that_are_used() -> None:
    """The agent may read, and nothing else."""
    accounts = {each["name"]: each for each in json.loads((HERE / "s3.json").read_text())["identities"]}
    for service, account in (("agent", "agent"), ("publish", "publisher")):
        used = COMPOSE["services"][service]["environment"]
        known = accounts[account]["credentials"][0]
        assert (used["AWS_ACCESS_KEY_ID"], used["AWS_SECRET_ACCESS_KEY"]) == (known["accessKey"], known["secretKey"])
    assert {action.split(":")[0] for action in accounts["agent"]["actions"]} == {"Read", "List"}


def test_the_image_says_what_a_stop_has_to_wait_for() -> None:
    """An init, a state that stays, and no play that is left to nobody."""
    text = (HERE / "Containerfile").read_text()
    assert re.search(r'^ENTRYPOINT \["/usr/bin/tini", "--", ', text, re.MULTILINE)
    assert "VOLUME /state" in text
    assert "JETWATCH_KILL_MODE=control-group" in text


def test_the_base_is_taken_by_its_digest_only(tmp_path: Path) -> None:
    """It has no default, and what is no digest ends the build before anything is installed."""
    text = (HERE / "Containerfile").read_text()
    assert re.findall(r"^ARG .*$", text, re.MULTILINE) == ["ARG BASE", "ARG BASE"]
    check = re.search(r"^RUN (case .*?esac)$", text, re.MULTILINE | re.DOTALL)
    assert check is not None
    script = check[1].replace("\\\n", "")

    def built(base: str) -> int:
        return subprocess.run(
            ["/bin/sh", "-c", script], env={"BASE": base}, stderr=subprocess.DEVNULL, check=False
        ).returncode

    assert built(f"docker.io/library/python:3.13@sha256:{'0' * 64}") == 0
    assert [built(base) for base in ("", "python", "python:3.13", "python@sha256:12", f"python@md5:{'0' * 64}")] == [
        1
    ] * 5
    assert COMPOSE["services"]["agent"]["build"]["args"]["BASE"].startswith("${BASE:?")
