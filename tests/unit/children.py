"""Something done in a forked child: as another user, or to be killed in the middle of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

NOBODY = 65_534


def in_child(attempt: Callable[[], object], *, uid: int | None = None) -> str:
    """What `attempt` raises in a child (class and sentence), empty when it raises nothing or is killed.

    With `uid` the child has become that user first, which needs root.
    """
    read_fd, write_fd = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of threads that the child will not have; this child does little, and leaves by _exit.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        said = ""
        try:
            if uid is not None:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            attempt()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent is to see it
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(write_fd, said.encode())
            os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


def as_nobody(attempt: Callable[[], object]) -> str:
    """The same as a user who owns nothing."""
    return in_child(attempt, uid=NOBODY)
