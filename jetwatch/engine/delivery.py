"""The queue of hooks of one watch, delivered one after the other, beside whatever else the watch does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from jetwatch.engine import outbox
from jetwatch.engine.runtime import Runtime
from jetwatch.engine.supervision import BURY_PATIENCE_S, Supervision, not_started
from jetwatch.engine.variables import delivery_id, for_hook
from jetwatch.engine.walk import step_finished
from jetwatch.errors import CommandNotStarted
from jetwatch.events import Event, StepDeferred, StepStarted
from jetwatch.records import (
    CommandResult,
    Ending,
    Evidence,
    HookState,
    OutboxEntry,
    ProcessId,
    Sight,
)


class Delivery:
    """The owed hooks of one watch, oldest first. `on_settled(run_id)`: a run (None: no run) has no more owed."""

    def __init__(
        self,
        runtime: Runtime,
        watch: str,
        owed: list[OutboxEntry],
        *,
        on_change: Callable[[], None],
        on_settled: Callable[[str | None], None],
        on_abandoned: Callable[[], None],
    ) -> None:
        self.owed = owed
        self.supervision = Supervision(runtime, watch, on_change=on_change, on_pause=self._deferred)
        self.tried: set[int] = set()
        self._runtime = runtime
        self._on_settled = on_settled
        self._on_abandoned = on_abandoned

    @property
    def head(self) -> OutboxEntry | None:
        """The hook whose turn it is."""
        return self.owed[0] if self.owed else None

    @property
    def in_flight(self) -> bool:
        """Whether a try is under way."""
        return self.supervision.busy or any(entry.in_flight for entry in self.owed[:1])

    def holds_cycle(self) -> bool:
        """Whether the next check waits for a first try."""
        return outbox.stops_a_cycle(self.head)

    def owes(self, run_id: str | None) -> bool:
        """Whether some hook of this run (None: of no run) is still owed."""
        return any(entry.run_id == run_id for entry in self.owed)

    def try_waiting_now(self) -> None:
        """Let the head's next try be due at once."""
        if self.owed:
            self.owed[0] = replace(self.owed[0], not_before=None)

    def advance(self, *, may_start: bool, may_go_on: bool = True) -> None:
        """Do all that can be done now. `may_start` false: no further try is begun; `may_go_on` false: none goes on."""
        while self.owed and not self.supervision.busy and self._act(self.owed[0], may_start, may_go_on):
            pass

    def wake_us(self) -> int | None:
        """When the queue wants to be looked at again, by the boot-time clock."""
        head = self.head
        if head is None or self.supervision.busy:
            return None
        if not head.in_flight and head.not_before is not None:
            return self._runtime.boot_us(head.not_before)
        return self.supervision.wake_us

    def _act(self, entry: OutboxEntry, may_start: bool, may_go_on: bool) -> bool:
        evidence = self._look(entry) if entry.in_flight else None
        match outbox.decide_hook(entry, evidence, self._runtime.clock.now()):
            case outbox.Deliver():
                return may_start and self._deliver(entry)
            case outbox.Await():
                if entry.in_flight and evidence is not None:
                    if not may_go_on:
                        self.supervision.stop(self._directory(entry), delivery_id(entry))
                    self.supervision.wait(self._directory(entry), delivery_id(entry), evidence, entry.command)
                return False
            case outbox.Conclude(result):
                return self._conclude(entry, result)

    def _look(self, entry: OutboxEntry) -> Evidence:
        refusal = self.supervision.refusal
        if refusal is not None:
            # A hook that cannot be started now has failed this time, like any other failure: it is tried again.
            return Evidence(Sight.DONE, result=not_started(delivery_id(entry), refusal))
        return self.supervision.look(self._directory(entry), delivery_id(entry))

    def _deliver(self, entry: OutboxEntry) -> bool:
        entry = replace(entry, attempt=entry.attempt + 1, in_flight=True, started=self._runtime.clock.now())
        event = StepStarted(
            watch=entry.watch, play_uuid=entry.run_id or "", step=entry.name, attempt=entry.deliveries + 1
        )
        self._put(entry, event)
        directory, name, variables = self._directory(entry), delivery_id(entry), for_hook(entry)
        output = self._output(entry)

        def begin() -> ProcessId | None:
            return self._runtime.commands.start_hook(entry.command, directory, name, variables, output=output)

        self.supervision.reset()
        self.supervision.launch(begin)
        return False

    def _deferred(self, why: CommandNotStarted, wait_s: float) -> None:
        """Tell of a supervisor that never began. One that could not be started at all is a failed try, and told so."""
        entry = self.owed[0]
        if why.code == "supervisor_died":
            event = StepDeferred(
                watch=entry.watch,
                play_uuid=entry.run_id or "",
                step=entry.name,
                attempt=entry.deliveries + 1,
                reason=why.code,
                detail=str(why),
                wait_s=wait_s,
            )
            self._runtime.tell(event)

    def _output(self, entry: OutboxEntry) -> tuple[Path, Path, str | None] | None:
        """The plain file that `output_path` names, the run that it is made of, and whom it is for."""
        target = entry.values.get("output_path")
        if not target or entry.run_id is None:
            return None
        return Path(target), self._runtime.layout.run(entry.run_id), entry.command.user

    def _conclude(self, entry: OutboxEntry, result: CommandResult | None) -> bool:
        if result is None and not self.supervision.buried:
            if self.supervision.may_launch():
                directory, name = self._directory(entry), delivery_id(entry)
                self.supervision.bury(lambda: self._runtime.commands.bury(directory, name, BURY_PATIENCE_S))
            return False
        self.supervision.reset()
        self.tried.add(entry.id)
        told = result or CommandResult(step_id=delivery_id(entry), ending=Ending.LOST, reason="supervisor_died")
        event = step_finished(entry.name, entry.command, told, watch=entry.watch, play_uuid=entry.run_id or "")
        directory = self._directory(entry)
        entry, more = outbox.after_try(entry, told, self._runtime.clock.now(), waiting=len(self.owed))
        self._put(entry, event, *more)
        if entry.run_id is None:
            self._runtime.attempt(
                lambda: self._runtime.commands.forget_try(directory), action="sweep", watch=entry.watch
            )
        if entry.state is not HookState.OWED:
            self._leave(entry)
        return True

    def _leave(self, entry: OutboxEntry) -> None:
        del self.owed[0]
        if entry.state is HookState.ABANDONED:
            self._on_abandoned()
        if not self.owes(entry.run_id):
            self._on_settled(entry.run_id)

    def _put(self, entry: OutboxEntry, *events: Event) -> None:
        self._runtime.commit(*events, hooks=(entry,))
        self.owed[0] = entry

    def _directory(self, entry: OutboxEntry) -> Path:
        return self._runtime.layout.hook(entry.run_id, entry.name, entry.id, entry.attempt)
