"""One command from its start to its end, held by a worker of the agent (check) and by a supervisor (step)."""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from waiting import until
from workbench import NOBODY, PATH, Ended, Step, Workbench, as_nobody, children, need_root

from jetwatch.process import launch
from jetwatch.process.hold import hold
from jetwatch.process.output import Counter
from jetwatch.records import CommandResult, Ending

Run = Callable[..., Ended]

HOSTILE = [
    "stay",
    "session",
    "daemon",
    "cleared",
    "cleared_daemon",
    "stopped",
    "threaded",
    "swarm",
    "flood",
    "silent",
]

IGNORED_BY_DEFAULT = {"SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"}
C_LIBRARYS_OWN = 1 << 31 | 1 << 32  # 32 and 33: nobody can set them through it, so they stay as the test found them
DEADLY = [number for number in signal.Signals if number.name not in IGNORED_BY_DEFAULT]


# -- how it ended


@pytest.mark.parametrize("code", [0, 1, 2, 75, 127, 255])
def test_the_exit_code_is_the_commands(run: Run, code: int) -> None:
    """A command that exits is told by its code, and by no signal."""
    result = run(f"exit {code}").result
    assert (result.ending, result.exit_code, result.signal, result.reason) == (Ending.EXITED, code, None, None)


@pytest.mark.parametrize("number", DEADLY, ids=lambda number: number.name)
def test_a_signal_is_told_by_name_and_as_a_shell_would(bench: Workbench, number: signal.Signals) -> None:
    """A command that a signal ended has the signal's name and 128 + its number."""
    result = bench.as_check(f"kill -{int(number)} $$; exec sleep 60").result
    assert (result.ending, result.signal, result.exit_code) == (Ending.SIGNALLED, number.name, 128 + number)


def test_a_signal_without_a_name_is_told_by_its_number(run: Run) -> None:
    """Between SIGRTMIN and SIGRTMAX there are signals that nobody named."""
    number = signal.SIGRTMIN + 1
    assert run(f"kill -{number} $$; exec sleep 60").result.signal == f"SIG{number}"


def test_the_cost_of_a_command_is_plausible(run: Run) -> None:
    """CPU time, memory and duration are those of the command and of the children that it waited for."""
    burn = "import time; block = b'x' * 64_000_000\nwhile time.process_time() < 0.2: pass"
    result = run(f'{sys.executable} -I -S -c "$BURN"; exit 0', env={"BURN": burn}).result
    assert 0.15 <= result.cpu_user_s + result.cpu_system_s <= 5
    assert 64_000_000 <= result.max_rss_bytes <= 256_000_000
    assert 0.15 <= result.duration_s <= 30
    assert result.started_us is not None
    assert result.ended_us is not None
    assert result.ended_us - result.started_us >= 150_000


# -- its output


def test_stdout_and_stderr_are_one_stream_in_order(run: Run) -> None:
    """4,000 lines written to both in turn come out as they were written."""
    loop = "i=0; while [ $i -lt 2000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done"
    expected = "".join(f"out {i}\nerr {i}\n" for i in range(2000))
    assert run(loop).output.decode() == expected


def test_a_command_may_write_more_than_a_pipe_holds_and_leave(run: Run) -> None:
    """Whatever it wrote before it ended is there, however fast it left."""
    ended = run("head -c 5000000 /dev/zero")
    assert (len(ended.output), ended.result.output_bytes) == (5_000_000, 5_000_000)


def test_closing_the_pipe_is_not_the_end(run: Run, fifo: Path) -> None:
    """A command that closes its output and lives on is waited for."""
    result = run(f"exec >&- 2>&-; (echo go > {fifo}) & read line < {fifo}; exit 3").result
    assert (result.ending, result.exit_code) == (Ending.EXITED, 3)


def test_a_process_that_holds_the_pipe_does_not_hold_the_command(bench: Workbench, fifo: Path) -> None:
    """A step ends with its command; who was left running is counted, and left alone."""
    ended = bench.as_step(f"echo before; (read line < {fifo}) & exit 0")
    assert (ended.result.ending, ended.result.left_running, ended.output) == (Ending.EXITED, 1, b"before\n")
    fifo.write_text("go\n")


