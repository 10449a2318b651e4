"""When checks fall (contract 3): splay, interval, jitter, phase, schedule; suspension, USR1, and a clock that jumps."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
from agent_process import MAY_UNSHARE, AgentProcess, Elsewhen, Site, until

HOUR_S = 3600
needs_namespaces = pytest.mark.skipif(not MAY_UNSHARE, reason="only root can set the boot-time clock of a namespace")


def quiet(site: Site, **more: object) -> dict[str, Any]:
    """A watch with nothing due, whose checks write down when they began."""
    return {"check_command": site.check(1), "jet_command": "true", **more}


def check_times(site: Site) -> list[float]:
    """When the checks began, Unix time."""
    return [float(line) for line in site.read_lines("checks")]


def gaps(times: Sequence[float]) -> list[float]:
    """From each to the next."""
    return [later - earlier for earlier, later in pairwise(times)]


def checks(site: Site, number: int) -> list[float]:
    """The times of the first `number` checks, once they are there."""
    until(lambda: len(check_times(site)) >= number)
    return check_times(site)[:number]


def left_s(site: Site, watch: str = "watch") -> float:
    """How long the next check is away."""
    return datetime.fromisoformat(site.standing(watch)["next_check"]).timestamp() - time.time()


# -- start-up and interval


def test_splay_is_a_random_wait_before_the_first_check(site: Site) -> None:
    """Uniform in [0, splay), drawn at each start; until then there is no check."""
    waits = []
    for _ in range(4):
        agent = site.start(quiet(site, splay=1000))
        line = agent.wait_for("splay_started")
        assert line["splay_s"] == 1000
        waits.append(line["wait_s"])
        agent.stop()
    assert all(0 <= wait < 1000 for wait in waits)
    assert len(set(waits)) == 4
    assert max(waits) > 10
    assert len(check_times(site)) == sum(wait < 0.5 for wait in waits)


def test_a_short_splay_is_waited_for(site: Site) -> None:
    """The first check comes when the wait that was told is over."""
    agent = site.start(quiet(site, splay=2), "--log-level", "debug")
    line = agent.wait_for("splay_started")
    began = datetime.fromisoformat(line["timestamp"]).timestamp()
    assert abs(checks(site, 1)[0] - began - line["wait_s"]) < 0.5


def test_no_splay_checks_at_once(site: Site) -> None:
    """--no-splay takes the wait away."""
    agent = site.start(quiet(site, splay=1000), "--no-splay", "--log-level", "debug")
    agent.wait_for("check_finished", within_s=10)
    assert agent.told("splay_started") == []


def test_the_interval_is_counted_from_start_to_start(site: Site) -> None:
    """A check that takes half its interval does not shift the next one."""
    config = quiet(site, check_interval=1)
    config["check_command"] = site.shell("date +%s.%N >> checks; sleep 0.5; exit 1")
    site.start(config, "--no-splay")
    times = checks(site, 5)
    assert times[-1] - times[0] == pytest.approx(4, abs=0.4)


def test_jitter_is_added_to_each_wait(site: Site) -> None:
    """Each wait is the interval and a random part of up to `jitter` more."""
    site.start(quiet(site, check_interval=1, jitter="1s"), "--no-splay")
    waits = gaps(checks(site, 6))
    assert all(0.9 < wait < 2.3 for wait in waits)
    assert max(waits) - min(waits) > 0.02


def grid_points(site: Site, config: dict[str, Any]) -> dict[str, float]:
    """Where in the hour each watch of a fresh agent is checked next, in seconds."""
    agent = site.ready(config)
    watches = until(lambda: [each for each in site.data("status")["watches"] if each["next_check"]])
    assert agent.told("splay_started") == agent.told("check_finished") == []
    agent.stop()
    return {each["watch"]: datetime.fromisoformat(each["next_check"]).timestamp() % HOUR_S for each in watches}


def test_stable_phase_is_the_same_after_a_restart(site: Site) -> None:
    """Checks fall on offset + n × interval of Unix time, each watch with an offset of its own; no start-up splay."""
    defaults = {"check_command": "false", "jet_command": "true", "check_interval": HOUR_S, "phase": "stable"}
    config = {"defaults": defaults, "watches": {name: {} for name in ("one", "two", "three")}}
    first, second = grid_points(site, config), grid_points(site, config)
    for name, point in first.items():
        assert min(abs(point - second[name]), HOUR_S - abs(point - second[name])) < 2
    assert max(first.values()) - min(first.values()) > 5


def test_stable_phase_keeps_within_the_splay(site: Site) -> None:
    """With a splay the offset is less than that, so that checks fall early in each interval."""
    defaults = {"check_command": "false", "jet_command": "true", "check_interval": HOUR_S, "phase": "stable"}
    config = {"defaults": {**defaults, "splay": 60}, "watches": {name: {} for name in ("one", "two", "three")}}
    assert all(point < 61 for point in grid_points(site, config).values())


def test_stable_phase_checks_when_its_point_comes(site: Site) -> None:
    """One check at each point of a short grid."""
    site.start(quiet(site, check_interval=2, phase="stable"))
    assert gaps(checks(site, 3)) == [pytest.approx(2, abs=1), pytest.approx(2, abs=1)]


def test_once_waits_for_no_grid_point(site: Site) -> None:
    """--once checks now, although the next point of a stable grid may be an hour away; its splay is no wait."""
    agent = site.start(quiet(site, check_interval=HOUR_S, phase="stable", splay=HOUR_S), "--once")
    assert agent.wait() == 0
    assert len(check_times(site)) == 1


def test_once_waits_for_its_splay(site: Site) -> None:
    """--once without --no-splay: the wait is drawn and waited for as ever."""
    agent = site.start(quiet(site, splay=2), "--once", "--log-level", "debug")
    assert agent.wait() == 0
    told = agent.told("splay_started")[0]
    began = datetime.fromisoformat(told["timestamp"]).timestamp()
    assert check_times(site)[0] - began == pytest.approx(told["wait_s"], abs=0.5)


def test_a_stopped_agent_makes_up_one_check_not_many(site: Site) -> None:
    """SIGSTOP for several intervals, as a machine asleep: one check after it, then one per interval."""
    agent = site.start(quiet(site, check_interval=1), "--no-splay")
    checks(site, 2)
    agent.send(signal.SIGSTOP)
    seen = len(check_times(site))
    stopped = time.monotonic()
    until(lambda: time.monotonic() - stopped > 3.5)
    agent.send(signal.SIGCONT)
    times = checks(site, seen + 3)[seen:]
    assert all(gap > 0.8 for gap in gaps(times))


# -- schedule


def at_time(site: Site, text: str, config: dict[str, Any] | None, *words: str) -> AgentProcess:
    """An agent that believes that it is `text` (UTC) when it starts."""
    ahead_s = datetime.fromisoformat(f"{text}+00:00").timestamp() - time.time()
    return site.start(config, "--log-level", "debug", *words, at=Elsewhen(wall_s=ahead_s))


def test_a_schedule_fires_when_crontab_says(site: Site) -> None:
    """Without a check every firing is due: a run at the full minute, and none before."""
    agent = at_time(site, "2026-03-04 05:59:57", {"schedule": "0 6 * * *", "timezone": "UTC", "jet_command": "true"})
    run = agent.wait_for("run_started", trigger="schedule")
    assert run["timestamp"].startswith("2026-03-04T06:00:00")
    agent.wait_for("run_finished", outcome="ok")
    assert site.standing()["next_check"] is not None
    assert agent.told("check_finished") == []
    assert len(agent.told("run_started")) == 1


def test_a_schedule_with_a_check_asks_it_at_each_firing(site: Site) -> None:
    """With check_command a firing asks; 1 is not due as ever."""
    agent = at_time(site, "2026-03-04 05:59:58", quiet(site, schedule="* * * * *", timezone="UTC"))
    told = agent.wait_for("check_finished", result="not_due")
    assert told["timestamp"].startswith("2026-03-04T06:00:00")


def test_firings_missed_while_no_agent_ran_are_made_up_by_one(site: Site) -> None:
    """However many were missed, one run at the start of the next agent; nothing is made up of the time before."""
    config = {"schedule": "* * * * *", "timezone": "UTC", "jet_command": "true"}
    first = at_time(site, "2026-03-04 05:00:20", config)
    until(lambda: first.lines and site.data("status")["watches"][0]["next_check"])
    assert first.told("run_started") == []
    first.kill9()
    second = at_time(site, "2026-03-04 06:10:55", None)
    made_up = second.wait_for("run_started")
    assert "2026-03-04T06:10:55" <= made_up["timestamp"] < "2026-03-04T06:10:58"
    regular = second.wait_for("run_started", nth=2)
    assert regular["timestamp"].startswith("2026-03-04T06:11:00")


def test_splay_comes_before_each_firing_of_a_schedule(site: Site) -> None:
    """The firing is at the full minute; its check up to `splay` later."""
    config = quiet(site, schedule="* * * * *", timezone="UTC", splay="3s")
    agent = at_time(site, "2026-03-04 05:59:58", config)
    told = agent.wait_for("check_finished", result="not_due")
    assert "2026-03-04T06:00:00" <= told["timestamp"] < "2026-03-04T06:00:04"


def test_a_local_time_that_is_skipped_fires_right_after_the_gap(site: Site) -> None:
    """Berlin has no 02:30 on the last Sunday of March: it fires at 03:00 summer time, 01:00 UTC."""
    config = {"schedule": "30 2 * * *", "timezone": "Europe/Berlin", "jet_command": "true"}
    agent = at_time(site, "2026-03-29 00:59:58", config)
    assert agent.wait_for("run_started")["timestamp"].startswith("2026-03-29T01:00:00")


def test_a_local_time_that_comes_twice_fires_once(site: Site) -> None:
    """Berlin has 02:30 twice on the last Sunday of October: it fires at the first, and then a day later."""
    config = {"schedule": "30 2 * * *", "timezone": "Europe/Berlin", "jet_command": "true"}
    agent = at_time(site, "2026-10-25 00:29:58", config)
    agent.wait_for("run_finished", outcome="ok")
    assert left_s(site) == pytest.approx(25 * 3600, abs=60)


def test_a_clock_that_was_set_back_repeats_no_firing(site: Site) -> None:
    """What fired at six does not fire again when it becomes six once more within 3 h: the next is tomorrow's."""
    config = {"schedule": "0 6 * * *", "timezone": "UTC", "jet_command": "true"}
    first = at_time(site, "2026-03-04 05:59:59", config)
    first.wait_for("run_finished", outcome="ok")
    first.kill9()
    at_time(site, "2026-03-04 05:00:00", None).wait_for("agent_started")
    until(lambda: left_s(site) > 24 * HOUR_S)
    assert left_s(site) == pytest.approx(25 * HOUR_S, abs=60)


