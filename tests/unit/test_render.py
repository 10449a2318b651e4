"""Log lines: one event is one line in every format, whatever its fields hold, and telling never waits for a reader."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import socket
import subprocess
import sys
import threading
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetwatch.events import (
    SCHEMA_VERSION,
    AgentStarted,
    CheckFinished,
    Event,
    RunFinished,
    StepFinished,
    Told,
    catalogue,
)
from jetwatch.telemetry.reference import events_page, events_schema
from jetwatch.telemetry.render import FIELD_LIMIT_BYTES, Teller, resolve_format

FORMATS = ("json", "console", "logfmt")
COMMON = ["timestamp", "level", "event", "host", "agent_version", "schema_version"]
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "events.md"
AT_US = 1_790_000_000_123_456
FORGERIES = [
    '"}\n{"event":"run_finished"}',
    "\r\nlevel=info",
    "\u2028\u2029\x85",
    "\x1b[2J\x1b]0;x\x07",
    "\udc80\ud800",
    "\\",
    "a\\ b",
]
HOSTILE = st.text(st.characters(exclude_categories=()), max_size=60) | st.sampled_from(FORGERIES)
STRATEGIES: dict[object, st.SearchStrategy[Any]] = {
    str: HOSTILE,
    int: st.integers(-(2**63), 2**63),
    bool: st.booleans(),
    float: st.floats(0, 1e9),
    str | None: st.none() | HOSTILE,
    int | None: st.none() | st.integers(0, 2**40),
    bool | None: st.none() | st.booleans(),
    float | None: st.none() | st.floats(0, 1e9),
    tuple[str, ...]: st.lists(HOSTILE, max_size=4).map(tuple),
}


def types_of(kind: type[Event]) -> dict[str, object]:
    """The types of an event's fields."""
    hints = typing.get_type_hints(kind)
    return {name: hints[name] for name in kind.__struct_fields__}


def plain(kind: type[Event]) -> Event:
    """An everyday event of this class, every field filled."""
    values = {str: "some", int: 3, bool: True, float: 1.5, tuple[str, ...]: ("some", "more")}
    filled = {}
    for name, hint in types_of(kind).items():
        filled[name] = values[hint] if hint in values else values[typing.get_args(hint)[0]]
    return kind(**filled)


def hostile() -> st.SearchStrategy[Event]:
    """Any event with anything in it."""
    kinds = []
    for kind in catalogue():
        fields = {name: STRATEGIES[hint] for name, hint in types_of(kind).items()}
        kinds.append(st.builds(kind, **fields))
    return st.one_of(kinds)


def is_of(value: object, schema: dict[str, Any]) -> bool:
    """Whether a value is what its part of the schema says (the keywords that are used there)."""
    types: dict[str, object] = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list}
    if "const" in schema:
        return bool(value == schema["const"])
    if "enum" in schema:
        return value in schema["enum"]
    return isinstance(value, types[schema["type"]])  # type: ignore[arg-type]


class Listener:
    """A Teller that writes into a pipe which this test reads."""

    def __init__(self, format: str, level: str = "debug") -> None:
        self.read_fd, self.write_fd = os.pipe()
        fcntl.fcntl(self.read_fd, fcntl.F_SETPIPE_SZ, 1 << 20)
        self.teller = Teller(self.write_fd, format, level, host="h", version="1")

    def heard(self) -> bytes:
        """Everything that was told; afterwards nothing more can be."""
        os.close(self.write_fd)
        with os.fdopen(self.read_fd, "rb") as source:
            return source.read()


def told(event: Event, format: str, seq: int | None = 7) -> bytes:
    """The line of one event."""
    listener = Listener(format)
    listener.teller.tell(Told(event, AT_US, seq))
    return listener.heard()


# -- lines


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", catalogue(), ids=lambda kind: kind.name)
def test_every_event_is_one_line_in_every_format(kind: type[Event], format: str) -> None:
    """One line, ended by one newline, that names the event and its watch."""
    line = told(plain(kind), format).decode()
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1
    assert kind.name in line.replace(kind.name.replace("_", " "), kind.name)
    assert "some" in line


