"""A command of watch.yml: a string, a list or a mapping → `Command`, its secrets kept apart.

Templates are split and their names checked here, so that a command that could never be rendered never starts an agent.
What a watch says for all its commands is handed down; what a command says itself goes over it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from collections.abc import Mapping as MappingType
from collections.abc import Sequence as SequenceType
from enum import StrEnum
from typing import Any

from msgspec import Struct, field

from jetwatch import words
from jetwatch.config.interpreted import code_of
from jetwatch.config.model import Timeouts
from jetwatch.config.nodes import Broken, Mapping, Node, Notes, Scalar, Sequence, nearest
from jetwatch.config.scalars import Believed, Boolean, Capability, Choice, Integer, Kind, Location, Mask, Text
from jetwatch.config.tables import Key, OneOrMany, Pairs, object_schema, read_keys
from jetwatch.config.times import Duration
from jetwatch.errors import WordError
from jetwatch.records import Alarm, Command

SECRET_NAME = re.compile(
    r"password|passwd|passphrase|secret|token|credential"
    r"|(api|access|private|encryption|signing|account|master)[_-]?key"
    r"|(^|_)(auth|authorization|pass|pat|apikey)(_|$)|_pwd$",
    re.IGNORECASE,
)
"""Names of environment variables whose values are secrets. The one place that says so."""

URL_USER = re.compile(r"(?<=://)[^/\s@]+(?=@)")
"""The user part of a URL (`user:password`, or a token alone)."""

TIMEOUT = Duration(least_s=0.1)
NAME_PATTERN = r"[A-Za-z_][A-Za-z0-9_]*"
_ACCOUNT = Text("the name or number of an account", r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\$?")
_LIMITS = ("as", "core", "cpu", "data", "fsize", "memlock", "nofile", "nproc", "rss", "stack")

SHARED_KEYS = (
    Key(
        "env",
        Pairs(NAME_PATTERN, Text("text"), verbatim=True),
        "Added to the environment. Values are text as it stands, never templates; those whose names look like "
        "passwords or tokens are kept out of logs, journal and status.",
    ),
    Key(
        "env_file",
        OneOrMany(Believed()),
        "Files of `NAME=value` lines, read anew for each command; all their values are secrets.",
    ),
    Key("cwd", Location(), "The working directory."),
    Key("user", _ACCOUNT, "The account that runs it.", default_text="the agent's own"),
    Key("group", _ACCOUNT, "The group that runs it.", default_text="the user's own"),
    Key("umask", Mask(), "The file mode mask, in octal.", default_text="the agent's"),
    Key("nice", Integer(-20, 19), "The nice value.", default_text="the agent's"),
    Key(
        "limits",
        Pairs("[a-z]+", Integer(-1, 2**63 - 1, "unlimited"), _LIMITS),
        "Resource limits (setrlimit) by name in lower case: a number, or `unlimited`.",
        default_text="the agent's",
    ),
    Key(
        "no_new_privileges",
        Boolean(),
        "No program that it starts gets a right that it has not: by no setuid bit (`sudo`), no file's capability.",
        default_text="`false`",
    ),
    Key(
        "capabilities",
        OneOrMany(Capability()),
        "What it has, and what it and all that it starts can get at most (`[]`: none). The agent must have it itself.",
        default_text="root: the agent's; another `user`: none",
    ),
)
"""What a watch says for all its commands, and a command for itself."""


class Slot(Struct, frozen=True):
    """A place for a command: the variables its templates can name, and which of the watch's timeouts is its."""

    name: str
    variables: frozenset[str]
    timeout: str


CHECK = Slot("check", words.CHECK_VARIABLES, "check_s")
DOWNLOAD = Slot("download", words.RUN_VARIABLES, "download_s")
PLAY = Slot("play", words.RUN_VARIABLES, "play_s")


def hook(name: str) -> Slot:
    """The slot of the hook `name`."""
    return Slot(name, words.HOOK_VARIABLES, "hook_s")


ON_FAIL = hook("on_fail")


class Each(StrEnum):
    """Which failures of an incident on_fail is told of."""

    EVERY = "every"
    FIRST = "first"


ALARM_KEYS = (
    Key(
        "after",
        Integer(1, 1_000_000),
        "From which failed run in a row on. Fewer are no incident.",
        record=Alarm,
    ),
    Key(
        "when",
        Choice(Each),
        "`every`: each of them. `first`: once per incident, when it opens.",
        default_text="`every`",
    ),
)
"""What a mapping of `on_fail` may say besides."""


