"""The one loop: it waits on everything at once, advances the watches that have something due, and knows when to end.

It alone owns the journal, so nothing needs a lock; whoever else wants something leaves a call in its inbox. Its
progress is what the watchdog is fed from. An agent that starts goes on with what it finds; one that stops leaves it
findable.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from jetwatch.config.model import Settings, WatchSettings
from jetwatch.engine import retention, verbs
from jetwatch.engine.admission import SPLAY, is_a_matter_of_turn, waits_for_window
from jetwatch.engine.lane import Lane, Report
from jetwatch.engine.opening import unread_run
from jetwatch.engine.outcome import CANCELLED_BY_STOP
from jetwatch.engine.runtime import Runtime
from jetwatch.engine.timetable import Timetable
from jetwatch.errors import CommandNotStarted, UsageError
from jetwatch.events import (
    AgentStopping,
    ConfigRejected,
    ConfigReloaded,
    HookAbandoned,
    RetentionRefused,
    RetentionSwept,
)
from jetwatch.records import (
    AgentState,
    AgentView,
    CheckResult,
    OutboxEntry,
    Outcome,
    Run,
    Trigger,
    TriggerKind,
    UnreadHook,
    UnreadRun,
    WatchState,
)

STOP_PATIENCE_US = 1_500_000
"""How long a detaching agent waits for checks that it killed: within the 2 s that it has in all."""

_UNREAD = "its row in the journal cannot be read: what was suspended, held or quarantined is not known any more"

MOST_PROBLEMS_KEPT = 20
"""Of a configuration that was rejected, for `jetp status`."""


class Memory(Protocol):
    """What an engine that starts asks the journal for."""

    def watches(self) -> dict[str, WatchState]:
        """Every watch that was ever known, by name, but those of `unread_watches`."""

    def open_runs(self) -> list[Run]:
        """The runs without an outcome, but those of `unread_runs`."""

    def owed_hooks(self) -> list[OutboxEntry]:
        """Every hook that is still owed, in its order, but those of `unread_hooks`."""

    def unread_watches(self) -> tuple[str, ...]:
        """The watches whose rows cannot be read."""

    def unread_runs(self) -> list[UnreadRun]:
        """The runs without an outcome whose rows cannot be read."""

    def unread_hooks(self) -> list[UnreadHook]:
        """The owed hooks whose rows cannot be read."""


class Found(Struct, frozen=True):
    """What the journal says of an earlier agent's work; `unread_…` is what of it cannot be read."""

    watches: Mapping[str, WatchState]
    runs: list[Run]
    owed: list[OutboxEntry]
    unread_watches: tuple[str, ...] = ()
    unread_runs: Sequence[UnreadRun] = ()
    unread_hooks: Sequence[UnreadHook] = ()

    @classmethod
    def of(cls, journal: Memory) -> Found:
        """All of it."""
        return cls(
            journal.watches(),
            journal.open_runs(),
            journal.owed_hooks(),
            journal.unread_watches(),
            journal.unread_runs(),
            journal.unread_hooks(),
        )


