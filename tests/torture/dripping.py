"""A server that never finishes: it begins an answer and goes on with one byte of a header every tenth of a second."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def dripping_server() -> Iterator[int]:
    """Its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    closed = threading.Event()

    def drip(client: socket.socket) -> None:
        try:
            with client:
                client.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not closed.wait(0.1):
                    client.sendall(b"x")
        except OSError:
            return

    def accept() -> None:
        while not closed.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        closed.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
