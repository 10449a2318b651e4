"""python packaging/man_pages.py DIR: jetp(1), and a page such as jetp-watch(1) for each command, from its own help.

The pages are made when a package is built and are not kept, so they are never out of date. They carry no date, so the
same source gives the same bytes. click-man makes no pages for commands that are loaded when they are called, and lets a
line that begins with a dot be a command of roff.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from command_line import Command, commands, program

from jetwatch import __version__

_CODE = re.compile(r"`([^`\n]+)`")


def main() -> None:
    """Write every page into the directory that the command line names."""
    if len(sys.argv) != 2:
        sys.exit("usage: python packaging/man_pages.py DIR")
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    every = list(commands())
    for command in every:
        (target / f"{_name(command)}.1").write_text(_page(command, _SEE_ALSO), encoding="utf-8")
    listed = [line for each in every for line in (".TP", f"\\fB{_text(_name(each))}\\fP(1)", _text(each.sentence))]
    (target / "jetp.1").write_text(_page(program(), [".SH COMMANDS", *listed]), encoding="utf-8")


_SEE_ALSO = [".SH SEE ALSO", "\\fBjetp\\fP(1)"]


def _name(command: Command) -> str:
    return command.path.replace(" ", "-")


def _page(command: Command, end: list[str]) -> str:
    name, sentence = _name(command), command.sentence
    lines = [
        f'.TH {_text(name.upper())} 1 "" "jetwatch {__version__}"',
        ".SH NAME",
        f"{_text(name)} \\- {_text(sentence[0].lower() + sentence[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        f"\\fB{_text(command.path)}\\fP {_text(command.usage.removeprefix(command.path).strip())}",
        ".SH DESCRIPTION",
        *_description(command),
        ".SH OPTIONS",
        *(line for names, said in command.options for line in (".TP", f"\\fB{_text(names)}\\fP", _text(said))),
        *end,
    ]
    return "\n".join(lines) + "\n"


def _description(command: Command) -> Iterator[str]:
    """Paragraphs, the examples among them as they stand."""
    for position, paragraph in enumerate(command.paragraphs):
        if position:
            yield ".PP"
        lines = map(_text, paragraph.lines)
        yield from (".nf", *lines, ".fi") if paragraph.as_it_stands else lines


def _text(line: str) -> str:
    r"""Text that roff reads as text: a hyphen that can be copied, no command, no escape; `code` in bold."""
    plain = line.replace("\\", "\\e").replace("-", "\\-")
    if plain.startswith((".", "'")):
        plain = "\\&" + plain
    return _CODE.sub(r"\\fB\1\\fP", plain)


if __name__ == "__main__":
    main()