class Draft(Struct, frozen=True):
    """A command as far as it says everything itself. `own` are the values of its keys, `node` where it stands."""

    node: Node
    slot: Slot
    words: tuple[str, ...] | None = None
    shell: str | None = None
    own: MappingType[str, Any] = field(default_factory=dict)


class Words(Kind, frozen=True):
    """The words of a command that needs no shell: one text, split by quoting rules, or a list of them."""

    slot: Slot

    what = "a command (one text) or a list of its words"

    def read(self, node: Node, notes: Notes) -> tuple[str, ...] | None:
        """The templates, sure to be renderable as far as can be known before."""
        try:
            templates = self._templates(node, notes)
            used = words.names(templates or ())
        except WordError as error:
            notes.problem(node, str(error))
            return None
        for name in sorted(used - self.slot.variables):
            notes.problem(node, self._no_such_name(name))
        _warn_of_password(node, templates or (), notes)
        _warn_of_code(node, templates or (), notes)
        return templates

    def _templates(self, node: Node, notes: Notes) -> tuple[str, ...] | None:
        if isinstance(node, Scalar) and not node.is_null:
            if sign := words.shell_sign(node.text):
                notes.warning(node, f"`{sign}` means nothing here, as no shell runs; if it should, write `shell:`")
            return words.split(node.text)
        if isinstance(node, Sequence) and node.items:
            return self._listed(node, notes)
        notes.expected(node, self.what)
        return None

    def _listed(self, node: Sequence, notes: Notes) -> tuple[str, ...]:
        for item in node.items:
            if not isinstance(item, Scalar) or (item.is_null and item.text == ""):
                notes.expected(item, "a word of the command, as text")
        return tuple(item.text for item in node.items if isinstance(item, Scalar))

    def _no_such_name(self, name: str) -> str:
        if name in words.HOOK_VARIABLES:
            return f"`{name}` is not known yet when {self.slot.name} runs"
        known = ", ".join(sorted(self.slot.variables))
        return f"no such variable: `{name}`{nearest(name, self.slot.variables)} ({self.slot.name} has {known})"

    def schema(self) -> dict[str, Any]:
        """A string, or an array of strings."""
        word = {"type": ["string", "number", "boolean"]}
        return {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": word, "minItems": 1}]}


def _warn_of_password(node: Node, texts: Iterable[str], notes: Notes) -> None:
    if any(":" in user for text in texts for user in URL_USER.findall(text)):
        notes.warning(node, "a password in a command can be read by every user of this machine; put it into `env`")


def _warn_of_code(node: Node, templates: SequenceType[str], notes: Notes) -> None:
    """A revision is chosen by a server or a check: it must not become a part of a program."""
    for program, code in code_of(templates):
        for name in sorted(words.names((code,))):
            variable = words.environment_name(name) + ("_KEY" if name == "outputs" else "")
            notes.warning(
                node,
                f"`{{{{ {name} }}}}` becomes a part of what `{program}` runs, so who chooses the value runs commands; "
                f'write `shell:`, and `"${variable}"` in its text',
            )


_NAME_IN_BRACES = re.compile(r"\{\{\s*[a-z]")
"""What was hardly meant for the shell; `{{.Names}}` of another program's templates was."""


class Shell(Kind, frozen=True):
    """Text for `/bin/sh -c`: no template, so that no value is ever read as shell."""

    what = "text for /bin/sh"

    def read(self, node: Node, notes: Notes) -> str | None:
        """The text as it stands."""
        if not isinstance(node, Scalar) or not node.text.strip() or node.is_null:
            notes.expected(node, self.what)
            return None
        if _NAME_IN_BRACES.search(node.text):
            example = '`"$JETWATCH_DOWNLOAD_PATH"`'
            notes.warning(node, f"no template here: `{{{{` stays as it is; the values are variables, such as {example}")
        _warn_of_password(node, (node.text,), notes)
        return node.text

    def schema(self) -> dict[str, Any]:
        """A string."""
        return {"type": "string", "minLength": 1}


def command_keys(slot: Slot) -> tuple[Key, ...]:
    """The keys of a command that is given as a mapping."""
    codes_are_fixed = (
        "" if slot is not CHECK else "a check's exit codes are fixed: 0 due, 1 not due, 75 later, else an error"
    )
    return (
        Key("run", Words(slot), "The command: one text, split by POSIX quoting rules, or a list of its words."),
        Key("shell", Shell(), "Text for `/bin/sh -c`, instead of `run`; values arrive in the environment."),
        Key("timeout", TIMEOUT, "After this long it gets TERM, then KILL.", default_text="as `timeouts` says"),
        *(ALARM_KEYS if slot is ON_FAIL else ()),
        *SHARED_KEYS,
        Key(
            "ok_exit_codes",
            OneOrMany(Integer(0, 255)),
            "Exit codes that count as success.",
            default_text="`0`",
            refusal=codes_are_fixed,
        ),
    )


class CommandKind(Kind, frozen=True):
    """A command in any of its three forms."""

    slot: Slot

    what = "a command: one text, a list of words, or a mapping with `run` or `shell`"

    def read(self, node: Node, notes: Notes) -> Draft | None:
        """The command as a draft; None when its words will not do."""
        if isinstance(node, Mapping):
            return self._mapping(node, notes)
        if isinstance(node, Broken) or (isinstance(node, Scalar) and node.is_null):
            notes.expected(node, self.what)
            return None
        templates = Words(self.slot).read(node, notes)
        return None if templates is None else Draft(node, self.slot, words=templates)

    def _mapping(self, node: Mapping, notes: Notes) -> Draft | None:
        own = read_keys(node, command_keys(self.slot), notes)
        given = {"run", "shell"} & node.entries.keys()
        if len(given) != 1:
            notes.problem(node, "a command has `run` or `shell`, " + ("not both" if given else "and here is neither"))
        if not {"run", "shell"} & own.keys():
            return None
        return Draft(node, self.slot, own.pop("run", None), own.pop("shell", None), own)

    def schema(self) -> dict[str, Any]:
        """Any of the three forms."""
        one_of_both = {"oneOf": [{"required": ["run"]}, {"required": ["shell"]}]}
        return {"anyOf": [*Words(self.slot).schema()["anyOf"], object_schema(command_keys(self.slot), one_of_both)]}


class Shared(Struct, frozen=True):
    """What a watch says for all its commands: the values of SHARED_KEYS, its timeouts, its bound of output."""

    values: MappingType[str, Any]
    timeouts: Timeouts
    keep_bytes: int
    agent_user: str


def finish(draft: Draft, shared: Shared, notes: Notes) -> tuple[Command, dict[str, str]]:
    """The command, complete, and the secret part of its environment, which the command does not hold."""
    said = {**shared.values, **draft.own}
    environment = {**shared.values.get("env", {}), **draft.own.get("env", {})}
    secrets = {name: value for name, value in environment.items() if is_secret(name, value)}
    _refuse_foreign_user(draft, shared, notes)
    command = Command(
        words=draft.words,
        shell=draft.shell,
        env={name: value for name, value in environment.items() if name not in secrets},
        env_files=tuple(str(path) for path in said.get("env_file", ())),
        cwd=str(said["cwd"]) if "cwd" in said else None,
        user=said.get("user"),
        group=said.get("group"),
        umask=said.get("umask"),
        nice=said.get("nice"),
        limits={**shared.values.get("limits", {}), **draft.own.get("limits", {})},
        no_new_privileges=said.get("no_new_privileges", False),
        capabilities=said.get("capabilities"),
        timeout_s=draft.own.get("timeout", getattr(shared.timeouts, draft.slot.timeout)),
        grace_s=shared.timeouts.grace_s,
        ok_exit_codes=tuple(draft.own.get("ok_exit_codes", (0,))),
        keep_bytes=shared.keep_bytes,
    )
    return command, secrets


def alarm(draft: Draft | None) -> Alarm:
    """Which failures `on_fail` is told of."""
    own = draft.own if draft is not None else {}
    return Alarm(after=own.get("after", 1), first_only=own.get("when") is Each.FIRST)


def is_secret(name: str, value: str) -> bool:
    """Whether an environment entry is a secret: by its name, or because it is a URL with a user part."""
    return bool(SECRET_NAME.search(name) or URL_USER.search(value))


def _refuse_foreign_user(draft: Draft, shared: Shared, notes: Notes) -> None:
    """A run's directory belongs to the watch's user: a third account could not read it."""
    user = draft.own.get("user")
    allowed = (shared.values.get("user", shared.agent_user), shared.agent_user)
    if user is not None and user not in allowed and isinstance(draft.node, Mapping):
        accounts = " or ".join(f"`{name}`" for name in dict.fromkeys(allowed))
        notes.problem(draft.node.entries["user"], f"a command runs as the watch's user or the agent's own: {accounts}")
