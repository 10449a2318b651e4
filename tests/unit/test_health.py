"""What `jetp doctor` concludes from what it read: a table for each topic, and the readings not handed in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from jetwatch.cli.doctor import as_text, summary
from jetwatch.config.model import MIB, DiskReserve
from jetwatch.health import agents, files, machine, programs, service, storage, timekeeping
from jetwatch.health.finding import Finding, Verdict, exit_code
from jetwatch.records import Command

OK, WARNING, NOT_NOW, PROBLEM = Verdict.OK, Verdict.WARNING, Verdict.NOT_NOW, Verdict.PROBLEM
NOON = 1_790_000_000.0


@pytest.mark.parametrize(
    ("kernel", "timesyncd", "chronyd", "verdict"),
    [
        (True, False, False, OK),
        (False, True, False, OK),
        (None, False, True, OK),
        (False, False, False, WARNING),
        (None, False, False, WARNING),
    ],
)
def test_somebody_has_to_keep_the_clock(kernel: bool | None, timesyncd: bool, chronyd: bool, verdict: Verdict) -> None:
    """Whoever it is."""
    kept, _ = timekeeping.findings(timekeeping.Timekeeping(kernel, timesyncd, chronyd, NOON))
    assert (kept.code, kept.verdict) == ("time_service", verdict)


@pytest.mark.parametrize(("ahead_s", "verdict"), [(-3600, OK), (0, OK), (119, OK), (121, NOT_NOW), (1e9, NOT_NOW)])
def test_a_clock_before_the_machines_own_files_is_wrong(ahead_s: float, verdict: Verdict) -> None:
    """As on a machine without a battery, until the time service has spoken."""
    facts = timekeeping.Timekeeping(True, False, False, NOON, Path("/x"), NOON + ahead_s)
    _, clock = timekeeping.findings(facts)
    assert clock.verdict is verdict
    assert "UTC" in clock.found


def test_the_kernel_is_asked_and_the_newest_file_is_the_witness(tmp_path: Path) -> None:
    """Files that are not there say nothing."""
    for name, changed in (("old", 100), ("new", 200)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (changed, changed))
    (tmp_path / "run/systemd/timesync").mkdir(parents=True)
    (tmp_path / "run/systemd/timesync/synchronized").touch()
    facts = timekeeping.read([tmp_path / "new", tmp_path / "none", tmp_path / "old"], tmp_path)
    assert (facts.newest, facts.newest_s, facts.timesyncd, facts.chronyd) == (tmp_path / "new", 200, True, False)
    assert facts.kernel in (True, False)


PLACE = storage.Storage(
    path=Path("/var/lib/jetwatch"),
    place=Path("/var/lib/jetwatch"),
    owner_uid=0,
    my_uid=0,
    mode=0o700,
    kind="ext4",
    free_bytes=1024 * MIB,
    free_inodes=100_000,
    writable=True,
)


@pytest.mark.parametrize(
    ("changes", "code", "verdict"),
    [
        ({}, "state_dir", OK),
        ({"mode": 0o711}, "state_dir", OK),
        ({"mode": 0o777}, "state_dir", PROBLEM),
        ({"mode": 0o720}, "state_dir", PROBLEM),
        ({"untrusted": "/srv belongs to uid 7"}, "state_dir", PROBLEM),
        ({"place": Path("/var/lib"), "untrusted": "/srv belongs to uid 7"}, "state_dir", PROBLEM),
        ({"owner_uid": 7}, "state_dir", PROBLEM),
        ({"my_uid": 7}, "state_dir", PROBLEM),
        ({"writable": False}, "state_dir", PROBLEM),
        ({"place": Path("/var/lib")}, "state_dir", OK),
        ({"place": Path("/var/lib"), "owner_uid": 7, "mode": 0o777}, "state_dir", OK),
        ({"place": Path("/var/lib"), "writable": False}, "state_dir", PROBLEM),
        ({}, "file_system", OK),
        ({"kind": ""}, "file_system", OK),
        ({"kind": "nfs4"}, "file_system", PROBLEM),
        ({"kind": "fuse.sshfs"}, "file_system", PROBLEM),
        ({"kind": "vfat"}, "file_system", PROBLEM),
        ({"read_only": True}, "file_system", PROBLEM),
        ({"kind": "tmpfs"}, "file_system", WARNING),
        ({"kind": "overlay"}, "file_system", WARNING),
        ({"no_programs": True}, "file_system", WARNING),
        ({}, "space", OK),
        ({"free_inodes": -1}, "space", OK),
        ({"free_bytes": 63 * MIB}, "space", NOT_NOW),
        ({"free_inodes": 999}, "space", NOT_NOW),
        ({"free_bytes": 130 * MIB}, "space", WARNING),
        ({"free_inodes": 1_999}, "space", WARNING),
    ],
)
def test_the_state_directory_is_judged(changes: dict[str, object], code: str, verdict: Verdict) -> None:
    """By owner and mode, by what it lies on, by the room that is left."""
    found = {each.code: each for each in storage.findings(replace(PLACE, **changes), DiskReserve())}  # type: ignore[arg-type]
    assert found[code].verdict is verdict
    assert bool(found[code].advice) == (verdict is not OK)


def test_of_a_directory_that_is_not_there_the_one_above_is_read(tmp_path: Path) -> None:
    """As far up as needed."""
    facts = storage.read(tmp_path / "a" / "b")
    assert (facts.place, facts.exists, facts.owner_uid) == (tmp_path, False, os.geteuid())


HERE = Path("/usr/bin/true")


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (programs.Program("play", "/no", path=None), "there is no /no"),
        (programs.Program("play", "no", searched="PATH (/x)"), "there is no no in PATH (/x)"),
        (programs.Program("play", "/x", path=HERE, is_file=False), "no file"),
        (programs.Program("play", "/x", path=HERE, may_start=False, user="web"), "user web may not execute"),
        (programs.Program("play", "/x", path=HERE, interpreter="/usr/bin/perl6"), "asks for /usr/bin/perl6"),
        (programs.Program("play", "/x", path=HERE, interpreter="/bin/sh\r"), "as on Windows"),
        (programs.Program("play", "/x", refused="user web: no such user"), "no such user"),
    ],
)
def test_a_command_that_cannot_start_is_a_problem(program: programs.Program, said: str) -> None:
    """Each with what to do."""
    [found] = programs.findings("web", [program, programs.Program("check", "/x", path=HERE)])
    assert (found.verdict, found.subject) == (PROBLEM, "commands of web")
    assert found.found.startswith("play: ")
    assert said in found.found
    assert found.advice


def test_what_is_wrong_of_several_commands_is_said_once() -> None:
    """With all their names."""
    [found] = programs.findings("web", [programs.Program(step, "no") for step in ("check", "play")])
    assert found.found == "check, play: there is no no"


def test_commands_that_can_start_are_one_line() -> None:
    """With those that a template decides told apart."""
    there = programs.Program("check", "/x", path=HERE)
    [found] = programs.findings("web", [there, programs.Program("play", "{{ download_path }}/run")])
    assert (found.verdict, found.found) == (OK, "check: found; play: known when it starts")


@pytest.mark.parametrize(
    ("first_line", "interpreter"),
    [
        ("#!/bin/sh\n", ""),
        ("#! /bin/sh -e\n", ""),
        ("#!/bin/sh\r\n", "/bin/sh\r"),
        ("#!/no/such/perl -w\n", "/no/such/perl"),
        ("#!/usr/bin/env sh\n", ""),
        ("#!/usr/bin/env no-such-python\n", "no-such-python"),
        ("#!/usr/bin/env -S sh -e\n", ""),
        ("\x7fELF", ""),
        ("", ""),
    ],
)
def test_a_script_is_looked_into_for_its_interpreter(tmp_path: Path, first_line: str, interpreter: str) -> None:
    """The kernel would say no more than `no such file`."""
    script = tmp_path / "script"
    script.write_bytes(first_line.encode())
    script.chmod(0o755)
    found = programs.look_for("play", str(script), Command(words=(str(script),)), "/", {"PATH": "/usr/bin:/bin"})
    assert (found.path, found.may_start, found.interpreter) == (script, True, interpreter)


def test_a_program_is_looked_for_as_its_start_would(tmp_path: Path) -> None:
    """A bare name on PATH, one with a slash from the working directory of the command, else of the agent."""
    for folder in ("bin", "cwd"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tool").write_text("")
    (tmp_path / "bin/tool").chmod(0o755)
    env = {"PATH": str(tmp_path / "bin")}
    command = Command(words=("x",), cwd=str(tmp_path / "cwd"))
    assert programs.look_for("play", "tool", command, "/", env).path == tmp_path / "bin/tool"
    beside = programs.look_for("play", "./tool", command, "/", env)
    assert (beside.path, beside.may_start) == (tmp_path / "cwd/tool", False)
    assert programs.look_for("play", "bin/tool", Command(words=("x",)), str(tmp_path), env).path is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_whether_another_user_may_start_it_is_read_off_the_modes(tmp_path: Path) -> None:
    """Those of the directories above it, too."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    for above in (tmp_path, *tmp_path.parents[:-1]):
        if above != Path("/tmp"):
            above.chmod(0o755)
    command = Command(words=(str(script),), user="nobody")

    def may_start() -> bool:
        return programs.look_for("play", str(script), command, "/", {}).may_start

    assert may_start()
    tmp_path.chmod(0o700)
    assert not may_start()
    tmp_path.chmod(0o755)
    script.chmod(0o744)
    assert not may_start()


