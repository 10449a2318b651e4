"""sd_notify(3): one datagram to whoever started us and wants to know. Nobody listening is no error."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Tells systemd what the agent does. `watchdog_s`: how often it wants to hear WATCHDOG=1, None: never."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._status = ""
        usec = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(usec) / 1e6 if self._address and usec.isdigit() and ours else None

    def send(self, *lines: str) -> None:
        """Send assignments such as READY=1."""
        if not self._address:
            return
        # A name that begins with @ is in the abstract namespace, which begins with a NUL.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as stream:
                stream.setblocking(False)
                stream.sendto("\n".join(lines).encode(), address)
        except OSError:
            return  # a supervisor that went away, or no descriptor to be had; the work goes on

    def status(self, sentence: str) -> None:
        """Say in words what the agent does, if that is news."""
        if sentence != self._status:
            self._status = sentence
            self.send(f"STATUS={sentence}")
