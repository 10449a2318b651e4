"""The connections of one HTTP client, which somebody else can end.

A timeout of a socket counts from byte to byte, and a server can send bytes that say nothing for ever. Whoever bounds a
whole answer ends its connections here; who reads finds them closed. What was ended makes no connection any more.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class Connections:
    """Notes the sockets of the pools that `pool_classes` makes. `end` may be called by any thread.

    `most`: so many servers are met by one question. A connection that is older than so many others is ended.
    """

    def __init__(self, most: int) -> None:
        self._lock = threading.Lock()
        self._most = most
        self._sockets: deque[socket.socket] = deque()
        self._have_ended = False

    def end(self) -> None:
        """End every connection, also one that another thread waits on, or is about to make."""
        with self._lock:
            self._have_ended = True
            while self._sockets:
                _end(self._sockets.popleft())

    def pool_classes(self) -> dict[str, Any]:
        """urllib3's own pools, for a `PoolManager` whose connections are noted."""
        note = self._note

        class Plain(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return note(super()._new_conn())

        class Encrypted(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return note(super()._new_conn())

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class EncryptedPool(HTTPSConnectionPool):
            ConnectionCls = Encrypted

        return {"http": PlainPool, "https": EncryptedPool}

    def _note(self, made: socket.socket) -> socket.socket:
        with self._lock:
            if self._have_ended:
                made.close()
                raise ConnectionAbortedError("nobody waits for an answer any more")
            self._sockets.append(made.dup())  # TLS takes `made` over and leaves it empty
            if len(self._sockets) > self._most:
                _end(self._sockets.popleft())
        return made


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
