"""A tree of processes that do not want to end: `hostile.py REGISTER KIND...`; each kind is one child, `self` this one.

Everybody writes `PID START_TICKS` into the register before it goes on, ignores TERM, and stays for a minute at most.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

DEADLINE = time.monotonic() + 60
SYS_EXIT = {"x86_64": 60, "aarch64": 93}
SWARM = 50


def note(register: str) -> None:
    """Who this is, for the test."""
    text = Path("/proc/self/stat").read_bytes()
    ticks = text[text.rindex(b")") + 2 :].split()[19].decode()
    fd = os.open(register, os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{os.getpid()} {ticks}\n".encode())
    os.close(fd)


def stay(register: str) -> None:
    """Ignore TERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(register)
    while time.monotonic() < DEADLINE:
        time.sleep(1)
    os._exit(0)


def session(register: str) -> None:
    """In a session of its own."""
    os.setsid()
    stay(register)


def daemon(register: str) -> None:
    """In a session of its own, its parent gone."""
    os.setsid()
    if os.fork():
        os._exit(0)
    stay(register)


def cleared(register: str) -> None:
    """A new session and no environment, but the parent lives."""
    os.setsid()
    os.execve(sys.executable, [sys.executable, "-I", "-S", __file__, register], {})


def cleared_daemon(register: str) -> None:
    """The same, and no parent either: only a subreaper or a cgroup knows whose it is."""
    os.setsid()
    if os.fork():
        os._exit(0)
    os.execve(sys.executable, [sys.executable, "-I", "-S", __file__, register], {})


def stopped(register: str) -> None:
    """Stopped, again and again."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(register)
    while time.monotonic() < DEADLINE:
        os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(0)


def threaded(register: str) -> None:
    """The first thread ends, another goes on: in /proc this looks like a zombie."""
    thread = threading.Thread(target=stay_quietly)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    thread.start()
    note(register)
    ctypes.CDLL(None).syscall(SYS_EXIT[os.uname().machine], 0)


def stay_quietly() -> None:
    """What the other thread does."""
    while time.monotonic() < DEADLINE:
        time.sleep(1)
    os._exit(0)


def swarm(register: str) -> None:
    """Some dozens, each of which lives for an instant and leaves a successor, in sessions of their own."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(SWARM):
        if os.fork() == 0:
            os.setsid()
            note(register)
            while time.monotonic() < DEADLINE:
                time.sleep(0.03)
                if os.fork():
                    os._exit(0)
                note(register)
            os._exit(0)
    os._exit(0)


def flood(register: str) -> None:
    """Write without end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(register)
    while time.monotonic() < DEADLINE:
        os.write(1, b"x" * 65536)
    os._exit(0)


def silent(register: str) -> None:
    """Holds no pipe any more."""
    os.closerange(0, 3)
    stay(register)


KINDS = {
    "silent": silent,
    "session": session,
    "daemon": daemon,
    "cleared": cleared,
    "cleared_daemon": cleared_daemon,
    "stopped": stopped,
    "threaded": threaded,
    "swarm": swarm,
    "flood": flood,
    "stay": stay,
}


def main() -> None:
    """One child for each kind, then stay."""
    register, kinds = sys.argv[1], sys.argv[2:]
    for kind in kinds:
        if os.fork() == 0:
            try:
                KINDS[kind](register)
            finally:
                os._exit(1)
    stay(register)


main()
