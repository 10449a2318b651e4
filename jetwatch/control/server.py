"""The agent's side of the control socket: many callers, none of whom can hold it up, none of whom is trusted.

Its descriptor is an epoll of its own, so the agent waits for one descriptor. Nothing here blocks; a caller that is
slow, too long or of another user is answered once and closed. Answers may come from any thread, at any later time.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path
from threading import Lock

from jetwatch.control.address import address, peer_uid
from jetwatch.control.protocol import LINE_LIMIT_BYTES, Request, Response, decode_request, encode_response
from jetwatch.errors import NotPermitted, NotTrusted, StateDirError, UsageError
from jetwatch.trust import Accounts, open_directory

Reply = Callable[[Response], None]
Submit = Callable[[Request, Reply], None]

CONNECTION_LIMIT = 32
REQUEST_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 5.0
_BUSY = 75
_REST_S = 1.0
_READ_BYTES = 16 * 1024


class _Connection:
    """One caller. `deadline` is on the monotonic clock; None while the agent, not the caller, is waited for."""

    def __init__(self, number: int, stream: socket.socket, deadline: float) -> None:
        self.number = number
        self.stream = stream
        self.deadline: float | None = deadline
        self.received = bytearray()
        self.answer: memoryview | None = None
        self.is_submitted = False


class Server:
    """Listens at `path` from its making to `close`. All methods are for one thread; a `Reply` is for any.

    `submit(request, reply)` hands a valid request on and returns at once; `reply` is called once, or never. `on_error`
    is told of what went wrong with a caller, and nobody foresaw.
    The caller holds the state directory's lock, so a socket file that is there belongs to a dead agent.
    Raises StateDirError when the socket cannot be made.
    """

    def __init__(
        self,
        path: Path,
        submit: Submit,
        *,
        allowed_uids: Collection[int] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        on_error: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self.path = path
        self._submit = submit
        self._allowed = frozenset(allowed_uids if allowed_uids is not None else (os.geteuid(), 0))
        self._monotonic = monotonic
        self._on_error = on_error
        self._listener = _listen(path)
        self._file = _identity(path)
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._answers: deque[tuple[int, Response]] = deque()
        self._lock = Lock()
        self._is_closed = False
        self._next_number = 0
        self._resting_until: float | None = None
        self._connections: dict[int, _Connection] = {}
        self._by_number: dict[int, _Connection] = {}
        self._epoll.register(self._listener, select.EPOLLIN)
        self._epoll.register(self._wake, select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when `serve_ready` has something to do."""
        return self._epoll.fileno()

    def next_deadline_s(self) -> float | None:
        """Seconds until `serve_ready` has to be called although nothing is readable, None: never."""
        deadlines = [each.deadline for each in self._connections.values() if each.deadline is not None]
        deadlines += [] if self._resting_until is None else [self._resting_until]
        return max(0.0, min(deadlines) - self._monotonic()) if deadlines else None

    def serve_ready(self) -> None:
        """Do what can be done without waiting: accept, read, submit, answer, and close who is over time."""
        for fd, events in self._epoll.poll(0):
            if fd == self._listener.fileno():
                self._accept()
            elif fd == self._wake:
                self._take_answers()
            elif fd in self._connections:
                self._serve_alone(self._connections[fd], events)
        now = self._monotonic()
        if self._resting_until is not None and self._resting_until <= now:
            self._resting_until = None
            self._epoll.register(self._listener, select.EPOLLIN)
        for connection in list(self._connections.values()):
            if connection.deadline is not None and connection.deadline <= now:
                self._expire(connection)

    def close(self) -> None:
        """Hang up on everybody and remove the socket. Answers that come later go nowhere."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            os.close(self._wake)
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._epoll.close()
        self._listener.close()
        if _identity(self.path) == self._file:
            self.path.unlink(missing_ok=True)

    # -- one caller

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:
                self._rest()
                return
            stream.setblocking(False)
            self._next_number += 1
            connection = _Connection(self._next_number, stream, self._monotonic() + REQUEST_TIMEOUT_S)
            refusal = self._refusal(stream)
            if refusal is not None:
                _say_at_once(stream, refusal)
                stream.close()
                continue
            self._connections[stream.fileno()] = connection
            self._by_number[connection.number] = connection
            self._epoll.register(stream, select.EPOLLIN)

    def _rest(self) -> None:
        """No descriptor is left for another caller: look away for a while, or the waiting one would keep us busy."""
        self._resting_until = self._monotonic() + _REST_S
        self._epoll.unregister(self._listener)

    def _refusal(self, stream: socket.socket) -> Response | None:
        uid = peer_uid(stream)
        if uid not in self._allowed:
            return Response.refusal(NotPermitted.exit_code, f"uid {uid} may not ask this agent for anything")
        if len(self._connections) >= CONNECTION_LIMIT:
            return Response.refusal(_BUSY, f"{CONNECTION_LIMIT} callers are being served: try again later")
        return None

    def _serve_alone(self, connection: _Connection, events: int) -> None:
        """A caller with whom something goes wrong that nobody foresaw is hung up on; the others are served."""
        try:
            self._serve(connection, events)
        except Exception as error:  # noqa: BLE001 - one caller must not end the agent of all
            self._on_error(error)
            if connection.number in self._by_number:
                self._drop(connection)

    def _serve(self, connection: _Connection, events: int) -> None:
        if connection.answer is not None:
            self._write(connection)
        elif connection.is_submitted:
            self._drop(connection)  # only a hang-up is told while an answer is awaited
        elif events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._read(connection)

    def _read(self, connection: _Connection) -> None:
        try:
            part = connection.stream.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            self._drop(connection)
            return
        connection.received += part
        line, newline, rest = connection.received.partition(b"\n")
        if len(line) + 1 > LINE_LIMIT_BYTES:
            self._refuse(connection, f"a request has at most {LINE_LIMIT_BYTES} bytes")
        elif rest:
            self._refuse(connection, "one request on one line, and nothing after it")
        elif newline:
            self._hand_on(connection, bytes(line))

    def _hand_on(self, connection: _Connection, line: bytes) -> None:
        try:
            request = decode_request(line)
        except UsageError as error:
            self._refuse(connection, str(error))
            return
        connection.is_submitted = True
        connection.deadline = None
        connection.received.clear()
        self._epoll.modify(connection.stream, 0)  # hang-ups are told all the same
        number = connection.number
        self._submit(request, lambda response: self._post(number, response))

    def _post(self, number: int, response: Response) -> None:
        with self._lock:
            if not self._is_closed:
                self._answers.append((number, response))
                os.eventfd_write(self._wake, 1)

    def _take_answers(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return
        while self._answers:
            number, response = self._answers.popleft()
            connection = self._by_number.get(number)
            if connection is not None and connection.answer is None:
                self._answer(connection, response)

    def _refuse(self, connection: _Connection, sentence: str) -> None:
        self._answer(connection, Response.refusal(UsageError.exit_code, sentence))

    def _answer(self, connection: _Connection, response: Response) -> None:
        connection.answer = memoryview(encode_response(response))
        connection.deadline = self._monotonic() + ANSWER_TIMEOUT_S
        self._epoll.modify(connection.stream, select.EPOLLOUT)
        self._write(connection)

    def _write(self, connection: _Connection) -> None:
        answer = connection.answer or memoryview(b"")
        try:
            connection.answer = answer[connection.stream.send(answer, socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
            return
        if not connection.answer:
            self._drop(connection)

    def _expire(self, connection: _Connection) -> None:
        if connection.answer is None:
            sentence = f"a request is sent within {REQUEST_TIMEOUT_S:.0f} s"
            _say_at_once(connection.stream, Response.refusal(UsageError.exit_code, sentence))
        self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection.stream.fileno()]
        del self._by_number[connection.number]
        self._epoll.unregister(connection.stream)
        connection.stream.close()


def _say_at_once(stream: socket.socket, response: Response) -> None:
    """Answer as far as the socket's buffer goes: who is refused is not waited for."""
    try:
        stream.send(encode_response(response), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        return


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _listen(path: Path) -> socket.socket:
    try:
        os.close(open_directory(path.parent, Accounts.own(), make=0o700))
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            _bind(listener, path)
            listener.listen(CONNECTION_LIMIT)
        except OSError:
            listener.close()
            raise
    except (OSError, NotTrusted) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise StateDirError(
            f"{path}: the control socket cannot be made: {reason}. "
            "Name another place with control:, or switch it off with control: false"
        ) from error
    return listener


def _bind(listener: socket.socket, path: Path) -> None:
    before = os.umask(0o177)  # the socket has its final mode from its first moment on
    try:
        with address(path) as name:
            listener.bind(name)
    finally:
        os.umask(before)


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StateDirError(f"{path}: the control socket cannot be made: there is something that is no socket")
    path.unlink()
