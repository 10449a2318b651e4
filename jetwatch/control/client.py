"""The caller's side of the control socket: one request, one response, and a sentence for everything in between.

Only an agent of root or of this account is asked, at a socket that nobody else could have put there.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from jetwatch.control.address import peer_uid
from jetwatch.control.protocol import LINE_LIMIT_BYTES, Request, Response, decode_response, encode_request
from jetwatch.errors import NoAgent, NotPermitted, NotTrusted
from jetwatch.trust import Accounts, look_up

_CONNECT_TIMEOUT_S = 5.0
_HINT = "start one with jetp watch --watch-config PATH"


def call(path: Path, request: Request, timeout_s: float | None) -> Response:
    """Ask the agent at `path`. `timeout_s` bounds the wait for its answer (None: as long as it takes).

    Raises NoAgent when nobody listens or answers, NotPermitted, and UsageError for a request too long to be sent.
    """
    line = encode_request(request)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(_CONNECT_TIMEOUT_S)
        _connect(stream, path)
        try:
            answer = _exchange(stream, line, timeout_s)
        except TimeoutError as error:
            raise NoAgent(f"{path}: the agent did not answer in time; it may be stopped or overloaded") from error
        except OSError as error:
            raise NoAgent(f"{path}: the agent hung up: {error.strerror}") from error
    try:
        return decode_response(answer)
    except ValueError as error:
        raise NoAgent(f"{path}: the agent ended before it answered") from error


def _connect(stream: socket.socket, path: Path) -> None:
    own = Accounts.own()
    try:
        door = look_up(path, own)
        try:
            _refuse_foreign(path, os.fstat(door).st_uid, own)
            stream.connect(f"/proc/self/fd/{door}")
        finally:
            os.close(door)
        _refuse_foreign(path, peer_uid(stream), own)
    except NotTrusted as error:
        raise NoAgent(f"nobody was asked at {error}") from error
    except PermissionError as error:
        raise NotPermitted(f"{path}: only the agent's own user and root may ask it for something") from error
    except TimeoutError as error:
        raise NoAgent(f"{path}: the agent does not take calls; it may be stopped or overloaded") from error
    except FileNotFoundError as error:
        raise NoAgent(f"no agent is running here ({path} is not there): {_HINT}") from error
    except OSError as error:
        raise NoAgent(f"no agent is running here ({path}: {error.strerror}): {_HINT}") from error


def _refuse_foreign(path: Path, uid: int, own: Accounts) -> None:
    if uid not in own.uids:
        sentence = f"this socket is one of uid {uid}, and an agent of {own.named} was looked for"
        raise NotTrusted(path, sentence, owner_uid=uid)


def _exchange(stream: socket.socket, line: bytes, timeout_s: float | None) -> bytes:
    """Send the request, read up to the newline. What is broken off is returned as it is."""
    with contextlib.suppress(BrokenPipeError):  # it has refused already: its answer says why
        stream.sendall(line)
    stream.settimeout(timeout_s)
    received = bytearray()
    while not received.endswith(b"\n") and len(received) < LINE_LIMIT_BYTES:
        part = stream.recv(LINE_LIMIT_BYTES)
        if not part:
            break
        received += part
    return bytes(received)
