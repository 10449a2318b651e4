"""Fetches have places of their own: no slow server keeps other watches from their runs, or from their fetches.

First one by one; then random histories of many watches, fetches, plays and agents against what is promised of places.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_in_time import EngineInTime, MovedClock, until
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from simulated_machine import SimulatedMachine

from jetwatch.config.model import WatchSettings
from jetwatch.content_records import Look
from jetwatch.records import Run

HOUR_S = 3600.0
SLOW = "".join(f"  slow{number}: {{content: 'https://slow.example/{number}.tar'}}\n" for number in range(1, 6))
SLOWEST = [f"slow{number}" for number in range(1, 5)]
CONFIG = f"""\
max_runs: 1
defaults: {{jet_command: apply, check_interval: 1d}}
watches:
{SLOW}  other: {{content: 'https://other.example/x.tar'}}
  plain: {{check_command: look}}
"""


class Published:
    """Looks at content of which every watch has this revision."""

    def __init__(self) -> None:
        self.revision = "one"

    def look(self, settings: WatchSettings, *_: object) -> Look:
        """At once."""
        return Look(self.revision)


Make = Callable[..., EngineInTime]


@pytest.fixture
def clock() -> MovedClock:
    """A clock that the test moves."""
    return MovedClock()


@pytest.fixture
def machine() -> Iterator[SimulatedMachine]:
    """A machine whose commands end when the test says."""
    machine = SimulatedMachine(answer=0)
    yield machine
    machine.close()


@pytest.fixture
def make(tmp_path: Path, clock: MovedClock, machine: SimulatedMachine) -> Make:
    """Makes engines over one state directory."""

    def begin(config: str = CONFIG, *, once: bool = False) -> EngineInTime:
        return EngineInTime(tmp_path, config, clock, looks=lambda *_: Published(), commands=machine, once=once)

    return begin


def of(engine: EngineInTime, watch: str) -> Run:
    """The open run of a watch."""
    return next(run for run in engine.journal.open_runs() if run.watch == watch)


def end(engine: EngineInTime, machine: SimulatedMachine, watch: str, step: str, exit_code: int = 0) -> None:
    """A command of the watch's open run ends."""
    step_id = f"{of(engine, watch).id}.{step}.1"
    until(lambda: step_id in machine.alive(), f"{step_id} does not run")
    machine.end_step(step_id, exit_code)
    engine.settle()


def test_a_slow_server_holds_neither_runs_nor_the_fetches_of_others(make: Make, machine: SimulatedMachine) -> None:
    """Of its five watches four fetch, and one waits; another server's watch, and one without content, go on."""
    engine = make().start()
    until(lambda: len(machine.alive()) == 6, "they did not begin")
    until(lambda: engine.state("slow5").waiting_for == ("origin:https://slow.example:443",), "it does not wait")
    assert {run.watch for run in engine.journal.open_runs()} == {*SLOWEST, "other", "plain"}
    end(engine, machine, "plain", "play")
    end(engine, machine, "other", "download")
    end(engine, machine, "other", "play")
    assert {told.watch for told in engine.told("run_finished", outcome="ok")} == {"plain", "other"}
    end(engine, machine, "slow1", "download", 1)
    until(lambda: any(run.watch == "slow5" for run in engine.journal.open_runs()), "the fifth does not fetch")
    engine.leave()
    engine.bury()


def test_what_has_been_fetched_waits_for_a_place_to_play(
    make: Make, machine: SimulatedMachine, clock: MovedClock
) -> None:
    """It says so, keeps waiting for hours without being called stale, and over a restart; then it plays, once."""
    engine = make().start()
    until(lambda: len(machine.alive()) == 6, "they did not begin")
    end(engine, machine, "slow1", "download")
    until(lambda: of(engine, "slow1").waiting_for == ("max_runs",), "it does not wait")
    for _ in range(30):
        clock.pass_s(600)
        engine.settle()
    assert engine.told("run_finished") == []
    engine.leave()
    engine.bury()
    clock.pass_s(1800)
    engine = make().start()
    engine.settle()
    assert of(engine, "slow1").waiting_for == ("max_runs",)
    end(engine, machine, "plain", "play")
    end(engine, machine, "slow1", "play")
    engine.wait_for(1, "run_finished", watch="slow1", outcome="ok")
    assert len(machine.effects) == len(set(machine.effects))
    engine.leave()
    engine.bury()


