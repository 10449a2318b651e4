"""Signals of a process that starts: none is lost, and none ends it."""

from __future__ import annotations

import os
import signal

from jetwatch.signals import Signals, hold_back


def test_a_signal_that_comes_too_early_is_heard_later() -> None:
    """HUP between the reading of the configuration and the first handler asks for another reading."""
    hold_back(signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGHUP)
    signals = Signals((signal.SIGHUP,))
    try:
        assert signals.read() == bytes([signal.SIGHUP])
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.read() == bytes([signal.SIGHUP])
    finally:
        signals.restore()
