"""The shippers' configurations that cannot be run here: they parse, and name only fields that lines have."""

from __future__ import annotations

import configparser
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from jetwatch.events import catalogue
from jetwatch.telemetry.reference import events_schema

FOLDER = Path(__file__).parents[2] / "packaging/log-shippers"
FIELDS = {name for event in events_schema()["$defs"].values() for name in event["properties"]}
ALWAYS_MAPPED = {"timestamp", "level", "event", "host", "agent_version"}


def text_of(name: str) -> str:
    """A file, without what its comments say."""
    return re.sub(r"^\s*#.*$", "", (FOLDER / name).read_text(), flags=re.MULTILINE)


def sections(name: str) -> configparser.ConfigParser:
    """A Splunk file; a key or section that stands twice fails the test."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",), strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((FOLDER / "splunk" / name).read_text())
    return parser


REFERENCES = {
    "logstash/jetwatch.conf": r"\[jetwatch\]\[([a-z_]+)\]",
    "vector/jetwatch.toml": r"\.jetwatch\.([a-z_]+)",
    "fluent-bit/fluent-bit.conf": r"(?:Copy|Rename|Key_value_equals|Key_value_does_not_equal|Key_exists)\s+([a-z_]+)",
    "rsyslog/jetwatch.conf": r"\$!([a-z_]+)",
    "opentelemetry/collector.yaml": r"(?:from: |parse_from: |field: |')attributes\.([a-z_]+)",
}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_shipper_names_only_fields_that_lines_have(name: str) -> None:
    """A field that is none is a mapping that is silently empty."""
    named = set(re.findall(REFERENCES[name], text_of(name)))
    assert named <= FIELDS
    assert named >= ALWAYS_MAPPED


def test_the_format_of_lnav_names_only_fields_that_lines_have() -> None:
    """The common ones among them; what it does not name it shows all the same."""
    (form,) = (part for name, part in json.loads(text_of("lnav/jetwatch.json")).items() if name != "$schema")
    mapped = {form[key] for key in ("timestamp-field", "level-field", "body-field")}
    assert not form["hide-extra"]
    assert set(form["value"]) | mapped <= FIELDS
    assert {"watch", "play_uuid", "seq", "outcome", "exit_code", "output_tail"} <= set(form["value"])
    shown = {part["field"] for part in form["line-format"] if isinstance(part, dict)} - {"__timestamp__"}
    assert shown <= FIELDS


def test_splunk_reads_whole_lines_at_their_own_time() -> None:
    """What its defaults would get wrong: long lines, microseconds, the host."""
    (props,) = (sections("props.conf")[name] for name in ("jetwatch",))
    assert int(props["TRUNCATE"]) > 32 * 1024 * 4
    assert re.search(props["TIME_PREFIX"], '{"timestamp": "2026-')
    assert props["TIME_FORMAT"] == "%Y-%m-%dT%H:%M:%S.%6NZ"
    transforms = sections("transforms.conf")
    used = {name for key, names in props.items() if key.startswith("TRANSFORMS-") for name in names.split(", ")}
    assert used <= set(transforms.sections())
    found = re.search(transforms["jetwatch_host"]["REGEX"], '{"event": "x", "host": "a.b", "agent_version": "1"}')
    assert found is not None
    assert found[1] == "a.b"


def test_splunk_maps_fields_and_events_that_exist() -> None:
    """Aliases, expressions, event types; every tag belongs to an event type."""
    props = sections("props.conf")["jetwatch"]
    aliased = {value.split(" AS ")[0] for key, value in props.items() if key.startswith("FIELDALIAS-")}
    evaluated = " ".join(value for key, value in props.items() if key.startswith("EVAL-"))
    in_expressions = set(re.findall(r"\b([a-z_]+)\b(?![(\"])", re.sub(r'"[^"]*"', '""', evaluated))) - {"if", "case"}
    assert aliased <= FIELDS
    assert {name for name in in_expressions if name not in ("null", "isnotnull", "coalesce")} <= FIELDS
    types = sections("eventtypes.conf")
    names = {event.name for event in catalogue()}
    for each in types.sections():
        (listed,) = re.findall(r"event IN \(([^)]*)\)", types[each]["search"])
        assert set(listed.split(", ")) <= names
    assert {each.removeprefix("eventtype=") for each in sections("tags.conf").sections()} == set(types.sections())


def test_vector_and_opentelemetry_parse() -> None:
    """As their own formats; what one part names another part is."""
    vector = tomllib.loads((FOLDER / "vector/jetwatch.toml").read_text())
    parts = {name for kind in vector.values() for name in kind}
    assert {each for kind in vector.values() for part in kind.values() for each in part.get("inputs", [])} <= parts
    collector = yaml.safe_load((FOLDER / "opentelemetry/collector.yaml").read_text())
    logs = collector["service"]["pipelines"]["logs"]
    assert set(logs["receivers"]) <= set(collector["receivers"])
    assert set(logs["exporters"]) <= set(collector["exporters"])


def test_logstash_and_fluent_bit_are_well_formed() -> None:
    """Every bracket is closed; every line of a section is a key with a value."""
    pipeline = re.sub(r'"(?:\\.|[^"\\])*"', '""', text_of("logstash/jetwatch.conf"))
    depth = 0
    for character in pipeline:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    for name in ("fluent-bit.conf", "parsers.conf"):
        for line in text_of(f"fluent-bit/{name}").splitlines():
            assert re.fullmatch(r"|\[[A-Z]+\]|    [A-Za-z_]+ +\S.*", line), line


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.*")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_file_says_whether_it_was_run(path: Path) -> None:
    """Nobody is told that something works which was only read."""
    assert re.search(r"[Rr]un in our tests|Not run in our tests|how it was tested", path.read_text())


def test_the_mapping_names_fields_that_lines_have() -> None:
    """The table of the README."""
    table = (FOLDER / "README.md").read_text().partition("## Fields")[2]
    assert set(re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE)) <= FIELDS