def test_a_run_that_waits_and_is_left_alone_for_long_is_stale(
    make: Make, machine: SimulatedMachine, clock: MovedClock
) -> None:
    """Without an agent for more than an hour its content is old: the next one does not go on with it."""
    engine = make().start()
    until(lambda: len(machine.alive()) == 6, "they did not begin")
    end(engine, machine, "slow1", "download")
    engine.leave()
    engine.bury()
    clock.pass_s(2 * HOUR_S)
    engine = make().start()
    engine.wait_for(1, "run_finished", watch="slow1", outcome="cancelled", reason="stale")
    engine.leave()
    engine.bury()


def test_a_run_that_waits_can_be_cancelled(make: Make, machine: SimulatedMachine) -> None:
    """At once: nothing of it runs."""
    engine = make().start()
    until(lambda: len(machine.alive()) == 6, "they did not begin")
    end(engine, machine, "slow1", "download")
    run_id = of(engine, "slow1").id
    engine.runtime.post(lambda: engine.engine.cancel(run_id, by="me"))
    engine.wait_for(1, "run_finished", watch="slow1", outcome="cancelled", failed_step="play")
    engine.leave()
    engine.bury()


@pytest.mark.parametrize("mode", ["wait", "cancel"])
def test_an_agent_that_stops_brings_a_run_that_waits_to_its_end(
    make: Make, machine: SimulatedMachine, mode: str
) -> None:
    """With `wait` it still gets its turn, with `cancel` it is cancelled."""
    config = CONFIG.replace(SLOW, SLOW.splitlines(keepends=True)[0])
    engine = make(config).start()
    until(lambda: len(machine.alive()) == 3, "they did not begin")
    end(engine, machine, "slow1", "download")
    until(lambda: of(engine, "slow1").waiting_for == ("max_runs",), "it does not wait")
    engine.runtime.post(lambda: engine.engine.stop(mode, "test"))
    if mode == "wait":
        end(engine, machine, "other", "download", 1)
        end(engine, machine, "plain", "play")
        end(engine, machine, "slow1", "play")
    until(lambda: not engine.is_alive, "it did not stop")
    engine.stop()
    expected = {"slow1": "ok", "plain": "ok", "other": "failed"}
    if mode == "cancel":
        expected = dict.fromkeys(expected, "cancelled")
    assert {told.watch: told.outcome for told in engine.told("run_finished")} == expected


def test_once_waits_for_every_turn(make: Make, machine: SimulatedMachine) -> None:
    """All of them come to their end, then the agent does."""
    config = CONFIG.replace("max_runs: 1", "max_runs: 1\nmax_fetches: 1")
    engine = make(config, once=True).start()
    while engine.is_alive:
        for step_id in machine.alive():
            machine.end_step(step_id, 0)
        until(lambda: bool(machine.alive()) or not engine.is_alive, "nothing goes on")
    engine.stop()
    assert len(engine.told("run_finished", outcome="ok")) == 7