@pytest.mark.parametrize("kind", catalogue(), ids=lambda kind: kind.name)
def test_a_json_line_is_what_the_schema_says(kind: type[Event]) -> None:
    """Common fields first, in their order, then watch, play_uuid, seq and the event's own; all of it in the schema."""
    line = json.loads(told(plain(kind), "json"))
    assert list(line)[:9] == [*COMMON, "watch", "play_uuid", "seq"]
    assert line["timestamp"] == "2026-09-21T14:13:20.123456Z"
    assert line["schema_version"] == SCHEMA_VERSION
    schema = events_schema()["$defs"][kind.name]
    assert set(schema["required"]) <= set(line)
    assert all(is_of(value, schema["properties"][name]) for name, value in line.items())


def test_no_field_of_an_event_has_the_name_of_a_common_one() -> None:
    """An event's own field cannot replace the time, the level or the name of its line."""
    for kind in catalogue():
        assert not set(types_of(kind)) & {*COMMON, "seq", "at_us"}


@given(hostile(), st.integers(0, 4 * 10**15))
def test_no_text_breaks_or_forges_a_json_line(event: Event, at_us: int) -> None:
    """Whatever the fields hold: printable ASCII, one document, the event's own name and fields and no others."""
    listener = Listener("json")
    listener.teller.tell(Told(event, at_us, 1))
    data = listener.heard()
    assert data.endswith(b"\n")
    text = data[:-1].decode("ascii")
    assert text.isprintable()
    line = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert line["event"] == event.name
    assert set(line) == {*COMMON, "seq", *dict(event.told_fields())}
    line_again = json.dumps(line, ensure_ascii=False).encode()  # fails on half a surrogate pair
    assert json.loads(line_again) == line


@given(hostile())
def test_no_text_breaks_or_forges_a_logfmt_line(event: Event) -> None:
    """The line is printable, and its unquoted keys are the event's own fields and no others."""
    text = told(event, "logfmt")[:-1].decode("utf-8")
    assert text.isprintable()
    keys = re.findall(r'([a-z_]+)=(?:"(?:[^"\\]|\\.)*"|[^ "]*(?:\\"[^ "]*)*)(?: |$)', text)
    assert keys[:3] == ["timestamp", "level", "event"]
    assert sorted(keys) == sorted([*COMMON, "seq", *dict(event.told_fields())])


@given(hostile())
def test_no_text_breaks_a_console_line(event: Event) -> None:
    """The line is printable: no control character and no escape sequence of others reaches the terminal."""
    data = told(event, "console")
    assert data.endswith(b"\n")
    assert data[:-1].decode("utf-8").isprintable()


def test_empty_fields_are_left_out() -> None:
    """None and empty text are not told; zero and false are."""
    line = json.loads(told(StepFinished(watch="w", step="play", ok=False, exit_code=0, reason=None), "json", None))
    assert "reason" not in line
    assert "play_uuid" not in line
    assert "seq" not in line
    assert (line["exit_code"], line["ok"], line["timed_out"]) == (0, False, False)


def test_a_number_that_is_none_is_told_as_text() -> None:
    """Infinity is no JSON number."""
    assert json.loads(told(CheckFinished(result="due", duration_s=float("inf")), "json"))["duration_s"] == "inf"


@pytest.mark.parametrize("format", FORMATS)
def test_a_long_field_is_cut_and_says_so(format: str) -> None:
    """A field has at most 32 KiB, and the cut says how long it was."""
    line = told(CheckFinished(result="error", reason="é" * 40_000), format)
    assert len(line) < FIELD_LIMIT_BYTES * 3 + 1000
    assert b"(cut: 80000 bytes in all)" in line


def test_a_level_is_a_threshold() -> None:
    """Events below the level are not told; the level can be changed."""
    listener = Listener("json", "warning")
    not_due, failed = CheckFinished(result="not_due"), CheckFinished(result="error")
    for event in (not_due, failed):
        listener.teller.tell(Told(event, AT_US))
    listener.teller.set_level("debug")
    listener.teller.tell(Told(not_due, AT_US))
    assert [json.loads(line)["level"] for line in listener.heard().splitlines()] == ["error", "debug"]


