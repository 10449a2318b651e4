"""A small process that forks on a busy agent's behalf, so that a check does not cost a copy of the agent.

It knows nothing and keeps nothing: what is to be run comes through a socket, with the ends of the pipes that the child
needs, and the pid goes back. The child is the agent's own child (CLONE_PARENT): only the agent waits for it, and it
stays what it is when this process ends. That is when the other end of the socket is gone, at a signal, and at whatever
goes wrong; the agent then forks itself (`forks.py`). Imports next to nothing: every child is a copy of all of it.

The system call is made without the C library's `fork`, which has no such flag. What that would do besides is for other
threads, of which there are none, and for the thread's own number, which nobody asks for before the exec.
"""

from __future__ import annotations

import ctypes
import gc
import marshal
import os
import signal
import socket
import struct
import sys

from jetwatch.process.become import become, reset_oom_score, reset_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LONGEST_BYTES = 64 * 1024
"""What may be asked for in one message."""

MARSHAL_VERSION = 4
"""Should Python be replaced under a running agent, its forker is of another version: every one since 3.4 reads this."""

CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220}.get(os.uname().machine if sys.maxsize > 2**32 else "")
"""The number of the system call; None: not known on this machine, which is then no place for a forker."""

_CLONE_PARENT = 0x8000
_FDS = struct.Struct("3i")
_ROOM_BYTES = socket.CMSG_SPACE(_FDS.size)


class _Program:
    """The fields of a `become.Program`, read from the socket."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.__dict__.update(fields)


def main() -> None:
    """Fork whenever somebody asks, for as long as somebody can."""
    reset_oom_score()
    reset_signals()
    with open("/proc/self/comm", "w") as name:
        name.write("jetwatch-forker")
    asked = socket.socket(fileno=int(sys.argv[2]))
    asked.set_inheritable(False)
    gc.collect()
    gc.disable()  # no cycles are made here, and to look for them is to write to all that children share
    while True:
        # Not socket.recv_fds, which forgets the flags that it is given: a command would inherit what it is not to have.
        fields, ancillary, _, _ = asked.recvmsg(LONGEST_BYTES, _ROOM_BYTES, socket.MSG_CMSG_CLOEXEC)
        if not fields:
            return
        fds = _FDS.unpack(ancillary[0][2])
        pid = _fork(asked, _Program(marshal.loads(fields)), fds)  # noqa: S302 - from the agent, and from nobody else
        asked.send(b"%d" % pid)
        for fd in fds:
            os.close(fd)


def _fork(asked: socket.socket, program: Any, fds: tuple[int, ...]) -> int:
    """The pid of a child that becomes the program. Raises OSError where there can be none."""
    output_fd, error_fd, gate_fd = fds
    pid = int(_libc.syscall(CLONE, _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0))
    if pid == 0:
        asked.close()
        become(program, output_fd=output_fd, error_fd=error_fd, gate_fd=gate_fd, is_plain=True)
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone")
    return pid


_libc = ctypes.PyDLL(None, use_errno=True)  # it keeps the interpreter's lock: the child could not take it back
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = (ctypes.c_long,) * 6
