"""What systemd is told never stands in the way of the work (on a real socket: tests/acceptance/test_notify.py)."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from jetwatch.notify import Notifier


def test_nobody_listening_is_no_error(tmp_path: Path) -> None:
    """The service manager may have gone away."""
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).send("READY=1")


def test_no_descriptor_to_be_had_is_no_error(tmp_path: Path) -> None:
    """An agent that is out of descriptors has other things to fail at."""
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        notifier.send("READY=1")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
