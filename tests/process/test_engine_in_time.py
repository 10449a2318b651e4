"""What the engine does as time goes by: a real engine, real commands, a moved clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from engine_in_time import START_WALL_US, EngineInTime, MovedClock, moved, until
from msgspec.structs import replace

from jetwatch.records import (
    CheckResult,
    Command,
    Deadline,
    Outcome,
    PlannedBy,
    Run,
    Stamp,
    Step,
    StepState,
    Trigger,
    TriggerKind,
    WatchState,
)

HOUR_S = 3600.0
Make = Callable[[str], EngineInTime]


@pytest.fixture
def clock() -> MovedClock:
    """A clock that the test moves."""
    return MovedClock()


@pytest.fixture
def make(tmp_path: Path, clock: MovedClock) -> Make:
    """Makes engines over one state directory."""
    return lambda config: EngineInTime(tmp_path, config, clock)


def script(path: Path, text: str) -> Path:
    """An executable."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def left_open(opened: Stamp, command: Command, hooks: dict[str, Command] | None = None) -> Run:
    """A run that an earlier agent left between two commands."""
    steps = (
        Step(0, "download", command, StepState.ENDED, 1, opened, None),
        Step(1, "play", command),
    )
    return Run(
        id="11111111-1111-4111-8111-111111111111",
        watch="watch",
        trigger=Trigger(TriggerKind.CHECK, opened),
        attempt=1,
        revision="",
        previous_revision="",
        applied_revision="",
        values={},
        config_digest="",
        download_path="/nonexistent",
        download_owner=None,
        steps=steps,
        hooks=hooks or {},
        opened=opened,
        progressed=opened,
    )


def test_checks_come_start_to_start(make: Make, clock: MovedClock) -> None:
    """With an interval of 200 s a check comes each 200 s, and none between."""
    with make("check_command: 'false'\njet_command: 'true'\ncheck_interval: 200\n") as engine:
        engine.wait_for(1, "check_finished")
        for count in range(2, 6):
            clock.pass_s(199.9)
            engine.settle()
            engine.wait_for(count - 1, "check_finished")
            clock.pass_s(0.1)
            engine.wait_for(count, "check_finished", result="not_due")


def test_a_long_sleep_is_followed_by_one_check(make: Make, clock: MovedClock) -> None:
    """A machine that slept for ten intervals gets one check, and the next one an interval later."""
    with make("check_command: 'false'\njet_command: 'true'\ncheck_interval: 200\n") as engine:
        engine.wait_for(1, "check_finished")
        clock.pass_s(2000)
        engine.wait_for(2, "check_finished")
        clock.pass_s(199)
        engine.settle()
        engine.wait_for(2, "check_finished")
        clock.pass_s(1)
        engine.wait_for(3, "check_finished")


def test_a_step_of_the_wall_clock_changes_no_interval(make: Make, clock: MovedClock) -> None:
    """Ten years forward and back: the interval goes on as if nothing had been."""
    with make("check_command: 'false'\njet_command: 'true'\ncheck_interval: 200\n") as engine:
        engine.wait_for(1, "check_finished")
        for years in (10, -10):
            clock.set_wall(START_WALL_US + years * 365 * 86_400 * 1_000_000)
            engine.settle()
        engine.wait_for(1, "check_finished")
        clock.pass_s(200)
        engine.wait_for(2, "check_finished")


def test_a_step_of_the_wall_clock_is_written_down(make: Make, clock: MovedClock) -> None:
    """A schedule is planned anew, and the journal, which `jetp status` reads, knows at once."""
    with make("schedule: '0 3 * * *'\ntimezone: UTC\njet_command: 'true'\n") as engine:
        engine.settle()
        clock.set_wall(START_WALL_US + 3600 * 1_000_000)
        engine.settle()
        (state,) = engine.journal.watches().values()
        assert state.next_check is not None
        to_three_us = -(START_WALL_US + 3600 * 1_000_000 - 3 * 3600 * 1_000_000) % (86_400 * 1_000_000)
        assert state.next_check.at.boot_us - clock.now().boot_us == to_three_us


