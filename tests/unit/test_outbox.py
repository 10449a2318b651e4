"""Hooks that are owed: delivered at least once, in order, tried again ever more rarely, given up in the end."""

from __future__ import annotations

import random

import pytest
from builders import BAD, DAY, NOW, OK, TRUE, S, closed, later, owed, rebooted, result, run, wait_s, watch
from msgspec.structs import replace

from jetwatch.engine.incident import Turn
from jetwatch.engine.outbox import (
    Await,
    Conclude,
    Deliver,
    HookAction,
    after_try,
    decide_hook,
    give_up,
    give_up_reason,
    owed_at_close,
    stops_a_cycle,
)
from jetwatch.engine.verbs import rfc3339
from jetwatch.events import HookAbandoned, HookRetry
from jetwatch.records import (
    CommandResult,
    Deadline,
    Ending,
    Evidence,
    HookState,
    OutboxEntry,
    Outcome,
    Sight,
    Stamp,
)

IN_TEN = Deadline.after(NOW, 10 * S)

# --- delivery ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "evidence", "now", "expected"),
    [
        (owed(), None, NOW, Deliver()),
        (owed(), None, rebooted(), Deliver()),
        (owed(not_before=IN_TEN), None, NOW, Await(IN_TEN)),
        (owed(not_before=IN_TEN), None, later(9.9), Await(IN_TEN)),
        (owed(not_before=IN_TEN), None, later(10), Deliver()),
        (owed(not_before=IN_TEN), None, rebooted(5), Await(IN_TEN)),
        (owed(not_before=IN_TEN), None, rebooted(10), Deliver()),
        (owed(attempt=1, in_flight=True), Evidence(Sight.ALIVE), NOW, Await()),
        (owed(attempt=1, in_flight=True), Evidence(Sight.DONE, result=OK), NOW, Conclude(OK)),
        (owed(attempt=1, in_flight=True), Evidence(Sight.DONE, result=BAD), rebooted(), Conclude(BAD)),
        (owed(attempt=1, in_flight=True), Evidence(Sight.GONE), NOW, Conclude(None)),
        (owed(attempt=1, in_flight=True), Evidence(Sight.NEVER_RAN), NOW, Deliver()),
        (owed(attempt=1, in_flight=True, started=NOW), Evidence(Sight.NEVER_RAN), later(60), Deliver()),
        (owed(attempt=1, in_flight=True, started=NOW), Evidence(Sight.NEVER_RAN), rebooted(), Conclude(None)),
        (owed(attempt=1, in_flight=True, started=NOW), Evidence(Sight.DONE, result=OK), rebooted(), Conclude(OK)),
        (owed(attempt=1, in_flight=True), None, NOW, Deliver()),
    ],
)
def test_the_head_of_the_queue(entry: OutboxEntry, evidence: Evidence | None, now: Stamp, expected: HookAction) -> None:
    """It is delivered, waited for, or concluded: by its own time and by what its directory shows."""
    assert decide_hook(entry, evidence, now) == expected


@pytest.mark.parametrize("state", [{}, {"not_before": IN_TEN, "deliveries": 4}])
def test_a_try_that_ended_well_delivers_the_hook(state: dict[str, object]) -> None:
    """There is nothing more to tell than the step's own end."""
    entry, events = after_try(owed(attempt=5, in_flight=True, **state), OK, NOW, waiting=1)
    assert (entry.state, entry.in_flight, entry.not_before, entry.result) == (HookState.DELIVERED, False, None, OK)
    assert entry.deliveries == owed(**state).deliveries + 1
    assert events == ()


def test_an_exit_code_that_was_allowed_delivers_it() -> None:
    """ok_exit_codes hold for hooks too."""
    allowing = owed(command=replace(TRUE, ok_exit_codes=(3,)))
    assert after_try(allowing, BAD, NOW, waiting=1)[0].state is HookState.DELIVERED
    assert after_try(allowing, OK, NOW, waiting=1)[0].state is HookState.OWED


