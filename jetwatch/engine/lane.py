"""One watch: splay, check, run, hooks, wait. Everything due is done by `advance`, which may be called at any time.

What a check answered and what a run's end means is decided in `outcome.py` and `admission.py`; here it is carried out
and written down. A check in error is never "not due"; a due answer that must wait for its turn is kept in the journal.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from jetwatch.config.model import Phase, WatchSettings
from jetwatch.engine import outbox, schedule
from jetwatch.engine.admission import Space, Surrounding, is_held, obstacles
from jetwatch.engine.decide import Close
from jetwatch.engine.delivery import Delivery
from jetwatch.engine.outcome import (
    Answer,
    after_answer,
    after_run,
    error_backoff,
    next_attempt,
    read_check,
)
from jetwatch.engine.runtime import Runtime
from jetwatch.engine.variables import for_check, owed_for_error, owed_with
from jetwatch.engine.verbs import is_suspended, rfc3339
from jetwatch.engine.walk import Walk
from jetwatch.errors import CommandNotStarted
from jetwatch.events import (
    Blocked,
    CheckFinished,
    ChecksFolded,
    DiskLow,
    Event,
    Resumed,
    RunFinished,
    RunStarted,
    SplayStarted,
)
from jetwatch.records import (
    CheckResult,
    Command,
    CommandResult,
    Deadline,
    OutboxEntry,
    Run,
    Stamp,
    Step,
    Trigger,
    TriggerKind,
    WatchState,
)

Report = Callable[[str, bool], None]
"""Told how a manual trigger came out: a sentence, and whether that was well."""


class House(Protocol):
    """What a lane needs to know of the others."""

    once: bool
    no_splay: bool
    max_runs: int
    fold_s: float

    @property
    def stopping(self) -> str | None:
        """Detach, wait, cancel; None while the agent works."""

    def open_runs(self) -> list[Run]:
        """Every open run of this agent."""

    def changed(self, lane: Lane) -> None:
        """The lane wants to be advanced soon."""

    def slot_freed(self) -> None:
        """A run ended: others may be waiting for it."""

    def ended(self, run: Run) -> None:
        """A run was closed."""

    def answered(self, result: CheckResult) -> None:
        """A check was answered, or a due answer could not start its run."""

    def offset_s(self, settings: WatchSettings) -> float | None:
        """Where the stable grid of this watch lies on this machine."""


@dataclass
class Asking:
    """A check, or a mere look at the disk, that is in a worker now."""

    trigger: Trigger | None
    kind: TriggerKind
    started: Stamp
    planned: Deadline | None
    cancel_fd: int
    dropped: bool = False


class Lane:
    """One watch and all that goes on in it. `settings` None: it is no longer configured, and only finishes."""

    def __init__(
        self,
        runtime: Runtime,
        house: House,
        *,
        name: str,
        settings: WatchSettings | None,
        state: WatchState,
        run: Run | None,
        owed: list[OutboxEntry],
    ) -> None:
        self.name = name
        self.settings = settings
        self.state = state
        self.asking: Asking | None = None
        self.checked_once = False
        self.wake_us: int | None = None
        self._runtime = runtime
        self._house = house
        self._reports: list[Report] = []
        self._low: Space | None = None
        self._blocked_told: tuple[int, str] | None = None
        self._blocked_check: tuple[int, str] | None = None
        self._folded = 0
        self._fold_since: Stamp | None = None
        self._start_allowed_us = 0
        self.walk = self._walk(run, found=True) if run is not None else None
        self.delivery = Delivery(
            runtime,
            owed,
            on_change=self._changed,
            on_settled=self._settled,
            on_abandoned=self._abandoned,
        )

    # -- what others see

    @property
    def run(self) -> Run | None:
        """The open run."""
        return self.walk.run if self.walk is not None else None

    @property
    def blocked(self) -> tuple[str, int, str] | None:
        """Step, pid and state of a process that cannot be ended."""
        for step, supervision in (("play", self.walk and self.walk.supervision), ("hook", self.delivery.supervision)):
            if supervision and supervision.blocked:
                return (step, *supervision.blocked)
        return ("check", *self._blocked_check) if self._blocked_check else None

    def is_idle(self) -> bool:
        """Whether nothing is under way, so that the lane can be forgotten."""
        return self.walk is None and self.asking is None and not self.delivery.owed

    # -- plans

    def plan_first(self) -> None:
        """Draw the wait before the first check: at start-up, and when the watch is new or changed."""
        if self.settings is None:
            return
        now = self._runtime.clock.now()
        if self.state.fires_by != _fires_by(self.settings):
            # Firings before a schedule was first seen are nobody's, and are not made up.
            self.state = replace(self.state, fires_by=_fires_by(self.settings), last_fire_us=now.wall_us)
        if self._house.once and self.settings.schedule is not None:
            no_wait = self._house.no_splay
            planned = Deadline.after(now, 0) if no_wait else schedule.within_splay(self.settings, now, self._uniform)
        else:
            planned = schedule.first_check(
                self.settings,
                now,
                self._uniform,
                offset_s=self._house.offset_s(self.settings),
                no_splay=self._house.no_splay,
                last_fire_us=self.state.last_fire_us,
            )
        self.put_state(replace(self.state, next_check=planned))
        if self.settings.splay_s > 0 and not self._house.no_splay and planned.span_us > 0:
            wait_s = round(planned.span_us / 1e6, 3)
            self._runtime.tell(SplayStarted(watch=self.name, wait_s=wait_s, splay_s=self.settings.splay_s))

    def plan_again(self) -> None:
        """The wall clock was set: what was read off it is read again."""
        settings, planned = self.settings, self.state.next_check
        if settings is None or planned is None or (settings.schedule is None and settings.phase is not Phase.STABLE):
            return
        again = schedule.replanned(
            settings,
            planned,
            self._runtime.clock.now(),
            self._uniform,
            offset_s=self._house.offset_s(settings),
            no_splay=self._house.no_splay,
            last_fire_us=self.state.last_fire_us,
        )
        self.state = replace(self.state, next_check=again)

    def check_within_splay(self) -> None:
        """USR1: check now, within the splay."""
        if self.settings is not None:
            planned = schedule.within_splay(self.settings, self._runtime.clock.now(), self._uniform)
            self.state = replace(self.state, next_check=planned)

    def drop_check(self) -> None:
        """End a check that is running; whatever it says no longer counts."""
        if self.asking is not None and not self.asking.dropped:
            self.asking.dropped = True
            os.eventfd_write(self.asking.cancel_fd, 1)

    def configure(self, settings: WatchSettings | None) -> None:
        """A new configuration of this watch is in force (None: there is none). An open run is not touched."""
        self.drop_check()
        self.settings = settings
        if settings is None:
            self.state = replace(self.state, next_check=None, due=None, waiting_for=(), retry=None, retry_at=None)
            self._runtime.commit(watches=(self.state,))
        self.plan_first()

    # -- verbs

    def trigger(self, trigger: Trigger, report: Report | None) -> None:
        """Check now; during a run it is remembered once."""
        if report is not None:
            self._reports.append(report)
        self.put_state(replace(self.state, trigger=trigger))

    def put_state(self, state: WatchState, *events: Event) -> None:
        """Write the watch's new state down, with what is to be told of it."""
        self._runtime.commit(*events, watches=(state,))
        self.state = state

    def cancel_run(self, run: Run) -> None:
        """Write down that the open run is to end."""
        self._runtime.commit(runs=(run,))
        if self.walk is not None:
            self.walk.run = run

    # -- the cycle

    def advance(self) -> None:
        """Do all that is due now, then say in `wake_us` when to look again."""
        self._end_suspension()
        stopping = self._house.stopping
        if self.walk is not None:
            self.walk.advance(may_start=stopping != "detach")
        self.delivery.advance(may_start=self._may_deliver(stopping))
        if stopping is None and self.settings is not None:
            self._begin(self.settings)
        self._tell_blocked()
        self._fold()
        self.wake_us = self._next_wake()

    def _may_deliver(self, stopping: str | None) -> bool:
        head = self.delivery.head
        if head is None or stopping in ("detach", "cancel"):
            return False
        if self._house.once or stopping == "wait":
            return head.id not in self.delivery.tried
        return True

    def _begin(self, settings: WatchSettings) -> None:
        """Open a run that is due, or ask a check that is."""
        if self.walk is not None or self.asking is not None or self.delivery.holds_cycle():
            return
        now = self._runtime.clock.now()
        if self.state.trigger is not None:
            self._ask(settings, TriggerKind.MANUAL, None, now)
            return
        if self.state.due is not None and "disk_low" not in self.state.waiting_for:
            self._open_or_wait(settings, self.state.due, now)
        elif self.state.retry is not None and _is_past(self.state.retry_at, now) and not self._house.once:
            self.put_state(replace(self.state, due=self.state.retry, retry=None, retry_at=None))
            self._ask(settings, TriggerKind.RETRY, self.state.due, now)
        if self.walk is None and self.asking is None and self._check_is_due(now):
            self._check(settings, now)

    def _check_is_due(self, now: Stamp) -> bool:
        if self._house.once and self.checked_once:
            return False
        return _is_past(self.state.next_check, now)

    def _check(self, settings: WatchSettings, now: Stamp) -> None:
        """The regular time has come: ask, or say why not."""
        skip = self._why_skip(now)
        if skip is None:
            kind = TriggerKind.SCHEDULE if settings.check is None else TriggerKind.CHECK
            self._ask(settings, kind, self.state.due, now)
            return
        suspension = self.state.suspended if skip == "suspended" else None
        planned = self.state.next_check or Deadline.after(now, 0)
        self.state = replace(
            self.state,
            last_result=CheckResult.SKIPPED,
            last_reason=skip,
            next_check=self._planned_after(settings, planned, now, now),
            last_fire_us=schedule.fired_us(planned, now),
        )
        event = CheckFinished(
            watch=self.name,
            result=CheckResult.SKIPPED,
            reason=skip,
            suspended_by=suspension.by if suspension else None,
            suspended_until=rfc3339(suspension.until.at.wall_us) if suspension and suspension.until else None,
        )
        self._runtime.commit(event, watches=(self.state,), durable=False)
        self.checked_once = True
        self._house.answered(CheckResult.LATER if self.state.due is not None else CheckResult.SKIPPED)

    def _why_skip(self, now: Stamp) -> str | None:
        if is_suspended(self.state, now):
            return "suspended"
        if is_held(self.state, now):
            return "held"
        if self.blocked is not None:
            return "blocked"
        if self.state.due is not None and "disk_low" not in self.state.waiting_for:
            return self.state.waiting_for[0] if self.state.waiting_for else "waiting"
        return None

    # -- asking

    def _ask(self, settings: WatchSettings, kind: TriggerKind, pending: Trigger | None, now: Stamp) -> None:
        """Run the check in a worker, and look at the free space there too. With `pending` the answer is known."""
        allowed_us = self._runtime.start_allowed_at(now.boot_us)
        if allowed_us > now.boot_us:
            self._start_allowed_us = allowed_us
            return
        manual = kind is TriggerKind.MANUAL
        planned = None if manual or kind is TriggerKind.RETRY else self.state.next_check
        asking = Asking(pending if not manual else None, kind, now, planned, os.eventfd(0, os.EFD_CLOEXEC))
        self.asking = asking
        self.checked_once = True
        command = settings.check if asking.trigger is None else None
        variables = for_check(self.state, kind, self.state.check_errors + 1, self._runtime.host)
        secrets = settings.secrets.get("check", {})
        check_id = self._runtime.clock.new_id()

        def ask() -> tuple[CommandResult | None, list[tuple[str, int, int]]]:
            result = None
            if command is not None:
                result = self._runtime.commands.check(
                    command,
                    check_id,
                    variables=variables,
                    secrets=secrets,
                    cancel_fd=asking.cancel_fd,
                    on_blocked=self._check_blocked,
                )
            return result, self._runtime.commands.free_space()

        self._runtime.work(ask, lambda told: self._told(asking, told), name=f"check {self.name}")

    def _check_blocked(self, pid: int, state: str) -> None:
        """Called in the worker."""

        def note() -> None:
            self._blocked_check = (pid, state)
            self._changed()

        self._runtime.post(note)

    def _told(
        self, asking: Asking, told: tuple[CommandResult | None, list[tuple[str, int, int]]] | CommandNotStarted
    ) -> None:
        """The worker is back."""
        os.close(asking.cancel_fd)
        self.asking = None
        self._blocked_check = None
        if asking.dropped or self.settings is None or isinstance(told, CommandNotStarted):
            self._changed()
            return
        result, spaces = told
        now = self._runtime.clock.now()
        self._low = next((s for s in (Space(*s) for s in spaces) if s.is_below(self.settings.disk_reserve)), None)
        if asking.trigger is not None:
            if asking.planned is not None:
                following = self._planned_after(self.settings, asking.planned, asking.started, now)
                self.state = replace(self.state, next_check=following)
            self._open_or_wait(self.settings, asking.trigger, now)
        else:
            self._answered(self.settings, asking, result, now)
        self._changed()

    def _answered(self, settings: WatchSettings, asking: Asking, result: CommandResult | None, now: Stamp) -> None:
        answer = read_check(result) if result is not None else Answer(CheckResult.DUE)
        manual = self.state.trigger if asking.kind is TriggerKind.MANUAL else None
        in_streak = self.state.check_errors > 0
        state = after_answer(self.state, answer, now)
        due = self._due(settings, state, asking, answer=answer, manual=manual, now=now)
        if due is not None and due.revision and due.revision == state.quarantined_revision:
            due, answer = None, replace(answer, result=CheckResult.SKIPPED, reason="quarantined")
            state = replace(state, last_result=answer.result, last_reason=answer.reason)
        state, events = self._plan_next(settings, state, asking, now)
        if due is not None:
            # A check that is due takes the place of a retry, and of an answer that was still waiting.
            state = replace(state, due=due, waiting_for=(), retry=None, retry_at=None)
        state = replace(state, trigger=None if manual else state.trigger)
        entry = self._owed_error(settings, state, result, now) if answer.result is CheckResult.ERROR else None
        owed = (entry,) if entry is not None and not in_streak else ()
        if result is not None:
            events = (self._finished(asking, answer, result, now), *events)
        important = bool(due or owed or manual)
        stored = self._runtime.commit(*events, watches=(state,), hooks=owed, durable=important)
        self.state = state
        self.delivery.owed.extend(stored)
        self._house.answered(answer.result)
        self._count(answer.result, now)
        if due is not None:
            self._open_or_wait(settings, due, now)
        elif manual is not None:
            self._report(f"{self.name}: the check said {_words(answer)}", answer.result is not CheckResult.ERROR)

    def _plan_next(
        self, settings: WatchSettings, state: WatchState, asking: Asking, now: Stamp
    ) -> tuple[WatchState, tuple[Event, ...]]:
        planned: Deadline | Stamp = asking.planned or asking.started
        backoff, events = error_backoff(settings, state, now, self._uniform)
        following = backoff or self._planned_after(settings, planned, asking.started, now)
        return replace(state, next_check=following, last_fire_us=schedule.fired_us(planned, asking.started)), events

    def _planned_after(
        self, settings: WatchSettings, planned: Deadline | Stamp, started: Stamp, now: Stamp
    ) -> Deadline:
        return schedule.next_check(
            settings,
            planned,
            now,
            self._uniform,
            started=started,
            offset_s=self._house.offset_s(settings),
            no_splay=self._house.no_splay,
        )

    def _due(
        self,
        settings: WatchSettings,
        state: WatchState,
        asking: Asking,
        *,
        answer: Answer,
        manual: Trigger | None,
        now: Stamp,
    ) -> Trigger | None:
        """What makes a run due now, if anything does."""
        forced = manual is not None and manual.forced
        revision, kind = answer.revision, asking.kind
        if answer.result is CheckResult.NOT_DUE and schedule.reapply_due(settings, state.last_ok, now) and not forced:
            kind, revision = TriggerKind.REAPPLY, revision or state.last_ok_revision
        elif answer.result is not CheckResult.DUE and not forced:
            return None
        return Trigger(
            kind,
            at=now,
            revision=revision,
            values=answer.values,
            attempt=next_attempt(state, revision),
            by=manual.by if manual else None,
            forced=forced,
        )

    def _finished(self, asking: Asking, answer: Answer, result: CommandResult, now: Stamp) -> CheckFinished:
        failed = answer.result is CheckResult.ERROR
        return CheckFinished(
            watch=self.name,
            result=answer.result.value,
            reason=answer.reason,
            exit_code=result.shell_exit_code,
            signal=result.signal,
            timed_out=True if result.ending == "timeout" else None,
            duration_s=round((now.boot_us - asking.started.boot_us) / 1e6, 3),
            revision=answer.revision or None,
            trigger=asking.kind.value if asking.kind is not TriggerKind.CHECK else None,
            output_tail=(result.detail or result.output_tail) if failed else None,
        )

    def _owed_error(
        self, settings: WatchSettings, state: WatchState, result: CommandResult | None, now: Stamp
    ) -> OutboxEntry | None:
        command = settings.hooks.get("on_error")
        if command is None:
            return None
        values = owed_for_error(state, self._runtime.host, result.shell_exit_code if result else None)
        secrets = settings.secrets.get("on_error")
        if secrets:
            paths = self._runtime.commands.keep_secrets(f"{self.name}.on_error", {"on_error": secrets})
            command = replace(command, env_files=(*command.env_files, paths["on_error"]))
        return OutboxEntry(self.name, None, "on_error", command, values, {}, now)

    # -- runs

    def _open_or_wait(self, settings: WatchSettings, trigger: Trigger, now: Stamp) -> None:
        """Open the run that is due, or keep it until nothing stands in its way."""
        surrounding = Surrounding(
            open_runs=self._house.open_runs(),
            max_runs=self._house.max_runs,
            blocked=self.blocked is not None,
            stopping=self._house.stopping is not None,
        )
        found = obstacles(
            self.state, trigger, exclusive=settings.exclusive, surrounding=surrounding, low=self._low, now=now
        )
        if not found:
            self._open(settings, trigger, now)
        elif "quarantined" in found:
            self.put_state(replace(self.state, due=None, waiting_for=()))
            self._report(f"{self.name}: revision {trigger.revision} is quarantined; jetp clear {self.name}", False)
        elif self.state.due != trigger or self.state.waiting_for != found:
            self._wait_for(settings, trigger, found)

    def _wait_for(self, settings: WatchSettings, trigger: Trigger, found: tuple[str, ...]) -> None:
        news = "disk_low" in found and "disk_low" not in self.state.waiting_for
        self.put_state(replace(self.state, due=trigger, waiting_for=found))
        if self._low is not None and news:
            reserve = settings.disk_reserve
            self._runtime.tell(
                DiskLow(
                    watch=self.name,
                    path=self._low.path,
                    free_bytes=self._low.free_bytes,
                    free_inodes=self._low.free_inodes,
                    reserve_bytes=reserve.free_bytes,
                    reserve_inodes=reserve.free_inodes,
                )
            )
        if "disk_low" in found:
            self._house.answered(CheckResult.LATER)

    def _open(self, settings: WatchSettings, trigger: Trigger, now: Stamp) -> None:
        run = self._plan_run(settings, trigger, now)
        state = replace(self.state, due=None, waiting_for=(), retry=None, retry_at=None)
        event = RunStarted(
            watch=self.name,
            play_uuid=run.id,
            trigger=trigger.kind.value,
            attempt=run.attempt,
            revision=run.revision or None,
            download_path=run.download_path,
        )
        on_start = run.hooks.get("on_start")
        owed = (self._owed(run, "on_start", on_start, state, now),) if on_start else ()
        stored = self._runtime.commit(event, runs=(run,), watches=(state,), hooks=owed)
        self.state = state
        self.delivery.owed.extend(stored)
        self.walk = self._walk(run, found=False)
        self._changed()

    def _plan_run(self, settings: WatchSettings, trigger: Trigger, now: Stamp) -> Run:
        run_id = self._runtime.clock.new_id()
        secrets = {name: values for name, values in settings.secrets.items() if values and name not in _NOT_OF_A_RUN}
        paths = self._runtime.commands.keep_secrets(run_id, secrets)

        def complete(name: str, command: Command) -> Command:
            return replace(command, env_files=(*command.env_files, paths[name])) if name in paths else command

        named = (("download", settings.download), ("play", settings.play))
        commands = [(name, complete(name, command)) for name, command in named if command is not None]
        return Run(
            id=run_id,
            watch=self.name,
            trigger=trigger,
            attempt=trigger.attempt,
            revision=trigger.revision,
            previous_revision=self.state.last_ok_revision,
            applied_revision=self.state.applied_revision,
            values=trigger.values,
            config_digest=settings.digest,
            download_path=str(self._runtime.layout.download(run_id)),
            download_owner=settings.user,
            steps=tuple(Step(number, name, command) for number, (name, command) in enumerate(commands)),
            hooks={n: complete(n, c) for n, c in settings.hooks.items() if n not in _NOT_OF_A_RUN},
            opened=now,
            progressed=now,
            exclusive=settings.exclusive,
        )

    def _walk(self, run: Run, *, found: bool) -> Walk:
        return Walk(self._runtime, run, on_change=self._changed, on_close=self._close, found=found)

    def _close(self, run: Run, end: Close) -> None:
        """The one end of a run: outcome, what it means for the watch, the hooks it owes, in one transaction."""
        now = self._runtime.clock.now()
        run = replace(
            run,
            outcome=end.outcome,
            failed_step=end.failed_step,
            reason=end.reason,
            exit_code=end.exit_code,
            closed=now,
            progressed=now,
        )
        retry = self.settings.retry if self.settings is not None else None
        state, more = after_run(self.state, run, retry, now, self._uniform)
        owed = tuple(self._owed(run, name, run.hooks[name], state, now) for name in outbox.owed_at_close(run))
        duration_us = now.boot_us - run.opened.boot_us
        same_boot = now.boot_id == run.opened.boot_id
        event = RunFinished(
            watch=self.name,
            play_uuid=run.id,
            outcome=end.outcome.value,
            reason=end.reason,
            exit_code=end.exit_code,
            failed_step=end.failed_step or None,
            duration_s=round((duration_us if same_boot else now.wall_us - run.opened.wall_us) / 1e6, 3),
            attempt=run.attempt,
            trigger=run.trigger.kind.value,
            revision=run.revision or None,
        )
        stored = self._runtime.commit(event, *more, runs=(run,), watches=(state,), hooks=owed)
        self.state = state
        self.walk = None
        self.delivery.owed.extend(stored)
        if not self.delivery.owes(run.id):
            self._settled(run.id)
        if run.trigger.kind is TriggerKind.MANUAL:
            self._report(f"{self.name}: run {run.id[:8]} ended {end.outcome.value}", end.outcome == "ok")
        self._house.ended(run)
        self._house.slot_freed()

    def _owed(self, run: Run, name: str, command: Command, state: WatchState, now: Stamp) -> OutboxEntry:
        output = str(self._runtime.layout.exchange(f"{run.id}.log")) if run.outcome is not None else ""
        values = owed_with(run, state, self._runtime.host, output)
        return OutboxEntry(self.name, run.id, name, command, values, run.values, now)

    def _settled(self, run_id: str) -> None:
        if self.run is None or self.run.id != run_id:
            self._runtime.commands.forget_secrets(run_id)

    def _abandoned(self) -> None:
        self.put_state(replace(self.state, hooks_abandoned=self.state.hooks_abandoned + 1))

    # -- small things

    def _uniform(self, limit_s: float) -> float:
        return self._runtime.clock.uniform(limit_s)

    def _changed(self) -> None:
        self._house.changed(self)

    def _report(self, sentence: str, well: bool) -> None:
        reports, self._reports = self._reports, []
        for report in reports:
            report(sentence, well)

    def _end_suspension(self) -> None:
        suspended = self.state.suspended
        if suspended is not None and not is_suspended(self.state, self._runtime.clock.now()):
            self.put_state(replace(self.state, suspended=None), Resumed(watch=self.name, by="timer"))

    def _tell_blocked(self) -> None:
        blocked = self.blocked
        news = (blocked[1], blocked[2]) if blocked else None
        if blocked is not None and (self._blocked_told is None or self._blocked_told[0] != blocked[1]):
            step, pid, state = blocked
            run_id = self.run.id if self.run is not None and step == "play" else ""
            self._runtime.tell(Blocked(watch=self.name, play_uuid=run_id, step=step, pid=pid, state=state))
        self._blocked_told = news

    def _count(self, result: CheckResult, now: Stamp) -> None:
        if result is CheckResult.NOT_DUE:
            self._folded += 1
            self._fold_since = self._fold_since or now

    def _fold(self) -> None:
        """Once in a while, how often nothing was due."""
        due_us = self._fold_due_us()
        if due_us is not None and due_us <= self._runtime.clock.now().boot_us:
            self.tell_folded()

    def tell_folded(self) -> None:
        """Say how often nothing was due since this was last said."""
        if self._folded and self._fold_since is not None:
            since = rfc3339(self._fold_since.wall_us)
            self._runtime.tell(ChecksFolded(watch=self.name, count=self._folded, since=since))
        self._folded, self._fold_since = 0, None

    def _fold_due_us(self) -> int | None:
        return self._fold_since.boot_us + round(self._house.fold_s * 1e6) if self._fold_since else None

    def _next_wake(self) -> int | None:
        wakes = [self.delivery.wake_us(), self._fold_due_us()]
        if self.walk is not None:
            wakes.append(self.walk.supervision.wake_us)
        until = self.state.suspended.until if self.state.suspended else None
        deadlines = [until]
        if self.walk is None and self.asking is None and self.settings is not None and self._house.stopping is None:
            deadlines += self._coming_starts()
        now = self._runtime.clock.now()
        coming = [max(now.boot_us + d.remaining_us(now), self._start_allowed_us) for d in deadlines if d is not None]
        return min((wake for wake in wakes + coming if wake is not None), default=None)

    def _coming_starts(self) -> list[Deadline | None]:
        """The times at which `_begin` has something to do; each of them is acted on when it comes."""
        if self.delivery.holds_cycle():
            return []
        if self._house.once:
            return [] if self.checked_once else [self.state.next_check]
        waiting = self.state.due is not None
        return [self.state.next_check, self.state.held_until if waiting else self.state.retry_at]


_NOT_OF_A_RUN = ("check", "on_error")


def _fires_by(settings: WatchSettings) -> str | None:
    return f"{settings.schedule} {settings.timezone or ''}".strip() if settings.schedule else None


def _is_past(deadline: Deadline | None, now: Stamp) -> bool:
    return deadline is not None and deadline.remaining_us(now) == 0


def _words(answer: Answer) -> str:
    known = {CheckResult.NOT_DUE: "not due", CheckResult.LATER: "later"}
    if answer.result in known:
        return known[answer.result]
    return f"{answer.result.value} ({answer.reason})" if answer.reason else answer.result.value
