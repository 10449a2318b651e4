"""Bad input and bad luck: a clear message, the right exit code, nothing half done, the journal left as it was."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_process import MAY_UNSHARE, Site, is_alive, until
from stalling_fuse import StallingFuse, can_mount

QUIET = {"check_command": "false", "jet_command": "true"}
PLAIN = "check_command: 'true'\njet_command: 'true'\n"
BOMB = "\n".join(["a0: &a0 x", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))])

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this to a directory")
needs_namespaces = pytest.mark.skipif(not MAY_UNSHARE, reason="only root can mount in a namespace of its own")
needs_fuse = pytest.mark.skipif(not can_mount(), reason="no FUSE here: it needs root and /dev/fuse")


def refused(site: Site, code: int, *words: str) -> str:
    """What an agent says that must not start: nothing on the log, a message without a traceback, this exit code."""
    agent = site.start(None, "--no-splay", *words)
    assert agent.wait() == code, agent.story()
    assert agent.lines == []
    assert "Traceback" not in agent.errors
    assert "internal error" not in agent.errors
    assert agent.errors.strip()
    return agent.errors


# -- the configuration

BAD = {
    "no mapping": ("- a\n- b\n", "found a list"),
    "a scalar": ("hello\n", "found `hello`"),
    "empty": ("", "watch.yml"),
    "not yaml": ("a: [\n", "watch.yml:"),
    "not utf-8": (b"check_command: '\xff\xfe'\n", "watch.yml"),
    "a tab": ("check_command: 'true'\n\tjet_command: 'true'\n", "watch.yml:2"),
    "two documents": (f"{PLAIN}---\n{PLAIN}", "watch.yml"),
    "duplicate keys": (f"{PLAIN}splay: 1\nsplay: 2\n", "splay"),
    "exploding anchors": (f"{PLAIN}{BOMB}\n", "watch.yml"),
    "a loop of anchors": (f"{PLAIN}env: &e\n  a: *e\n", "watch.yml"),
    "an unknown key": (f"{PLAIN}spley: 1\n", "splay"),
    "an undefined template": ("check_command: 'true'\njet_command: 'true {{ download_pth }}'\n", "download_path"),
    "a template loop": ("check_command: 'true'\njet_command: 'true {% for x in y %}'\n", "{%"),
    "a template that is open": ("check_command: 'true'\njet_command: 'true {{ play_uuid'\n", "never closed"),
    "a value not known yet": ("check_command: 'true {{ play_uuid }}'\njet_command: 'true'\n", "play_uuid"),
    "a NUL": ("check_command: \"true \\0\"\njet_command: 'true'\n", "watch.yml:1"),
    "a NUL in env": (f'{PLAIN}env: {{A: "x\\0y"}}\n', "env"),
    "an open quote": ("check_command: \"true 'x\"\njet_command: 'true'\n", "quote"),
    "no play": ("check_command: 'true'\n", "jet_command"),
    "no check": ("jet_command: 'true'\n", "check_command"),
    "a bad duration": (f"{PLAIN}check_interval: soon\n", "check_interval"),
    "a negative duration": (f"{PLAIN}splay: -3\n", "splay"),
    "a bad schedule": ("schedule: '61 * * * *'\njet_command: 'true'\n", "schedule"),
    "a bad name": (f"{PLAIN}name: 'No Good'\n", "name"),
    "a nobody": (f"{PLAIN}user: [1]\n", "user"),
    "deep nesting": (f"{PLAIN}env: {'[' * 5000}{']' * 5000}\n", "watch.yml"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_configuration_that_will_not_do_leaves_with_78_and_touches_nothing(site: Site, kind: str) -> None:
    """The message names file and place and what is wrong; no state directory is made."""
    text, word = BAD[kind]
    site.config.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = refused(site, 78)
    assert word in said
    assert str(site.config) in said
    assert not site.state.exists()


def test_a_missing_configuration_leaves_with_78(site: Site) -> None:
    """The message names the file that is not there."""
    assert str(site.config) in refused(site, 78)
    assert not site.state.exists()


def test_a_directory_without_a_configuration_leaves_with_78(site: Site) -> None:
    """A directory without any *.yml is no configuration of nothing."""
    site.config = site.root / "watch.d"
    site.config.mkdir()
    (site.config / "watch.yaml.bak").write_text(PLAIN)
    said = refused(site, 78)
    assert "yml" in said
    assert str(site.config) in said


def test_two_watches_of_one_name_in_a_directory_leave_with_78(site: Site) -> None:
    """The message names both files."""
    site.config = site.root / "watch.d"
    site.config.mkdir()
    for name in ("a.yml", "b.yml"):
        (site.config / name).write_text(f"name: same\n{PLAIN}")
    said = refused(site, 78)
    assert "a.yml" in said
    assert "b.yml" in said


def test_an_unreadable_configuration_leaves_with_78(site: Site) -> None:
    """A file that cannot be read, here a loop of symbolic links, is said to be that."""
    site.config.symlink_to(site.config)
    assert str(site.config) in refused(site, 78)


def test_all_problems_are_told_at_once(site: Site) -> None:
    """One start is enough to know all that has to be mended."""
    site.config.write_text("chek_command: 'x'\nsplay: soon\njet_command: 'true {{ nope }}'\n")
    said = refused(site, 78)
    for word in ("chek_command", "splay", "nope"):
        assert word in said


def test_a_value_that_becomes_an_option_starts_nothing(site: Site) -> None:
    """A revision such as `--delete` never reaches the command: the run fails before it, with the word that did it."""
    site.configure(
        {
            "check_command": {"shell": 'echo "revision=--delete" > "$JETWATCH_OUTPUT"'},
            "jet_command": ["touch", "{{ revision }}"],
        }
    )
    agent = site.once(code=1)
    run = agent.told("run_finished")[0]
    assert (run["outcome"], run["failed_step"], run["reason"]) == ("failed", "play", "bad_word")
    assert "--delete" in agent.told("step_finished")[0]["detail"]


# -- the state directory


@needs_root
def test_a_state_directory_of_somebody_else_is_refused(site: Site) -> None:
    """78; nothing is made in it."""
    site.configure(QUIET)
    site.state.mkdir()
    os.chown(site.state, 65534, 65534)
    assert "uid 65534" in refused(site, 78)
    assert list(site.state.iterdir()) == []


def test_a_state_directory_that_others_may_write_to_is_refused(site: Site) -> None:
    """78; the message says how to mend it."""
    site.configure(QUIET)
    site.state.mkdir()
    site.state.chmod(0o777)
    assert "chmod" in refused(site, 78)


def test_a_state_directory_that_is_a_file_is_refused(site: Site) -> None:
    """78; the file is left alone."""
    site.configure(QUIET)
    site.state.write_text("precious")
    assert str(site.state) in refused(site, 78)
    assert site.state.read_text() == "precious"


@needs_namespaces
@pytest.mark.parametrize("used_before", [False, True], ids=["new", "used before"])
def test_a_state_directory_on_a_read_only_disk_is_refused(site: Site, used_before: bool) -> None:
    """78, and what is in it stays as it is."""
    site.state.mkdir(mode=0o700)
    if used_before:
        site.once({**QUIET, "check_command": "true"})
    site.configure(QUIET)
    before = contents(site.state)
    enter = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    agent = site.start(before=["unshare", "--mount", "--fork", "--kill-child", "sh", "-c", enter, str(site.state)])
    assert agent.wait() == 78, agent.story()
    assert agent.lines == []
    assert "ead-only" in agent.errors
    assert str(site.state) in agent.errors
    assert contents(site.state) == before


@needs_fuse
def test_a_state_directory_on_fuse_is_refused(site: Site) -> None:
    """Locks and durability do not hold there: 78, and the message says of what kind it is."""
    site.configure(QUIET)
    site.state.mkdir(mode=0o700)
    mounted = StallingFuse(site.state)
    try:
        assert "fuse" in refused(site, 78)
    finally:
        mounted.close()
    assert list(site.state.iterdir()) == []


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in it, by name."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- the journal


def spoilt(site: Site, kind: str) -> bytes:
    """A journal that will not do, in a state directory that was used before; its bytes."""
    site.once({**QUIET, "check_command": "true"})
    journal = site.state / "journal.db"
    if kind == "text":
        journal.write_text("This is not a database, but somebody's diary.\n" * 100)
    elif kind == "foreign":
        journal.unlink()
        with sqlite3.connect(journal) as connection:
            connection.execute("CREATE TABLE diary (day TEXT)")
        connection.close()
    elif kind == "newer":
        with sqlite3.connect(journal) as connection:
            connection.execute("PRAGMA user_version = 9999")
        connection.close()
    elif kind == "torn":
        data = bytearray(journal.read_bytes())
        data[4096:] = os.urandom(len(data) - 4096)
        journal.write_bytes(data)
    else:
        data = journal.read_bytes()
        journal.write_bytes(data[: len(data) // 2])
    journal.chmod(0o600)
    return journal.read_bytes()


@pytest.mark.parametrize("kind", ["text", "foreign", "newer", "torn", "cut"])
def test_a_journal_that_cannot_be_used_is_refused_and_left_to_the_byte(site: Site, kind: str) -> None:
    """78 for the agent and for whoever only reads; the message names the file; not a byte of it changes."""
    before = spoilt(site, kind)
    said = refused(site, 78)
    assert str(site.state / "journal.db") in said
    for words in (["status"], ["runs"], ["clear"]):
        done = site.jetp(*words, code=78)
        assert "journal.db" in done.stderr
        assert "Traceback" not in done.stderr
    assert (site.state / "journal.db").read_bytes() == before
    assert [path for path in site.state.glob("journal.db-wal") if path.stat().st_size] == []


def test_a_newer_journal_says_so(site: Site) -> None:
    """Which schema was found, which one is known, and what to do."""
    spoilt(site, "newer")
    said = refused(site, 78)
    assert "9999" in said
    assert "newer version" in said


def test_a_journal_that_is_a_symbolic_link_is_refused(site: Site) -> None:
    """The link's target is not written to."""
    site.configure(QUIET)
    site.once()
    target = site.root / "elsewhere"
    target.write_bytes(b"")
    (site.state / "journal.db").unlink()
    (site.state / "journal.db").symlink_to(target)
    assert "journal.db" in refused(site, 78)
    assert target.read_bytes() == b""