def test_once_checks_a_schedule_whatever_the_time(site: Site) -> None:
    """--once asks each watch once, also one that is years away from its next firing."""
    site.once({"schedule": "0 0 29 2 *", "splay": "1s", "jet_command": "true"})
    assert [run["trigger"] for run in site.runs()] == ["schedule"]


def test_a_schedule_without_splay_is_a_warning(site: Site) -> None:
    """A whole fleet at 03:00: said at the start, and no more than that."""
    agent = site.ready({"schedule": "0 3 * * *", "jet_command": "true"})
    assert "without `splay`" in agent.errors
    assert agent.stop() == 0


# -- suspension


def test_a_suspended_watch_starts_no_runs_and_says_why_in_every_skipped_check(site: Site) -> None:
    """Who, why and until when stand in status, why and the skipped checks; it survives a restart; resume ends it."""
    config = {"check_command": "true", "jet_command": "true", "check_interval": 1}
    site.once({**config, "check_command": "false"})
    site.jetp("suspend", "--reason", "database move", "--for", "2h")
    agent = site.start(config, "--no-splay")
    skipped = agent.wait_for("check_finished", result="skipped", nth=2)
    assert (skipped["reason"], skipped["suspended_reason"]) == ("suspended", "database move")
    assert skipped["suspended_by"]
    told = datetime.fromisoformat(skipped["suspended_until"]).timestamp() - time.time()
    assert 7100 < told < 7201
    suspended = site.standing()["suspended"]
    assert suspended["reason"] == "database move"
    assert "database move" in site.jetp("status").stdout
    assert "database move" in site.jetp("why").stdout
    assert agent.told("run_started") == []
    site.jetp("resume")
    agent.wait_for("resumed")
    agent.wait_for("run_finished", outcome="ok")
    assert site.standing()["suspended"] is None


