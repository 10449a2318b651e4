"""Hooks that are owed: which, in what order, and what to do with the head of a watch's queue. Pure.

A hook never changes a run's outcome. It is delivered at least once, across crash and reboot; one that fails is tried
again in the background and holds those behind it, never a cycle. What is given up is counted and told.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from jetwatch.engine.incident import Turn
from jetwatch.engine.schedule import HOOK_GIVE_UP_S, HOOK_MAX_WAITING, HOOK_NO_ROOM_S, hook_retry_s
from jetwatch.engine.verbs import rfc3339
from jetwatch.errors import NOT_NOW
from jetwatch.events import Event, HookAbandoned, HookRetry
from jetwatch.records import (
    CommandResult,
    Deadline,
    Evidence,
    HookState,
    OutboxEntry,
    Outcome,
    Run,
    Sight,
    Stamp,
)


class Deliver(Struct, frozen=True):
    """Start the hook: a new attempt, in a new directory."""


class Await(Struct, frozen=True):
    """Its supervisor lives, or its next try is not due yet (`until`)."""

    until: Deadline | None = None


class Conclude(Struct, frozen=True):
    """A try is over: `result` None when its supervisor died with it."""

    result: CommandResult | None


HookAction = Deliver | Await | Conclude


def decide_hook(entry: OutboxEntry, evidence: Evidence | None, now: Stamp) -> HookAction:
    """What to do with the head of the queue. `evidence` is that of a try that is under way."""
    if not entry.in_flight:
        waiting = entry.not_before is not None and entry.not_before.remaining_us(now) > 0
        return Await(entry.not_before) if waiting else Deliver()
    if evidence is None or evidence.sight is Sight.NEVER_RAN:
        # A try that a reboot cut short counts, or a hook that reboots the machine would do so for ever.
        in_another_boot = entry.started is not None and entry.started.boot_id != now.boot_id
        return Conclude(None) if in_another_boot else Deliver()
    if evidence.sight is Sight.ALIVE:
        return Await()
    return Conclude(evidence.result)


def after_try(
    entry: OutboxEntry, result: CommandResult | None, now: Stamp, *, waiting: int
) -> tuple[OutboxEntry, tuple[Event, ...]]:
    """The entry after one try: delivered, owed again, or given up. `waiting` counts the watch's owed hooks."""
    entry = replace(entry, in_flight=False, deliveries=entry.deliveries + 1, result=result)
    if result is not None and result.ended_well(entry.command.ok_exit_codes):
        return replace(entry, state=HookState.DELIVERED, not_before=None), ()
    reason = give_up_reason(entry, now, waiting=waiting)
    if reason is not None:
        return give_up(entry, reason)
    wait_s = hook_retry_s(entry.deliveries)
    if result is not None and result.reason in NOT_NOW:
        wait_s = min(wait_s, HOOK_NO_ROOM_S)  # nobody was called in vain, and the runs behind it keep their directories
    at = Deadline.after(now, round(wait_s * 1_000_000))
    event = HookRetry(
        watch=entry.watch,
        play_uuid=entry.run_id or "",
        step=entry.name,
        at=rfc3339(at.at.wall_us),
        delivery=entry.deliveries,
        wait_s=wait_s,
    )
    return replace(entry, not_before=at), (event,)


def give_up_reason(entry: OutboxEntry, now: Stamp, *, waiting: int) -> str | None:
    """Why a hook that failed is not tried again: it is a day old, or too many wait behind it. None: it is."""
    since = entry.owed_since
    same_boot = since.boot_id == now.boot_id
    age_us = now.boot_us - since.boot_us if same_boot else now.wall_us - since.wall_us
    if age_us >= HOOK_GIVE_UP_S * 1_000_000:
        return "too_old"
    return "too_many_waiting" if waiting >= HOOK_MAX_WAITING else None


def give_up(entry: OutboxEntry, reason: str) -> tuple[OutboxEntry, tuple[Event, ...]]:
    """The entry as abandoned, and the event that says so."""
    event = HookAbandoned(
        watch=entry.watch,
        play_uuid=entry.run_id or "",
        step=entry.name,
        deliveries=entry.deliveries,
        reason=reason,
    )
    return replace(entry, state=HookState.ABANDONED, in_flight=False), (event,)


def stops_a_cycle(head: OutboxEntry | None) -> bool:
    """Whether the next check waits: a hook's first try comes before it, its further tries do not."""
    return head is not None and head.deliveries == 0


def owed_at_close(run: Run, turn: Turn) -> tuple[str, ...]:
    """The hooks that a closed run owes, in their order."""
    is_ok = run.outcome is Outcome.OK
    owed = {"on_ok": is_ok, "on_fail": not is_ok and turn.tells_failure, "on_recover": turn.recovered, "on_done": True}
    return tuple(name for name, is_owed in owed.items() if is_owed and name in run.hooks)