def test_a_daemon_can_write_for_as_long_as_it_lives(bench: Workbench, fifo: Path, tmp_path: Path) -> None:
    """More than any pipe holds, long after its step ended, it is neither stopped nor killed; then its reader leaves."""
    daemon = f"read line < {fifo}; head -c 3000000 /dev/zero && echo alive > {tmp_path}/after"
    step = bench.start(f"(trap '' HUP; {daemon}) & exit 0")
    assert step.end().result.left_running >= 1
    assert step.has_left()
    fifo.write_text("go\n")
    until((tmp_path / "after").exists)


def test_a_daemon_that_writes_without_end_does_not_hold_the_command(run: Run, bench: Workbench) -> None:
    """What is in the pipe at the command's end is taken, and no more."""
    result = run(f"{' '.join(bench.hostile('flood'))} & while [ $(wc -l < {bench.register}) -lt 2 ]; do :; done").result
    assert (result.ending, result.exit_code) == (Ending.EXITED, 0)
    for pid in bench.survivors():
        os.kill(pid, signal.SIGKILL)


def test_an_end_that_nobody_holds_needs_no_reader(bench: Workbench) -> None:
    """Nothing of a supervisor is left when the command left nobody."""
    step = bench.start("echo hello")
    step.end()
    assert bench.left_behind() == []


def test_the_tail_of_the_output_is_in_the_result_without_its_secrets(run: Run) -> None:
    """The last 4 KiB as text; a secret of the environment does not show."""
    ended = run(
        "head -c 9000 /dev/zero | tr '\\0' x; echo; echo token is $TOKEN",
        env={"TOKEN": "s3cr3t-value"},
        secret_names=("TOKEN",),
    )
    assert ended.result.output_tail.endswith("x\ntoken is ***\n")
    assert len(ended.result.output_tail) <= 4096
    assert b"s3cr3t-value" in ended.output


# -- ending it


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_cancelled_check_leaves_nobody(bench: Workbench, kind: str) -> None:
    """Whatever it started, however it resists, is gone when the result is there."""
    result = _cancelled(bench, bench.cancelled_check, kind)
    assert (result.ending, result.signal) == (Ending.CANCELLED, "SIGKILL")


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_cancelled_check_that_a_forker_made_leaves_nobody(bench: Workbench, kind: str) -> None:
    """The same where the agent did not fork itself, and the forker lives on."""
    result = _cancelled(bench, bench.cancelled_forked_check, kind)
    assert (result.ending, result.signal) == (Ending.CANCELLED, "SIGKILL")


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_cancelled_step_leaves_nobody(bench: Workbench, kind: str) -> None:
    """The same under a supervisor, from which not even a daemon without environment escapes."""
    result = _cancelled(bench, bench.cancelled_step, kind)
    assert (result.ending, result.signal) == (Ending.CANCELLED, "SIGKILL")


def _cancelled(bench: Workbench, cancelled: Run, kind: str) -> CommandResult:
    everybody = 52 if kind == "swarm" else 2
    result = cancelled(bench.hostile(kind), when=lambda: len(bench.registered()) >= everybody, grace_s=0.1).result
    assert bench.survivors() == []
    return result


@pytest.mark.parametrize("dies_first", [False, True])
def test_a_swarm_does_not_use_up_the_pids_while_it_is_ended(bench: Workbench, dies_first: bool) -> None:
    """Thousands die in a grace of two seconds: they are buried meanwhile, also when the command itself is dead."""
    swarm = bench.hostile("swarm")
    step = bench.start(f"{shlex.join(swarm)} & sleep 60" if dies_first else swarm, grace_s=2.0)
    until(lambda: len(bench.registered()) > 100)
    assert step.supervisor is not None
    launch.ask_to_stop(step.directory, step.spec.step_id)
    most_dead = 0
    while not step.has_left():
        most_dead = max(most_dead, sum(child.is_dead for child in children(step.supervisor.pid)))
    assert most_dead < len(bench.registered()) / 2  # however fast this machine is
    assert bench.survivors() == []


def test_a_timeout_leaves_nobody(run: Run, bench: Workbench) -> None:
    """TERM, which all of them ignore, then KILL after the grace."""
    result = run(bench.hostile(*HOSTILE), timeout_s=1.5, grace_s=0.3).result
    assert (result.ending, result.signal, result.exit_code) == (Ending.TIMEOUT, "SIGKILL", 137)
    assert 1.8 <= result.duration_s <= 45
    assert len(bench.registered()) >= len(HOSTILE)
    assert bench.survivors() == []


