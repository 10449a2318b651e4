"""A machine with a systemd of its own: this host's root under an overlay, booted by systemd-nspawn in half a second."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from waiting import until


def missing_here() -> str | None:
    """Why no machine can be booted here; None if one can."""
    if os.geteuid() != 0:
        return "booting a machine asks for root"
    if not Path("/usr/bin/dpkg").exists() or not Path("/usr/lib/systemd/systemd").exists():
        return "this host is no Debian with systemd: its root serves as the machine's"
    if shutil.which("systemd-nspawn") is None:
        return "systemd-nspawn is not installed: apt install systemd-container"
    return None


class Machine:
    """A booted machine. What is written to `root` is seen in it, and on the host it is gone with the machine."""

    def __init__(self, root: Path, leader: int) -> None:
        self.root = root
        self._leader = leader

    def run(self, *words: str, ok: bool = True, timeout_s: float = 120) -> str:
        """What a command in the machine prints, both streams. It must end well unless `ok` is false."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._leader), "-a", "--", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0 or not ok, f"{words} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file in the machine."""
        file = Path(f"/proc/{self._leader}/root{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def has(self, path: str) -> bool:
        """Whether there is such a path in the machine."""
        return os.path.lexists(f"/proc/{self._leader}/root{path}")

    def read(self, path: str) -> str:
        """The text of a file in the machine; empty if there is none."""
        file = Path(f"/proc/{self._leader}/root{path}")
        return file.read_text() if file.exists() else ""

    def cut_power(self) -> None:
        """End it as a machine ends whose plug is pulled: every process at once."""
        os.kill(self._leader, signal.SIGKILL)

    def property(self, name: str, unit: str = "jetwatch") -> str:
        """What systemd says about a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()


@contextmanager
def root_without_jetwatch(base: Path) -> Iterator[Path]:
    """This host's root under an overlay: what is written there is gone afterwards."""
    root, upper, work = (base / name for name in ("root", "upper", "work"))
    for each in (root, upper, work):
        each.mkdir(parents=True)
    layers = f"lowerdir=/,upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(root)], check=True)
    try:
        # What the host itself holds of jetwatch is none of the machine's.
        for left in ("etc/jetwatch", "var/lib/jetwatch", "var/log/jetwatch"):
            shutil.rmtree(root / left, ignore_errors=True)
        yield root
    finally:
        subprocess.run(["umount", "-R", str(root)], check=True)


@contextmanager
def bare_machine(base: Path) -> Iterator[Path]:
    """A root that nobody booted, for chroot: processes and devices are the host's."""
    with root_without_jetwatch(base) as root:
        subprocess.run(["mount", "-t", "proc", "proc", str(root / "proc")], check=True)
        subprocess.run(["mount", "--bind", "/dev", str(root / "dev")], check=True)
        yield root


@contextmanager
def booted(base: Path, packages: Path) -> Iterator[Machine]:
    """A machine with `packages` at /packages. Everything is ended and unmounted afterwards."""
    options = ("--private-network", f"--bind-ro={packages}:/packages")
    with root_without_jetwatch(base) as root, powered(root, "one", base / "console", *options) as machine:
        yield machine


@contextmanager
def powered(root: Path, name: str, console: Path, *options: str, unit: str = "basic.target") -> Iterator[Machine]:
    """A machine on this root until the end, or until its power is cut. `options` are nspawn's."""
    words = ["systemd-nspawn", "-D", str(root), "-M", f"jetwatch-{os.getpid()}-{name}", "--register=no", "--keep-unit"]
    words += ["--console=pipe", *options, "-q", "-b", f"systemd.unit={unit}"]
    with console.open("ab") as stream:
        spawned = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
    try:
        machine = Machine(root, until(lambda: _leader_of(spawned.pid), 30))
        until(lambda: _is_up(machine), 60, pause_s=0.1)
        yield machine
    finally:
        end(spawned)


def _is_up(machine: Machine) -> bool:
    said = machine.run("systemctl", "is-system-running", ok=False)
    assert "degraded" not in said, machine.run("journalctl", "--no-pager", "-b", "-p", "notice", "-o", "cat", ok=False)
    return "running" in said


def end(spawned: subprocess.Popen[bytes]) -> None:
    """Take the power away."""
    spawned.terminate()
    with suppress(subprocess.TimeoutExpired):
        spawned.wait(20)
    spawned.kill()
    spawned.wait()


def _leader_of(pid: int) -> int | None:
    """The machine's first process, once it is systemd: before, a child of nspawn prepares it and goes."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(OSError):
            if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                return int(child)
    return None
