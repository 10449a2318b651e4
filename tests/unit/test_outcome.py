"""What a check's answer and a run's end mean for a watch: attempts, retries, quarantine, hold, applied revision."""

from __future__ import annotations

import random

import pytest
from builders import (
    BAD,
    NOW,
    OK,
    TRUE,
    closed,
    ended,
    later,
    most,
    rebooted,
    result,
    run,
    started,
    step,
    trigger,
    wait_s,
    watch,
)
from msgspec.structs import replace

from jetwatch.config.model import Retry, WatchSettings
from jetwatch.engine.decide import lost_result
from jetwatch.engine.outcome import (
    CANCELLED_BY_STOP,
    Answer,
    after_answer,
    after_run,
    error_backoff,
    next_attempt,
    read_check,
)
from jetwatch.engine.verbs import rfc3339
from jetwatch.events import Held, Quarantined, RetryPlanned
from jetwatch.records import (
    CheckResult,
    CommandResult,
    Deadline,
    Ending,
    Outcome,
    Run,
    Step,
    TriggerKind,
    WatchState,
)

RETRY = Retry(initial_s=30, max_s=3600, factor=2)
CANCEL = trigger(TriggerKind.MANUAL, by="root", reason="cancelled")
NOT_DUE = Answer(CheckResult.NOT_DUE)
ERROR = Answer(CheckResult.ERROR, "exit_code")
UNSUCCESSFUL = (Outcome.FAILED, Outcome.TIMEOUT, Outcome.LOST)


def after(state: WatchState, *runs: Run, retry: Retry | None = None) -> WatchState:
    """The watch after these runs ended, one after the other, each numbered as a due check would number it."""
    for each in runs:
        numbered = replace(each, attempt=next_attempt(state, each.revision))
        state, _ = after_run(state, numbered, retry, NOW, most)
    return state


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "answer", "reason"),
    [
        (result(exit_code=0), CheckResult.DUE, None),
        (result(exit_code=1), CheckResult.NOT_DUE, None),
        (result(exit_code=75), CheckResult.LATER, None),
        (result(exit_code=2), CheckResult.ERROR, "exit_code"),
        (result(exit_code=127), CheckResult.ERROR, "exit_code"),
        (result(exit_code=255), CheckResult.ERROR, "exit_code"),
        (result(Ending.SIGNALLED, exit_code=129, signal="SIGHUP"), CheckResult.ERROR, "signalled"),
        (result(Ending.SIGNALLED, exit_code=1, signal="SIGHUP"), CheckResult.ERROR, "signalled"),
        (result(Ending.TIMEOUT, exit_code=0), CheckResult.ERROR, "timeout"),
        (result(Ending.TIMEOUT, exit_code=143), CheckResult.ERROR, "timeout"),
        (result(Ending.CANCELLED, exit_code=1), CheckResult.ERROR, "cancelled"),
        (result(Ending.NOT_STARTED, reason="no_such_file"), CheckResult.ERROR, "no_such_file"),
        (result(exit_code=0, reason="bad_output"), CheckResult.ERROR, "bad_output"),
        (result(exit_code=1, reason="bad_output"), CheckResult.ERROR, "bad_output"),
        (result(exit_code=None), CheckResult.ERROR, "exit_code"),
    ],
)
def test_a_check_is_read_by_its_exit_code(how: CommandResult, answer: CheckResult, reason: str | None) -> None:
    """0 is due, 1 is not, 75 is later; whatever else happened is an error, never "not due"."""
    read = read_check(how)
    assert (read.result, read.reason) == (answer, reason)


def test_a_check_names_the_revision_among_its_outputs() -> None:
    """All keys are kept, `revision` is the run's."""
    read = read_check(result(outputs={"revision": "abc", "colour": "red"}))
    assert read == Answer(CheckResult.DUE, revision="abc", values={"revision": "abc", "colour": "red"})


def test_a_check_in_error_names_nothing() -> None:
    """What it wrote before it failed does not count."""
    assert read_check(result(exit_code=9, outputs={"revision": "abc"})) == ERROR