def test_who_ends_on_term_is_not_made_to_wait_for_the_grace(cancelled: Run, bench: Workbench, tmp_path: Path) -> None:
    """The grace is the longest wait, not the wait; what a trap does is done."""
    ready, done = tmp_path / "ready", tmp_path / "done"
    loop = f"trap 'echo bye; touch {done}; exit 7' TERM; touch {ready}; while :; do sleep 0.05; done"
    ended = cancelled(loop, when=ready.exists, grace_s=0.45)
    assert (ended.result.ending, ended.result.exit_code) == (Ending.CANCELLED, 7)
    assert ended.output.endswith(b"bye\n")
    assert done.exists()


def test_a_cancel_at_the_very_start_is_not_lost_on_a_child_that_still_ignores_term(bench: Workbench) -> None:
    """A supervisor ignores TERM, and so does the child that it forks: but not from its first moment as a command on."""
    for _ in range(20):
        spec = bench.spec("exec sleep 60", grace_s=30.0)
        directory = bench.directory(spec)
        (directory / "cancel").touch()
        result = Step(spec, directory, launch.start(bench.program, directory, spec)).end().result
        assert (result.ending, result.signal) == (Ending.CANCELLED, "SIGTERM")


# -- JETWATCH_OUTPUT


@pytest.mark.parametrize(
    ("said", "outputs"),
    [
        pytest.param("", {}, id="nothing"),
        pytest.param("revision=abc\\nn=1\\n", {"revision": "abc", "n": "1"}, id="two lines"),
        pytest.param("revision=abc", {"revision": "abc"}, id="no newline at the end"),
        pytest.param("a=1\\r\\nb=2\\r\\n", {"a": "1", "b": "2"}, id="CR LF"),
        pytest.param("\\n\\na=1\\n\\n", {"a": "1"}, id="empty lines"),
        pytest.param("a=1\\na=2\\n", {"a": "2"}, id="the last of two counts"),
        pytest.param("a= b=c \\n", {"a": " b=c "}, id="the value is everything after the first ="),
        pytest.param("a=\\n", {"a": ""}, id="an empty value"),
        pytest.param("a=\\303\\244\\n", {"a": "ä"}, id="UTF-8"),
    ],
)
def test_outputs_are_key_and_value(run: Run, bench: Workbench, said: str, outputs: dict[str, str]) -> None:
    """What a command that ended writes to JETWATCH_OUTPUT is in its result."""
    result = _saying(run, bench, f"printf '{said}' > $JETWATCH_OUTPUT")
    assert (result.outputs, result.reason) == (outputs, None)


BAD_OUTPUTS = {
    "no =": ("echo hello", "line 1 is not key=value"),
    "a capital": ("echo a=1; echo Key=1", "line 2 is not key=value"),
    "a key with a dash": ("echo a-b=1", "line 1 is not key=value"),
    "a key that begins with a digit": ("echo 1a=1", "line 1 is not key=value"),
    "no key": ("echo =1", "line 1 is not key=value"),
    "a blank before the key": ("echo ' a=1'", "line 1 is not key=value"),
    "65,537 bytes": ("printf a=; head -c 65535 /dev/zero | tr '\\0' x", "more than 65536 bytes"),
    "257 keys": ("i=0; while [ $i -lt 257 ]; do echo k$i=; i=$((i+1)); done", "257 keys"),
    "not UTF-8": ("printf 'a=\\377\\n'", "not UTF-8 at byte 2"),
    "a NUL": ("printf 'a=1\\nb=\\000\\n'", "line 2 holds a NUL"),
}


@pytest.mark.parametrize(("commands", "sentence"), BAD_OUTPUTS.values(), ids=BAD_OUTPUTS)
def test_anything_else_in_it_fails_the_command(bench: Workbench, commands: str, sentence: str) -> None:
    """The result has the reason `bad_output` and says in which line, and no value is taken."""
    result = _saying(bench.as_check, bench, f"({commands}) > $JETWATCH_OUTPUT")
    assert (result.ending, result.exit_code, result.reason, result.outputs) == (Ending.EXITED, 0, "bad_output", {})
    assert sentence in (result.detail or "")
    assert not result.ended_well((0,))