@pytest.mark.parametrize(
    ("file", "verdict"),
    [
        (files.File("env_file", Path("/x"), secret=True, mode=0o600), OK),
        (files.File("env_file", Path("/x"), secret=True, mode=0o640), OK),
        (files.File("env_file", Path("/x"), secret=True, mode=0o644), WARNING),
        (files.File("config_rights", Path("/x"), secret=False, mode=0o644), OK),
        (files.File("env_file", Path("/x"), secret=True, missing="No such file or directory"), PROBLEM),
    ],
)
def test_files_are_judged_by_who_may_read_them(file: files.File, verdict: Verdict) -> None:
    """Who may change them was judged when the configuration was read."""
    [found] = files.findings([file])
    assert (found.code, found.verdict) == (file.code, verdict)


@pytest.mark.parametrize(
    ("kernel", "verdict"),
    [
        (machine.Kernel("6.1.0-18-amd64", True, True), OK),
        (machine.Kernel("5.3.0", True, True), OK),
        (machine.Kernel("5.2.99", True, True), PROBLEM),
        (machine.Kernel("4.18.0-553.el8", True, True), PROBLEM),
        (machine.Kernel("6.1.0", False, True), PROBLEM),
        (machine.Kernel("6.1.0", True, False), PROBLEM),
    ],
)
def test_the_kernel_has_to_be_new_enough_and_to_allow_it(kernel: machine.Kernel, verdict: Verdict) -> None:
    """A sandbox counts as the kernel does."""
    found = next(machine.findings(kernel, machine.Groups("v2", "v2", True), machine.Init("systemd")))
    assert (found.code, found.verdict) == ("kernel", verdict)