def test_not_due_checks_are_counted_once_an_hour(make: Make, clock: MovedClock) -> None:
    """One checks_folded line per hour says how many checks said not due."""
    with make("check_command: 'false'\njet_command: 'true'\ncheck_interval: 600\n") as engine:
        for count in range(1, 7):
            engine.wait_for(count, "check_finished")
            assert engine.told("checks_folded") == []
            clock.pass_s(600)
        (folded,) = engine.wait_for(1, "checks_folded")
        assert folded.count in (6, 7)


def test_a_hook_that_fails_three_times_is_delivered_at_the_fourth(
    make: Make, clock: MovedClock, tmp_path: Path
) -> None:
    """After 10, 20 and 40 s it is tried again, each time told how often; the cycle goes on meanwhile."""
    hook = script(tmp_path / "hook", f'echo $JETWATCH_DELIVERY >> {tmp_path}/tries; test "$JETWATCH_DELIVERY" = 4')
    once = script(tmp_path / "once", f"mkdir {tmp_path}/ran 2>/dev/null")
    with make(f"check_command: {once}\njet_command: 'true'\ncheck_interval: 1d\non_ok: {hook}\n") as engine:
        for tries, wait_s in ((1, 10), (2, 20), (3, 40)):
            retries = engine.wait_for(tries, "hook_retry")
            assert retries[-1].wait_s == wait_s
            clock.pass_s(wait_s - 0.1)
            engine.settle()
            engine.wait_for(tries, "step_finished", step="on_ok")
            clock.pass_s(0.1)
        engine.wait_for(1, "step_finished", step="on_ok", ok=True)
        assert engine.told("run_finished")[0].outcome == "ok"
    assert (tmp_path / "tries").read_text().split() == ["1", "2", "3", "4"]


def test_a_hook_that_never_succeeds_is_given_up_after_a_day(make: Make, clock: MovedClock, tmp_path: Path) -> None:
    """It is told and counted, and those behind it get their turn."""
    done = script(tmp_path / "done", f"touch {tmp_path}/done-ran")
    once = script(tmp_path / "once", f"mkdir {tmp_path}/ran 2>/dev/null")
    config = f"check_command: {once}\njet_command: 'true'\ncheck_interval: 7d\non_ok: 'false'\non_done: {done}\n"
    with make(config) as engine:
        engine.wait_for(1, "hook_retry")
        clock.pass_s(24 * HOUR_S)
        (abandoned,) = engine.wait_for(1, "hook_abandoned")
        assert (abandoned.step, abandoned.reason) == ("on_ok", "too_old")
        engine.wait_for(1, "step_finished", step="on_done", ok=True)
        assert engine.state().hooks_abandoned == 1


def test_a_failing_hook_holds_no_cycle(make: Make, clock: MovedClock) -> None:
    """Checks and runs go on while a hook waits for its next try; what stands behind it waits."""
    config = "check_command: 'true'\njet_command: 'true'\ncheck_interval: 2\non_done: 'false'\n"
    with make(config) as engine:
        engine.wait_for(1, "hook_retry")
        clock.pass_s(2)
        engine.wait_for(2, "run_finished")
        clock.pass_s(2)
        engine.wait_for(3, "run_finished")
        engine.wait_for(1, "step_finished", step="on_done")


