"""The Exec lines of a service → a command of watch.yml: systemd's prefixes, specifiers, variables.

One command without variables becomes its words. What systemd does beyond that (`-`, `$NAME`, several commands) is
written for the shell, every literal quoted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from msgspec import Struct

from jetwatch.importing.unit import words
from jetwatch.importing.watch_file import Value, literal

_PREFIXES = "@-:+!|"
_VARIABLE = re.compile(r"\$\$|\$\{([A-Za-z_]\w*)\}")
_WHOLE_VARIABLE = re.compile(r"\$([A-Za-z_]\w*)")
_SPECIFIER = re.compile(r"%(.)")


class Exec(Struct, frozen=True):
    """One command: its words, whether its failure counts, whether `$` means something in it."""

    words: tuple[str, ...]
    may_fail: bool = False
    expands: bool = True
    remarks: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether its words say everything."""
        return not self.may_fail and not (self.expands and any("$" in word for word in self.words))


def read(text: str) -> list[Exec]:
    """The commands of one line; a lone `;` separates them. Raises ValueError."""
    commands: list[list[str]] = [[]]
    for word in words(text):
        if word == ";":
            commands.append([])
        else:
            commands[-1].append(";" if word == "\\;" else word)
    return [_one(command) for command in commands if command]


def _one(command: Sequence[str]) -> Exec:
    program = command[0].lstrip(_PREFIXES)
    prefixes = command[0][: len(command[0]) - len(program)]
    arguments = list(command[1:])
    remarks = []
    if "@" in prefixes and arguments:
        remarks.append(f"`@`: the program is not called `{arguments.pop(0)}`, but by its path")
    if "+" in prefixes or "!" in prefixes:
        remarks.append("`+` and `!`: it runs as the watch's user, without further rights")
    if not program:
        raise ValueError("there is no command")
    return Exec((program, *arguments), "-" in prefixes, ":" not in prefixes, tuple(remarks))


def command(execs: Sequence[Exec]) -> Value:
    """What does the same in a watch: words where they suffice, else text for the shell."""
    if len(execs) == 1 and execs[0].is_plain:
        return {"run": [literal(word) for word in execs[0].words]}
    # systemd looks for no files when it expands a variable.
    script = "set -f\n" + " &&\n".join(_shell(each) for each in execs)
    return {"shell": script} if "{{" not in script else {"run": ["/bin/sh", "-c", literal(script)]}


def _shell(each: Exec) -> str:
    line = " ".join(_shell_word(word) if each.expands else shlex.quote(word) for word in each.words)
    return f"{{ {line} || :; }}" if each.may_fail else line


def _shell_word(word: str) -> str:
    """`$NAME` alone is split into words, `${NAME}` is not, `$$` is a dollar sign, another `$` is itself."""
    if whole := _WHOLE_VARIABLE.fullmatch(word):
        return f"${whole[1]}"
    out, position = "", 0
    for found in _VARIABLE.finditer(word):
        out += _quoted(word[position : found.start()])
        out += "'$'" if found[1] is None else f'"${{{found[1]}}}"'
        position = found.end()
    return out + _quoted(word[position:]) or "''"


def _quoted(text: str) -> str:
    return shlex.quote(text) if text else ""


def without_specifiers(text: str, unit: str) -> tuple[str, list[str]]:
    """The text with what is known of `unit` (its file name) put in, and the specifiers that are not known."""
    whole = unit.rpartition(".")[0]
    prefix, _, instance = whole.partition("@")
    known = {"%": "%", "n": unit, "N": whole, "p": prefix, "i": instance}
    unknown = [f"%{found[1]}" for found in _SPECIFIER.finditer(text) if found[1] not in known]
    return _SPECIFIER.sub(lambda found: known.get(found[1], found[0]), text), unknown
