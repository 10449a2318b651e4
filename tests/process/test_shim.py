"""The protocol between an agent and a supervisor: lock, spec, started.json, exit.json, cancel, burial."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import until
from workbench import Step, Workbench, command_line, fill, need, need_root, processes, tmpfs

from jetwatch.errors import CommandNotStarted
from jetwatch.process import launch, tree
from jetwatch.process.hold import FORMAT as HOLD_FORMAT
from jetwatch.process.place import find_place
from jetwatch.process.shim import ENDED_NAME, boot_id, pid_namespace
from jetwatch.records import FORMAT, CommandSpec, Ending, Sight

KILLS = 120


@pytest.fixture
def effect(tmp_path: Path) -> Path:
    """What a command does to the world: it is there when its first instruction ran."""
    return tmp_path / "effect"


class Gate:
    """A Python that waits at a gate before its first instruction."""

    def __init__(self, root: Path, then: str) -> None:
        self.ready, self._fifo = root / "gate.ready", root / "gate.fifo"
        os.mkfifo(self._fifo)
        self.python = root / "python"
        self.python.write_text(f"#!/bin/sh\necho $$ > {self.ready}.new\nmv {self.ready}.new {self.ready}\n{then}\n")
        self.python.chmod(0o755)

    def pid(self) -> int:
        """Who waits there."""
        until(self.ready.exists)
        return int(self.ready.read_text())

    def open(self) -> None:
        """Let it pass."""
        self._fifo.write_text("go\n")


@pytest.fixture
def gated(bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Every supervisor waits at a gate before its first instruction."""
    assert bench.program
    gate = Gate(tmp_path, f'read line < {tmp_path}/gate.fifo\nexec {sys.executable} "$@"')
    monkeypatch.setattr(launch.sys, "executable", str(gate.python))
    return gate


class Starting(threading.Thread):
    """A start that is under way in a thread of its own, as in an agent."""

    def __init__(self, bench: Workbench, spec: CommandSpec) -> None:
        super().__init__()
        self.step = Step(spec, bench.directory(spec), None)
        self.refusal: CommandNotStarted | None = None
        self._program = bench.program
        self.start()

    def run(self) -> None:
        """Start it."""
        try:
            launch.start(self._program, self.step.directory, self.step.spec)
        except CommandNotStarted as error:
            self.refusal = error


# -- from the start


def test_the_lock_is_held_before_the_supervisors_first_instruction(bench: Workbench, gated: Gate, effect: Path) -> None:
    """A look right after the fork says alive; by whom, nobody has said yet."""
    starting = Starting(bench, bench.spec(f"touch {effect}"))
    gated.pid()
    seen = starting.step.look()
    assert (seen.sight, seen.supervisor, seen.since_monotonic_us) == (Sight.ALIVE, None, None)
    assert not effect.exists()
    gated.open()
    starting.join()
    assert starting.step.end().result.exit_code == 0
    assert effect.exists()


def test_one_that_dies_before_its_first_instruction_ran_nothing(bench: Workbench, gated: Gate, effect: Path) -> None:
    """The start is refused, the lock is free, and the look says so."""
    starting = Starting(bench, bench.spec(f"touch {effect}"))
    os.kill(gated.pid(), signal.SIGKILL)
    starting.join()
    assert starting.refusal is not None
    assert starting.refusal.code == "no_supervisor"
    assert starting.step.look().sight is Sight.NEVER_RAN
    assert not effect.exists()


