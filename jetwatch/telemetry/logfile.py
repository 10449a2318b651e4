"""A log file that others may rename, remove, replace or truncate while it is written.

Every line is one write at the end of the file, so `copytruncate` leaves no hole. A file that was renamed is gone on
with until it is opened anew (`reopen`, on HUP), until another one stands in its place, or until it was removed. Its
directory may belong to others, who get no say in where a line goes: it is opened there, by descriptor.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from jetwatch.errors import ConfigError, NotTrusted, Problem
from jetwatch.telemetry.outlet import Outlet
from jetwatch.trust import enter

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC


class LogFile(Outlet):
    """One file. Not for two threads at once. Raises ConfigError where it cannot be opened at first."""

    def __init__(self, path: Path, mode: int) -> None:
        self._path = path
        self._mode = mode
        try:
            super().__init__(_open(path, mode))
        except (OSError, NotTrusted) as error:
            reason = error.strerror or error if isinstance(error, OSError) else error.reason
            sentence = f"cannot be written: {reason}"
            raise ConfigError([Problem(str(path), 1, "log.file", sentence)]) from error

    def put(self, line: bytes) -> None:
        """Write the line to the file that the path names now."""
        if self._is_elsewhere():
            self.reopen()
        super().put(line)

    def reopen(self) -> None:
        """Go on in the file that the path names, made if it is missing; where that cannot be, in the one at hand."""
        with suppress(OSError, NotTrusted):
            self.use(_open(self._path, self._mode))

    def close(self) -> None:
        """Give the file back."""
        super().close()
        os.close(self.fd)

    def _is_elsewhere(self) -> bool:
        """Whether another file stands at the path, or ours was removed. A path that names nothing was renamed."""
        own = os.fstat(self.fd)
        try:
            found = os.stat(self._path, follow_symlinks=False)  # noqa: PTH116 - once per line
        except OSError:
            return own.st_nlink == 0
        return not os.path.samestat(own, found)


def _open(path: Path, mode: int) -> int:
    """The file, to append to; made with this very mode. Others' modes stay. Raises OSError, NotTrusted."""
    with enter(path.parent) as folder:
        return _open_in(folder.fd, path.name, mode)


def _open_in(folder: int, name: str, mode: int) -> int:
    try:
        fd = os.open(name, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
    except FileExistsError:
        return _open_found(folder, name)
    os.fchmod(fd, mode)  # whatever the umask
    return fd


def _open_found(folder: int, name: str) -> int:
    """A file that is there. Neither a link nor a second name of something else: who may write here is not the agent."""
    fd = os.open(name, _FLAGS, dir_fd=folder)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(fd)
        raise OSError(errno.EINVAL, "no plain file with one name")
    return fd
