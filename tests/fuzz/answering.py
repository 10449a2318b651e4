"""A server on loopback that says what it is told to, byte for byte, and a process that can reach nothing else."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

NEXT = b"\n%%\n"
"""Between two answers: the first connection gets the first, and so on; the last one is said again and again."""
PORT = b"PORT"
"""Becomes the server's own port, so that an answer can lead back to it."""

_LONGEST_REQUEST = 64 * 1024
_PATIENCE_S = 5.0


class Answering:
    """Its port is `port`; `say` sets what it answers."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._answers = [b""]
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def say(self, data: bytes) -> None:
        """From the next connection on."""
        with self._lock:
            self._answers = data.replace(PORT, b"%d" % self.port).split(NEXT)

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            with self._lock:
                answer = self._answers[0] if len(self._answers) == 1 else self._answers.pop(0)
            threading.Thread(target=_answer, args=(client, answer), daemon=True).start()


def _answer(client: socket.socket, answer: bytes) -> None:
    """Hear the head of a request, answer, and hang up once the other side has, or said all."""
    try:
        with client:
            client.settimeout(_PATIENCE_S)
            heard = b""
            while b"\r\n\r\n" not in heard and len(heard) < _LONGEST_REQUEST:
                part = client.recv(_LONGEST_REQUEST)
                if not part:
                    return
                heard += part
            client.sendall(answer)
            client.shutdown(socket.SHUT_WR)
            while client.recv(_LONGEST_REQUEST):
                pass
    except OSError:
        return


def stay_at_home() -> None:
    """From now on this process finds no address but loopback's: an answer may name any host there is."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *words: Any, **named: Any) -> Any:
        if host not in ("127.0.0.1", "localhost", "::1"):
            raise socket.gaierror(socket.EAI_NONAME, "no such host here")
        return real(host, *words, **named)

    socket.getaddrinfo = getaddrinfo
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("AWS_")]:
        del os.environ[name]
