"""A TCP proxy on loopback that spoils what passes through it: cut, slow, silent, or gone.

It stands between a client and a real server, so everything but the fault is real. Faults are set while it runs and
hold for whatever comes next; its threads end with it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType

PIECE_BYTES = 64 * 1024


class TcpProxy:
    """Passes connections on to a port of 127.0.0.1. A context manager.

    `cut_after`: of each connection's answers, only so many bytes pass; then it is closed. `drip_s`: answers pass one
    byte at a time, so far apart. `canned`: every connection gets these bytes and is closed; nothing is passed on.
    `answered`: bytes of answers that passed so far. `questions`: HTTP requests that passed so far.
    """

    def __init__(self, port: int) -> None:
        self.cut_after: int | None = None
        self.drip_s: float | None = None
        self.canned: bytes | None = None
        self.answered = 0
        self.questions = 0
        self._target = port
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    @property
    def endpoint(self) -> str:
        """Where it listens, as a URL."""
        return self._endpoint

    def __enter__(self) -> TcpProxy:
        """Begin to accept."""
        self._endpoint = f"http://127.0.0.1:{self.port}"
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything and wait for the threads."""
        self.stop()
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Be gone at once: every connection is closed and none is taken any more."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._closed.is_set():
                client, _ = self._listener.accept()
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            self._hold(client)
            if self.canned is not None:
                client.recv(PIECE_BYTES)
                client.sendall(self.canned)
                return
            with socket.create_connection(("127.0.0.1", self._target)) as server:
                self._hold(server)
                self._start(self._pass_questions, client, server)
                self._pass_answers(server, client)
                for each in (client, server):
                    with contextlib.suppress(OSError):
                        each.shutdown(socket.SHUT_RDWR)

    def _hold(self, each: socket.socket) -> None:
        with self._lock:
            self._sockets.add(each)
        if self._closed.is_set():
            each.shutdown(socket.SHUT_RDWR)

    def _pass_questions(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := client.recv(PIECE_BYTES):
                with self._lock:
                    self.questions += piece.startswith((b"GET ", b"HEAD ", b"POST "))
                server.sendall(piece)
            server.shutdown(socket.SHUT_WR)

    def _pass_answers(self, server: socket.socket, client: socket.socket) -> None:
        passed = 0
        while piece := server.recv(PIECE_BYTES):
            cut = self.cut_after
            if cut is not None:
                piece = piece[: max(0, cut - passed)]
            passed += len(piece)
            self.answered += len(piece)
            if self.drip_s is None:
                client.sendall(piece)
            elif not self._drip(piece, client, self.drip_s):
                return
            if cut is not None and passed >= cut:
                return

    def _drip(self, piece: bytes, client: socket.socket, apart_s: float) -> bool:
        for value in piece:
            if self._closed.wait(apart_s):
                return False
            client.sendall(bytes([value]))
        return True
