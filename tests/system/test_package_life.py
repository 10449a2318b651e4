"""The life of the deb on one machine: each test goes on where the one before it stopped, so they run in this order."""

from __future__ import annotations

import json
from typing import Any

import pytest
from nspawn import Machine
from waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG = """
check_command: test -e /root/due
jet_command: /root/play.sh {{ play_uuid }}
check_interval: 1
"""
PLAY = """#!/bin/sh
rm /root/due
echo "$1" > /root/begun
while [ -e /root/hold ]; do sleep 0.1; done
echo "$1" >> /root/ended
"""


def newest_run(machine: Machine) -> dict[str, Any]:
    """What `jetp runs` says about it."""
    found: list[dict[str, Any]] = json.loads(machine.run("jetp", "runs", "--limit", "1", "--json"))
    return found[0] if found else {}


def active(machine: Machine) -> bool:
    """Whether systemd calls the service started."""
    return machine.property("ActiveState") == "active"


def begin_held_run(machine: Machine) -> str:
    """Start a play that ends when /root/hold is gone; the run's id."""
    machine.write("/root/hold", "")
    machine.write("/root/begun", "")
    machine.write("/root/due", "")
    return until(lambda: machine.read("/root/begun").strip(), 60)


def end_held_run(machine: Machine, run: str) -> None:
    """Let that play end, and see its outcome told."""
    machine.run("rm", "/root/hold")
    until(lambda: run in machine.read("/root/ended"), 60)
    until(lambda: newest_run(machine).get("outcome") == "ok", 60, pause_s=0.1)
    assert newest_run(machine)["play_uuid"] == run


def test_an_installed_package_starts_nothing_without_a_configuration(machine: Machine) -> None:
    """The service is enabled and waits for /etc/jetwatch/watch.yml."""
    machine.run("dpkg", "-i", "/packages/now.deb", timeout_s=300)
    assert machine.run("systemctl", "is-enabled", "jetwatch").strip() == "enabled"
    assert machine.property("ActiveState") == "inactive"
    assert machine.property("ConditionResult") == "no"
    assert machine.run("jetp", "version").startswith("jetwatch ")


def test_the_service_starts_and_runs_a_play(machine: Machine) -> None:
    """READY is told, runs leave the agent alone with their outcome, and each command can be ended as a whole."""
    machine.write("/root/play.sh", PLAY, 0o755)
    machine.write("/etc/jetwatch/watch.yml", CONFIG)
    machine.run("systemctl", "start", "jetwatch")
    status = json.loads(machine.run("jetp", "status", "--json"))
    assert status["agent"]["detach"] is True
    run = begin_held_run(machine)
    end_held_run(machine, run)


def test_commands_have_a_control_group_each(machine: Machine) -> None:
    """The unit delegates its subtree, so ending a command ends all that it started."""
    status = json.loads(machine.run("jetp", "status", "--json"))
    if not machine.has("/sys/fs/cgroup/cgroup.controllers") and not machine.has("/sys/fs/cgroup/unified"):
        pytest.skip("this host has no cgroup v2")
    assert status["agent"]["cgroup"] in ("v2", "hybrid")


def test_reload_reads_the_configuration_again(machine: Machine) -> None:
    """`systemctl reload` keeps the process, and a configuration with an error changes nothing."""
    pid = machine.property("MainPID")
    machine.write("/etc/jetwatch/watch.yml", CONFIG + "no_such_key: 1\n")
    machine.run("systemctl", "reload", "jetwatch")
    journal = ("journalctl", "-u", "jetwatch", "-o", "cat")
    until(lambda: "config_rejected" in machine.run(*journal), 30, pause_s=0.1)
    machine.write("/etc/jetwatch/watch.yml", CONFIG + "jitter: 10%\n")
    machine.run("systemctl", "reload", "jetwatch")
    until(lambda: "config_reloaded" in machine.run(*journal), 30, pause_s=0.1)
    assert machine.property("MainPID") == pid


