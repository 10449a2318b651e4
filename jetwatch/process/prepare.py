"""A command as it was asked for → a spec that can be started: words rendered, user found, environment made.

May block (name services, an `env_file` on a dead mount), so it is called in a worker, never in the loop. The
environment is built from nothing: what a command gets is written here, and secrets go nowhere else.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from grp import getgrgid, getgrnam
from pathlib import Path

from msgspec import Struct

from jetwatch import capabilities, words
from jetwatch.errors import CommandNotStarted, NotTrusted, WordError
from jetwatch.process import privileges
from jetwatch.records import Command, CommandSpec
from jetwatch.trust import Accounts, open_file

ENV_FILE_LIMIT_BYTES = 1024 * 1024
_OWN_FORM = "#jetwatch:json\n"  # dotenv cannot write a value that ends with a backslash so that it reads it again
_SHELL = "/bin/sh"
_FROM_AGENT = ("PATH", "LANG")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Surroundings(Struct, frozen=True):
    """What every command gets from the agent: parts of its environment, its working directory, its umask.

    `open_files`: how many it may open (None: as many as the agent).
    """

    environ: Mapping[str, str]
    umask: int
    cwd: str = "/"
    open_files: int | None = None


class Start(Struct, frozen=True):
    """One start of one command. `extra_env` are the JETWATCH_ names that are no template variables."""

    step_id: str
    variables: Mapping[str, str | Mapping[str, str]]
    extra_env: Mapping[str, str]
    secrets: Mapping[str, str]
    outputs_path: str | None
    cgroup: str | None = None


def prepare(command: Command, start: Start, surroundings: Surroundings) -> CommandSpec:
    """The spec of this start.

    Raises CommandNotStarted: `bad_word`, `no_such_user`, `no_such_group`, `bad_user`, `bad_capabilities`,
    `bad_env_file`, `bad_env`.
    """
    account = _account(command.user)
    _refuse_foreign_user(command, account)
    argv, values = _rendered(command, start)
    secrets = _secrets(command, start.secrets, surroundings)
    mark = f"JETWATCH_STEP={start.step_id}"
    # First in the environment, so that one page shows them; and the last word, so that nothing else stands there.
    marks = {"JETWATCH_STEP": start.step_id, **start.extra_env}
    env = {**marks, **_environment(command, account, secrets, surroundings), **values, **marks}
    if start.outputs_path is not None:
        env["JETWATCH_OUTPUT"] = start.outputs_path
    _refuse_impossible(env)
    changes_user = command.user is not None or command.group is not None
    gid = _gid(command, account)
    return CommandSpec(
        step_id=start.step_id,
        argv=argv,
        env=env,
        cwd=command.cwd or surroundings.cwd,
        cwd_is_given=command.cwd is not None,
        mark=mark,
        outputs_path=start.outputs_path,
        uid=account.pw_uid if command.user is not None else None,
        gid=gid if changes_user else None,
        groups=tuple(os.getgrouplist(account.pw_name, gid)) if changes_user and os.geteuid() == 0 else None,
        umask=surroundings.umask if command.umask is None else command.umask,
        nice=command.nice,
        limits=command.limits,
        no_new_privileges=command.no_new_privileges,
        capabilities=_capabilities(command),
        timeout_s=command.timeout_s,
        grace_s=command.grace_s,
        keep_bytes=command.keep_bytes,
        secret_names=tuple(secrets),
        cgroup=start.cgroup,
        open_files=surroundings.open_files,
    )


def environment(command: Command, secrets: Mapping[str, str], surroundings: Surroundings) -> dict[str, str]:
    """What a start of this command would have in its environment, the `JETWATCH_` names aside. Raises as `prepare`."""
    account = _account(command.user)
    _refuse_foreign_user(command, account)
    return _environment(command, account, _secrets(command, secrets, surroundings), surroundings)


def user_ids(user: str | None) -> tuple[int, int] | None:
    """Uid and gid of the user who is to own a file; None: the agent's own. Raises CommandNotStarted."""
    if user is None:
        return None
    account = _account(user)
    return account.pw_uid, account.pw_gid


def _rendered(command: Command, start: Start) -> tuple[tuple[str, ...], dict[str, str]]:
    """The command's argv, and its variables as environment."""
    try:
        values = words.as_environment(start.variables)
        if command.shell is not None:
            return (_SHELL, "-c", command.shell), values
        return words.render(command.words or (), start.variables), values
    except WordError as error:
        raise CommandNotStarted("bad_word", str(error)) from error


def _refuse_foreign_user(command: Command, account: pwd.struct_passwd) -> None:
    if command.user is not None and os.geteuid() not in (0, account.pw_uid):
        raise CommandNotStarted(
            "bad_user",
            f"user {command.user}: the agent runs as uid {os.geteuid()}, and only root runs commands as somebody else",
        )


