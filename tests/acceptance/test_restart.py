"""An agent comes and goes, its runs stay: kills of agents and supervisors, TERM, INT, --once, and the agent after."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from agent_process import MAY_UNSHARE, AgentProcess, Elsewhen, Gate, Site, is_alive, until

TELL_HOOK = 'echo "$JETWATCH_OUTCOME $JETWATCH_PLAY_UUID" >> hooks'


def one_play(site: Site, gate: Gate, *, after: str = "exit 3", **more: object) -> dict[str, Any]:
    """A watch that is due once; its play writes its pid, waits at the gate, then does `after`."""
    play = f"echo $$ >> pids; echo begun; {gate.text}; echo 1 > answer; echo ended; echo end >> ends; {after}"
    return {
        "check_command": site.check(0),
        "jet_command": site.shell(play),
        "check_interval": 1,
        "on_ok": site.shell(TELL_HOOK),
        "on_fail": site.shell(TELL_HOOK),
        **more,
    }


def uuid_of(agent: AgentProcess) -> str:
    """The run that the agent told of."""
    told = agent.told("run_started") or agent.told("run_reattached")
    return str(told[0]["play_uuid"])


# -- the agent is killed


@pytest.mark.parametrize("ends_ok", [True, False])
def test_an_agent_killed_during_the_play_loses_nothing(site: Site, ends_ok: bool) -> None:
    """The play goes on undisturbed under the next agent, its exit code is reported once, the hook runs once."""
    gate = site.gate()
    first = site.start(one_play(site, gate, after="exit 0" if ends_ok else "exit 3"), "--no-splay")
    first.wait_for("step_started", step="play")
    play = site.pid_in("pids")
    first.kill9()
    second = site.ready(None, "--no-splay")
    second.wait_for("run_reattached", step="play", alive=True, play_uuid=uuid_of(first))
    assert is_alive(play)
    gate.open()
    ended = second.wait_for("run_finished", play_uuid=uuid_of(first))
    assert (ended["outcome"], ended["exit_code"]) == (("ok", 0) if ends_ok else ("failed", 3))
    second.wait_for("step_finished", step="on_ok" if ends_ok else "on_fail")
    assert second.stop() == 0
    third = site.once()
    assert third.told("run_reattached") == third.told("run_finished") == []
    assert site.read_lines("pids") == [str(play)]
    assert site.read_lines("hooks") == [f"{ended['outcome']} {uuid_of(first)}"]
    assert site.jetp("logs", "--step", "play").stdout == "begun\nended\n"


def test_a_play_that_ends_while_no_agent_runs_is_reported_by_the_next(site: Site) -> None:
    """The result waits on disk; the next agent records it as it was."""
    gate = site.gate()
    first = site.start(one_play(site, gate), "--no-splay")
    site.pid_in("pids")
    first.kill9()
    gate.open()
    until(lambda: site.supervisors() == [])
    second = site.once(code=1)
    assert second.told("run_reattached")[0]["alive"] is False
    [ended] = second.told("run_finished")
    assert (ended["outcome"], ended["exit_code"], ended["failed_step"]) == ("failed", 3, "play")
    assert site.read_lines("hooks") == [f"failed {uuid_of(first)}"]


def test_a_run_between_two_steps_goes_on_where_it_stood(site: Site) -> None:
    """The agent is killed during the download, which ends without it: the next one starts the play, nothing twice."""
    gate = site.gate()
    config = {
        "check_command": site.check(0),
        "download_command": site.shell(
            f'echo 1 > answer; echo x >> downloads; {gate.text}; echo hi > "$JETWATCH_DOWNLOAD_PATH/f"'
        ),
        "jet_command": site.shell('cat "$JETWATCH_DOWNLOAD_PATH/f" >> plays'),
    }
    first = site.start(config, "--no-splay")
    until(lambda: site.read("downloads"))
    first.kill9()
    gate.open()
    until(lambda: site.supervisors() == [])
    second = site.once()
    assert [line["step"] for line in second.told("step_started")] == ["play"]
    assert second.told("run_finished", outcome="ok", play_uuid=uuid_of(first))
    assert (site.read("downloads"), site.read("plays")) == ("x\n", "hi\n")


def test_a_hook_that_was_running_at_the_kill_is_delivered_once(site: Site) -> None:
    """A hook has a supervisor too: it goes on, and the next agent takes note of its end."""
    gate = site.gate()
    config = {
        "check_command": site.check(0),
        "jet_command": site.shell("echo 1 > answer"),
        "on_ok": site.shell(f"echo $$ > hook; {gate.text}; {TELL_HOOK}"),
    }
    first = site.start(config, "--no-splay")
    hook = site.pid_in("hook")
    first.kill9()
    second = site.ready(None, "--no-splay")
    assert is_alive(hook)
    gate.open()
    assert second.wait_for("step_finished", step="on_ok", ok=True)["play_uuid"] == uuid_of(first)
    second.stop()
    site.once()
    assert site.read_lines("hooks") == [f"ok {uuid_of(first)}"]


def test_a_check_that_an_agent_left_behind_is_ended_by_the_next(site: Site) -> None:
    """A check of a killed agent does not live beside that of the next one."""
    first = site.start({"check_command": site.shell("echo $$ > check; sleep 1000; :"), "jet_command": "true"})
    check = site.pid_in("check")
    first.kill9()
    assert is_alive(check)
    site.start({"check_command": "false", "jet_command": "true"}, "--log-level", "debug").wait_for("check_finished")
    assert not is_alive(check)


def test_a_due_answer_that_waits_for_its_turn_survives_its_agent(site: Site) -> None:
    """Said once, not started for want of a turn: the next agent knows it, and of the run that is in its way."""
    gate = site.gate()
    defaults = {"check_interval": 3600, "exclusive": "apt", "check_command": "false"}
    holder = {"check_command": "true", "jet_command": site.shell(f"echo holder >> plays; {gate.text}")}
    waiter = {"check_command": site.check(0, revision="r1"), "jet_command": site.shell("echo waiter >> plays")}
    config = {"defaults": defaults, "watches": {"holder": holder}}
    first = site.start(config, "--no-splay")
    first.wait_for("step_started", step="play")
    site.configure({**config, "watches": {"holder": holder, "waiter": waiter}})
    first.send(signal.SIGHUP)
    until(lambda: "waiter" in [each["watch"] for each in site.data("status")["watches"]])
    until(lambda: site.standing("waiter")["waiting_for"] == ["exclusive:apt"])
    first.kill9()
    site.answer(1)
    second = site.ready(None, "--no-splay")
    until(lambda: site.standing("waiter")["waiting_for"] == ["exclusive:apt"])
    assert second.told("run_started") == []
    gate.open()
    second.wait_for("run_finished", watch="waiter", outcome="ok", revision="r1")
    assert site.read_lines("plays")[:2] == ["holder", "waiter"]


def test_a_trigger_that_was_remembered_survives_its_agent(site: Site) -> None:
    """Asked for during a run, it is answered after it, by the next agent if need be."""
    gate = site.gate()
    config = one_play(site, gate, check_interval=3600)
    first = site.start(config, "--no-splay")
    site.pid_in("pids")
    site.jetp("trigger", "--force")
    first.kill9()
    second = site.ready(None)
    gate.open()
    second.wait_for("run_finished", trigger="check")
    second.wait_for("run_finished", trigger="manual")


@pytest.mark.slow
def test_term_at_any_moment_of_a_start_loses_and_repeats_nothing(site: Site) -> None:
    """Stopped as soon as a run, a step or a hook is told: each exit within 2 s, each play and hook once, all ok."""
    hook = 'echo "$JETWATCH_PLAY_UUID" >> told'
    config = {**steady_plays(site), "download_command": "true", "on_ok": site.shell(hook)}
    moments = [("run_started", {}), *(("step_started", {"step": step}) for step in ("download", "play", "on_ok"))]
    for event, fields in [*moments, *moments]:
        agent = site.start(config, "--no-splay")
        agent.wait_for(event, **fields)
        before = time.monotonic()
        assert agent.stop() == 0
        assert time.monotonic() - before < 2
        names = [line["event"] for line in agent.lines]
        assert "step_started" not in names[names.index("agent_stopping") :]
    site.once({**config, "check_command": "false"})
    runs = [run["play_uuid"] for run in site.runs()]
    assert {run["outcome"] for run in site.runs()} == {"ok"}
    assert sorted(site.read_lines("plays")) == sorted(site.read_lines("told")) == sorted(runs)


# -- a supervisor is killed


@pytest.mark.parametrize("agent_is_there", [True, False], ids=["beside the agent", "between two agents"])
def test_a_supervisor_killed_after_its_command_began_makes_the_run_lost(site: Site, agent_is_there: bool) -> None:
    """First its tree is ended, also what left the session; then the run is lost, and on_fail runs."""
    gate = site.gate()
    tree = "echo $$ >> tree; setsid sh -c 'echo $$ >> tree; sleep 1000; :' & sleep 1000 & echo $! >> tree;"
    config = one_play(site, gate)
    config["jet_command"] = site.shell(f"echo 1 > answer; {tree} {gate.text}")
    agent = site.start(config, "--no-splay")
    until(lambda: len(site.read_lines("tree")) == 3)
    if not agent_is_there:
        agent.kill9()
    supervisor = site.supervisor_of("play")
    os.kill(supervisor, signal.SIGKILL)
    if not agent_is_there:
        until(lambda: not is_alive(supervisor))
        assert all(is_alive(int(pid)) for pid in site.read_lines("tree"))
        agent = site.ready(None, "--no-splay")
    ended = agent.wait_for("run_finished")
    assert (ended["outcome"], ended["failed_step"], ended["reason"]) == ("lost", "play", "supervisor_died")
    assert [pid for pid in site.read_lines("tree") if is_alive(int(pid))] == []
    agent.wait_for("step_finished", step="on_fail")
    assert site.read_lines("hooks") == [f"lost {ended['play_uuid']}"]
    # Never resumed under its id: the next due check opens another run, and its attempt counts on.
    gate.open()
    site.answer(0)
    again = agent.wait_for("run_started", attempt=2)
    assert again["play_uuid"] != ended["play_uuid"]


@pytest.mark.slow
def test_a_supervisor_that_does_nothing_is_killed_when_it_is_far_over_its_time(site: Site) -> None:
    """Stopped, it enforces no timeout: 30 s after that and two graces the agent ends it, and the run is lost."""
    config = one_play(site, site.gate(), timeouts={"play": "0.5s", "grace": "0.1s"})
    agent = site.start(config, "--no-splay")
    play = site.pid_in("pids")
    os.kill(site.supervisor_of("play"), signal.SIGSTOP)
    ended = agent.wait_for("run_finished", within_s=60)
    assert ended["outcome"] == "lost"
    assert ended["duration_s"] > 30.7
    assert not is_alive(play)
    assert site.supervisors() == []


def test_a_supervisor_outlives_the_signals_that_everybody_gets(site: Site) -> None:
    """TERM, INT and HUP, as a shutdown or a closed terminal sends them, end neither it nor what it holds."""
    gate = site.gate()
    agent = site.start(one_play(site, gate), "--no-splay")
    site.pid_in("pids")
    supervisor = site.supervisor_of("play")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        os.kill(supervisor, number)
    gate.open()
    assert agent.wait_for("run_finished")["exit_code"] == 3


def fresh_supervisor(site: Site, agent: AgentProcess) -> tuple[int, Path]:
    """A supervisor stopped before it wrote started.json, and its step's directory."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for pid in children(agent.pid):
            words = cmdline(pid)
            if len(words) > 4 and words[3].startswith(f"{site.state}/shim/") and words[4] != "--fork":
                os.kill(pid, signal.SIGSTOP)
                directory = Path(words[4])
                if not (directory / "started.json").exists() and not children(pid):
                    return pid, directory
                os.kill(pid, signal.SIGCONT)
    raise AssertionError(f"no supervisor was caught at its start:\n{agent.story()}")


