"""What goes over the control socket: one request and one response, each a JSON object on one line.

Verbs only: reading needs no agent. A request that is not exactly one of these is answered with what is wrong with it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct, field

from jetwatch.errors import UsageError
from jetwatch.records import from_json

LINE_LIMIT_BYTES = 64 * 1024
"""The longest request and the longest response, newline included."""

SUSPENSION_LIMIT_S = 10 * 366 * 86_400.0


class Verb(StrEnum):
    """What may be asked for."""

    PING = "ping"
    TRIGGER = "trigger"
    CANCEL = "cancel"
    CLEAR = "clear"
    SUSPEND = "suspend"
    RESUME = "resume"


class Request(Struct, frozen=True):
    """One thing asked for, `by` whom. `watch` None: all of them; `run` (a whole id) None: the only open one.

    `force` and `wait` belong to trigger, `run` to cancel, `reason` and `for_s` (seconds) to suspend.
    """

    verb: Verb
    watch: str | None = None
    run: str | None = None
    force: bool = False
    wait: bool = False
    by: str = ""
    reason: str | None = None
    for_s: float | None = None


class Response(Struct, frozen=True):
    """What came of it: `lines` for a person, `data` for a program, and what `jetp` leaves with."""

    ok: bool
    exit_code: int = 0
    lines: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def refusal(cls, exit_code: int, sentence: str) -> Response:
        """The answer to what was not done."""
        return cls(ok=False, exit_code=exit_code, lines=[sentence])


_REQUEST_FIELDS = frozenset(Request.__struct_fields__)


def encode_request(request: Request) -> bytes:
    """The request's line. Raises UsageError when it is too long to be sent."""
    line = msgspec.json.encode(request) + b"\n"
    if len(line) > LINE_LIMIT_BYTES:
        raise UsageError(f"this request has {len(line)} bytes, and {LINE_LIMIT_BYTES} can be sent: shorten the reason")
    return line


def decode_request(line: bytes) -> Request:
    """The request in `line`. Raises UsageError with what is wrong with it."""
    try:
        found = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the request is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageError("the request is not a JSON object")
    unknown = sorted(found.keys() - _REQUEST_FIELDS)
    if unknown:
        raise UsageError(f"the request has a field that is not known: {unknown[0]!r:.80}")
    try:
        request = msgspec.convert(found, Request)
    except msgspec.ValidationError as error:
        raise UsageError(f"the request will not do: {error}") from error
    if request.for_s is not None and not 0 < request.for_s <= SUSPENSION_LIMIT_S:
        raise UsageError("the request will not do: for_s is more than 0 and at most ten years")
    return request


def encode_response(response: Response) -> bytes:
    """The response's line. What does not fit is left out, and the last line says so."""
    line = msgspec.json.encode(response) + b"\n"
    if len(line) <= LINE_LIMIT_BYTES:
        return line
    kept: list[str] = []
    room = LINE_LIMIT_BYTES // 2
    for text in response.lines:
        room -= len(msgspec.json.encode(text)) + 1
        if room < 0:
            break
        kept.append(text)
    kept.append("… and more than an answer can hold: ask for one watch at a time")
    return msgspec.json.encode(Response(response.ok, response.exit_code, kept)) + b"\n"


def decode_response(line: bytes) -> Response:
    """The response in `line`. Raises ValueError when it is none."""
    return from_json(line, Response)
