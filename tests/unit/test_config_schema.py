"""The schema, the reference page and the printed configuration say what the loader does."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from jetwatch import words
from jetwatch.cli.config import check_config
from jetwatch.cli.config import schema as schema_command
from jetwatch.config.effective import as_data, as_text
from jetwatch.config.keys import AGENT_KEYS, WATCH_KEYS
from jetwatch.config.load import load
from jetwatch.config.schema import reference, schema, schema_text
from jetwatch.errors import ConfigError

DOCS = Path(__file__).parents[2] / "docs"
LEAST = "check_command: /bin/true\njet_command: /bin/true\n"
FULL = """\
state_dir: /var/lib/x
log: {format: json, level: debug}
control: false
metrics: {textfile: /x/y.prom, listen: 9753, statsd: {address: '[::1]:8125', tags: {env: prod}}}
stop: wait
defaults:
  env: {A: 1.10, DB_PASSWORD: hush, URL: 'https://me:hush@host/'}
  limits: {nofile: unlimited}
  umask: 022
watches:
  web:
    check_command: /bin/check {{ watch }}
    jet_command: {run: [a, 'b c', 'https://me:hush@host/'], timeout: 1h30m, ok_exit_codes: [0, 3]}
    on_ok: {shell: 'echo "$JETWATCH_OUTCOME" https://me:hush@host/'}
    check_interval: 200
    jitter: 10%
    retry: {max_attempts: 3}
    retain: {bytes: 1GiB}
    on_fail: {run: [/bin/page], after: 3, when: first, capabilities: [], no_new_privileges: true}
    on_recover: /bin/page --resolve
    windows: [{days: [mon, wed-fri], from: "22:00", to: "04:00"}, {days: sat, timezone: UTC}]
    splay: 1m
    timeouts: {grace: 2}
  backup:
    schedule: '@daily'
    splay: 1h
    jet_command: /bin/backup
"""


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A configuration with something of everything."""
    path = tmp_path / "full.yml"
    path.write_text(FULL)
    return path


def matches(value: Any, rule: dict[str, Any], root: dict[str, Any]) -> bool:
    """Whether a value keeps the rules of JSON Schema that our schema uses; any other rule fails the test."""
    checks = {
        "$ref": lambda ref: matches(value, resolved(ref, root), root),
        "anyOf": lambda rules: any(matches(value, each, root) for each in rules),
        "oneOf": lambda rules: sum(matches(value, each, root) for each in rules) == 1,
        "allOf": lambda rules: all(matches(value, each, root) for each in rules),
        "not": lambda each: not matches(value, each, root),
        "type": lambda names: any(is_type(value, name) for name in ([names] if isinstance(names, str) else names)),
        "enum": lambda members: value in members,
        "pattern": lambda pattern: not isinstance(value, str) or re.search(pattern, value) is not None,
        "minimum": lambda least: not is_type(value, "number") or value >= least,
        "maximum": lambda most: not is_type(value, "number") or value <= most,
        "const": lambda constant: value == constant,
        "minLength": lambda length: not isinstance(value, str) or len(value) >= length,
        "minItems": lambda length: not isinstance(value, list) or len(value) >= length,
        "items": lambda each: not isinstance(value, list) or all(matches(item, each, root) for item in value),
        "minProperties": lambda count: not isinstance(value, dict) or len(value) >= count,
        "required": lambda names: not isinstance(value, dict) or all(name in value for name in names),
        "propertyNames": lambda each: not isinstance(value, dict) or all(matches(key, each, root) for key in value),
        "properties": lambda known: (
            not isinstance(value, dict)
            or all(matches(entry, known[key], root) for key, entry in value.items() if key in known)
        ),
        "additionalProperties": lambda other: not isinstance(value, dict) or more_match(value, rule, other, root),
    }
    notes = {"$schema", "$defs", "title", "description", "default"}
    return all(checks[name](argument) for name, argument in rule.items() if name not in notes)