def test_a_suspension_ends_by_itself(site: Site) -> None:
    """`--for`: when the time is over, `resumed` is told and runs start again."""
    agent = site.start({"check_command": "true", "jet_command": "true", "check_interval": 1}, "--no-splay")
    agent.wait_for("run_finished")
    site.jetp("suspend", "watch", "--reason", "a moment", "--for", "1s")
    agent.wait_for("suspended", reason="a moment")
    resumed = agent.wait_for("resumed", by="timer")
    agent.wait_for("run_started", nth=len(agent.told("run_started")) + 1)
    assert resumed["timestamp"] < agent.told("run_started")[-1]["timestamp"]


def test_a_suspension_never_stops_an_open_run(site: Site) -> None:
    """The open run goes on to its end, its hook with it; the next one is not started."""
    gate = site.gate()
    config = {
        "check_command": "true",
        "jet_command": site.shell(gate.text),
        "check_interval": 1,
        "on_ok": site.shell("echo told > hook"),
    }
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    agent.wait_for("step_started", step="play")
    site.jetp("suspend", "--reason", "x")
    gate.open()
    agent.wait_for("run_finished", outcome="ok")
    agent.wait_for("check_finished", result="skipped", reason="suspended")
    assert site.read("hook") == "told\n"
    assert len(agent.told("run_started")) == 1