def test_one_that_takes_too_long_to_start_is_ended(
    bench: Workbench, gated: Gate, effect: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that hangs costs a refusal, and nothing runs later."""
    monkeypatch.setattr(launch, "_START_TIMEOUT_S", 0.3)
    starting = Starting(bench, bench.spec(f"touch {effect}"))
    starting.join()
    assert starting.refusal is not None
    assert starting.step.look().sight is Sight.NEVER_RAN
    assert bench.left_behind() == []
    assert not effect.exists()


@pytest.mark.parametrize("end", ["read line < FIFO", "kill -9 $$"], ids=["too slow", "killed"])
def test_one_that_has_forked_is_no_refusal(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Only its first process is ended or dies: whoever holds the lock goes on, and is found by it."""
    assert bench.program
    real = f'exec 3<&0\n{sys.executable} "$@" <&3 3<&- &\nwait'
    gate = Gate(tmp_path, f"{real}\n{end.replace('FIFO', f'{tmp_path}/gate.fifo')}")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    spec = bench.spec(f"read line < {fifo}")
    monkeypatch.setattr(launch.sys, "executable", str(gate.python))
    monkeypatch.setattr(launch, "_START_TIMEOUT_S", 1.0)
    starting = Starting(bench, spec)
    starting.join()
    assert starting.refusal is None
    assert starting.step.look().sight is Sight.ALIVE
    fifo.write_text("go\n")
    assert starting.step.end().result.exit_code == 0


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 1.0], ids=["nothing", "a little", "half", "all but the newline"])
def test_an_agent_that_dies_while_it_writes_the_spec_ran_nothing(bench: Workbench, effect: Path, part: float) -> None:
    """Half a spec is none: the supervisor leaves, the lock is free."""
    spec = bench.spec(f"touch {effect}")
    directory = bench.directory(spec)
    text = json.dumps({name: getattr(spec, name) for name in spec.__slots__}).encode()
    lock_fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    launch.fcntl.flock(lock_fd, launch.fcntl.LOCK_EX)
    argv = [sys.executable, "-I", "-S", bench.program, directory, str(lock_fd)]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=(lock_fd,), env={})
    os.close(lock_fd)
    assert child.stdin is not None
    child.stdin.write(text[: int(len(text) * part)])
    child.stdin.close()
    assert child.wait() == 65
    assert launch.look(directory, spec.step_id).sight is Sight.NEVER_RAN
    assert sorted(path.name for path in directory.iterdir()) == ["lock"]
    assert not effect.exists()


def test_nothing_runs_before_it_is_written_down(bench: Workbench, effect: Path) -> None:
    """A supervisor that cannot write started.json starts nothing; one that dies there leaves nobody at the gate."""
    spec = bench.spec(f"touch {effect}")
    directory = bench.directory(spec)
    os.mkfifo(directory / "started.json.new")  # opening it for writing waits for a reader
    step = Step(spec, directory, launch.start(bench.program, directory, spec))
    assert step.supervisor is not None
    until(lambda: [child.state for child in _children(step.supervisor.pid)] == ["S"])  # it waits at the gate
    assert (step.look().sight, step.look().supervisor) == (Sight.ALIVE, None)
    os.kill(step.supervisor.pid, signal.SIGKILL)
    assert step.dead().sight is Sight.NEVER_RAN
    until(lambda: bench.left_behind() == [])
    assert not effect.exists()


def _children(pid: int) -> list[tree.Process]:
    return [process for process in processes() if process.parent == pid]


def test_a_directory_that_was_never_made_ran_nothing(tmp_path: Path) -> None:
    """An agent that died between its journal and the disk starts the step again."""
    assert launch.look(tmp_path / "none", "x").sight is Sight.NEVER_RAN


def test_a_living_one_says_who_it_is(bench: Workbench, fifo: Path) -> None:
    """Pid with start time and boot, since when, and nothing that others may read."""
    before_us = time.monotonic_ns() // 1000
    step = bench.start(f"read line < {fifo}")
    seen = step.started()
    assert seen.supervisor is not None
    assert step.supervisor is not None
    assert seen.supervisor.pid == step.supervisor.pid
    assert seen.supervisor.start_ticks == step.supervisor.start_ticks
    assert seen.supervisor.boot_id == boot_id()
    assert before_us <= (seen.since_monotonic_us or 0) <= time.monotonic_ns() // 1000
    assert tree.name_of(step.supervisor.pid) == "jetwatch-shim"
    modes = {stat.S_IMODE(path.stat().st_mode) for path in step.directory.iterdir()}
    assert modes == {0o600}
    fifo.write_text("go\n")
    step.end()


def test_it_is_nobodys_child_and_holds_nothing_of_its_agent(bench: Workbench, fifo: Path) -> None:
    """It outlives the agent: no parent, no terminal, no directory, no descriptor but its own."""
    fd = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(fd, True)
    step = bench.start(f"read line < {fifo}")
    os.close(fd)
    step.started()
    assert step.supervisor is not None
    proc = Path(f"/proc/{step.supervisor.pid}")
    found = tree.look_up(step.supervisor.pid)
    assert found is not None
    assert found.parent != os.getpid()
    assert found.session != os.getsid(0)
    assert (proc / "cwd").readlink() == Path("/")
    opened = [str(link.readlink()) for link in (proc / "fd").iterdir()]
    assert "/etc/passwd" not in opened
    assert opened.count("/dev/null") == 3
    assert (proc / "environ").read_bytes() == b""
    fifo.write_text("go\n")
    step.end()


