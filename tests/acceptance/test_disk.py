"""A disk that is full, has no inodes, or fails: what has happened is recorded, and the agent goes on by itself."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest
from agent_process import AgentProcess, Site, until
from disks import Filling, LoopDisk, small_disk, why_no_loop, why_no_mount
from servers import how_to_install

needs_mount = pytest.mark.skipif(why_no_mount() is not None, reason=str(why_no_mount()))
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason=f"needs strace: {how_to_install('strace')}")
NO_RESERVE = {"bytes": 0, "inodes": 0}


@pytest.fixture
def filling(site: Site) -> Iterator[Filling]:
    """The state directory is a disk of 48 MiB of its own, with few inodes, which can be filled."""
    with small_disk(site.state, size="48m", inodes=400):
        yield Filling(site.state)
        site.end()


def play_behind_a_gate(site: Site) -> dict[str, object]:
    """A watch that is due each second, and whose first play waits for the gate."""
    gate = site.gate()
    return {
        "check_command": "true",
        "check_interval": 1,
        "jet_command": site.shell(f"echo $$ > pid; {gate.text}; echo x >> plays"),
        "disk_reserve": NO_RESERVE,
    }


def a_play_is_under_way(site: Site) -> AgentProcess:
    """An agent whose play waits for the gate, and has been recorded."""
    agent = site.start(play_behind_a_gate(site), "--no-splay")
    agent.wait_for("step_started", step="play")
    site.supervisor_of("play")
    return agent


def end_the_play(site: Site, agent: AgentProcess, take: Callable[[], None]) -> None:
    """The play ends, then `take` takes what is left of the disk; only then may the agent see any of it."""
    agent.send(signal.SIGSTOP)
    site.gate().open()
    until(lambda: list(site.state.glob("runs/*/play.*/exit.json")))
    until(lambda: not site.supervisors())  # what it had in reserve for its result is free, and is taken as well
    take()
    if agent.is_running:
        agent.send(signal.SIGCONT)


@needs_mount
def test_on_a_full_disk_the_reserve_is_given_up_for_an_outcome(site: Site, filling: Filling) -> None:
    """Not one block is free: the end of the run is recorded all the same, told, and shown; then there is a reserve."""
    agent = a_play_is_under_way(site)
    assert (site.state / "reserve").stat().st_blocks > 0
    end_the_play(site, agent, filling.fill)
    low = agent.wait_for("disk_low")
    assert low["path"] == str(site.state)
    assert low["free_bytes"] > 0
    assert agent.wait_for("run_finished")["outcome"] == "ok"
    assert not (site.state / "reserve").exists()
    assert {"code": "disk_low"} in site.data("status")["unwell"]
    assert "no space in reserve" in site.jetp("status").stdout
    filling.empty()
    until((site.state / "reserve").exists)
    assert {"code": "disk_low"} not in site.data("status")["unwell"]
    assert agent.told("journal_stalled") == []
    assert agent.stop() == 0


@needs_mount
def test_an_agent_waits_for_a_disk_without_any_room_and_goes_on_by_itself(site: Site, filling: Filling) -> None:
    """The reserve is gone too: said once, shown, no verb is taken, no run begins; with room everything is recorded."""
    agent = a_play_is_under_way(site)
    (site.state / "reserve").unlink()
    end_the_play(site, agent, filling.fill)
    stalled = agent.wait_for("journal_stalled")
    assert stalled["reason"] == "no_space"
    assert stalled["level"] == "error"
    assert agent.is_running
    assert site.data("status")["agent"]["stalled"] is True
    assert {"code": "journal_stalled"} in site.data("status")["unwell"]
    refused = site.jetp("suspend", "--reason", "x", code=75)
    assert "no_space" in refused.stderr
    plays = site.read("plays")
    filling.empty()
    assert agent.wait_for("journal_resumed")["after_s"] > 0
    assert agent.wait_for("run_finished")["outcome"] == "ok"
    assert plays == "x\n"
    assert len(agent.told("journal_stalled")) == 1
    agent.wait_for("run_finished", nth=2)
    assert site.data("status")["agent"]["stalled"] is False
    assert agent.stop() == 0


@needs_mount
def test_an_agent_that_is_stopped_while_it_waits_leaves_everything_to_the_next(site: Site, filling: Filling) -> None:
    """TERM: 75 within its patience; the next agent, on a disk with room, records the end of the play."""
    agent = a_play_is_under_way(site)
    (site.state / "reserve").unlink()
    end_the_play(site, agent, filling.fill)
    agent.wait_for("journal_stalled")
    assert agent.stop() == 75
    assert "journal" in agent.errors
    filling.empty()
    second = site.once({**play_behind_a_gate(site), "check_command": "false"})
    assert second.wait_for("run_finished")["outcome"] == "ok"
    assert site.read("plays") == "x\n"


@needs_mount
def test_an_agent_starts_on_a_full_disk_where_it_worked_before(site: Site, filling: Filling) -> None:
    """It gives up the reserve to be able to write; without one it leaves with 75 and says why, and tries nothing."""
    agent = a_play_is_under_way(site)
    end_the_play(site, agent, lambda: (agent.kill9(), filling.fill()))
    agent = site.once({**play_behind_a_gate(site), "check_command": "false"})
    assert agent.wait_for("run_finished")["outcome"] == "ok"
    filling.fill()
    agent = site.start()
    assert agent.wait() == 75, agent.story()
    assert "no_space" in agent.errors
    assert "Traceback" not in agent.errors


@needs_mount
def test_an_agent_does_not_begin_on_a_full_disk(site: Site, filling: Filling) -> None:
    """Where it never worked: 75, since it may pass, and a sentence without a traceback."""
    filling.take_inodes()
    agent = site.start(play_behind_a_gate(site))
    assert agent.wait() == 75, agent.story()
    assert str(site.state) in agent.errors
    assert "full" in agent.errors
    assert "Traceback" not in agent.errors


@needs_mount
def test_an_agent_does_without_inodes_until_there_are_some(site: Site, filling: Filling) -> None:
    """No file can be made: what runs is recorded, what is due waits or fails without a word lost, and goes on."""
    agent = a_play_is_under_way(site)
    end_the_play(site, agent, filling.take_inodes)
    assert agent.wait_for("run_finished")["outcome"] == "ok"
    filling.empty()
    number = len(agent.told("run_finished"))
    agent.wait_for("run_finished", nth=number + 2, outcome="ok")
    assert agent.stop() == 0


@needs_mount
def test_a_run_whose_secrets_find_no_room_waits_as_on_a_low_disk(site: Site, filling: Filling) -> None:
    """The private files of a run are written before it begins: without an inode for them it does not begin."""
    greedy = "mkdir -p state/filling; n=0; while touch state/filling/$n; do n=$((n + 1)); done; exit 0"
    agent = site.start(
        {**play_behind_a_gate(site), "check_command": site.shell(greedy), "env": {"API_TOKEN": "hush"}}, "--no-splay"
    )
    low = agent.wait_for("disk_low", watch="watch")
    assert low["reserve_inodes"] == 0
    assert agent.told("run_started") == []
    site.script("no-touch", "exit 1").rename(site.root / "bin" / "touch")
    filling.empty()
    site.gate().open()
    assert agent.wait_for("run_finished")["outcome"] == "ok"
    assert agent.stop() == 0


@pytest.mark.skipif(why_no_loop("ext4") is not None, reason=str(why_no_loop("ext4")))
def test_how_far_the_log_is_told_outlives_a_power_cut(site: Site) -> None:
    """Cut right after its first lines, an agent has left a number; without one nothing would be told that is untold."""
    disk = LoopDisk("ext4", site.root / "image", site.root / "disk")
    try:
        site.state = disk.place / "state"
        site.ready({"check_command": "false", "jet_command": "true"})
        disk.cut_power()
        site.end()
        disk.unmount()
        disk.mount()
        assert (site.state / "told").read_text().isdigit()
    finally:
        site.end()
        disk.unmount()


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "EROFS"])
def test_a_disk_that_fails_while_an_agent_starts_is_named(site: Site, error: str) -> None:
    """75 and a sentence, not an internal error: the disk may be well the next time."""
    site.configure({"check_command": "true", "jet_command": "true"})
    inject = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=rename", "-e", f"inject=rename:error={error}"]
    agent = site.start(None, "--once", before=inject)
    assert agent.wait() == 75, agent.story()
    assert str(site.state) in agent.errors
    assert "internal error" not in agent.errors


@needs_strace
@pytest.mark.parametrize(
    ("fault", "reason", "detail"),
    [
        ("rename:error=EROFS", "supervisor_died", "before it could write a word"),
        ("mkdir:error=ENOSPC", "no_room", "No space left on device"),
    ],
)
def test_commands_that_cannot_begin_are_not_started_in_a_hot_loop(
    site: Site, fault: str, reason: str, detail: str
) -> None:
    """No first file, or no directory: each start comes later than the one before, with a word why; the run is open."""
    config = {"check_command": "true", "check_interval": 1, "jet_command": "true"}
    site.once({**config, "check_command": "false"})
    fail = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={fault.partition(':')[0]}", "-e", f"inject={fault}"]
    agent = site.start(config, "--no-splay", before=fail)
    try:
        starts = [agent.wait_for("step_started", nth=number + 1) for number in range(4)]
    finally:
        for pid in site.processes():  # the tracer and whom it traces
            os.kill(pid, signal.SIGKILL)
    at_s = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in starts]
    for number, pause_s in enumerate((1.0, 2.0, 4.0)):
        assert at_s[number + 1] - at_s[number] > 0.9 * pause_s
    assert {line["play_uuid"] for line in starts} == {starts[0]["play_uuid"]}
    deferred = agent.told("step_deferred", reason=reason)[:3]
    assert [(line["step"], line["attempt"], line["wait_s"]) for line in deferred] == [
        ("play", 1, 1.0),
        ("play", 2, 2.0),
        ("play", 3, 4.0),
    ]
    assert all(detail in line["detail"] for line in deferred)


@needs_strace
def test_an_agent_that_waits_for_room_ends_when_it_is_told_to(site: Site) -> None:
    """Also one that works once, which waits for its run otherwise: nothing runs, and the next agent goes on."""
    config = {"check_command": "true", "jet_command": "true"}
    site.once({**config, "check_command": "false"})
    fail = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=mkdir", "-e", "inject=mkdir:error=ENOSPC"]
    agent = site.start(config, "--once", "--no-splay", before=fail)
    agent.wait_for("step_deferred", nth=2)
    (pid,) = (line["pid"] for line in agent.told("agent_started"))
    os.kill(pid, signal.SIGTERM)
    assert agent.wait() == 143
    (run,) = site.runs()
    assert run["outcome"] is None
    site.once(config)
    assert {run["outcome"] for run in site.runs()} == {"ok"}


@needs_strace
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"])
@pytest.mark.parametrize("error", ["EIO", "EROFS", "ENOSPC"])
def test_a_disk_that_fails_for_a_while_costs_nothing(site: Site, call: str, error: str) -> None:
    """From its 12th write or sync on the engine's disk fails for a while; then all is well, and each end told once."""
    config = {"check_command": "true", "check_interval": 1, "jet_command": "true"}
    site.once(config)
    inject = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
    paths = [word for name in ("journal.db", "journal.db-wal") for word in ("-P", str(site.state / name))]
    agent = site.start(
        config,
        "--no-splay",
        before=[*inject, *paths, "-e", f"inject={call}:error={error}:when=25..33"],
    )
    try:
        agent.wait_for("journal_stalled")
        agent.wait_for("journal_resumed")
        number = len(agent.told("run_finished"))
        agent.wait_for("run_finished", nth=number + 2)
    finally:
        for pid in site.processes():  # the tracer and whom it traces
            os.kill(pid, signal.SIGKILL)
    assert {line["outcome"] for line in agent.told("run_finished")} == {"ok"}
    told = [line["play_uuid"] for line in agent.told("run_finished")]
    assert len(told) == len(set(told))
    site.end()
    database = sqlite3.connect(site.state / "journal.db")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    again = "SELECT run, name, count(*) FROM event WHERE name = 'run_finished' GROUP BY 1 HAVING count(*) > 1"
    assert database.execute(again).fetchall() == []
    database.close()


