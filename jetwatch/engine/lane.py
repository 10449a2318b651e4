"""One watch: splay, check, run, hooks, wait. Everything due is done by `advance`, which may be called at any time.

What a check answered and what a run's end means is decided in `outcome.py` and `admission.py`; here it is carried out
and written down. A check in error is never "not due"; a due answer that must wait for its turn is kept in the journal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec.structs import replace

from jetwatch.config.model import WatchSettings
from jetwatch.engine import incident, outbox, schedule, verbs
from jetwatch.engine.admission import (
    WINDOW,
    Space,
    Surrounding,
    before_play,
    is_a_matter_of_turn,
    is_held,
    obstacles,
    waits_for_window,
    without_due,
)
from jetwatch.engine.decide import Close, first_unfinished
from jetwatch.engine.delivery import Delivery
from jetwatch.engine.fold import Fold
from jetwatch.engine.judge import in_words, judge
from jetwatch.engine.keeping import coming_starts, keep, misses_window
from jetwatch.engine.opening import NOT_OF_A_RUN, close, disk_low, origin_of, owed_hook, plan_run, started
from jetwatch.engine.outcome import WINDOW_CLOSED, after_run
from jetwatch.engine.question import Asking, Question, Told
from jetwatch.engine.runtime import Runtime
from jetwatch.engine.timetable import Timetable
from jetwatch.engine.variables import Streak, owed_for_error
from jetwatch.engine.verbs import is_suspended, rfc3339
from jetwatch.engine.walk import UnreadWalk, Walk
from jetwatch.engine.windows import open_at
from jetwatch.errors import CommandNotStarted
from jetwatch.events import Blocked, CheckFinished, Event, Resumed, SplayStarted
from jetwatch.records import (
    CheckResult,
    CommandResult,
    Deadline,
    OutboxEntry,
    Outcome,
    Run,
    Stamp,
    Trigger,
    TriggerKind,
    WatchState,
    WatchView,
)

Report = Callable[[str, bool], None]
"""Told how a manual trigger came out: a sentence, and whether that was well."""


class House(Protocol):
    """What a lane needs to know of the others."""

    once: bool
    max_runs: int
    max_fetches: int
    fold_s: float

    @property
    def stopping(self) -> str | None:
        """Detach, wait, cancel; None while the agent works."""

    def open_runs(self) -> list[Run]:
        """Every open run of this agent."""

    def changed(self, lane: Lane) -> None:
        """The lane wants to be advanced soon."""

    def slot_freed(self) -> None:
        """A run ended, or a fetch: others may be waiting for its place."""

    def ended(self, run: Run) -> None:
        """A run was closed."""

    def settled(self, watch: str) -> None:
        """A closed run owes no hook any more."""

    def answered(self, result: CheckResult) -> None:
        """A check was answered, or a due answer could not start its run."""


class Lane:
    """One watch and all that goes on in it. `settings` None: it is no longer configured, and only finishes."""

    def __init__(
        self,
        runtime: Runtime,
        house: House,
        timetable: Timetable,
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
        self.checked_once = False
        self.wake_us: int | None = None
        self._runtime = runtime
        self._house = house
        self._timetable = timetable
        self.asking = Asking(runtime, hear=self._hear, on_change=self._changed)
        self._fold = Fold(runtime, name)
        self._reports: list[Report] = []
        self._low: Space | None = None
        self._disk_was_looked_at = False
        self._blocked_told: tuple[int, str] | None = None
        self._start_allowed_us = 0
        self.walk = self._walk(run, found=True) if run is not None else None
        self.delivery = Delivery(
            runtime,
            name,
            owed,
            on_change=self._changed,
            on_settled=self._delivered,
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
        if self.walk is not None and self.walk.supervision.blocked:
            return (self.walk.step_name, *self.walk.supervision.blocked)
        if self.delivery.head is not None and self.delivery.supervision.blocked:
            return (self.delivery.head.name, *self.delivery.supervision.blocked)
        return ("check", *self.asking.blocked) if self.asking.blocked else None

    def view(self) -> WatchView:
        """How the watch stands."""
        head = self.delivery.head
        return WatchView(
            state=self.state,
            run_open=self.walk is not None,
            blocked=self.blocked is not None,
            owed=len(self.delivery.owed),
            owed_since=head.owed_since if head is not None else None,
        )

    def is_idle(self) -> bool:
        """Whether nothing is under way, so that the lane can be forgotten."""
        return self.walk is None and not self.asking.under_way and not self.delivery.owed

    def owed_runs(self) -> frozenset[str]:
        """The runs that still owe a hook: what they left stays."""
        return frozenset(entry.run_id for entry in self.delivery.owed if entry.run_id is not None)

    # -- plans

    def plan_first(self) -> None:
        """Draw the wait before the first check: at start-up, and when the watch is new or changed."""
        if self.settings is None:
            return
        state = self._timetable.window_again(self.settings, self.state)
        self.put_state(self._timetable.first(self.settings, state))
        wait_s = self._timetable.splay_wait_s(self.settings, self.state)
        if wait_s is not None:
            self._runtime.tell(SplayStarted(watch=self.name, wait_s=wait_s, splay_s=self.settings.splay_s))

    def plan_again(self) -> None:
        """The wall clock was set."""
        if self.settings is not None:
            again = self._timetable.window_again(self.settings, self._timetable.again(self.settings, self.state))
            if again != self.state:  # recorded, so that `jetp status` says when it really is
                self.put_state(again)

    def check_within_splay(self) -> None:
        """USR1: check now, within the splay."""
        if self.settings is not None:
            self.put_state(self._timetable.soon(self.settings, self.state))

    def configure(self, settings: WatchSettings | None) -> None:
        """A new configuration of this watch is in force (None: there is none). An open run is not touched."""
        self.asking.drop()
        self.settings = settings
        if settings is None:
            self.state = without_due(replace(self.state, next_check=None, retry=None, retry_at=None))
            self._runtime.commit(watches=(self.state,))
            self._report(f"{self.name} is no longer configured", False)
        self.plan_first()

    # -- verbs

    def trigger(self, trigger: Trigger, report: Report | None) -> None:
        """Check now; during a run it is remembered once."""
        if report is not None:
            self._reports.append(report)
        self.put_state(replace(self.state, trigger=trigger))

    def clear(self, by: str) -> None:
        """Forget backoff, quarantine and hold; a check that was put off by its errors comes soon."""
        was_in_error = self.state.check_errors > 0
        state, events = verbs.clear(self.state, by=by)
        if was_in_error and self.settings is not None:
            state = self._timetable.soon(self.settings, state)
        self.put_state(state, *events)

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
        looked = self._runtime.clock.now()
        self._end_suspension()
        stopping = self._house.stopping
        if self.walk is not None:
            self._give_back_outside_window(self.walk.run)
            self.walk.advance(may_start=stopping != "detach")
        self.delivery.advance(may_start=self._may_deliver(stopping), may_go_on=stopping != "cancel")
        if stopping is None and self.settings is not None:
            self._begin(self.settings)
        self._tell_blocked()
        self._fold.tell_if_due(self._house.fold_s)
        self.wake_us = self._next_wake(looked)

    def _give_back_outside_window(self, run: Run) -> None:
        """No play begins outside its windows because it had to wait for others."""
        now = self._runtime.clock.now()
        windows = self.settings.windows if self.settings is not None else ()
        if run.waiting_for and run.cancel is None and not open_at(windows, now.wall_us):
            self.cancel_run(verbs.cancel(run, by="agent", reason=WINDOW_CLOSED, now=now))

    def _may_deliver(self, stopping: str | None) -> bool:
        head = self.delivery.head
        if head is None or stopping in ("detach", "cancel"):
            return False
        if self._house.once or stopping == "wait":
            return head.id not in self.delivery.tried
        return True

    def _begin(self, settings: WatchSettings) -> None:
        """Open a run that is due, or ask a check that is."""
        if self.walk is not None or self.asking.under_way or self.delivery.holds_cycle():
            return
        now = self._runtime.clock.now()
        if self.state.trigger is not None:
            self._ask(settings, TriggerKind.MANUAL, None, now)
            return
        disk_is_looked_at = waits_for_window(self.state) or "disk_low" not in self.state.waiting_for
        if self.state.due is not None and disk_is_looked_at:
            self._open_or_wait(settings, self.state.due, now)
        elif self.state.retry is not None and _is_past(self.state.retry_at, now):
            self._retry(settings, self.state.retry, now)
        if self._is_waiting() and self._check_is_due(now):
            self._check(settings, now)

    def _retry(self, settings: WatchSettings, retry: Trigger, now: Stamp) -> None:
        """Try a failed run again: with content after a look at what is there now, else as it was."""
        if settings.content is None:
            self.put_state(replace(self.state, due=retry, retry=None, retry_at=None))
            self._ask(settings, TriggerKind.RETRY, retry, now)
        else:
            self._ask(settings, TriggerKind.RETRY, None, now)

    def _check_is_due(self, now: Stamp) -> bool:
        if self._house.once and self.checked_once:
            return False
        return _is_past(self.state.next_check, now)

    def _check(self, settings: WatchSettings, now: Stamp) -> None:
        """The regular time has come: ask, or say why not."""
        skip = self._why_skip(now)
        if skip is None:
            by_time = settings.check is None and settings.schedule is not None
            kind = TriggerKind.SCHEDULE if by_time else TriggerKind.CHECK
            self._ask(settings, kind, None if waits_for_window(self.state) else self.state.due, now)
            return
        suspension = self.state.suspended if skip == "suspended" else None
        planned = self.state.next_check or Deadline.after(now, 0)
        self.state = replace(
            self.state,
            last_result=CheckResult.SKIPPED,
            last_reason=skip,
            next_check=self._timetable.following(settings, planned, now),
            planned_by=schedule.planned_by(settings),
            last_fire_us=schedule.fired_us(planned, now),
        )
        event = CheckFinished(
            watch=self.name,
            result=CheckResult.SKIPPED,
            reason=skip,
            suspended_by=suspension.by if suspension else None,
            suspended_reason=suspension.reason if suspension else None,
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
        if self.state.due is None or waits_for_window(self.state) or "disk_low" in self.state.waiting_for:
            return None
        return self.state.waiting_for[0] if self.state.waiting_for else "waiting"

    # -- asking

    def _ask(
        self, settings: WatchSettings, kind: TriggerKind, known: Trigger | None, now: Stamp, *, again: bool = False
    ) -> None:
        """Run the check, or with a `known` answer only look at the disk, and if `again` at the content.

        Nothing is asked if too many questions began this second.
        """
        if not self._may_ask(now):
            return
        self.checked_once = True
        planned = None if kind in (TriggerKind.MANUAL, TriggerKind.RETRY) else self.state.next_check
        if again and known is not None:
            planned, forced = None, known.forced or known.kind is TriggerKind.REAPPLY
        else:
            forced = self.state.trigger is not None and self.state.trigger.forced
        self.asking.ask(Question(kind, now, planned, known, again, forced), settings, self.state)

    def _may_ask(self, now: Stamp) -> bool:
        allowed_us = self._runtime.start_allowed_at(now.boot_us)
        if allowed_us > now.boot_us:
            self._start_allowed_us = allowed_us
            return False
        return True

    def _look_at_disk(self, settings: WatchSettings, trigger: Trigger, now: Stamp) -> None:
        """Another agent heard that this run is due; what room it saw then is not written down."""
        if self._may_ask(now):
            self.asking.ask(Question(trigger.kind, now, None, trigger, False, trigger.forced), settings, self.state)

    def _hear(self, question: Question, told: Told) -> None:
        """The answer is here."""
        if self.settings is None:
            return
        now = self._runtime.clock.now()
        self._disk_was_looked_at = True
        self._low = next((space for space in told.spaces if space.is_below(self.settings.disk_reserve)), None)
        planned: Deadline | Stamp = question.planned or question.asked
        following = self._timetable.following(self.settings, planned, question.asked)
        if question.known is None or question.again:
            self._answered(self.settings, question, told, following, now)
            return
        if question.planned is not None:
            self.state = replace(self.state, next_check=following, planned_by=schedule.planned_by(self.settings))
        self._open_or_wait(self.settings, question.known, now)

    def _answered(
        self,
        settings: WatchSettings,
        question: Question,
        told: Told,
        following: Deadline,
        now: Stamp,
    ) -> None:
        judged = judge(
            settings, self.state, question, told, following=following, now=now, uniform=self._runtime.clock.uniform
        )
        try:
            owed = self._owed_error(settings, judged.state, told.result, now) if judged.first_error else ()
        except CommandNotStarted:  # what the hook needs finds no room: the next check says the same, and first again
            space = Space(*self._runtime.commands.own_space())
            self._runtime.tell(disk_low(self.name, space.shortage(settings.disk_reserve)))
            window = replace(self.state.window, start=following) if self.state.window is not None else None
            self.put_state(replace(self.state, next_check=following, window=window))
            return
        important = bool(judged.due or owed or judged.manual)
        stored = self._runtime.commit(*judged.events, watches=(judged.state,), hooks=owed, durable=important)
        self.state = judged.state
        self.delivery.owed.extend(stored)
        self._house.answered(judged.answer.result)
        self._fold.count(judged.answer.result, now)
        if judged.due is not None:
            self._open_or_wait(settings, judged.due, now)
        elif judged.manual is not None:
            well = judged.answer.result in (CheckResult.NOT_DUE, CheckResult.LATER)
            self._report(in_words(self.name, judged), well)

    def _owed_error(
        self, settings: WatchSettings, state: WatchState, result: CommandResult | None, now: Stamp
    ) -> tuple[OutboxEntry, ...]:
        command = settings.hooks.get("on_error")
        if command is None:
            return ()
        values = owed_for_error(state, self._runtime.host, result.shell_exit_code if result else None)
        if secrets := settings.secrets.get("on_error"):
            paths = self._runtime.commands.keep_secrets(self._runless, {"on_error": secrets})
            command = replace(command, env_files=(*command.env_files, paths["on_error"]))
        return (OutboxEntry(self.name, None, "on_error", command, values, {}, now),)

    # -- runs

    def _open_or_wait(self, settings: WatchSettings, trigger: Trigger, now: Stamp) -> None:
        """Open the run that is due, or keep it until nothing stands in its way."""
        found = obstacles(
            self.state,
            trigger,
            exclusive=settings.exclusive,
            origin=origin_of(settings),
            windows=settings.windows,
            surrounding=self._surrounding(),
            low=self._low,
            now=now,
        )
        if not found and self.state.window is not None and settings.content is not None:
            self._ask(settings, trigger.kind, trigger, now, again=True)
        elif not found and not self._disk_was_looked_at:
            self._look_at_disk(settings, trigger, now)
        elif not found:
            self._open(settings, trigger, now)
        elif "quarantined" in found:
            self.put_state(without_due(self.state))
            self._report(f"{self.name}: revision {trigger.revision} is quarantined; jetp clear {self.name}", False)
        elif (self.state.due, self.state.waiting_for) != (trigger, found) or misses_window(self.state, found, now):
            self._keep(settings, trigger, found, now)

    def _surrounding(self) -> Surrounding:
        return Surrounding(
            open_runs=self._house.open_runs(),
            max_runs=self._house.max_runs,
            max_fetches=self._house.max_fetches,
            blocked=self.blocked is not None,
            stopping=self._house.stopping is not None,
        )

    def _turn(self, run: Run) -> tuple[str, ...]:
        """What the next command of the open run waits for: its play, when content was fetched, for a place."""
        step = first_unfinished(run)
        is_play = step is not None and step.number == len(run.steps) - 1
        return before_play(self._surrounding()) if run.is_before_play and is_play else ()

    def _keep(self, settings: WatchSettings, trigger: Trigger, found: tuple[str, ...], now: Stamp) -> None:
        window = self.state.window
        if misses_window(self.state, found, now):
            window = self._timetable.wait_for_window(settings)
        is_low = self._low is not None and "disk_low" in found
        shortage = self._low.shortage(settings.disk_reserve) if self._low is not None and is_low else None
        state, events = keep(self.state, trigger, found, window=window, shortage=shortage)
        self.put_state(state, *events)
        if "disk_low" in found:
            self._house.answered(CheckResult.LATER)
        if trigger.kind is TriggerKind.MANUAL and not all(is_a_matter_of_turn(word) for word in found):
            self._report(f"{self.name}: due, and kept, but no run starts now ({', '.join(found)}); jetp why", False)

    def _open(self, settings: WatchSettings, trigger: Trigger, now: Stamp) -> None:
        """Record the run, then let it begin."""
        run_id = self._runtime.clock.new_id()
        secrets = {name: values for name, values in settings.secrets.items() if values and name not in NOT_OF_A_RUN}
        try:
            secret_files = self._runtime.commands.keep_secrets(run_id, secrets)
        except CommandNotStarted:  # the disk became full, or fails, since it was looked at
            self._low = Space(*self._runtime.commands.own_space())
            self._keep(settings, trigger, ("disk_low",), now)
            return
        run = plan_run(
            settings,
            self.state,
            trigger,
            run_id=run_id,
            download_path=str(self._runtime.layout.download(run_id)),
            secret_files=secret_files,
            now=now,
        )
        state = without_due(replace(self.state, retry=None, retry_at=None))
        streak = Streak(state.failures_in_a_row, state.failing_since)
        owed = (self._owed(run, "on_start", state, now, streak),) if "on_start" in run.hooks else ()
        stored = self._runtime.commit(started(run), runs=(run,), watches=(state,), hooks=owed)
        self.state = state
        self.delivery.owed.extend(stored)
        self.walk = self._walk(run, found=False)
        self._changed()

    def _walk(self, run: Run, *, found: bool) -> Walk:
        kind = Walk if run.steps else UnreadWalk
        return kind(
            self._runtime,
            run,
            on_change=self._changed,
            on_close=self._close,
            turn=self._turn,
            on_play=self._house.slot_freed,
            found=found,
        )

    def _close(self, run: Run, end: Close) -> None:
        """The one end of a run: outcome, what it means for the watch, the hooks it owes, in one transaction."""
        now = self._runtime.clock.now()
        run, finished = close(run, end, now)
        retry = self.settings.retry if self.settings is not None and run.steps else None
        state, more = after_run(self.state, run, retry, now, self._runtime.clock.uniform)
        turn = incident.after_run(self.state, state, run, now)
        state = turn.state
        if run.reason == WINDOW_CLOSED and self.settings is not None:
            window = self._timetable.wait_for_window(self.settings)
            state, deferred = keep(state, run.trigger, (WINDOW,), window=window, shortage=None)
            more = (*more, *deferred)
        owed = tuple(
            self._owed(run, name, state, now, Streak(turn.failures, turn.since))
            for name in outbox.owed_at_close(run, turn)
        )
        stored = self._runtime.commit(finished, *turn.events, *more, runs=(run,), watches=(state,), hooks=owed)
        self.state = state
        self.walk = None
        self.delivery.owed.extend(stored)
        if not self.delivery.owes(run.id):
            self._settled(run.id)
        if run.trigger.kind is TriggerKind.MANUAL and self.state.trigger is None:
            self._report(f"{self.name}: run {run.id[:8]} ended {end.outcome.value}", end.outcome is Outcome.OK)
        self._house.ended(run)
        self._house.slot_freed()

    def _owed(self, run: Run, name: str, state: WatchState, now: Stamp, streak: Streak) -> OutboxEntry:
        output = str(self._runtime.layout.exchange(f"{run.id}.log"))
        return owed_hook(run, name, state=state, streak=streak, host=self._runtime.host, output_path=output, now=now)

    def _settled(self, run_id: str | None) -> None:
        """A run, or whatever belongs to none, needs its secrets no more."""
        settled = self._runless if run_id is None else run_id
        if self.run is None or self.run.id != settled:
            self._runtime.attempt(
                lambda: self._runtime.commands.forget_secrets(settled), action="secrets", watch=self.name
            )

    def _delivered(self, run_id: str | None) -> None:
        self._settled(run_id)
        if run_id is not None:
            self._house.settled(self.name)

    @property
    def _runless(self) -> str:
        """What stands for a run's id where a hook belongs to none."""
        return f"{self.name}.on_error"

    def _abandoned(self) -> None:
        self.put_state(replace(self.state, hooks_abandoned=self.state.hooks_abandoned + 1))

    # -- small things

    def _changed(self) -> None:
        self._house.changed(self)

    def _report(self, sentence: str, well: bool) -> None:
        reports, self._reports = self._reports, []
        for report in reports:
            report(sentence, well)

    def tell_folded(self) -> None:
        """Say how often nothing was due since this was last said."""
        self._fold.tell()

    def _end_suspension(self) -> None:
        suspended = self.state.suspended
        if suspended is not None and not is_suspended(self.state, self._runtime.clock.now()):
            self.put_state(replace(self.state, suspended=None), Resumed(watch=self.name, by="timer"))

    def _tell_blocked(self) -> None:
        blocked = self.blocked
        news = (blocked[1], blocked[2]) if blocked else None
        if blocked is not None and (self._blocked_told is None or self._blocked_told[0] != blocked[1]):
            step, pid, state = blocked
            in_run = self.walk is not None and self.walk.supervision.blocked is not None
            run_id = self.run.id if in_run and self.run is not None else ""
            self._runtime.commit(Blocked(watch=self.name, play_uuid=run_id, step=step, pid=pid, state=state))
        self._blocked_told = news

    def _next_wake(self, looked: Stamp) -> int | None:
        """`looked`: when it was seen what is due. What has come since then, during a slow write, is still to do."""
        now = self._runtime.clock.now()
        wakes = [self.delivery.wake_us(), self._fold.due_us(self._house.fold_s)]
        if self._start_allowed_us > looked.boot_us:
            wakes.append(self._start_allowed_us)
        if self.walk is not None:
            wakes.append(self.walk.wake_us)
        until = self.state.suspended.until if self.state.suspended else None
        deadlines = [until]
        is_free = self._is_waiting() and not self.delivery.holds_cycle()
        if is_free and self.settings is not None and self._house.stopping is None:
            deadlines += coming_starts(self.state, looked, once=self._house.once, checked_once=self.checked_once)
        coming = [max(now.boot_us + d.remaining_us(now), self._start_allowed_us) for d in deadlines if d is not None]
        return min((wake for wake in wakes + coming if wake is not None), default=None)

    def _is_waiting(self) -> bool:
        return self.walk is None and not self.asking.under_way


def _is_past(deadline: Deadline | None, now: Stamp) -> bool:
    return deadline is not None and deadline.remaining_us(now) == 0