def has_its_spec(agent: AgentProcess, supervisor: int) -> bool:
    """Whether the agent has written all that this supervisor reads, and closed its end of the pipe."""
    pipe = Path(f"/proc/{supervisor}/fd/0").readlink()
    held = Path(f"/proc/{agent.pid}/fd").iterdir()
    return pipe not in {each.readlink() for each in held if each.is_symlink()}


def children(pid: int) -> list[int]:
    """What a process started and has not waited for."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in path.read_text().split()]
        except OSError:
            continue
    return found


def cmdline(pid: int) -> list[str]:
    """The words of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def steady_plays(site: Site) -> dict[str, Any]:
    """A watch whose plays come one after the other, each writing its run's id."""
    return {
        "check_command": "true",
        "check_interval": 1,
        "jet_command": site.shell('echo "$JETWATCH_PLAY_UUID" >> plays'),
    }


@pytest.mark.parametrize("agent_is_there", [True, False], ids=["beside the agent", "between two agents"])
def test_a_supervisor_killed_before_its_command_began_means_start_again(site: Site, agent_is_there: bool) -> None:
    """Nothing ran, so the step is simply started again, in a new directory, and the command runs once."""
    agent = site.ready(steady_plays(site), "--no-splay")
    supervisor, directory = fresh_supervisor(site, agent)
    run = directory.parent.name
    if not agent_is_there:
        agent.kill9()
    os.kill(supervisor, signal.SIGKILL)
    if not agent_is_there:
        agent = site.ready(None, "--no-splay")
    agent.wait_for("run_finished", play_uuid=run, outcome="ok")
    assert site.read_lines("plays").count(run) == 1
    assert not (directory / "started.json").exists()
    assert (directory.parent / "play.2" / "exit.json").exists()