class Engine:
    """All watches of one agent. Made in one thread, run in another; `runtime.post` is the way in."""

    def __init__(
        self,
        runtime: Runtime,
        settings: Settings,
        agent: AgentState,
        timetable: Timetable,
    ) -> None:
        self.once = timetable.once
        self.max_runs = settings.max_runs
        self.max_fetches = settings.max_fetches
        self.fold_s = settings.log.fold_s
        self.failed_runs = 0
        self.uncertain_checks = 0
        self._runtime = runtime
        self._settings = settings
        self._agent = agent
        self._timetable = timetable
        self._lanes: dict[str, Lane] = {}
        self._states: dict[str, WatchState] = {}
        self._dirty: dict[str, None] = {}
        self._wakes: list[tuple[int, str]] = []
        self._stopping: str | None = None
        self._give_up_us = 0
        self._ready = False

    # -- the loop

    def run(self, found: Found) -> None:
        """Work until stopped, or with `once` until everything was done once."""
        self._runtime.journal.begin()
        self._open_lanes(found)
        self._runtime.watch_fd(self._runtime.clock.timer_fd, self._timer_rang)
        self._runtime.watch_fd(self._runtime.clock.step_fd, self._clock_was_set)
        self._prepare()
        while not self._is_finished():
            self._advance()
            if self._is_finished():
                break
            self._arm()
            self._runtime.wait()
        self._leave()

    def _open_lanes(self, found: Found) -> None:
        self._states = dict(found.watches)
        self._put_right(found)
        runs = {run.watch: run for run in (*map(unread_run, found.unread_runs), *found.runs)}
        names = [*self._settings.watches, *runs, *(entry.watch for entry in found.owed)]
        for name in dict.fromkeys(names):
            self._lanes[name] = Lane(
                self._runtime,
                self,
                self._timetable,
                name=name,
                settings=self._settings.watches.get(name),
                state=self._states.get(name, WatchState(name)),
                run=runs.get(name),
                owed=[entry for entry in found.owed if entry.watch == name],
            )

    def _put_right(self, found: Found) -> None:
        """A watch of which nobody can read what was decided starts nothing; a hook that cannot be read is given up."""
        for name in found.unread_watches:
            self._states[name], events = verbs.suspend(
                WatchState(name), by="jetwatch", reason=_UNREAD, for_s=None, now=self._runtime.clock.now()
            )
            self._runtime.commit(*events, watches=(self._states[name],))
        for hook in found.unread_hooks:
            state = self._states.get(hook.watch, WatchState(hook.watch))
            state = self._states[hook.watch] = replace(state, hooks_abandoned=state.hooks_abandoned + 1)
            event = HookAbandoned(
                watch=hook.watch, play_uuid=hook.run_id or "", step="", deliveries=0, reason="row_unreadable"
            )
            self._runtime.commit(event, watches=(state,), abandoned=(hook.id,))

    def _prepare(self) -> None:
        """What an earlier agent's checks left is ended before the first check. What its runs left can wait."""
        self._forget_old_runs()

        def tidy() -> None:
            self._runtime.commands.end_old_checks()
            self._runtime.commands.forget_half_done()

        self._runtime.work(tidy, self._begin, name="tidy")

    def _forget_old_runs(self) -> None:
        """Mark the runs that grew too many or too old while no agent looked."""
        now = self._runtime.clock.now()
        swept: tuple[str, ...] = ()
        for lane in self._lanes.values():
            if lane.settings is not None:
                closed = [run for run in self._runtime.journal.unswept(lane.name) if not run.is_open]
                swept += retention.to_sweep(closed, lane.settings.retain, now, sizes_bytes={}, keep=lane.owed_runs())
        if swept:
            self._runtime.journal.mark_swept(swept)
        self._runtime.journal.prune(now.wall_us)

    def _begin(self, _: CommandNotStarted | None) -> None:
        self._ready = True
        for lane in self._lanes.values():
            if self.once:
                lane.delivery.try_waiting_now()
            lane.plan_first()
            self.changed(lane)
        self._runtime.post(self._look_for_leftovers)  # after the first checks have begun

    def _look_for_leftovers(self) -> None:
        """Nothing waits for this: download_dir may be a dead mount."""
        self._runtime.work(self._runtime.commands.leftovers, self._tidy, name="tidy")

    def _tidy(self, leftovers: frozenset[str] | CommandNotStarted) -> None:
        """What is known to be swept goes. What is not known may be another agent's; only secrets go that are ours."""
        if isinstance(leftovers, CommandNotStarted):
            return
        swept = self._runtime.journal.swept_among(leftovers)
        standing = {run.id for run in self._runtime.journal.unswept()}
        for run_id in leftovers - standing - frozenset(swept):
            self._runtime.attempt(partial(self._runtime.commands.forget_secrets, run_id), action="secrets", watch="")
        self._remove(swept)

    def _advance(self) -> None:
        while self._ready and self._dirty:
            names, self._dirty = list(self._dirty), {}
            for name in names:
                lane = self._lanes.get(name)
                if lane is None:
                    continue
                before_us = lane.wake_us
                lane.advance()
                self._note_blocked(lane)
                if lane.settings is None and lane.is_idle():
                    # Should the watch come back, it is still suspended, quarantined, at its revision.
                    self._states[name] = lane.state
                    del self._lanes[name]
                elif lane.wake_us is not None and lane.wake_us != before_us:
                    heapq.heappush(self._wakes, (lane.wake_us, name))

    def _arm(self) -> None:
        """Set the timer to the next thing that is still meant."""
        while self._wakes and not self._is_meant(*self._wakes[0]):
            heapq.heappop(self._wakes)
        wakes = [self._wakes[0][0]] if self._wakes else []
        if self._stopping == "detach":
            wakes.append(self._give_up_us)
        self._runtime.clock.arm(min(wakes, default=None))

    def _is_meant(self, wake_us: int, name: str) -> bool:
        lane = self._lanes.get(name)
        return lane is not None and lane.wake_us == wake_us

    def _timer_rang(self) -> None:
        self._runtime.clock.timer_seen()
        now_us = self._runtime.clock.now().boot_us
        while self._wakes and self._wakes[0][0] <= now_us:
            wake_us, name = heapq.heappop(self._wakes)
            if self._is_meant(wake_us, name):
                self._lanes[name].wake_us = None
                self.changed(self._lanes[name])

    def _clock_was_set(self) -> None:
        self._runtime.clock.step_seen()
        for lane in self._lanes.values():
            lane.plan_again()
            self.changed(lane)

    # -- the end

    def stop(self, mode: str, reason: str) -> None:
        """Stop in this way: detach, wait or cancel. A harder way replaces a softer one."""
        if self._stopping is not None and mode in (self._stopping, "wait"):
            return
        self._stopping = mode
        self._give_up_us = self._runtime.clock.now().boot_us + STOP_PATIENCE_US
        self._runtime.tell(AgentStopping(reason=reason, mode=mode))
        for lane in self._lanes.values():
            lane.asking.drop()
            if mode == "cancel" and lane.run is not None and lane.run.cancel is None:
                now = self._runtime.clock.now()
                lane.cancel_run(verbs.cancel(lane.run, by="agent", reason=CANCELLED_BY_STOP, now=now))
            self.changed(lane)

    def _is_finished(self) -> bool:
        if self._stopping == "detach":
            late = self._runtime.clock.now().boot_us >= self._give_up_us
            return late or self._runtime.workers == 0
        if not self._ready or self._runtime.workers > 0:
            return False
        if self._stopping is not None:
            return all(self._is_stopped(lane) for lane in self._lanes.values())
        return self.once and not self._dirty and all(self._is_done_once(lane) for lane in self._lanes.values())

    def _is_stopped(self, lane: Lane) -> bool:
        if lane.walk is not None and lane.walk.supervision.is_deferred:
            return True  # nothing runs, and nobody knows when the machine will have room: the next agent goes on
        if lane.walk is not None or lane.delivery.in_flight:
            return False
        head = lane.delivery.head
        return self._stopping == "cancel" or head is None or head.deliveries > 0

    def _is_done_once(self, lane: Lane) -> bool:
        if lane.walk is not None or lane.asking.under_way or lane.delivery.in_flight or lane.state.trigger:
            return False
        head = lane.delivery.head
        if head is not None and head.id not in lane.delivery.tried:
            return False
        words = lane.state.waiting_for if lane.state.due is not None else ()
        waiting = any(word == SPLAY or is_a_matter_of_turn(word) for word in words)
        return lane.settings is None or (lane.checked_once and not waiting)

    def _leave(self) -> None:
        for lane in self._lanes.values():
            lane.tell_folded()
            if self.once and waits_for_window(lane.state):
                self.uncertain_checks += 1
        self._agent = replace(self._agent, stopped=self._runtime.clock.now())
        self._runtime.commit(agent=self._agent, watches=tuple(lane.state for lane in self._lanes.values()))

    # -- what lanes ask

    @property
    def stopping(self) -> str | None:
        """Detach, wait, cancel; None while the agent works."""
        return self._stopping

    def watch_names(self) -> list[str]:
        """Every configured watch."""
        return [lane.name for lane in self._lanes.values() if lane.settings is not None]

    def open_runs(self) -> list[Run]:
        """Every open run of this agent."""
        return [lane.run for lane in self._lanes.values() if lane.run is not None]

    def view(self) -> AgentView:
        """How everything stands. In the engine's thread, or after its end."""
        return AgentView(
            at=self._runtime.clock.now(),
            watches=tuple(lane.view() for lane in self._lanes.values() if lane.settings is not None),
            config_rejected=self._agent.config_rejected is not None,
        )

    def changed(self, lane: Lane) -> None:
        """The lane wants to be advanced soon."""
        self._dirty[lane.name] = None

    def slot_freed(self) -> None:
        """A run ended, or a fetch: others may be waiting for its place. What has been fetched comes first."""
        for lane in self._lanes.values():
            if lane.run is not None and lane.run.waiting_for:
                self.changed(lane)
        for lane in self._lanes.values():
            if lane.state.due is not None:
                self.changed(lane)

    def ended(self, run: Run) -> None:
        """A run was closed: count it, and see which old ones may go."""
        if run.outcome is not Outcome.OK:
            self.failed_runs += 1
        self._sweep(run.watch)

    def settled(self, watch: str) -> None:
        """Hooks of a run were delivered, and what stood for them only may go: the next ones may need the room."""
        self._sweep(watch)

    def answered(self, result: CheckResult) -> None:
        """A check was answered, or a due answer could not start its run."""
        if result in (CheckResult.ERROR, CheckResult.LATER):
            self.uncertain_checks += 1

    # -- retention

    def _sweep(self, watch: str) -> None:
        lane = self._lanes[watch]
        if lane.settings is None:
            return
        retain = lane.settings.retain
        closed = [run for run in self._runtime.journal.unswept(watch) if not run.is_open]
        keep = lane.owed_runs()
        now = self._runtime.clock.now()

        def measure() -> Mapping[str, int]:
            if retain.max_bytes is None:
                return {}
            return {run.id: self._runtime.commands.run_size_bytes(run.id) for run in closed}

        def remove(sizes: Mapping[str, int] | CommandNotStarted) -> None:
            known = {} if isinstance(sizes, CommandNotStarted) else sizes
            swept = retention.to_sweep(closed, retain, now, sizes_bytes=known, keep=keep)
            if swept:
                self._runtime.journal.mark_swept(swept)
                self._runtime.journal.prune(now.wall_us)
                self._remove(swept)

        self._runtime.work(measure, remove, name="measure", watch=watch)

    def _remove(self, swept: tuple[str, ...]) -> None:
        if swept:
            self._runtime.work(
                lambda: self._runtime.commands.sweep(swept), lambda left: self._swept(swept, left), name="sweep"
            )

    def _swept(self, swept: tuple[str, ...], refused: list[tuple[str, str]] | CommandNotStarted) -> None:
        if isinstance(refused, CommandNotStarted):
            return  # they are marked: the next agent removes what is left of them
        self._runtime.tell(RetentionSwept(runs=len(swept)))
        for path, reason in refused:
            self._runtime.tell(RetentionRefused(path=path, reason=reason))

    # -- configuration

    def reload(self, settings: Settings) -> None:
        """Another valid configuration is in force from now on; unchanged watches keep their timers."""
        old, new = self._settings.watches, settings.watches
        changed = settings.digest != self._settings.digest or self._agent.config_rejected is not None
        self._settings = settings
        for name in [*new, *(name for name in old if name not in new)]:
            wanted = new.get(name)
            lane = self._lanes.get(name)
            if lane is None and wanted is not None:
                lane = self._lanes[name] = self._new_lane(name, wanted)
                lane.plan_first()
            elif lane is not None and _digest(lane.settings) != _digest(wanted):
                lane.configure(wanted)
            if lane is not None:
                self.changed(lane)
        self._agent = replace(
            self._agent,
            config_digest=settings.digest,
            config_rejected=None,
            watches=tuple(settings.watches),
            insecure=settings.insecure,
        )
        event = ConfigReloaded(
            changed=changed,
            added=tuple(name for name in new if name not in old),
            altered=tuple(name for name in new if name in old and new[name].digest != old[name].digest),
            removed=tuple(name for name in old if name not in new),
        )
        self._runtime.commit(event, agent=self._agent)

    def _new_lane(self, name: str, settings: WatchSettings) -> Lane:
        state = self._states.get(name, WatchState(name))
        return Lane(self._runtime, self, self._timetable, name=name, settings=settings, state=state, run=None, owed=[])

    def reject(self, problems: tuple[str, ...]) -> None:
        """A configuration that will not do: the last good one stays, and says why."""
        self._agent = replace(self._agent, config_rejected=_shortened(problems))
        self._runtime.commit(ConfigRejected(problems=problems), agent=self._agent)

    def check_all(self) -> None:
        """USR1: check every watch now, within its splay."""
        for lane in self._lanes.values():
            lane.check_within_splay()
            self.changed(lane)

    def _note_blocked(self, lane: Lane) -> None:
        """Let `jetp status` show a command that nobody can end."""
        blocked = {name: words for name, words in self._agent.blocked.items() if name != lane.name}
        if lane.blocked is not None:
            step, pid, state = lane.blocked
            blocked[lane.name] = f"{step}: pid {pid} in state {state}"
        if blocked != self._agent.blocked:
            self._agent = replace(self._agent, blocked=blocked)
            self._runtime.commit(agent=self._agent)

    # -- verbs

    def trigger(self, watch: str | None, *, force: bool, by: str, report: Report | None) -> tuple[list[str], bool]:
        """Check now. Returns what to say, and whether every watch named will be checked; raises UsageError."""
        lanes = self._named(watch, configured=True)
        now = self._runtime.clock.now()
        said = []
        accepted = True
        for lane in lanes:
            suspension = lane.state.suspended
            if suspension is not None and verbs.is_suspended(lane.state, now):
                accepted = False
                said.append(
                    f"{lane.name} is suspended by {suspension.by}: {suspension.reason}; jetp resume {lane.name}"
                )
                if report is not None:
                    report(said[-1], False)
                continue
            lane.trigger(Trigger(TriggerKind.MANUAL, now, by=by, forced=force), report)
            said.append(f"{lane.name}: {'after the open run' if lane.run else 'checking now'}")
            self.changed(lane)
        return said, accepted

    def cancel(self, prefix: str | None, *, by: str) -> list[str]:
        """End the open run whose id begins with `prefix` (None: the only one)."""
        runs = [run for run in self.open_runs() if run.id.startswith(prefix or "")]
        if not runs:
            raise UsageError(f"no open run begins with {prefix}" if prefix else "there is no open run")
        if len(runs) > 1:
            raise UsageError("more than one open run: name one of " + ", ".join(run.id[:8] for run in runs))
        lane = self._lanes[runs[0].watch]
        lane.cancel_run(verbs.cancel(runs[0], by=by, reason="cancelled", now=self._runtime.clock.now()))
        self.changed(lane)
        return [f"{lane.name}: cancelling run {runs[0].id[:8]}"]

    def clear(self, watch: str | None, *, by: str) -> list[str]:
        """Forget backoff, quarantine and hold."""
        for lane in (lanes := self._named(watch)):
            lane.clear(by)
            self.changed(lane)
        return [f"{lane.name}: cleared" for lane in lanes]

    def suspend(self, watch: str | None, *, by: str, reason: str, for_s: float | None) -> list[str]:
        """No new runs."""
        now = self._runtime.clock.now()
        for lane in (lanes := self._named(watch)):
            state, events = verbs.suspend(lane.state, by=by, reason=reason, for_s=for_s, now=now)
            lane.put_state(state, *events)
            self.changed(lane)
        return [f"{lane.name}: suspended" for lane in lanes]

    def resume(self, watch: str | None, *, by: str) -> list[str]:
        """Runs may start again."""
        for lane in (lanes := self._named(watch)):
            state, events = verbs.resume(lane.state, by=by)
            lane.put_state(state, *events)
            self.changed(lane)
        return [f"{lane.name}: resumed" for lane in lanes]

    def _named(self, watch: str | None, *, configured: bool = False) -> list[Lane]:
        lanes = [lane for lane in self._lanes.values() if not configured or lane.settings is not None]
        if watch is None:
            return lanes
        found = [lane for lane in lanes if lane.name == watch]
        if not found:
            raise UsageError(f"no watch is called {watch}: there is {', '.join(lane.name for lane in lanes) or 'none'}")
        return found


def _digest(settings: WatchSettings | None) -> str | None:
    return settings.digest if settings is not None else None


def _shortened(problems: tuple[str, ...]) -> str:
    """One a line, as many as a person reads: the journal keeps them, and writes them with each change of the agent."""
    kept = [problem if len(problem) <= 1000 else f"{problem[:999]}…" for problem in problems[:MOST_PROBLEMS_KEPT]]
    left = len(problems) - len(kept)
    return "\n".join([*kept, f"… and {left} more: see `jetp check-config`"] if left else kept)
