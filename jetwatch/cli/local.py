"""`jetp local`: hands a playbook to the engine found on this machine, and becomes that engine.

Jet's own binary comes first, then `ansible-playbook` on localhost. The engine replaces this process (exec), so signals,
output and exit code are the engine's own, and nothing of jetwatch stands between a run and its play. What comes before
is finding: which binary, which Python for the modules, and an environment in which it works without a terminal.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from msgspec import Struct

from jetwatch.errors import JetwatchError, UsageError

JET_NAMES = ("jetp", "jet")
ELF_MAGIC = b"\x7fELF"
EXECED_AS = "JETWATCH_LOCAL_PID"
"""Holds the pid that became an engine, and which: exec keeps the pid, so who finds its own was started by itself."""


class NoEngineError(JetwatchError):
    """There is neither Jet nor Ansible on this machine."""

    exit_code = 69

    def __init__(self) -> None:
        super().__init__(
            "no engine found to apply the playbook: neither Jet's own binary (jetp or jet, on PATH) nor "
            f"ansible-playbook (beside {sys.executable}, or on PATH). "
            "Install one of them, for example: pip install 'jetwatch[ansible]'"
        )


class Machine(Struct, frozen=True):
    """What the search for an engine looks at. `ourselves` are the files that would only start this command again."""

    environ: Mapping[str, str]
    python: Path
    ourselves: frozenset[Path]
    on_terminal: bool

    @classmethod
    def here(cls) -> Machine:
        """This machine, as this process sees it."""
        ourselves = frozenset(Path(name).resolve() for name in (sys.argv[0], sys.executable))
        return cls(dict(os.environ), Path(sys.executable), ourselves, sys.stdout.isatty())

    @property
    def path(self) -> str:
        """Where programs are looked for; never where the current directory decides, as content lies there."""
        entries = self.environ.get("PATH", os.defpath).split(os.pathsep)
        return os.pathsep.join(entry for entry in entries if Path(entry).is_absolute())


class Engine(Struct, frozen=True):
    """A program to become: its words, without the playbook, and its environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


def find_engine(machine: Machine) -> Engine:
    """Return Jet's own engine, else Ansible's. Raises NoEngineError. What has started us again is no engine."""
    pid, _, became = machine.environ.get(EXECED_AS, "").partition(" ")
    tried = became if pid == str(os.getpid()) else ""
    jet = find_jet(machine) if not tried else None
    if jet:
        return Engine((str(jet), "local", "--playbook"), environment(machine, "jet"))
    ansible = find_ansible(machine) if tried != "ansible" else None
    if ansible:
        interpreter = f"ansible_python_interpreter={shlex.quote(interpreter_of(ansible, machine))}"
        argv = (str(ansible), "-i", "localhost,", "-c", "local", "-e", interpreter)
        return Engine(argv, ansible_environment(machine))
    raise NoEngineError


def find_jet(machine: Machine) -> Path | None:
    """Return Jet's binary, or a script in its place. It is called `jetp` like our own command, so ours are left out."""
    directories = [Path(entry) for entry in machine.path.split(os.pathsep) if entry]
    candidates = (directory / name for name in JET_NAMES for directory in directories)
    return next((path for path in candidates if may_be_jet(path) and path.resolve() not in machine.ourselves), None)


