"""A YAML file → the tree of `nodes.py`.

Nothing in a file can block, run or swell: only regular files up to 1 MiB are read, aliases are counted as what they
expand to, and tags, merge keys and second documents are refused in words. Owns the reading half of pyyaml.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from jetwatch.config.nodes import Broken, Mapping, Node, Notes, Scalar, Sequence, described, join, quoted
from jetwatch.errors import ConfigError, NotTrusted, Problem
from jetwatch.trust import Accounts, open_file

LARGEST_FILE_BYTES = 1024 * 1024
MOST_NODES = 100_000
"""Nodes of a file with its aliases expanded: a thousand watches with every key stay far below."""

DEEPEST = 32
"""Levels of nesting; the deepest key of watch.yml stands on the sixth."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser where pyyaml was built with it
_LONGEST_REASON = 500  # of what is quoted from a file
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_QUOTE_HINT = "a value that begins with `{{` must stand in quotes"
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _refused(file: str, line: int, message: str) -> ConfigError:
    """The error that ends the reading of one file: nothing beyond it can be understood."""
    return ConfigError([Problem(file, line, "", message)])


def read(path: Path, notes: Notes) -> Mapping:
    """The tree of one file; what can be passed over goes to `notes`. Raises ConfigError where reading has to end."""
    return parsed(_text(path, _bytes(path)), str(path), notes)


def parsed(text: str, file: str, notes: Notes) -> Mapping:
    """The tree of a file's text, as of `read`; `file` is its name in what is said."""
    return _Builder(file, text, notes).document()


