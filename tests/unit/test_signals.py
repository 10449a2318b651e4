"""Signals of a process that starts: none is lost, and none ends it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """\
import os
import signal
from jetwatch.signals import Signals, hold_back

hold_back(signal.SIGHUP)
os.kill(os.getpid(), signal.SIGHUP)
signals = Signals((signal.SIGHUP,))
print(list(signals.read()))
os.kill(os.getpid(), signal.SIGHUP)
print(list(signals.read()))
"""


def test_a_signal_that_comes_too_early_is_heard_later() -> None:
    """HUP between the reading of the configuration and the first handler asks for another reading.

    In a process of its own: to one with another thread, which does not hold it back, the signal would be the end.
    """
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1]\n[1]\n", "")