def test_a_failed_run_is_tried_again_after_its_backoff(make: Make, clock: MovedClock, tmp_path: Path) -> None:
    """Same revision, attempt counting on, trigger retry; after max_attempts the revision is quarantined."""
    check = script(tmp_path / "check", f'echo revision=7 >> "$JETWATCH_OUTPUT"; mkdir {tmp_path}/asked')
    config = (
        f"check_command: {check}\njet_command: 'false'\ncheck_interval: 1d\n"
        "retry: {initial: 60, factor: 2, max_attempts: 3}\n"
    )
    with make(config) as engine:
        for attempt, wait_s in ((2, 30), (3, 60)):
            planned = engine.wait_for(attempt - 1, "retry_planned")[-1]
            assert (planned.attempt, planned.wait_s) == (attempt, wait_s)
            clock.pass_s(wait_s)
            engine.wait_for(1, "run_started", attempt=attempt, trigger="retry", revision="7")
        (quarantined,) = engine.wait_for(1, "quarantined")
        assert (quarantined.revision, quarantined.reason) == ("7", "max_attempts")
        clock.pass_s(HOUR_S)
        engine.settle()
        engine.wait_for(3, "run_finished", outcome="failed")


def test_a_check_in_error_is_asked_again_after_the_backoff(make: Make, clock: MovedClock) -> None:
    """With a retry policy the backoff takes the place of the regular time; on_error runs once per streak."""
    config = "check_command: sh -c 'exit 2'\njet_command: 'true'\ncheck_interval: 1d\nretry: {initial: 60}\n"
    with make(config + "on_error: 'true'\n") as engine:
        engine.wait_for(1, "check_finished", result="error")
        clock.pass_s(30)
        engine.wait_for(2, "check_finished", result="error")
        clock.pass_s(59)
        engine.settle()
        engine.wait_for(2, "check_finished")
        clock.pass_s(1)
        engine.wait_for(3, "check_finished", result="error")
        engine.wait_for(1, "step_finished", step="on_error")


def test_a_suspension_ends_by_itself(make: Make, clock: MovedClock) -> None:
    """Skipped checks say who and until when; after the time the next check runs."""
    with make("check_command: 'false'\njet_command: 'true'\ncheck_interval: 600\n") as engine:
        engine.wait_for(1, "check_finished", result="not_due")
        engine.runtime.post(lambda: engine.engine.suspend(None, by="eve", reason="tests", for_s=HOUR_S))
        engine.wait_for(1, "suspended")
        clock.pass_s(600)
        (skipped,) = engine.wait_for(1, "check_finished", result="skipped")
        assert (skipped.reason, skipped.suspended_by) == ("suspended", "eve")
        clock.pass_s(HOUR_S - 600)
        engine.wait_for(1, "resumed")
        engine.wait_for(2, "check_finished", result="not_due")


def test_a_run_that_stood_still_for_more_than_an_hour_is_cancelled(
    make: Make, clock: MovedClock, tmp_path: Path
) -> None:
    """An agent that comes back too late does not go on with it; on_fail runs."""
    fail = script(tmp_path / "fail", f'echo "$JETWATCH_OUTCOME" > {tmp_path}/said')
    engine = make(f"check_command: 'false'\njet_command: 'true'\non_fail: {fail}\n")
    opened = moved(clock.now(), -HOUR_S - 1)
    engine.remember(run=left_open(opened, Command(words=("true",)), {"on_fail": Command(words=(str(fail),))}))
    with engine:
        (finished,) = engine.wait_for(1, "run_finished")
        assert (finished.outcome, finished.reason) == ("cancelled", "stale")
        engine.wait_for(1, "step_finished", step="on_fail", ok=True)
    assert (tmp_path / "said").read_text() == "cancelled\n"


def test_a_run_between_two_commands_goes_on_within_the_hour(make: Make, clock: MovedClock) -> None:
    """The next agent starts the next command, and tells that it found the run."""
    engine = make("check_command: 'false'\njet_command: 'true'\n")
    engine.remember(run=left_open(moved(clock.now(), -HOUR_S + 1), Command(words=("true",))))
    with engine:
        engine.wait_for(1, "run_reattached")
        engine.wait_for(1, "run_finished", outcome="ok")


