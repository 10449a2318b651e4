"""The table of keys as a JSON Schema (for editors) and as a reference page (for people).

Both are generated and committed, `watch.schema.json` beside this file and `docs/reference/watch-yml.md`; tests fail
when they drift:

    python -m jetwatch.config.schema > jetwatch/config/watch.schema.json
    python -m jetwatch.config.schema --reference > docs/reference/watch-yml.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from jetwatch import words
from jetwatch.config.commands import ALARM_KEYS, CHECK, ON_FAIL, PLAY, SECRET_NAME, CommandKind, command_keys
from jetwatch.config.keys import AGENT_KEYS, NAME_PATTERN, WATCH_KEYS
from jetwatch.config.tables import Either, Key, Table
from jetwatch.config.windows import Windows

_ONE_NAME_TWICE = {"required": ["jet_command", "play_command"]}


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of watch.yml, either form."""
    watch = {key: _property(key) for key in WATCH_KEYS if not key.refusal}
    by_name = {name: entry for key, entry in watch.items() for name in (key.name, *key.aliases)}
    agent = {key.name: _property(key) for key in AGENT_KEYS if not key.refusal}
    top = {name: {"$ref": f"#/$defs/watch/properties/{name}"} for name in by_name if name != "name"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "watch.yml",
        "description": "Configuration of `jetp watch`: one watch on the top level, or several under `watches:`.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "name": _property(WATCH_KEYS[0]),
            **top,
            "defaults": {"$ref": "#/$defs/watch", "description": "Keys of every watch of this file."},
            "watches": {
                "description": "The watches by name.",
                "type": "object",
                "minProperties": 1,
                "propertyNames": {"pattern": f"^{NAME_PATTERN}$"},
                "additionalProperties": {"$ref": "#/$defs/watch"},
            },
            **agent,
        },
        "anyOf": [
            {"required": ["watches"]},
            {"required": ["jet_command"]},
            {"required": ["play_command"]},
            {"propertyNames": {"enum": sorted(agent)}},
        ],
        "not": _ONE_NAME_TWICE,
        "$defs": {
            "watch": _watch(by_name),
            "check": CommandKind(CHECK).schema(),
            "on_fail": CommandKind(ON_FAIL).schema(),
            "command": CommandKind(PLAY).schema(),
        },
    }


def _watch(by_name: dict[str, Any]) -> dict[str, Any]:
    properties = {name: entry for name, entry in by_name.items() if name != "name"}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "not": _ONE_NAME_TWICE,
    }


def _property(key: Key) -> dict[str, Any]:
    """A key's schema; `null` undoes what `defaults:` says."""
    own = {"$ref": f"#/$defs/{_definition(key.kind)}"} if isinstance(key.kind, CommandKind) else key.kind.schema()
    entry: dict[str, Any] = {"description": key.doc, "anyOf": [own, {"type": "null"}]}
    if key.default is not None and not key.default_text:
        entry["default"] = key.kind.show(key.default)
    return entry


def _definition(kind: CommandKind) -> str:
    """Two are unlike the others: a check's exit codes are fixed, and on_fail may be limited."""
    return {CHECK: "check", ON_FAIL: "on_fail"}.get(kind.slot, "command")


def schema_text() -> str:
    """The schema as the committed file holds it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def reference() -> str:
    """The reference page of watch.yml, in Markdown."""
    watch = [key for key in WATCH_KEYS if not key.refusal]
    agent = [key for key in AGENT_KEYS if not key.refusal]
    parts = [
        _INTRODUCTION,
        "## Keys of a watch\n\n" + _table(watch),
        *(_nested(key) for key in watch if _keys_of(key)),
        "## A command\n" + _COMMANDS + "\n" + _table(command_keys(PLAY)),
        "### `on_fail`\n" + _ON_FAIL + "\n" + _table(ALARM_KEYS),
        "### Variables\n" + _VARIABLES + "\n" + _variables(),
        "## Keys of the agent\n\nOn the top level only.\n\n" + _table(agent),
        *(_nested(key) for key in agent if _keys_of(key)),
        _VALUES.replace("SECRET_NAME", SECRET_NAME.pattern),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _keys_of(key: Key) -> tuple[Key, ...]:
    kind = key.kind.table if isinstance(key.kind, Either | Windows) else key.kind
    return kind.keys if isinstance(kind, Table) else ()


def _nested(key: Key, within: str = "") -> str:
    path = within + key.name
    deeper = [_nested(each, f"{path}.") for each in _keys_of(key) if _keys_of(each)]
    return "\n\n".join([f"### `{path}`\n\n" + _table(_keys_of(key)), *deeper])


def _table(keys: Iterable[Key]) -> str:
    rows = [_row(key) for key in keys]
    return "\n".join(["| key | meaning | value | default |", "| --- | --- | --- | --- |", *rows])


def _row(key: Key) -> str:
    names = " or ".join(f"`{name}`" for name in (key.name, *key.aliases))
    nested = " (below)" if _keys_of(key) else ""
    what = "a [command](#a-command)" if isinstance(key.kind, CommandKind) else key.kind.what
    default = (key.default_text or "as below") if isinstance(key.kind, Table) else key.default_shown
    cells = (names, key.doc, what + nested, default)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _variables() -> str:
    known = [("every command", words.CHECK_VARIABLES), ("a run", words.RUN_VARIABLES), ("hooks", words.HOOK_VARIABLES)]
    rows = [
        f"| `{name}` | {meaning} | {next(who for who, names in known if name in names)} |"
        for name, meaning in _MEANINGS.items()
    ]
    extra = [f"| `{name}` | {meaning} |" for name, meaning in _ENVIRONMENT_ONLY.items()]
    return "\n".join(
        [
            *("| name | meaning | known in |", "| --- | --- | --- |", *rows),
            *("", "Besides, in the environment only:", ""),
            *("| name | meaning |", "| --- | --- |", *extra),
        ]
    )


_INTRODUCTION = """
<!-- Generated by `python -m jetwatch.config.schema --reference`; a test fails when it drifts. -->

