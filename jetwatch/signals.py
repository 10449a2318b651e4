"""Signals as bytes on a descriptor, and the old handlers back at the end. Nothing else happens in a handler."""

from __future__ import annotations

import os
import signal


def hold_back(*numbers: signal.Signals) -> None:
    """What comes of these waits until there are `Signals` for them, instead of ending a process that starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


class Signals:
    """Signals as bytes on a descriptor; nothing else happens in a handler."""

    def __init__(self, numbers: tuple[signal.Signals, ...]) -> None:
        self.fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._old_wakeup = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, lambda _number, _frame: None) for number in numbers}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    def read(self) -> bytes:
        """The numbers that came."""
        return os.read(self.fd, 4096)

    def restore(self) -> None:
        """Handle them as before."""
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self.fd)
        os.close(self._write_fd)