def test_three_runs_lost_to_reboots_hold_the_watch(make: Make, clock: MovedClock) -> None:
    """The third in a row holds it for an hour; then it is asked again."""
    engine = make("check_command: 'false'\njet_command: 'true'\ncheck_interval: 600\n")
    other_boot = replace(clock.now(), boot_id="another boot")
    engine.remember(
        run=left_open(other_boot, Command(words=("true",))), state=WatchState("watch", lost_in_a_row=2, attempt=2)
    )
    with engine:
        (finished,) = engine.wait_for(1, "run_finished", outcome="lost")
        assert finished.reason == "reboot"
        engine.wait_for(1, "held")
        engine.wait_for(1, "check_finished", result="skipped", reason="held")
        clock.pass_s(HOUR_S)
        engine.wait_for(1, "check_finished", result="not_due")


def test_reapply_makes_a_run_due_although_nothing_changed(make: Make, clock: MovedClock, tmp_path: Path) -> None:
    """When the last ok run is older than `reapply`, a check that says not due opens a run all the same."""
    once = script(tmp_path / "once", f"mkdir {tmp_path}/ran 2>/dev/null")
    with make(f"check_command: {once}\njet_command: 'true'\ncheck_interval: 600\nreapply: 1h\n") as engine:
        engine.wait_for(1, "run_finished", outcome="ok")
        clock.pass_s(600)
        engine.wait_for(1, "check_finished", result="not_due")
        engine.wait_for(1, "run_finished")
        clock.pass_s(HOUR_S)
        engine.wait_for(1, "run_started", trigger="reapply")


def test_a_schedule_fires_by_the_wall_clock(make: Make, clock: MovedClock) -> None:
    """A firing opens a run without a check; one that was missed while the clock stood still is made up once."""
    config = "schedule: '0 * * * *'\ntimezone: UTC\njet_command: 'true'\nsplay: 0\n"
    with make(config) as engine:
        engine.settle()
        assert engine.told("run_started") == []
        clock.pass_s(HOUR_S)
        engine.wait_for(1, "run_finished", outcome="ok")
        assert engine.told("run_started")[0].trigger == "schedule"
        clock.pass_s(5 * HOUR_S)
        engine.wait_for(2, "run_finished", outcome="ok")
        engine.settle()
        engine.wait_for(2, "run_started")


def test_plays_that_exclude_each_other_wait_their_turn(make: Make, tmp_path: Path) -> None:
    """Two watches with one `exclusive` name never play at the same time, and both play."""
    play = script(tmp_path / "play", f"mkdir {tmp_path}/alone || exit 9; sleep 0.2; rmdir {tmp_path}/alone")
    config = (
        f"defaults: {{check_command: 'true', jet_command: {play}, check_interval: 1d, exclusive: packages}}\n"
        "watches: {red: {}, blue: {}, green: {}}\n"
    )
    with make(config) as engine:
        engine.wait_for(3, "run_finished", outcome="ok")


def test_no_more_runs_than_max_runs_at_a_time(make: Make, tmp_path: Path) -> None:
    """With max_runs 1 three due watches run one after the other."""
    play = script(tmp_path / "play", f"mkdir {tmp_path}/alone || exit 9; sleep 0.2; rmdir {tmp_path}/alone")
    config = (
        f"max_runs: 1\ndefaults: {{check_command: 'true', jet_command: {play}, check_interval: 1d}}\n"
        "watches: {red: {}, blue: {}, green: {}}\n"
    )
    with make(config) as engine:
        engine.wait_for(3, "run_finished", outcome="ok")


def test_a_due_answer_waits_while_the_disk_is_low(make: Make, clock: MovedClock, tmp_path: Path) -> None:
    """It is said once, kept in the journal, and no run starts."""
    config = "check_command: 'true'\njet_command: 'true'\ncheck_interval: 600\ndisk_reserve: 100000 TiB\n"
    with make(config) as engine:
        engine.wait_for(1, "disk_low")
        clock.pass_s(600)
        engine.settle()
        engine.wait_for(1, "disk_low")
        state = engine.state()
        assert state.due is not None
        assert state.waiting_for == ("disk_low",)
        assert engine.told("run_started") == []
    assert state.last_result is CheckResult.DUE


