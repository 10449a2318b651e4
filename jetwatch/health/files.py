"""Who may read and change what the agent obeys: watch.yml and the files of secrets.

What belongs to another account, or may be written by one, is refused when the configuration is read. Here stands what
is allowed and doubtful.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from jetwatch.config.model import Settings
from jetwatch.health.finding import Finding, Verdict
from jetwatch.health.programs import commands


class File(Struct, frozen=True):
    """A file by its mode. `secret`: something in it is nobody else's business. `missing`: why it could not be seen."""

    code: str
    path: Path
    secret: bool
    owner_uid: int = 0
    mode: int = 0o600
    missing: str = ""


_SUBJECTS = {"config_rights": "configuration", "env_file": "env_file"}


def findings(files: Iterable[File]) -> Iterator[Finding]:
    """One for each file."""
    for file in files:
        verdict, found, advice = _judged(file)
        yield Finding(file.code, verdict, _SUBJECTS[file.code], f"{file.path}: {found}", advice)


def _judged(file: File) -> tuple[Verdict, str, str]:
    if file.missing:
        return Verdict.PROBLEM, f"{file.missing}: no command that names it can start", "make it, or mend `env_file`"
    if file.secret and file.mode & stat.S_IROTH:
        found = f"it holds secrets, and everybody may read it (mode {file.mode:04o})"
        return Verdict.WARNING, found, f"chmod o= {file.path}"
    return Verdict.OK, f"mode {file.mode:04o}, uid {file.owner_uid}", ""


def read(config: Path, settings: Settings) -> Iterator[File]:
    """The files of the configuration, then every `env_file`, each once."""
    # Which of several files a secret stands in is not kept: all of them are taken for it.
    secret = any(part for watch in settings.watches.values() for part in watch.secrets.values())
    for path in sorted(config.glob("[!.]*.yml")) if config.is_dir() else [config]:
        yield _look("config_rights", path, secret=secret)
    each_command = (command for watch in settings.watches.values() for _, command in commands(watch))
    for name in dict.fromkeys(name for command in each_command for name in command.env_files):
        yield _look("env_file", Path(name), secret=True)


def _look(code: str, path: Path, *, secret: bool) -> File:
    try:
        facts = path.stat()
    except OSError as error:
        return File(code, path, secret, missing=error.strerror or "cannot be seen")
    return File(code, path, secret, facts.st_uid, stat.S_IMODE(facts.st_mode))