def more_match(value: dict[str, Any], rule: dict[str, Any], other: Any, root: dict[str, Any]) -> bool:
    """The rule for properties without a rule of their own."""
    rest = [entry for key, entry in value.items() if key not in rule.get("properties", {})]
    return not rest if other is False else all(matches(entry, other, root) for entry in rest)


def resolved(ref: str, root: dict[str, Any]) -> dict[str, Any]:
    """What a reference within the schema names."""
    found: Any = root
    for part in ref.removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


def is_type(value: Any, name: str) -> bool:
    """JSON Schema's types."""
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    if name in kinds:
        return isinstance(value, kinds[name])
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (name == "number" or value == int(value))


def test_the_committed_schema_does_not_drift() -> None:
    """`watch.schema.json` is what the table of keys says: regenerate it after a change."""
    committed = resources.files("jetwatch.config").joinpath("watch.schema.json").read_text("utf-8")
    assert committed == schema_text()


def test_the_committed_reference_page_does_not_drift() -> None:
    """`docs/reference/watch-yml.md` is what the table of keys says: regenerate it after a change."""
    assert (DOCS / "reference" / "watch-yml.md").read_text("utf-8") == reference()


def test_the_reference_page_has_every_key() -> None:
    """Also those of other versions, under their own heading."""
    page = reference()
    names = [name for key in (*WATCH_KEYS, *AGENT_KEYS) for name in (key.name, *key.aliases)]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_the_reference_page_has_every_variable() -> None:
    """What a template can name has its meaning there."""
    page = reference()
    assert [name for name in words.HOOK_VARIABLES if f"| `{name}` |" not in page] == []


def test_the_examples_of_the_reference_page_load(tmp_path: Path) -> None:
    """What the page shows works."""
    examples = re.findall(r"```yaml\n(.*?)```", reference(), re.DOTALL)
    assert len(examples) == 2
    for number, example in enumerate(examples):
        path = tmp_path / f"example{number}.yml"
        path.write_text(example)
        assert load(path)


AGREED = [
    LEAST,
    FULL,
    "max_runs: 3\n" + LEAST + "splay: 5m\nname: x\n",
    LEAST + "check_interval: 0.1\n",
    LEAST + "check_interval: 1h30m\n",
    LEAST + "check_interval: 5 minutes\n",
    LEAST + "chek_interval: 5\n",
    LEAST + "umask: '022'\n",
    LEAST + "nice: 20\n",
    LEAST + "phase: fixed\n",
    LEAST + "retry: true\n",
    LEAST + "retry: {initial: 5}\n",
    LEAST + "retry: {first: 5}\n",
    LEAST + "limits: {nofile: unlimited, core: 0}\n",
    LEAST + "limits: {files: 3}\n",
    LEAST + "capabilities: [CAP_KILL, net_raw]\n",
    LEAST + "capabilities: [cap_kill]\n",
    LEAST + "no_new_privileges: true\n",
    LEAST + "env: {A: 1, B: x}\n",
    LEAST + "env: [A]\n",
    LEAST + "on_ok: {run: a, shell: b}\n",
    LEAST + "on_ok: {run: a, timeout: 5}\n",
    LEAST + "on_ok: [a, b]\n",
    LEAST + "on_ok: []\n",
    LEAST + "play_command: b\n",
    LEAST + "output: 64KiB\n",
    LEAST + "output: 3\n",
    LEAST + "content: s3://x/\n",
    LEAST + "control: {socket: /x}\n",
    LEAST + "stop: later\n",
    "check_command: a\n",
    "watches: {}\n",
    "watches: {Web: {check_command: a, jet_command: b}}\n",
    "watches: {web: {check_command: a, jet_command: b, name: c}}\n",
    "watches: {web: {check_command: {run: a, ok_exit_codes: 0}, jet_command: b}}\n",
]