def test_it_is_not_branded_by_whoever_started_its_agent(bench: Workbench, fifo: Path) -> None:
    """A play may start an agent, and that hands the play's brand down; the command gets a brand of its own."""
    soft, hard = resource.getrlimit(10)
    tree.brand(tree.Mark("JETWATCH_STEP=of the play").brand, hard)
    try:
        step = bench.start(f"read line < {fifo}")
        evidence = step.started()
    finally:
        resource.setrlimit(10, (soft, hard))
    assert evidence.supervisor is not None
    command = json.loads((step.directory / "started.json").read_text())["pid"]
    brand = tree.Mark(step.spec.mark).brand
    until(lambda: resource.prlimit(command, 10)[0] == brand)  # it may still be on its way from the gate to exec
    assert resource.prlimit(evidence.supervisor.pid, 10)[0] == hard
    fifo.write_text("go\n")
    step.end()


# -- while it lives


def test_a_shutdowns_signals_do_not_end_it(bench: Workbench, fifo: Path) -> None:
    """TERM, INT, HUP and QUIT are sent to everybody; it stays with its command to the end."""
    step = bench.start(f"read line < {fifo}; exit 7")
    supervisor = step.started().supervisor
    assert supervisor is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        os.kill(supervisor.pid, number)
    fifo.write_text("go\n")
    result = step.end().result
    assert (result.ending, result.exit_code) == (Ending.EXITED, 7)


def test_a_cancel_while_the_command_runs_ends_it(bench: Workbench) -> None:
    """By a file and a signal."""
    step = bench.start("exec sleep 60")
    step.started()
    launch.ask_to_stop(step.directory, step.spec.step_id)
    assert step.end().result.ending is Ending.CANCELLED


def test_a_cancel_before_there_is_anybody_to_signal_is_seen(bench: Workbench) -> None:
    """Between its start and started.json there is nobody to signal yet: the file says it."""
    spec = bench.spec("exec sleep 60")
    directory = bench.directory(spec)
    os.mkfifo(directory / "started.json.new")
    step = Step(spec, directory, launch.start(bench.program, directory, spec))
    assert step.supervisor is not None
    until(lambda: len(_children(step.supervisor.pid)) == 1)
    launch.ask_to_stop(directory, spec.step_id)
    fd = os.open(directory / "started.json.new", os.O_RDONLY)  # now it goes on
    assert step.end().result.ending is Ending.CANCELLED
    os.close(fd)


def test_a_cancel_finds_the_command_also_on_a_full_disk(bench: Workbench) -> None:
    """Where the file finds no room, the signal is enough."""
    root = bench.root / "steps"
    root.mkdir()
    with tmpfs(root, "size=2m,nr_inodes=9"):
        step = bench.start("exec sleep 60")
        step.started()
        for number in range(9):
            try:
                (root / f"{number}").touch()
            except OSError:
                break
        launch.ask_to_stop(step.directory, step.spec.step_id)
        assert not (step.directory / "cancel").exists()
        assert step.end().result.ending is Ending.CANCELLED