def test_an_agent_adopts_a_supervisor_that_has_not_run_its_first_instruction(site: Site) -> None:
    """The agent dies in the instant after the spawn: the next one waits for that supervisor and starts none."""
    first = site.ready(steady_plays(site), "--no-splay")
    supervisor, directory = fresh_supervisor(site, first)
    until(lambda: has_its_spec(first, supervisor))
    first.kill9()
    run = directory.parent.name
    second = site.ready(None, "--no-splay")
    second.wait_for("run_reattached", play_uuid=run, alive=True)
    assert second.told("step_started") == []
    os.kill(supervisor, signal.SIGCONT)
    second.wait_for("run_finished", play_uuid=run, outcome="ok")
    assert site.read_lines("plays").count(run) == 1
    assert [path.name for path in sorted((directory.parent).glob("play.*"))] == ["play.1"]


@pytest.mark.slow
def test_three_lost_runs_in_a_row_hold_the_watch(site: Site) -> None:
    """After the third one it is held for an hour, which `held`, status and skipped checks say; clear ends it."""
    gate = site.gate()
    config = {**one_play(site, gate), "jet_command": site.shell(gate.text)}
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    for attempt in (1, 2, 3):
        agent.wait_for("step_started", step="play", nth=attempt)
        os.kill(site.supervisor_of("play"), signal.SIGKILL)
        agent.wait_for("run_finished", outcome="lost", attempt=attempt)
    assert agent.wait_for("held")["lost_in_a_row"] == 3
    agent.wait_for("check_finished", result="skipped", reason="held")
    assert [each["code"] for each in site.data("status")["unwell"]] == ["last_run", "held"]
    assert "3 lost runs in a row" in site.jetp("why").stdout
    assert site.standing()["held_until"]
    site.jetp("clear")
    agent.wait_for("cleared")
    gate.open()
    agent.wait_for("run_finished", outcome="ok")