def _capabilities(command: Command) -> int | None:
    """The set of bits. The agent can hand on only what it has, and must be allowed to limit."""
    if command.capabilities is None:
        return None
    wanted, held = capabilities.as_bits(command.capabilities), privileges.permitted()
    lacking = (wanted | capabilities.SETPCAP) & ~held
    if lacking:
        names = ", ".join(capabilities.as_names(lacking))
        raise CommandNotStarted(
            "bad_capabilities",
            f"capabilities: the agent, which runs as uid {os.geteuid()}, has no {names} itself; "
            "an agent that runs as root has all, where no container and no unit limits it",
        )
    return wanted


def _account(user: str | None) -> pwd.struct_passwd:
    if user is None:
        return _own_account(os.geteuid())
    try:
        return pwd.getpwuid(int(user)) if _is_number(user) else pwd.getpwnam(user)
    except KeyError:
        raise CommandNotStarted("no_such_user", f"user {user}: no such user on this machine") from None


@lru_cache(maxsize=1)  # who the agent is was settled when it started, as for any process
def _own_account(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError:  # a container may run as a uid that has no name
        return pwd.struct_passwd((str(uid), "", uid, os.getegid(), "", "/", _SHELL))


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _gid(command: Command, account: pwd.struct_passwd) -> int:
    if command.group is None:
        return account.pw_gid
    try:
        return (getgrgid(int(command.group)) if _is_number(command.group) else getgrnam(command.group)).gr_gid
    except KeyError:
        raise CommandNotStarted("no_such_group", f"group {command.group}: no such group on this machine") from None


def _account_env(account: pwd.struct_passwd) -> dict[str, str]:
    return {
        "HOME": account.pw_dir or "/",
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": account.pw_shell or _SHELL,
    }


def _secrets(command: Command, secrets: Mapping[str, str], surroundings: Surroundings) -> dict[str, str]:
    """What is masked where it is told: what is inherited, all of every `env_file`, and what is known to be secret."""
    inherited = {
        name: value
        for name, value in surroundings.environ.items()
        if any(fnmatchcase(name, pattern) for pattern in command.inherits)
    }
    return {**inherited, **_read_env_files(command.env_files), **secrets}


def _environment(
    command: Command, account: pwd.struct_passwd, secrets: Mapping[str, str], surroundings: Surroundings
) -> dict[str, str]:
    return {
        "PATH": _DEFAULT_PATH,
        **{name: surroundings.environ[name] for name in _FROM_AGENT if name in surroundings.environ},
        **_account_env(account),
        **secrets,
        **command.env,
    }


def _read_env_files(paths: tuple[str, ...]) -> dict[str, str]:
    """The values of all files, the later one winning. All of them count as secrets."""
    found: dict[str, str] = {}
    for path in paths:
        found.update(_read_env_file(Path(path)))
    return found


def _read_env_file(path: Path) -> dict[str, str]:
    try:
        text = _read_regular(path)
    except (OSError, UnicodeDecodeError, NotTrusted) as error:
        raise CommandNotStarted("bad_env_file", f"env_file {path}: {_reason(error)}") from error
    if len(text) > ENV_FILE_LIMIT_BYTES:
        raise CommandNotStarted("bad_env_file", f"env_file {path}: longer than {ENV_FILE_LIMIT_BYTES} bytes")
    if text.startswith(_OWN_FORM):
        return dict(json.loads(text.removeprefix(_OWN_FORM)))
    return _read_dotenv(path, text)


def _read_regular(path: Path) -> str:
    descriptor = open_file(path, Accounts.own())  # LD_PRELOAD=… of another account would run as the command's user
    if descriptor is None:
        raise OSError(errno.EINVAL, "it is no file")
    with os.fdopen(descriptor, encoding="utf-8", newline="") as source:
        return source.read(ENV_FILE_LIMIT_BYTES + 1)


def _read_dotenv(path: Path, text: str) -> dict[str, str]:
    from io import StringIO

    from dotenv.parser import parse_stream

    found = {}
    for binding in parse_stream(StringIO(text)):
        if binding.error:
            line = binding.original.line
            raise CommandNotStarted("bad_env_file", f"env_file {path}: line {line} is not NAME=value")
        if binding.key is not None:
            found[binding.key] = binding.value or ""
    return found


def _reason(error: OSError | UnicodeDecodeError | NotTrusted) -> str:
    if isinstance(error, NotTrusted):
        return error.reason
    return error.strerror or str(error) if isinstance(error, OSError) else f"not UTF-8 at byte {error.start}"


def write_env_file(path: Path, values: Mapping[str, str]) -> None:
    """Keep secret values for the starts to come, in a private file that `_read_env_files` understands."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8", newline="") as target:
        target.write(_OWN_FORM + json.dumps(dict(values)))


def _refuse_impossible(env: Mapping[str, str]) -> None:
    if _is_encodable("".join(env)) and _is_encodable("".join(env.values())) and not any(map(_is_odd, env.items())):
        return
    name = next(name for name, value in env.items() if _is_odd((name, value)) or not _is_encodable(name + value))
    raise CommandNotStarted("bad_env", f"environment variable {name!r}: a name or value the kernel refuses")


def _is_odd(pair: tuple[str, str]) -> bool:
    name, value = pair
    return "\0" in value or "\0" in name or "=" in name or not name


def _is_encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True
