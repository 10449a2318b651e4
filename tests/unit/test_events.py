"""The catalogue keeps its word: what was told once is told again under its name, or the schema's version rises."""

from __future__ import annotations

import json
from pathlib import Path

from jetwatch.events import SCHEMA_VERSION
from jetwatch.telemetry.reference import events_schema

FIRST = json.loads((Path(__file__).with_name("events_of_schema_1.json")).read_text())


def test_nothing_of_schema_1_has_gone_or_changed_its_type() -> None:
    """Who needs that raises SCHEMA_VERSION, says so in the changelog, and takes down the next version's fields here."""
    assert SCHEMA_VERSION == 1
    now = events_schema()["$defs"]
    for event, fields in FIRST.items():
        properties = now.get(event, {}).get("properties", {})
        kept = {name: properties.get(name, {}).get("type") for name in fields}
        assert kept == fields, event