# -- TERM and INT


def test_term_leaves_the_play_to_the_next_agent_within_two_seconds(site: Site) -> None:
    """The default: exit within 2 s with 0, the play lives, the next agent reports it."""
    gate = site.gate()
    first = site.start(one_play(site, gate), "--no-splay")
    play = site.pid_in("pids")
    before = time.monotonic()
    assert first.stop() == 0
    assert time.monotonic() - before < 2
    assert first.told("agent_stopping", reason="SIGTERM", mode="detach")
    assert first.told("agent_stopped", open_runs=1)
    assert is_alive(play)
    second = site.ready(None, "--no-splay")
    gate.open()
    second.wait_for("run_finished", play_uuid=uuid_of(first), exit_code=3)
    assert site.read_lines("pids") == [str(play)]


def test_term_drops_a_running_check(site: Site) -> None:
    """A running check is killed, although it ignores TERM, and its result dropped; the exit comes within 2 s."""
    check = site.shell("trap '' TERM; echo $$ > check; sleep 1000 & sleep 1000; :")
    agent = site.start({"check_command": check, "jet_command": "true"}, "--log-level", "debug")
    pid = site.pid_in("check")
    before = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - before < 2
    assert agent.told("check_finished") == []
    until(lambda: not is_alive(pid))
    assert site.processes() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stop", ["detach", "wait", "cancel"])