def test_ok_is_the_outcome_of_a_run_that_ended_well(make: Make) -> None:
    """The journal holds what was told."""
    with make("check_command: 'true'\njet_command: 'true'\ncheck_interval: 1d\n") as engine:
        engine.wait_for(1, "run_finished", outcome="ok")
        assert engine.journal.run().outcome is Outcome.OK


def test_once_takes_up_a_retry_whose_time_has_come(tmp_path: Path, clock: MovedClock) -> None:
    """It takes the check's place: who calls `--once` from cron has failed runs tried again."""
    once = script(tmp_path / "once", f"mkdir {tmp_path}/ran 2>/dev/null")
    config = f"check_command: {once}\njet_command: 'false'\ncheck_interval: 200\nretry: {{initial: 60}}\n"
    with EngineInTime(tmp_path, config, clock, once=True) as engine:
        engine.wait_for(1, "retry_planned")
    clock.pass_s(60)
    with EngineInTime(tmp_path, config, clock, once=True) as engine:
        engine.wait_for(1, "run_finished", outcome="failed", trigger="retry", attempt=2)
        assert engine.told("check_finished") == []


def test_once_waits_for_no_grid_point(tmp_path: Path, clock: MovedClock) -> None:
    """With `phase: stable` the check comes at once, as with a schedule."""
    config = "check_command: 'false'\njet_command: 'true'\ncheck_interval: 1h\nphase: stable\n"
    with EngineInTime(tmp_path, config, clock, once=True) as engine:
        engine.wait_for(1, "check_finished", result="not_due")


def test_one_incident_is_told_once_with_its_end_whatever_restarts_between(
    make: Make, clock: MovedClock, tmp_path: Path
) -> None:
    """`after: 2, when: first`: retries count, a new agent goes on counting, on_recover comes with the first ok run."""
    play = script(tmp_path / "play", f"test -e {tmp_path}/healed")
    hooks = "".join(
        f"{name}: {{shell: 'echo {name} $JETWATCH_FAILURES $JETWATCH_OUTCOME >> {tmp_path}/told'{more}}}\n"
        for name, more in (("on_ok", ""), ("on_fail", ", after: 2, when: first"), ("on_recover", ""), ("on_done", ""))
    )
    check = script(tmp_path / "check", 'echo revision=7 >> "$JETWATCH_OUTPUT"')
    config = (
        f"check_command: {check}\njet_command: {play}\ncheck_interval: 7d\nretry: {{initial: 60, max: 60}}\n{hooks}"
    )
    with make(config) as engine:
        engine.wait_for(1, "step_finished", step="on_done")
        assert engine.told("incident_opened") == []
    clock.pass_s(30)
    with make(config) as engine:
        (opened,) = engine.wait_for(1, "incident_opened")
        assert (opened.failures, opened.outcome, opened.failed_step) == (2, "failed", "play")
        engine.wait_for(1, "step_finished", step="on_done")
        clock.pass_s(30)
        engine.wait_for(2, "step_finished", step="on_done")
        assert engine.state().failures_in_a_row == 3
    (tmp_path / "healed").touch()
    clock.pass_s(30)
    with make(config) as engine:
        (closed,) = engine.wait_for(1, "incident_closed")
        assert (closed.failures, closed.since, closed.duration_s) == (3, opened.since, 90.0)
        engine.wait_for(1, "step_finished", step="on_done")
        assert engine.told("incident_opened") == []
    assert (tmp_path / "told").read_text().splitlines() == [
        "on_done 1 failed",
        "on_fail 2 failed",
        "on_done 2 failed",
        "on_done 3 failed",
        "on_ok 3 ok",
        "on_recover 3 ok",
        "on_done 3 ok",
    ]


