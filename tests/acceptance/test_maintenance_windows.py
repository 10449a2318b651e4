"""Windows (contract 3), through the installed jetp: when runs may start, what is remembered, what is said of it."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

from agent_process import JETP, Elsewhen, Site, until

HOUR_S = 3600


def hours(begin_h: float, end_h: float) -> list[dict[str, str]]:
    """One window from and to so many hours from now, by UTC."""
    now = datetime.now(UTC)
    begin, end = (f"{now + timedelta(hours=each):%H:%M}" for each in (begin_h, end_h))
    return [{"from": begin, "to": end, "timezone": "UTC"}]


CLOSED = (2, 4)
OPEN = (-2, 2)


def checked(site: Site, code: int = 0) -> str:
    """What `jetp check-config` says."""
    words = [JETP, "check-config", site.config]
    done = subprocess.run(words, env=site.environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done
    return done.stdout + done.stderr


def due(site: Site, window: tuple[float, float], **more: object) -> dict[str, Any]:
    """A watch that is always due."""
    play = site.shell("echo $JETWATCH_REVISION >> played")
    return {"check_command": site.check(0, revision="7"), "jet_command": play, "windows": hours(*window), **more}


def test_a_due_answer_outside_is_kept_and_said(site: Site) -> None:
    """check_finished, then run_deferred; status and why say until when; no run starts, however often it is checked."""
    agent = site.start(due(site, CLOSED, check_interval=1, splay="30m"), "--no-splay")
    deferred = agent.wait_for("run_deferred", reason="window", revision="7", trigger="check")
    agent.wait_for("check_finished", nth=3, result="due")
    opens = datetime.fromisoformat(deferred["until"])
    left_s = (opens - datetime.now(UTC)).total_seconds()
    assert 2 * HOUR_S - 120 < left_s < 2 * HOUR_S + 60
    standing = site.standing()
    assert standing["waiting_for"] == ["window"]
    assert datetime.fromisoformat(standing["window_opens"]) == opens
    (why,) = site.data("why")
    (window,) = [each for each in why["in_the_way"] if each["code"] == "window"]
    assert datetime.fromisoformat(window["until"]) == opens
    assert window["sentence"].startswith("window: it opens")
    assert "due since" in " ".join(site.jetp("why").stdout.split())
    assert agent.stop() == 0
    assert agent.told("run_started") == []
    assert len(agent.told("run_deferred")) == 1


def test_a_due_answer_inside_starts_at_once(site: Site) -> None:
    """And nothing is deferred."""
    agent = site.once(due(site, OPEN))
    assert agent.told("run_finished")[0]["outcome"] == "ok"
    assert agent.told("run_deferred") == []


def test_a_kept_answer_survives_a_kill_and_starts_in_its_window(site: Site) -> None:
    """The next agent lives two hours later, and its check says not due: the run starts all the same."""
    agent = site.start(due(site, CLOSED))
    agent.wait_for("run_deferred")
    agent.kill9()
    site.answer(1)
    later = site.start(None, at=Elsewhen(wall_s=2 * HOUR_S + 120))
    assert later.wait_for("run_finished", outcome="ok")["revision"] == "7"
    assert site.read_lines("played") == ["7"]
    assert site.standing()["due_since"] is None


def test_once_outside_leaves_with_75_and_keeps_the_answer(site: Site) -> None:
    """Something is left to do; in the window it is done."""
    site.once(due(site, CLOSED), code=75)
    site.answer(1)
    site.once(code=75)
    site.once(at=Elsewhen(wall_s=2 * HOUR_S + 120))
    assert site.read_lines("played") == ["7"]


def test_trigger_does_not_go_past_a_window(site: Site) -> None:
    """With --force the answer is kept; with --wait it is said that nothing starts, and the exit code is 1."""
    config = due(site, CLOSED, check_interval="1h")
    site.answer(1)
    agent = site.start(config, "--log-level", "debug")
    agent.wait_for("check_finished", result="not_due")
    said = site.jetp("trigger", "--force", "--wait", code=1)
    assert "no run starts now (window)" in said.stdout
    assert site.standing()["waiting_for"] == ["window"]
    assert agent.told("run_started") == []


def test_a_run_that_goes_on_when_its_window_closes_goes_on(site: Site) -> None:
    """The next agent takes it over although no window is open by then."""
    gate = site.gate()
    config = due(site, OPEN, check_interval="1h", on_ok=site.shell("echo told > told"))
    config["jet_command"] = site.shell(gate.text)
    agent = site.start(config)
    agent.wait_for("step_started", step="play")
    site.supervisor_of("play")
    agent.stop()
    later = site.start(None, at=Elsewhen(wall_s=3 * HOUR_S))
    later.wait_for("run_reattached")
    gate.open()
    later.wait_for("run_finished", outcome="ok")
    assert until(lambda: site.read("told")) == "told\n"


def test_a_window_that_will_not_do_is_refused_with_its_place(site: Site) -> None:
    """Every problem at once, exit code 78, and the effective configuration shows what was understood."""
    site.configure(
        "check_command: a\njet_command: b\nwindows:\n  - {days: mon-fry, from: 25:00}\n  - {from: 8:00, to: 8:00}\n"
    )
    refused = checked(site, code=78)
    assert f"{site.config}:4: windows[0].days: expected days such as" in refused
    assert f"{site.config}:4: windows[0].from: expected a time of day" in refused
    assert f"{site.config}:5: windows[1].to: a window has a length" in refused
    site.configure("check_command: a\njet_command: b\nwindows: [{days: [mon, wed-fri], from: 22:00, to: 4:00}]\n")
    assert "- days: [mon, wed-fri]\n      from: '22:00'\n      to: 04:00\n" in checked(site)
