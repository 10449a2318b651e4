"""Keys and mappings of keys: what walks a mapping of watch.yml, for every key the same way.

A key is known by its table alone: unknown ones get the nearest name, those of other versions a word about it, a bare
`null` counts as "not given" (so a watch can undo what `defaults:` says).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import NODEFAULT, Struct
from msgspec.structs import fields, replace

from jetwatch.config.nodes import Broken, Mapping, Node, Notes, Scalar, Sequence, quoted
from jetwatch.config.scalars import Kind, Plain


class Key(Struct, frozen=True):
    """One key of watch.yml: its name, what may stand there, what it means.

    `into` is the field that holds its value; `record` the record with that field, which knows the default.
    `default_text` says the default in words where no record does. `refusal`, where set, is why the key cannot be used.
    """

    name: str
    kind: Kind
    doc: str
    into: str = ""
    record: type[Struct] | None = None
    default_text: str = ""
    aliases: tuple[str, ...] = ()
    refusal: str = ""

    @property
    def field(self) -> str:
        """Where the value goes."""
        return self.into or self.name

    @property
    def default(self) -> Any:
        """The default of the record's field, None where there is none."""
        if self.record is None:
            return None
        field = next(each for each in fields(self.record) if each.name == self.field)
        if field.default_factory is not NODEFAULT:
            return field.default_factory()
        return None if field.default is NODEFAULT else field.default

    @property
    def default_shown(self) -> str:
        """The default as the reference page writes it."""
        if self.default_text or self.default is None:
            return self.default_text or "none"
        shown = self.kind.write(self.default)
        return f"`{shown}`" if isinstance(shown, str) else f"`{str(shown).lower()}`"


def read_keys(mapping: Mapping, keys: Iterable[Key], notes: Notes, also_known: Iterable[str] = ()) -> dict[str, Any]:
    """The values of a mapping by field. `also_known` are names that are suggested, though they stand elsewhere."""
    by_name = {name: key for key in keys for name in (key.name, *key.aliases)}
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    for name, node in mapping.entries.items():
        key = by_name.get(name)
        if key is None:
            notes.unknown(mapping, name, {*by_name, *also_known})
        elif key.refusal:
            notes.problem(replace(node, line=mapping.key_lines[name]), key.refusal)
        elif key.name in given:
            notes.problem(node, f"`{name}` and `{given[key.name]}` are the same key; give one")
        elif not is_none(node):
            given[key.name] = name
            value = key.kind.read(node, notes)
            if value is not None:
                values[key.field] = value
    return values


def is_none(node: Node) -> bool:
    """Whether a bare `null` or `~` stands there. Nothing at all is no such word: it is a slip."""
    return isinstance(node, Scalar) and node.is_null and node.text != ""


class Table(Kind, frozen=True):
    """A mapping of keys → a record. `objection` says what is wrong with a whole record, empty when nothing is."""

    keys: tuple[Key, ...]
    record: Callable[..., Any]
    objection: Callable[[Any], str] = lambda _: ""

    what = "a mapping"

    def read(self, node: Node, notes: Notes) -> Any:
        """The record, its defaults filled in."""
        if not isinstance(node, Mapping):
            notes.expected(node, "a mapping with " + ", ".join(f"`{key.name}`" for key in self.keys))
            return None
        problems_before = len(notes.problems)
        record = self.record(**read_keys(node, self.keys, notes))
        if len(notes.problems) == problems_before and (sentence := self.objection(record)):
            notes.problem(node, sentence)
            return None
        return record

    def show(self, value: Any) -> dict[str, Any]:
        """The keys that have a value."""
        return {key.name: key.kind.show(entry) for key, entry in self._held(value)}

    def write(self, value: Any) -> dict[str, Any]:
        """The same with units."""
        return {key.name: key.kind.write(entry) for key, entry in self._held(value)}

    def _held(self, value: Any) -> list[tuple[Key, Any]]:
        held = [(key, getattr(value, key.field)) for key in self.keys]
        return [(key, entry) for key, entry in held if entry is not None]

    def schema(self) -> dict[str, Any]:
        """An object with these properties and no other."""
        return object_schema(self.keys)


