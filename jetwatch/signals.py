"""Signals as bytes on a descriptor, and the old handlers back at the end. Nothing else happens in a handler."""

from __future__ import annotations

import os
import signal


class Signals:
    """Signals as bytes on a descriptor; nothing else happens in a handler."""

    def __init__(self, numbers: tuple[signal.Signals, ...]) -> None:
        self.fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._old_wakeup = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, lambda _number, _frame: None) for number in numbers}

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
