"""Every line that an agent of these tests tells is one of the catalogue: the schema is what others build on."""

from __future__ import annotations

from functools import cache
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

from jetwatch.telemetry.reference import events_schema


@cache
def _events() -> dict[str, dict[str, Any]]:
    found = events_schema()["$defs"]
    assert isinstance(found, dict)
    return found


@cache
def _validator(event: str) -> Draft202012Validator:
    return Draft202012Validator(_events()[event], format_checker=FormatChecker())


def problems(line: dict[str, Any]) -> list[str]:
    """What is wrong with a line, by its event's own schema; a field that the schema does not know is wrong, too."""
    event = line.get("event", "")
    if event not in _events():
        return [f"no such event: {event!r}"]
    unknown = sorted(set(line) - set(_events()[event]["properties"]))
    found = [f"{event}: no such field: {name}" for name in unknown]
    return found + [f"{event}: {error.json_path}: {error.message}" for error in _validator(event).iter_errors(line)]
