"""A run as it begins and as it ends: its record, its events, the hooks that it owes. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from jetwatch import locator
from jetwatch.config.model import WatchSettings
from jetwatch.engine.decide import Close
from jetwatch.engine.variables import Host, Streak, owed_with
from jetwatch.engine.verbs import rfc3339
from jetwatch.events import DiskLow, RunDeferred, RunFinished, RunStarted
from jetwatch.records import (
    Command,
    OutboxEntry,
    Run,
    Shortage,
    Stamp,
    Step,
    Trigger,
    TriggerKind,
    UnreadRun,
    WatchState,
    WindowWait,
)

NOT_OF_A_RUN = ("check", "on_error")
"""The commands of a watch that belong to no run."""


def plan_run(
    settings: WatchSettings,
    state: WatchState,
    trigger: Trigger,
    *,
    run_id: str,
    download_path: str,
    secret_files: Mapping[str, str],
    now: Stamp,
) -> Run:
    """The run that `trigger` opens. `secret_files` holds the private environment file of each command that has one."""

    def complete(name: str, command: Command) -> Command:
        if name not in secret_files:
            return command
        return replace(command, env_files=(*command.env_files, secret_files[name]))

    named = (("download", settings.download), ("play", settings.play))
    commands = [(name, complete(name, command)) for name, command in named if command is not None]
    return Run(
        id=run_id,
        watch=settings.name,
        trigger=trigger,
        attempt=trigger.attempt,
        revision=trigger.revision,
        previous_revision=state.last_ok_revision,
        applied_revision=state.applied_revision,
        values=trigger.values,
        config_digest=settings.digest,
        download_path=download_path,
        download_owner=settings.user,
        steps=tuple(Step(number, name, command) for number, (name, command) in enumerate(commands)),
        hooks={n: complete(n, c) for n, c in settings.hooks.items() if n not in NOT_OF_A_RUN},
        opened=now,
        progressed=now,
        exclusive=settings.exclusive,
        alarm=settings.alarm,
        has_cache=settings.content is not None,
        origin=origin_of(settings),
    )


def origin_of(settings: WatchSettings) -> str | None:
    """Whom the content of a watch is fetched from; None: it has none."""
    content = settings.content
    return locator.origin(content.url, content.endpoint) if content is not None else None


def unread_run(found: UnreadRun) -> Run:
    """What is known of an open run whose row cannot be read: that it was begun. Which commands it has nobody knows."""
    opened = Stamp(found.opened_us, 0, "")
    return Run(
        id=found.id,
        watch=found.watch,
        trigger=Trigger(TriggerKind.CHECK, opened),
        attempt=1,
        revision="",
        previous_revision="",
        applied_revision="",
        values={},
        config_digest="",
        download_path="",
        download_owner=None,
        steps=(),
        hooks={},
        opened=opened,
        progressed=opened,
    )


def deferred(state: WatchState, *, before: WindowWait | None) -> tuple[RunDeferred, ...]:
    """What there is to tell of an answer that waits for a window, unless it waited for this opening `before`."""
    due, wait = state.due, state.window
    if due is None or wait is None or (before is not None and before.opens.at.wall_us == wait.opens.at.wall_us):
        return ()
    event = RunDeferred(
        watch=state.watch,
        reason="window",
        until=rfc3339(wait.opens.at.wall_us),
        start_at=rfc3339(wait.start.at.wall_us),
        trigger=due.kind.value,
        revision=due.revision or None,
    )
    return (event,)


def disk_low(watch: str, shortage: Shortage) -> DiskLow:
    """What there is to tell of a disk that is too full."""
    return DiskLow(
        watch=watch,
        path=shortage.path,
        free_bytes=shortage.free_bytes,
        free_inodes=shortage.free_inodes,
        reserve_bytes=shortage.reserve_bytes,
        reserve_inodes=shortage.reserve_inodes,
    )


def started(run: Run) -> RunStarted:
    """What there is to tell of its beginning."""
    return RunStarted(
        watch=run.watch,
        play_uuid=run.id,
        trigger=run.trigger.kind.value,
        attempt=run.attempt,
        revision=run.revision or None,
        download_path=run.download_path,
    )


def close(run: Run, end: Close, now: Stamp) -> tuple[Run, RunFinished]:
    """The run as it ended, and its one run_finished."""
    closed = replace(
        run,
        outcome=end.outcome,
        failed_step=end.failed_step,
        reason=end.reason,
        exit_code=end.exit_code,
        closed=now,
        progressed=now,
    )
    same_boot = now.boot_id == run.opened.boot_id
    duration_us = now.boot_us - run.opened.boot_us if same_boot else now.wall_us - run.opened.wall_us
    event = RunFinished(
        watch=run.watch,
        play_uuid=run.id,
        outcome=end.outcome.value,
        reason=end.reason,
        exit_code=end.exit_code,
        failed_step=end.failed_step or None,
        duration_s=round(max(0, duration_us) / 1e6, 3),
        attempt=run.attempt,
        trigger=run.trigger.kind.value,
        revision=run.revision or None,
    )
    return closed, event


def owed_hook(
    run: Run, name: str, *, state: WatchState, streak: Streak, host: Host, output_path: str, now: Stamp
) -> OutboxEntry:
    """A hook of the run, with what is known now."""
    values = owed_with(run, state, streak, host, output_path if run.outcome is not None else "")
    return OutboxEntry(run.watch, run.id, name, run.hooks[name], values, run.values, now)
