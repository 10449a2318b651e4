"""The small tree that a configuration is read into: it remembers file, line and path of everything in it.

Scalars stay text; what they mean is for their key to say. What is wrong is noted where it stands. How a file becomes
such a tree: `yaml_file.py`; `jetp fetch` makes one of its options, without any YAML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct, field

from jetwatch.errors import Problem


class Node(Struct, frozen=True):
    """What all nodes have: where they stand (`line` is 1-based) and how many nodes they are."""

    file: str
    line: int
    path: str
    size: int


class Scalar(Node, frozen=True):
    """Text. `is_null`: nothing or a bare `null` stands there, which in some places means "none"."""

    text: str
    is_null: bool = False


class Broken(Node, frozen=True):
    """Something whose fault is noted already: nothing more is said about it."""


class Sequence(Node, frozen=True):
    """A list."""

    items: tuple[Node, ...]


class Mapping(Node, frozen=True):
    """Keys with their values, in file order, no key twice. `key_lines` says where each key stands."""

    entries: dict[str, Node]
    key_lines: dict[str, int] = field(default_factory=dict)


class Notes(Struct):
    """Everything found wrong or doubtful so far. The same finding is kept once, however often it is met.

    `believed`: files that are named and decide something, which nobody has looked at yet.
    """

    _problems: dict[Problem, None] = field(default_factory=dict)
    _warnings: dict[Problem, None] = field(default_factory=dict)
    believed: list[tuple[Node, Path]] = field(default_factory=list)

    def problem(self, node: Node, message: str) -> None:
        """Note that `node` will not do."""
        self.add(Problem(node.file, node.line, node.path, message))

    def add(self, problem: Problem) -> None:
        """Note a problem that has its place already."""
        self._problems[_on_one_line(problem)] = None

    def warning(self, node: Node, message: str) -> None:
        """Note something that works, and may not be meant."""
        self._warnings[_on_one_line(Problem(node.file, node.line, node.path, message))] = None

    def expected(self, node: Node, what: str) -> None:
        """Note that something else stands where `what` should."""
        if isinstance(node, Broken):
            return
        self.problem(node, f"expected {what}; found {described(node)}")

    def unknown(self, parent: Mapping, key: str, known: Iterable[str]) -> None:
        """Note a key that is none, with the nearest that is."""
        child = Node(parent.file, parent.key_lines[key], join(parent.path, key), 1)
        self.problem(child, f"no such key{nearest(key, known)}")

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All problems, by file and line."""
        return _in_order(self._problems)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """All warnings, by file and line."""
        return _in_order(self._warnings)


def _on_one_line(problem: Problem) -> Problem:
    """The problem without control characters: no value or name of a file can break a line of a report, or forge one."""
    return problem._replace(file=_printable(problem.file), message=_printable(problem.message))


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda problem: (problem.file, problem.line)))


def join(path: str, key: str) -> str:
    """The path of `key` below `path`."""
    shown = quoted(key, "") if not re.fullmatch(r"[\w-]+", key) else key
    return f"{path}.{shown}" if path else shown


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, or nothing when nothing is near."""
    import difflib

    close = difflib.get_close_matches(word[:100], sorted(known), n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else ""


def quoted(text: str, mark: str = "`") -> str:
    """Text of a stranger within a sentence: short, on one line, without control characters."""
    shown = text if len(text) <= 60 else text[:57] + "..."
    return mark + _printable(shown) + mark


def described(node: Node) -> str:
    """What stands there, in words."""
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    if isinstance(node, Scalar) and node.text:
        return quoted(node.text)
    return "nothing"
