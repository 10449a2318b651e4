"""Settings → the watch.yml that says the same in full: defaults filled in, `defaults:` applied, secrets as `***`.

What is printed can be loaded again (secrets aside). What a watch says for all its commands is shown at each command, as
that is where it takes effect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from jetwatch.config.commands import URL_USER, CommandKind, Each, Slot, command_keys
from jetwatch.config.keys import AGENT_KEYS, WATCH_KEYS
from jetwatch.config.model import Settings, WatchSettings
from jetwatch.config.scalars import Kind
from jetwatch.config.tables import Key
from jetwatch.records import Alarm, Command

HIDDEN = "***"

Shown = Callable[[Kind, Any], Any]
"""How a value is put: `Kind.show` for programs (plain numbers), `Kind.write` for people (with units)."""


def as_data(settings: Settings) -> dict[str, Any]:
    """The configuration for programs: seconds and bytes as numbers."""
    return _settings(settings, lambda kind, value: kind.show(value))


def as_text(settings: Settings) -> str:
    """The configuration for people: YAML, durations and sizes with their units."""
    data = _settings(settings, lambda kind, value: kind.write(value))
    shown = _yaml(data, allow_unicode=True)
    # pyyaml writes some characters as they are that no terminal should see, bidi marks among them.
    return shown if all(line.isprintable() for line in shown.split("\n")) else _yaml(data, allow_unicode=False)


def _yaml(data: dict[str, Any], *, allow_unicode: bool) -> str:
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=allow_unicode, default_flow_style=None, width=120)
    return text


def _settings(settings: Settings, shown: Shown) -> dict[str, Any]:
    values = {key: getattr(settings, key.field, None) for key in AGENT_KEYS}
    agent = {key.name: shown(key.kind, value) for key, value in values.items() if value is not None}
    return agent | {"watches": {name: _watch(watch, shown) for name, watch in settings.watches.items()}}


def _watch(watch: WatchSettings, shown: Shown) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key in WATCH_KEYS:
        if isinstance(key.kind, CommandKind):
            command = _command_of(watch, key)
            if command is not None:
                secrets = watch.secrets.get(key.kind.slot.name, {})
                data[key.name] = _command(key.kind.slot, command, secrets, watch.alarm, shown)
        elif (value := _value(watch, key)) is not None:
            data[key.name] = shown(key.kind, value)
    return data


def _command_of(watch: WatchSettings, key: Key) -> Command | None:
    # With `content` the download is the source's own fetch, and stands in nobody's watch.yml.
    download = watch.download if watch.content is None else None
    steps = {"check": watch.check, "download": download, "play": watch.play}
    return steps.get(key.field) or watch.hooks.get(key.field)


def _value(watch: WatchSettings, key: Key) -> Any:
    """What the watch holds for a key of its own; None for what stands at its commands, or is not set."""
    if key.name == "check_interval" and watch.schedule is not None:
        return None
    if key.name == "jitter":
        return (watch.jitter_s, watch.jitter_fraction)
    if key.name == "retry":
        return watch.retry or False
    if key.name == "output":
        return watch.play.keep_bytes
    if key.name == "windows":
        return watch.windows or None
    return None if key.name == "name" else getattr(watch, key.field, None)


def _command(slot: Slot, command: Command, secrets: Any, alarm: Alarm, shown: Shown) -> dict[str, Any]:
    values: dict[str, Any] = {
        "run": [_without_user(word) for word in command.words or ()],
        "shell": _without_user(command.shell or ""),
        "timeout": command.timeout_s,
        "after": alarm.after,
        "when": Each.FIRST if alarm.first_only else Each.EVERY,
        "env": {**command.env, **dict.fromkeys(secrets, HIDDEN)},
        "env_file": command.env_files,
        "cwd": command.cwd,
        "user": command.user,
        "group": command.group,
        "umask": command.umask,
        "nice": command.nice,
        "limits": command.limits,
        "no_new_privileges": command.no_new_privileges or None,
        "capabilities": command.capabilities,
        "ok_exit_codes": command.ok_exit_codes,
    }
    keys = [key for key in command_keys(slot) if not key.refusal]
    said = [key for key in keys if values[key.name] not in (None, "", (), [], {})]
    # An empty list of capabilities says something: none.
    said += [key for key in keys if key.name == "capabilities" and values[key.name] == ()]
    return {key.name: shown(key.kind, values[key.name]) for key in said}


def _without_user(text: str) -> str:
    return URL_USER.sub(HIDDEN, text)