def test_an_idle_agent_stops_at_once(site: Site, number: int, stop: str) -> None:
    """Nothing is going on: every way to stop is the same, within 2 s and with 0."""
    agent = site.start({"check_command": "false", "jet_command": "true", "stop": stop}, "--log-level", "debug")
    agent.wait_for("check_finished")
    before = time.monotonic()
    assert agent.stop(number) == 0
    assert time.monotonic() - before < 2


def test_stop_wait_lets_open_runs_end_with_their_first_hooks(site: Site) -> None:
    """TERM with `stop: wait`: no new work, the run and its hooks go on to their end, then the exit code is 0."""
    gate = site.gate()
    agent = site.start(one_play(site, gate, stop="wait", on_done=site.shell("echo done >> hooks")), "--no-splay")
    site.pid_in("pids")
    agent.send(signal.SIGTERM)
    agent.wait_for("agent_stopping", mode="wait")
    assert agent.is_running
    gate.open()
    assert agent.wait() == 0
    assert agent.told("run_finished", outcome="failed", exit_code=3)
    assert site.read_lines("hooks") == [f"failed {uuid_of(agent)}", "done"]
    assert len(agent.told("run_started")) == 1


def test_stop_cancel_ends_running_steps_and_records_that(site: Site) -> None:
    """TERM with `stop: cancel`: the step gets TERM, the run is cancelled; its revision is not held."""
    gate = site.gate()
    config = one_play(site, gate, stop="cancel")
    config["check_command"] = site.check(0, revision="r1")
    first = site.start(config, "--no-splay")
    play = site.pid_in("pids")
    assert first.stop() == 0
    [ended] = first.told("run_finished")
    assert (ended["outcome"], ended["reason"]) == ("cancelled", "agent_stopping")
    assert not is_alive(play)
    gate.open()
    second = site.start(None, "--no-splay")
    assert second.wait_for("run_started")["attempt"] == 1
    second.wait_for("step_finished", step="on_fail", nth=2)
    assert site.read_lines("hooks")[0] == f"cancelled {ended['play_uuid']}"


def test_int_waits_for_the_run_and_a_second_one_cancels_it(site: Site) -> None:
    """INT is as `stop: wait`; INT again cancels what is open."""
    gate = site.gate()
    agent = site.start(one_play(site, gate), "--no-splay")
    play = site.pid_in("pids")
    agent.send(signal.SIGINT)
    agent.wait_for("agent_stopping", mode="wait", reason="SIGINT")
    assert is_alive(play)
    agent.send(signal.SIGINT)
    assert agent.wait() == 0
    assert agent.told("agent_stopping", mode="cancel")
    assert agent.told("run_finished", outcome="cancelled")
    assert not is_alive(play)