def test_errors_are_counted_until_a_check_answers() -> None:
    """Any answer, later too, ends the streak."""
    state = watch()
    for expected in (1, 2, 3):
        state = after_answer(state, ERROR, NOW)
        assert (state.check_errors, state.last_result, state.last_reason) == (expected, CheckResult.ERROR, "exit_code")
    for kind in (CheckResult.DUE, CheckResult.NOT_DUE, CheckResult.LATER):
        assert after_answer(state, Answer(kind), NOW).check_errors == 0


def test_an_answer_is_remembered_with_its_time_and_its_revision() -> None:
    """A check that names no revision does not make the last one forgotten."""
    state = after_answer(watch(), Answer(CheckResult.NOT_DUE, revision="abc"), NOW)
    state = after_answer(state, NOT_DUE, later(60))
    assert (state.last_check, state.last_result, state.last_revision) == (later(60), CheckResult.NOT_DUE, "abc")


@pytest.mark.parametrize(
    ("answer", "lifted"),
    [
        (Answer(CheckResult.DUE, revision="b"), True),
        (Answer(CheckResult.NOT_DUE, revision="b"), True),
        (Answer(CheckResult.DUE, revision="a"), False),
        (Answer(CheckResult.DUE), False),
        (ERROR, False),
    ],
)
def test_another_revision_lifts_a_quarantine(answer: Answer, lifted: bool) -> None:
    """It has to be seen; an answer without a revision shows nothing."""
    state = after_answer(watch(quarantined_revision="a", quarantine_reason="max_attempts"), answer, NOW)
    expected = (None, None) if lifted else ("a", "max_attempts")
    assert (state.quarantined_revision, state.quarantine_reason) == expected


# --- attempts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", UNSUCCESSFUL)
def test_attempts_count_on_while_one_revision_fails(outcome: Outcome) -> None:
    """Failed, timed out and lost runs count alike; with no revision they count all the same."""
    for revision in ("a", ""):
        state = after(watch(), closed(outcome, revision=revision), closed(outcome, revision=revision))
        assert next_attempt(state, revision) == 3


def test_another_revision_begins_with_the_first_attempt() -> None:
    """What failed before says nothing about it."""
    state = after(watch(), closed(Outcome.FAILED, revision="a"))
    assert (next_attempt(state, "a"), next_attempt(state, "b")) == (2, 1)


def test_a_run_that_ended_ok_begins_anew() -> None:
    """The same revision applied again later is a first attempt, and so is a run without one."""
    for revision in ("a", ""):
        state = after(watch(), closed(Outcome.FAILED, revision=revision), closed(Outcome.OK, revision=revision))
        assert next_attempt(state, revision) == 1


def test_a_cancelled_run_is_no_failed_attempt() -> None:
    """The count stands where it stood."""
    state = after(watch(), closed(Outcome.FAILED, revision="a"), closed(Outcome.CANCELLED, revision="a", cancel=CANCEL))
    assert next_attempt(state, "a") == 2


# --- retries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", UNSUCCESSFUL)
def test_a_failed_run_is_planned_again(outcome: Outcome) -> None:
    """Same revision and outputs, one attempt more, trigger retry; the event says when."""
    failed = closed(outcome, revision="a", values={"revision": "a", "colour": "red"}, attempt=2)
    state, events = after_run(watch(), failed, RETRY, NOW, most)
    assert wait_s(state.retry_at) == 60
    assert state.retry == trigger(
        TriggerKind.RETRY, at=later(60), revision="a", values={"revision": "a", "colour": "red"}, attempt=3
    )
    assert events == (
        RetryPlanned(watch="web", play_uuid=failed.id, at=rfc3339(later(60).wall_us), attempt=3, wait_s=60),
    )


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 30), (2, 60), (5, 480), (7, 1920), (8, 3600), (10_000, 3600)])
def test_the_backoff_grows_to_its_limit(attempt: int, seconds: float) -> None:
    """The upper end of delay n is initial x factor^(n-1), and at most max."""
    state, _ = after_run(watch(), closed(Outcome.FAILED, attempt=attempt), RETRY, NOW, most)
    assert wait_s(state.retry_at) == seconds


