"""Runs the installed `jetp` for the acceptance tests: agents whose log is read as it comes, and commands beside them.

Nothing sleeps: a test waits for an event or a condition, with a deadline. Whatever was started on a site is ended with
the test, supervisors and their commands as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import waiting

JETP = Path(sys.executable).with_name("jetp")
PATIENCE_S = 40.0
"""How long an event may take on a busy machine before the test gives up."""

Line = dict[str, Any]
Config = str | Mapping[str, Any]
Answer = TypeVar("Answer")


def until(condition: Callable[[], Answer], within_s: float = PATIENCE_S) -> Answer:
    """As `waiting.until`, with the patience that whole agents need."""
    return waiting.until(condition, within_s)


def is_alive(pid: int) -> bool:
    """Whether there is such a process; a zombie is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text[text.rindex(")") + 2] not in "ZX"


class AgentProcess:
    """One `jetp watch`, and what it tells."""

    def __init__(
        self, words: list[str | Path], environ: Mapping[str, str], before: Sequence[str] = (), jetp: Path = JETP
    ) -> None:
        self._process = subprocess.Popen(
            [*before, jetp, "watch", *words],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.errors = ""
        self._lines: list[Line] = []
        self._news = threading.Condition()
        self._ended = False
        self._readers = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            with self._news:
                self._lines.append(_parsed(text))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for text in self._process.stderr:
            self.errors += text

    @property
    def lines(self) -> list[Line]:
        """Every line so far."""
        with self._news:
            return list(self._lines)

    def told(self, event: str, **fields: object) -> list[Line]:
        """Every line so far of this event with these fields."""
        return [line for line in self.lines if _is_like(line, event, fields)]

    def wait_for(self, event: str, /, within_s: float = PATIENCE_S, nth: int = 1, **fields: object) -> Line:
        """The `nth` line of this event with these fields, as soon as it is there."""

        def found() -> bool:
            return self._ended or sum(_is_like(line, event, fields) for line in self._lines) >= nth

        with self._news:
            self._news.wait_for(found, within_s)
        lines = self.told(event, **fields)
        assert len(lines) >= nth, f"no {event} {fields} (number {nth}) within {within_s} s in:\n{self.story()}"
        return lines[nth - 1]

    def story(self) -> str:
        """All that it told, for a message."""
        left_out = {"host", "agent_version", "schema_version", "level"}
        told = (" ".join(f"{k}={v}" for k, v in line.items() if k not in left_out) for line in self.lines)
        return "\n".join([*told, self.errors])

    def send(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, within_s: float = PATIENCE_S) -> int:
        """Its exit code, once it has ended and everything it told was read."""
        try:
            code = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the agent did not end within {within_s} s:\n{self.story()}") from None
        for reader in self._readers:
            reader.join(PATIENCE_S)
        return code

    def stop(self, number: int = signal.SIGTERM, within_s: float = PATIENCE_S) -> int:
        """Stop it, and its exit code."""
        self.send(number)
        return self.wait(within_s)

    def kill9(self) -> None:
        """End it as a crash would; gone when this returns."""
        self.send(signal.SIGKILL)
        self.wait()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it if need be, and give everything back."""
        if self.is_running:
            self.kill9()
        for reader in self._readers:
            reader.join(PATIENCE_S)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


def _parsed(text: str) -> Line:
    line = json.loads(text)
    assert isinstance(line, dict), text
    return line


def _is_like(line: Line, event: str, fields: Mapping[str, object]) -> bool:
    return line["event"] == event and all(line.get(name) == value for name, value in fields.items())


SHIFTED_CLOCK = """\
import os, time
_real, _ahead_ns = time.time_ns, round(float(os.environ["WALL_AHEAD_S"]) * 1e9)
time.time_ns = lambda: _real() + _ahead_ns
"""
MAY_UNSHARE = os.geteuid() == 0 and shutil.which("unshare") is not None


@dataclass(frozen=True)
class Elsewhen:
    """Another time for an agent to live in: its wall clock and its boot-time clock, and whether the machine rebooted.

    The boot-time clock and the boot's id are the kernel's own, in namespaces, and need root. The wall clock is shifted
    inside the agent's interpreter; commands see the real one.
    """

    wall_s: float = 0.0
    boot_s: int = 0
    rebooted: bool = False

    def environ(self, root: Path) -> dict[str, str]:
        """What shifts the wall clock."""
        folder = root / "clock"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(SHIFTED_CLOCK)
        return {"PYTHONPATH": str(folder), "WALL_AHEAD_S": repr(self.wall_s)}

    def before(self, root: Path) -> list[str]:
        """The words before those of the agent."""
        if not self.boot_s and not self.rebooted:
            return []
        if not self.rebooted:
            return ["unshare", "--time", "--boottime", str(self.boot_s), "--fork", "--kill-child"]
        boot_id = root / "boot_id"
        boot_id.write_text(f"{uuid.uuid4()}\n")
        enter = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
        time = ["--time", "--boottime", str(self.boot_s)] if self.boot_s else []
        return ["unshare", "--mount", *time, "--fork", "--kill-child", "sh", "-c", enter, str(boot_id)]


class Gate:
    """A command that runs `text` goes no further until the test opens it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = f"until [ -e {path} ]; do sleep 0.02; done"

    def open(self) -> None:
        """Let everybody through."""
        self.path.touch()


class Site:
    """A directory with a state directory, scripts and a watch.yml, and everything that was started on it."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="jetwatch-"))
        self.root.chmod(0o755)  # a watch may run as another user
        self.state = self.root / "state"
        self.config = self.root / "watch.yml"
        self.agents: list[AgentProcess] = []
        self.jetp_watch = JETP
        (self.root / "bin").mkdir()
        self.environ = {
            "PATH": f"{self.root}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.root),
            "LANG": "C.UTF-8",
        }

    # -- what stands in it

    def configure(self, config: Config) -> None:
        """Write watch.yml: as text, or from keys and values."""
        if not isinstance(config, str):
            config = "".join(f"{key}: {json.dumps(value)}\n" for key, value in config.items())
        self.config.write_text(textwrap.dedent(config))

    def script(self, name: str, text: str) -> Path:
        """A shell script; its path."""
        path = self.root / name
        path.write_text(f"#!/bin/sh\n{textwrap.dedent(text)}\n")
        path.chmod(0o755)
        return path

    def shell(self, text: str) -> dict[str, str]:
        """A command of watch.yml that runs in the site's directory."""
        return {"shell": f"cd {self.root}\n{textwrap.dedent(text)}"}

    def gate(self, name: str = "gate") -> Gate:
        """A gate that is closed."""
        return Gate(self.root / name)

    def check(self, answer: int = 0, **outputs: str) -> dict[str, str]:
        """A check_command that says what `answer` was told last, and counts itself in the file `checks`."""
        self.answer(answer, **outputs)
        return self.shell('date +%s.%N >> checks; cat outputs > "$JETWATCH_OUTPUT"; exit "$(cat answer)"')

    def answer(self, answer: int, **outputs: str) -> None:
        """What the check says from now on."""
        for name, text in (
            ("outputs", "".join(f"{key}={value}\n" for key, value in outputs.items())),
            ("answer", f"{answer}\n"),
        ):
            new = self.root / f"{name}.new"
            new.write_text(text)
            new.rename(self.root / name)

    def read(self, name: str) -> str:
        """A file that commands write; empty when there is none."""
        path = self.root / name
        return path.read_text() if path.exists() else ""

    def read_lines(self, name: str) -> list[str]:
        """Its lines."""
        return self.read(name).splitlines()

    def pid_in(self, name: str) -> int:
        """The pid that a command wrote there, as soon as it did."""
        return int(until(lambda: self.read(name).strip()))

    # -- what runs on it

    def start(
        self,
        config: Config | None = None,
        *words: str | Path,
        environ: Mapping[str, str] | None = None,
        at: Elsewhen | None = None,
        before: Sequence[str] = (),
    ) -> AgentProcess:
        """An agent, with another watch.yml first if one is given; `before` are words that start it."""
        if config is not None:
            self.configure(config)
        agent = AgentProcess(
            ["--watch-config", self.config, "--state-dir", self.state, *words],
            {**self.environ, **(at.environ(self.root) if at else {}), **(environ or {})},
            [*before, *(at.before(self.root) if at else ())],
            self.jetp_watch,
        )
        self.agents.append(agent)
        return agent

    def ready(self, config: Config | None = None, *words: str | Path) -> AgentProcess:
        """An agent that has begun to work."""
        agent = self.start(config, *words)
        agent.wait_for("agent_started")
        return agent

    def once(
        self, config: Config | None = None, *words: str | Path, code: int = 0, at: Elsewhen | None = None
    ) -> AgentProcess:
        """An agent with --once and without splay, after its end with this exit code."""
        agent = self.start(config, "--once", "--no-splay", *words, at=at)
        found = agent.wait()
        assert found == code, f"exit code {found}, expected {code}:\n{agent.story()}"
        return agent

    def jetp(self, *words: str | Path, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """One command on this state directory, and its exit code if that matters."""
        done = subprocess.run(
            [JETP, *words, "--state-dir", self.state],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert code is None or done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done

    def data(self, *words: str) -> Any:
        """What a command says with --json."""
        return json.loads(self.jetp(*words, "--json").stdout)

    def standing(self, watch: str = "watch") -> dict[str, Any]:
        """What `jetp status` says of one watch."""
        watches = {each["watch"]: each for each in self.data("status")["watches"]}
        found = watches[watch]
        assert isinstance(found, dict)
        return found

    def runs(self) -> list[dict[str, Any]]:
        """All runs, the oldest first."""
        found = self.data("runs", "--limit", "1000")
        assert isinstance(found, list)
        return found[::-1]

    # -- supervisors

    def supervisors(self) -> list[int]:
        """The processes that hold a command of this site."""
        return [pid for pid in _pids() if _is_supervisor(pid, self.state)]

    def supervisor_of(self, step: str) -> int:
        """The one that holds this step, as soon as its command has begun."""

        def find() -> int:
            for path in self.state.glob(f"runs/*/{step}.*/started.json"):
                pid = json.loads(path.read_text())["supervisor_pid"]
                if is_alive(pid):
                    return int(pid)
            return 0

        return until(find)

    def kill_supervisor(self, pid: int) -> bool:
        """KILL this one of `supervisors`. False: it had ended."""
        return kill_if(pid, lambda pid: _is_supervisor(pid, self.state))

    def processes(self) -> list[int]:
        """Everything alive that belongs to this site, agents included."""
        return [pid for pid in _pids() if _belongs_to(pid, self.state) and is_alive(pid)]

    # -- the end

    def end(self) -> None:
        """End whatever was started here."""
        for agent in self.agents:
            agent.close()
        deadline = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < deadline:
            for pid in left:
                kill_if(pid, lambda pid: _belongs_to(pid, self.state))
            time.sleep(0.01)

    def remove(self) -> None:
        """Remove what it left on disk, however deep: rmtree goes down by recursion."""
        subprocess.run(["rm", "-rf", "--", self.root], check=True)


def kill_if(pid: int, is_still: Callable[[int], bool]) -> bool:
    """KILL this process if it is still the one that is meant: its number may have been given to a stranger."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            if is_still(pid):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                return True
        finally:
            os.close(pidfd)
    return False


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _words_of(pid: int, kind: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/{kind}").read_bytes().split(b"\0")
    except OSError:
        return []


def _is_supervisor(pid: int, state: Path) -> bool:
    words = _words_of(pid, "cmdline")
    return b"--fork" not in words and any(word.startswith(f"{state}/shim/".encode()) for word in words)


def _belongs_to(pid: int, state: Path) -> bool:
    marked = f"JETWATCH_STATE_DIR={state}".encode() in _words_of(pid, "environ")
    return marked or any(word.startswith(str(state).encode()) for word in _words_of(pid, "cmdline"))