def test_a_play_survives_an_upgrade_and_its_outcome_is_told(machine: Machine) -> None:
    """The new version takes the run over; a changed file of /etc stays as the administrator left it."""
    machine.write("/etc/default/jetwatch", 'JETWATCH_OPTIONS="--log-level debug"\n')
    pid = machine.property("MainPID")
    run = begin_held_run(machine)
    machine.run("dpkg", "--force-confold", "-i", "/packages/next.deb", timeout_s=300)
    until(lambda: active(machine), 60)
    assert machine.property("MainPID") != pid
    assert "99.0" in machine.run("jetp", "version")
    end_held_run(machine, run)
    assert machine.read("/etc/default/jetwatch") == 'JETWATCH_OPTIONS="--log-level debug"\n'


def test_the_watchdog_replaces_an_agent_that_hangs_and_the_play_goes_on(machine: Machine) -> None:
    """An agent that is stopped in mid-air misses its word, is killed, and another one takes the run over."""
    machine.write("/etc/systemd/system/jetwatch.service.d/fast.conf", "[Service]\nWatchdogSec=2\nRestartSec=1\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "jetwatch")
    run = begin_held_run(machine)
    pid, restarts = machine.property("MainPID"), int(machine.property("NRestarts"))
    machine.run("kill", "-STOP", pid)
    until(lambda: int(machine.property("NRestarts")) == restarts + 1 and active(machine), 90, pause_s=0.2)
    journal = machine.run("journalctl", "-u", "jetwatch", "-o", "cat")
    assert "Watchdog timeout" in journal
    assert "Fatal Python error: Aborted" in journal  # and the stack of each thread
    assert machine.property("MainPID") not in (pid, "0")
    end_held_run(machine, run)


def test_a_configuration_with_errors_is_not_tried_for_ever(machine: Machine) -> None:
    """Exit code 78 leaves the service failed, until somebody mends the file and starts it."""
    machine.write("/etc/jetwatch/watch.yml", "no_such_key: 1\n")
    machine.run("systemctl", "restart", "jetwatch", ok=False)
    until(lambda: machine.property("ActiveState") == "failed", 30)
    assert machine.property("ExecMainStatus") == "78"
    machine.write("/etc/jetwatch/watch.yml", CONFIG)
    machine.run("systemctl", "start", "jetwatch")


def test_removal_keeps_state_and_lets_a_play_end(machine: Machine) -> None:
    """What is removed is the program: configuration and journal stay, and so does the play."""
    run = begin_held_run(machine)
    machine.run("dpkg", "-r", "jetwatch")
    assert not machine.has("/usr/lib/jetwatch")
    assert not machine.has("/usr/bin/jetp")
    assert machine.has("/var/lib/jetwatch/journal.db")
    assert machine.has("/etc/default/jetwatch")
    machine.run("rm", "/root/hold")
    until(lambda: run in machine.read("/root/ended"), 60)


def test_a_package_installed_again_tells_how_that_play_ended(machine: Machine) -> None:
    """The journal was kept, so the agent goes on where the removed one stopped."""
    machine.run("dpkg", "--force-confold", "-i", "/packages/now.deb", timeout_s=300)
    until(lambda: active(machine), 60)
    until(lambda: newest_run(machine).get("outcome") == "ok", 60, pause_s=0.1)


def test_purge_removes_state_and_keeps_what_a_person_wrote(machine: Machine) -> None:
    """Nothing of the package is left but watch.yml."""
    machine.run("dpkg", "-P", "jetwatch")
    for gone in ("/var/lib/jetwatch", "/var/log/jetwatch", "/usr/lib/jetwatch", "/etc/default/jetwatch"):
        assert not machine.has(gone), gone
    assert machine.read("/etc/jetwatch/watch.yml") == CONFIG
    assert "jetwatch" not in machine.run("systemctl", "list-unit-files", ok=False)