def test_a_control_socket_that_cannot_be_made_is_refused_before_any_work(site: Site) -> None:
    """78, the message names the place and how to do without; the file that is in the way stays."""
    blocker = site.root / "socket"
    blocker.write_text("precious")
    site.configure({**QUIET, "control": {"socket": str(blocker)}})
    assert str(blocker) in refused(site, 78)
    assert blocker.read_text() == "precious"


# -- a process that nobody can end


@pytest.fixture
def stalling(site: Site) -> Iterator[StallingFuse]:
    """A file system of whose entry `stall` nobody comes back."""
    folder = site.root / "stalling"
    folder.mkdir()
    mounted = StallingFuse(folder)
    yield mounted
    mounted.close()


@needs_fuse
@pytest.mark.slow
def test_a_play_that_cannot_be_killed_blocks_its_watch_alone(site: Site, stalling: StallingFuse) -> None:
    """Told and shown with pid and state; no new run of it, other watches go on; once it is gone the run ends."""
    defaults = {"check_command": "true", "check_interval": 1, "timeouts": {"play": "0.5s", "grace": "0.2s"}}
    play = site.shell(f"echo $$ > pid; echo x >> plays; [ -e freed ] || exec cat {stalling.stall}")
    config = {"defaults": defaults, "watches": {"stuck": {"jet_command": play}, "well": {"jet_command": "true"}}}
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    blocked = agent.wait_for("blocked", watch="stuck")
    assert (blocked["step"], blocked["pid"], blocked["state"]) == ("play", site.pid_in("pid"), "D")
    assert f"pid {blocked['pid']} in state D" in site.jetp("status").stdout
    assert {"code": "blocked", "watch": "stuck"} in site.data("status")["unwell"]
    assert "cannot be killed" in site.jetp("why", "stuck").stdout
    number = len(agent.told("run_finished", watch="well"))
    agent.wait_for("run_finished", watch="well", nth=number + 2)
    assert site.read("plays") == "x\n"
    (site.root / "freed").touch()
    stalling.close()
    ended = agent.wait_for("run_finished", watch="stuck")
    assert ended["outcome"] == "timeout"
    agent.wait_for("run_finished", watch="stuck", outcome="ok")
    assert {"code": "blocked", "watch": "stuck"} not in site.data("status")["unwell"]