@pytest.mark.parametrize("text", AGREED)
def test_the_schema_and_the_loader_agree(tmp_path: Path, text: str) -> None:
    """What an editor marks is what the agent refuses."""
    path = tmp_path / "web.yml"
    path.write_text(text)
    try:
        load(path)
        loads = True
    except ConfigError:
        loads = False
    rules = schema()
    assert matches(yaml.safe_load(text), rules, rules) is loads


def test_what_is_printed_loads_to_the_same_configuration(tmp_path: Path) -> None:
    """Both forms, for people and for programs, are watch.yml again (but for hidden secrets)."""
    path = tmp_path / "web.yml"
    path.write_text(re.sub(r"https?://me:hush@host/|hush", "x", FULL).replace("DB_PASSWORD", "DB"))
    settings, _ = load(path)
    for number, text in enumerate((as_text(settings), json.dumps(as_data(settings)))):
        again = tmp_path / f"again{number}.yml"
        again.write_text(text)
        assert load(again)[0] == settings


def test_every_timeout_is_printed(tmp_path: Path) -> None:
    """Those of commands that the watch does not have, too: a hook may be added later."""
    path = tmp_path / "web.yml"
    path.write_text("check_command: a\njet_command: b\ntimeouts: {hook: 7}\n")
    timeouts = as_data(load(path)[0])["watches"]["web"]["timeouts"]
    assert timeouts == {"check": 60, "download": 1800, "play": 7200, "hook": 7, "grace": 10}


def test_no_secret_is_printed(full: Path) -> None:
    """Values of secret names and users in URLs are `***`, wherever they stand."""
    settings, _ = load(full)
    for text in (as_text(settings), json.dumps(as_data(settings)), repr(settings).replace("https://me:hush@host/", "")):
        assert "hush" not in text
    assert as_data(settings)["watches"]["web"]["check_command"]["env"]["DB_PASSWORD"] == "***"


def test_check_config_prints_the_effective_configuration(full: Path) -> None:
    """Exit code 0, YAML on standard output, warnings on standard error."""
    done = CliRunner().invoke(check_config, [str(full)])
    assert done.exit_code == 0
    data = yaml.safe_load(done.stdout)
    assert data["watches"]["web"]["check_interval"] == "200s"
    assert data["watches"]["web"]["jet_command"]["timeout"] == "1h30m"
    assert f"warning: {full}:13: watches.web.jet_command.run: a password" in done.stderr


def test_check_config_prints_json_for_programs(full: Path) -> None:
    """Numbers have no units; the warnings are part of the answer."""
    done = CliRunner().invoke(check_config, [str(full), "--json"])
    data = json.loads(done.stdout)
    assert data["watches"]["web"]["check_interval"] == 200
    assert [warning["line"] for warning in data["warnings"]] == [13, 14]


def test_check_config_prints_every_problem_and_exits_78(tmp_path: Path) -> None:
    """One problem a line on standard error, nothing on standard output."""
    path = tmp_path / "web.yml"
    path.write_text("jet_command: a\nsplai: 1\n")
    done = CliRunner().invoke(check_config, [str(path)])
    assert (done.exit_code, done.stdout) == (78, "")
    assert [line.split(": ")[0] for line in done.stderr.splitlines()] == [f"{path}:1", f"{path}:2"]
    as_json = CliRunner().invoke(check_config, [str(path), "--json"])
    assert as_json.exit_code == 78
    assert [problem["path"] for problem in json.loads(as_json.stdout)["problems"]] == ["", "splai"]


def test_the_schema_command_prints_the_schema() -> None:
    """`jetp schema` is the shipped file, byte for byte."""
    done = CliRunner().invoke(schema_command, [])
    assert (done.exit_code, done.stdout) == (0, schema_text())


def test_the_schema_command_prints_the_schema_of_the_events() -> None:
    """With `--events` it is that of the log lines."""
    done = CliRunner().invoke(schema_command, ["--events"])
    assert done.exit_code == 0
    assert "$schema" in json.loads(done.stdout)
