"""Watches that were imported → the text of a watch.yml, with what has no equivalent as a comment in its place.

Its lines are laid out by hand, because no YAML library keeps comments. No text of an input becomes structure: what is
not plain is quoted, what cannot be printed is escaped by pyyaml, and the whole is read back by the reader of watch.yml
and compared with what was meant before anybody sees it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from msgspec import Struct, field

from jetwatch.config import nodes, yaml_file
from jetwatch.errors import ConfigError, ImportNotSame

Value = str | Sequence[str] | Mapping[str, "Value"]

_PLAIN = re.compile(r"[A-Za-z0-9_/.][A-Za-z0-9_/.,+@%=-]*( [A-Za-z0-9_/.,+@%=-]+)*")
_OTHERWISE_READ = re.compile(r"(?i:y|n|yes|no|on|off|true|false|null|~)|[-+.0-9][-+.0-9_a-fxo:]*")
_MARKERS = re.compile(r"\{\{|\{%|\{#")


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
    """The whole file. `header` are its first lines of comment.

    Raises ImportNotSame where the reader of watch.yml would read anything else than what was meant.
    """
    out = [*_comments(header, ""), "", "defaults:", *_mapping(defaults, "  "), "", "watches:"]
    for entry in found.entries:
        out += _entry(entry)
    made = "\n".join(out).rstrip("\n") + "\n"
    _compare(made, {"defaults": defaults, "watches": {each.name: each.keys for each in found.watches}})
    return made


def _compare(made: str, meant: Mapping[str, Value]) -> None:
    notes = nodes.Notes()
    try:
        read = _as_value(yaml_file.parsed(made, "watch.yml", notes))
    except ConfigError as error:
        raise ImportNotSame(str(error)) from error
    if notes.problems:
        raise ImportNotSame(str(notes.problems[0]))
    if read != (wanted := _as_lists(meant)):
        raise ImportNotSame(_difference(wanted, read, ""))


def _as_value(node: nodes.Node) -> Any:
    if isinstance(node, nodes.Mapping):
        return {key: _as_value(each) for key, each in node.entries.items()}
    if isinstance(node, nodes.Sequence):
        return [_as_value(each) for each in node.items]
    return node.text if isinstance(node, nodes.Scalar) and not node.is_null else None


def _as_lists(value: Value) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_lists(each) for key, each in value.items()}
    return value if isinstance(value, str) else [*value]


def _difference(wanted: Any, read: Any, path: str) -> str:
    if not isinstance(wanted, dict) or not isinstance(read, dict):
        return f"{path}: meant {wanted!r}, read {read!r}"
    key = next(key for key in (*wanted, *read) if wanted.get(key) != read.get(key) or (key in read) != (key in wanted))
    return _difference(wanted.get(key), read.get(key), nodes.join(path, key))


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
    for name, value in values.items():
        key = scalar(name)
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _mapping(value, indent + "  ")
        elif isinstance(value, str):
            yield from _keyed(key, value, indent)
        else:
            yield f"{indent}{key}:"
            yield from (f"{indent}  - {scalar(item)}" for item in value)


def _keyed(key: str, value: str, indent: str) -> Iterator[str]:
    if _is_block(value):
        yield f"{indent}{key}: |-"
        yield from (f"{indent}  {line}" if line else "" for line in value.split("\n"))
    else:
        yield f"{indent}{key}: {scalar(value)}"


def _is_block(value: str) -> bool:
    """Whether it can stand as lines, each as it is: all can be printed, and the first and the last are not empty."""
    lines = value.split("\n")
    shown = all(line.isprintable() for line in lines)
    return len(lines) > 1 and shown and not lines[0][:1].isspace() and "" not in (lines[0], lines[-1])


def scalar(value: str) -> str:
    """Text as a YAML scalar of one line: as it stands, else in single quotes, else escaped."""
    if _PLAIN.fullmatch(value) and not _OTHERWISE_READ.fullmatch(value):
        return value
    if value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    escaped: str = yaml.safe_dump(value, default_style='"', width=math.inf, allow_unicode=False)
    return escaped.rstrip("\n")


def literal(text: str) -> str:
    """The template that renders as this text."""
    return _MARKERS.sub(lambda marker: f"{{{{ '{marker[0]}' }}}}", text)


def _comments(texts: Iterable[str], indent: str) -> Iterator[str]:
    for each in texts:
        yield f"{indent}# {_printable(each)}".rstrip()


def _printable(line: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in line)
