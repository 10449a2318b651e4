"""The commands of watch.yml: is there such a program, may its user start it, are its interpreter and directory there?

What a template decides is known at the start only, and what a shell's text names is known to the shell only: of these
nothing is said. That an engine stands behind `jetp local` is the caller's to find out.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from jetwatch import words
from jetwatch.config.model import WatchSettings
from jetwatch.errors import CommandNotStarted
from jetwatch.health.finding import Case, Finding, Verdict, first
from jetwatch.process.prepare import Surroundings, environment, user_ids
from jetwatch.records import Command

_LONGEST_SHEBANG_BYTES = 256  # BINPRM_BUF_SIZE
_SHELL = "/bin/sh"


class Program(Struct, frozen=True):
    """The first word of one command, and what there is under this name.

    `refused`: the command could not start whatever its program (user, group, env_file, cwd). `path` None: nothing of
    this name. `interpreter`: what the first line of a script names and is not there.
    """

    step: str
    word: str
    searched: str = ""
    refused: str = ""
    user: str = ""
    path: Path | None = None
    is_file: bool = True
    may_start: bool = True
    interpreter: str = ""

    @property
    def is_template(self) -> bool:
        """Whether the word is known at the start only."""
        return any(piece.is_expression for piece in words.parse(self.word))


def findings(watch: str, programs: Iterable[Program]) -> Iterator[Finding]:
    """One for each thing that is wrong, with the commands that it is wrong of; one alone where nothing is."""
    programs = list(programs)
    subject = f"commands of {watch}"
    wrong: dict[tuple[str, str], list[str]] = {}
    for each in programs:
        verdict, found, advice = _judged(each)
        if verdict is not Verdict.OK:
            wrong.setdefault((found, advice), []).append(each.step)
    for (found, advice), steps in wrong.items():
        yield Finding("command", Verdict.PROBLEM, subject, f"{', '.join(steps)}: {found}", advice)
    if wrong:
        return
    unknown = [each.step for each in programs if each.is_template]
    later = f"; {', '.join(unknown)}: known when it starts" if unknown else ""
    known = [each.step for each in programs if not each.is_template]
    yield Finding("command", Verdict.OK, subject, f"{', '.join(known) or 'none'}: found{later}")


def _judged(program: Program) -> tuple[Verdict, str, str]:
    who = f"user {program.user}" if program.user else "this user"
    path, interpreter = program.path, program.interpreter
    where = f" in {program.searched}" if program.searched else ""
    cases: list[Case] = [
        (bool(program.refused), Verdict.PROBLEM, program.refused, "mend watch.yml, or the machine"),
        (program.is_template, Verdict.OK, "", ""),
        (path is None, Verdict.PROBLEM, f"there is no {program.word}{where}", "install it, or write its full path"),
        (not program.is_file, Verdict.PROBLEM, f"{path} is no file", "name a program"),
        (
            not program.may_start,
            Verdict.PROBLEM,
            f"{who} may not execute {path}",
            f"chmod +x {path}, and let {who} pass the directories above it",
        ),
        (
            interpreter.endswith("\r"),
            Verdict.PROBLEM,
            f"{path}: lines that end as on Windows hide its interpreter",
            f"sed -i 's/\\r$//' {path}",
        ),
        (
            bool(interpreter),
            Verdict.PROBLEM,
            f"{path} asks for {interpreter}, which is not there",
            f"install it, or change line 1 of {path}",
        ),
        (True, Verdict.OK, "", ""),
    ]
    return first(cases)


def commands(watch: WatchSettings) -> Iterator[tuple[str, Command]]:
    """The watch's own commands, by step; a fetch of `content` is ours and none of them."""
    if watch.check is not None:
        yield "check", watch.check
    if watch.download is not None and watch.content is None:
        yield "download", watch.download
    yield "play", watch.play
    yield from watch.hooks.items()


def read(watch: WatchSettings, surroundings: Surroundings) -> Iterator[Program]:
    """Every command of a watch, looked for as its start would."""
    for step, command in commands(watch):
        word = _SHELL if command.shell is not None else (command.words or ("",))[0]
        try:
            env = environment(command, watch.secrets.get(step, {}), surroundings)
        except CommandNotStarted as error:
            yield Program(step, word, refused=str(error))
            continue
        if command.cwd is not None and not Path(command.cwd).is_dir():
            yield Program(step, word, refused=f"cwd {command.cwd}: there is no such directory")
            continue
        yield look_for(step, word, command, surroundings.cwd, env)


def look_for(step: str, word: str, command: Command, cwd: str, env: Mapping[str, str]) -> Program:
    """The program of one command. `cwd`: of one that names none."""
    bare = Program(step, word, user=command.user or "")
    if bare.is_template:
        return bare
    search = env.get("PATH", os.defpath)
    path, searched = _find(word, command.cwd or cwd, search)
    if path is None:
        return Program(step, word, searched=searched)
    return Program(
        step,
        word,
        user=command.user or "",
        path=path,
        is_file=path.is_file(),
        may_start=_may_start(path, command.user),
        interpreter=_missing_interpreter(path, search),
    )


def _find(word: str, cwd: str, search: str) -> tuple[Path | None, str]:
    """Where it is, None if nowhere; and where it was looked for, if that is not in the word."""
    if "/" in word:
        path = Path(cwd, word)
        return (path if path.exists() else None), "" if word.startswith("/") else cwd
    found = shutil.which(word, path=search)
    return (Path(found) if found else None), f"PATH ({search})"


def _may_start(path: Path, user: str | None) -> bool:
    ids = user_ids(user)
    if ids is None or ids[0] == os.geteuid():
        return os.access(path, os.X_OK)
    uid, gid = ids
    groups = _groups(uid, gid)
    return all(_allows(each.stat(), uid, groups) for each in (path, *path.resolve().parents))


def _allows(facts: os.stat_result, uid: int, groups: list[int]) -> bool:
    """By the mode bits alone: an ACL may allow more."""
    if uid == 0:
        return bool(facts.st_mode & 0o111)
    if facts.st_uid == uid:
        return bool(facts.st_mode & stat.S_IXUSR)
    return bool(facts.st_mode & (stat.S_IXGRP if facts.st_gid in groups else stat.S_IXOTH))


def _groups(uid: int, gid: int) -> list[int]:
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return [gid]


def _missing_interpreter(path: Path, search: str) -> str:
    """What the first line of a script names and is not there; empty where nothing is missing."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_LONGEST_SHEBANG_BYTES)
    except OSError:
        return ""
    if not head.startswith(b"#!"):
        return ""
    program, _, rest = os.fsdecode(head[2:].split(b"\n", 1)[0]).strip(" \t").partition(" ")
    if not Path(program).exists():
        return program
    argument = rest.strip(" \t")
    is_name = Path(program).name == "env" and argument and not argument.startswith("-") and "=" not in argument
    return argument if is_name and shutil.which(argument, path=search) is None else ""
