"""The systemd unit that starts the agent: what in it costs plays their life, or the machine its agent."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from jetwatch.bounded import read_proc
from jetwatch.health.finding import Finding, Verdict

_INHERITED = ("NoNewPrivileges", "ProtectSystem", "ProtectHome", "PrivateTmp")
_ASKED = (
    *("LoadState", "UnitFileState", "KillMode", "Environment", "WatchdogUSec", "Restart", "Delegate"),
    *_INHERITED,
)
_OFF = ("", "no")
_DEADLINE_S = 10.0
_GROUPS_BYTES = 64 * 1024


class Unit(Struct, frozen=True):
    """What `systemctl show` says of one unit."""

    name: str
    properties: Mapping[str, str]

    def says(self, name: str) -> str:
        """One property, empty where it is not told."""
        return self.properties.get(name, "")


def findings(unit: Unit | None) -> Iterator[Finding]:
    """None: systemd does not manage this machine, or has no unit of the agent's."""
    if unit is None:
        yield Finding("unit", Verdict.OK, "service", "no systemd unit of the agent's here")
        return
    wrong = list(_wrong(unit))
    for found, advice in wrong:
        yield Finding("unit", Verdict.WARNING, "service", f"{unit.name}: {found}", advice)
    if not wrong:
        found = "plays outlive the agent; watchdog and restart are on"
        yield Finding("unit", Verdict.OK, "service", f"{unit.name}: {found}")


def _wrong(unit: Unit) -> Iterator[tuple[str, str]]:
    """What is wrong, and what to do."""
    if unit.says("KillMode") != "process":
        yield (
            f"KillMode={unit.says('KillMode')}: a stop would end plays, so the agent waits for them first",
            "KillMode=process and Environment=JETWATCH_KILL_MODE=process",
        )
    elif "JETWATCH_KILL_MODE=process" not in _environment(unit):
        yield (
            "KillMode=process, and the agent does not know it: it waits for plays all the same",
            "Environment=JETWATCH_KILL_MODE=process",
        )
    if unit.says("WatchdogUSec") in ("", "0", "infinity"):
        yield "no watchdog: an agent that hangs stays", "Type=notify and WatchdogSec=60"
    if unit.says("Restart") in _OFF:
        yield "an agent that dies stays dead", "Restart=always"
    if unit.says("Delegate") in _OFF:
        yield "no delegated control group: commands are ended less exactly", "Delegate=yes"
    if unit.says("UnitFileState") == "disabled":
        yield "it does not start at boot", f"systemctl enable {unit.name}"
    if inherited := [name for name in _INHERITED if unit.says(name) not in _OFF]:
        yield f"plays inherit {', '.join(inherited)}", "take out what your plays cannot live with"


def _environment(unit: Unit) -> list[str]:
    try:
        return shlex.split(unit.says("Environment"))
    except ValueError:
        return []


def unit_of(cgroups: str) -> str:
    """The service in a /proc/PID/cgroup; empty where there is none."""
    for line in cgroups.split("\n"):  # a group's name holds any character but this
        for part in reversed(line.rpartition(":")[2].split("/")):
            if part.endswith(".service"):
                return part
    return ""


def read(agent_pid: int | None, systemd: Path = Path("/run/systemd/system")) -> Unit | None:
    """The unit that the running agent is in; without one, jetwatch.service."""
    systemctl = shutil.which("systemctl")
    if systemctl is None or not systemd.is_dir():
        return None
    name = "jetwatch.service" if agent_pid is None else _unit_of_process(agent_pid)
    if not name:
        return None
    words = [systemctl, "show", "-p", ",".join(_ASKED), "--", name]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_DEADLINE_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    properties = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return Unit(name, properties) if properties.get("LoadState") == "loaded" else None


def _unit_of_process(pid: int) -> str:
    try:
        return unit_of(os.fsdecode(read_proc(f"/proc/{pid}/cgroup", _GROUPS_BYTES)))
    except OSError:
        return ""