@pytest.mark.skipif(why_no_loop("ext4") is not None, reason=str(why_no_loop("ext4")))
def test_a_disk_that_truly_fails_to_sync_is_waited_for(site: Site) -> None:
    """Its blocks find no room below it, so syncs end with EIO for real; when they do, the agent goes on by itself."""
    with small_disk(site.root / "below", size="40m") as below:
        # Without a log of its own the file system does not give up for good at its first error.
        image, kind = below / "image", ("-O", "^has_journal", "-e", "continue")
        disk = LoopDisk("ext4", image, site.root / "disk", *kind)
        try:
            site.state = disk.place / "state"
            agent = site.start({"check_command": "true", "check_interval": 1, "jet_command": "true"}, "--no-splay")
            agent.wait_for("run_finished", outcome="ok")
            below_filling = Filling(below)
            below_filling.fill()
            assert agent.wait_for("journal_stalled")["reason"] in ("io_error", "read_only")
            below_filling.empty()
            agent.wait_for("journal_resumed")
            number = len(agent.told("run_finished"))
            agent.wait_for("run_finished", nth=number + 2)
            told = [line["play_uuid"] for line in agent.told("run_finished")]
            assert len(told) == len(set(told))
            assert agent.stop() == 0
        finally:
            site.end()
            disk.unmount()


def test_a_log_that_nobody_can_take_stops_nothing(site: Site) -> None:
    """Every line to a full device is dropped; the runs go on and are recorded."""
    config = {"check_command": "true", "check_interval": 1, "jet_command": site.shell("echo x >> plays")}
    agent = site.start(config, "--no-splay", before=["sh", "-c", 'exec "$@" > /dev/full', "sh"])
    until(lambda: len(site.read_lines("plays")) >= 2)
    until(lambda: [run["outcome"] for run in site.runs()][:2] == ["ok", "ok"])
    assert agent.stop() == 0
    assert agent.errors == ""
    assert len(site.read_lines("plays")) >= 2
