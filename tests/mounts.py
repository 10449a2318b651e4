"""Real mounts that behave as a file server does on a bad day: sshfs on loopback, and a FUSE file system that obeys.

Both are unmounted at the end, whatever happens, and whoever waits for one is let go. Where a program is not installed
the tests are skipped with the reason, and fail in CI (CI=true); where there is no /dev/fuse they are skipped.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers import program
from waiting import until

UNRULY = Path(__file__).with_name("unruly_fs.py")
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")


@dataclass(frozen=True)
class Mounted:
    """A mount: where it is, the directory that it shows, and the process that serves it."""

    path: Path
    behind: Path
    server: subprocess.Popen[bytes]


@dataclass(frozen=True)
class Unruly(Mounted):
    """A mount whose every answer can be made a bad one."""

    fault: Path

    def suffer(self, fault: str) -> None:
        """From now on calls meet this fault (see `unruly_fs.py`); nothing: all is well again."""
        new = self.fault.with_suffix(".new")
        new.write_text(fault)
        new.rename(self.fault)


def need_fuse() -> None:
    """Skip the test where the kernel lets nobody mount; what can be installed is asked for as ever."""
    program("fusermount3")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no FUSE here: /dev/fuse is missing, or not for this user")


@contextlib.contextmanager
def sshfs(root: Path) -> Iterator[Mounted]:
    """The directory `root/behind`, mounted at `root/mount` by sshfs, which talks to a real sftp-server by a pipe."""
    need_fuse()
    server = next((path for path in SFTP_SERVERS if Path(path).exists()), None) or program("sftp-server")
    connect = root / "connect"
    connect.write_text(f"#!/bin/sh\nexec {server}\n")
    connect.chmod(0o755)
    fresh = "dir_cache=no,attr_timeout=0,entry_timeout=0"  # a look is to see what is there, as on NFS with noac
    words = [program("sshfs"), "-f", "-o", f"ssh_command={connect},{fresh}", f"nobody@nowhere:{_made(root)}"]
    with _mounted([*words, str(root / "mount")], root) as process:
        yield Mounted(root / "mount", root / "behind", process)


@contextlib.contextmanager
def unruly(root: Path) -> Iterator[Unruly]:
    """The directory `root/behind`, mounted at `root/mount` by a file system that has the fault it is told to have."""
    need_fuse()
    behind, fault = _made(root), root / "fault"
    words = [sys.executable, str(UNRULY), str(behind), str(root / "mount"), str(fault)]
    with _mounted(words, root) as process:
        yield Unruly(root / "mount", behind, process, fault)


def _made(root: Path) -> Path:
    (root / "mount").mkdir()
    (root / "behind").mkdir()
    return root / "behind"


@contextlib.contextmanager
def _mounted(words: list[str], root: Path) -> Iterator[subprocess.Popen[bytes]]:
    mount = root / "mount"
    with (root / "mount.log").open("wb") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def is_mounted() -> bool:
        assert process.poll() is None, (root / "mount.log").read_text()
        return os.path.ismount(mount)

    try:
        until(is_mounted, 30)
        yield process
    finally:
        # Killed first: the kernel then answers everybody who waits, and nothing is left that could hold the mount.
        process.kill()
        process.wait()
        subprocess.run([shutil.which("fusermount3") or "fusermount3", "-u", "-z", str(mount)], check=False)