def test_a_retry_waits_at_least_a_second() -> None:
    """Chance may say zero."""
    state, _ = after_run(watch(), closed(Outcome.FAILED), RETRY, NOW, lambda _limit: 0.0)
    assert wait_s(state.retry_at) == 1


def test_without_a_retry_policy_the_next_check_decides() -> None:
    """Nothing is planned, and nothing told."""
    state, events = after_run(watch(), closed(Outcome.FAILED, revision="a"), None, NOW, most)
    assert (state.retry, state.retry_at, events) == (None, None, ())


@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.CANCELLED])
def test_a_run_that_did_not_fail_leaves_no_retry_behind(outcome: Outcome) -> None:
    """What an earlier failure planned is over."""
    state = watch(retry=trigger(TriggerKind.RETRY), retry_at=Deadline.after(NOW, 1))
    state, events = after_run(state, closed(outcome), RETRY, NOW, most)
    assert (state.retry, state.retry_at, events) == (None, None, ())


def test_after_max_attempts_the_revision_is_quarantined() -> None:
    """The last attempt plans no further one, and says so."""
    policy = replace(RETRY, max_attempts=3)
    state = after(watch(), *[closed(Outcome.FAILED, revision="a")] * 2, retry=policy)
    assert state.retry is not None
    assert state.quarantined_revision is None
    last = closed(Outcome.FAILED, revision="a", attempt=3)
    state, events = after_run(state, last, policy, NOW, most)
    assert (state.retry, state.quarantined_revision, state.quarantine_reason) == (None, "a", "max_attempts")
    assert events == (Quarantined(watch="web", play_uuid=last.id, revision="a", reason="max_attempts"),)


def test_after_max_attempts_without_a_revision_there_are_only_no_more_retries() -> None:
    """There is nothing that could be quarantined; the next check decides."""
    policy = replace(RETRY, max_attempts=3)
    for attempt in (3, 4):
        state, events = after_run(watch(), closed(Outcome.FAILED, attempt=attempt), policy, NOW, most)
        assert (state.retry, state.quarantined_revision, events) == (None, None, ())


# --- cancelled runs ---------------------------------------------------------------------------------------------------


def test_a_cancelled_run_holds_its_revision() -> None:
    """As a quarantine does, until another one is seen."""
    cancelled = closed(Outcome.CANCELLED, revision="a", cancel=CANCEL, reason="cancelled")
    state, events = after_run(watch(), cancelled, RETRY, NOW, most)
    assert (state.quarantined_revision, state.quarantine_reason) == ("a", "cancelled")
    assert events == (Quarantined(watch="web", play_uuid=cancelled.id, revision="a", reason="cancelled"),)
    assert state.retry is None


@pytest.mark.parametrize(
    "cancelled",
    [
        closed(
            Outcome.CANCELLED, revision="a", cancel=replace(CANCEL, reason=CANCELLED_BY_STOP), reason=CANCELLED_BY_STOP
        ),
        closed(Outcome.CANCELLED, step(), revision="a", reason="stale"),
        closed(Outcome.CANCELLED, cancel=CANCEL, reason="cancelled"),
    ],
    ids=["the agent's own stop", "stale", "no revision"],
)
def test_nothing_is_held_that_no_person_cancelled(cancelled: Run) -> None:
    """The agent's own stop, a run that stood still, and a run without a revision leave the watch free."""
    state, events = after_run(watch(), cancelled, RETRY, NOW, most)
    assert (state.quarantined_revision, events) == (None, ())


# --- hold -------------------------------------------------------------------------------------------------------------