def test_the_console_says_what_matters_within_eighty_columns() -> None:
    """The everyday events of a run fit 80 columns, and a failure shows the command's last words without its colours."""
    run = "8c1f2a3b-1111-4222-8333-444455556666"
    revision = "3fa9c1d2e8f0a1b2c3d4e5f60718293a4b5c6d7e"
    tail = "TASK [x]\n\x1b[31mfatal: no route to host\x1b[0m\n\n"
    failed: dict[str, Any] = {"ok": False, "exit_code": 4, "duration_s": 2.12, "output_tail": tail}
    play = StepFinished(watch="web", play_uuid=run, step="play", **failed)
    shown = told(play, "console").decode()
    assert "8c1f2a3b play failed, exit 4, 2.1s: fatal: no route to host\n" in shown
    for event in (
        CheckFinished(watch="web", result="due", duration_s=12.25, revision=revision),
        RunFinished(
            watch="web",
            play_uuid=run,
            outcome="failed",
            failed_step="download",
            exit_code=4,
            duration_s=62.1,
            attempt=1,
            trigger="check",
        ),
        AgentStarted(pid=4_000_000, detach=True, cgroup="", watches=3, config="/etc/jetwatch/watch.yml", state_dir=""),
    ):
        assert len(told(event, "console").decode().rstrip("\n")) <= 80


# -- streams


def many(teller: Teller, count: int, size: int = 1000) -> None:
    """Tell numbered events of about this many bytes."""
    for number in range(count):
        teller.tell(Told(CheckFinished(result="error", exit_code=number, reason="x" * size), AT_US))


def numbers(data: bytes) -> list[int]:
    """The events in what was read: every line is whole, or json.loads would fail."""
    return [json.loads(line)["exit_code"] for line in data.splitlines()]


def test_a_reader_that_stops_holds_nobody_up() -> None:
    """Lines wait up to 1 MiB, whole ones beyond are dropped and counted, and no line is torn or out of order."""
    read_fd, write_fd = os.pipe()
    teller = Teller(write_fd, "json", "debug", host="h", version="1")
    assert teller.backlog_fd is None
    many(teller, 3000)
    assert teller.backlog_fd == write_fd
    assert teller.dropped > 1000
    data = bytearray()
    while teller.backlog_fd is not None:
        data += os.read(read_fd, 1 << 20)
        teller.flush()
    teller.tell(Told(CheckFinished(result="error", exit_code=9999), AT_US))
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as source:
        data += source.read()
    found = numbers(bytes(data))
    assert found == sorted(found)
    assert found[-1] == 9999
    assert len(found) - 1 + teller.dropped == 3000


def test_a_line_that_another_thread_is_writing_is_none_that_waits(tmp_path: Path) -> None:
    """Whoever asks meanwhile is told so only of lines that were not taken; a file takes every line at once."""
    with (tmp_path / "log").open("wb") as log:
        teller = Teller(log.fileno(), "json", "debug", host="h", version="1")
        telling = threading.Thread(target=many, args=(teller, 20_000, 10))
        telling.start()
        seen = {teller.backlog_fd for _ in iter(telling.is_alive, False)}
        telling.join()
    assert seen == {None}


def test_the_stream_keeps_its_flags() -> None:
    """Whoever shares the descriptor does not find it non-blocking."""
    listener = Listener("json")
    many(listener.teller, 3)
    assert os.get_blocking(listener.write_fd)
    assert numbers(listener.heard()) == [0, 1, 2]


def test_flush_waits_for_a_reader_when_asked_to() -> None:
    """With a timeout the backlog is written while somebody reads."""
    program = "import sys, json\nprint(sum(1 for line in sys.stdin.buffer if json.loads(line)))"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        teller = Teller(reader.stdin.fileno(), "json", "debug", host="h", version="1")
        many(teller, 500)
        teller.flush(timeout_s=30)
        assert teller.backlog_fd is None
        reader.stdin.close()
        assert int(reader.stdout.read()) == 500