def test_int_then_the_end_of_the_run_ends_the_agent(site: Site) -> None:
    """INT alone: the run ends by itself, its hook is delivered, the exit code is 0."""
    gate = site.gate()
    agent = site.start(one_play(site, gate, after="exit 0"), "--no-splay")
    site.pid_in("pids")
    agent.send(signal.SIGINT)
    agent.wait_for("agent_stopping")
    gate.open()
    assert agent.wait() == 0
    assert site.read_lines("hooks") == [f"ok {uuid_of(agent)}"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_once_treats_term_as_int_and_leaves_with_the_signals_code(site: Site, number: int, code: int) -> None:
    """--once: the open run is waited for, then the exit code is 128 + n."""
    gate = site.gate()
    agent = site.start(one_play(site, gate), "--once", "--no-splay")
    site.pid_in("pids")
    agent.send(number)
    agent.wait_for("agent_stopping", mode="wait")
    gate.open()
    assert agent.wait() == code
    assert agent.told("run_finished", exit_code=3)


def test_once_finishes_open_runs_first(site: Site) -> None:
    """A run that another agent opened is gone on with, and counts for the exit code; then each watch is checked."""
    gate = site.gate()
    first = site.start(one_play(site, gate), "--no-splay")
    site.pid_in("pids")
    first.stop()
    second = site.start(None, "--once", "--no-splay", "--log-level", "debug")
    second.wait_for("run_reattached")
    gate.open()
    assert second.wait() == 1
    events = [(line["event"], line.get("result")) for line in second.lines]
    assert events.index(("run_finished", None)) < events.index(("check_finished", "not_due"))


def test_a_hook_does_not_hold_up_a_stop_that_cancels(site: Site) -> None:
    """A hook that hangs is ended with the steps; its try has failed, and the next agent tells it again."""
    hook = site.shell('echo "$JETWATCH_DELIVERY" >> tries; [ "$JETWATCH_DELIVERY" = 2 ] || sleep 1000; :')
    config = {"check_command": site.check(0), "jet_command": site.shell("echo 1 > answer"), "on_ok": hook}
    agent = site.start(config, "--no-splay")
    until(lambda: site.read("tries"))
    agent.send(signal.SIGINT)
    agent.wait_for("agent_stopping")
    agent.send(signal.SIGINT)
    assert agent.wait(within_s=20) == 0
    assert agent.told("step_finished", step="on_ok")[0]["reason"] == "cancelled"
    until(lambda: site.processes() == [])
    assert site.once().told("step_finished", step="on_ok", ok=True)
    assert site.read_lines("tries") == ["1", "2"]


# -- containers

OF_ITS_OWN_PIDS = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
needs_unshare = pytest.mark.skipif(not MAY_UNSHARE, reason="only root can make namespaces")


@needs_unshare
def test_as_pid_1_an_agent_waits_for_its_runs_when_it_is_stopped(site: Site) -> None:
    """Nothing outlives PID 1: `detach` is false, TERM is as `stop: wait`, and the run ends although nobody reaps."""
    gate = site.gate()
    agent = site.start(one_play(site, gate), "--no-splay", before=OF_ITS_OWN_PIDS)
    assert agent.wait_for("agent_started")["detach"] is False
    until(lambda: site.read("pids"))
    assert site.data("status")["agent"]["detach"] is False
    os.kill(children(agent.pid)[0], signal.SIGTERM)
    agent.wait_for("agent_stopping", mode="wait")
    gate.open()
    assert agent.wait() == 0
    assert agent.told("run_finished", exit_code=3)
    assert site.read_lines("hooks") == [f"failed {uuid_of(agent)}"]


@needs_unshare
def test_an_agent_that_counts_pids_otherwise_takes_over_all_the_same(site: Site) -> None:
    """An open run of an agent outside is watched by its lock, whatever its pids mean inside."""
    gate = site.gate()
    first = site.start(one_play(site, gate), "--no-splay")
    play = site.pid_in("pids")
    first.kill9()
    second = site.start(None, "--no-splay", before=OF_ITS_OWN_PIDS)
    second.wait_for("run_reattached", alive=True)
    assert is_alive(play)
    gate.open()
    second.wait_for("run_finished", exit_code=3, play_uuid=uuid_of(first))
    second.wait_for("step_finished", step="on_fail", ok=True)
    assert site.read_lines("pids") == [str(play)]


# -- cancel


def test_cancel_ends_a_running_play(site: Site) -> None:
    """`jetp cancel`: TERM, then KILL after grace, for the whole tree; outcome cancelled, on_fail runs."""
    config = one_play(site, site.gate(), timeouts={"grace": "0.3s"})
    config["jet_command"] = site.shell("echo 1 > answer; trap '' TERM; echo $$ >> pids; sleep 1000 & sleep 1000; :")
    agent = site.start(config, "--no-splay")
    site.pid_in("pids")
    said = site.jetp("cancel", uuid_of(agent)[:8])
    assert uuid_of(agent)[:8] in said.stdout
    ended = agent.wait_for("run_finished")
    assert (ended["outcome"], ended["failed_step"], ended["reason"]) == ("cancelled", "play", "cancelled")
    agent.wait_for("step_finished", step="on_fail", ok=True)
    assert site.read_lines("hooks") == [f"cancelled {uuid_of(agent)}"]
    assert agent.stop() == 0
    until(lambda: site.processes() == [])


def test_cancel_works_without_an_agent(site: Site) -> None:
    """The supervisor is told, the play ends, and the next agent records the run as cancelled."""
    gate = site.gate()
    agent = site.start(one_play(site, gate), "--no-splay")
    play = site.pid_in("pids")
    agent.kill9()
    site.answer(1)
    site.jetp("cancel")
    until(lambda: not is_alive(play))
    second = site.once(code=1)
    assert second.told("run_finished", outcome="cancelled", play_uuid=uuid_of(agent))
    assert site.read_lines("hooks") == [f"cancelled {uuid_of(agent)}"]


# -- hours later, and after a reboot

needs_namespaces = pytest.mark.skipif(not MAY_UNSHARE, reason="only root can set the boot-time clock of a namespace")


def crash(site: Site, agent: AgentProcess) -> None:
    """End everything at once, as a power cut does."""
    agent.kill9()
    for pid in [*site.supervisors(), *site.processes()]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: site.processes() == [])


