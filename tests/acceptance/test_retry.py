"""Retry, quarantine and what holds a revision (contract 4): attempts count on, nothing is tried for ever."""

from __future__ import annotations

import signal
import time
from datetime import datetime
from typing import Any

import pytest
from agent_process import Site, until

QUICK = {"initial": "1s", "max": "1s"}
SLOW = {"initial": "10h", "max": "10h"}
"""A delay that is drawn from this one is a moment with a probability of 1 in 10,000 only."""


def failing(site: Site, **more: object) -> dict[str, Any]:
    """A watch whose check says due for revision r1, and whose play fails until the file `fixed` is there."""
    return {
        "check_command": site.check(0, revision="r1"),
        "jet_command": site.shell(
            'echo "$JETWATCH_ATTEMPT $JETWATCH_TRIGGER $JETWATCH_REVISION" >> plays; [ -e fixed ]'
        ),
        **more,
    }


def test_without_a_policy_the_next_check_decides(site: Site) -> None:
    """`retry` is off by default: nothing is planned, the next check says whether there is another run."""
    agent = site.start(failing(site, check_interval=1), "--no-splay")
    second = agent.wait_for("run_started", nth=2)
    assert (second["trigger"], second["attempt"]) == ("check", 2)
    assert agent.told("retry_planned") == []


def test_a_failed_run_is_retried_without_asking_the_check(site: Site) -> None:
    """Same revision and outputs, attempt + 1, trigger retry; the attempts end with a run that ends ok."""
    config = failing(site, check_interval=3600, retry=QUICK)
    config["check_command"] = site.check(0, revision="r1", size="7")
    config["jet_command"] = site.shell(
        'echo "$JETWATCH_ATTEMPT $JETWATCH_TRIGGER $JETWATCH_REVISION $JETWATCH_OUTPUTS_SIZE" >> plays;'
        '[ "$JETWATCH_ATTEMPT" = 3 ]'
    )
    agent = site.start(config, "--no-splay")
    agent.wait_for("run_finished", outcome="ok")
    assert site.read_lines("plays") == ["1 check r1 7", "2 retry r1 7", "3 retry r1 7"]
    assert len(site.read_lines("checks")) == 1
    planned = agent.told("retry_planned")
    assert [line["attempt"] for line in planned] == [2, 3]
    assert all(line["wait_s"] >= 1 for line in planned)
    assert site.standing()["attempt"] == 0


def test_a_check_that_is_due_takes_the_place_of_the_retry(site: Site) -> None:
    """Regular checks go on meanwhile; the run that one opens counts on, and the planned retry is dropped."""
    agent = site.start(failing(site, check_interval=1, retry=SLOW), "--no-splay")
    agent.wait_for("retry_planned")
    second = agent.wait_for("run_started", nth=2)
    assert (second["trigger"], second["attempt"]) == ("check", 2)
    assert agent.wait_for("retry_planned", nth=2)["attempt"] == 3


def test_a_check_that_is_not_due_leaves_the_retry_alone(site: Site) -> None:
    """A regular check that says not due does not end the retry of the failed run."""
    config = failing(site, check_interval=1, retry={"initial": "1s", "max": "1s"})
    config["jet_command"] = site.shell('echo 1 > answer; echo "$JETWATCH_TRIGGER" >> plays; [ -e fixed ]')
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    agent.wait_for("run_started", trigger="retry", attempt=3)
    assert set(site.read_lines("plays")[1:]) == {"retry"}


def test_the_delay_survives_a_restart(site: Site) -> None:
    """The next agent retries at the planned time, not later and not at once."""
    config = failing(site, check_interval=3600, retry=SLOW)
    first = site.start(config, "--no-splay")
    planned = datetime.fromisoformat(first.wait_for("retry_planned")["at"])
    first.kill9()
    site.answer(1)
    second = site.start(None, "--no-splay", "--log-level", "debug")
    second.wait_for("check_finished", result="not_due")
    left = datetime.fromisoformat(site.standing()["retry_at"])
    assert abs((left - planned).total_seconds()) < 1
    assert second.told("run_started") == []
    assert "retry" in site.jetp("why").stdout


def test_a_retry_that_came_due_meanwhile_runs_at_once(site: Site) -> None:
    """The agent was down when the retry came: it is made up at the start."""
    first = site.start(failing(site, check_interval=3600, retry=QUICK), "--no-splay")
    at = datetime.fromisoformat(first.wait_for("retry_planned")["at"])
    first.kill9()
    site.answer(1)
    (site.root / "fixed").touch()
    remaining = at.timestamp() - time.time()
    second = site.start(None, "--no-splay")
    ended = second.wait_for("run_finished")
    assert (ended["trigger"], ended["attempt"], ended["outcome"]) == ("retry", 2, "ok")
    assert remaining < 1.1