def test_no_play_begins_outside_its_window_because_it_had_to_wait(
    make: Make, machine: SimulatedMachine, clock: MovedClock
) -> None:
    """The run is given back when the window closes, holds nothing meanwhile, and is due again when it opens."""
    opened = "windows: [{from: 00:00, to: 23:00}], timezone: UTC"
    config = CONFIG.replace(SLOW, SLOW.splitlines(keepends=True)[0]).replace("slow1: {", f"slow1: {{{opened}, ")
    engine = make(config).start()
    until(lambda: len(machine.alive()) == 3, "they did not begin")
    end(engine, machine, "slow1", "download")
    until(lambda: of(engine, "slow1").waiting_for == ("max_runs",), "it does not wait")
    day_s = 86_400
    to_close_s = (23 * 3600 - clock.now().wall_us // 1_000_000 % day_s) % day_s
    clock.pass_s(to_close_s + 60)
    engine.settle()
    (ended,) = engine.wait_for(1, "run_finished", watch="slow1")
    assert (ended.outcome, ended.reason) == ("cancelled", "window")
    state = engine.state("slow1")
    assert (state.waiting_for, state.quarantined_revision) == (("window",), None)
    end(engine, machine, "plain", "play")
    clock.pass_s(3600)
    until(lambda: len(engine.told("run_started", watch="slow1")) == 2, "it is not due again")
    end(engine, machine, "slow1", "download")
    end(engine, machine, "slow1", "play")
    engine.wait_for(1, "run_finished", watch="slow1", outcome="ok")
    engine.leave()
    engine.bury()


# --- random histories -------------------------------------------------------------------------------------------------

MAX_RUNS, MAX_FETCHES, OF_ONE_ORIGIN = 2, 8, 2
MANY = f"""\
max_runs: {MAX_RUNS}
max_fetches: {MAX_FETCHES}
defaults: {{jet_command: apply, check_interval: 600}}
watches:
  a1: {{content: 'https://a.example/1.tar'}}
  a2: {{content: 'https://a.example/2.tar'}}
  a3: {{content: 'https://a.example/3.tar'}}
  b1: {{content: 'https://b.example/1.tar', exclusive: x}}
  b2: {{content: 'https://b.example/2.tar'}}
  p1: {{check_command: look, exclusive: x}}
  p2: {{check_command: look}}
  p3: {{check_command: look, download_command: fetch}}
"""


class Places(RuleBasedStateMachine):
    """One history of eight watches."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.clock = MovedClock()
        self.machine = SimulatedMachine(answer=0)
        self.published = Published()

    @initialize()
    def begin(self) -> None:
        """An agent starts on an empty state directory."""
        self._start()

    def _start(self) -> None:
        looks = self.published
        top = Path(self._folder.name)
        self.engine = EngineInTime(top, MANY, self.clock, looks=lambda *_: looks, commands=self.machine).start()
        self._settle()

    def _settle(self) -> None:
        before = None
        while before != (before := (len(self.machine.effects), len(self.engine.lines))):
            self.engine.settle()

    @rule(which=st.integers(0, 100), exit_code=st.sampled_from([0, 0, 0, 1]))
    def a_command_ends(self, which: int, exit_code: int) -> None:
        """One of those that run."""
        if alive := sorted(self.machine.alive()):
            self.machine.end_step(alive[which % len(alive)], exit_code)
            self._settle()

    @rule(seconds=st.sampled_from([1.0, 600.0, HOUR_S]))
    def time_passes(self, seconds: float) -> None:
        """Checks come."""
        self.clock.pass_s(seconds)
        self._settle()

    @rule()
    def something_new_is_published(self) -> None:
        """By everybody."""
        self.published.revision += "+"

    @rule(which=st.integers(0, 100))
    def somebody_cancels(self, which: int) -> None:
        """One of the open runs."""
        if runs := self.engine.journal.open_runs():
            run_id = runs[which % len(runs)].id
            self.engine.runtime.post(lambda: self.engine.engine.cancel(run_id, by="test"))
            self._settle()

    @rule()
    def the_agent_is_restarted(self) -> None:
        """What runs and what waits goes on."""
        self.engine.leave()
        self.engine.bury()
        self._start()

    @invariant()
    def nobody_has_a_place_too_many_and_none_is_kept_from_one(self) -> None:
        """The bounds hold; and whoever waits for a place does so since there is none."""
        if not hasattr(self, "engine"):
            return
        runs = self.engine.journal.open_runs()
        fetches = [run for run in runs if run.is_before_play]
        playing = len(runs) - len(fetches)
        origins = Counter(run.origin for run in fetches)
        assert playing <= MAX_RUNS
        assert len(fetches) <= MAX_FETCHES
        assert all(count <= OF_ONE_ORIGIN for count in origins.values())
        for run in runs:
            assert bool(run.waiting_for) is (not any(each.startswith(run.id) for each in self.machine.alive()))
            assert not run.waiting_for or playing == MAX_RUNS
        for state in self.engine.journal.watches().values():
            for word in state.waiting_for:
                kind, _, name = word.partition(":")
                full = {
                    "max_runs": playing == MAX_RUNS,
                    "max_fetches": len(fetches) == MAX_FETCHES,
                    "origin": origins[name] == OF_ONE_ORIGIN,
                    "exclusive": any(run.exclusive == name for run in runs),
                }
                assert full[kind], word

    @invariant()
    def nothing_began_twice(self) -> None:
        """Each command of a run began once at most."""
        assert max(Counter(self.machine.effects).values(), default=1) == 1

    def teardown(self) -> None:
        """End it all."""
        if hasattr(self, "engine"):
            self.engine.leave()
            self.engine.bury()
        self.machine.close()
        self._folder.cleanup()


TestPlaces = pytest.mark.timeout(600)(Places.TestCase)
TestPlaces.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