@pytest.mark.parametrize(
    "how",
    [
        BAD,
        None,
        result(Ending.TIMEOUT),
        result(Ending.SIGNALLED, exit_code=137),
        result(Ending.NOT_STARTED, reason="no_such_file"),
        result(exit_code=0, reason="bad_output"),
    ],
)
def test_a_try_that_failed_leaves_the_hook_owed(how: CommandResult | None) -> None:
    """It is told, with the time of the next try; what its supervisor took along counts as failed."""
    entry, events = after_try(owed(attempt=1, in_flight=True), how, NOW, waiting=1)
    assert (entry.state, entry.in_flight, entry.deliveries, entry.result) == (HookState.OWED, False, 1, how)
    at = rfc3339(later(10).wall_us)
    assert events == (HookRetry(watch="web", play_uuid="run-1", step="on_ok", at=at, delivery=1, wait_s=10),)


def test_the_pause_between_tries_doubles_up_to_an_hour() -> None:
    """10 s, 20 s, 40 s, ... 3600 s."""
    entry, now, pauses = owed(), NOW, []
    for _ in range(12):
        entry, _ = after_try(entry, BAD, now, waiting=1)
        pauses.append(wait_s(entry.not_before, now))
    assert pauses == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]


@pytest.mark.parametrize("reason", ["no_room", "no_supervisor"])
def test_a_hook_that_found_no_room_is_tried_again_within_half_a_minute(reason: str) -> None:
    """Nobody was called in vain; and as long as it is owed, its run and those behind it take up room."""
    entry, pauses = owed(), []
    for _ in range(4):
        entry, _ = after_try(entry, result(Ending.NOT_STARTED, reason=reason), NOW, waiting=1)
        pauses.append(wait_s(entry.not_before, NOW))
    assert pauses == [10, 20, 30, 30]


@pytest.mark.parametrize(
    ("now", "gives_up"),
    [
        (later(86_399), False),
        (later(86_400), True),
        (later(86_399, clock_set_s=10 * 365 * 86_400), False),
        (later(86_400, clock_set_s=-10 * 365 * 86_400), True),
        (rebooted(86_399), False),
        (rebooted(86_400), True),
        (rebooted(60, clock_set_s=-10 * 365 * 86_400), False),
    ],
)
def test_a_hook_is_given_up_after_a_day(now: Stamp, gives_up: bool) -> None:
    """Within its boot the boot-time clock counts, whatever the wall clock says; across a reboot the wall clock does."""
    entry, events = after_try(owed(attempt=30, deliveries=30, in_flight=True), BAD, now, waiting=1)
    if gives_up:
        assert (entry.state, entry.in_flight) == (HookState.ABANDONED, False)
        assert events == (HookAbandoned(watch="web", play_uuid="run-1", step="on_ok", deliveries=31, reason="too_old"),)
    else:
        assert entry.state is HookState.OWED
        assert isinstance(events[0], HookRetry)


def test_a_try_that_ends_well_counts_however_old_the_hook_is() -> None:
    """Nothing is given up that was delivered."""
    assert after_try(owed(), OK, later(10 * 86_400), waiting=5_000)[0].state is HookState.DELIVERED


@pytest.mark.parametrize(("waiting", "reason"), [(1, None), (999, None), (1_000, "too_many_waiting")])
def test_a_hook_that_failed_is_given_up_when_too_many_wait_behind_it(waiting: int, reason: str | None) -> None:
    """A thousand hooks of one watch are owed at most."""
    assert give_up_reason(owed(), NOW, waiting=waiting) == reason
    state = HookState.ABANDONED if reason else HookState.OWED
    assert after_try(owed(), BAD, NOW, waiting=waiting)[0].state is state


def test_a_hook_that_belongs_to_no_run_is_given_up_without_one() -> None:
    """on_error has no play_uuid."""
    entry, events = give_up(owed(run_id=None, name="on_error", deliveries=2, in_flight=True), "too_old")
    assert (entry.state, entry.in_flight) == (HookState.ABANDONED, False)
    assert events == (HookAbandoned(watch="web", play_uuid="", step="on_error", deliveries=2, reason="too_old"),)