def test_nobody_is_cancelled_by_a_number_alone(bench: Workbench) -> None:
    """Files that name a stranger, by another start time, another boot or another namespace, make nobody signal it."""
    stranger = subprocess.Popen(["/bin/sleep", "60"], env={})
    found = tree.look_up(stranger.pid)
    assert found is not None
    for facts in (
        {"supervisor_start_ticks": found.start_ticks - 1},
        {"boot_id": "another"},
        {"pid_namespace": "pid:[1]"},
    ):
        step = _forged(bench, stranger.pid, found.start_ticks, **facts)
        launch.ask_to_stop(step.directory, step.spec.step_id)
        launch.end_supervisor(step.directory, step.spec.step_id)
    assert stranger.poll() is None
    step = _forged(bench, stranger.pid, found.start_ticks)
    launch.end_supervisor(step.directory, step.spec.step_id)
    assert stranger.wait(timeout=10) == -signal.SIGKILL


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**80])
def test_a_number_that_no_process_has_is_nobody(bench: Workbench, pid: int) -> None:
    """0 and those below it would name whole groups of processes; the kernel takes no larger ones."""
    step = _forged(bench, pid, 1)
    held = os.open(step.directory / "lock", os.O_RDONLY | os.O_CREAT, 0o600)
    launch.fcntl.flock(held, launch.fcntl.LOCK_EX)
    found = launch.look(step.directory, step.spec.step_id)
    assert (found.sight, found.supervisor) == (Sight.ALIVE, None)
    launch.ask_to_stop(step.directory, step.spec.step_id)
    launch.end_supervisor(step.directory, step.spec.step_id)
    os.close(held)


def _forged(bench: Workbench, pid: int, ticks: int, **facts: Any) -> Step:
    """A step directory whose started.json names this process as supervisor and command."""
    spec = bench.spec("true")
    directory = bench.directory(spec)
    document = {
        "format": FORMAT,
        "step_id": spec.step_id,
        "boot_id": boot_id(),
        "pid_namespace": pid_namespace(),
        "monotonic_us": 1,
        "supervisor_pid": pid,
        "supervisor_start_ticks": ticks,
        "pid": pid,
        "start_ticks": ticks,
        "cgroup": None,
    }
    (directory / "started.json").write_text(json.dumps({**document, **facts}))
    return Step(spec, directory, None)


# -- when it died


@pytest.fixture(params=["without a cgroup", "with a cgroup"])
def cgroup(request: pytest.FixtureRequest, bench: Workbench) -> Iterator[Callable[[], str | None]]:
    """Gives each command a cgroup of its own, or none."""
    if request.param == "without a cgroup":
        yield lambda: None
        return
    need_root()
    place = find_place(bench.mark)
    need(place.root is not None, "cannot make cgroups here")
    yield lambda: place.new_cgroup(bench.mark)
    assert place.root is not None
    assert not place.root.exists(), "a cgroup was left"


def test_who_was_left_by_a_dead_supervisor_is_buried(bench: Workbench, cgroup: Callable[[], str | None]) -> None:
    """TERM ignored, other sessions, no environment, stopped: nobody is left before the step may be called lost."""
    kinds = ["stay", "session", "daemon", "cleared", "cleared_daemon", "stopped", "threaded"]
    group = cgroup()
    step = bench.start(bench.hostile(*kinds), cgroup=group)
    until(lambda: len(bench.registered()) > len(kinds))
    step.kill_supervisor()
    assert len(bench.survivors()) > len(kinds)
    assert step.dead().sight is Sight.GONE
    step.bury()
    assert bench.survivors() == []
    assert step.look().sight is Sight.GONE


def test_a_burial_waits_for_whoever_still_holds_the_lock(bench: Workbench, fifo: Path) -> None:
    """A copy of the lock in a child forked a moment ago is no reason to call the command ended."""
    step = bench.start(f"trap '' TERM; read line < {fifo}")
    step.started()
    fd = os.open(step.directory / "lock", os.O_RDONLY)
    step.kill_supervisor()
    until(lambda: launch.look(step.directory, step.spec.step_id).sight is Sight.GONE)
    launch.fcntl.flock(fd, launch.fcntl.LOCK_EX)
    who = launch.bury(step.directory, step.spec.step_id, patience_s=0.1)
    assert who is not None
    assert who[0] == step.supervisor.pid if step.supervisor else True
    releasing = threading.Timer(0.1, os.close, (fd,))
    releasing.start()
    step.bury()
    releasing.join()
    until(lambda: bench.left_behind() == [])


def test_a_living_supervisors_command_is_not_buried(bench: Workbench, fifo: Path) -> None:
    """Whoever holds the lock is the only one who ends it."""
    step = bench.start(f"read line < {fifo}; exit 5")
    step.started()
    assert launch.bury(step.directory, step.spec.step_id, patience_s=0.05) is not None
    fifo.write_text("go\n")
    assert step.end().result.exit_code == 5
    assert launch.bury(step.directory, step.spec.step_id, patience_s=0.05) is None


