"""Hooks: told at least once, in one queue per watch, never part of a run's outcome, never in a cycle's way for long."""

from __future__ import annotations

import os
import signal
from datetime import datetime
from typing import Any

import pytest
from agent_process import Site, is_alive, until

TRIES = """
    echo "$JETWATCH_DELIVERY" >> tries
    [ "$(wc -l < tries)" -gt 3 ]
"""


def due_once(site: Site, **hooks: object) -> dict[str, Any]:
    """A watch that is due once and applies well."""
    return {"check_command": site.check(0), "jet_command": site.shell("echo 1 > answer"), "check_interval": 1, **hooks}


def moment(line: dict[str, Any]) -> float:
    """When a line was told, in seconds."""
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def test_a_hook_that_fails_three_times_and_then_succeeds_is_delivered_across_restarts(site: Site) -> None:
    """Each agent tries it once more, JETWATCH_DELIVERY counts, and after the good try it is never run again."""
    site.once(due_once(site, on_ok=site.shell(TRIES)))
    for number in (2, 3):
        assert site.standing()["hooks"]["owed"] == 1
        assert site.standing()["hooks"]["tries"] == number - 1
        again = site.once()
        at_once_s = moment(again.told("step_started")[0]) - moment(again.told("agent_started")[0])
        assert at_once_s < 9  # the wait that it is spared is 10 s and more
    assert site.once().told("step_finished", step="on_ok", ok=True)
    assert site.once().told("step_started") == []
    assert site.read_lines("tries") == ["1", "2", "3", "4"]
    hooks = site.data("show")["hooks"]
    assert [(hook["name"], hook["state"], hook["deliveries"]) for hook in hooks] == [("on_ok", "delivered", 4)]


def test_a_hook_never_changes_the_outcome_of_its_run(site: Site) -> None:
    """The run is ok although on_ok fails; --once leaves with 0, and `hook_retry` says when it is tried again."""
    agent = site.once(due_once(site, on_start={"shell": "exit 9"}, on_ok={"shell": "exit 8"}))
    assert agent.told("run_finished")[0]["outcome"] == "ok"
    assert site.runs()[0]["outcome"] == "ok"
    retry = agent.told("hook_retry", step="on_start")[0]
    assert (retry["delivery"], retry["wait_s"]) == (1, 10.0)


def test_the_second_wait_of_a_hook_is_twice_the_first(site: Site) -> None:
    """10 s, then 20 s; what is left of a wait survives a restart."""
    first = site.once(due_once(site, on_ok={"shell": "exit 8"}))
    second = site.once()
    assert [agent.told("hook_retry")[0]["wait_s"] for agent in (first, second)] == [10.0, 20.0]
    agent = site.start(None, "--no-splay", "--log-level", "debug")
    agent.wait_for("check_finished", nth=2)
    assert agent.told("step_started") == []


@pytest.mark.slow
def test_a_living_agent_tries_a_failed_hook_again_after_ten_seconds(site: Site) -> None:
    """The second try comes 10 s after the first one failed, while checks go on."""
    config = due_once(site, on_ok=site.shell('date +%s.%N >> times; [ "$JETWATCH_DELIVERY" = 2 ]'))
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    agent.wait_for("step_finished", step="on_ok", ok=True)
    first, second = (float(line) for line in site.read_lines("times"))
    assert 9.9 < second - first < 12
    assert len(agent.told("check_finished")) >= 9


def test_a_failed_hook_holds_those_behind_it_but_no_cycle(site: Site) -> None:
    """While on_ok of the first run fails, its on_done and the hooks of later runs wait; then all come in order."""
    hook = 'echo "$JETWATCH_PLAY_UUID {}" >> hooks'
    config = {
        "check_command": "true",
        "jet_command": "true",
        "check_interval": 1,
        "on_ok": site.shell("[ -e healed ] && " + hook.format("on_ok")),
        "on_done": site.shell(hook.format("on_done")),
    }
    agent = site.start(config, "--no-splay")
    agent.wait_for("run_finished", outcome="ok", nth=3)
    agent.stop()
    assert site.read("hooks") == ""
    assert len(agent.told("step_started", step="on_ok")) == 1
    assert site.standing()["hooks"]["owed"] >= 5
    (site.root / "healed").touch()
    site.configure({**config, "check_command": "false"})
    again = site.start(None, "--once")
    assert again.wait() == 0
    expected = [f"{run['play_uuid']} {name}" for run in site.runs() for name in ("on_ok", "on_done")]
    assert site.read_lines("hooks") == expected


def test_the_first_try_comes_before_the_next_check(site: Site) -> None:
    """A check that would be due while a hook runs for the first time waits for its end."""
    config = {
        "check_command": site.check(0),
        "jet_command": site.shell("echo 1 > answer"),
        "check_interval": 1,
        "on_ok": site.shell("echo begin >> checks; sleep 1.5; echo end >> checks"),
    }
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    agent.wait_for("check_finished", result="not_due")
    agent.stop()
    lines = site.read_lines("checks")
    assert lines[lines.index("begin") + 1] == "end"