def test_as_much_as_is_allowed_is_taken(bench: Workbench) -> None:
    """64 KiB and 256 keys are no error."""
    full = _saying(bench.as_check, bench, "(printf a=; head -c 65534 /dev/zero | tr '\\0' x) > $JETWATCH_OUTPUT")
    assert len(full.outputs["a"]) == 65_534
    many = _saying(bench.as_check, bench, "for i in $(seq 256); do echo k$i=; done > $JETWATCH_OUTPUT")
    assert len(many.outputs) == 256


@pytest.mark.parametrize(
    "ruin", ["ln -sf /etc/passwd", "mkfifo", "mkdir"], ids=["a symbolic link", "a FIFO", "a directory"]
)
def test_what_is_no_file_is_not_read(run: Run, bench: Workbench, ruin: str) -> None:
    """A command that puts something else in its place fails, is not followed, and hangs nobody."""
    result = _saying(run, bench, f"rm $JETWATCH_OUTPUT; {ruin} $JETWATCH_OUTPUT")
    assert (result.ending, result.reason, result.outputs) == (Ending.EXITED, "bad_output", {})


def test_a_removed_file_says_nothing(run: Run, bench: Workbench) -> None:
    """Removing it is no error, and costs nobody the result."""
    result = _saying(run, bench, "rm $JETWATCH_OUTPUT")
    assert (result.ending, result.exit_code, result.reason, result.outputs) == (Ending.EXITED, 0, None, {})


def test_a_file_that_was_put_in_its_place_counts(run: Run, bench: Workbench) -> None:
    """Tools that write beside and rename are understood."""
    result = _saying(run, bench, "echo a=1 > $JETWATCH_OUTPUT.new; mv $JETWATCH_OUTPUT.new $JETWATCH_OUTPUT")
    assert (result.outputs, result.reason) == ({"a": "1"}, None)


def test_the_file_is_gone_with_the_command(run: Run, bench: Workbench) -> None:
    """Nothing collects where the files are exchanged."""
    _saying(run, bench, "echo a=1 > $JETWATCH_OUTPUT")
    assert list((bench.root / "exchange").iterdir()) == []


def _saying(run: Run, bench: Workbench, command: str) -> CommandResult:
    exchange = bench.root / "exchange"
    exchange.mkdir(mode=0o711, exist_ok=True)
    path = str(exchange / "said")
    return run(command, outputs_path=path, env={"JETWATCH_OUTPUT": path}).result


# -- could not start


PROGRAMS = {
    "plain": (b"echo hello\n", 0o755),
    "closed": (b"#!/bin/sh\n", 0o644),
    "orphaned": (b"#!/nonexistent/python3 -u\n", 0o755),
    "windows": (b"#!/bin/sh\r\necho hello\r\n", 0o755),
    "foreign": (b"\x7fELF" + bytes(200), 0o755),
}

CANNOT_RUN = [
    ("/nonexistent", "no_such_file", 127, "/nonexistent: no such file"),
    ("nonexistent-command", "no_such_file", 127, f"no such file in PATH ({PATH})"),
    ("BELOW/plain/x", "no_such_file", 127, "no such file"),
    ("BELOW", "not_executable", 126, "a directory, and no program"),
    ("BELOW/closed", "not_executable", 126, "not executable for this user"),
    ("BELOW/plain", "not_executable", 126, "needs a first line such as #!/bin/sh"),
    ("BELOW/foreign", "not_executable", 126, "no program"),
    ("BELOW/orphaned", "no_such_file", 127, "the file is there, but its interpreter '/nonexistent/python3' is not"),
    ("BELOW/windows", "no_such_file", 127, r"the file is there, but its interpreter '/bin/sh\r' is not"),
]


@pytest.mark.parametrize(("name", "reason", "code", "sentence"), CANNOT_RUN, ids=[row[0] for row in CANNOT_RUN])
def test_a_program_that_cannot_run_is_named_with_the_reason(
    run: Run, tmp_path: Path, name: str, reason: str, code: int, sentence: str
) -> None:
    """Each reason has a stable code, the exit code that a shell would give, and a sentence."""
    for file, (text, mode) in PROGRAMS.items():
        (tmp_path / file).write_bytes(text)
        (tmp_path / file).chmod(mode)
    result = run((name.replace("BELOW", str(tmp_path)),)).result
    assert (result.ending, result.reason, result.shell_exit_code) == (Ending.NOT_STARTED, reason, code)
    assert sentence in (result.detail or "")


TOO_MANY_FILES = int(Path("/proc/sys/fs/nr_open").read_text()) + 1

