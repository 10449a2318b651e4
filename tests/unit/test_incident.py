"""Failures in a row are one incident: when it opens and closes, and which of them somebody is told of."""

from __future__ import annotations

import pytest
from builders import NOW, S, closed, later, most, rebooted, watch

from jetwatch.engine.incident import Turn, after_run
from jetwatch.engine.outcome import after_run as count_run
from jetwatch.events import IncidentClosed, IncidentOpened
from jetwatch.records import Alarm, Outcome, Stamp, WatchState

OUTCOMES = {".": Outcome.OK, "f": Outcome.FAILED, "t": Outcome.TIMEOUT, "l": Outcome.LOST, "c": Outcome.CANCELLED}


def end(state: WatchState, outcome: Outcome, alarm: Alarm, now: Stamp = NOW) -> Turn:
    """The turn of one more run, counted as the engine does."""
    run = closed(outcome, alarm=alarm, closed=now)
    counted, _ = count_run(state, run, None, now, most)
    return after_run(state, counted, run, now)


def history(runs: str, alarm: Alarm) -> str:
    """One letter per run.

    `F` opens an incident and is told, `f` is told, `-` is a failure that is not told, `R` closes an incident, `.` is an
    ok run, `C` a cancelled one that is told, `c` one that is not.
    """
    state, letters = watch(), ""
    for number, letter in enumerate(runs):
        turn = end(state, OUTCOMES[letter], alarm, later(number))
        state = turn.state
        opened, closed_ = (
            any(isinstance(event, kind) for event in turn.events) for kind in (IncidentOpened, IncidentClosed)
        )
        assert closed_ is turn.recovered
        assert opened <= turn.tells_failure
        if OUTCOMES[letter] is Outcome.OK:
            letters += "R" if turn.recovered else "."
        elif letter == "c":
            letters += "C" if turn.tells_failure else "c"
        else:
            letters += "F" if opened else "f" if turn.tells_failure else "-"
    return letters


@pytest.mark.parametrize(
    ("alarm", "runs", "told"),
    [
        (Alarm(), "..f.ff.", "..FRFfR"),
        (Alarm(), "ftl.", "FffR"),
        (Alarm(), "fcf.", "FCfR"),
        (Alarm(), "c.", "C."),
        (Alarm(first_only=True), "fff.f.", "F--RFR"),
        (Alarm(first_only=True), "fcf.", "Fc-R"),
        (Alarm(first_only=True), "c.", "c."),
        (Alarm(after=3), "ff.fff.", "--.--FR"),
        (Alarm(after=3), "ffff.", "--FfR"),
        (Alarm(after=3), "fcfcf.", "-c-cFR"),
        (Alarm(after=3, first_only=True), "fffff..f", "--F--R.-"),
    ],
)
def test_a_history_of_runs_is_a_history_of_incidents(alarm: Alarm, runs: str, told: str) -> None:
    """Every failure counts, retries among them; a cancelled run is neither failure nor recovery."""
    assert history(runs, alarm) == told


def test_an_incident_is_told_with_its_facts() -> None:
    """How many, since when, and how long it took in the end."""
    first = end(watch(), Outcome.FAILED, Alarm(after=2))
    assert (first.failures, first.since, first.events) == (1, NOW, ())
    second = end(first.state, Outcome.LOST, Alarm(after=2), later(60))
    (opened,) = second.events
    assert isinstance(opened, IncidentOpened)
    assert (opened.failures, opened.since, opened.outcome) == (2, "2026-01-15T12:00:00.000000Z", "lost")
    third = end(second.state, Outcome.OK, Alarm(after=2), later(90))
    (closed_event,) = third.events
    assert isinstance(closed_event, IncidentClosed)
    assert (closed_event.failures, closed_event.since, closed_event.duration_s) == (2, opened.since, 90)
    assert (third.failures, third.since) == (2, NOW)
    assert (third.state.incident, third.state.failing_since, third.state.failures_in_a_row) == (False, None, 0)


@pytest.mark.parametrize(
    ("now", "duration_s"), [(rebooted(3600), 3600), (later(60, clock_set_s=-9999), 60), (rebooted(-5), 0)]
)
def test_an_incident_lasts_as_long_as_the_clocks_can_tell(now: Stamp, duration_s: float) -> None:
    """Across a reboot by the wall clock, within a boot by the other; never less than nothing."""
    state = end(watch(), Outcome.FAILED, Alarm()).state
    (event,) = end(state, Outcome.OK, Alarm(), now).events
    assert isinstance(event, IncidentClosed)
    assert event.duration_s == duration_s


def test_a_lower_threshold_opens_what_has_been_going_on() -> None:
    """A streak from before a change of the configuration counts as it is."""
    state = watch(failures_in_a_row=5, failing_since=Stamp(NOW.wall_us - 60 * S, NOW.boot_us - 60 * S, NOW.boot_id))
    (event,) = end(state, Outcome.FAILED, Alarm(after=2)).events
    assert isinstance(event, IncidentOpened)
    assert (event.failures, event.since) == (6, "2026-01-15T11:59:00.000000Z")