def test_one_watch_can_be_suspended_alone(site: Site) -> None:
    """`jetp suspend WATCH` leaves the others alone."""
    defaults = {"check_command": "true", "jet_command": "true", "check_interval": 1}
    agent = site.start({"defaults": defaults, "watches": {"one": {}, "two": {}}}, "--no-splay", "--log-level", "debug")
    agent.wait_for("run_finished", watch="one")
    site.jetp("suspend", "one", "--reason", "x")
    agent.wait_for("check_finished", watch="one", result="skipped")
    number = len(agent.told("run_started", watch="two"))
    agent.wait_for("run_started", watch="two", nth=number + 1)


# -- signals


def test_usr1_checks_every_watch_now(site: Site) -> None:
    """Each watch is asked at once, although its interval has just begun."""
    defaults = {"check_command": "false", "jet_command": "true", "check_interval": 3600}
    config = {"defaults": defaults, "watches": {"one": {}, "two": {}}}
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    for watch in ("one", "two"):
        agent.wait_for("check_finished", watch=watch)
    agent.send(signal.SIGUSR1)
    for watch in ("one", "two"):
        agent.wait_for("check_finished", watch=watch, nth=2, within_s=10)
    assert left_s(site, "one") > 3500


def test_usr1_keeps_within_the_splay(site: Site) -> None:
    """With a splay the check comes within it, not at once for a whole fleet."""
    agent = site.start(quiet(site, check_interval=36000, splay=1000), "--log-level", "debug")
    agent.wait_for("splay_started")
    site.jetp("trigger", "--wait", code=None)
    assert left_s(site) > 30000
    agent.send(signal.SIGUSR1)
    until(lambda: left_s(site) < 1001)


# -- hours later


@needs_namespaces
@pytest.mark.parametrize("wall_s", [0, 3 * HOUR_S, -3 * HOUR_S], ids=["same", "later", "earlier"])
def test_a_suspension_is_counted_by_the_boot_time_clock(site: Site, wall_s: int) -> None:
    """`--for 2h` is over when 2 h have passed since boot, and not before, whatever the wall clock says."""
    config = {"check_command": "true", "jet_command": "true"}
    site.once({**config, "check_command": "false"})
    site.jetp("suspend", "--reason", "x", "--for", "2h")
    early = site.once(config, at=Elsewhen(wall_s=wall_s, boot_s=HOUR_S))
    assert early.told("run_started") == []
    site.once(config, at=Elsewhen(wall_s=wall_s, boot_s=2 * HOUR_S + 5)).wait_for("run_finished")


@needs_namespaces
def test_a_deadline_that_outlives_a_reboot_follows_the_wall_clock_but_never_grows(site: Site) -> None:
    """After a reboot the wall clock says how much is left; set far back, it never makes more than at first."""
    config = {"check_command": "true", "jet_command": "true"}
    site.once({**config, "check_command": "false"})
    site.jetp("suspend", "--reason", "x", "--for", "2h")
    agent = site.start(config, "--no-splay", "--log-level", "debug", at=Elsewhen(-100 * HOUR_S, 0, rebooted=True))
    until = agent.wait_for("check_finished", result="skipped")["suspended_until"]
    assert until is not None
    agent.kill9()
    site.once(config, at=Elsewhen(3 * HOUR_S, 0, rebooted=True)).wait_for("run_finished", outcome="ok")


@needs_namespaces
def test_after_a_long_sleep_there_is_one_check(site: Site) -> None:
    """The boot-time clock is hours ahead, as after a sleep: the interval is over, one check comes."""
    site.once(quiet(site, check_interval="1h"))
    agent = site.start(None, "--no-splay", "--log-level", "debug", at=Elsewhen(8 * HOUR_S, 8 * HOUR_S))
    agent.wait_for("check_finished")
    assert len(check_times(site)) == 2