@needs_namespaces
def test_a_play_that_a_reboot_interrupted_is_lost(site: Site) -> None:
    """It may have run in part and is never started again; on_fail runs, and the next due check opens another run."""
    first = site.start(one_play(site, site.gate()), "--no-splay")
    site.pid_in("pids")
    crash(site, first)
    site.answer(1)
    second = site.once(code=1, at=Elsewhen(60, 0, rebooted=True))
    [ended] = second.told("run_finished")
    assert (ended["outcome"], ended["reason"], ended["failed_step"]) == ("lost", "reboot", "play")
    assert len(site.read_lines("pids")) == 1
    assert site.read_lines("hooks") == [f"lost {uuid_of(first)}"]


def stand_between_two_steps(site: Site) -> AgentProcess:
    """An agent that is killed during the download of a run, which ends without it."""
    gate = site.gate()
    config = {
        "check_command": site.check(0),
        "download_command": site.shell(f"echo 1 > answer; echo x > downloaded; {gate.text}"),
        "jet_command": site.shell("echo x >> plays"),
        "on_fail": site.shell(TELL_HOOK),
    }
    agent = site.start(config, "--no-splay")
    until(lambda: site.read("downloaded"))
    agent.kill9()
    gate.open()
    until(lambda: site.supervisors() == [])
    return agent


@needs_namespaces
def test_a_run_between_two_steps_is_lost_by_a_reboot(site: Site) -> None:
    """Its download ended well, but the play is not started on another boot."""
    stand_between_two_steps(site)
    [ended] = site.once(code=1, at=Elsewhen(60, 0, rebooted=True)).told("run_finished")
    assert (ended["outcome"], ended["reason"]) == ("lost", "reboot")
    assert site.read("plays") == ""


@needs_namespaces
@pytest.mark.parametrize(("seconds", "outcome"), [(3500, "ok"), (3700, "cancelled")])
def test_a_run_that_stood_still_for_more_than_an_hour_is_cancelled(site: Site, seconds: int, outcome: str) -> None:
    """Within the hour it goes on; after it its content is old news: cancelled, with the reason stale."""
    stand_between_two_steps(site)
    agent = site.once(code=0 if outcome == "ok" else 1, at=Elsewhen(seconds, seconds))
    [ended] = agent.told("run_finished")
    assert (ended["outcome"], ended.get("reason")) == (outcome, None if outcome == "ok" else "stale")
    assert site.read("plays") == ("x\n" if outcome == "ok" else "")
    assert site.read("hooks").split(" ")[0] == ("" if outcome == "ok" else "cancelled")


