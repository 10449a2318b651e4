"""Standard input, output and error of `jetp`, whatever the caller made of them: closed, full, gone, or not UTF-8.

A descriptor that is closed becomes /dev/null, so that no file of ours gets its number. Output that cannot be written is
said as such; a complaint that cannot be written is dropped, and changes no exit code.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path
from typing import TextIO

from jetwatch.errors import JetwatchError

_READER_GONE = 141  # what a shell sees of a program that SIGPIPE ended
_NOT_NOW = 75


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


def _text(raw: io.FileIO, before: TextIO | None) -> TextIO:
    """In the locale's encoding, as before; what it has no character for is escaped."""
    encoding = before.encoding if before is not None else "utf-8"
    is_at_once = raw.fileno() == 2 or raw.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=is_at_once
    )


def forget_output() -> None:
    """Nobody takes it: let the interpreter's own last flush go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
