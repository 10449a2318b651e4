"""What the log lines are: JSON Schema for machines, docs/reference/events.md for people, both from the catalogue alone.

A line holds no field that has nothing to say, so only numbers and truth values are promised to be there.
"""

from __future__ import annotations

from typing import Any

import msgspec

from jetwatch.events import SCHEMA_VERSION, Event, catalogue

Schema = dict[str, Any]

_ALWAYS: dict[str, tuple[Schema, str]] = {
    "timestamp": ({"type": "string", "format": "date-time"}, "when it happened: RFC 3339, UTC, microseconds"),
    "level": ({"enum": ["debug", "info", "warning", "error"]}, "debug, info, warning or error"),
    "event": ({"type": "string"}, "the event's name"),
    "host": ({"type": "string"}, "the machine's name"),
    "agent_version": ({"type": "string"}, "the version of jetwatch"),
    "schema_version": ({"const": SCHEMA_VERSION}, "rises when a field changes its meaning or goes away"),
}
_SOMETIMES: dict[str, tuple[Schema, str]] = {
    "watch": ({"type": "string"}, "the watch, in lines of a watch"),
    "play_uuid": ({"type": "string", "format": "uuid"}, "the run, in lines of a run"),
    "seq": ({"type": "integer", "minimum": 1}, "the journal's count, in lines that are part of its history"),
}
_NEVER_LEFT_OUT = ("integer", "number", "boolean")


def events_schema() -> Schema:
    """The JSON Schema of one log line in the format `json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A log line of jetwatch",
        "description": "One JSON object per line. New events and fields may be added; names and meanings stay.",
        "oneOf": [{"$ref": f"#/$defs/{event.name}"} for event in catalogue()],
        "$defs": {event.name: _event_schema(event) for event in catalogue()},
    }


def events_page() -> str:
    """docs/reference/events.md, whole."""
    parts = [_INTRODUCTION, _table([(name, text) for name, (_, text) in (_ALWAYS | _SOMETIMES).items()])]
    for event in catalogue():
        parts += [f"## {event.name}\n", f"{_sentence(event)} {_level_of(event)}\n"]
        own = [(name, _type_of(schema)) for name, schema in _own_fields(event).items()]
        parts.append(_table(own) if own else "")
    return "\n".join(part for part in parts if part)


_INTRODUCTION = """# Events

<!-- Generated from jetwatch/events.py; a test fails when the two differ. -->

One event is one line. `jetp schema --events` prints the same as JSON Schema. A field that is empty is left out of the
line. The lines of a run carry its `play_uuid`; lines that are part of the journal's history carry its `seq`.
A field longer than 32 KiB is cut, and its end says so.

Every line has:
"""


def _event_schema(event: type[Event]) -> Schema:
    own = _own_fields(event)
    common = {name: schema for name, (schema, _) in (_ALWAYS | _SOMETIMES).items()}
    history = ["seq"] if event.history else []
    return {
        "description": _sentence(event),
        "type": "object",
        "properties": common | {"event": {"const": event.name}} | own,
        "required": [*_ALWAYS, *history, *(name for name, schema in own.items() if name in _promised(event))],
    }


def _own_fields(event: type[Event]) -> dict[str, Schema]:
    """The event's fields beside the common ones, each as it stands in a line: never null, in the order of the class."""
    found: dict[str, Schema] = {}
    properties = _components(event)["properties"]
    for name in event.__struct_fields__:
        if name in _SOMETIMES:
            continue
        schema = {key: value for key, value in properties[name].items() if key != "default"}
        choices = [choice for choice in schema.pop("anyOf", []) if choice != {"type": "null"}]
        found[name] = schema | (choices[0] if choices else {})
    return found


def _promised(event: type[Event]) -> set[str]:
    properties = _components(event)["properties"]
    return {name for name, schema in properties.items() if schema.get("type") in _NEVER_LEFT_OUT}


def _components(event: type[Event]) -> Schema:
    (reference,), components = msgspec.json.schema_components([event])
    found: Schema = components[reference["$ref"].rpartition("/")[2]]
    return found


def _sentence(event: type[Event]) -> str:
    return (event.__doc__ or "").strip()


def _level_of(event: type[Event]) -> str:
    history = " Part of the history." if event.history else ""
    if event.told_level is not Event.told_level:
        return f"Level: {(event.told_level.__doc__ or '').strip()}{history}"
    return f"Level: {event.level}.{history}"


def _type_of(schema: Schema) -> str:
    if schema.get("type") == "array":
        return f"list of {_type_of(schema['items'])}"
    return {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}[schema["type"]]


def _table(rows: list[tuple[str, str]]) -> str:
    lines = ["| field | |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| `{name}` | {text} |" for name, text in rows)]) + "\n"