def _bytes(path: Path) -> bytes:
    try:
        content = _at_most(path, LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise _refused(str(path), 1, f"cannot be read: {error.strerror}") from error
    except NotTrusted as error:
        raise _refused(str(path), 1, f"cannot be read: {error.reason}") from error
    if content is None:
        raise _refused(str(path), 1, "expected a regular file; this is a directory, a device, a pipe or a socket")
    if len(content) > LARGEST_FILE_BYTES:
        raise _refused(str(path), 1, f"larger than {LARGEST_FILE_BYTES} bytes, which no configuration needs to be")
    return content


def _at_most(path: Path, size: int) -> bytes | None:
    """The first bytes of a regular file, None when it is none. Raises NotTrusted for what others may change."""
    descriptor = open_file(path, Accounts.own())
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(size)


def _text(path: Path, content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _refused(str(path), line, "not UTF-8; save the file as UTF-8") from error
    if found := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise _refused(str(path), line, f"the control character {found[0]!r} cannot stand in a YAML file")
    return text


class _Builder:
    """One file's events → its tree. Built from events, so that nothing is expanded before it is counted."""

    def __init__(self, file: str, text: str, notes: Notes) -> None:
        self._file = file
        self._text = text
        self._notes = notes
        self._anchors: dict[str, Node] = {}
        self._open_anchors: set[str] = set()
        self._expanded = 0

    def document(self) -> Mapping:
        """The file's one document, a mapping."""
        events = yaml.parse(self._text, Loader=_LOADER)
        try:
            return self._document(events)
        except yaml.MarkedYAMLError as error:
            raise self._syntax(error) from error
        except yaml.YAMLError as error:
            raise _refused(self._file, 1, f"not YAML: {error}") from error

    def _document(self, events: Iterator[yaml.Event]) -> Mapping:
        root: Node | None = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise _refused(self._file, _line(event), "a second document begins here; a file holds one")
                root = self._node(next(events), events, "", 0)
        if root is None or (isinstance(root, Scalar) and root.is_null):
            raise _refused(self._file, 1, "the file is empty; expected keys such as `jet_command:`")
        if not isinstance(root, Mapping):
            raise _refused(self._file, root.line, f"expected keys such as `jet_command:`; found {described(root)}")
        return root

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], path: str, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        if depth > DEEPEST:
            raise _refused(self._file, _line(event), f"nested more than {DEEPEST} levels deep")
        if tag := getattr(event, "tag", None):
            self._fault(event, f"the tag {quoted(tag)} has no meaning here; leave it out", path)
        anchor: str | None = getattr(event, "anchor", None)
        if anchor:
            self._open_anchors.add(anchor)
        node = self._own_node(event, events, path, depth)
        if anchor:
            self._open_anchors.discard(anchor)
            self._anchors[anchor] = node
        return node

    def _own_node(self, event: yaml.Event, events: Iterator[yaml.Event], path: str, depth: int) -> Node:
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(event, events, path, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(event, events, path, depth)
        return self._scalar(event, path)

    def _alias(self, event: yaml.AliasEvent, path: str) -> Node:
        named = str(event.anchor)[:_LONGEST_REASON]
        if event.anchor in self._open_anchors:
            return self._fault(event, f"the alias `*{named}` stands inside what it names", path)
        if event.anchor not in self._anchors:
            return self._fault(event, f"the alias `*{named}` names no anchor above it", path)
        node = self._anchors[event.anchor]
        self._count(event, node.size)
        return node

    def _count(self, event: yaml.Event, size: int) -> None:
        self._expanded += size
        if self._expanded > MOST_NODES:
            message = f"more than {MOST_NODES} values, with aliases counted as what they stand for"
            raise _refused(self._file, _line(event), message)

    def _scalar(self, event: yaml.Event, path: str) -> Node:
        self._count(event, 1)
        if not isinstance(event, yaml.ScalarEvent):
            return self._fault(event, "expected a value", path)
        if "\0" in event.value:
            return self._fault(event, "a value cannot contain a NUL character", path)
        is_null = not event.style and event.value in _NULLS
        return Scalar(self._file, _line(event), path, 1, event.value, is_null)

    def _sequence(self, start: yaml.Event, events: Iterator[yaml.Event], path: str, depth: int) -> Sequence:
        items: list[Node] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self._node(event, events, f"{path}[{len(items)}]", depth + 1))
        return Sequence(self._file, _line(start), path, 1 + sum(item.size for item in items), tuple(items))

    def _mapping(self, start: yaml.Event, events: Iterator[yaml.Event], path: str, depth: int) -> Node:
        entries: dict[str, Node] = {}
        lines: dict[str, int] = {}
        size = 1
        unnamed = False
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = self._key(event, events, path, depth)
            node = self._node(next(events), events, join(path, key or ""), depth + 1)
            size += 1 + node.size
            unnamed = unnamed or key is None
            if key is None or key == "<<":
                continue
            if key in entries:
                self._fault(event, f"given twice; first on line {lines[key]}", join(path, key))
            else:
                entries[key], lines[key] = node, _line(event)
        if unnamed:
            return Broken(self._file, _line(start), path, size)
        return Mapping(self._file, _line(start), path, size, entries, lines)

    def _key(self, event: yaml.Event, events: Iterator[yaml.Event], path: str, depth: int) -> str | None:
        """The key that `event` begins, None when it is no word (its fault is noted)."""
        self._count(event, 1)
        if not isinstance(event, yaml.ScalarEvent):
            self._fault(event, f"a key must be a word; {_QUOTE_HINT}", path)
            self._node(event, events, path, depth + 1)
            return None
        if event.value == "<<":
            self._fault(event, "merge keys (`<<`) are not understood; use `defaults:`", path)
        if "\0" in event.value:
            self._fault(event, "a key cannot contain a NUL character", path)
        return str(event.value)

    def _fault(self, event: yaml.Event, message: str, path: str) -> Broken:
        broken = Broken(self._file, _line(event), path, 1)
        self._notes.problem(broken, message)
        return broken

    def _syntax(self, error: yaml.MarkedYAMLError) -> ConfigError:
        line = error.problem_mark.line if error.problem_mark else 0
        lines = self._text.splitlines()
        text = lines[line] if line < len(lines) else ""
        if "\t" in text[: len(text) - len(text.lstrip())]:
            return _refused(self._file, line + 1, "a tab stands in the indentation; YAML wants spaces")
        hint = f"; {_QUOTE_HINT}" if re.search(r"[:-]\s+\{\{", text) else ""
        context = f"{error.context}: " if error.context else ""
        said = f"{context}{error.problem}"  # it may quote a name from the file, however long that is
        return _refused(self._file, line + 1, f"not YAML: {said[:_LONGEST_REASON]}{hint}")


def _line(event: yaml.Event) -> int:
    return (event.start_mark.line if event.start_mark else 0) + 1
