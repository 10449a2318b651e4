"""What systemd hears: READY, RELOADING, STOPPING, STATUS and WATCHDOG, on a real notify socket."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_process import AgentProcess, Site

NOT_DUE = {"check_command": "false", "jet_command": "true", "check_interval": 200}


class Listener:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(30)
        self.heard: list[str] = []
        self.everything: list[str] = []

    def wait_for(self, assignment: str) -> None:
        """Until this was said, since the last time that it was."""
        while assignment not in self.heard:
            lines = self._socket.recv(65536).decode().splitlines()
            self.heard += lines
            self.everything += lines
        del self.heard[: self.heard.index(assignment) + 1]

    def wait_for_silence(self, seconds: float) -> None:
        """Until nothing was said for so long."""
        self._socket.settimeout(seconds)
        with pytest.raises(TimeoutError):
            self._hear_for_ever()
        self._socket.settimeout(30)

    def _hear_for_ever(self) -> None:
        while True:
            self._socket.recv(65536)

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


@pytest.fixture
def listener(site: Site) -> Iterator[Listener]:
    """A notify socket."""
    made = Listener(site.root / "notify")
    yield made
    made.close()


def start(site: Site, listener: Listener, **more: str) -> AgentProcess:
    """An agent that systemd would have started."""
    return site.start(NOT_DUE, environ={"NOTIFY_SOCKET": str(listener.path), **more})


def test_ready_reloading_and_stopping_are_said(site: Site, listener: Listener) -> None:
    """Type=notify-reload works: READY after the start and after each reload, STOPPING at the end."""
    agent = start(site, listener)
    listener.wait_for("READY=1")
    listener.wait_for("STATUS=1 watch, 0 runs open")
    agent.send(signal.SIGHUP)
    listener.wait_for("RELOADING=1")
    listener.wait_for("READY=1")
    assert agent.stop() == 0
    listener.wait_for("STOPPING=1")


def test_a_rejected_configuration_is_ready_again_as_well(site: Site, listener: Listener) -> None:
    """A reload that fails must not leave the unit reloading for ever."""
    agent = start(site, listener)
    listener.wait_for("READY=1")
    site.config.write_text("nonsense: true\n")
    agent.send(signal.SIGHUP)
    listener.wait_for("RELOADING=1")
    listener.wait_for("READY=1")
    agent.wait_for("config_rejected")


def test_the_watchdog_is_fed_by_the_loop_and_starves_with_it(site: Site, listener: Listener) -> None:
    """WATCHDOG=1 comes again and again; from an agent that is stopped it does not."""
    agent = start(site, listener, WATCHDOG_USEC="400000")
    for _ in range(3):
        listener.wait_for("WATCHDOG=1")
    agent.send(signal.SIGSTOP)
    listener.wait_for_silence(1.0)
    agent.send(signal.SIGCONT)
    listener.wait_for("WATCHDOG=1")


def test_a_watchdog_meant_for_another_process_is_not_fed(site: Site, listener: Listener) -> None:
    """WATCHDOG_PID names who is watched."""
    agent = start(site, listener, WATCHDOG_USEC="200000", WATCHDOG_PID="1")
    listener.wait_for("READY=1")
    assert agent.stop() == 0
    listener.wait_for("STOPPING=1")
    assert "WATCHDOG=1" not in listener.everything