@pytest.mark.parametrize(
    "facts",
    [{"start_ticks": 1}, {"boot_id": "another"}, {"pid_namespace": "pid:[1]"}],
    ids=["time", "boot", "namespace"],
)
def test_a_process_that_only_shares_a_number_is_not_buried(bench: Workbench, facts: dict[str, Any]) -> None:
    """Another start time, another boot or another pid namespace: it is somebody else."""
    stranger = subprocess.Popen(["/bin/sleep", "60"], env={}, start_new_session=True)
    found = tree.look_up(stranger.pid)
    assert found is not None
    step = _forged(bench, stranger.pid, found.start_ticks, **facts)
    assert launch.bury(step.directory, step.spec.step_id, patience_s=0.1) is None
    assert stranger.poll() is None
    step = _forged(bench, stranger.pid, found.start_ticks)
    assert launch.bury(step.directory, step.spec.step_id, patience_s=5) is None
    assert stranger.wait(timeout=10) == -signal.SIGKILL


UNREADABLE: dict[str, Callable[[bytes], bytes]] = {
    "of another boot": lambda text: text.replace(boot_id().encode(), b"another"),
    "of another step": lambda text: text.replace(b'"step_id": "', b'"step_id": "x'),
    "of a newer version": lambda text: b'{"format": 2}',
    "half": lambda text: text[: len(text) // 2],
    "empty": lambda text: b"",
}


@pytest.mark.parametrize("written", UNREADABLE.values(), ids=UNREADABLE)
def test_whatever_stands_in_started_json_a_command_that_may_have_run_is_not_started_again(
    bench: Workbench, written: Callable[[bytes], bytes]
) -> None:
    """What cannot be read names nobody; that it is there says enough. Its tree is found by the mark alone."""
    step = bench.start(bench.hostile("stay", "daemon"))
    until(lambda: len(bench.registered()) == 3)
    supervisor = step.started().supervisor
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    assert step.dead().sight is Sight.GONE
    started = step.directory / "started.json"
    started.write_bytes(written(started.read_bytes()))
    assert step.look().sight is Sight.GONE
    step.bury()
    assert bench.survivors() == []


def test_an_overdue_one_is_ended_and_then_buried(bench: Workbench) -> None:
    """A supervisor that stopped doing its duty takes nobody with it out of reach."""
    step = bench.start(bench.hostile("stay"))
    until(lambda: len(bench.registered()) == 2)
    supervisor = step.started().supervisor
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGSTOP)
    launch.end_supervisor(step.directory, step.spec.step_id)
    assert step.dead().sight is Sight.GONE
    step.bury()
    assert bench.survivors() == []


# -- exit.json


@pytest.mark.parametrize("name", ["exit.json", "started.json", "blocked.json"])
@pytest.mark.parametrize("what", ["a link", "a FIFO", "too long"])
def test_a_note_that_is_no_file_of_a_supervisor_tells_nothing(tmp_path: Path, name: str, what: str) -> None:
    """It is neither followed nor waited for nor read beyond its bound."""
    note = tmp_path / name
    if what == "a link":
        note.symlink_to("/dev/zero")
    elif what == "a FIFO":
        os.mkfifo(note)
    else:
        with note.open("wb") as sparse:
            sparse.truncate(2**40)
    assert launch.read_result(tmp_path, "step-1") is None
    assert launch._started(tmp_path, "step-1") is None
    assert launch._blocked(tmp_path) is None


def _document(step: Step, **changes: Any) -> bytes:
    result = {"format": FORMAT, "step_id": step.spec.step_id, "ending": "exited", "exit_code": 0}
    return json.dumps({**result, **changes}).encode()


UNBELIEVABLE: dict[str, Callable[[Step], bytes]] = {
    "empty": lambda step: b"",
    "half": lambda step: _document(step)[:-20],
    "zeros at the end": lambda step: _document(step)[:-4] + b"\0\0\0\0",
    "of another step": lambda step: _document(step, step_id="other"),
    "of a newer format": lambda step: _document(step, format=FORMAT + 1),
    "an ending that is none": lambda step: _document(step, ending="perhaps"),
    "no object": lambda step: b"[]",
    "no UTF-8": lambda step: _document(step, detail="x").replace(b"x", b"\xff"),
}


