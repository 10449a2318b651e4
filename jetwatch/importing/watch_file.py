"""Watches that were imported → the text of a watch.yml, with what has no equivalent as a comment in its place.

Written by hand rather than by a YAML library, because none keeps comments; `jetp check-config` is the test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct, field

Value = str | Sequence[str] | Mapping[str, "Value"]

_PLAIN = re.compile(r"[A-Za-z0-9_/.][A-Za-z0-9_/.,+@%=-]*( [A-Za-z0-9_/.,+@%=-]+)*")
_OTHERWISE_READ = re.compile(r"(?i:y|n|yes|no|on|off|true|false|null|~)|[-+.0-9][-+.0-9_a-fxo:]*")
_MARKERS = re.compile(r"\{\{|\{%|\{#")
_BLOCK = re.compile(r"[^\s\x00-\x1f\x7f-\x9f][^\x00-\x09\x0b-\x1f\x7f-\x9f]*")


class Remark(Struct, frozen=True):
    """Something that has no equivalent, or wants a look. `line` is that of `file`, "" where there is but one."""

    line: int
    text: str
    file: str = ""

    def __str__(self) -> str:
        return f"{self.file} line {self.line}: {self.text}".lstrip()


class Imported(Struct, frozen=True):
    """One watch: its keys in order, what stood above it, what is to be remarked, and lines worth a thought."""

    name: str
    keys: Mapping[str, Value]
    comments: Sequence[str] = ()
    remarks: Sequence[Remark] = ()
    hints: Sequence[str] = ()


class Aside(Struct, frozen=True):
    """What became no watch: comments, and remarks with the text they are about."""

    comments: Sequence[str] = ()
    remarks: Sequence[Remark] = ()
    original: str = ""


class Import(Struct, frozen=True):
    """Everything that was found, in its order."""

    entries: Sequence[Imported | Aside] = field(default_factory=tuple)

    @property
    def watches(self) -> list[Imported]:
        """What became a watch."""
        return [entry for entry in self.entries if isinstance(entry, Imported)]

    @property
    def remarks(self) -> list[Remark]:
        """All remarks, in order."""
        return [remark for entry in self.entries for remark in entry.remarks]


def text(found: Import, header: Iterable[str], defaults: Mapping[str, Value]) -> str:
    """The whole file. `header` are its first lines of comment."""
    out = [*_comments(header, ""), "", "defaults:", *_mapping(defaults, "  "), "", "watches:"]
    for entry in found.entries:
        out += _entry(entry)
    return "\n".join(out).rstrip("\n") + "\n"


def _entry(entry: Imported | Aside) -> Iterator[str]:
    yield from _comments(entry.comments, "  ")
    yield from _comments((f"WARNING: {remark}" for remark in entry.remarks), "  ")
    if isinstance(entry, Aside):
        yield from _comments([f"  {entry.original}"] if entry.original else [], "  ")
    else:
        yield f"  {entry.name}:"
        yield from _mapping(entry.keys, "    ")
        yield from _comments(entry.hints, "    ")
    yield ""


def _mapping(values: Mapping[str, Value], indent: str) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _mapping(value, indent + "  ")
        elif isinstance(value, str):
            yield from _keyed(key, value, indent)
        else:
            yield f"{indent}{key}:"
            yield from (f"{indent}  - {scalar(item)}" for item in value)


def _keyed(key: str, value: str, indent: str) -> Iterator[str]:
    if "\n" in value and _BLOCK.fullmatch(value) and not value.endswith("\n"):
        yield f"{indent}{key}: |-"
        yield from (f"{indent}  {line}".rstrip(" ") if not line else f"{indent}  {line}" for line in value.split("\n"))
    else:
        yield f"{indent}{key}: {scalar(value)}"


def scalar(value: str) -> str:
    """Text as a YAML scalar of one line: as it stands, else in single quotes, else escaped."""
    if _PLAIN.fullmatch(value) and not _OTHERWISE_READ.fullmatch(value):
        return value
    if value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    return json.dumps(value)


def literal(text: str) -> str:
    """The template that renders as this text."""
    return _MARKERS.sub(lambda marker: f"{{{{ '{marker[0]}' }}}}", text)


def _comments(texts: Iterable[str], indent: str) -> Iterator[str]:
    for each in texts:
        yield f"{indent}# {_printable(each)}".rstrip()


def _printable(line: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in line)
