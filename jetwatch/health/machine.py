"""The kernel, control groups and the first process: what the agent makes use of, and what is lost without it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from jetwatch.bounded import read_proc
from jetwatch.clock import SystemClock
from jetwatch.health.finding import Finding, Verdict
from jetwatch.mounts import read_mounts

_LEAST_KERNEL = (5, 3)
_NAME_BYTES = 64  # TASK_COMM_LEN is 16
_INITS = frozenset(
    ("systemd", "init", "tini", "dumb-init", "docker-init", "catatonit", "s6-svscan", "runit", "openrc-init", "procd")
)
"""Names of first processes that collect the dead whom nobody waits for."""

_SIGNS_OF_CONTAINER = {"run/.containerenv": "podman", ".dockerenv": "docker", "run/host/container-manager": "nspawn"}
_WITHOUT_GROUPS = (
    "commands are ended by descent, session, mark and brand instead of by their group: one that sheds all gets away"
)


class Kernel(Struct, frozen=True):
    """`release` as uname says it; whether this process may have a pidfd, and a timer on the boot-time clock."""

    release: str
    pidfd: bool
    boot_timer: bool


class Groups(Struct, frozen=True):
    """Control groups. `mounted`: v2, hybrid, v1 or none. `in_use`: what a running agent says it has; None: none runs.

    `managed`: systemd hands out parts of the tree, and nobody takes one without having been given it.
    """

    mounted: str
    in_use: str | None
    managed: bool


class Init(Struct, frozen=True):
    """The name of process 1, and the container that this is; empty: none that can be seen."""

    name: str
    container: str = ""


def findings(kernel: Kernel, groups: Groups, init: Init) -> Iterator[Finding]:
    """One of each."""
    yield _kernel(kernel)
    yield _groups(groups)
    yield _init(init)


def _kernel(facts: Kernel) -> Finding:
    if _version(facts.release) < _LEAST_KERNEL:
        found = f"Linux {facts.release}; 5.3 or newer is needed"
        return Finding("kernel", Verdict.PROBLEM, "kernel", found, "upgrade the kernel")
    missing = [name for name, there in (("pidfd_open", facts.pidfd), ("timerfd", facts.boot_timer)) if not there]
    if missing:
        found = f"Linux {facts.release} refuses {' and '.join(missing)}, without which the agent cannot wait"
        return Finding("kernel", Verdict.PROBLEM, "kernel", found, "allow them in the seccomp profile or sandbox")
    return Finding("kernel", Verdict.OK, "kernel", f"Linux {facts.release}, pidfd, timer on the boot-time clock")


def _version(release: str) -> tuple[int, ...]:
    numbers = release.split("-", maxsplit=1)[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdigit())


def _groups(facts: Groups) -> Finding:
    subject = "control groups"
    if facts.in_use not in (None, "none"):
        return Finding("cgroup", Verdict.OK, subject, f"{facts.in_use}: the agent gives each command one of its own")
    if facts.mounted in ("none", "v1"):
        found = f"no cgroup v2 here ({facts.mounted}): {_WITHOUT_GROUPS}"
        return Finding("cgroup", Verdict.WARNING, subject, found, "boot with systemd.unified_cgroup_hierarchy=1")
    advice = "Delegate=yes in the unit" if facts.managed else "give the agent a subtree of /sys/fs/cgroup to write in"
    if facts.in_use == "none":
        return Finding("cgroup", Verdict.WARNING, subject, f"the agent has none of its own: {_WITHOUT_GROUPS}", advice)
    found = f"cgroup {facts.mounted}; whether an agent may use it shows when one runs"
    return Finding("cgroup", Verdict.OK, subject, found)


def _init(facts: Init) -> Finding:
    where = f", in a container ({facts.container})" if facts.container else ""
    found = f"process 1 is {facts.name or 'not to be seen'}{where}"
    if facts.container and facts.name and facts.name not in _INITS:
        sentence = f"{found}: it may not collect the dead, who then fill the table of processes"
        advice = "start the container with an init (docker run --init, or tini)"
        return Finding("init", Verdict.WARNING, "init", sentence, advice)
    return Finding("init", Verdict.OK, "init", found)


def read_kernel() -> Kernel:
    """Tried, not guessed: a sandbox may refuse what the kernel has."""
    return Kernel(os.uname().release, _has_pidfd(), _has_boot_timer())


def _has_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def _has_boot_timer() -> bool:
    try:
        SystemClock().close()
    except OSError:
        return False
    return True


def read_groups(in_use: str | None, systemd: Path = Path("/run/systemd/system")) -> Groups:
    """What is mounted, beside what the running agent said (`in_use`)."""
    try:
        mounts = read_mounts()
    except OSError:
        mounts = []
    points = [str(mount.point) for mount in mounts if mount.kind == "cgroup2"]
    if points:
        mounted = "v2" if "/sys/fs/cgroup" in points else "hybrid"
    else:
        mounted = "v1" if any(mount.kind == "cgroup" for mount in mounts) else "none"
    return Groups(mounted, in_use, systemd.is_dir())


def read_init(root: Path = Path("/")) -> Init:
    """The name of process 1, and the signs that container engines leave."""
    try:
        name = read_proc(root / "proc/1/comm", _NAME_BYTES).decode(errors="replace").strip()
    except OSError:
        name = ""
    container = next((engine for sign, engine in _SIGNS_OF_CONTAINER.items() if (root / sign).exists()), "")
    return Init(name, container or os.environ.get("container", ""))  # noqa: SIM112 - systemd's own spelling