@needs_fuse
def test_a_check_that_cannot_be_killed_does_not_hold_up_the_agents_stop(site: Site, stalling: StallingFuse) -> None:
    """TERM: the agent leaves within 2 s although the check it killed does not die; the next agent is not held up."""
    check = site.shell(f"echo $$ > pid; exec cat {stalling.stall}")
    agent = site.start({"check_command": check, "jet_command": "true"}, "--no-splay")
    pid = site.pid_in("pid")
    until(lambda: "wait_answer" in Path(f"/proc/{pid}/wchan").read_text())  # in the kernel, waiting for the mount
    before = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - before < 2
    assert is_alive(pid)


# -- while it works

PIDS = Path("/sys/fs/cgroup/pids")


@pytest.fixture
def pids(site: Site) -> Iterator[Path]:
    """A cgroup that bounds how many processes and threads there are in it."""
    group = PIDS / site.root.name
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no cgroup for pids can be made here")
    yield group
    site.end()
    until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


@pytest.mark.parametrize("room", [1, 2])
def test_an_agent_that_finds_no_room_for_its_threads_says_so(site: Site, pids: Path, room: int) -> None:
    """Neither for the first nor for the one of the metrics. It is no defect of ours, and may pass: 75."""
    (pids / "pids.max").write_text(str(room))
    enter = f'echo $$ > {pids}/cgroup.procs && exec "$@"'
    metrics = {"textfile": str(site.root / "metrics.prom")}
    config = {"check_command": "true", "jet_command": "true", "metrics": metrics}
    agent = site.start(config, before=["sh", "-c", enter, "sh"])
    assert agent.wait() == 75
    assert "no room for one more thread" in agent.errors


