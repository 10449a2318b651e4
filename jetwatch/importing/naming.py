"""The name of a watch, made of the command that it runs."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_SEPARATOR = re.compile(r"&&|\|\||[;|&(){}\n]")
_TESTS = frozenset({"[", "[[", "test", "cd", "if", "then", "else", "fi", "exit", "true", ":", "export", "sleep", "!"})
_WRAPPERS = frozenset({"sudo", "nice", "ionice", "nohup", "exec", "env", "command", "chronic", "time", "timeout"})
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*")
_AMOUNT = re.compile(r"-.*|[0-9]+[smhd]?")
_ORDINARY = re.compile(r"[\w./:@+=-]+")  # no quotes, redirections or variables
_LONGEST = 40  # the field takes 64; a number may follow


class Names:
    """Gives each command a name of its own, and a number where one comes again."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def of(self, command: str) -> str:
        """A name for this command, not given before."""
        return self.exact(stem(command))

    def exact(self, base: str) -> str:
        """This name, or with a number if it was given before."""
        name, count = base, 1
        while name in self._given:
            count += 1
            name = f"{base}-{count}"
        self._given.add(name)
        return name


def stem(command: str) -> str:
    """The program and what it works on: `run-parts-cron-daily` of `cd / && run-parts --report /etc/cron.daily`."""
    for part in _SEPARATOR.split(command):
        words = part.split()
        while words and (_ASSIGNMENT.fullmatch(words[0]) or words[0] in _WRAPPERS or _AMOUNT.fullmatch(words[0])):
            words.pop(0)
        if words and words[0] not in _TESTS:
            return _named(words)
    return "job"


def _named(words: list[str]) -> str:
    program = PurePosixPath(words[0]).stem
    with_object = [program]
    for position, word in enumerate(words[1:]):
        if not _ORDINARY.fullmatch(word):
            break
        # What follows an option may belong to it; a path hardly ever does.
        if not word.startswith("-") and (position == 0 or "/" in word):
            with_object.append(PurePosixPath(word).name)
            break
    slug = re.sub(r"[^a-z0-9]+", "-", "-".join(with_object).lower()).strip("-")
    return slug[:_LONGEST].strip("-") or "job"