def test_three_lost_runs_in_a_row_hold_the_watch() -> None:
    """For 1 h, then twice as long each time, at most a day."""
    state, hours = watch(), []
    for _ in range(10):
        state, events = after_run(state, closed(Outcome.LOST), None, NOW, most)
        waiting = wait_s(state.held_until)
        hours.append(waiting and waiting / 3600)
        held = [event for event in events if isinstance(event, Held)]
        assert [event.lost_in_a_row for event in held] == ([state.lost_in_a_row] if waiting else [])
        assert [event.until for event in held] == ([rfc3339(later(waiting).wall_us)] if waiting else [])
    assert hours == [None, None, 1, 2, 4, 8, 16, 24, 24, 24]


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.LOST])
def test_a_run_that_ends_otherwise_ends_the_hold(outcome: Outcome) -> None:
    """The count of lost runs begins anew."""
    state = after(watch(), *[closed(Outcome.LOST)] * 4)
    assert state.lost_in_a_row == 4
    state = after(state, closed(outcome))
    assert (state.lost_in_a_row, state.held_until) == (0, None)


def test_a_lost_run_is_retried_and_held_at_once() -> None:
    """Both stand in the way until both are over."""
    state = after(watch(), *[closed(Outcome.LOST, revision="a")] * 3, retry=RETRY)
    assert (wait_s(state.held_until), wait_s(state.retry_at)) == (3600, 120)


# --- the applied revision ---------------------------------------------------------------------------------------------

NEVER_STARTED = result(Ending.NOT_STARTED, reason="no_such_file")


@pytest.mark.parametrize(
    ("case", "applied", "last_ok"),
    [
        (closed(Outcome.OK, revision="b"), "b", "b"),
        (closed(Outcome.FAILED, revision="b"), "", "a"),
        (closed(Outcome.TIMEOUT, revision="b"), "", "a"),
        (closed(Outcome.CANCELLED, revision="b"), "", "a"),
        (closed(Outcome.LOST, revision="b"), "", "a"),
        (closed(Outcome.LOST, started("play"), revision="b"), "", "a"),
        (closed(Outcome.FAILED, ended("download", BAD), step("play"), revision="b"), "a", "a"),
        (closed(Outcome.LOST, ended("download"), step("play"), revision="b"), "a", "a"),
        (closed(Outcome.CANCELLED, ended("download"), step("play"), revision="b"), "a", "a"),
        (closed(Outcome.FAILED, ended("download"), ended("play", NEVER_STARTED), revision="b"), "a", "a"),
        (closed(Outcome.OK, revision=""), "", ""),
    ],
    ids=[
        "ok",
        "failed",
        "timeout",
        "cancelled",
        "lost",
        "lost without a result",
        "download failed",
        "lost before the play",
        "cancelled before the play",
        "play could not start",
        "ok without a revision",
    ],
)
def test_the_applied_revision_is_that_of_the_newest_run_whose_play_began(case: Run, applied: str, last_ok: str) -> None:
    """If that run ended ok, else empty; a failed download or a play that could not start changes nothing."""
    state = after(watch(applied_revision="a", last_ok_revision="a", last_ok=NOW), case)
    assert (state.applied_revision, state.last_ok_revision) == (applied, last_ok)


def test_the_applied_revision_follows_its_definition_over_any_history() -> None:
    """Two thousand random histories, each compared with the sentence of the contract."""
    chance = random.Random(3)
    for _ in range(2_000):
        runs = [_any_run(chance) for _ in range(chance.randrange(8))]
        state = after(watch(), *runs)
        began = [each for each in runs if _began(each)]
        well = [each.revision for each in runs if each.outcome is Outcome.OK]
        expected = began[-1].revision if began and began[-1].outcome is Outcome.OK else ""
        assert (state.applied_revision, state.last_ok_revision) == (expected, well[-1] if well else "")


def _any_run(chance: random.Random) -> Run:
    play: list[tuple[Outcome, Step]] = [
        (Outcome.OK, ended("play", OK)),
        (Outcome.FAILED, ended("play", BAD)),
        (Outcome.FAILED, ended("play", NEVER_STARTED)),
        (Outcome.LOST, ended("play", lost_result("", "reboot", NOW))),
        (Outcome.TIMEOUT, ended("play", result(Ending.TIMEOUT))),
        (Outcome.CANCELLED, step("play")),
    ]
    outcome, last = chance.choice(play)
    return closed(outcome, ended("download"), last, revision=chance.choice(("a", "b", "c")))