def object_schema(keys: Iterable[Key], *more: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of a mapping of keys; `more` are constraints on the whole."""
    properties = {
        name: {"description": key.doc, **key.kind.schema()}
        for key in keys
        if not key.refusal
        for name in (key.name, *key.aliases)
    }
    schema: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": properties}
    return schema | ({"allOf": list(more)} if more else {})


class Either(Kind, frozen=True):
    """A short form (one scalar, turned into the record by `widen`) or a mapping.

    `narrow` gives the short form of a record for printing, None where only the mapping says it all.
    """

    short: Plain
    table: Table
    widen: Callable[[Any], Any]
    narrow: Callable[[Any], Any]

    @property
    def what(self) -> str:
        """Both forms."""
        keys = ", ".join(f"`{key.name}`" for key in self.table.keys)
        return f"{self.short.what}, or a mapping with {keys}"

    def read(self, node: Node, notes: Notes) -> Any:
        """The record, from either form."""
        if isinstance(node, Mapping):
            return self.table.read(node, notes)
        if not isinstance(node, Scalar):
            notes.expected(node, self.what)
            return None
        value = self.short.read(node, notes)
        return None if value is None else self.widen(value)

    def show(self, value: Any) -> Any:
        """The short form where there is one."""
        short = self.narrow(value)
        return self.table.show(value) if short is None else self.short.show(short)

    def write(self, value: Any) -> Any:
        """The same with units."""
        short = self.narrow(value)
        return self.table.write(value) if short is None else self.short.write(short)

    def schema(self) -> dict[str, Any]:
        """Any of both."""
        return {"anyOf": [self.short.schema(), self.table.schema()]}


class Pairs(Kind, frozen=True):
    """Names → values of one kind; `names` is the pattern of a name, `known` the names where they are a list.

    With `verbatim` the scalars are text as it stands, `null` and nothing included.
    """

    names: str
    kind: Plain
    known: tuple[str, ...] = ()
    verbatim: bool = False

    what = "a mapping of names to values"

    def read(self, node: Node, notes: Notes) -> dict[str, Any] | None:
        """The values by name."""
        if not isinstance(node, Mapping):
            notes.expected(node, self.what)
            return None
        values = {name: self._value(node, name, notes) for name in node.entries}
        return {name: value for name, value in values.items() if value is not None}

    def _value(self, mapping: Mapping, name: str, notes: Notes) -> Any:
        node = mapping.entries[name]
        if self.known and name not in self.known:
            notes.unknown(mapping, name, self.known)
        elif not re.fullmatch(self.names, name):
            notes.problem(node, f"{quoted(name)} cannot be a name here: expected `{self.names}`")
        elif self.verbatim:
            return self._text(node, notes)
        else:
            return self.kind.read(node, notes)
        return None

    def _text(self, node: Node, notes: Notes) -> str | None:
        if not isinstance(node, Scalar):
            notes.expected(node, self.kind.what)
            return None
        if "{{" in node.text:
            notes.warning(
                node, "no template here: `{{` stays as it is; commands get the values as JETWATCH_… variables"
            )
        return node.text

    def show(self, value: Any) -> dict[str, Any]:
        """Each value as its kind shows it."""
        return {name: self.kind.show(entry) for name, entry in value.items()}

    def schema(self) -> dict[str, Any]:
        """An object with such names."""
        values = {"type": ["string", "number", "boolean", "null"]} if self.verbatim else self.kind.schema()
        if self.known:
            return {"type": "object", "additionalProperties": False, "properties": dict.fromkeys(self.known, values)}
        return {"type": "object", "propertyNames": {"pattern": f"^{self.names}$"}, "additionalProperties": values}


class OneOrMany(Kind, frozen=True):
    """One value, or a list of them → a tuple."""

    kind: Kind

    @property
    def what(self) -> str:
        """Both forms."""
        return f"{self.kind.what}, or a list of such"

    def read(self, node: Node, notes: Notes) -> tuple[Any, ...] | None:
        """All that can be read, None when one cannot."""
        if isinstance(node, Mapping | Broken):
            notes.expected(node, self.what)
            return None
        members = node.items if isinstance(node, Sequence) else (node,)
        values = tuple(self.kind.read(member, notes) for member in members)
        return None if None in values else values

    def show(self, value: Any) -> list[Any]:
        """A list."""
        return [self.kind.show(entry) for entry in value]

    def schema(self) -> dict[str, Any]:
        """One, or an array."""
        one = self.kind.schema()
        return {"anyOf": [one, {"type": "array", "items": one}]}
