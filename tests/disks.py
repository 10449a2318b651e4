"""Disks that tests may fill, break and cut off: in memory, or files that are mounted as disks. All need root."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_STEP_BYTES = 64 * 1024
_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN of the kernel's fs.h, which ext4, xfs and f2fs know
_CLONE_NEWNS = 0x00020000
_NO_LOG_FLUSH = 2  # what is not on disk now never comes there


def why_no_mount() -> str | None:
    """Why nothing can be mounted here; None when it can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    if shutil.which("mount") is None:
        return "there is no mount command"
    return None


@contextlib.contextmanager
def small_disk(place: Path, *, size: str = "32m", inodes: int = 0) -> Iterator[Path]:
    """An empty file system in memory at `place`, with so many inodes (0: the kernel's own number)."""
    place.mkdir(mode=0o700, exist_ok=True)
    options = f"size={size},mode=0700" + (f",nr_inodes={inodes}" if inodes else "")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "jetwatch-test", place], check=True)
    try:
        yield place
    finally:
        unmount(place)


@functools.cache
def keep_mounts_to_ourselves() -> None:
    """A namespace that anybody else makes meanwhile would keep a copy of what is mounted here, and with it the disk."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "no mount namespace can be made")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


class LoopDisk:
    """A file that is mounted as a disk, and whose power can be cut. `kind`: ext4 or xfs; `options`: of its mkfs."""

    def __init__(self, kind: str, image: Path, place: Path, *options: str) -> None:
        keep_mounts_to_ourselves()
        self.place = place
        self._image = image
        with image.open("wb") as target:
            target.truncate(512 * 1024**2)
        subprocess.run([f"mkfs.{kind}", "-q", *options, image], check=True)
        place.mkdir()
        self.mount()

    def mount(self) -> None:
        """Also after a cut: the file system's log is replayed."""
        subprocess.run(["mount", "-o", "loop", self._image, self.place], check=True)

    def cut_power(self) -> None:
        """From this instant nothing reaches the disk; everything on it fails until it is mounted again."""
        fd = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def unmount(self) -> None:
        """Once nobody has anything open on it, in any namespace: whoever was killed needs a moment to be gone."""
        deadline = time.monotonic() + 30
        while self._is_mounted():
            subprocess.run(["umount", self.place], capture_output=True, check=False)
            assert time.monotonic() < deadline, f"{self.place}: somebody still uses this disk"
            time.sleep(0.02)

    def _is_mounted(self) -> bool:
        found = subprocess.run(["losetup", "-j", self._image], capture_output=True, text=True, check=True)
        return bool(found.stdout.strip())


def why_no_loop(kind: str) -> str | None:
    """Why no such disk can be made here; None when it can."""
    if shutil.which(f"mkfs.{kind}") is None:
        return f"there is no mkfs.{kind}"
    if why_no_mount() is None and subprocess.run(["losetup", "-f"], capture_output=True, check=False).returncode != 0:
        return "there is no loop device"
    return why_no_mount()


def unmount(place: Path) -> None:
    """Also where something is still open on it."""
    if subprocess.run(["umount", place], capture_output=True, check=False).returncode != 0:
        subprocess.run(["umount", "--lazy", place], check=True)


class Filling:
    """Takes all that is free on a disk, and gives it back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "filling"

    def fill(self) -> None:
        """No block is left. What others free meanwhile is taken by the next call."""
        self._folder.mkdir(exist_ok=True)
        number = len(list(self._folder.iterdir()))
        fd = os.open(self._folder / f"{number}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
        try:
            size = _STEP_BYTES * 1024
            offset = 0
            while size >= 512:
                try:
                    os.posix_fallocate(fd, offset, size)
                    offset += size
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2
        finally:
            os.close(fd)

    def take_inodes(self) -> None:
        """No file can be made any more."""
        self._folder.mkdir(exist_ok=True)
        with contextlib.suppress(OSError):
            for number in range(1_000_000):
                (self._folder / f"inode{number}").touch()

    def empty(self) -> None:
        """Everything is free again."""
        shutil.rmtree(self._folder, ignore_errors=True)
