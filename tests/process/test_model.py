"""Random histories of one watch against a small model of what the contract promises of a cycle.

A real engine over a real journal, on a moved clock and a simulated machine. Between any two writes of the journal the
agent may be killed, and the machine may reboot at any time: what the model expects stays the same, since it knows of
neither. `Cycle` is the model: sections 2 and 4 of the contract in a page, with nothing of the engine in it.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from engine_in_time import EngineInTime, MovedClock, until
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from simulated_machine import PLENTY, SimulatedMachine

from jetwatch.config.load import load
from jetwatch.errors import UsageError
from jetwatch.events import Change
from jetwatch.journal.journal import Journal
from jetwatch.records import HookState, Run

INTERVAL_S = 200.0
HOUR_S = 3600.0
DUE, NOT_DUE, LATER, BROKEN = 0, 1, 75, 2
CONFIG = """\
check_command: look
download_command: fetch {{ download_path }}
jet_command: apply
check_interval: %d
on_ok: well
on_fail: unwell
on_done: over
"""


class KilledError(BaseException):
    """The agent's process is gone, from one instruction to the next."""


@dataclass
class Cycle:
    """What is expected of the watch. Times are seconds since the history began."""

    now_s: float = 0.0
    next_check_s: float = 0.0
    answer: int = DUE
    has_room: bool = True
    saw_room: bool | None = None
    """What the last look at the disk has shown; None: this agent has not looked yet."""
    suspended: bool = False
    triggered: bool = False
    waiting: frozenset[str] = frozenset()
    """What a due answer waits for; empty: there is none."""
    step: str = ""
    """The command that runs; empty: no run is open."""
    outcomes: Counter[str] = field(default_factory=Counter)
    lost_in_a_row: int = 0
    held_until_s: float = 0.0
    interval_s: float = INTERVAL_S

    @property
    def is_held(self) -> bool:
        """Three lost runs in a row hold the watch for a while."""
        return self.now_s < self.held_until_s

    def go_on(self) -> None:
        """Everything that is to happen at this instant."""
        while not self.step and self._decide():
            pass

    def _decide(self) -> bool:
        if self.triggered:
            self.triggered = False
            self.next_check_s = self.now_s + self.interval_s
            self._ask()
        elif self.waiting and "room" not in self.waiting and not self._obstacles():
            self.saw_room = self.has_room if self.saw_room is None else self.saw_room
            self._open_or_wait()
        elif self.now_s >= self.next_check_s:
            self.next_check_s += self.interval_s
            if self.next_check_s - self.interval_s <= self.now_s - 1:  # late: counted from when it really began
                self.next_check_s = self.now_s + self.interval_s
            self._check()
        else:
            return False
        return True

    def _check(self) -> None:
        """A regular check. None is made while a person or a hold keeps runs back; a due answer asks nobody again."""
        if self.suspended or self.is_held:
            return
        if not self.waiting:
            self._ask()
        elif "room" in self.waiting:
            self.saw_room = self.has_room
            self._open_or_wait()

    def _ask(self) -> None:
        self.saw_room = self.has_room
        if self.answer == DUE:
            self._open_or_wait()

    def _open_or_wait(self) -> None:
        self.waiting = self._obstacles()
        if not self.waiting:
            self._begin()

    def _obstacles(self) -> frozenset[str]:
        found = {"person": self.suspended, "hold": self.is_held, "room": self.saw_room is False}
        return frozenset(name for name, holds in found.items() if holds)

    def _begin(self) -> None:
        self.waiting = frozenset()
        self.step = "download"

    def step_ended(self, exit_code: int) -> None:
        """The running command said how it went."""
        if exit_code == 0 and self.step == "download":
            self.step = "play"
        else:
            self.end("ok" if exit_code == 0 else "failed")

    def end(self, outcome: str) -> None:
        """The run is over."""
        self.step = ""
        self.outcomes[outcome] += 1
        self.lost_in_a_row = self.lost_in_a_row + 1 if outcome == "lost" else 0
        self.held_until_s = 0.0
        if self.lost_in_a_row >= 3:
            hours = min(24, 2 ** (self.lost_in_a_row - 3))
            self.held_until_s = self.now_s + hours * HOUR_S