def test_on_start_runs_beside_the_run_and_is_told_before_what_comes_after(site: Site) -> None:
    """A slow on_start does not hold up the run; on_ok waits for its turn behind it."""
    gate = site.gate()
    config = due_once(
        site,
        on_start=site.shell(f"echo on_start >> order; {gate.text}"),
        on_ok=site.shell("echo on_ok >> order"),
    )
    config["jet_command"] = site.shell("echo 1 > answer; echo play >> order")
    agent = site.start(config, "--no-splay")
    agent.wait_for("run_finished", outcome="ok")
    until(lambda: sorted(site.read_lines("order")) == ["on_start", "play"])
    gate.open()
    agent.wait_for("step_finished", step="on_ok")
    assert site.read_lines("order")[-1] == "on_ok"


def test_a_hook_that_is_not_there_is_tried_again_like_any_other(site: Site) -> None:
    """What cannot be started now has failed this time; once it is there, it is delivered."""
    agent = site.once(due_once(site, on_ok=str(site.root / "later.sh")))
    assert agent.told("step_finished", step="on_ok")[0]["reason"] == "no_such_file"
    site.script("later.sh", f"echo told > {site.root}/told")
    site.once()
    assert site.read("told") == "told\n"


def test_a_hook_over_its_time_is_ended_and_tried_again(site: Site) -> None:
    """`timeouts: hook` holds for each try; its tree is ended, and the try has failed."""
    hook = site.shell('[ "$JETWATCH_DELIVERY" = 2 ] || { trap "" TERM; sleep 1000 & sleep 1000; }')
    agent = site.once(due_once(site, on_ok=hook, timeouts={"hook": "0.5s", "grace": "0.2s"}))
    assert agent.told("step_finished", step="on_ok")[0]["timed_out"] is True
    assert site.processes() == []
    assert site.once().told("step_finished", step="on_ok", ok=True)


@pytest.mark.parametrize("agent_is_there", [True, False], ids=["beside the agent", "between two agents"])
def test_a_hook_whose_supervisor_was_killed_is_ended_and_told_again(site: Site, agent_is_there: bool) -> None:
    """At least once: who knows how far it got is asked again, after everything of the first try is gone."""
    config = due_once(site, on_ok=site.shell('echo $$ > hook; [ "$JETWATCH_DELIVERY" = 2 ] || sleep 1000; :'))
    agent = site.start(config, "--no-splay")
    hook = site.pid_in("hook")
    if not agent_is_there:
        agent.kill9()
    os.kill(site.supervisor_of("on_ok"), signal.SIGKILL)
    if agent_is_there:
        agent.wait_for("step_finished", step="on_ok", reason="supervisor_died")
        assert agent.wait_for("hook_retry")["delivery"] == 1
        agent.stop()
        assert not is_alive(hook)
    again = site.start(None, "--once", "--no-splay")
    assert again.wait() == 0
    assert not is_alive(hook)
    site.once()
    assert site.data("show")["hooks"][0]["state"] == "delivered"
    assert site.runs()[0]["outcome"] == "ok"


def test_hooks_of_several_watches_do_not_wait_for_each_other(site: Site) -> None:
    """One queue per watch: a hook that hangs in one is nothing to the other."""
    gate = site.gate()
    defaults = {"check_command": "true", "jet_command": "true"}
    watches = {"slow": {"on_ok": site.shell(gate.text)}, "quick": {"on_ok": site.shell("echo quick >> hooks")}}
    agent = site.start({"defaults": defaults, "watches": watches}, "--no-splay")
    agent.wait_for("step_started", watch="slow", step="on_ok")
    agent.wait_for("step_finished", watch="quick", step="on_ok")
    assert agent.told("step_finished", watch="slow", step="on_ok") == []
    gate.open()


def test_a_hook_keeps_the_values_of_its_run(site: Site) -> None:
    """A hook that is told late is told of its own run, not of the newest."""
    config = {
        "check_command": site.check(0, revision="r1"),
        "jet_command": {
            "shell": 'echo "played $JETWATCH_REVISION"; echo "size=$JETWATCH_REVISION" > "$JETWATCH_OUTPUT"'
        },
        "on_ok": site.shell(
            '[ -e healed ] && echo "$JETWATCH_REVISION $JETWATCH_OUTPUTS_SIZE $JETWATCH_OUTCOME" '
            '"$(cat "$JETWATCH_OUTPUT_PATH")" >> hooks'
        ),
    }
    site.once(config)
    site.answer(0, revision="r2")
    site.once()
    site.answer(1)
    (site.root / "healed").touch()
    site.once()
    assert site.read_lines("hooks") == ["r1 r1 ok played r1", "r2 r2 ok played r2"]


def test_a_removed_watch_still_tells_its_hooks(site: Site) -> None:
    """Hooks that are owed are delivered although their watch is no longer configured."""
    site.once(due_once(site, on_ok=site.shell("[ -e healed ] && echo told > told")))
    (site.root / "healed").touch()
    site.once({"name": "other", "check_command": "false", "jet_command": "true"})
    assert site.read("told") == "told\n"
    assert until(lambda: "watch" not in {each["watch"] for each in site.data("status")["watches"]})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run commands as somebody else")
def test_every_hook_can_read_the_output_of_its_run(site: Site) -> None:
    """`output_path` serves each hook of a run, whoever it runs as."""
    told = site.root / "told"
    told.mkdir()
    told.chmod(0o777)
    read = f'cat "$JETWATCH_OUTPUT_PATH" >> {told}/$(id -un)'
    config = due_once(site, user="nobody", on_ok={"shell": read, "user": "root"}, on_done={"shell": read})
    config |= {"check_command": "true", "jet_command": "echo applied"}
    site.once(config)
    assert (site.read("told/root"), site.read("told/nobody")) == ("applied\n", "applied\n")