CANNOT_START: list[tuple[dict[str, Any], str, str]] = [
    ({"command": ("true", *["x" * 100_000] * 50)}, "too_long", "true: its arguments and environment together are too"),
    ({"cwd": "/nonexistent"}, "bad_cwd", "cwd /nonexistent: No such file or directory"),
    ({"cwd": "/etc/passwd"}, "bad_cwd", "cwd /etc/passwd: Not a directory"),
    ({"limits": {"nofile": TOO_MANY_FILES}}, "bad_limits", f"limit nofile: {TOO_MANY_FILES}: Operation not permitted"),
    ({"outputs_path": "/nonexistent/x"}, "bad_outputs_file", "/nonexistent/x: No such file or directory"),
]


@pytest.mark.parametrize(("asked", "reason", "sentence"), CANNOT_START, ids=[row[2] for row in CANNOT_START])
def test_a_wish_that_cannot_be_fulfilled_is_named(run: Run, asked: dict[str, Any], reason: str, sentence: str) -> None:
    """A command that is not started as it was asked for is not started at all."""
    result = run(**{"command": "true", **asked}).result
    assert (result.ending, result.reason, result.shell_exit_code) == (Ending.NOT_STARTED, reason, 126)
    assert sentence in (result.detail or "")


def test_a_cwd_that_its_user_may_not_enter_is_said(bench: Workbench) -> None:
    """The directory is entered as the command's user, not as root."""
    need_root()
    private = bench.root / "private"
    private.mkdir(mode=0o700)
    result = bench.as_check("true", cwd=str(private), uid=NOBODY, gid=NOBODY, groups=(NOBODY,)).result
    assert (result.ending, result.reason) == (Ending.NOT_STARTED, "bad_cwd")
    assert result.detail == f"cwd {private}: Permission denied"


@pytest.mark.parametrize(
    ("asked", "reason", "sentence"),
    [
        ({"uid": 0}, "bad_user", "to run as uid 0, gid None: Operation not permitted"),
        ({"gid": 0}, "bad_user", "to run as uid None, gid 0: Operation not permitted"),
        ({"nice": -5}, "bad_nice", "nice -5: Permission denied"),
    ],
    ids=["user", "group", "nice"],
)
def test_what_only_root_may_is_said(bench: Workbench, asked: dict[str, int], reason: str, sentence: str) -> None:
    """An agent of an ordinary user says which wish it could not fulfil."""
    bench.open_to_all()
    found = as_nobody(lambda: [(r := bench.as_check("true", **asked).result).ending, r.reason, r.detail])
    assert found == ["not_started", reason, sentence]


def test_a_program_is_looked_for_along_the_commands_own_path(run: Run, tmp_path: Path) -> None:
    """Past directories and files that cannot be executed, as execvp does."""
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
    (tmp_path / "first" / "tool").mkdir()
    (tmp_path / "second" / "tool").write_text("#!/bin/sh\necho second\n")
    (tmp_path / "third" / "tool").write_text("#!/bin/sh\necho third\n")
    (tmp_path / "third" / "tool").chmod(0o755)
    path = f"/nonexistent:{tmp_path}/first:{tmp_path}/second:{tmp_path}/third:{PATH}"
    assert run(("tool",), env={"PATH": path}).output == b"third\n"


# -- what it finds


def test_its_environment_is_the_specs_and_nothing_else(
    run: Run, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the holder's environment reaches the command."""
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "1")
    found = run(("/usr/bin/env", "-0"), env={"A": "1\n2", "B": ""}).output
    names = dict(entry.split("=", 1) for entry in found.decode().rstrip("\0").split("\0"))
    assert names.pop("JETWATCH_STEP")
    assert names == {"PATH": PATH, "JETWATCH_TEST": bench.mark, "A": "1\n2", "B": ""}


def test_bytes_that_are_no_utf8_reach_it_as_they_are(run: Run) -> None:
    """Names on disk are bytes: argv and environment carry them through both ways."""
    odd = os.fsdecode(b"caf\xe9")
    ended = run(("/bin/sh", "-c", 'printf "%s %s" "$1" "$ODD"', "sh", odd), env={"ODD": odd})
    assert ended.output == b"caf\xe9 caf\xe9"