@pytest.mark.parametrize(
    ("mounted", "in_use", "verdict"),
    [
        ("v2", "v2", OK),
        ("hybrid", "hybrid", OK),
        ("v2", None, OK),
        ("v2", "none", WARNING),
        ("v1", None, WARNING),
        ("none", "none", WARNING),
    ],
)
def test_what_is_lost_without_control_groups_is_said(mounted: str, in_use: str | None, verdict: Verdict) -> None:
    """A running agent's own word counts."""
    groups = machine.Groups(mounted, in_use, managed=True)
    _, found, _ = machine.findings(machine.Kernel("6.1", True, True), groups, machine.Init("systemd"))
    assert (found.code, found.verdict) == ("cgroup", verdict)
    assert ("one that sheds all gets away" in found.found) == (verdict is WARNING)


@pytest.mark.parametrize(
    ("name", "container", "verdict"),
    [
        ("systemd", "", OK),
        ("sh", "", OK),
        ("tini", "docker", OK),
        ("jetp", "docker", WARNING),
        ("", "podman", OK),
    ],
)
def test_a_container_needs_an_init(name: str, container: str, verdict: Verdict) -> None:
    """Somebody has to collect the dead."""
    groups = machine.Groups("v2", "v2", False)
    *_, found = machine.findings(machine.Kernel("6.1", True, True), groups, machine.Init(name, container))
    assert (found.code, found.verdict) == ("init", verdict)


def test_a_container_is_known_by_its_signs(tmp_path: Path) -> None:
    """And process 1 by its name."""
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/1/comm").write_text("tini\n")
    (tmp_path / ".dockerenv").touch()
    assert machine.read_init(tmp_path) == machine.Init("tini", "docker")


GOOD_UNIT = {
    "UnitFileState": "enabled",
    "KillMode": "process",
    "Environment": "JETWATCH_KILL_MODE=process",
    "WatchdogUSec": "1min",
    "Restart": "always",
    "Delegate": "yes",
    "NoNewPrivileges": "no",
    "ProtectSystem": "no",
    "PrivateTmp": "no",
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"KillMode": "control-group"}, "KillMode=control-group"),
        ({"Environment": ""}, "the agent does not know it"),
        ({"WatchdogUSec": "0"}, "no watchdog"),
        ({"WatchdogUSec": "infinity"}, "no watchdog"),
        ({"Restart": "no"}, "stays dead"),
        ({"Delegate": "no"}, "no delegated control group"),
        ({"UnitFileState": "disabled"}, "does not start at boot"),
        ({"NoNewPrivileges": "yes", "ProtectSystem": "strict"}, "plays inherit NoNewPrivileges, ProtectSystem"),
    ],
)
def test_a_unit_is_read_for_what_costs_plays_or_the_agent(changes: dict[str, str], said: str) -> None:
    """One warning for each."""
    [found] = service.findings(service.Unit("jetwatch.service", {**GOOD_UNIT, **changes}))
    assert (found.verdict, found.code) == (WARNING, "unit")
    assert said in found.found


