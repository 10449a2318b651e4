"""Text on its way to a terminal: what cannot be printed is made visible, whoever writes it."""

from __future__ import annotations

import ast
import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from jetwatch.cli import streams
from jetwatch.cli.streams import Shown, Styled

CLI = Path(streams.__file__).parent
WAYS_OUT = ("print", "click.echo", "click.secho", "os.write", "sys.stdout.write", "sys.stderr.write")
HOSTILE = "a\x1b]0;owned\x07\x1b[2J\x9b2J\x7f\x00\r\u202eb\u2028c\x85d\ufeff"
SEEN = r"a\x1b]0;owned\x07\x1b[2J\x9b2J\x7f\x00\r\u202eb\u2028c\x85d\ufeff"


def shown_stream() -> tuple[Shown, io.BytesIO]:
    """A stream as `jetp` has two of, and what came out of it."""
    raw = io.BytesIO()
    return Shown(raw, encoding="utf-8", errors="backslashreplace", write_through=True), raw


def said(raw: io.BytesIO) -> str:
    """What a terminal would get."""
    return raw.getvalue().decode()


def test_whatever_is_printed_is_made_visible() -> None:
    """By print, by write and by writelines; ends of lines and tabs stay."""
    stream, raw = shown_stream()
    print(HOSTILE, file=stream)
    stream.write(f"{HOSTILE}\n")
    stream.writelines([f"\t{HOSTILE}", "\n"])
    assert said(raw) == f"{SEEN}\n{SEEN}\n\t{SEEN}\n"


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_no_character_of_any_text_reaches_a_terminal_unless_it_can_be_printed(text: str) -> None:
    """Surrogates too, which no encoding has."""
    stream, raw = shown_stream()
    print(text, file=stream)
    assert all(char.isprintable() or char in "\n\t" for char in said(raw))


def test_rich_keeps_its_colours_and_gives_away_nothing_else() -> None:
    """A sequence that is no colour and no move of a progress bar is text, also where a caller forgot to say so."""
    stream, raw = shown_stream()
    console = Console(file=Styled(stream), force_terminal=True, color_system="standard", width=200)  # type: ignore[arg-type]
    console.print(Text("green", style="green"))
    console.out("\x1b]0;owned\x07\x1b[2J\x1b[5;5H", highlight=False)
    assert said(raw).startswith("\x1b[32mgreen\x1b[0m\n")
    assert "\x1b]" not in said(raw)
    assert "\x1b[2J" not in said(raw)
    assert "\x1b[5;5H" not in said(raw)


def test_a_line_that_is_said_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """And a document is JSON in ASCII, with JSON's own escapes."""
    streams.say(f"x\n{HOSTILE}")
    streams.say("y\nz", err=True)
    streams.say_json({"a": HOSTILE})
    out, err = capsys.readouterr()
    line, document = out.split("\n", 1)
    assert (line, err) == (rf"x\n{SEEN}", "y\\nz\n")
    assert document.isascii()
    assert r"\u001b" in document
    assert json.loads(document) == {"a": HOSTILE}


def test_no_command_writes_to_a_terminal_by_another_way() -> None:
    """print, click's echo, and rich's consoles stand in the files that make text visible, and nowhere else."""
    allowed = {"streams.py", "people.py", "main.py", "exit_codes.py"}
    found = []
    for path in sorted(CLI.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            is_console = called == "Console" and "Styled(" not in ast.unparse(node)
            is_way_out = called in (
                "print",
                "click.echo",
                "click.secho",
                "os.write",
                "sys.stdout.write",
                "sys.stderr.write",
            )
            if is_console or (is_way_out and path.name not in allowed):
                found.append(f"{path.name}:{node.lineno}: {called}")
    assert found == []


@pytest.mark.parametrize("fd", [1, 2])
def test_both_streams_of_the_program_are_such(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the interpreter made of them."""
    monkeypatch.setattr(sys, "stdin", sys.stdin)
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    streams.open_all()
    assert isinstance({1: sys.stdout, 2: sys.stderr}[fd], Shown)
