"""Failures in a row are one incident: told once, with its end, through the installed jetp."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from agent_process import JETP, MAY_UNSHARE, Elsewhen, Site


def failing(site: Site, **on_fail: object) -> dict[str, Any]:
    """A watch that is always due and fails until the file `healed` is there; its hooks write themselves down."""

    def says(name: str) -> dict[str, str]:
        return site.shell(f'echo "{name} $JETWATCH_FAILURES ${{JETWATCH_FAILING_SINCE:-never}}" >> told')

    hooks: dict[str, dict[str, Any]] = {name: says(name) for name in ("on_ok", "on_fail", "on_recover", "on_done")}
    hooks["on_fail"] |= on_fail
    return {"check_command": site.check(0), "jet_command": site.shell("[ -e healed ]"), **hooks}


def told(site: Site) -> list[str]:
    """The hooks so far with the number of failures that they were told."""
    return [" ".join(line.split()[:2]) for line in site.read_lines("told")]


def test_three_failures_are_told_once_and_so_is_their_end(site: Site) -> None:
    """Each run by an agent of its own, hooks in their order, all of them with the same beginning of it."""
    first = site.once(failing(site, after=2, when="first"), code=1)
    assert first.told("incident_opened") == []
    second = site.once(code=1)
    (opened,) = second.told("incident_opened")
    assert (opened["failures"], opened["outcome"], opened["failed_step"]) == (2, "failed", "play")
    assert opened["level"] == "warning"
    third = site.once(code=1)
    assert third.told("incident_opened") == []
    assert site.standing()["incident"] is True
    assert site.standing()["failing_since"]
    assert "3 failures in a row since" in " ".join(site.jetp("why").stdout.split())
    (site.root / "healed").touch()
    healed = site.once()
    (closed,) = healed.told("incident_closed")
    assert (closed["failures"], closed["since"]) == (3, opened["since"])
    assert closed["duration_s"] > 0
    assert site.standing()["incident"] is False
    assert told(site) == ["on_done 1", "on_fail 2", "on_done 2", "on_done 3", "on_ok 3", "on_recover 3", "on_done 3"]
    assert {line.split()[2] for line in site.read_lines("told")} == {opened["since"]}
    site.once()
    assert told(site)[-2:] == ["on_ok 0", "on_done 0"]
    assert site.read_lines("told")[-1].endswith(" never")


def test_without_limits_every_failure_is_told_as_ever(site: Site) -> None:
    """And on_recover comes after the last of them."""
    site.once(failing(site), code=1)
    site.once(code=1)
    (site.root / "healed").touch()
    site.once()
    names = [line.split()[0] for line in told(site)]
    assert names == ["on_fail", "on_done", "on_fail", "on_done", "on_ok", "on_recover", "on_done"]


def test_a_cancelled_run_is_neither_a_failure_nor_a_recovery(site: Site) -> None:
    """It opens nothing, and those who want to hear of incidents only are not told."""
    gate = site.gate()
    config = failing(site, when="first") | {"jet_command": site.shell(gate.text), "check_interval": "1h"}
    agent = site.start(config)
    agent.wait_for("step_started", step="play")
    site.supervisor_of("play")
    site.jetp("cancel")
    agent.wait_for("run_finished", outcome="cancelled")
    agent.wait_for("step_finished", step="on_done")
    agent.stop()
    assert agent.told("incident_opened") == []
    assert told(site) == ["on_done 0"]


def test_an_incident_crosses_a_reboot(site: Site) -> None:
    """A failure before it and an ok run after it: its length is that of the wall clock, an hour and more."""
    site.once(failing(site), code=1)
    (site.root / "healed").touch()
    healed = site.once(at=Elsewhen(wall_s=3600, rebooted=MAY_UNSHARE))
    (closed,) = healed.told("incident_closed")
    assert closed["failures"] == 1
    assert closed["duration_s"] >= (3600 if MAY_UNSHARE else 0)


def test_the_effective_configuration_says_who_is_told(site: Site) -> None:
    """`after` and `when` are printed with on_fail, and with no other command."""
    site.configure(failing(site, after=3))
    words = [JETP, "check-config", site.config, "--json"]
    done = subprocess.run(words, env=site.environ, capture_output=True, text=True, timeout=60, check=True)
    watch = json.loads(done.stdout)["watches"]["watch"]
    assert (watch["on_fail"]["after"], watch["on_fail"]["when"]) == (3, "every")
    assert "after" not in watch["on_recover"]