@pytest.mark.parametrize("written", UNBELIEVABLE.values(), ids=UNBELIEVABLE)
def test_a_result_that_is_not_ours_is_not_believed(bench: Workbench, written: Callable[[Step], bytes]) -> None:
    """Torn, foreign or from the future: what started.json says counts."""
    step = _forged(bench, 2**22 + 1, 1)
    (step.directory / "exit.json").write_bytes(written(step))
    assert step.look().sight is Sight.GONE
    (step.directory / "started.json").unlink()
    assert step.look().sight is Sight.NEVER_RAN


def test_a_result_is_believed_also_after_a_reboot(bench: Workbench) -> None:
    """It was written durably: the boot does not matter, nor what else is there."""
    step = _forged(bench, 1, 1, boot_id="another")
    (step.directory / "exit.json").write_bytes(_document(step, exit_code=3))
    seen = step.look()
    assert seen.sight is Sight.DONE
    assert seen.result is not None
    assert seen.result.exit_code == 3


def test_both_sides_write_the_same_format() -> None:
    """A supervisor imports nothing of the agent's; the number stands twice."""
    assert HOLD_FORMAT == FORMAT


def test_the_longest_result_there_can_be_has_room(bench: Workbench) -> None:
    """64 KiB of outputs whose every byte is escaped, and a tail that is no text."""
    path = bench.root / "said"
    answer = r"(printf 'a='; head -c 65533 /dev/zero | tr '\0' '\1') > $JETWATCH_OUTPUT; head -c 8192 /dev/urandom"
    result = bench.as_step(answer, outputs_path=str(path), env={"JETWATCH_OUTPUT": str(path)}).result
    assert result.reason is None
    assert result.outputs == {"a": "\1" * 65533}


def test_no_room_on_the_disk_starts_nothing(bench: Workbench, effect: Path) -> None:
    """Where the result would find no room, the command does not begin; the refusal says why."""
    root = bench.root / "steps"
    root.mkdir()
    with tmpfs(root, "size=256k"):
        spec = bench.spec(f"touch {effect}")
        directory = bench.directory(spec)
        with pytest.raises(CommandNotStarted, match="No space left on device") as refusal:
            launch.start(bench.program, directory, spec)
        assert refusal.value.code == "no_supervisor"
        assert launch.look(directory, spec.step_id).sight is Sight.NEVER_RAN
        assert not effect.exists()


def test_a_disk_that_fills_up_meanwhile_loses_no_result(bench: Workbench, fifo: Path) -> None:
    """The room for it was taken before the command began."""
    root = bench.root / "steps"
    root.mkdir()
    with tmpfs(root, "size=2m"):
        step = bench.start(f"read line < {fifo}; echo said; exit 9")
        step.started()
        fill(root)
        fifo.write_text("go\n")
        ended = step.end()
        assert (ended.result.exit_code, ended.result.output_bytes, ended.output) == (9, 5, b"")


def test_a_result_that_cannot_be_written_is_kept_until_it_can(bench: Workbench, fifo: Path) -> None:
    """The lock stays held, not even an agent that finds it overdue ends it; once there is a way, it is written."""
    need(shutil.which("chattr") is not None, "needs chattr")
    step = bench.start(f"read line < {fifo}; exit 9")
    supervisor = step.started().supervisor
    assert supervisor is not None
    done = subprocess.run(["chattr", "+i", step.directory], capture_output=True, check=False)
    need(done.returncode == 0, f"cannot make a directory immutable: {done.stderr.decode()}")
    try:
        fifo.write_text("go\n")
        until(lambda: tree.name_of(supervisor.pid) == ENDED_NAME)
        launch.end_supervisor(step.directory, step.spec.step_id)
        calls = _system_calls(supervisor.pid, "rename", 2)
        assert step.look().sight is Sight.ALIVE
    finally:
        subprocess.run(["chattr", "-i", step.directory], check=True)
    assert all("EPERM" in call for call in calls)
    assert step.end().result.exit_code == 9