def test_a_good_unit_is_one_line_and_so_is_none() -> None:
    """Without systemd there is nothing to say."""
    assert [each.verdict for each in service.findings(service.Unit("x.service", GOOD_UNIT))] == [OK]
    assert [each.verdict for each in service.findings(None)] == [OK]


@pytest.mark.parametrize(
    ("cgroups", "unit"),
    [
        ("0::/system.slice/jetwatch.service\n", "jetwatch.service"),
        ("1:name=systemd:/x\n0::/system.slice/jetwatch@web.service/agent\n", "jetwatch@web.service"),
        ("0::/user.slice/user-0.slice/session-1.scope\n", ""),
        ("", ""),
    ],
)
def test_a_process_tells_its_unit(cgroups: str, unit: str) -> None:
    """By its control group."""
    assert service.unit_of(cgroups) == unit


@pytest.mark.parametrize(
    ("agent", "verdicts"),
    [
        (None, [OK]),
        (agents.Agent(7, "2.0", running=True), [OK]),
        (agents.Agent(7, "1.0", running=True), [WARNING]),
        (agents.Agent(7, "2.0", running=True, rejected="x.yml:1: no"), [PROBLEM]),
        (agents.Agent(7, "1.0", running=True, stalled=True), [NOT_NOW, WARNING]),
        (agents.Agent(7, "2.0", running=False), [WARNING]),
        (agents.Agent(7, "2.0", running=False, crashed=True), [WARNING]),
    ],
)
def test_the_agent_of_a_state_directory_is_judged(agent: agents.Agent | None, verdicts: list[Verdict]) -> None:
    """Running or gone, old, stalled, or without its newest configuration."""
    assert [each.verdict for each in agents.findings(agent, "2.0")] == verdicts


def test_two_agents_may_not_obey_one_configuration() -> None:
    """Others are named, and no more."""
    ours = Path("/etc/jetwatch/watch.yml")
    others = [agents.Other(5, ours), agents.Other(6, Path("/etc/jetwatch/web.yml")), agents.Other(8, None)]
    assert [each.verdict for each in agents.others_findings(others, ours)] == [WARNING, OK, OK]


@pytest.mark.parametrize(
    ("words", "config"),
    [
        ("/usr/bin/jetp watch --watch-config w.yml", "/home/w.yml"),
        ("/usr/lib/jetwatch/bin/python -I /usr/bin/jetp watch --once --watch-config=/etc/w.yml", "/etc/w.yml"),
        ("python -m jetwatch watch --watch-config /x", "/x"),
        ("jetp watch", None),
    ],
)
def test_an_agent_is_known_by_its_command_line(words: str, config: str | None) -> None:
    """With what it names as configuration."""
    assert agents.is_agent(words.split())
    assert agents.config_of(words.split(), Path("/home")) == (Path(config) if config else None)


@pytest.mark.parametrize(
    "words", ["jetp status", "vim jetp.c", "watch jetp status", "sh -c jetp watch.yml", "tini -- jetp watch", ""]
)
def test_what_only_looks_like_an_agent_is_none(words: str) -> None:
    """An editor, another command, a watch(1), an init."""
    assert not agents.is_agent(words.split())


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [([], 0), ([OK, WARNING], 0), ([OK, NOT_NOW], 75), ([NOT_NOW, PROBLEM, OK], 78)],
)
def test_the_worst_finding_decides(verdicts: list[Verdict], code: int) -> None:
    """A person before patience before nothing."""
    assert exit_code(Finding("x", verdict, "x", "x") for verdict in verdicts) == code


def test_a_finding_fits_into_80_columns() -> None:
    """The verdict in front, what to do below, and nothing that moves a cursor."""
    found = Finding("x", NOT_NOW, "space", "\x1b[2J" + "little room " * 20, "make room " * 20)
    lines = as_text(found).splitlines()
    assert lines[0].startswith("not now  space: \\x1b[2J")
    assert [line for line in lines if line.startswith("         do: make room")]
    assert all(len(line) <= 80 for line in lines)
    assert summary([found, found, Finding("y", OK, "y", "y")]) == "\nnot now: 2, ok: 1"
