"""Lines of the control socket: requests of a caller, responses of something that may be no agent."""

from __future__ import annotations

from fuzz.target import Target, choice_and_rest, is_a_sentence
from jetwatch.control.protocol import (
    LINE_LIMIT_BYTES,
    Request,
    Response,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from jetwatch.errors import UsageError


def one_input(data: bytes) -> None:
    """A request or a UsageError, a response or a ValueError; and what is a message can be sent again."""
    road, line = choice_and_rest(data, 3)
    if road == 0:
        _request(line)
    elif road == 1:
        _response(line)
    else:
        lines = line.decode("utf-8", "replace").split("\n")
        assert len(encode_response(Response(ok=True, lines=lines * 20))) <= LINE_LIMIT_BYTES


def _request(line: bytes) -> None:
    try:
        request = decode_request(line)
    except UsageError as error:
        is_a_sentence(error)
        return
    assert isinstance(request, Request)
    assert decode_request(encode_request(request).removesuffix(b"\n")) == request


def _response(line: bytes) -> None:
    try:
        response = decode_response(line)
    except ValueError:
        return
    assert isinstance(response, Response)
    assert len(encode_response(response)) <= LINE_LIMIT_BYTES


TARGET = Target(
    "control_messages",
    "a line is a request, or a refusal in a sentence",
    one_input,
    words=(
        b'"verb":"trigger"',
        b'"watch":',
        b'"for_s":',
        b'"by":',
        b"1e308",
        b"[" * 3000,
        b'{"a":' * 1500,
        b"null",
        b"\\ud800",
        b'"lines":[',
        b'"exit_code":',
        b'"data":{',
    ),
    longest_bytes=LINE_LIMIT_BYTES,
)
