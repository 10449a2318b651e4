"""What each command is told: the same values to templates and to the environment, and always every name."""

from __future__ import annotations

from typing import Any

import pytest
from builders import BAD, NOW, closed, ended, later, owed, rebooted, run, started, step, trigger, watch

from jetwatch import words
from jetwatch.engine.variables import (
    Host,
    Streak,
    Variables,
    delivery_id,
    for_check,
    for_hook,
    for_step,
    owed_for_error,
    owed_with,
    step_id,
)
from jetwatch.records import Outcome, TriggerKind

HOST = Host("node-1", "/var/lib/jetwatch")
STATE = watch(applied_revision="c", last_ok_revision="b", check_errors=2)
RUN = run(
    started("play", attempt=2),
    trigger=trigger(TriggerKind.RETRY),
    attempt=3,
    revision="d",
    previous_revision="b",
    applied_revision="c",
    values={"revision": "d", "colour": "red"},
)
CLOSED = closed(
    Outcome.FAILED,
    ended("play", BAD),
    revision="d",
    previous_revision="b",
    applied_revision="c",
    exit_code=3,
    failed_step="play",
    closed=later(1.5),
)
STREAK = Streak(3, NOW)
OF_A_CHECK = for_check(STATE, TriggerKind.CHECK, 3, HOST)
OF_A_STEP = for_step(RUN, HOST)
OF_A_HOOK = for_hook(owed(values=owed_with(CLOSED, STATE, STREAK, HOST, "/out"), outputs=CLOSED.values))
OF_AN_ERROR = for_hook(owed(run_id=None, values=owed_for_error(STATE, HOST, 2)))


@pytest.mark.parametrize(
    ("variables", "known"),
    [
        (OF_A_CHECK, words.CHECK_VARIABLES),
        (OF_A_STEP, words.RUN_VARIABLES),
        (OF_A_HOOK, words.HOOK_VARIABLES),
        (OF_AN_ERROR, words.HOOK_VARIABLES),
    ],
    ids=["check", "step", "hook", "on_error"],
)
def test_every_name_that_a_template_may_use_is_there(variables: Variables, known: frozenset[str]) -> None:
    """What the configuration accepted can be rendered; besides, there are names for the environment alone."""
    assert known <= set(variables)
    assert set(variables) - known <= {"applied_revision", "last_ok_revision", "delivery"}
    words.as_environment(variables)


def test_a_check_is_told_of_what_was_before() -> None:
    """`attempt` is its own number in a streak of errors."""
    assert OF_A_CHECK == {
        "watch": "web",
        "hostname": "node-1",
        "state_dir": "/var/lib/jetwatch",
        "previous_revision": "b",
        "attempt": "3",
        "trigger": "check",
        "applied_revision": "c",
        "last_ok_revision": "b",
    }


def test_a_step_is_told_of_its_run() -> None:
    """The environment has the same values, outputs one by one."""
    assert words.as_environment(OF_A_STEP) == {
        "JETWATCH_WATCH": "web",
        "JETWATCH_HOSTNAME": "node-1",
        "JETWATCH_STATE_DIR": "/var/lib/jetwatch",
        "JETWATCH_PREVIOUS_REVISION": "b",
        "JETWATCH_ATTEMPT": "3",
        "JETWATCH_TRIGGER": "retry",
        "JETWATCH_PLAY_UUID": "run-1",
        "JETWATCH_DOWNLOAD_PATH": "/downloads/run-1",
        "JETWATCH_REVISION": "d",
        "JETWATCH_OUTPUTS_REVISION": "d",
        "JETWATCH_OUTPUTS_COLOUR": "red",
        "JETWATCH_APPLIED_REVISION": "c",
        "JETWATCH_LAST_OK_REVISION": "b",
    }


def test_a_hook_is_told_how_its_run_ended() -> None:
    """Outcome, exit code, failed step, duration, output, and what is applied now."""
    expected: dict[str, Any] = {
        "outcome": "failed",
        "exit_code": "3",
        "failed_step": "play",
        "duration": "1.500",
        "output_path": "/out",
        "failures": "3",
        "failing_since": "2026-01-15T12:00:00.000000Z",
        "applied_revision": "c",
        "delivery": "1",
    }
    assert {name: OF_A_HOOK[name] for name in expected} == expected


def test_a_hook_is_told_what_its_own_run_applied() -> None:
    """The state after the run counts, not the one that the run began with."""
    told = owed_with(CLOSED, watch(applied_revision="d", last_ok_revision="d"), STREAK, HOST, "")
    assert (told["applied_revision"], told["last_ok_revision"], told["previous_revision"]) == ("d", "d", "b")


def test_a_hook_of_an_open_run_has_empty_words_for_what_is_not_known_yet() -> None:
    """on_start comes before any end."""
    told = owed_with(RUN, STATE, Streak(), HOST, "")
    empty = ("outcome", "exit_code", "failed_step", "duration", "output_path", "failing_since")
    assert [told[name] for name in empty] == [""] * 6
    assert told["failures"] == "0"


@pytest.mark.parametrize(
    ("end", "duration"), [(later(0), "0.000"), (later(90_061.0004), "90061.000"), (rebooted(60), "")]
)
def test_a_duration_is_known_within_one_boot(end: Any, duration: str) -> None:
    """Across a reboot the clocks say nothing about it."""
    assert owed_with(closed(Outcome.OK, closed=end), STATE, STREAK, HOST, "")["duration"] == duration


def test_on_error_is_told_of_the_check() -> None:
    """It belongs to no run, so whatever a run would say is empty."""
    expected: dict[str, Any] = {
        "failed_step": "check",
        "exit_code": "2",
        "attempt": "2",
        "play_uuid": "",
        "outcome": "",
        "revision": "",
        "output_path": "",
        "outputs": {},
    }
    assert {name: OF_AN_ERROR[name] for name in expected} == expected
    assert owed_for_error(STATE, HOST, None)["exit_code"] == ""


def test_a_delivery_is_numbered_by_the_tries_that_ran() -> None:
    """The first one is 1, whatever happened to starts that never ran."""
    assert for_hook(owed(attempt=4, deliveries=0))["delivery"] == "1"
    assert for_hook(owed(attempt=4, deliveries=3))["delivery"] == "4"


def test_every_start_has_a_name_of_its_own() -> None:
    """Of each attempt of each step of each run, and of each hook with or without a run."""
    names = [
        step_id("run-1", step("download", attempt=1)),
        step_id("run-1", step("play", attempt=1)),
        step_id("run-1", step("play", attempt=2)),
        step_id("run-2", step("play", attempt=1)),
        delivery_id(owed(attempt=1)),
        delivery_id(owed(attempt=2)),
        delivery_id(owed(name="on_done", attempt=1)),
        delivery_id(owed(name="on_error", run_id=None, id=8, attempt=1)),
        delivery_id(owed(name="on_error", run_id=None, id=9, attempt=1)),
    ]
    assert len(set(names)) == len(names)
    assert names[0] == "run-1.download.1"
    assert names[-1] == "hook-9.on_error.1"