def test_an_agent_outlives_a_machine_without_room_for_a_thread(site: Site, pids: Path) -> None:
    """For a while nothing can be started, nor read again; the agent lives, and goes on when there is room again."""
    enter = f'echo $$ > {pids}/cgroup.procs && exec "$@"'
    config = {"check_command": "true", "jet_command": "true", "check_interval": 1}
    agent = site.start(config, "--no-splay", before=["sh", "-c", enter, "sh"])
    agent.wait_for("run_finished", outcome="ok")
    refusals = int((pids / "pids.events").read_text().split()[1])
    (pids / "pids.max").write_text("2")
    until(lambda: int((pids / "pids.events").read_text().split()[1]) >= refusals + 3)
    agent.send(signal.SIGHUP)
    assert "no room" in str(agent.wait_for("config_rejected"))
    assert agent.is_running
    number = len(agent.told("run_finished", outcome="ok"))
    (pids / "pids.max").write_text("max")
    agent.wait_for("run_finished", outcome="ok", nth=number + 2)
    assert agent.stop() == 0


def test_a_run_directory_that_disappears_is_no_disaster(site: Site) -> None:
    """Somebody removes everything below the runs while a play goes on: the run still ends, and the next one is well."""
    gate = site.gate()
    play = site.shell(f"echo x >> plays; [ -e gone ] || {{ {gate.text}; }}")
    agent = site.start({"check_command": "true", "jet_command": play, "check_interval": 1}, "--no-splay")
    until(lambda: site.read("plays"))
    site.supervisor_of("play")
    (site.root / "gone").touch()
    for folder in (site.state / "runs").iterdir():
        shutil.rmtree(folder)
    gate.open()
    agent.wait_for("run_finished")
    agent.wait_for("run_finished", outcome="ok")


def test_an_agent_whose_journal_breaks_stops_loudly(site: Site) -> None:
    """A journal that can no longer be written ends the agent with a message; open runs live on for the next one."""
    gate = site.gate()
    config = {"check_command": "true", "jet_command": site.shell(f"echo $$ > pid; {gate.text}"), "check_interval": 1}
    agent = site.start(config, "--no-splay")
    play = site.pid_in("pid")
    journal = sqlite3.connect(site.state / "journal.db")
    journal.execute("ALTER TABLE event RENAME TO event_taken_away")
    journal.commit()
    gate.open()
    code = agent.wait()
    assert code in (70, 78)
    assert "journal" in agent.errors
    journal.execute("ALTER TABLE event_taken_away RENAME TO event")
    journal.commit()
    journal.close()
    second = site.once({**config, "check_command": "false"})
    assert second.told("run_finished", outcome="ok")
    assert not is_alive(play)


FAILING_MAIN = """\
import time
from pathlib import Path
from jetwatch import agent

def fail(self):
    while not Path("{gate}").exists():
        time.sleep(0.01)
    raise OSError("the main thread broke")

agent._Agent._wait_for_the_end = fail
"""


def test_an_agent_whose_main_thread_breaks_lets_its_engine_end_before_it_closes_the_journal(site: Site) -> None:
    """Closed under the engine's feet, the journal crashed the interpreter. Its open run goes on, and is taken over."""
    (site.root / "broken").mkdir()
    gate, play = site.gate("break"), site.gate("play")
    (site.root / "broken" / "sitecustomize.py").write_text(FAILING_MAIN.format(gate=gate.path))
    config = {"check_command": "true", "jet_command": site.shell(f"echo $$ > pid; {play.text}"), "check_interval": 1}
    agent = site.start(config, "--no-splay", environ={"PYTHONPATH": str(site.root / "broken")})
    site.pid_in("pid")
    gate.open()
    assert agent.wait() == 70
    assert "the main thread broke" in agent.errors
    assert "Fatal" not in agent.errors
    assert agent.told("agent_stopping", reason="failure", mode="detach")
    assert site.data("status")["agent"]["running"] is False
    play.open()
    assert site.once({**config, "check_command": "false"}).told("run_finished", outcome="ok")
