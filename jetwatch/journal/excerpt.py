"""What of a long row stays in the journal, which keeps rows for a year: names, and the beginning of values. Pure.

What a command wrote may be long (64 KiB of outputs, a revision as long as that); what stands in the configuration is
never cut. The whole record lies beside, with what the run left (`whole.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from jetwatch.events import Event
from jetwatch.records import CommandResult, OutboxEntry, Run, Step, to_json

PLAIN_RUN_BYTES = 8 * 1024
PLAIN_HOOK_BYTES = 4 * 1024
PLAIN_EVENT_BYTES = 8 * 1024
"""A row of up to this is kept as it is; nearly all are."""

VALUE_BYTES = 4 * 1024
VALUES_BYTES = 32 * 1024
_NAME_BYTES = 128
_TEXT_BYTES = 1024
_TAIL_BYTES = 8 * 1024  # 4 KiB of text, most of which is written as it is


def of_run(run: Run) -> Run:
    """The run with what its commands said cut. `values` has the outputs of all of them, so it alone keeps some."""
    return replace(
        run,
        trigger=replace(run.trigger, revision=_clipped(run.trigger.revision), values={}),
        revision=_clipped(run.revision),
        previous_revision=_clipped(run.previous_revision),
        applied_revision=_clipped(run.applied_revision),
        values=_some_of(run.values),
        steps=tuple(_step(step) for step in run.steps),
    )


def of_hook(hook: OutboxEntry) -> OutboxEntry:
    """The hook of a run without what stands in that run, and its other values cut."""
    values = {name: _clipped(value) for name, value in hook.values.items()}
    return replace(hook, values=values, outputs={}, result=_result(hook.result))


def of_event(event: Event) -> Event:
    """The event with its long texts cut; of an output the end is what counts."""
    cut: dict[str, Any] = {}
    for name, value in event.told_fields():
        if isinstance(value, str):
            cut[name] = _tail(value) if name == "output_tail" else _clipped(value)
    return replace(event, **cut)


def _step(step: Step) -> Step:
    return replace(step, result=_result(step.result))


def _result(result: CommandResult | None) -> CommandResult | None:
    if result is None:
        return None
    detail = _clipped(result.detail) if result.detail is not None else None
    return replace(result, outputs={}, detail=detail, output_tail=_tail(result.output_tail))


def _some_of(values: Mapping[str, str]) -> dict[str, str]:
    """All names, and up to VALUE_BYTES of each value; less, where all of them were more than VALUES_BYTES."""
    names = [_clipped(name, _NAME_BYTES) for name in values]
    left = VALUES_BYTES - sum(map(_size, names))
    share = min(VALUE_BYTES, max(0, left) // max(1, len(names)))
    return {name: _clipped(value, share) for name, value in zip(names, values.values(), strict=True)}


def _clipped(text: str, limit: int = _TEXT_BYTES) -> str:
    """The beginning of `text`, as much as takes up to `limit` bytes in a row; whole where it fits."""
    kept = text[:limit]
    while kept and _size(kept) > limit:
        kept = kept[: len(kept) * 3 // 4]
    return text if kept == text else f"{kept}…"


def _tail(text: str) -> str:
    kept = text[-_TAIL_BYTES:]
    while kept and _size(kept) > _TAIL_BYTES:
        kept = kept[-(len(kept) * 3 // 4) or len(kept) :]
    return text if kept == text else f"…{kept}"


def _size(text: str) -> int:
    """In JSON, where one character may take six bytes."""
    return len(to_json(text)) - 2