def test_a_socket_that_nobody_reads_holds_nobody_up() -> None:
    """journald's end of the line is a socket: it too is only written as far as it takes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        teller = Teller(ours.fileno(), "json", "debug", host="h", version="1")
        many(teller, 3000)
        assert teller.dropped > 0
        assert ours.gettimeout() is None


def test_a_stopped_terminal_holds_nobody_up() -> None:
    """A terminal that nobody reads takes what it can; the rest waits or is dropped."""
    main_fd, terminal_fd = pty.openpty()
    teller = Teller(terminal_fd, "console", "debug", host="h", version="1")
    many(teller, 3000)
    assert teller.backlog_fd is not None
    teller.close()
    os.close(main_fd)
    os.close(terminal_fd)


def test_a_closed_stream_is_counted() -> None:
    """EPIPE and EBADF are no errors: every line is counted as dropped."""
    read_fd, write_fd = os.pipe()
    teller = Teller(write_fd, "json", "debug", host="h", version="1")
    os.close(read_fd)
    many(teller, 3)
    assert teller.dropped == 3
    os.close(write_fd)
    many(teller, 2)
    assert teller.dropped == 5


def test_a_full_disk_leaves_no_torn_line_glued_to_the_next(tmp_path: Path) -> None:
    """Half a line that a full disk took is ended before the next line begins."""
    import resource

    path = tmp_path / "log"
    program = (
        "import os, resource, signal, sys\n"
        "from jetwatch.events import CheckFinished, Told\n"
        "from jetwatch.telemetry.render import Teller\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "teller = Teller(1, 'json', 'debug', host='h', version='1')\n"
        "def tell(number):\n"
        "    teller.tell(Told(CheckFinished(result='error', exit_code=number, reason='x' * 300), 0))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "for number in range(4): tell(number)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "tell(4)\n"
        "print(teller.dropped, file=sys.stderr)\n"
    )
    assert resource.RLIM_INFINITY == -1
    with path.open("ab") as stream:
        done = subprocess.run([sys.executable, "-c", program], stdout=stream, stderr=subprocess.PIPE, check=True)
    lines = path.read_bytes().splitlines()
    assert int(done.stderr) >= 1
    assert json.loads(lines[0])["exit_code"] == 0
    assert json.loads(lines[-1])["exit_code"] == 4


# -- surroundings


@pytest.fixture
def terminal() -> Iterator[int]:
    """A terminal's descriptor."""
    main_fd, terminal_fd = pty.openpty()
    yield terminal_fd
    os.close(main_fd)
    os.close(terminal_fd)


def test_the_format_follows_the_stream(terminal: int, tmp_path: Path) -> None:
    """Console on a terminal, JSON elsewhere, unless one was asked for."""
    with (tmp_path / "log").open("wb") as stream:
        assert resolve_format(None, stream.fileno()) == "json"
        assert resolve_format("logfmt", stream.fileno()) == "logfmt"
    assert resolve_format(None, terminal) == "console"


def test_colour_is_for_terminals_that_want_it(terminal: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets colour, NO_COLOR takes it away."""
    for value, has_colour in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", value)
        monkeypatch.setenv("TERM", "xterm")
        main_fd, terminal_fd = pty.openpty()
        teller = Teller(terminal_fd, "console", "debug", host="h", version="1")
        teller.tell(Told(CheckFinished(result="due"), AT_US))
        assert (b"\x1b[" in os.read(main_fd, 4096)) is has_colour
        teller.close()
        os.close(main_fd)
        os.close(terminal_fd)


class TestMemory:
    """What the agent's process does not load."""

    program: ClassVar[str] = (
        "import sys\nimport jetwatch.telemetry.render\n"
        "print(sorted({'rich', 'asyncio', 'ssl', 'yaml', 'jinja2'} & sys.modules.keys()))\n"
        "import asyncio, rich\nasyncio.run(asyncio.sleep(0))\nprint(rich.__name__)"
    )

    def test_rich_and_asyncio_stay_out(self) -> None:
        """structlog is loaded without them, and others can import them afterwards."""
        done = subprocess.run([sys.executable, "-c", self.program], capture_output=True, text=True, check=True)
        assert done.stdout == "[]\nrich\n", shlex.quote(done.stderr)


def test_the_reference_page_is_what_the_catalogue_says() -> None:
    """docs/reference/events.md is generated; this is what to run when it drifts."""
    command = "from jetwatch.telemetry.reference import events_page; print(events_page(), end='')"
    assert PAGE.read_text("utf-8") == events_page(), f'write it anew: python -c "{command}" > {PAGE}'