@needs_namespaces
def test_only_hooks_cross_a_reboot(site: Site) -> None:
    """A hook that was running is told again on the next boot, its try counted; the outcome stays."""
    gate = site.gate()
    hook = site.shell(f'echo "$JETWATCH_DELIVERY $JETWATCH_PLAY_UUID" >> tries; {gate.text}; {TELL_HOOK}')
    first = site.start({"check_command": "true", "jet_command": "true", "on_ok": hook}, "--no-splay")
    until(lambda: site.read("tries"))
    crash(site, first)
    gate.open()
    second = site.once({"check_command": "false", "jet_command": "true"}, at=Elsewhen(60, 0, rebooted=True))
    assert second.told("step_finished", step="on_ok", ok=True) or site.once(at=Elsewhen(90, 0, rebooted=True))
    assert site.read_lines("hooks") == [f"ok {uuid_of(first)}"]
    assert site.read_lines("tries") == [f"{number} {uuid_of(first)}" for number in (1, 2)]


@needs_namespaces
def test_a_hold_ends_after_its_hour_and_doubles(site: Site) -> None:
    """Three lost runs hold for 1 h, a fourth for 2 h."""
    config = {"check_command": site.check(0), "jet_command": {"shell": "kill -KILL $PPID; sleep 1000; :"}}
    for _ in range(3):
        agent = site.once(config, code=1)
    assert agent.told("held")[0]["lost_in_a_row"] == 3
    early = Elsewhen(3500, 3500)
    assert site.once(None, "--log-level", "debug", code=0, at=early).told("check_finished", reason="held")
    fourth = site.once(code=1, at=Elsewhen(3700, 3700)).told("held")[0]
    assert fourth["lost_in_a_row"] == 4
    until_us = datetime.fromisoformat(fourth["until"]) - datetime.fromisoformat(fourth["timestamp"])
    assert 7190 < until_us.total_seconds() <= 7200


@needs_namespaces
def test_a_hook_is_given_up_after_a_day(site: Site) -> None:
    """Told as `hook_abandoned`, counted and shown; those behind it are delivered."""
    hooks = {"on_ok": {"shell": "exit 1"}, "on_done": site.shell("echo done >> hooks")}
    site.once({"check_command": "true", "jet_command": "true", **hooks})
    site.configure({"check_command": "false", "jet_command": "true"})
    site.once(at=Elsewhen(86000, 86000))
    assert site.standing()["hooks"]["owed"] == 2
    agent = site.once(at=Elsewhen(86500, 86500))
    assert agent.told("hook_abandoned", step="on_ok")[0]["reason"] == "too_old"
    assert site.read("hooks") == "done\n"
    assert site.standing()["hooks"] | {"abandoned": 1, "owed": 0} == site.standing()["hooks"]
    site.jetp("status", "--check", code=1)


# -- what is told


def test_every_event_of_history_is_told_once_across_agents(site: Site) -> None:
    """The lines of all agents together hold each seq, at most the newest of a killed agent twice; one end per run."""
    gate = site.gate()
    first = site.start(one_play(site, gate), "--no-splay")
    site.pid_in("pids")
    first.kill9()
    second = site.ready(None, "--no-splay")
    second.kill9()
    gate.open()
    third = site.once(code=1)
    told = [line["seq"] for agent in (first, second, third) for line in agent.lines if "seq" in line]
    assert sorted(set(told)) == list(range(1, max(told) + 1))
    assert len(told) - len(set(told)) <= 2
    assert len([line for agent in (first, second, third) for line in agent.told("run_finished")]) == 1


def test_a_wrong_pid_in_the_lock_file_keeps_nobody_out(site: Site) -> None:
    """The lock counts, not what is written in it: after a kill the next agent starts at once."""
    first = site.ready({"check_command": "false", "jet_command": "true"})
    assert json.loads(site.read("state/lock").split()[0]) == first.pid
    first.kill9()
    assert site.once().told("agent_started")
