"""Agents: the one of this state directory, as its journal and lock tell of it, and others on this machine."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import dropwhile
from pathlib import Path

from msgspec import Struct

from jetwatch.bounded import read_proc
from jetwatch.health.finding import Finding, Verdict

_OPTION = "--watch-config"
_OUR_NAMES = ("jetp", "jetwatch", "jetp.pyz")
_COMMAND_LINE_BYTES = 16 * 1024  # room for two paths of 4 KiB, and more words than `jetp watch` takes
_ENVIRONMENT_BYTES = 1024**2  # an agent's own; a PATH behind that much is not looked for


class Agent(Struct, frozen=True):
    """The newest agent of a state directory. `crashed`: it neither runs nor stopped.

    `rejected`: why its newest configuration is not in force. `stalled`: it waits for a disk.
    """

    pid: int
    version: str
    running: bool
    crashed: bool = False
    rejected: str = ""
    stalled: bool = False


class Other(Struct, frozen=True):
    """A process that looks like an agent, with its configuration (None: not said on its command line)."""

    pid: int
    config: Path | None


def findings(agent: Agent | None, version: str) -> Iterator[Finding]:
    """None: none has been there. `version`: of this program."""
    if agent is None:
        yield Finding("agent", Verdict.OK, "agent", "none has run on this state directory yet")
    elif agent.running:
        yield from _running(agent, version)
    else:
        found = "none is running; the last one stopped in good order"
        if agent.crashed:
            found = f"the last one, pid {agent.pid}, is gone without having stopped: killed, or the machine went down"
        yield Finding("agent", Verdict.WARNING, "agent", found, "start it: what was begun is taken over")


def _running(agent: Agent, version: str) -> Iterator[Finding]:
    def found(verdict: Verdict, sentence: str, advice: str = "") -> Finding:
        return Finding("agent", verdict, "agent", f"running, pid {agent.pid}: {sentence}", advice)

    if agent.stalled:
        yield found(Verdict.NOT_NOW, "its journal cannot be written, and it waits", "see `space`, and its log")
    if agent.rejected:
        sentence = f"the newest configuration is not in force: {agent.rejected}"
        yield found(Verdict.PROBLEM, sentence, "mend it, then reload (HUP)")
    if agent.version != version:
        yield found(Verdict.WARNING, f"version {agent.version}, and {version} is installed", "restart it")
    if not agent.stalled and not agent.rejected and agent.version == version:
        yield found(Verdict.OK, f"version {agent.version}")


def others_findings(others: Iterable[Other], config: Path | None) -> Iterator[Finding]:
    """Agents with other state directories. Two that obey one watch.yml do everything twice."""
    for other in others:
        if config is not None and other.config == config:
            found = f"pid {other.pid} obeys {config} too, with another state directory: everything happens twice"
            yield Finding("other_agent", Verdict.WARNING, "other agent", found, "stop one of them")
        else:
            where = f", with {other.config}" if other.config is not None else ""
            found = f"pid {other.pid}{where}; several may run, one on each state directory"
            yield Finding("other_agent", Verdict.OK, "other agent", found)


def is_agent(argv: Sequence[str]) -> bool:
    """Whether a command line is one of ours: `jetp watch …`, also behind a Python. Who only starts one is none."""
    words = list(argv)
    if words and Path(words[0]).name.startswith("python"):
        words = list(dropwhile(lambda word: word.startswith("-"), words[1:]))
    return len(words) > 1 and Path(words[0]).name in _OUR_NAMES and words[1] == "watch"


def config_of(argv: Sequence[str], cwd: Path) -> Path | None:
    """What a command line names as configuration."""
    for position, word in enumerate(argv):
        if word == _OPTION and position + 1 < len(argv):
            return cwd / argv[position + 1]
        if word.startswith(f"{_OPTION}="):
            return cwd / word.partition("=")[2]
    return None


def read_others(known: Container[int], proc: Path = Path("/proc")) -> Iterator[Other]:
    """Every agent of this account and of root's but those with the pids `known`, as far as /proc shows them.

    A command line lies in its process's own memory: that of another account may be one that never comes to an end.
    """
    for pid in sorted(int(each.name) for each in proc.iterdir() if each.name.isdigit()):
        try:
            process = proc / str(pid)
            if pid in known or process.stat().st_uid not in (0, os.geteuid()):
                continue
            line = read_proc(process / "cmdline", _COMMAND_LINE_BYTES)
            argv = line.decode(errors="replace").rstrip("\0").split("\0")
            if is_agent(argv):
                yield Other(pid, config_of(argv, (process / "cwd").readlink()))
        except OSError:
            continue


def surroundings_of(pid: int, proc: Path = Path("/proc")) -> tuple[str, str]:
    """PATH and working directory of a process, which its commands get; empty where they cannot be seen."""
    try:
        environ = os.fsdecode(read_proc(proc / str(pid) / "environ", _ENVIRONMENT_BYTES))
        cwd = str((proc / str(pid) / "cwd").readlink())
    except OSError:
        return "", ""
    return next((line.partition("=")[2] for line in environ.split("\0") if line.startswith("PATH=")), ""), cwd
