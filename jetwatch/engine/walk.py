"""The way of one open run: look, decide, act, until there is only waiting left. New runs and found ones alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from jetwatch.engine import decide as d
from jetwatch.engine.runtime import Runtime
from jetwatch.engine.supervision import BURY_PATIENCE_S, Supervision, not_started
from jetwatch.engine.variables import for_step, step_id
from jetwatch.errors import CommandNotStarted
from jetwatch.events import RunReattached, StepDeferred, StepFinished, StepStarted
from jetwatch.records import (
    STALE_AFTER_US,
    Command,
    CommandResult,
    Ending,
    Evidence,
    Outcome,
    ProcessId,
    Run,
    Sight,
    Stamp,
    Step,
    StepState,
)

_SAY_AGAIN_US = STALE_AFTER_US // 6


class Walk:
    """One open run on its way. `on_close(run, action)` is called once, when it is over.

    `turn(run)` says what the next command waits for, empty if for nothing. `on_play`: the place of a fetch is free.
    """

    def __init__(
        self,
        runtime: Runtime,
        run: Run,
        *,
        on_change: Callable[[], None],
        on_close: Callable[[Run, d.Close], None],
        turn: Callable[[Run], tuple[str, ...]],
        on_play: Callable[[], None],
        found: bool,
    ) -> None:
        self.run = run
        self.supervision = Supervision(runtime, run.watch, on_change=on_change, on_pause=self._deferred)
        self._runtime = runtime
        self._on_close = on_close
        self._turn = turn
        self._on_play = on_play
        self._found = found

    @property
    def step_name(self) -> str:
        """The step that is next or under way."""
        step = d.first_unfinished(self.run)
        return step.name if step is not None else ""

    @property
    def wake_us(self) -> int | None:
        """When it wants to be looked at again, by the boot-time clock."""
        if self.run.waiting_for:
            return self.run.progressed.boot_us + _SAY_AGAIN_US
        return self.supervision.wake_us

    def advance(self, *, may_start: bool) -> None:
        """Do all that can be done now. `may_start` false: no further command is started."""
        while not self.supervision.busy and self._act(may_start):
            pass

    def _act(self, may_start: bool) -> bool:
        """One decision. True: look again at once."""
        now = self._runtime.clock.now()
        step = d.first_unfinished(self.run)
        evidence = self._look(step) if step is not None and step.state is StepState.STARTED else None
        if self._found and step is not None:
            self._found = False
            alive = evidence is not None and evidence.sight is Sight.ALIVE
            self._runtime.commit(RunReattached(**self._whose(), step=step.name, alive=alive))
        match d.decide(self.run, evidence, now):
            case d.Start(step):
                return may_start and self._start_in_turn(step, now)
            case d.Wait(step):
                self.supervision.wait(self._directory(step), self._id(step), evidence or _NOTHING, step.command)
                return False
            case d.Stop(step):
                self.supervision.stop(self._directory(step), self._id(step))
                self.supervision.wait(self._directory(step), self._id(step), evidence or _NOTHING, step.command)
                return False
            case d.Record(step, result):
                self._record(step, result, now)
                return True
            case d.Lose(step, reason):
                return self._lose(step, reason, now)
            case d.Close() as action:
                self.supervision.reset()
                self._on_close(self.run, action)
                return False

    def _look(self, step: Step) -> Evidence:
        refusal = self.supervision.refused_for_good
        if refusal is not None:
            return Evidence(Sight.DONE, result=not_started(self._id(step), refusal))
        return self.supervision.look(self._directory(step), self._id(step))

    def _start_in_turn(self, step: Step, now: Stamp) -> bool:
        """Start it, or wait for its turn, and write that down now and then: a run that waits is not a stale one."""
        found = self._turn(self.run)
        if not found:
            return self._start(step, now)
        if self.run.waiting_for != found or now.boot_us - self.run.progressed.boot_us >= _SAY_AGAIN_US:
            run = replace(self.run, waiting_for=found, progressed=now)
            self._runtime.commit(runs=(run,))
            self.run = run
        return False

    def _start(self, step: Step, now: Stamp) -> bool:
        if not self.supervision.may_launch():
            return False
        step = replace(step, state=StepState.STARTED, attempt=step.attempt + 1, started=now)
        fetched = self.run.is_before_play
        self._put(step, now, StepStarted(**self._whose(), step=step.name, attempt=step.attempt))
        directories = (Path(self.run.download_path),) if step.number == 0 else ()
        cache_of = self.run.watch if step.number == 0 and self.run.has_cache else None
        variables = for_step(self.run, self._runtime.host)
        directory, name = self._directory(step), self._id(step)

        def begin() -> ProcessId | None:
            return self._runtime.commands.start_step(
                step.command,
                directory,
                name,
                variables,
                directories=directories,
                owner=self.run.download_owner,
                cache_of=cache_of,
            )

        self.supervision.launch(begin)
        if fetched and not self.run.is_before_play:
            self._on_play()
        return False

    def _deferred(self, why: CommandNotStarted, wait_s: float) -> None:
        if (step := d.first_unfinished(self.run)) is None:
            return
        whose, reason, detail = self._whose(), why.code, str(why)
        self._runtime.tell(
            StepDeferred(**whose, step=step.name, attempt=step.attempt, reason=reason, detail=detail, wait_s=wait_s)
        )

    def _record(self, step: Step, result: CommandResult, now: Stamp) -> None:
        self.supervision.reset()
        event = step_finished(step.name, step.command, result, **self._whose())
        if event.ok:
            result = replace(result, output_tail="")
            self.run = replace(self.run, values={**self.run.values, **result.outputs})
        self._put(replace(step, state=StepState.ENDED, result=result), now, event)

    def _lose(self, step: Step, reason: str, now: Stamp) -> bool:
        # After a reboot there is nobody left to end; otherwise `lost` is written only when all are gone.
        if reason == "supervisor_died" and not self.supervision.buried:
            if self.supervision.may_launch():
                directory, name = self._directory(step), self._id(step)
                self.supervision.bury(lambda: self._runtime.commands.bury(directory, name, BURY_PATIENCE_S))
            return False
        self._record(step, d.lost_result(self._id(step), reason, now), now)
        return True

    def _put(self, step: Step, now: Stamp, event: StepStarted | StepFinished) -> None:
        steps = tuple(step if each.number == step.number else each for each in self.run.steps)
        run = replace(self.run, steps=steps, progressed=now, waiting_for=())
        self._runtime.commit(event, runs=(run,))
        self.run = run

    def _whose(self) -> dict[str, str]:
        return {"watch": self.run.watch, "play_uuid": self.run.id}

    def _directory(self, step: Step) -> Path:
        return self._runtime.layout.step(self.run.id, step.name, step.attempt)

    def _id(self, step: Step) -> str:
        return step_id(self.run.id, step)


class UnreadWalk(Walk):
    """The way of a run whose row cannot be read: it is let come to its end, and then called lost."""

    def _act(self, may_start: bool) -> bool:  # noqa: ARG002 - it starts nothing
        if self.supervision.buried:
            self.supervision.reset()
            self._on_close(self.run, d.Close(Outcome.LOST, reason="row_unreadable"))
        elif self.supervision.may_launch():
            run_id, is_cancelled = self.run.id, self.run.cancel is not None
            self.supervision.bury(lambda: self._runtime.commands.bury_run(run_id, BURY_PATIENCE_S, stop=is_cancelled))
        return False


_NOTHING = Evidence(Sight.ALIVE)


def step_finished(name: str, command: Command, result: CommandResult, *, watch: str, play_uuid: str) -> StepFinished:
    """What there is to tell of a step's or a hook's end."""
    ok = result.ended_well(command.ok_exit_codes)
    return StepFinished(
        watch=watch,
        play_uuid=play_uuid,
        step=name,
        ok=ok,
        reason=None if ok else _reason(result),
        detail=result.detail,
        exit_code=result.shell_exit_code,
        signal=result.signal,
        timed_out=result.ending is Ending.TIMEOUT,
        duration_s=round(result.duration_s, 3),
        cpu_s=round(result.cpu_user_s + result.cpu_system_s, 3),
        max_rss_bytes=result.max_rss_bytes,
        output_bytes=result.output_bytes,
        left_running=result.left_running or None,
        output_tail=None if ok else result.output_tail,
    )


def _reason(result: CommandResult) -> str:
    if result.reason is not None:
        return result.reason
    return "exit_code" if result.ending is Ending.EXITED else result.ending.value