def test_a_sentence_about_such_a_name_can_be_stored(run: Run) -> None:
    """What is told of a command is text, whatever its name is."""
    result = run((os.fsdecode(b"/nonexistent/caf\xe9"),)).result
    assert result.reason == "no_such_file"
    assert result.detail == "/nonexistent/caf?: no such file"


def test_stdin_is_dev_null(run: Run) -> None:
    """A command that reads finds the end at once."""
    assert run("readlink /proc/self/fd/0; cat; echo end").output == b"/dev/null\nend\n"


def test_it_has_no_descriptors_but_three(run: Run, bench: Workbench) -> None:
    """No lock, no socket, no pipe of the holder's is inherited, not even one that may be."""
    fd = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(fd, True)
    try:
        listed = run(bench.script("facts.py", "fds")).output
    finally:
        os.close(fd)
    assert listed.split() == [b"0", b"1", b"2"]


def test_it_leads_a_session_without_a_terminal(run: Run, bench: Workbench) -> None:
    """So that no signal of a terminal or of a group that is not its own reaches it."""
    pid, group, session, terminal = run(bench.script("facts.py", "session")).output.split()
    assert pid == group == session
    assert terminal == b"none"


def test_its_signals_are_the_default_ones(run: Run, bench: Workbench) -> None:
    """Nothing is ignored, caught or blocked, whatever its holder does."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        said = run(("/bin/cat", "/proc/self/status")).output.splitlines()
    finally:
        signal.signal(signal.SIGHUP, previous)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    masks = {
        name: int(mask, 16) & ~C_LIBRARYS_OWN
        for name, _, mask in (line.decode().partition(":") for line in said)
        if "Sig" in name and name != "SigQ"
    }
    assert masks == {"SigPnd": 0, "SigBlk": 0, "SigIgn": 0, "SigCgt": 0}


def test_the_holders_own_signals_stay_as_they_were(bench: Workbench) -> None:
    """Starting a command changes neither the mask nor the handlers of who starts it."""
    before = Path("/proc/self/status").read_text().split("SigQ")[1].splitlines()[1:5]
    bench.as_check("true")
    assert Path("/proc/self/status").read_text().split("SigQ")[1].splitlines()[1:5] == before


def test_umask_nice_limits_and_cwd_are_those_asked_for(run: Run, tmp_path: Path) -> None:
    """All of them hold when the command's first instruction runs."""
    limits = {"nofile": 77, "core": 0, "stack": -1}
    said = run(
        "umask; nice; ulimit -n; ulimit -Hn; ulimit -s; pwd", umask=0o027, nice=5, limits=limits, cwd=str(tmp_path)
    )
    soft_and_hard = [b"77", b"77"] if resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 77 else []
    assert said.output.split()[:2] == [b"0027", b"5"]
    assert said.output.split()[2:4] == soft_and_hard
    assert said.output.split()[5] == os.fsencode(tmp_path)


def test_the_protection_from_the_oom_killer_is_not_inherited(bench: Workbench) -> None:
    """An agent at -500 runs commands at 0; its supervisors stay as protected as it is."""
    score = Path("/proc/self/oom_score_adj")
    before = score.read_text()
    try:
        score.write_text("-500")
    except PermissionError:
        pytest.skip("needs CAP_SYS_RESOURCE, which many containers do not have")
    try:
        assert bench.as_check("cat /proc/self/oom_score_adj").output == b"0\n"
        assert bench.as_forked_check("cat /proc/self/oom_score_adj").output == b"0\n"
        assert bench.as_step("cat /proc/self/oom_score_adj /proc/$PPID/oom_score_adj").output == b"0\n-500\n"
    finally:
        score.write_text(before)


def test_a_command_of_another_user_is_that_user_wholly(run: Run) -> None:
    """Every one of the four uids and gids, and the groups, none of root's among them."""
    need_root()
    said = run("grep -E '^(Uid|Gid|Groups)' /proc/self/status", uid=NOBODY, gid=NOBODY, groups=(NOBODY, 1234))
    uid, gid, groups = (line.split()[1:] for line in said.output.decode().splitlines())
    assert (set(uid), set(gid), set(groups)) == ({str(NOBODY)}, {str(NOBODY)}, {str(NOBODY), "1234"})


