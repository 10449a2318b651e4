"""Standard input, output and error of `jetp`, whatever the caller made of them: closed, full, gone, or not UTF-8.

A descriptor that is closed becomes /dev/null, so that no file of ours gets its number. Output that cannot be written is
said as such; a complaint that cannot be written is dropped, and changes no exit code.

What is written to either as text is made visible on its way: no control character, line separator or bidi mark of a
revision, a file's name or an error reaches a terminal. `Styled` is the one way past it, for rich, and lets colours and
the moves of a progress bar through; `say`, `say_text` and `say_json` are what commands print with.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, TextIO

from jetwatch.errors import JetwatchError
from jetwatch.telemetry.plain import visible, visible_lines

_READER_GONE = 141  # what a shell sees of a program that SIGPIPE ended
_NOT_NOW = 75
_STYLE = re.compile(r"(\x1b\[(?:[0-9;]*m|\?25[lh]|[0-9]*[AK])|\r)")
"""What rich writes of its own: a colour, the cursor hidden or shown, a line up, a line erased, back to its start."""


class OutputError(JetwatchError):
    """Standard output cannot be written. `is_gone`: because nobody reads it any more, which needs no sentence."""

    exit_code = _NOT_NOW

    def __init__(self, error: OSError) -> None:
        self.is_gone = error.errno == errno.EPIPE
        if self.is_gone:
            self.exit_code = _READER_GONE
        super().__init__(f"standard output cannot be written: {error.strerror}. What was asked for is not all there")


class _Output(io.FileIO):
    def write(self, data: object, /) -> int:
        """As a file does. Raises OutputError."""
        try:
            return super().write(data)  # type: ignore[arg-type] # the buffer above hands on what it was given
        except OSError as error:
            raise OutputError(error) from error


class _Complaints(io.FileIO):
    def write(self, data: object, /) -> int:
        """As a file does; what cannot be written is dropped."""
        try:
            return super().write(data)  # type: ignore[arg-type] # as above
        except OSError:
            return len(data)  # type: ignore[arg-type] # as above


class Shown(io.TextIOWrapper):
    """Text for people: what cannot be printed is escaped, but for ends of lines and tabs."""

    def write(self, text: str, /) -> int:
        """As a file does."""
        return self.write_as_it_is(visible_lines(text))

    def write_as_it_is(self, text: str) -> int:
        """Past what makes it visible: for `Styled`."""
        return super().write(text)


class Styled:
    """A stream as rich wants it: colours and moves of the cursor stay what they are, all else is made visible."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As a file does."""
        shown = "".join(part if index % 2 else visible_lines(part) for index, part in enumerate(_STYLE.split(text)))
        return self._stream.write_as_it_is(shown) if isinstance(self._stream, Shown) else self._stream.write(shown)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def say(line: str, *, err: bool = False) -> None:
    """One line on standard output, or error. An end of line in it is made visible, too: nothing forges a second one."""
    print(visible(line), file=sys.stderr if err else sys.stdout)


def say_text(text: str) -> None:
    """Lines of our own making on standard output, with the end of line that they bring."""
    sys.stdout.write(text)


def say_json(document: Any, *, indent: int | None = 2) -> None:
    """One document on standard output, in ASCII: what cannot be printed is escaped as JSON has it."""
    print(json.dumps(document, indent=indent))


def open_all() -> None:
    """Make all three what this module says. Call it first, before any file is opened."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - as long as the process
    sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Complaints(2, "w", closefd=False), sys.stderr)


def _text(raw: io.FileIO, before: TextIO | None) -> Shown:
    """In the locale's encoding, as before; what it has no character for is escaped."""
    encoding = before.encoding if before is not None else "utf-8"
    is_at_once = raw.fileno() == 2 or raw.isatty()
    return Shown(io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=is_at_once)


def forget_output() -> None:
    """Nobody takes it: let the interpreter's own last flush go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
