"""`jetp status`, `runs`, `show`, `logs`, `why` and the verbs without an agent, through the installed command.

The journal is written by the test through Journal.commit, the output files through the supervisor's own Writer.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import pwd
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from jetwatch.cli import main, reading, verbs
from jetwatch.clock import SystemClock
from jetwatch.control.protocol import Request, Response, Verb
from jetwatch.control.server import Server
from jetwatch.events import Change
from jetwatch.journal.journal import Journal
from jetwatch.process import tree
from jetwatch.process.output import Writer
from jetwatch.records import (
    AgentState,
    CheckResult,
    Command,
    CommandResult,
    Deadline,
    Ending,
    HookState,
    OutboxEntry,
    Outcome,
    PlannedBy,
    Run,
    Shortage,
    Stamp,
    Step,
    StepState,
    Suspension,
    Trigger,
    TriggerKind,
    WatchState,
    WindowWait,
)
from jetwatch.statedir import StateDir, prepare, take_lock

JETP = Path(sys.executable).parent / "jetp"
SECOND = 1_000_000
ANSI = re.compile(r"\x1b\[[0-9;]*m")
OK_ID = "11111111-aaaa-4aaa-8aaa-aaaaaaaaaaaa"
FAILED_ID = "22222222-bbbb-4bbb-8bbb-bbbbbbbbbbbb"
OPEN_ID = "33333333-cccc-4ccc-8ccc-cccccccccccc"
TRUE = Command(words=("true",))


def environment(**more: str) -> dict[str, str]:
    """What a command is started with: nothing of the test's own terminal."""
    return {"PATH": "/usr/bin:/bin", "HOME": "/nowhere", "TERM": "xterm-256color", "LANG": "C.UTF-8", **more}