def test_another_user_can_answer_and_open_its_own_output(run: Run, bench: Workbench) -> None:
    """JETWATCH_OUTPUT and /dev/stdout belong to the command's user, in a directory that it can only pass through."""
    need_root()
    exchange = bench.root / "exchange"
    exchange.mkdir(mode=0o711)
    path = str(exchange / "said")
    answer = "stat -c %U:%a $JETWATCH_OUTPUT; echo a=1 > $JETWATCH_OUTPUT"
    said = run(
        f"{answer}; echo open > /dev/stdout; ls {exchange} || true",
        outputs_path=path,
        env={"JETWATCH_OUTPUT": path},
        uid=NOBODY,
        gid=NOBODY,
        groups=(),
    )
    assert said.result.outputs == {"a": "1"}
    assert said.output.startswith(b"nobody:600\nopen\nls: ")


# -- the holder


@pytest.mark.usefixtures("no_child_left")
def test_a_held_command_leaves_no_descriptor_and_no_zombie(bench: Workbench) -> None:
    """Whether it ended, was killed or never started."""
    bench.as_check("true")
    before = sorted(Path("/proc/self/fd").iterdir())
    for command, changes in (
        ("true", {}),
        ("kill -9 $$", {}),
        (("/nonexistent",), {}),
        ("true", {"cwd": "/nonexistent"}),
    ):
        bench.as_check(command, **changes)
    bench.as_check("sleep 60", timeout_s=0.05, grace_s=0.05)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_no_process_to_be_had_is_said(bench: Workbench) -> None:
    """A machine that has no more processes gives a result, and no exception."""
    need_root()
    bench.open_to_all()

    def held() -> list[str | None]:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        result = bench.as_check("true").result
        return [result.ending, result.reason, result.detail]

    assert as_nobody(held) == [
        "not_started",
        "not_startable",
        "/bin/sh: no process for it: Resource temporarily unavailable",
    ]


@pytest.mark.usefixtures("no_child_left")
def test_no_descriptor_to_be_had_is_said(bench: Workbench) -> None:
    """Wherever on the way to the command it is missing: a result, no exception, nobody left at the gate."""
    spec = bench.spec("true")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wake_fd = os.eventfd(0, os.EFD_CLOEXEC)
    endings = []
    for spare in range(15):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wake_fd + 1 + spare, hard))
        try:
            endings.append(hold(spec, Counter(), lambda _kind, _facts: None, wake_fd, supervisor=False)[0]["ending"])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    os.close(wake_fd)
    assert (endings[0], endings[-1]) == ("not_started", "exited")
    assert set(endings) == {"not_started", "exited"}


@pytest.mark.usefixtures("no_child_left")
def test_a_command_that_cannot_be_recorded_does_not_run(bench: Workbench, tmp_path: Path) -> None:
    """What the announcement raises is raised, and the child at the gate leaves."""

    def announce(_kind: str, _facts: dict[str, Any]) -> None:
        raise OSError("no room to write it down")

    spec = bench.spec(f"touch {tmp_path}/effect")
    with pytest.raises(OSError, match="no room to write it down"):
        hold(spec, Counter(), announce, 0, supervisor=False)
    assert not (tmp_path / "effect").exists()


def test_a_signal_between_fork_and_exec_is_not_told_to_the_agent(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child shares the descriptor by which an agent hears of signals: an interrupt must not count twice."""
    heard, wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    fork = os.fork

    def fork_and_signal() -> int:
        pid = fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGUSR2)
        return pid

    monkeypatch.setattr(os, "fork", fork_and_signal)
    previous_fd = signal.set_wakeup_fd(wakeup)
    previous = signal.signal(signal.SIGUSR2, lambda _number, _frame: None)
    try:
        result = bench.as_check("exec sleep 60").result
        with pytest.raises(BlockingIOError):
            os.read(heard, 1)
    finally:
        signal.signal(signal.SIGUSR2, previous)
        signal.set_wakeup_fd(previous_fd)
        os.close(heard)
        os.close(wakeup)
    assert result.signal == "SIGUSR2"


def test_started_is_announced_before_the_first_instruction(bench: Workbench) -> None:
    """A command finds in its own directory that it has been recorded, with its own pid."""
    spec = bench.spec("")
    look = ("/bin/sh", "-c", 'cat "$0/started.json"; echo; echo $$', str(bench.root / "steps" / spec.step_id))
    recorded, pid = bench.start_spec(replace(spec, argv=look)).end().output.splitlines()
    started = json.loads(recorded)
    assert (started["step_id"], started["pid"]) == (spec.step_id, int(pid))
