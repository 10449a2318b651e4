"""How an agent forks its checks: itself, or where checks come often by a forker, the small process of `forker.py`.

A forker costs some 4 MB and saves some 4 ms of every check, so it is started by the first burst of them and stays. It
is never needed: where there is none, or it does not answer, the agent forks itself. Nothing can run twice by that: a
child that a lost forker made finds its gate shut.
"""

from __future__ import annotations

import marshal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from jetwatch import interpreter
from jetwatch.process.become import Program, fork_here
from jetwatch.process.forker import CLONE, LONGEST_BYTES, MARSHAL_VERSION
from jetwatch.records import CommandSpec

if TYPE_CHECKING:
    from jetwatch.process.become import Fork

WORTH_FORKS = 30
WORTH_WITHIN_S = 60.0
_PATIENCE_S = 5.0  # with a forker that is just being started, on a machine that is busy
_END_PATIENCE_S = 1.0


class Forks:
    """For any thread. `program`: what `launch.install` made. `mark` (`NAME=value`): for who looks for what we left."""

    def __init__(
        self,
        program: Path,
        mark: str,
        *,
        worth_forks: int = WORTH_FORKS,
        patience_s: float = _PATIENCE_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._program = program
        self._patience_s = patience_s
        self._now_s = now_s
        self._environ = dict([mark.split("=", 1)])
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=worth_forks)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._has_served = False
        self._is_over = False

    @property
    def pid(self) -> int | None:
        """The forker's pid; None: there is none now."""
        return self._process.pid if self._process is not None else None

    def ways(self) -> tuple[Fork, ...]:
        """The ways to fork the next check, best first. Starts a forker for those to come, if it is worth it."""
        with self._lock:
            if self._socket is not None:
                return self._ask, fork_here
            if self._is_worth_it():
                self._begin()
        return (fork_here,)

    def close(self) -> None:
        """End the forker. What it forked is not touched by that."""
        with self._lock:
            self._is_over = True
            self._end()

    def _is_worth_it(self) -> bool:
        now_s = self._now_s()
        self._recent.append(now_s)
        is_often = len(self._recent) == self._recent.maxlen and now_s - self._recent[0] <= WORTH_WITHIN_S
        return is_often and CLONE is not None and not self._is_over

    def _begin(self) -> None:
        self._recent.clear()  # should there be none, or it be lost, it is tried again when it has been worth it again
        try:
            ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            return
        with its:
            ours.settimeout(self._patience_s)
            try:
                self._process = subprocess.Popen(
                    interpreter.isolated(str(self._program), "--fork", str(its.fileno())),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(its.fileno(),),
                    start_new_session=True,
                    env=self._environ,
                )
            except OSError:
                ours.close()
                return
        self._socket = ours

    def _ask(self, spec: CommandSpec, output_fd: int, error_fd: int, gate_fd: int) -> int | None:
        """Have the forker fork. A `Fork`."""
        program = marshal.dumps(vars(Program(spec)), MARSHAL_VERSION)
        if len(program) > LONGEST_BYTES:
            return None
        with self._lock:
            return self._answer(program, [output_fd, error_fd, gate_fd])

    def _answer(self, program: bytes, fds: list[int]) -> int | None:
        """The pid. A forker that says nothing, or is gone, is ended; one that never said anything has no successor."""
        if self._socket is None:
            return None
        with suppress(OSError):
            socket.send_fds(self._socket, [program], fds)
            answer = self._socket.recv(32)
            if answer:
                self._has_served = True
                return int(answer)
        self._end()
        self._is_over = not self._has_served
        return None

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.kill()
            # One that hangs in the kernel is waited for by whoever starts a process next.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_PATIENCE_S)
        self._socket = self._process = None