def test_once_takes_up_a_retry_that_is_due(site: Site) -> None:
    """Before its time --once leaves it alone; after it the run is retried, although the check would say not due."""
    config = failing(site, check_interval=3600, retry=SLOW)
    site.once(config, code=1)
    site.answer(1)
    (site.root / "fixed").touch()
    assert site.once().told("run_started") == []
    site.jetp("clear")
    (site.root / "fixed").unlink()
    site.answer(0, revision="r1")
    planned = site.once({**config, "retry": QUICK}, code=1).told("retry_planned")[0]
    site.answer(1)
    (site.root / "fixed").touch()
    until(lambda: time.time() > datetime.fromisoformat(planned["at"]).timestamp())
    run = site.once().told("run_finished", outcome="ok")[0]
    assert (run["trigger"], run["attempt"]) == ("retry", 2)


def test_a_retry_waits_for_the_end_of_a_suspension(site: Site) -> None:
    """Suspended, a retry that comes due is not started; resumed, it is, and still as a retry."""
    config = failing(site, check_interval=1, retry=QUICK)
    config["jet_command"] = site.shell('echo 1 > answer; echo "$JETWATCH_TRIGGER" >> plays; [ -e fixed ]')
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    agent.wait_for("retry_planned")
    site.jetp("suspend", "--reason", "x")
    number = len(agent.told("run_started"))
    agent.wait_for("check_finished", result="skipped", reason="suspended", nth=2)
    assert len(agent.told("run_started")) == number
    (site.root / "fixed").touch()
    site.jetp("resume")
    ended = agent.wait_for("run_finished", outcome="ok")
    assert ended["trigger"] == "retry"


@pytest.mark.parametrize("how", ["failed", "timeout", "lost"])
def test_what_did_not_end_well_counts_as_an_attempt(site: Site, how: str) -> None:
    """`failed`, `timeout` and `lost` are each followed by a retry, and use up attempts."""
    play = {"failed": "exit 1", "timeout": "sleep 1000; :", "lost": "kill -KILL $PPID; sleep 1000; :"}[how]
    config = {
        "check_command": site.check(0, revision="r1"),
        "jet_command": site.shell(play),
        "check_interval": 3600,
        "timeouts": {"play": "0.4s" if how == "timeout" else "60s", "grace": "0.1s"},
        "retry": {**QUICK, "max_attempts": 2},
    }
    agent = site.start(config, "--no-splay")
    assert agent.wait_for("quarantined")["revision"] == "r1"
    ended = agent.told("run_finished")
    assert [(run["outcome"], run["attempt"]) for run in ended] == [(how, 1), (how, 2)]


def quarantined(site: Site) -> Any:
    """An agent that has used up the two attempts of r1."""
    config = failing(site, check_interval=1, retry={**QUICK, "max_attempts": 2})
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    assert agent.wait_for("quarantined")["reason"] == "max_attempts"
    return agent


def test_after_max_attempts_a_revision_starts_no_more_runs(site: Site) -> None:
    """Its checks are skipped with that reason, status and why say so, a new agent knows it, trigger does not help."""
    agent = quarantined(site)
    agent.wait_for("check_finished", result="skipped", reason="quarantined", nth=2)
    assert len(agent.told("run_started")) == 2
    standing = site.standing()
    assert (standing["quarantined_revision"], standing["quarantine_reason"]) == ("r1", "max_attempts")
    assert site.jetp("status", "--check", code=1)
    assert "r1 is quarantined" in site.jetp("why").stdout
    assert "r1 is quarantined" in site.jetp("trigger", "--wait", "--force", code=1).stdout
    assert len(agent.told("run_started")) == 2
    agent.stop()
    assert site.once(None, "--log-level", "debug").told("check_finished", result="skipped", reason="quarantined")


def test_another_revision_lifts_a_quarantine(site: Site) -> None:
    """The first check that sees another revision opens a run of it, at attempt 1."""
    agent = quarantined(site)
    site.answer(0, revision="r2")
    run = agent.wait_for("run_started", revision="r2")
    assert run["attempt"] == 1
    assert site.standing()["quarantined_revision"] in (None, "r2")


def test_clear_lifts_a_quarantine(site: Site) -> None:
    """After `jetp clear` the same revision is tried again, at attempt 1."""
    agent = quarantined(site)
    (site.root / "fixed").touch()
    assert site.jetp("clear", "watch").stdout.strip() == "watch: cleared"
    agent.wait_for("cleared")
    assert agent.wait_for("run_finished", outcome="ok")["attempt"] == 1