def may_be_jet(path: Path) -> bool:
    """Whether `path` is native, or a script that does not name us, and may be executed."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
    except OSError:
        return False
    return os.access(path, os.X_OK) and (head.startswith(ELF_MAGIC) or b"jetwatch" not in head)


def find_ansible(machine: Machine) -> Path | None:
    """Return `ansible-playbook`: the one in our own environment, else the first on PATH."""
    beside = machine.python.parent / "ansible-playbook"
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("ansible-playbook", path=machine.path)
    return Path(found).absolute() if found else None


def interpreter_of(ansible: Path, machine: Machine) -> str:
    """Return the Python that runs `ansible-playbook`, for the modules too; ours where that is no plain Python.

    Left to itself, Ansible takes the highest version on PATH, which may be the stub of a version switcher.
    """
    for words in (shebang_words(ansible), launcher_words(ansible)):
        program = words[0] if words else ""
        if program and not Path(program).is_absolute():
            program = shutil.which(program, path=machine.path) or ""
        if Path(program).name.startswith(("python", "pypy")) and os.access(program, os.X_OK):
            return program
    return str(machine.python)


def shebang_words(script: Path) -> list[str]:
    """Return the words of `#!program options`; `env` and its own options are left out."""
    line = first_lines(script)[0]
    words = line.removeprefix("#!").split() if line.startswith("#!") else []
    if words and Path(words[0]).name == "env":
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    return words


def launcher_words(script: Path) -> list[str]:
    """Return the words after `'''exec'` in line two: how installers write a shebang that is too long or has a space."""
    try:
        words = shlex.split(first_lines(script)[1])
    except ValueError:
        return []
    return words[1:] if words[:1] == ["exec"] else []


def first_lines(script: Path) -> tuple[str, str]:
    """Return the first two lines of a file, empty where there is nothing to read."""
    try:
        with script.open("rb") as stream:
            head = stream.read(4096)
    except OSError:
        head = b""
    lines = [*head.decode(errors="replace").splitlines(), "", ""]
    return lines[0], lines[1]


def environment(machine: Machine, engine: str) -> dict[str, str]:
    """Return what every engine may rely on: HOME, and an encoding that can hold any name."""
    env = {"HOME": home_of_user(), **machine.environ, EXECED_AS: f"{os.getpid()} {engine}"}
    if "LC_ALL" not in env:
        env.setdefault("LANG", "C.UTF-8")
    return env


def home_of_user() -> str:
    """Return the home directory of the user that we are."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/"


def ansible_environment(machine: Machine) -> dict[str, str]:
    """Return the environment for Ansible: defaults for a run without a person, each only where nothing is set."""
    env = environment(machine, "ansible")
    env.setdefault("ANSIBLE_LOCALHOST_WARNING", "False")
    env.setdefault("ANSIBLE_RETRY_FILES_ENABLED", "False")
    if not machine.on_terminal and "ANSIBLE_FORCE_COLOR" not in env:
        env.setdefault("ANSIBLE_NOCOLOR", "True")
    download_path = env.get("JETWATCH_DOWNLOAD_PATH")
    if download_path and not (Path(env["HOME"]).is_dir() and os.access(env["HOME"], os.W_OK)):
        # Ansible keeps its temporary files below HOME; a service often has none. The run's directory is private, too.
        env.setdefault("ANSIBLE_HOME", str(Path(download_path, ".ansible")))
    return env


def playbook_path(playbook: str) -> str:
    """Return the absolute path of a playbook that can be read. Raises UsageError."""
    path = Path(playbook).absolute()
    if not path.exists():
        raise UsageError(f"{playbook}: there is no such playbook (looked for {path})")
    if not path.is_file():
        raise UsageError(f"{playbook}: expected a playbook file, found something else")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{playbook}: this user may not read the playbook")
    return str(path)


def become(engine: Engine, words: Sequence[str]) -> None:
    """Replace this process by the engine; returns only by an exception."""
    argv = [*engine.argv, *words]
    sys.stdout.flush()
    sys.stderr.flush()
    # Python ignores SIGPIPE, and what is ignored stays ignored across exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execve(argv[0], argv, dict(engine.env))  # noqa: S606 - no shell is wanted


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Example: jetp local --playbook site/pb.yml -e region=eu --diff",
)
@click.option("--playbook", required=True, metavar="FILE", help="The playbook to apply to this machine.")
@click.argument("extra", nargs=-1, type=click.UNPROCESSED, metavar="[ENGINE OPTIONS]...")
def local(playbook: str, extra: tuple[str, ...]) -> None:
    """Apply a playbook to this machine, with the engine that is found here.

    Jet's own binary is taken if there is one, else ansible-playbook, on localhost and with the right Python. All other
    options go to the engine as they are. The exit code is the engine's own; before it starts, 2 means that FILE cannot
    be read, and 69 that there is no engine.
    """
    words = (playbook_path(playbook), *extra)
    become(find_engine(Machine.here()), words)