# --- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "stops"),
    [
        (None, False),
        (owed(), True),
        (owed(attempt=1, in_flight=True), True),
        (owed(attempt=1, deliveries=1, not_before=IN_TEN), False),
        (owed(attempt=2, deliveries=1, in_flight=True), False),
    ],
)
def test_the_first_try_comes_before_the_next_check(head: OutboxEntry | None, stops: bool) -> None:
    """Further tries happen in the background and hold no cycle."""
    assert stops_a_cycle(head) is stops


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_run_owes_the_hook_of_its_outcome_and_then_on_done(outcome: Outcome) -> None:
    """Everything but ok runs on_fail; on_start and on_error are not owed at the end."""
    hooks = dict.fromkeys(("on_done", "on_recover", "on_fail", "on_ok", "on_start", "on_error"), TRUE)
    first = "on_ok" if outcome is Outcome.OK else "on_fail"
    assert owed_at_close(closed(outcome, hooks=hooks), Turn(watch())) == (first, "on_done")


def test_on_recover_comes_between_on_ok_and_on_done() -> None:
    """And on_fail is left out for a failure that nobody wants to hear of."""
    hooks = dict.fromkeys(("on_done", "on_recover", "on_fail", "on_ok"), TRUE)
    recovered, quiet = Turn(watch(), recovered=True), Turn(watch(), tells_failure=False)
    assert owed_at_close(closed(Outcome.OK, hooks=hooks), recovered) == ("on_ok", "on_recover", "on_done")
    assert owed_at_close(closed(Outcome.FAILED, hooks=hooks), quiet) == ("on_done",)


@pytest.mark.parametrize(
    ("hooks", "owes"), [((), ()), (("on_done",), ("on_done",)), (("on_ok",), ()), (("on_fail",), ("on_fail",))]
)
def test_a_hook_that_is_not_configured_is_not_owed(hooks: tuple[str, ...], owes: tuple[str, ...]) -> None:
    """Each of them is optional."""
    assert owed_at_close(run(hooks=dict.fromkeys(hooks, TRUE), outcome=Outcome.LOST), Turn(watch())) == owes


# --- simulated histories ----------------------------------------------------------------------------------------------


def test_every_hook_is_delivered_or_given_up_over_any_history() -> None:
    """Agents, supervisors and machines die at any moment: it ran at least once, or was given up, every try counted."""
    for seed in range(2_000):
        chance = random.Random(seed)
        entry, effects, now = owed(), 0, NOW
        evidence: Evidence | None = None
        for _ in range(2_000):
            if entry.state is not HookState.OWED:
                break
            now = later(chance.choice((1, 30, 600)), now)
            action = decide_hook(entry, evidence if entry.in_flight else None, now)
            if isinstance(action, Deliver):
                entry = replace(entry, attempt=entry.attempt + 1, in_flight=True, started=now)
                ran = chance.random() < 0.8
                effects += ran
                evidence = _how_a_try_ends(chance) if ran else Evidence(Sight.NEVER_RAN)
            elif isinstance(action, Conclude):
                entry, _ = after_try(entry, action.result, now, waiting=1)
            if chance.random() < 0.02:
                now = rebooted(60, now)
                evidence = evidence if evidence and evidence.sight is Sight.DONE else Evidence(Sight.NEVER_RAN)
        assert entry.state is not HookState.OWED
        assert entry.attempt >= entry.deliveries >= 1
        if entry.state is HookState.DELIVERED:
            assert entry.result == OK
            assert effects >= 1
        else:
            assert now.wall_us - entry.owed_since.wall_us >= DAY


def _how_a_try_ends(chance: random.Random) -> Evidence:
    how = Evidence(Sight.DONE, result=OK if chance.random() < 0.1 else BAD)
    return chance.choice((how, Evidence(Sight.GONE)))


def test_a_hook_that_reboots_the_machine_does_not_do_so_for_ever() -> None:
    """A try that a reboot cut short is a failed one: counted, followed by a pause, given up after a day."""
    entry, now, reboots = owed(), NOW, 0
    while entry.state is HookState.OWED:
        action = decide_hook(entry, Evidence(Sight.NEVER_RAN) if entry.in_flight else None, now)
        if isinstance(action, Deliver):
            entry = replace(entry, attempt=entry.attempt + 1, in_flight=True, started=now)
            now, reboots = rebooted(60, now), reboots + 1
        elif isinstance(action, Conclude):
            entry, _ = after_try(entry, action.result, now, waiting=1)
        else:
            now = later(wait_s(action.until, now) or 0, now)
    assert entry.deliveries == reboots < 40