def test_without_a_revision_there_are_only_no_more_retries(site: Site) -> None:
    """No quarantine of a nameless revision: a check that is due opens a run as ever."""
    config = failing(site, check_interval=1, retry={**SLOW, "max_attempts": 1})
    config["check_command"] = site.check(0)
    agent = site.start(config, "--no-splay")
    assert agent.wait_for("run_started", nth=3)["trigger"] == "check"
    assert agent.told("quarantined") == agent.told("retry_planned") == []


def test_a_cancelled_run_holds_its_revision_and_is_no_attempt(site: Site) -> None:
    """After `jetp cancel` the revision is held as by quarantine; cleared, its next run is attempt 1; no retry."""
    gate = site.gate()
    config = failing(site, check_interval=1, retry=QUICK)
    config["jet_command"] = site.shell(f"echo x >> plays; {gate.text}")
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    agent.wait_for("step_started", step="play")
    site.supervisor_of("play")
    site.jetp("cancel")
    assert agent.wait_for("run_finished")["outcome"] == "cancelled"
    assert agent.wait_for("quarantined")["reason"] == "cancelled"
    agent.wait_for("check_finished", result="skipped", reason="quarantined")
    assert agent.told("retry_planned") == []
    gate.open()
    site.jetp("clear")
    assert agent.wait_for("run_finished", outcome="ok")["attempt"] == 1


def test_a_run_cancelled_by_the_agents_stop_is_not_held(site: Site) -> None:
    """INT twice: the revision is tried again by the next agent, at attempt 1."""
    gate = site.gate()
    config = failing(site, check_interval=1, retry=SLOW)
    config["jet_command"] = site.shell(f"{gate.text}")
    first = site.start(config, "--no-splay")
    site.supervisor_of("play")
    first.send(signal.SIGINT)
    first.wait_for("agent_stopping")
    first.send(signal.SIGINT)
    assert first.wait() == 0
    assert first.told("quarantined") == first.told("retry_planned") == []
    gate.open()
    again = site.once()
    assert again.told("run_finished")[0]["attempt"] == 1


def test_a_check_in_error_is_asked_again_after_the_backoff(site: Site) -> None:
    """With a policy an error does not wait for the regular time; `attempt` counts the errors in a row."""
    check = site.shell('echo "$JETWATCH_ATTEMPT" >> attempts; exit "$(cat answer)"')
    config = {"check_command": check, "jet_command": "true", "check_interval": 3600, "retry": QUICK}
    site.answer(9)
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    agent.wait_for("check_finished", result="error", nth=2)
    assert agent.wait_for("retry_planned")["attempt"] == 2
    site.answer(1)
    agent.wait_for("check_finished", result="not_due")
    assert site.read_lines("attempts")[:2] == ["1", "2"]
    assert site.standing()["check_errors"] == 0


def test_clear_asks_a_check_that_its_errors_put_off(site: Site) -> None:
    """After `jetp clear` a check that would wait for hours is asked at once, where there is no splay."""
    config = {"check_command": site.check(9), "jet_command": "true", "check_interval": 3600, "retry": SLOW}
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    agent.wait_for("retry_planned")
    site.answer(1)
    site.jetp("clear")
    agent.wait_for("check_finished", result="not_due")


def test_without_a_policy_an_error_waits_for_the_regular_time(site: Site) -> None:
    """A check in error is asked again when it would have been asked anyway."""
    config = {"check_command": site.check(9), "jet_command": "true", "check_interval": 3600}
    agent = site.start(config, "--no-splay")
    agent.wait_for("check_finished", result="error")
    left = datetime.fromisoformat(site.standing()["next_check"]).timestamp() - time.time()
    assert 3590 < left <= 3600.5  # status tells the nearest second


def test_reapply_opens_a_run_although_nothing_changed(site: Site) -> None:
    """Not due, but the last ok run is older than `reapply`: a run with that trigger; before an ok run there is none."""
    config = {"check_command": site.check(1), "jet_command": "true", "check_interval": 1, "reapply": "2s"}
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    agent.wait_for("check_finished", result="not_due", nth=2)
    assert agent.told("run_started") == []
    site.answer(0)
    first = agent.wait_for("run_finished", trigger="check", outcome="ok")
    site.answer(1)
    again = agent.wait_for("run_started", trigger="reapply")
    waited = datetime.fromisoformat(again["timestamp"]) - datetime.fromisoformat(first["timestamp"])
    assert waited.total_seconds() >= 2