class MortalJournal:
    """A journal whose agent may be killed before or after any of its writes."""

    def __init__(self, journal: Journal, history: History) -> None:
        self._journal = journal
        self._history = history

    def commit(self, change: Change) -> Any:
        """Write, unless the agent is killed before; the write may be the last thing that it does."""
        if self._history.dies_now(written=False):
            raise KilledError
        done = self._journal.commit(change)
        if self._history.dies_now(written=True):
            raise KilledError
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)


class History(RuleBasedStateMachine):
    """One history of one watch."""

    def __init__(self) -> None:
        super().__init__()
        # In memory: a killed agent loses nothing that it wrote, and what a power cut takes is tried elsewhere.
        self._folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.clock = MovedClock()
        self.machine = SimulatedMachine(answer=DUE)
        self.cycle = Cycle()
        self.writes = 0
        self._kill_in: int | None = None
        self._kill_written = False

    @initialize()
    def begin(self) -> None:
        """An agent starts on an empty state directory."""
        self._start()
        self._settle()

    def _start(self) -> None:
        self.engine = EngineInTime(
            Path(self._folder.name),
            CONFIG % self.cycle.interval_s,
            self.clock,
            commands=self.machine,
            wrap=lambda journal: MortalJournal(journal, self),  # type: ignore[arg-type,return-value]
        ).start()

    def dies_now(self, *, written: bool) -> bool:
        """Whether the agent is to be killed at this point of this write."""
        self.writes += written
        if self._kill_in is None or written is not self._kill_written:
            return False
        self._kill_in -= 1
        if self._kill_in < 0:
            self._kill_in = None
            return True
        return False

    def _settle(self) -> None:
        """Let everything happen that is due. An agent that was killed is followed by another."""
        before = -1
        while before != self.writes:
            before = self.writes
            self.engine.settle()
            if not self.engine.is_alive:
                self._again()
                before = -1
        self.cycle.go_on()

    def _again(self) -> None:
        """The next agent. Without splay its first check comes at once."""
        assert isinstance(self.engine.failure, KilledError | None), self.engine.failure
        self.engine.bury()
        if self._was_heard():
            self.cycle.go_on()
        self.cycle.next_check_s = self.cycle.now_s
        self.cycle.saw_room = None
        self._start()

    def _was_heard(self) -> bool:
        """Whether the check of this instant was made before the end: the next agent's first one is another."""
        journal = Journal.open(self.engine.layout.journal)
        try:
            states, runs = journal.watches().values(), journal.runs(limit=1000)
        finally:
            journal.close()
        wish_was_heard = self.cycle.triggered and all(state.trigger is None for state in states)
        due_was_heard = not self.cycle.waiting and any(state.due is not None for state in states)
        return wish_was_heard or due_was_heard or len(runs) > self.cycle.outcomes.total() + bool(self.cycle.step)

    def _ask_engine(self, call: Callable[[], object]) -> None:
        """Let the engine do what a person asked for, and wait until it has."""
        refused: list[UsageError] = []

        def ask() -> None:
            try:
                call()
            except UsageError as error:
                refused.append(error)

        if self.engine.is_alive:
            self.engine.runtime.post(ask)
            self._settle()

    # -- what happens to a watch

    @rule(answer=st.sampled_from([DUE, DUE, DUE, NOT_DUE, LATER, BROKEN]))
    def the_answer_changes(self, answer: int) -> None:
        """From now on the check says something else."""
        self.machine.answer = self.cycle.answer = answer

    @rule(seconds=st.sampled_from([1.0, 50.0, INTERVAL_S, 3 * INTERVAL_S, HOUR_S, 30 * HOUR_S]))
    def time_passes(self, seconds: float) -> None:
        """Nothing else happens meanwhile; a machine that sleeps is no different."""
        self.cycle.now_s += seconds
        self.clock.pass_s(seconds)
        self._settle()

    @precondition(lambda self: not self.cycle.step)
    @rule()
    def the_next_check_comes(self) -> None:
        """At its time, and not a moment before."""
        left_s = self.cycle.next_check_s - self.cycle.now_s
        before = self.machine.checks, self.engine
        self.time_passes(left_s - 1)
        assert self.engine is not before[1] or self.machine.checks == before[0]  # another agent checks at once
        self.time_passes(1.0)

    @precondition(lambda self: self.cycle.step)
    @rule()
    def the_run_goes_well(self) -> None:
        """All that is left of it."""
        while self.cycle.step:
            self.a_command_ends(0)
            if self.cycle.step == "download":
                break  # the next run

    @precondition(lambda self: self.cycle.step)
    @rule(exit_code=st.sampled_from([0, 0, 0, 1]))
    def a_command_ends(self, exit_code: int) -> None:
        """The download or the play."""
        self.cycle.step_ended(exit_code)
        self.machine.end(exit_code)
        self._settle()

    @precondition(lambda self: self.cycle.step)
    @rule()
    def a_supervisor_is_killed(self) -> None:
        """The run may have gone on in part: it is lost."""
        self.cycle.end("lost")
        self.machine.kill_supervisor()
        self._settle()

    @rule(writes=st.integers(0, 12), written=st.booleans())
    def the_agent_will_be_killed(self, writes: int, written: bool) -> None:
        """So many writes from now, before or after it."""
        self._kill_in, self._kill_written = writes, written

    @rule()
    def the_agent_is_restarted(self) -> None:
        """TERM, and another one: what runs goes on."""
        self._kill_in = None
        self.engine.leave()
        self._again()
        self._settle()

    @rule(seconds=st.sampled_from([30.0, HOUR_S, 200 * HOUR_S]))  # a history stays within the year that is kept
    def the_machine_reboots(self, seconds: float) -> None:
        """Without a word to the agent."""
        self._kill_in, self._kill_written = 0, False
        self.engine.runtime.post(self._die)
        until(lambda: not self.engine.is_alive, "the agent lives")
        self._kill_in = None
        self.machine.reboot()
        self.clock.reboot(seconds)
        self.cycle.now_s += seconds
        if self.cycle.step:
            self.cycle.end("lost")
        self._again()
        self._settle()

    def _spare_first_write(self) -> None:
        """An agent that is killed before it wrote a wish down was never asked."""
        if self._kill_in == 0 and not self._kill_written:
            self._kill_in = 1

    @staticmethod
    def _die() -> None:
        raise KilledError

    @rule()
    def somebody_triggers(self) -> None:
        """Check now; during a run it is remembered once; a suspended watch refuses."""
        self._spare_first_write()
        if not self.cycle.suspended:
            self.cycle.triggered = True
        self._ask_engine(lambda: self.engine.engine.trigger(None, force=False, by="test", report=None))

    @precondition(lambda self: self.cycle.step)
    @rule()
    def somebody_cancels(self) -> None:
        """End the run."""
        self._spare_first_write()
        self.cycle.end("cancelled")
        self._ask_engine(lambda: self.engine.engine.cancel(None, by="test"))

    @rule()
    def somebody_suspends(self) -> None:
        """No new runs."""
        self._spare_first_write()
        self.cycle.suspended = True
        self._ask_engine(lambda: self.engine.engine.suspend(None, by="test", reason="model", for_s=None))

    @rule()
    def somebody_resumes(self) -> None:
        """Runs again."""
        self._spare_first_write()
        self.cycle.suspended = False
        self._ask_engine(lambda: self.engine.engine.resume(None, by="test"))

    @rule()
    def somebody_clears(self) -> None:
        """Forget the hold."""
        self._spare_first_write()
        self.cycle.lost_in_a_row, self.cycle.held_until_s = 0, 0.0
        if self._in_error():
            self.cycle.next_check_s = self.cycle.now_s
        self._ask_engine(lambda: self.engine.engine.clear(None, by="test"))

    def _in_error(self) -> bool:
        return self.engine.state().check_errors > 0

    @rule(full=st.booleans())
    def the_disk_fills(self, full: bool) -> None:
        """Or is emptied."""
        self.machine.free_bytes = 0 if full else PLENTY
        self.cycle.has_room = not full

    @rule(interval_s=st.sampled_from([INTERVAL_S, 2 * INTERVAL_S]))
    def the_configuration_is_read_again(self, interval_s: float) -> None:
        """An altered watch draws its splay, and without one checks at once."""
        self._spare_first_write()
        if interval_s != self.cycle.interval_s:
            self.cycle.next_check_s = self.cycle.now_s
        self.cycle.interval_s = interval_s
        path = self.engine.top / "watch.yml"
        path.write_text(CONFIG % interval_s)
        found, _ = load(path)
        self._ask_engine(lambda: self.engine.engine.reload(found))

    @rule(exit_code=st.sampled_from([0, 1]))
    def hooks_fail_or_not(self, exit_code: int) -> None:
        """From now on; that changes no outcome."""
        self.machine.hook_code = exit_code

    # -- what holds at any time

    @invariant()
    def the_watch_stands_as_the_model_says(self) -> None:
        """The open run, what is waited for, and every outcome so far."""
        if not hasattr(self, "engine"):
            return
        runs = self._runs()
        closed = Counter(str(run.outcome) for run in runs if run.outcome is not None)
        opened = [run for run in runs if run.is_open]
        assert len(opened) == bool(self.cycle.step)
        assert closed == self.cycle.outcomes
        state = self.engine.state()
        assert bool(state.due) == bool(self.cycle.waiting)
        assert bool(state.suspended) == self.cycle.suspended
        assert state.lost_in_a_row == self.cycle.lost_in_a_row

    @invariant()
    def nothing_began_twice(self) -> None:
        """Each command of a run began once at most, the play after a download that ended well."""
        began = Counter(step_id.rpartition(".")[0] for step_id in self.machine.effects)
        assert all(count == 1 for count in began.values()), began

    @invariant()
    def every_end_was_told_once(self) -> None:
        """A closed run has one run_finished in the journal's history, an open one none."""
        if not hasattr(self, "engine"):
            return
        ends = Counter(
            (told.event.play_uuid, getattr(told.event, "outcome", ""))
            for told in self.engine.journal.events_after(0)
            if told.event.name == "run_finished"
        )
        assert ends == Counter((run.id, str(run.outcome)) for run in self._runs() if run.outcome is not None)

    @invariant()
    def hooks_fit_their_outcome_and_come_in_order(self) -> None:
        """`on_ok` or `on_fail`, then `on_done`: what was delivered ended well, and what is owed was not."""
        if not hasattr(self, "engine"):
            return
        well = {step_id.rpartition(".")[0] for step_id, exit_code in self.machine.hooks if exit_code == 0}
        for run in self._runs():
            if run.outcome is None:
                continue
            entries = self.engine.journal.hooks_of(run.id)
            assert [entry.name for entry in entries] == ["on_ok" if run.outcome == "ok" else "on_fail", "on_done"]
            for entry in entries:
                assert (entry.state is HookState.DELIVERED) <= (f"{run.id}.{entry.name}" in well)
        tried = [step_id.split(".")[:2] for step_id, _ in self.machine.hooks]
        for run_id in {run_id for run_id, _ in tried}:
            names = [name for run, name in tried if run == run_id]
            assert "on_done" not in names[: names.index("on_done")] if "on_done" in names else True

    def _runs(self) -> list[Run]:
        return self.engine.journal.runs(limit=1000)

    def teardown(self) -> None:
        """End it all."""
        if hasattr(self, "engine"):
            if self.engine.is_alive:
                self.engine.leave()
            self.engine.bury()
        self.machine.close()
        self._folder.cleanup()


TestModel = pytest.mark.timeout(600)(History.TestCase)
TestModel.settings = settings(
    max_examples=120,
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to make what failed small takes minutes; it can be repeated
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
