"""The text of a crontab → its lines, each with its number: comments, settings, jobs, and what is none of these.

Reads crontab(5) as Vixie's cron and cronie do. Nothing is run, looked up or written. A reader of our own, because the
libraries there are (python-crontab) are made to write crontabs back: they keep no line numbers, drop what they do not
understand, and do not say what `%` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from msgspec import Struct

_SETTING = re.compile(r"""(?P<name>"[^"]*"|'[^']*'|[^\s="']+)\s*=\s*(?P<value>.*)""")
_QUOTED = re.compile(r"""(["'])(.*)\1""")
_NICKNAME = re.compile(r"@\S+")
_FIVE_FIELDS = re.compile(r"\S+(?:\s+\S+){4}")
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\$?")
_PERCENT = re.compile(r"(\\%)|%")


class Comment(Struct, frozen=True):
    """A line with `#`, or an empty one. `text` has no `#`."""

    line: int
    text: str


class Setting(Struct, frozen=True):
    """`NAME = value`, which holds for the jobs below it."""

    line: int
    name: str
    value: str


class Job(Struct, frozen=True):
    """When, as whom, what. `stdin` is what the command is given to read: the text after the first `%`."""

    line: int
    text: str
    schedule: str
    user: str | None
    command: str
    stdin: str | None = None


class Unreadable(Struct, frozen=True):
    """A line that cron would refuse."""

    line: int
    text: str
    reason: str


Line = Comment | Setting | Job | Unreadable


def lines(text: str, *, user_column: bool) -> Iterator[Line]:
    """Every line of a crontab, numbered from 1. `user_column`: the form of /etc/crontab and /etc/cron.d."""
    for number, raw in enumerate(text.split("\n"), 1):
        yield _line(number, raw.strip(), user_column)


def has_user_column(text: str, path: str, is_account: Callable[[str], bool]) -> bool:
    """Whether this is a crontab of the system: by its place, else if every job's sixth word is an account.

    `is_account` says whether there is an account of this name.
    """
    if path == "/etc/crontab" or path.startswith("/etc/cron.d/"):
        return True
    jobs = [line for line in lines(text, user_column=False) if isinstance(line, Job)]
    candidates = [job.command.split(None, 1) for job in jobs]
    return bool(candidates) and all(len(words) == 2 and is_account(words[0]) for words in candidates)


def _line(number: int, text: str, user_column: bool) -> Line:
    if not text or text.startswith("#"):
        return Comment(number, text.lstrip("#").strip())
    if setting := _SETTING.fullmatch(text):
        return Setting(number, _unquoted(setting["name"]), _unquoted(setting["value"]))
    # SUSE's cron takes a `-` in front for "do not log".
    entry = text[1:] if re.match(r"-[\d*]", text) else text
    when = (_NICKNAME if entry.startswith("@") else _FIVE_FIELDS).match(entry)
    if when is None:
        return Unreadable(number, text, "expected five fields, or a word such as @daily, and a command")
    return _job(number, text, " ".join(when[0].split()), entry[when.end() :].strip(), user_column)


def _job(number: int, text: str, schedule: str, rest: str, user_column: bool) -> Line:
    user = None
    if user_column:
        user, rest = (*rest.split(None, 1), "", "")[:2]
    if not rest:
        return Unreadable(number, text, "there is no command")
    if user is not None and not _ACCOUNT.fullmatch(user):
        return Unreadable(number, text, f"expected an account in the sixth field, found `{user}`")
    command, stdin = _at_percent(rest)
    return Job(number, text, schedule, user, command, stdin)


def _at_percent(text: str) -> tuple[str, str | None]:
    r"""The command and its input: `\%` is a per cent sign, the first `%` ends the command, others are line ends."""
    parts = [""]
    position = 0
    for found in _PERCENT.finditer(text):
        parts[-1] += text[position : found.start()]
        position = found.end()
        if found[1]:
            parts[-1] += "%"
        else:
            parts.append("")
    parts[-1] += text[position:]
    return parts[0].rstrip(), "\n".join(parts[1:]) if len(parts) > 1 else None


def _unquoted(text: str) -> str:
    quoted = _QUOTED.fullmatch(text)
    return quoted[2] if quoted else text
