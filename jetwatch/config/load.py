"""watch.yml, or a directory of such files → Settings, or every problem at once.

Each file stands for itself: its `defaults:` apply to its own watches. Relative paths are taken from the directory of
the file they stand in. Nothing but these files is read, and of files that are to be believed (`env_file`, keys,
certificates) it is looked at whose they are: that a script or an account exists is for the start of a command to find
out.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from jetwatch.config import nodes, yaml_file
from jetwatch.config.commands import DOWNLOAD, SHARED_KEYS, Draft, Shared, alarm, finish
from jetwatch.config.content import fetch_command
from jetwatch.config.keys import AGENT_KEYS, AGENT_NAMES, HOOKS, NAME_PATTERN, WATCH_KEYS, WATCH_NAMES
from jetwatch.config.model import Retry, Settings, Timeouts, WatchSettings, Window
from jetwatch.config.nodes import Mapping, Node, Notes, Scalar
from jetwatch.config.tables import Either, Pairs, Table, is_none, read_keys
from jetwatch.errors import ConfigError, NotTrusted, Problem
from jetwatch.records import Command, is_text
from jetwatch.trust import Accounts, require

_FORMS = frozenset({"watches", "defaults"})
_MERGED = frozenset(
    name for key in WATCH_KEYS if isinstance(key.kind, Table | Pairs | Either) for name in (key.name, *key.aliases)
)
_SHARED_FIELDS = tuple(key.field for key in SHARED_KEYS)
_PLAIN_FIELDS = (
    "check_interval_s", "schedule", "timezone", "splay_s", "phase", "reapply_s", "exclusive", "retain", "disk_reserve",
    "content",
)  # fmt: skip
_OF_THE_FETCH = {
    "ssh_key": "content.ssh_key",
    "known_hosts": "content.known_hosts",
    "allowed_signers": "content.verify.allowed_signers",
}
"""Files of a content that only its fetch reads, with the rights of the watch's user: they may be that user's, too."""

_PATIENCE_S = 5.0
"""For a look at the files to be believed: where it takes longer, each is looked at when it is used, which may fail."""

Examine = Callable[[WatchSettings], Iterable[tuple[str, str]]]
"""Looks at a watch for what only the machine can tell: keys (`content.ssh_key`), each with a warning."""


class _Found(Struct):
    """What the files gave so far: watches by name, agent-wide values, where each was said, and what is wrong."""

    agent_user: str
    examine: Examine = lambda _: ()
    notes: Notes = field(default_factory=Notes)
    watches: dict[str, WatchSettings] = field(default_factory=dict)
    places: dict[str, Node] = field(default_factory=dict)
    believed: list[tuple[Node, Path, Accounts]] = field(default_factory=list)
    agent: dict[str, Any] = field(default_factory=dict)


def load(
    path: Path, *, agent_user: str | None = None, examine: Examine | None = None
) -> tuple[Settings, tuple[Problem, ...]]:
    """The configuration in a file, or in every `*.yml` of a directory (in name order), and its warnings.

    `agent_user` is the account that the agent runs as (default: this process's). `examine` adds warnings, where nothing
    is wrong with a watch. Raises ConfigError with every problem.
    """
    found = _Found(agent_user or _own_name(), examine or (lambda _: ()))
    notes = found.notes
    for file in _files(path, notes):
        try:
            top = yaml_file.read(file, notes)
        except ConfigError as error:
            for problem in error.problems:
                notes.add(problem)
        else:
            _read_file(top, found)
    _judge_places(found)
    if not found.watches and not notes.problems:
        notes.add(Problem(str(path), 1, "", "no watch is defined here; expected `jet_command:` or `watches:`"))
    if notes.problems:
        raise ConfigError(notes.problems)
    return _settings(found), notes.warnings


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's user without an entry
        return str(os.geteuid())


def _files(path: Path, notes: Notes) -> list[Path]:
    try:
        if not path.is_dir():
            return [path]
        require(path, Accounts.own())  # whoever may put a file there decides as well
        files = [file for file in path.iterdir() if _is_wanted(file.name)]
    except OSError as error:
        notes.add(Problem(str(path), 1, "", f"cannot be read: {error.strerror}"))
        return []
    except NotTrusted as error:
        notes.add(Problem(str(path), 1, "", f"cannot be read: {error.reason}"))
        return []
    if not files:
        notes.add(Problem(str(path), 1, "", "the directory has no *.yml file"))
    for file in files:
        if not is_text(str(file)):
            notes.add(Problem(str(file), 1, "", "the path is not UTF-8, so that no log could name it; rename it"))
    return sorted(files)


def _judge_places(found: _Found) -> None:
    """Refuse files that are to be believed and could be changed by others. One that is not there is no matter yet.

    In a thread of its own: a file may lie on a mount that hangs, and an agent has other watches.
    """
    own = Accounts.own()
    waiting = [*((node, path, own) for node, path in found.notes.believed), *found.believed]
    if not waiting:
        return
    waiting.reverse()
    thread = threading.Thread(target=_judge, args=(waiting, found.notes), name="places", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the machine has no room for one
        _judge(waiting, found.notes)
        return
    thread.join(_PATIENCE_S)
    for node, path, _ in waiting[-1:]:
        found.notes.warning(node, f"{path}: it could not be seen within {_PATIENCE_S:g} s: is it on a dead mount?")


def _judge(waiting: list[tuple[Node, Path, Accounts]], notes: Notes) -> None:
    """The last one first; each leaves the list when it was judged."""
    while waiting:
        node, path, accounts = waiting[-1]
        try:
            require(path, accounts)
        except NotTrusted as error:
            notes.problem(node, str(error))
        except OSError:
            pass  # said by what reads it
        waiting.pop()


def _is_wanted(name: str) -> bool:
    return name.endswith(".yml") and not name.startswith(".")


def _read_file(top: Mapping, found: _Found) -> None:
    _read_agent(_part(top, AGENT_NAMES), found)
    read_watches = _read_several if _FORMS & top.entries.keys() else _read_single
    for name, place, mapping in read_watches(top, found.notes):
        _read_watch(name, place, mapping, found)


def _part(mapping: Mapping, names: frozenset[str]) -> Mapping:
    return replace(mapping, entries={key: node for key, node in mapping.entries.items() if key in names})


def _rest(mapping: Mapping, names: frozenset[str]) -> Mapping:
    return _part(mapping, frozenset(mapping.entries) - names)


def _read_agent(part: Mapping, found: _Found) -> None:
    values = read_keys(part, AGENT_KEYS, found.notes)
    for name, value in values.items():
        if found.agent.setdefault(name, value) != value:
            first = found.places[name]
            message = f"another value than in {first.file}:{first.line}; say it in one file"
            found.notes.problem(part.entries[name], message)
        found.places.setdefault(name, part.entries[name])


def _read_single(top: Mapping, notes: Notes) -> list[tuple[str, Node, Mapping]]:
    """The one watch whose keys stand on the top level; none in a file of agent-wide keys."""
    watch = _rest(top, AGENT_NAMES)
    unknown = watch.entries.keys() - WATCH_NAMES
    for name in sorted(unknown):
        notes.unknown(watch, name, WATCH_NAMES | AGENT_NAMES | _FORMS)
    known = _part(watch, WATCH_NAMES)
    if not known.entries:
        return []
    stem = Path(top.file).stem
    if "name" not in known.entries and not re.fullmatch(NAME_PATTERN, stem):
        notes.problem(top, f"the file's name, {nodes.quoted(stem)}, cannot be a watch's name; add `name:`")
    return [(stem, top, known)]


def _read_several(top: Mapping, notes: Notes) -> list[tuple[str, Node, Mapping]]:
    """The watches under `watches:`, each with the file's `defaults:` beneath it."""
    for name in _rest(top, AGENT_NAMES | _FORMS).entries:
        _refuse_top_level(top, name, notes)
    defaults = _defaults(top, notes)
    watches = top.entries.get("watches")
    if watches is None:
        notes.problem(top, "`defaults:` apply to the `watches:` of the same file, and there are none")
        return []
    if not isinstance(watches, Mapping):
        notes.expected(watches, "a mapping of names to watches")
        return []
    if not watches.entries:
        notes.problem(watches, "no watch is named here; expected a mapping of names to watches")
    return list(_named(watches, defaults, notes))


def _refuse_top_level(top: Mapping, name: str, notes: Notes) -> None:
    if name not in WATCH_NAMES:
        notes.unknown(top, name, AGENT_NAMES | _FORMS)
        return
    node = replace(top.entries[name], line=top.key_lines[name])
    notes.problem(node, "a key of a watch: put it under `defaults:`, or under one of the `watches:`")


def _defaults(top: Mapping, notes: Notes) -> Mapping:
    empty = Mapping(top.file, top.line, "defaults", 1, {})
    defaults = top.entries.get("defaults", empty)
    if is_none(defaults):
        return empty
    if not isinstance(defaults, Mapping):
        notes.expected(defaults, "a mapping of keys")
        return empty
    if "name" in defaults.entries:
        notes.problem(defaults.entries["name"], "a name belongs to one watch, not to all")
    read_keys(_rest(defaults, frozenset({"name"})), WATCH_KEYS, notes)  # what every watch overrides is looked at too
    return _part(defaults, WATCH_NAMES - {"name"})


def _named(watches: Mapping, defaults: Mapping, notes: Notes) -> list[tuple[str, Node, Mapping]]:
    named: list[tuple[str, Node, Mapping]] = []
    for name, node in watches.entries.items():
        place = Node(node.file, watches.key_lines[name], node.path, 1)
        if not re.fullmatch(NAME_PATTERN, name):
            notes.problem(
                place, f"{nodes.quoted(name)} is no name of a watch: small letters, digits, `_` and `-`, at most 64"
            )
        keys = _keys_of(node)
        if keys is None:
            notes.expected(node, "a mapping of keys")
            continue
        if "name" in keys.entries:
            notes.problem(keys.entries["name"], f"the name stands above already: `{nodes.quoted(name, '')}`")
        named.append((name, place, _over(_rest(keys, frozenset({"name"})), defaults)))
    return named


def _keys_of(node: Node) -> Mapping | None:
    """The keys of one watch. Where nothing stands, all that it is stands under `defaults:`."""
    if isinstance(node, Scalar) and node.is_null:
        return Mapping(node.file, node.line, node.path, node.size, {})
    return node if isinstance(node, Mapping) else None


def _over(watch: Mapping, defaults: Mapping) -> Mapping:
    """The watch's keys over the defaults; mappings such as `env` key by key, commands as a whole."""
    theirs = {name: node for name, node in defaults.entries.items() if not _undone(name, watch)}
    entries = {**theirs, **watch.entries}
    for name in _MERGED & theirs.keys() & watch.entries.keys():
        above, below = watch.entries[name], theirs[name]
        if isinstance(above, Mapping) and isinstance(below, Mapping):
            entries[name] = _both(above, below)
    return replace(watch, entries=entries, key_lines=defaults.key_lines | watch.key_lines)


def _both(above: Mapping, below: Mapping) -> Mapping:
    entries = below.entries | above.entries
    return replace(above, entries=entries, key_lines=below.key_lines | above.key_lines)


def _undone(name: str, watch: Mapping) -> bool:
    """Whether the watch's own keys leave no room for this default."""
    rivals = {
        "check_interval": {"schedule"},
        "schedule": {"check_interval"},
        "jet_command": {"play_command"},
        "play_command": {"jet_command"},
    }
    return bool(rivals.get(name, set()) & watch.entries.keys())


def _read_watch(name: str, place: Node, mapping: Mapping, found: _Found) -> None:
    values = read_keys(mapping, WATCH_KEYS, found.notes)
    _look_at_whole(place, mapping, values, found.notes)
    name = values.get("name", name)
    first = found.places.get(f"watches.{name}")
    if first is not None:
        found.notes.problem(place, f"the watch `{name}` is defined in {first.file}:{first.line} already")
        return
    found.places[f"watches.{name}"] = place
    commands, secrets = _commands(place, values, found)
    if "play" in commands:
        watch = found.watches[name] = _watch(name, values, commands, secrets)
        found.believed += _believed_by_the_fetch(watch, mapping)
        for key, sentence in () if found.notes.problems else found.examine(watch):
            found.notes.warning(_node_at(mapping, key), sentence)


def _believed_by_the_fetch(watch: WatchSettings, mapping: Mapping) -> list[tuple[Node, Path, Accounts]]:
    accounts = Accounts.own(*_ids(watch.user))
    named = ((key, getattr(watch.content, name, None)) for name, key in _OF_THE_FETCH.items())
    return [(_node_at(mapping, key), Path(path), accounts) for key, path in named if path]


def _ids(user: str | None) -> list[tuple[int, int]]:
    """Uid and gid of an account, if there is such a one."""
    if user is None:
        return []
    try:
        account = pwd.getpwuid(int(user)) if user.isascii() and user.isdigit() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        return []
    return [(account.pw_uid, account.pw_gid)]


def _node_at(mapping: Mapping, key: str) -> Node:
    """Where a key stands, or what is nearest above it."""
    name, _, rest = key.partition(".")
    node = mapping.entries.get(name)
    if node is None:
        return mapping
    return _node_at(node, rest) if rest and isinstance(node, Mapping) else node


def _look_at_whole(place: Node, mapping: Mapping, values: dict[str, Any], notes: Notes) -> None:
    """What only shows when all keys of a watch are seen together."""
    given = {name for name, node in mapping.entries.items() if not is_none(node)}
    if not given & {"jet_command", "play_command"}:
        notes.problem(place, "`jet_command` is missing: the command that applies the content")
    if not given & {"check_command", "schedule", "content"}:
        notes.problem(
            place,
            "`check_command` is missing: the command that says whether a run is due (or `content`, or a `schedule`)",
        )
    if {"content", "download_command"} <= given:
        notes.problem(
            mapping.entries["download_command"],
            "`content` fetches by itself: leave out `download_command`, or `content`",
        )
    if {"check_interval", "schedule"} <= given:
        notes.problem(mapping.entries["check_interval"], "`check_interval` and `schedule` exclude each other; give one")
    if "schedule" in given and not values.get("splay_s"):
        notes.warning(
            mapping.entries["schedule"], "without `splay` every machine with this file starts at the same moment"
        )
    if values.get("windows") and not values.get("splay_s"):
        notes.warning(
            mapping.entries["windows"],
            "without `splay` every machine with this file starts what has waited when a window opens",
        )
    zone = mapping.entries.get("timezone")
    if "timezone" in given and not given & {"schedule", "windows"} and zone and not zone.path.startswith("defaults."):
        notes.warning(zone, "`timezone` means nothing without `schedule` or `windows`")


def _commands(
    place: Node, values: dict[str, Any], found: _Found
) -> tuple[dict[str, Command], dict[str, dict[str, str]]]:
    shared = Shared(
        values={name: values[name] for name in _SHARED_FIELDS if name in values},
        timeouts=values.get("timeouts", Timeouts()),
        keep_bytes=values.get("keep_bytes", Command().keep_bytes),
        agent_user=found.agent_user,
    )
    commands: dict[str, Command] = {}
    secrets: dict[str, dict[str, str]] = {}
    for name in ("check", "download", "play", *HOOKS):
        if name in values:
            commands[name], hidden = finish(values[name], shared, found.notes)
            if hidden:
                secrets[name] = hidden
    if values.get("content") is not None:
        plain, hidden = finish(Draft(place, DOWNLOAD, words=()), shared, found.notes)
        commands["download"], credentials = fetch_command(values["content"], plain)
        secrets["download"] = {**hidden, **credentials}
    return commands, secrets


def _watch(
    name: str, values: dict[str, Any], commands: dict[str, Command], secrets: dict[str, dict[str, str]]
) -> WatchSettings:
    jitter_s, jitter_fraction = values.get("jitter", (0.0, 0.0))
    watch = WatchSettings(
        name=name,
        play=commands["play"],
        check=commands.get("check"),
        download=commands.get("download"),
        hooks={hook: commands[hook] for hook in HOOKS if hook in commands},
        jitter_s=jitter_s,
        jitter_fraction=jitter_fraction,
        retry=values.get("retry", Retry() if "content" in values else None) or None,
        user=values.get("user"),
        timeouts=values.get("timeouts", Timeouts()),
        windows=_windows(values),
        alarm=alarm(values.get("on_fail")),
        secrets=secrets,
        **{plain: values[plain] for plain in _PLAIN_FIELDS if plain in values},
    )
    return replace(watch, digest=_digest(watch))


def _windows(values: dict[str, Any]) -> tuple[Window, ...]:
    """Each in its own zone, else in that of the watch."""
    zone = values.get("timezone")
    return tuple(replace(window, timezone=window.timezone or zone) for window in values.get("windows", ()))


def _settings(found: _Found) -> Settings:
    settings = Settings(watches=found.watches, **found.agent)
    digests = {name: watch.digest for name, watch in found.watches.items()}
    return replace(settings, digest=_digest(asdict(settings) | {"watches": digests}))


def _digest(values: Struct | dict[str, Any]) -> str:
    """SHA-256 of the values as hex, whatever the order of their keys: equal if and only if nothing changed."""
    text = json.dumps(values, sort_keys=True, default=_as_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _as_plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, Struct) else str(value)