# watch.yml

A file holds one watch, with its keys on the top level:

```yaml
check_command: /var/jetp/check.sh
download_command: /var/jetp/download.sh {{ download_path }}
jet_command: jetp local --playbook {{ download_path }}/pb.yml
check_interval: 200
splay: 100
on_ok: /var/jetp/ok.sh {{ play_uuid }}
on_fail: /var/jetp/fail.sh {{ play_uuid }}
```

or several under `watches:`, with `defaults:` for all of them:

```yaml
defaults:
  splay: 5m
  timeouts: { play: 1h }
watches:
  web:
    check_command: /var/jetp/check.sh web
    jet_command: jetp local --playbook /srv/web/pb.yml
  backup:
    schedule: "0 3 * * *"
    jet_command: jetp local --playbook /srv/backup/pb.yml
```

`--watch-config` takes a file, or a directory: every `*.yml` in it, in name order (hidden files are left out).
`defaults:` apply to the watches of their own file. A watch's key goes over the default; mappings (`env`,
`timeouts`, `limits`, …) are merged key by key, commands replaced as a whole, and `null` undoes a default. A watch's
name is defined once, and two files never give an agent-wide key different values. Relative paths are taken from the
directory of the file they stand in.

`jetp check-config PATH` prints every problem at once, with file, line and nearest valid key, or the effective
configuration. Unknown and duplicate keys are problems; so are YAML tags, merge keys (`<<`), a second document, and
files larger than 1 MiB. Anchors and aliases work.
"""

_COMMANDS = """
A command is one text, split into words by POSIX quoting rules; or a list of its words; or a mapping with the keys
below, `run` or `shell` among them. What a command says itself goes over what its watch says; `env` and `limits` are
merged. A single command's `user` is the watch's or the agent's own.
"""

_ON_FAIL = """
Failed runs in a row, retries among them, are one incident. A mapping of `on_fail` has two more keys, so that somebody
is told once and not at every retry: `on_fail: {run: page-somebody, after: 3, when: first}`. A cancelled run is no
failure: with one of these keys it is not told.
"""

_VARIABLES = """
`{{ expression }}` is replaced in every word by itself (jinja2, in a narrow sandbox: no blocks, no globals, text
methods and filters that keep text short). A name that a command cannot have is a problem. A value never becomes two
words; a word that would begin with a rendered `-` is refused; a literal `{{` is written `{{ '{{' }}`. In `shell:`
text there are no templates, and braces stay as they are: the same values arrive in the environment, `play_uuid` as
`JETWATCH_PLAY_UUID`, `outputs.KEY` as `JETWATCH_OUTPUTS_KEY`.
"""

_VALUES = """
## Values

- *Durations* are seconds (decimals allowed) or text with the units `ms`, `s`, `m`, `h`, `d`: `90s`, `1h30m`. None
  is longer than 366 days.
- *Sizes* are bytes or text: `K`, `M`, `G`, `T` and `KiB`, `MiB`, … are powers of 1,024; `KB`, `MB`, … of 1,000.
- *Scalars* are read as text and understood by their key: `022` is an octal mask, `1.10` in `env` is `1.10`.
- *Secrets* are the values of `env` whose names match `SECRET_NAME` in any case, URLs with a user part, and all values
  of an `env_file`. They never reach the journal, a log line or a status.
- *Warnings* do not stop the agent: a command that looks like shell, a password in a command, `{{` in `env`,
  `{{ name` in `shell`, a `schedule` or `windows` without `splay`, a `timezone` without either.
"""


_MEANINGS = {
    "watch": "the watch's name",
    "hostname": "the machine's name",
    "state_dir": "the agent's state directory",
    "previous_revision": "the revision of the newest run that ended ok",
    "attempt": "which attempt this is, from 1",
    "trigger": "what made it due: `check`, `schedule`, `manual`, `retry` or `reapply`",
    "play_uuid": "the run's id, a random GUID",
    "download_path": "the run's own directory, fresh and empty, mode 0700",
    "revision": "the run's revision: what the check wrote as `revision=`",
    "outputs": "`outputs.KEY`: what the check wrote as `KEY=`",
    "outcome": "`ok`, `failed`, `timeout`, `cancelled` or `lost`",
    "exit_code": "of the command that ended the run; 128 + n for signal n",
    "failed_step": "the step that did not end well, such as `download`",
    "duration": "how long the run took, in seconds",
    "output_path": "the file with the output of the run",
    "failures": "how many runs have failed in a row, this one included; after a run that ended ok, before it",
    "failing_since": "when the first of them ended (RFC 3339)",
}
_ENVIRONMENT_ONLY = {
    "JETWATCH_APPLIED_REVISION": "the revision of the newest run whose play began, if that run ended ok, else empty",
    "JETWATCH_LAST_OK_REVISION": "the revision of the newest run that ended ok",
    "JETWATCH_OUTPUT": "a file for `key=value` lines (UTF-8, at most 64 KiB, 256 keys `[a-z][a-z0-9_]*`)",
    "JETWATCH_DELIVERY": "in hooks: which try this is, from 1",
}


def main(arguments: Sequence[str]) -> None:
    """Print the schema, or with `--reference` the page."""
    sys.stdout.write(reference() if "--reference" in arguments else schema_text())


if __name__ == "__main__":
    main(sys.argv[1:])
