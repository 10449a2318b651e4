"""A Unix socket's address. The kernel takes 107 bytes of path; a longer one is reached through its directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATH_LIMIT_BYTES = 107


@contextmanager
def address(path: Path) -> Iterator[str]:
    """A name of `path` that is short enough, valid inside the `with` block. Raises OSError."""
    if len(os.fsencode(path)) <= PATH_LIMIT_BYTES:
        yield str(path)
        return
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)
