"""python packaging/man_pages.py DIR: jetp(1), and a page such as jetp-watch(1) for each command, from its own help.

The pages are made when a package is built and are not kept, so they are never out of date. They carry no date, so the
same source gives the same bytes. click-man makes no pages for commands that are loaded when they are called, and lets a
line that begins with a dot be a command of roff.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from jetwatch import __version__
from jetwatch.cli.main import COMMANDS, jetp

_CODE = re.compile(r"`([^`\n]+)`")


def main() -> None:
    """Write every page into the directory that the command line names."""
    if len(sys.argv) != 2:
        sys.exit("usage: python packaging/man_pages.py DIR")
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    top = click.Context(jetp, info_name="jetp", **jetp.context_settings)
    (target / "jetp.1").write_text(_page(top, jetp, "pull agent for machines"), encoding="utf-8")
    for name, (_, sentence) in COMMANDS.items():
        command = jetp.get_command(top, name)
        if command is None:
            sys.exit(f"there is no command {name}")
        context = click.Context(command, info_name=name, parent=top)
        (target / f"jetp-{name}.1").write_text(_page(context, command, sentence), encoding="utf-8")


def _page(context: click.Context, command: click.Command, sentence: str) -> str:
    name = context.command_path.replace(" ", "-")
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [
        f'.TH {_text(name.upper())} 1 "" "jetwatch {__version__}"',
        ".SH NAME",
        f"{_text(name)} \\- {_text(sentence[0].lower() + sentence[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        f"\\fB{_text(context.command_path)}\\fP {_text(usage)}",
        ".SH DESCRIPTION",
        *_paragraphs(inspect.cleandoc(f"{command.help}\n\n{command.epilog or ''}")),
        ".SH OPTIONS",
        *_options(context, command),
    ]
    if command is jetp:
        lines.append(".SH COMMANDS")
        for each, (_, said) in COMMANDS.items():
            lines += [".TP", f"\\fBjetp\\-{_text(each)}\\fP(1)", _text(said)]
    else:
        lines += [".SH SEE ALSO", "\\fBjetp\\fP(1)"]
    return "\n".join(lines) + "\n"


def _options(context: click.Context, command: click.Command) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and isinstance(parameter, click.Option):
            yield from (".TP", f"\\fB{_text(record[0])}\\fP", _text(" ".join(record[1].split())))


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs, those that begin with click's mark as they stand."""
    for position, paragraph in enumerate(re.split(r"\n{2,}", text)):
        if position:
            yield ".PP"
        if paragraph.startswith("\b\n"):
            yield from (".nf", *map(_text, paragraph.split("\n")[1:]), ".fi")
        else:
            yield from map(_text, paragraph.split("\n"))


def _text(line: str) -> str:
    r"""Text that roff reads as text: a hyphen that can be copied, no command, no escape; `code` in bold."""
    plain = line.replace("\\", "\\e").replace("-", "\\-")
    if plain.startswith((".", "'")):
        plain = "\\&" + plain
    return _CODE.sub(r"\\fB\1\\fP", plain)


if __name__ == "__main__":
    main()
