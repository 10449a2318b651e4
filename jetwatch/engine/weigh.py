"""What a look at a watch's content means. Pure.

With content and no check a run is due unless the newest run whose play began ended ok with this very revision. With
both, the check decides when and the content supplies what.
"""

from __future__ import annotations

from jetwatch.content_records import Look
from jetwatch.engine.outcome import Answer
from jetwatch.engine.question import Question
from jetwatch.errors import ContentError, ContentRetry, ContentWait
from jetwatch.records import CheckResult, TriggerKind, WatchState

LONGEST_WAIT_S = 86_400.0
"""What a server may ask for at most: one that says more, or nonsense, is asked again after a day."""


def weigh(state: WatchState, question: Question, look: Look | ContentError, checked: Answer | None) -> Answer:
    """The answer that a look gives. `checked` is that of the check command, None where there is none."""
    if isinstance(look, ContentError):
        return _failed(look)
    values = {**(checked.values if checked else {}), "revision": look.revision}
    if checked is None and look.revision == state.applied_revision and not question.forced:
        return Answer(CheckResult.NOT_DUE, revision=look.revision, values=values)
    if not look.settled:
        return Answer(CheckResult.LATER, "settling", revision=look.revision)
    if _waits_for_retry(state, question, look):
        return Answer(CheckResult.LATER, "retry_planned", revision=look.revision, values=values)
    return Answer(CheckResult.DUE, revision=look.revision, values=values)


def _failed(error: ContentError) -> Answer:
    if isinstance(error, ContentWait):
        wait_s = min(error.after_s, LONGEST_WAIT_S) if error.after_s > 0 else 0.0  # which no number is not, either
        return Answer(CheckResult.LATER, "server_busy", detail=str(error), wait_s=wait_s)
    reason = "content" if isinstance(error, ContentRetry) else "content_stalled"
    return Answer(CheckResult.ERROR, reason, detail=str(error))


def _waits_for_retry(state: WatchState, question: Question, look: Look) -> bool:
    """A failed revision has its own time; another one starts at once."""
    if question.kind in (TriggerKind.RETRY, TriggerKind.MANUAL) or state.retry is None:
        return False
    return look.revision == state.retry.revision