@pytest.mark.parametrize(
    ("config", "first", "then"),
    [
        ("check_command: 'false'\nsplay: 60\n", PlannedBy.SPLAY, PlannedBy.INTERVAL),
        ("check_command: sh -c 'exit 2'\nsplay: 60\nretry: on\n", PlannedBy.SPLAY, PlannedBy.BACKOFF),
        ("check_command: 'false'\nschedule: '14 14 * * *'\ntimezone: UTC\n", PlannedBy.SCHEDULE, PlannedBy.SCHEDULE),
        ("check_command: 'false'\nphase: stable\nsplay: 20\n", PlannedBy.GRID, PlannedBy.GRID),
    ],
)
def test_where_the_time_of_the_next_check_comes_from_is_kept(
    make: Make, clock: MovedClock, config: str, first: PlannedBy, then: PlannedBy
) -> None:
    """For `jetp why`: the splay of a start, the interval, a schedule, the stable grid, the backoff of an error."""
    with make(config + "jet_command: 'true'\n") as engine:
        engine.settle()
        until(lambda: engine.state().planned_by is first, "nothing was planned")
        clock.pass_s(200)
        engine.wait_for(1, "check_finished")
        assert engine.state().planned_by is then


def test_a_hold_that_is_over_does_not_keep_the_engine_awake(make: Make, clock: MovedClock, tmp_path: Path) -> None:
    """A due answer that still waits for a lock after its hold has passed waits without turning round and round."""
    gate = tmp_path / "gate"
    config = (
        "defaults: {check_interval: 7d, exclusive: packages}\nwatches:\n"
        f"  red: {{check_command: 'true', jet_command: {{shell: 'until [ -e {gate} ]; do sleep 0.02; done'}}}}\n"
        "  blue: {check_command: 'false', jet_command: 'true'}\n"
    )
    due = Trigger(TriggerKind.CHECK, clock.now())
    passed = Deadline.after(clock.now(), 0)
    turns: list[None] = []
    with make(config) as engine:
        engine.wait_for(1, "run_started", watch="red")
        engine.wait_for(1, "check_finished", watch="blue")

        def become_due() -> None:
            lane = engine.engine._lanes["blue"]
            advance = lane.advance
            lane.advance = lambda: (turns.append(None), advance())[1]  # type: ignore[method-assign]
            lane.put_state(replace(lane.state, due=due, held_until=passed))
            engine.engine.changed(lane)

        engine.runtime.post(become_due)
        for _ in range(50):
            engine.settle()
        assert engine.state("blue").waiting_for == ("exclusive:packages",)
        assert len(turns) < 10
        gate.touch()
        engine.wait_for(1, "run_finished", watch="blue", outcome="ok")


def test_what_stood_for_its_hooks_goes_when_they_are_delivered(make: Make, clock: MovedClock, tmp_path: Path) -> None:
    """Not only at the end of the next run: there may be none before there is room again."""
    answer = tmp_path / "answer"
    answer.write_text("exit 0")
    check = script(tmp_path / "check", f". {answer}")
    config = (
        f"check_command: {check}\njet_command: 'true'\ncheck_interval: 100\nretain: {{runs: 1}}\n"
        f"on_done: test -e {tmp_path}/up\n"
    )
    with make(config) as engine:
        for number in range(1, 4):
            engine.wait_for(number, "run_finished")
            engine.wait_for(1, "hook_retry", delivery=number)
            answer.write_text("exit 0" if number < 3 else "exit 1")
            clock.pass_s(100)
        assert len(list(engine.layout.runs.iterdir())) == 3
        (tmp_path / "up").touch()
        clock.pass_s(HOUR_S)
        until(lambda: len(list(engine.layout.runs.iterdir())) == 1, "the directories of old runs stay")
        engine.wait_for(3, "run_finished")
