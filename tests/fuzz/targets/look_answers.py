"""What a look's child left in its JETWATCH_OUTPUT, as the watch's user: bytes → outputs → Look."""

from __future__ import annotations

from fuzz.target import Target, choice_and_rest, is_a_sentence
from jetwatch import looks
from jetwatch.content_records import Content, ContentKind, Look
from jetwatch.errors import ContentError
from jetwatch.process.hold import parse_outputs
from jetwatch.records import CommandResult, Ending, from_json, to_json

CONTENT = Content(url="file:///srv/content", kind=ContentKind.DIRECTORY)
RESULTS = (
    CommandResult("look", Ending.EXITED, exit_code=0),
    CommandResult("look", Ending.EXITED, exit_code=75),
    CommandResult("look", Ending.EXITED, exit_code=1),
    CommandResult("look", Ending.SIGNALLED, exit_code=137, signal="SIGKILL"),
    CommandResult("look", Ending.TIMEOUT, exit_code=143),
    CommandResult("look", Ending.NOT_STARTED, reason="no_such_user"),
)


def one_input(data: bytes) -> None:
    """A Look that can be stored and shown, or a ContentError."""
    road, rest = choice_and_rest(data, len(RESULTS))
    try:
        outputs = parse_outputs(rest)
    except ValueError as error:
        is_a_sentence(error)
        outputs = {}
    said = rest.decode("utf-8", "replace")[:2048]
    result = CommandResult(
        "look",
        RESULTS[road].ending,
        exit_code=RESULTS[road].exit_code,
        output_tail=said,
        outputs=outputs,
    )
    try:
        look = looks._read_look(CONTENT, result, 30.0)
    except ContentError as error:
        is_a_sentence(error)
    else:
        check_look(look)


def check_look(look: Look) -> None:
    """It is of the types that it says, can be stored, and can be shown."""
    assert from_json(to_json(look), Look) == look
    assert isinstance(look.settled, bool)
    assert isinstance(look.requests, int)
    assert 0 <= look.requests < 2**31
    assert look.revision
    assert all(33 <= ord(character) <= 126 for character in look.revision), repr(look.revision)
    assert len(look.revision) <= 1024


TARGET = Target(
    "look_answers",
    "what a child says of a look becomes a Look that can be stored, or a ContentError",
    one_input,
    words=(b"revision=", b"settled=", b"requests=", b"validator=", b"true", b"false", b"\n0", b"[" * 2000, b"NaN"),
)
