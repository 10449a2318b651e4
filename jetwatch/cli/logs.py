"""`jetp logs`: what the commands of a run wrote, byte for byte, read from its own files beside whoever writes them.

On a terminal nothing but text, line ends and colour gets through: a command's output must not move anybody's cursor.
"""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from msgspec import Struct, field

from jetwatch.cli.people import elapsed_s
from jetwatch.cli.streams import say
from jetwatch.errors import UsageError
from jetwatch.process import output
from jetwatch.records import HookState, OutboxEntry, Run, Stamp, StepState
from jetwatch.statedir import StateDir
from jetwatch.telemetry.plain import visible_lines

POLL_S = 0.2
"""How often `--follow` looks."""

_HOOKS_BEGIN_WITHIN_S = 2.0


class Source(Struct, frozen=True):
    """One start of one command. `total_bytes` is what it wrote in all, None while it may write more."""

    step: str
    attempt: int
    directory: Path
    total_bytes: int | None


def sources(run: Run, hooks: list[OutboxEntry], layout: StateDir, only: str | None) -> list[Source]:
    """What there is to read of a run, in the order in which it was started. Raises UsageError for an unknown step."""
    names = list(dict.fromkeys([*(step.name for step in run.steps), *run.hooks, *(hook.name for hook in hooks)]))
    if only is not None and only not in names:
        raise UsageError(f"run {run.id[:8]} has no step {only!r}: it has {', '.join(names)}")
    found = []
    for step in run.steps:
        if step.attempt > 0:
            total = step.result.output_bytes if step.state is StepState.ENDED and step.result is not None else None
            found.append(Source(step.name, step.attempt, layout.step(run.id, step.name, step.attempt), total))
    for hook in hooks:
        for attempt in range(1, hook.attempt + 1):
            is_last = attempt == hook.attempt
            total = hook.result.output_bytes if is_last and not hook.in_flight and hook.result is not None else None
            found.append(Source(hook.name, attempt, layout.hook(run.id, hook.name, hook.id, attempt), total))
    return [source for source in found if only is None or source.step == only]


class _Cursor(Struct):
    """How far a source was read."""

    offset: int = 0
    began: bool = False


class Printer(Struct):
    """Writes what is new of each source to `stream`. `headers`: each source has a line with its name above it."""

    stream: BinaryIO
    is_terminal: bool
    headers: bool
    _cursors: dict[Path, _Cursor] = field(default_factory=dict)
    _current: Path | None = None
    _at_line_start: bool = True
    _filter: TerminalFilter | None = None

    def print_new(self, source: Source) -> None:
        """Everything of `source` that was not printed yet; what was not kept is said on standard error."""
        cursor = self._cursors.setdefault(source.directory, _Cursor())
        for start, _, data in output.read(str(source.directory), cursor.offset):
            self._begin(source)
            self._gap(source, start - cursor.offset)
            self._write(data)
            cursor.offset = start + len(data)
        if source.total_bytes is not None and source.total_bytes > cursor.offset:
            self._begin(source)
            self._gap(source, source.total_bytes - cursor.offset)
            cursor.offset = source.total_bytes
        self.stream.flush()

    def end(self) -> None:
        """Leave the terminal as it was."""
        if self._filter is not None:
            self.stream.write(self._filter.end().encode())
        self.stream.flush()

    def _begin(self, source: Source) -> None:
        if self._current == source.directory:
            return
        self.end()
        self._filter = TerminalFilter() if self.is_terminal else None
        self._current = source.directory
        if self.headers:
            again = f" (try {source.attempt})" if source.attempt > 1 else ""
            text = f"==> {source.step}{again} <=="
            lead = "" if self._at_line_start else "\n"
            self.stream.write(
                f"{lead}\x1b[1m{text}\x1b[0m\n".encode() if self.is_terminal else f"{lead}{text}\n".encode()
            )
            self._at_line_start = True

    def _gap(self, source: Source, count: int) -> None:
        if count > 0:
            self.stream.flush()
            say(f"jetp: {source.step}: {count} bytes dropped here: more than `output:` keeps", err=True)

    def _write(self, data: bytes) -> None:
        shown = data if self._filter is None else self._filter.feed(data).encode("utf-8", "backslashreplace")
        self.stream.write(shown)
        if shown:
            self._at_line_start = shown.endswith(b"\n")


class TerminalFilter:
    """Output of a command as a terminal may have it: text, line ends, tabs, colours; anything else escaped.

    Works on pieces: a character or a colour sequence may be cut in two between them.
    """

    _COLOUR = re.compile(r"\x1b\[[0-9;:]{0,64}m")
    _BEGUN = re.compile(r"(?:\x1b(?:\[[0-9;:]{0,64})?|\r)\Z")

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")("backslashreplace")
        self._held = ""
        self._coloured = False

    def feed(self, data: bytes) -> str:
        """What of `data`, and of what was held back before, may be shown now."""
        text = self._held + self._decoder.decode(data)
        begun = self._BEGUN.search(text)
        self._held = text[begun.start() :] if begun else ""
        return self._shown(text[: begun.start()] if begun else text)

    def end(self) -> str:
        """What was held back, and the end of the last colour."""
        rest = self._shown(self._held + self._decoder.decode(b"", final=True))
        self._held = ""
        reset, self._coloured = ("\x1b[0m" if self._coloured else ""), False
        return rest + reset

    def _shown(self, text: str) -> str:
        text = text.replace("\r\n", "\n")
        parts = []
        position = 0
        for colour in self._COLOUR.finditer(text):
            parts += [visible_lines(text[position : colour.start()]), colour.group()]
            position = colour.end()
            self._coloured = True
        return "".join([*parts, visible_lines(text[position:])])


def print_all(found: list[Source], printer: Printer) -> None:
    """What there is, once."""
    for source in found:
        printer.print_new(source)
    printer.end()


def wants_headers(run: Run, found: list[Source], *, following: bool) -> bool:
    """Whether the output of more than one command is shown, or is going to be."""
    return len(found) > 1 or (following and len(run.steps) + len(run.hooks) > 1)


def first_tries_go_on(run: Run, hooks: list[OutboxEntry], now: Stamp) -> bool:
    """Whether hooks of a closed run are being tried, or are just about to be for the first time."""
    just_closed = run.closed is not None and elapsed_s(run.closed, now) < _HOOKS_BEGIN_WITHIN_S
    return any(hook.in_flight or (just_closed and hook.state is HookState.OWED and hook.attempt == 0) for hook in hooks)


def follow(look: Callable[[], tuple[bool, list[Source]]], printer: Printer, pause: Callable[[], None]) -> None:
    """What there is and what comes, until `look` says that no more will come. `pause` waits between two looks."""
    while True:
        is_ended, found = look()  # before the files are read: what ended by now is in them in full
        for source in found:
            printer.print_new(source)
        if is_ended:
            printer.end()
            return
        pause()


def as_data(found: list[Source]) -> Iterator[dict[str, Any]]:
    """Per start: its text and how much there was. One start at a time is in memory."""
    for source in found:
        kept = bytearray()
        dropped = position = 0
        for start, _, data in output.read(str(source.directory)):
            dropped += start - position
            kept += data
            position = start + len(data)
        total = max(position, source.total_bytes or 0)
        yield {
            "step": source.step,
            "attempt": source.attempt,
            "output": kept.decode("utf-8", "replace"),
            "output_bytes": total,
            "dropped_bytes": dropped + total - position,
        }