class House:
    """A state directory with a journal that the test fills."""

    def __init__(self, root: Path) -> None:
        self.layout = StateDir.at(root / "state")
        prepare(self.layout, passable=False)
        self.clock = SystemClock()
        self.now = self.clock.now()
        self.journal = Journal.open(self.layout.journal)
        self.lock_fd: int | None = None

    def close(self) -> None:
        """Give everything back."""
        self.leave()
        self.journal.close()
        self.clock.close()

    def ago(self, seconds: float) -> Stamp:
        """An instant before this one."""
        back = round(seconds * SECOND)
        return Stamp(self.now.wall_us - back, self.now.boot_us - back, self.now.boot_id)

    def ahead(self, seconds: float) -> Deadline:
        """An instant after this one."""
        return Deadline.after(self.now, round(seconds * SECOND))

    def commit(self, **what: object) -> None:
        """Write records."""
        self.journal.commit(Change(at=self.now, **what))  # type: ignore[arg-type]

    def agent(self, *watches: str, **more: object) -> AgentState:
        """What an agent that is this very process would say of itself."""
        own = tree.look_up(os.getpid())
        assert own is not None
        facts: dict[str, object] = {
            "pid": own.pid,
            "start_ticks": own.start_ticks,
            "boot_id": self.clock.boot_id,
            "started": self.ago(7200),
            "version": "0.1.0",
            "config_path": "/etc/jetwatch/watch.yml",
            "config_digest": "d",
            "detach": False,
            "cgroup": "",
            "watches": watches,
            "socket": str(self.layout.socket),
        }
        return AgentState(**(facts | more))  # type: ignore[arg-type]

    def live(self) -> None:
        """Hold the state directory as its agent."""
        own = tree.look_up(os.getpid())
        assert own is not None
        self.lock_fd = take_lock(self.layout, own.start_ticks)

    def leave(self) -> None:
        """End being the agent, as a killed one does: the lock file keeps the name."""
        if self.lock_fd is not None:
            os.close(self.lock_fd)
            self.lock_fd = None
            self.layout.lock_file.write_text("999999999 1\n")

    def run(self, run_id: str, *, opened_s: float, watch: str = "web", **more: object) -> Run:
        """A run that began `opened_s` seconds ago."""
        facts: dict[str, object] = {
            "id": run_id,
            "watch": watch,
            "trigger": Trigger(TriggerKind.CHECK, self.ago(opened_s)),
            "attempt": 1,
            "revision": "3fa9c1d2e8f0a1b2c3d4e5f60718293a4b5c6d7e",
            "previous_revision": "",
            "applied_revision": "",
            "values": {},
            "config_digest": "d",
            "download_path": str(self.layout.download(run_id)),
            "download_owner": None,
            "steps": (),
            "hooks": {},
            "opened": self.ago(opened_s),
            "progressed": self.ago(opened_s),
        }
        return Run(**(facts | more))  # type: ignore[arg-type]

    def step(self, number: int, name: str, *, result: CommandResult | None = None, started_s: float = 60) -> Step:
        """A step that has ended with `result`, or that goes on."""
        state = StepState.STARTED if result is None else StepState.ENDED
        return Step(number, name, TRUE, state=state, attempt=1, started=self.ago(started_s), result=result)

    def write(self, run_id: str, name: str, *pieces: bytes, keep_bytes: int = 1 << 20, attempt: int = 1) -> int:
        """The output of a step, as its supervisor writes it. Returns its length."""
        directory = self.layout.step(run_id, name, attempt)
        directory.mkdir(parents=True, exist_ok=True)
        writer = Writer(str(directory), keep_bytes)
        for piece in pieces:
            writer.write(piece, 1)
        writer.close()
        return writer.total_bytes

    def jetp(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[bytes]:
        """Run `jetp WORDS --state-dir …` in a pipe and expect this exit code."""
        done = subprocess.run(
            [JETP, *words, "--state-dir", self.layout.root], env=environment(), capture_output=True, check=False
        )
        assert done.returncode == code, (done.returncode, done.stdout.decode(), done.stderr.decode())
        return done

    def text(self, *words: str, code: int = 0) -> str:
        """Its standard output."""
        return self.jetp(*words, code=code).stdout.decode()

    def data(self, *words: str) -> object:
        """Its standard output as JSON."""
        return json.loads(self.jetp(*words, "--json").stdout)


def on_terminal(words: Sequence[str | Path], *, columns: int = 80, **more: str) -> str:
    """What `jetp WORDS` shows on a terminal of this width."""
    main_fd, terminal_fd = pty.openpty()
    fcntl.ioctl(terminal_fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    child = subprocess.Popen(
        [JETP, *words], env=environment(**more), stdin=terminal_fd, stdout=terminal_fd, stderr=subprocess.PIPE
    )
    os.close(terminal_fd)
    shown = bytearray()
    while True:
        try:
            shown += os.read(main_fd, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            break
    os.close(main_fd)
    assert child.stderr is not None
    errors = child.stderr.read()
    child.stderr.close()
    child.wait()
    assert b"Traceback" not in errors, errors.decode()
    return shown.decode().replace("\r\n", "\n")


def result(code: int = 0, output_bytes: int = 0, **more: object) -> CommandResult:
    """How a command ended."""
    facts: dict[str, object] = {
        "step_id": "x",
        "ending": Ending.EXITED,
        "exit_code": code,
        "duration_s": 2.1,
        "cpu_user_s": 0.4,
        "max_rss_bytes": 50 << 20,
        "output_bytes": output_bytes,
        "output_kept_bytes": output_bytes,
    }
    return CommandResult(**(facts | more))  # type: ignore[arg-type]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """An empty state directory."""
    made = House(tmp_path)
    yield made
    made.close()


@pytest.fixture
def history(house: House) -> House:
    """Two closed runs of `web`, one open run of `db`, and an agent that lives."""
    download = house.write(OK_ID, "download", b"fetched\n")
    play = house.write(OK_ID, "play", b"\x1b[32mok\x1b[0m: [localhost]\n", b"\xff\x00 raw")
    ok = house.run(
        OK_ID,
        opened_s=3600,
        steps=(
            house.step(0, "download", result=result(output_bytes=download)),
            house.step(1, "play", result=result(output_bytes=play)),
        ),
        outcome=Outcome.OK,
        closed=house.ago(3500),
    )
    failed = house.run(
        FAILED_ID,
        opened_s=300,
        attempt=2,
        trigger=Trigger(TriggerKind.RETRY, house.ago(300)),
        steps=(
            house.step(0, "download", result=result()),
            house.step(1, "play", result=result(4, left_running=2)),
        ),
        outcome=Outcome.FAILED,
        failed_step="play",
        exit_code=4,
        closed=house.ago(240),
    )
    still = house.run(OPEN_ID, opened_s=42, watch="db", steps=(house.step(0, "play", started_s=40),))
    web = WatchState(
        "web",
        last_check=house.ago(180),
        last_result=CheckResult.NOT_DUE,
        next_check=house.ahead(40),
        retry_at=house.ahead(20),
        retry=Trigger(TriggerKind.RETRY, house.now, attempt=3),
    )
    db = WatchState("db", last_check=house.ago(42), last_result=CheckResult.DUE, next_check=house.ahead(300))
    house.commit(runs=(ok, failed, still), watches=(web, db), agent=house.agent("web", "db"))
    house.live()
    return house


# -- status


def test_status_tells_of_agent_and_watches(history: House) -> None:
    """The agent, its detach, and per watch the last check, the next and the last or open run are shown."""
    said = history.text("status")
    assert f"running, pid {os.getpid()}" in said
    assert "detach: false" in said
    assert re.search(r"^web +not due .* +failed \(play, exit 4\)", said, re.MULTILINE)
    assert re.search(r"^db +due .*33333333 running \(play\) for 4\d s", said, re.MULTILINE)
    assert "backoff: attempt 3 waits until" in said
    data = history.data("status")
    assert isinstance(data, dict)
    assert data["agent"]["running"] is True
    assert data["agent"]["detach"] is False
    assert {each["watch"]: each["last_result"] for each in data["watches"]} == {"db": "due", "web": "not_due"}


def test_status_shows_everything_out_of_the_ordinary(history: House) -> None:
    """Suspension, quarantine, hold, blocked, due, owed and abandoned hooks, a rejected configuration: all are said."""
    hook = OutboxEntry("web", FAILED_ID, "on_fail", TRUE, {}, {}, history.ago(7200), deliveries=3)
    web = WatchState(
        "web",
        suspended=Suspension("ann", "database move", history.ago(60), history.ahead(3600)),
        quarantined_revision="3fa9c1d2e8f0a1b2c3d4",
        quarantine_reason="max_attempts",
        held_until=history.ahead(3000),
        lost_in_a_row=3,
        due=Trigger(TriggerKind.CHECK, history.ago(90)),
        waiting_for=("max_runs", "exclusive:apt"),
        hooks_abandoned=2,
    )
    agent = history.agent(
        "web", "db", config_rejected="a.yml:3: no such key\na.yml:9: nor this", blocked={"db": "play: pid 7 in state D"}
    )
    history.commit(watches=(web,), hooks=(replace(hook, result=result(9)),), agent=agent)
    said = " ".join(history.text("status").split())
    for sentence in (
        "suspended by ann until 20",
        ": database move",
        "revision 3fa9c1d2e8f… is quarantined: its attempts are used up",
        "3 lost runs in a row",
        "it waits for another run to end: max_runs of them go on and a run that holds apt",
        "1 hook waits; the oldest, on_fail",
        "3 tries, the last: exit 9",
        "2 hooks given up so far",
        "blocked: play: pid 7 in state D cannot be killed",
        "the newest configuration is not in force: a.yml:3: no such key a.yml:9: nor this",
    ):
        assert sentence in said
    data = history.data("status")
    assert isinstance(data, dict)
    codes = {each["code"] for each in data["unwell"] if each.get("watch") == "web"}
    assert codes == {"last_run", "quarantined", "held", "hooks_late", "hooks_abandoned"}


def test_status_check_leaves_with_1_when_something_is_unwell(house: House) -> None:
    """A quiet agent is well; each single trouble is not; without --check the exit code is 0."""
    quiet = WatchState("web", last_result=CheckResult.NOT_DUE, last_check=house.now)
    house.commit(watches=(quiet,), agent=house.agent("web"))
    house.live()
    house.jetp("status", "--check")
    for trouble in (
        replace(quiet, last_result=CheckResult.ERROR),
        replace(quiet, quarantined_revision="r"),
        replace(quiet, held_until=house.ahead(60)),
        replace(quiet, hooks_abandoned=1),
    ):
        house.commit(watches=(trouble,))
        house.jetp("status", "--check", code=1)
        house.jetp("status")
    house.commit(watches=(quiet,))
    house.jetp("status", "--check")
    house.leave()
    assert "not running" in house.text("status", "--check", code=1)


def test_a_pid_of_somebody_else_is_no_agent(history: House) -> None:
    """A lock file that names a living process with another start time does not make an agent."""
    history.commit(agent=history.agent("web", pid=1, start_ticks=12345))
    history.layout.lock_file.write_text("1 12345\n")
    assert "not running" in history.text("status")


def test_status_fits_eighty_columns_of_a_terminal(history: House) -> None:
    """On a terminal there is colour, times are relative, and no line is longer than 80 columns."""
    shown = on_terminal(["status", "--state-dir", history.layout.root])
    assert "\x1b[" in shown
    plain = ANSI.sub("", shown)
    assert "3 min ago" in plain
    assert "in 3" in plain
    assert max(len(line) for line in plain.splitlines()) <= 80


def test_colour_is_left_out_where_it_is_not_wanted(history: House) -> None:
    """NO_COLOR leaves no colour on a terminal, and a pipe gets no escape sequence at all."""
    assert not re.search(
        r"\x1b\[[0-9;]*3[0-9]m", on_terminal(["status", "--state-dir", history.layout.root], NO_COLOR="1")
    )
    assert "\x1b" not in history.text("status")


# -- runs, show


def test_runs_are_listed_newest_first(history: House) -> None:
    """Short id, watch, trigger with its attempt, outcome and a cut revision; --limit and --watch choose."""
    lines = history.text("runs").splitlines()
    assert [line.split()[0] for line in lines] == ["RUN", "33333333", "22222222", "11111111"]
    assert "retry #2" in lines[2]
    assert "failed (play 4)" in lines[2]
    assert lines[3].endswith("3fa9c1d2…")
    assert len(history.text("runs", "--limit", "1").splitlines()) == 2
    data = history.data("runs", "--watch", "web")  # type: ignore[arg-type]
    assert isinstance(data, list)
    assert [run["outcome"] for run in data] == ["failed", "ok"]
    assert data[0]["play_uuid"] == FAILED_ID


def test_show_tells_one_run_in_full(history: House) -> None:
    """A prefix names the run; steps with their end and cost, and hooks with their deliveries, are shown."""
    hook = OutboxEntry(
        "web",
        FAILED_ID,
        "on_fail",
        TRUE,
        {},
        {},
        history.ago(240),
        state=HookState.DELIVERED,
        deliveries=2,
        attempt=2,
        result=result(),
    )
    history.commit(hooks=(hook,))
    said = history.text("show", "2222")
    assert FAILED_ID in said
    assert re.search(r"^play +exit 4 +2\.1 s +0\.40 s +50 MiB .*2 left running", said, re.MULTILINE)
    assert re.search(r"^on_fail +delivered +2 ", said, re.MULTILINE)
    data = history.data("show", "2222")
    assert isinstance(data, dict)
    assert data["play_uuid"] == FAILED_ID
    assert [step["exit_code"] for step in data["steps"]] == [0, 4]
    assert data["hooks"][0]["deliveries"] == 2
    assert data["opened"]["wall_us"] == history.ago(300).wall_us


def test_show_without_a_uuid_is_of_the_newest_run(history: House) -> None:
    """The newest run is meant when none is named."""
    assert OPEN_ID in history.text("show")


def test_an_unknown_run_or_watch_is_a_usage_error(history: House) -> None:
    """Exit code 2, and the nearest watch is named."""
    assert b"no run begins with 9999" in history.jetp("show", "9999", code=2).stderr
    assert b"did you mean web?" in history.jetp("why", "wob", code=2).stderr
    assert b"did you mean web?" in history.jetp("clear", "wbe", code=2).stderr


# -- logs


def test_logs_are_byte_for_byte_in_a_pipe(history: House) -> None:
    """One step comes exactly as written; several have a header line each."""
    raw = b"\x1b[32mok\x1b[0m: [localhost]\n\xff\x00 raw"
    assert history.jetp("logs", "1111", "--step", "play").stdout == raw
    assert history.jetp("logs", "1111").stdout == b"==> download <==\nfetched\n==> play <==\n" + raw


def test_logs_say_what_was_dropped(house: House) -> None:
    """The middle that was not kept is told on standard error, and counted in --json."""
    total = house.write(OK_ID, "play", *(b"%06d\n" % number for number in range(20_000)), keep_bytes=64 * 1024)
    steps = (house.step(0, "play", result=result(output_bytes=total)),)
    house.commit(runs=(house.run(OK_ID, opened_s=9, steps=steps, outcome=Outcome.OK, closed=house.now),))
    done = house.jetp("logs")
    said = re.search(rb"jetp: play: (\d+) bytes dropped here", done.stderr)
    assert said is not None
    assert done.stdout.startswith(b"000000\n")
    assert done.stdout.endswith(b"019999\n")
    assert len(done.stdout) + int(said[1]) == total == 140_000
    (entry,) = json.loads(house.jetp("logs", "--json").stdout)
    assert (entry["step"], entry["attempt"], entry["output_bytes"]) == ("play", 1, total)
    assert entry["dropped_bytes"] == int(said[1])


def test_logs_on_a_terminal_cannot_harm_it(house: House) -> None:
    """Cursor movements, titles, bells and C1 controls are shown escaped; colour passes and is ended."""
    evil = b"\x1b[31mred\r\n\x1b[2J\x1b]0;title\x07 \xc2\x9b2J \xe2\x80\xae \r\b\xff tab\tend"
    total = house.write(OK_ID, "play", evil[:2], evil[2:])
    steps = (house.step(0, "play", result=result(output_bytes=total)),)
    house.commit(runs=(house.run(OK_ID, opened_s=9, steps=steps, outcome=Outcome.OK, closed=house.now),))
    shown = on_terminal(["logs", "--state-dir", house.layout.root])
    assert shown.endswith("\x1b[0m")
    body = shown.split("<==")[1]
    assert "\x1b[31mred\n\\x1b[2J\\x1b]0;title\\x07 \\x9b2J \\u202e \\r\\x08\\xff tab\tend" in body
    assert re.sub(r"\x1b\[[0-9;]*m", "", body).replace("\n", "").replace("\t", "").isprintable()


def test_output_that_was_swept_is_not_called_dropped(house: House) -> None:
    """One sentence says that it is not kept any more; nothing is said of a bound that did not cut it."""
    steps = (house.step(0, "play", result=result(output_bytes=2)),)
    house.commit(runs=(house.run(OK_ID, opened_s=9, steps=steps, outcome=Outcome.OK, closed=house.now),))
    done = house.jetp("logs")
    assert (done.stdout, done.stderr) == (b"", b"jetp: the output of run 11111111 is not kept any more\n")


def test_an_unknown_step_is_a_usage_error(history: House) -> None:
    """The steps that there are, are named."""
    assert b"it has download, play" in history.jetp("logs", "1111", "--step", "plya", code=2).stderr


def test_logs_follow_until_the_run_is_closed(house: House) -> None:
    """What is written later is printed as it comes, and the command ends with the run."""
    directory = house.layout.step(OK_ID, "play", 1)
    directory.mkdir(parents=True)
    writer = Writer(str(directory), 1 << 20)
    still = house.run(OK_ID, opened_s=5, steps=(house.step(0, "play"),))
    house.commit(runs=(still,))
    words = [JETP, "logs", "--follow", "--state-dir", house.layout.root]
    with subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        writer.write(b"first\n", 1)
        assert follower.stdout.readline() == b"first\n"
        writer.write(b"second\n", 2)
        assert follower.stdout.readline() == b"second\n"
        writer.write(b"last words", 3)
        writer.close()
        ended = (replace(still.steps[0], state=StepState.ENDED, result=result(output_bytes=writer.total_bytes)),)
        house.commit(runs=(replace(still, steps=ended, outcome=Outcome.OK, closed=house.clock.now()),))
        assert follower.stdout.read() == b"last words"
        assert follower.wait() == 0


def test_a_reader_that_goes_away_is_no_error(history: House) -> None:
    """`jetp logs | head -c1` says nothing on standard error."""
    history.write(OK_ID, "play", b"x" * 1_000_000)
    done = subprocess.run(
        ["/bin/sh", "-c", f"{JETP} logs 1111 --step play --state-dir {history.layout.root} | head -c1"],
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert done.stdout == b"x"
    assert done.stderr == b""


# -- why


def test_why_says_what_comes_next_and_what_stands_in_the_way(history: House) -> None:
    """The last decision, the next one and every obstacle of one watch stand on one screen."""
    said = " ".join(history.text("why", "web").split())
    assert "the check said: not due" in said
    assert "22222222 failed (play, exit 4)" in said
    assert "a retry " in said
    assert "a check " in said
    assert "run 33333333 goes on with play" in history.text("why", "db")
    data = history.data("why")
    assert isinstance(data, list)
    assert [each["watch"] for each in data] == ["db", "web"]
    assert [each["code"] for each in data[0]["in_the_way"]] == ["run_open"]


def everything_in_the_way(house: House) -> None:
    """One watch with every obstacle, beside another whose run holds the lock."""
    web = WatchState(
        "web",
        last_check=house.ago(3600),
        last_result=CheckResult.DUE,
        next_check=house.ahead(40),
        planned_by=PlannedBy.INTERVAL,
        suspended=Suspension("ann", "database move", house.ago(60), house.ahead(3600)),
        quarantined_revision="3fa9c1d2e8f0a1b2c3d4",
        quarantine_reason="max_attempts",
        held_until=house.ahead(3000),
        lost_in_a_row=3,
        failures_in_a_row=4,
        failing_since=house.ago(7000),
        retry_at=house.ahead(20),
        retry=Trigger(TriggerKind.RETRY, house.now, attempt=3),
        due=Trigger(TriggerKind.CHECK, house.ago(3600), revision="9e107d9d372bb6826bd81d3542a419d6", attempt=2),
        waiting_for=("suspended", "held", "window", "blocked", "exclusive:apt", "max_runs", "disk_low"),
        window=WindowWait(house.ahead(7200), house.ahead(7500)),
        shortage=Shortage("/var", 12 << 20, 900, 64 << 20, 1000),
    )
    still = replace(house.journal.run(OPEN_ID), exclusive="apt")
    rejected = "/etc/jetwatch/watch.yml:3: splai: no such key\n/etc/jetwatch/watch.yml:9: foo: no such key"
    agent = house.agent("web", "db", config_rejected=rejected, blocked={"web": "check: pid 7 in state D"})
    house.commit(watches=(web,), runs=(still,), agent=agent)


def test_why_names_all_that_stands_in_the_way(history: House) -> None:
    """Each by itself, with whom, what and until when; the agent's own troubles once, above all watches."""
    everything_in_the_way(history)
    said = " ".join(history.text("why").split())
    for sentence in (
        "agent the newest configuration was rejected, the one before it is in force:",
        "/etc/jetwatch/watch.yml:3: splai: no such key /etc/jetwatch/watch.yml:9: foo: no such key db",
        "22222222 failed (play, exit 4), revision 3fa9c1d2e8f…. 4 failures in a row since 2",
        "check, revision 9e107d9d372…, attempt 2",
        "suspended by ann until 2",
        "revision 3fa9c1d2e8f… is quarantined: its attempts are used up",
        "3 lost runs in a row",
        "blocked: check: pid 7 in state D cannot be killed",
        "window: it opens 2",
        "exclusive: `apt` is held by run 33333333 of db for 4",
        "max_runs: no more than 1 at a time: 33333333 of db for 4",
        "disk_reserve: 12 MiB and 900 inodes are free on /var, 64 MiB and 1000 are to stay free",
        "backoff: attempt 3 waits until 2",
        "check_interval: the next check comes 2",
    ):
        assert sentence in said, sentence
    assert said.count("was rejected") == 1
    (web,) = [each for each in history.data("why") if each["watch"] == "web"]  # type: ignore[attr-defined]
    assert [each["code"] for each in web["in_the_way"]] == [
        *("config_rejected", "suspended", "quarantined", "held", "blocked"),
        *("window", "exclusive:apt", "max_runs", "disk_low", "retry", "interval"),
    ]
    assert {each["code"] for each in web["in_the_way"] if each["until"] is None} == {
        *("config_rejected", "quarantined", "blocked", "exclusive:apt", "max_runs", "disk_low")
    }


def test_why_names_the_places_that_fetches_and_plays_wait_for(history: House) -> None:
    """A run that has fetched and waits for its play, answers that wait for a fetch: each with who holds the places."""
    play = history.journal.run(OPEN_ID).steps[-1]
    steps = (replace(play, number=0, name="download", state=StepState.ENDED), replace(play, number=1))
    waiting = replace(
        history.journal.run(OPEN_ID),
        steps=(steps[0], replace(steps[1], state=StepState.PENDING, attempt=0, started=None, result=None)),
        has_cache=True,
        origin="https://slow:443",
        waiting_for=("max_runs",),
    )
    due = Trigger(TriggerKind.CHECK, history.ago(60))
    web = WatchState("web", due=due, waiting_for=("max_fetches", "origin:https://slow:443"))
    history.commit(watches=(web,), runs=(waiting,))
    said = " ".join(history.text("why").split())
    assert "run 33333333 begins play as soon as it is its turn" in said
    assert "max_runs: no more than these at a time" in said
    assert "max_fetches: no more than 1 at a time: 33333333 of db for" in said
    assert "max_fetches: no more than 1 at a time from one server: 33333333 of db for" in said
    shown = " ".join(history.text("status").split())
    assert "33333333 waiting (play) for" in shown
    assert "another fetch from https://slow:443 to end: a quarter of max_fetches of them go on" in shown


def test_why_puts_what_comes_in_the_order_of_time(history: House) -> None:
    """The retry in 20 s, the check in 40 s, the run when its window is open."""
    everything_in_the_way(history)
    assert re.search(r"next +a retry .*; then a check .*; then a run ", history.text("why", "web"))


def test_why_fits_eighty_columns_of_a_terminal(history: House) -> None:
    """Sentences are folded under their own column, none is cut."""
    everything_in_the_way(history)
    shown = ANSI.sub("", on_terminal(["why", "--state-dir", history.layout.root]))
    lines = shown.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "…" not in shown.replace("3fa9c1d2e8f…", "").replace("9e107d9d372…", "")
    assert "\\n" not in shown
    assert [line for line in lines if line.startswith(("db", "web"))] == ["db", "web"]


@pytest.mark.parametrize(
    ("planned_by", "sentence"),
    [
        (PlannedBy.SPLAY, "splay: the check comes"),
        (PlannedBy.INTERVAL, "check_interval: the next check comes"),
        (PlannedBy.SCHEDULE, "schedule: the next firing"),
        (PlannedBy.GRID, "phase: stable: this machine's next turn"),
        (PlannedBy.BACKOFF, "backoff: after an error"),
        (PlannedBy.SERVER, "the server asked"),
    ],
)
def test_why_says_what_the_next_check_waits_for(house: House, planned_by: PlannedBy, sentence: str) -> None:
    """And, where nothing else is in the way, how to check at once."""
    state = WatchState("web", next_check=house.ahead(40), planned_by=planned_by)
    house.commit(watches=(state,), agent=house.agent("web"))
    house.live()
    said = house.text("why")
    assert sentence in said
    assert "(jetp trigger web checks now)" in said


def test_why_without_an_agent_says_so(history: House) -> None:
    """The first obstacle is that nobody runs."""
    history.leave()
    assert "no agent is running" in history.text("why")
    assert "nothing, until an agent runs" in history.text("why")


# -- verbs without an agent


def test_suspend_and_resume_work_without_an_agent(history: House) -> None:
    """The suspension is in the journal with who, why and until when, and its event is history; resume ends it."""
    history.leave()
    assert history.text("suspend", "web", "--reason", "disk swap", "--for", "2h") == "web: suspended\n"
    suspension = history.journal.watches()["web"].suspended
    assert suspension is not None
    assert suspension.reason == "disk swap"
    assert suspension.until is not None
    assert 7100 * SECOND < suspension.until.remaining_us(history.clock.now()) <= 7200 * SECOND
    assert "suspended by" in history.text("status")
    assert history.text("resume") == "db: resumed\nweb: resumed\n"
    assert history.journal.watches()["web"].suspended is None
    assert [told.event.name for told in history.journal.events_after(0)] == ["suspended", "resumed"]


def test_clear_works_without_an_agent(history: House) -> None:
    """Quarantine, hold and backoff are forgotten."""
    history.leave()
    history.commit(watches=(WatchState("web", quarantined_revision="r", held_until=history.ahead(99)),))
    history.jetp("clear", "web")
    state = history.journal.watches()["web"]
    assert state.quarantined_revision is None
    assert state.held_until is None


def test_cancel_without_an_agent_tells_the_supervisor(history: House) -> None:
    """The run is marked, the file `cancel` stands in the directory of its command, and who did it is recorded."""
    history.leave()
    directory = history.layout.step(OPEN_ID, "play", 1)
    directory.mkdir(parents=True)
    assert "play of run 33333333 was told to stop" in history.text("cancel")
    assert (directory / "cancel").exists()
    run = history.journal.run(OPEN_ID)
    assert run.cancel is not None
    assert run.cancel.by
    assert b"has ended already" in history.jetp("cancel", "1111", code=2).stderr


def test_trigger_without_an_agent_leaves_with_69(history: House, tmp_path: Path) -> None:
    """Only an agent can check; the sentence says how to start one, also where there never was an agent."""
    history.leave()
    assert b"no agent is running here" in history.jetp("trigger", code=69).stderr
    done = subprocess.run(
        [JETP, "trigger", "--state-dir", tmp_path / "none"], env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 69


def test_a_held_state_directory_is_not_changed(history: House) -> None:
    """An agent without a socket keeps its state to itself: exit code 75, with its pid."""
    done = history.jetp("suspend", "--reason", "x", code=75)
    assert f"process {os.getpid()} holds".encode() in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_is_not_permitted(history: House) -> None:
    """Reading and changing what belongs to somebody else leaves with 77 and a sentence, not with a traceback."""
    for folder in history.layout.root.parents:
        if folder.stat().st_uid == 0 and "pytest" in str(folder):
            folder.chmod(0o755)
    for words in (["status"], ["logs"], ["suspend", "--reason", "x"], ["cancel"], ["trigger"]):
        code, said = as_nobody([*words, "--state-dir", str(history.layout.root)])
        assert code == 77, said
        assert "only the agent's own user and root may do this" in said


def as_nobody(words: list[str]) -> tuple[int, str]:
    """Exit code and standard error of `jetp WORDS` by another user, who need not be able to start this Python."""
    assert {reading.__name__, verbs.__name__} <= sys.modules.keys()  # nothing is left to be imported by that user
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write_fd, 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)  # it is replaced, and must not take the descriptor along
        sys.argv = ["jetp", *words]
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            main.main()
        except SystemExit as leaving:
            sys.stderr.flush()
            os._exit(int(leaving.code or 0))
        finally:
            os._exit(99)
    os.close(write_fd)
    with os.fdopen(read_fd) as source:
        said = source.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


# -- verbs with an agent


def test_verbs_are_asked_of_the_agent(history: House) -> None:
    """Every field goes over the socket; the answer's lines and exit code are what `jetp` says and leaves with."""
    asked: list[Request] = []
    answers = {
        Verb.SUSPEND: Response(True, 0, ["web: suspended"]),
        Verb.TRIGGER: Response(False, 1, ["web: run 1234abcd ended failed"]),
        Verb.CANCEL: Response.refusal(2, "no such run"),
    }

    def submit(request: Request, reply: Callable[[Response], None]) -> None:
        asked.append(request)
        reply(answers[request.verb])

    server = Server(history.layout.socket, submit)
    stop = os.eventfd(0)

    def serve() -> None:
        while stop not in select.select([server, stop], [], [])[0]:
            server.serve_ready()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert history.text("suspend", "web", "--reason", "x", "--for", "1h30m") == "web: suspended\n"
        assert history.text("trigger", "web", "--wait", "--force", code=1) == "web: run 1234abcd ended failed\n"
        assert history.jetp("cancel", "3333", code=2).stderr == b"jetp: no such run\n"
    finally:
        os.eventfd_write(stop, 1)
        thread.join()
        server.close()
        os.close(stop)
    by = pwd.getpwuid(os.getuid()).pw_name
    assert asked == [
        Request(Verb.SUSPEND, watch="web", reason="x", for_s=5400.0, by=by),
        Request(Verb.TRIGGER, watch="web", force=True, wait=True, by=by),
        Request(Verb.CANCEL, run=OPEN_ID, by=by),
    ]


def test_words_that_will_not_do_are_usage_errors(history: House) -> None:
    """An unreadable duration, a missing reason, an unknown command: exit code 2 and what was expected."""
    assert b"expected seconds or a duration" in history.jetp("suspend", "--reason", "x", "--for", "2x", code=2).stderr
    history.jetp("suspend", code=2)
    assert b"Did you mean status?" in history.jetp("stauts", code=2).stderr


def test_a_state_directory_without_a_journal_is_said_to_be_one(tmp_path: Path) -> None:
    """Reading where nothing is tells so, and makes nothing."""
    words = [JETP, "status", "--state-dir", tmp_path / "none"]
    done = subprocess.run(words, env=environment(), capture_output=True, check=False)
    assert done.returncode == 2
    assert b"no journal here" in done.stderr
    assert not (tmp_path / "none").exists()


def test_help_loads_nothing_heavy() -> None:
    """`jetp --help` imports neither YAML nor templates nor the renderers, and lists every command."""
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom jetwatch.cli.main import COMMANDS, jetp\n"
        "said = CliRunner().invoke(jetp, ['--help']).output\n"
        "assert all(f'  {name} ' in said for name in COMMANDS), said\n"
        "print(sorted({'yaml', 'jinja2', 'structlog', 'rich', 'msgspec', 'sqlite3'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_interrupt_is_quiet(house: House) -> None:
    """INT ends a follower with 130 and without a traceback."""
    house.write(OK_ID, "play", b"here\n")
    house.commit(runs=(house.run(OK_ID, opened_s=5, steps=(house.step(0, "play"),)),))
    words = [JETP, "logs", "-f", "--state-dir", house.layout.root]
    with subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        assert follower.stdout.readline() == b"here\n"
        follower.send_signal(signal.SIGINT)
        assert follower.stderr.read().strip() == b""
        assert follower.wait() == 130


def test_version_tells_of_everything_that_matters() -> None:
    """--json has Python, platform and the libraries."""
    said = json.loads(subprocess.run([JETP, "version", "--json"], capture_output=True, check=True).stdout)
    assert said["python"].startswith("3.")
    assert said["dependencies"]["click"]
    plain = subprocess.run([JETP, "version"], capture_output=True, text=True, check=True).stdout
    assert plain == f"jetwatch {said['version']}\n"
