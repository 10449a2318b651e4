"""File descriptors: how many of them this process may have, and a wait for one that works with any number of them."""

from __future__ import annotations

import resource
import select

_ENOUGH = 65_536
_LONGEST_POLL_MS = 2**31 - 1


def raise_limit() -> int:
    """Allow this process as many open files as it may allow itself, up to 65,536. Returns how many it had before.

    What it starts is to get that number back: a program that uses select(2) fails beyond 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return soft


def limit() -> int:
    """How many this process may have now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _ENOUGH if soft == resource.RLIM_INFINITY else soft


def is_readable(fd: int, *, within_s: float = 0.0) -> bool:
    """Whether `fd` can be read, has ended or has failed, within that time."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(min(within_s * 1000, _LONGEST_POLL_MS)))