def _began(each: Run) -> bool:
    play = each.steps[-1]
    return play.result is not None and play.result.ending is not Ending.NOT_STARTED


def test_an_open_run_knows_whether_its_play_began() -> None:
    """A recorded start counts: the machine may have been changed from there on."""
    assert not run(started("download"), step("play")).play_began
    assert run(ended("download"), started("play")).play_began


def test_a_run_is_remembered_as_the_last_one() -> None:
    """With its id; an ok one with its time too."""
    state = after(watch(), closed(Outcome.FAILED))
    assert (state.last_run, state.last_ok) == ("run-1", None)
    assert after(state, closed(Outcome.OK, id="run-2")).last_ok == NOW


# --- checks in error --------------------------------------------------------------------------------------------------


def settings(retry: Retry | None) -> WatchSettings:
    """A watch with or without a retry policy."""
    return WatchSettings(name="web", play=TRUE, check=TRUE, retry=retry)


@pytest.mark.parametrize(("errors", "seconds"), [(1, 30), (2, 60), (3, 120), (20, 3600)])
def test_a_check_in_error_is_asked_again_after_the_backoff(errors: int, seconds: float) -> None:
    """Errors in a row count as attempts do."""
    deadline, events = error_backoff(settings(RETRY), watch(check_errors=errors), NOW, most)
    assert wait_s(deadline) == seconds
    at = rfc3339(later(seconds).wall_us)
    assert events == (RetryPlanned(watch="web", at=at, attempt=errors + 1, wait_s=seconds),)


@pytest.mark.parametrize(("retry", "errors"), [(None, 3), (RETRY, 0)])
def test_otherwise_the_regular_time_counts(retry: Retry | None, errors: int) -> None:
    """Without a policy, or without an error, there is no backoff."""
    assert error_backoff(settings(retry), watch(check_errors=errors), NOW, most) == (None, ())


def test_a_backoff_survives_a_reboot_and_grows_by_nothing() -> None:
    """It goes on by the wall clock, and is never longer than at first."""
    state, _ = after_run(watch(), closed(Outcome.FAILED, attempt=3), RETRY, NOW, most)
    assert wait_s(state.retry_at, rebooted(20)) == 100
    assert wait_s(state.retry_at, rebooted(200)) == 0
    assert wait_s(state.retry_at, rebooted(20, clock_set_s=-10 * 365 * 86_400)) == 120


# --- counts -----------------------------------------------------------------------------------------------------------


def test_every_end_of_a_run_is_counted_by_its_outcome() -> None:
    """However many there are, and whatever they mean for the next one."""
    ends = [Outcome.OK, Outcome.FAILED, Outcome.OK, Outcome.CANCELLED, Outcome.LOST, Outcome.TIMEOUT]
    state = after(watch(), *[closed(outcome) for outcome in ends])
    assert state.ended == {"ok": 2, "failed": 1, "cancelled": 1, "lost": 1, "timeout": 1}


def test_failures_in_a_row_are_ended_by_an_ok_run_alone() -> None:
    """A cancelled run says nothing of the machine, and another revision that fails is one more failure."""
    failing = after(watch(), closed(Outcome.FAILED, revision="a"), closed(Outcome.CANCELLED), closed(Outcome.LOST))
    assert failing.failures_in_a_row == 2
    assert after(failing, closed(Outcome.OK)).failures_in_a_row == 0


@pytest.mark.parametrize(
    ("said", "counted"),
    [("17", 17), ("0", 0), ("", 0), ("-1", 0), ("1e9", 0), ("many", 0), ("9" * 16, 0), ("٣", 0)],
)
def test_what_a_download_says_that_it_cost_is_added_up(said: str, counted: int) -> None:
    """Of what is no number, nothing."""
    download = ended("download", result(outputs={"fetched_bytes": said, "fetch_requests": said}))
    state = after(watch(fetched_bytes=100, requests=10), closed(Outcome.OK, download, ended("play", OK, 1)))
    assert (state.fetched_bytes, state.requests) == (100 + counted, 10 + counted)