def _system_calls(pid: int, name: str, count: int) -> list[str]:
    """The next calls of this kind that the process makes."""
    need(shutil.which("strace") is not None, "needs strace")
    tracer = subprocess.Popen(
        ["strace", "-qq", "-e", f"trace={name}", "-p", str(pid)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert tracer.stderr is not None
    with tracer.stderr:
        calls = [tracer.stderr.readline() for _ in range(count)]
        tracer.terminate()
        tracer.wait()
    return calls


def test_one_whose_directory_was_removed_leaves(bench: Workbench, fifo: Path) -> None:
    """Nobody will ever ask for that result."""
    step = bench.start(f"read line < {fifo}")
    step.started()
    shutil.rmtree(step.directory)
    fifo.write_text("go\n")
    until(step.has_left)


# The first rename is that of started.json; the second fsync is that of the directory.
FAULTS = ["pwrite64:error=EIO:when=1", "pwrite64:retval=7:when=1", "fsync:error=EIO:when=1", "fsync:error=EIO:when=2"]
FAULTS += ["ftruncate:error=EIO:when=1", "rename:error=EIO:when=2", "rename:error=ENOSPC:when=2"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_result_survives_the_failure_of_any_call_that_writes_it(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Each fails once; the second try makes a new file, and the result is whole."""
    need(shutil.which("strace") is not None, "needs strace")
    assert bench.program
    python = tmp_path / "python"
    call = fault.partition(":")[0]
    tracer = f"strace -D -f -qq -o {tmp_path}/trace -e trace={call} -e inject={fault}"
    python.write_text(f'#!/bin/sh\nexec {tracer} {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(launch.sys, "executable", str(python))
    step = bench.start("exit 9")
    assert step.end().result.exit_code == 9
    assert "(INJECTED)" in (tmp_path / "trace").read_text()
    assert (step.directory / "exit.json").stat().st_size < 4096


def test_a_cgroup_goes_with_its_command(bench: Workbench) -> None:
    """Joined before the first instruction, removed after the last."""
    need_root()
    place = find_place(bench.mark)
    need(place.root is not None, "cannot make cgroups here")
    group = place.new_cgroup("step")
    assert group is not None
    said = bench.as_step("grep ^0:: /proc/self/cgroup", cgroup=group).output.decode().strip()
    assert said.endswith(f"jetwatch-{bench.mark}/step")
    assert not Path(group).exists()
    assert not Path(group).parent.exists()


# -- killed anywhere


def test_killed_at_any_instant_the_evidence_is_right(bench: Workbench) -> None:
    """`never_ran` means no effect, `done` exactly one, `gone` at most one; and nobody is left."""
    chance = random.Random()
    longest_s = max(_duration_s(bench) for _ in range(3))
    seen = Counter(_killed(bench, chance.uniform(0, longest_s * 1.1)) for _ in range(KILLS))
    assert set(seen) == {Sight.NEVER_RAN, Sight.GONE, Sight.DONE}, seen


def _duration_s(bench: Workbench) -> float:
    began = time.monotonic()
    bench.as_step("echo begun; sleep 0.01; echo ended")
    return time.monotonic() - began


def _killed(bench: Workbench, after_s: float) -> Sight:
    effects = bench.root / "effects"
    effects.unlink(missing_ok=True)
    spec = bench.spec(f"echo begun >> {effects}; sleep 0.01; echo ended >> {effects}")
    starting = Starting(bench, spec)
    threading.Event().wait(after_s)  # an instant, not something to wait for
    _kill_supervisor_of(starting.step.directory)
    starting.join()
    seen = starting.step.dead()
    if seen.sight is Sight.GONE:
        starting.step.bury()
    until(lambda: not tree.meet_everybody(lambda process: tree.is_marked(process, tree.Mark(spec.mark))))
    lines = effects.read_text().split() if effects.exists() else []
    if seen.sight is Sight.DONE:
        assert seen.result is not None
        assert (lines, seen.result.exit_code) == (["begun", "ended"], 0) or seen.result.signal == "SIGKILL", seen
    else:
        assert lines in {Sight.NEVER_RAN: ([],), Sight.GONE: ([], ["begun"], ["begun", "ended"])}[seen.sight], seen
    return seen.sight


def _kill_supervisor_of(directory: Path) -> None:
    """SIGKILL whoever there is of the supervisor at this instant: its first process, its second, or both."""
    for process in processes():
        is_first, is_gate = process.parent == os.getpid(), process.session == process.pid
        if (is_first or not is_gate) and os.fsencode(directory) in command_line(process.pid):
            tree.send([process], signal.SIGKILL)
