"""What a person may ask for: suspend, resume, clear, cancel, and times in words."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from builders import DAY, NOON, NOW, YEAR, closed, later, most, rebooted, run, trigger, watch
from hypothesis import given, settings
from hypothesis import strategies as st

from jetwatch.config.model import Retry
from jetwatch.engine.outcome import after_run, next_attempt
from jetwatch.engine.verbs import cancel, clear, is_suspended, resume, rfc3339, suspend
from jetwatch.events import Cleared, Resumed, Suspended
from jetwatch.records import Deadline, Outcome, Stamp, Trigger, TriggerKind


def test_times_are_told_in_utc_with_microseconds() -> None:
    """As RFC 3339 has it, always with the same number of digits."""
    assert rfc3339(NOON) == "2026-01-15T12:00:00.000000Z"
    assert rfc3339(NOON + 1) == "2026-01-15T12:00:00.000001Z"
    assert rfc3339(0) == "1970-01-01T00:00:00.000000Z"


@settings(max_examples=300, deadline=None, database=None)
@given(st.integers(0, 200 * YEAR))
def test_a_time_in_words_is_exact_to_the_microsecond(wall_us: int) -> None:
    """Read back, it is the same number."""
    read = datetime.fromisoformat(rfc3339(wall_us)) - datetime(1970, 1, 1, tzinfo=UTC)
    assert (read.days * DAY) + read.seconds * 1_000_000 + read.microseconds == wall_us


@pytest.mark.parametrize(
    ("for_s", "now", "suspended"),
    [
        (None, NOW, True),
        (None, later(10 * 365 * 86_400), True),
        (None, rebooted(), True),
        (7200, NOW, True),
        (7200, later(7199), True),
        (7200, later(7200), False),
        (7200, later(7199, clock_set_s=86_400), True),
        (7200, rebooted(7199), True),
        (7200, rebooted(7200), False),
        (7200, rebooted(7199, clock_set_s=-10 * 365 * 86_400), True),
    ],
)
def test_a_suspension_lasts_as_long_as_was_asked(for_s: float | None, now: Stamp, suspended: bool) -> None:
    """By the boot-time clock within a boot; without a time until resume."""
    state, _ = suspend(watch(), by="root", reason="maintenance", for_s=for_s, now=NOW)
    assert is_suspended(state, now) is suspended


def test_a_suspension_says_who_why_and_until_when() -> None:
    """In the state and in the event."""
    state, events = suspend(watch(), by="ann", reason="maintenance", for_s=7200, now=NOW)
    assert state.suspended is not None
    assert (state.suspended.by, state.suspended.reason, state.suspended.since) == ("ann", "maintenance", NOW)
    assert events == (Suspended(watch="web", by="ann", reason="maintenance", until="2026-01-15T14:00:00.000000Z"),)
    _, events = suspend(watch(), by="ann", reason="maintenance", for_s=None, now=NOW)
    assert events == (Suspended(watch="web", by="ann", reason="maintenance", until=None),)


def test_a_second_suspension_replaces_the_first() -> None:
    """A shorter one too."""
    state, _ = suspend(watch(), by="ann", reason="long", for_s=None, now=NOW)
    state, _ = suspend(state, by="bob", reason="short", for_s=60, now=NOW)
    assert not is_suspended(state, later(60))
    assert state.suspended is not None
    assert state.suspended.by == "bob"


def test_resume_ends_a_suspension_once() -> None:
    """A watch that is not suspended is left alone, and nothing is told."""
    state, _ = suspend(watch(), by="ann", reason="", for_s=None, now=NOW)
    state, events = resume(state, by="bob")
    assert (state, events) == (watch(), (Resumed(watch="web", by="bob"),))
    assert resume(state, by="bob") == (watch(), ())


def test_clear_forgets_backoff_quarantine_and_hold() -> None:
    """And nothing else: not what was applied, not what is due, not a suspension."""
    suspended, _ = suspend(watch(applied_revision="a", last_run="run-1"), by="ann", reason="", for_s=None, now=NOW)
    known = {"applied_revision": "a", "last_run": "run-1", "suspended": suspended.suspended, "due": trigger()}
    in_trouble = watch(
        **known,
        check_errors=4,
        attempt=3,
        attempt_revision="b",
        retry=trigger(TriggerKind.RETRY),
        retry_at=Deadline.after(NOW, 1),
        quarantined_revision="b",
        quarantine_reason="max_attempts",
        lost_in_a_row=3,
        held_until=Deadline.after(NOW, 1),
    )
    assert clear(in_trouble, by="bob") == (watch(**known), (Cleared(watch="web", by="bob"),))


def test_a_cleared_watch_begins_with_the_first_attempt() -> None:
    """A run that fails after that is retried as the first one was."""
    policy = Retry(initial_s=30, max_attempts=1)
    state, _ = after_run(watch(), closed(Outcome.FAILED, revision="a"), policy, NOW, most)
    assert state.quarantined_revision == "a"
    state, _ = clear(state, by="bob")
    assert (state.quarantined_revision, next_attempt(state, "a")) == (None, 1)


def test_a_cancelled_run_knows_by_whom_and_why() -> None:
    """It is still open: its command has to end first."""
    cancelled = cancel(run(), by="ann", reason="cancelled", now=NOW)
    assert cancelled.cancel == Trigger(TriggerKind.MANUAL, NOW, by="ann", reason="cancelled")
    assert cancelled.is_open
