"""The next action of a run: by table, and over simulated histories of kills, reboots, cancels and long pauses."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from builders import (
    BAD,
    HOUR,
    NOW,
    OK,
    YEAR,
    S,
    ended,
    later,
    rebooted,
    result,
    run,
    stamp,
    started,
    step,
    trigger,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from jetwatch.engine.decide import Action, Close, Lose, Record, Start, Stop, Wait, decide, first_unfinished, lost_result
from jetwatch.records import (
    STALE_AFTER_US,
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
    TriggerKind,
)

CANCEL = trigger(TriggerKind.MANUAL, by="root", reason="cancelled")
ALIVE = Evidence(Sight.ALIVE, supervisor=ProcessId(7, 7, "this"))
DONE = Evidence(Sight.DONE, result=OK)
NEVER_RAN = Evidence(Sight.NEVER_RAN)
GONE = Evidence(Sight.GONE)

# --- the table of actions ---------------------------------------------------------------------------------------------

DOWNLOADED = ended("download")


@pytest.mark.parametrize(
    ("case", "evidence", "now", "expected"),
    [
        (run(), None, NOW, Start(step())),
        (run(cancel=CANCEL), None, NOW, Close(Outcome.CANCELLED, "play", "cancelled")),
        (run(DOWNLOADED, step()), None, later(60), Start(step(number=1))),
        (run(DOWNLOADED, step()), None, rebooted(), Close(Outcome.LOST, "play", "reboot")),
        (run(DOWNLOADED, step()), None, later(3600), Start(step(number=1))),
        (run(DOWNLOADED, step()), None, later(3600.1), Close(Outcome.CANCELLED, "play", "stale")),
        (run(DOWNLOADED, step(), cancel=CANCEL), None, rebooted(), Close(Outcome.CANCELLED, "play", "cancelled")),
    ],
)
def test_between_two_commands(case: Run, evidence: Evidence | None, now: Stamp, expected: Action) -> None:
    """The next command starts, unless the run was cancelled, stood still for too long, or the machine was restarted."""
    assert decide(case, evidence, now) == expected


@pytest.mark.parametrize(
    ("evidence", "now", "cancelled", "expected"),
    [
        (ALIVE, NOW, False, Wait(started())),
        (ALIVE, NOW, True, Stop(started())),
        (ALIVE, later(7 * 3600), False, Wait(started())),
        (DONE, NOW, False, Record(started(), OK)),
        (DONE, NOW, True, Record(started(), OK)),
        (DONE, rebooted(), False, Record(started(), OK)),
        (DONE, later(7 * 3600), False, Record(started(), OK)),
        (GONE, NOW, False, Lose(started(), "supervisor_died")),
        (GONE, NOW, True, Lose(started(), "supervisor_died")),
        (GONE, rebooted(), False, Lose(started(), "reboot")),
        (NEVER_RAN, NOW, False, Start(started())),
        (NEVER_RAN, later(3600), False, Start(started())),
        (NEVER_RAN, NOW, True, Close(Outcome.CANCELLED, "play", "cancelled")),
        (NEVER_RAN, rebooted(), False, Lose(started(), "reboot")),
        (NEVER_RAN, rebooted(), True, Lose(started(), "reboot")),
        (None, NOW, False, Start(started())),
        (Evidence(Sight.DONE, result=None), NOW, False, Start(started())),
    ],
)
def test_during_a_command(evidence: Evidence | None, now: Stamp, cancelled: bool, expected: Action) -> None:
    """What the step's directory shows decides, and a start in another boot is never repeated."""
    assert decide(run(started(), cancel=CANCEL if cancelled else None), evidence, now) == expected


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (OK, Close(Outcome.OK, exit_code=0)),
        (BAD, Close(Outcome.FAILED, "play", None, 3)),
        (result(exit_code=0, reason="bad_output"), Close(Outcome.FAILED, "play", "bad_output", 0)),
        (result(Ending.SIGNALLED, exit_code=137, signal="SIGKILL"), Close(Outcome.FAILED, "play", None, 137)),
        (result(Ending.TIMEOUT, exit_code=143), Close(Outcome.TIMEOUT, "play", None, 143)),
        (result(Ending.NOT_STARTED, reason="no_such_file"), Close(Outcome.FAILED, "play", "no_such_file", 127)),
        (result(Ending.NOT_STARTED, reason="bad_cwd"), Close(Outcome.FAILED, "play", "bad_cwd", 126)),
        (result(Ending.CANCELLED, exit_code=143), Close(Outcome.CANCELLED, "play", None, 143)),
        (lost_result("run-1.play.1", "reboot", NOW), Close(Outcome.LOST, "play", "reboot")),
    ],
)
def test_the_end_of_the_last_command_is_the_end_of_the_run(how: CommandResult, expected: Close) -> None:
    """An outcome says how the play ended, and only an exit that was asked for is ok."""
    assert decide(run(DOWNLOADED, ended("play", how)), None, NOW) == expected


def test_a_failed_download_closes_the_run_before_its_play() -> None:
    """The play is not started, and failed_step names the download."""
    assert decide(run(ended("download", BAD), step()), None, NOW) == Close(Outcome.FAILED, "download", None, 3)


def test_an_exit_code_that_was_allowed_is_well() -> None:
    """ok_exit_codes say what counts as success."""
    allowing = replace(step().command, ok_exit_codes=(0, 3))
    assert decide(run(ended("play", BAD, command=allowing)), None, NOW) == Close(Outcome.OK, exit_code=3)


def test_a_cancelled_run_says_why_it_was_cancelled() -> None:
    """The reason is the one that the cancel came with, not the supervisor's."""
    cancelled = run(ended("play", result(Ending.CANCELLED, exit_code=143)), cancel=CANCEL)
    assert decide(cancelled, None, NOW) == Close(Outcome.CANCELLED, "play", "cancelled", 143)


def test_a_play_that_ended_before_the_cancel_reached_it_ended_as_it_did() -> None:
    """A cancel that came too late does not change what was seen."""
    assert decide(run(ended("play", OK), cancel=CANCEL), None, NOW).outcome is Outcome.OK
    assert decide(run(ended("play", BAD), cancel=CANCEL), None, NOW).outcome is Outcome.FAILED


def test_a_command_that_ended_before_a_reboot_is_not_followed_by_another_one() -> None:
    """Its end is recorded in the new boot; the run belongs to the old one all the same."""
    now = rebooted()
    found = run(ended("download"), step(), progressed=now)
    assert decide(found, None, later(1, now)) == Close(Outcome.LOST, "play", "reboot")


def test_a_command_that_ended_hours_ago_is_not_followed_by_another_one() -> None:
    """The run stood still since the download's end, though that was recorded only now, by an agent that came late."""
    now = later(5 * 3600)
    found = run(ended("download", result(ended_us=NOW.wall_us + 60 * S, duration_s=60.0)), step(), progressed=now)
    assert decide(found, None, now) == Close(Outcome.CANCELLED, "play", "stale")


@pytest.mark.parametrize(
    ("duration_s", "now"),
    [
        (5 * 3600.0 - 5, later(5 * 3600)),  # a long command
        (5.0, later(5 * 3600)),  # a suspended machine: 5 h by the boot-time clock, 5 s by the clock of timeouts
        (55.0, later(60, clock_set_s=10 * 365 * 86_400)),  # a wall clock that was set ten years ahead meanwhile
    ],
)
def test_a_command_that_ended_just_now_is_followed_by_the_next_one(duration_s: float, now: Stamp) -> None:
    """Neither a long command, nor a suspended machine, nor a step of the wall clock makes a run stale."""
    ended_us = NOW.wall_us + 55 * S if now.wall_us > NOW.wall_us + YEAR else now.wall_us - 5 * S
    found = run(ended("download", result(ended_us=ended_us, duration_s=duration_s)), step(), progressed=now)
    assert decide(found, None, now) == Start(step(number=1))


def test_a_start_that_never_came_to_be_is_stale_after_an_hour() -> None:
    """A run whose command was about to start when the agent died stood still as any other."""
    assert decide(run(started()), NEVER_RAN, later(3601)) == Close(Outcome.CANCELLED, "play", "stale")


def test_the_first_unfinished_step_is_the_one_in_question() -> None:
    """Steps go by their order; ended and skipped ones are passed over."""
    skipped = step("download", state=StepState.SKIPPED)
    assert first_unfinished(run(skipped, started())) == started(number=1)
    assert first_unfinished(run(DOWNLOADED, step())) == step(number=1)
    assert first_unfinished(run(ended())) is None


# --- simulated histories ----------------------------------------------------------------------------------------------

KILL_AGENT, KILL_SHIM, REBOOT, CANCELLATION, PAUSE, SET_CLOCK = (
    "kill agent",
    "kill shim",
    "reboot",
    "cancel",
    "pause",
    "set",
)
DISASTERS = (KILL_AGENT, KILL_AGENT, KILL_SHIM, KILL_SHIM, REBOOT, CANCELLATION, PAUSE, SET_CLOCK)
TRUTHS = (OK, OK, OK, OK, BAD, result(Ending.TIMEOUT), result(exit_code=0, reason="bad_output"))
STEPS = (step("download"), step("play", 1))


@dataclass
class Directory:
    """What one start of one step left on disk, and who holds its lock."""

    held: bool = False
    started_in: str | None = None
    exit: CommandResult | str | None = None  # "torn" for one that cannot be read


@dataclass
class Shim:
    """A supervisor at work. `stage` counts what it has done so far."""

    step: Step
    directory: Directory
    truth: CommandResult
    hangs: bool
    stage: str = "born"
    stop: bool = False


class Machine:
    """A machine with a journal, step directories, at most one supervisor, and a memory of what really happened."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.boots = 0
        self.boot_us = 1_000 * S
        self.wall_us = NOW.wall_us
        self.run = run(*STEPS, opened=self.now(), progressed=self.now())
        self.directories: dict[str, Directory] = {}
        self.shim: Shim | None = None
        self.running: str | None = None
        self.effects: list[str] = []
        self.truths: dict[str, CommandResult] = {}
        self.died_with_command = False
        self.clock_was_set = False
        self.stirred_us = self.boot_us
        self.decisions = 0
        self.history: list[object] = []

    def now(self) -> Stamp:
        """This instant by both clocks."""
        return stamp(wall_us=self.wall_us, boot_us=self.boot_us, boot_id=f"boot {self.boots}")

    def pass_time(self, us: int) -> None:
        """Nothing happens for so many microseconds."""
        self.boot_us += us
        self.wall_us += us

    # what an agent can do

    def look(self, one: Step) -> Evidence:
        """Lock, exit.json, started.json, in this order."""
        found = self.directories.get(_start_of(one), Directory())
        if found.held:
            return ALIVE
        if isinstance(found.exit, CommandResult):
            return Evidence(Sight.DONE, result=found.exit)
        return GONE if found.started_in == self.now().boot_id else NEVER_RAN

    def put(self, one: Step) -> None:
        """One transaction."""
        steps = tuple(one if each.number == one.number else each for each in self.run.steps)
        self.run = replace(self.run, steps=steps, progressed=self.now())

    def launch(self, one: Step) -> None:
        """The lock is held from before the fork."""
        assert self.shim is None, "two supervisors at a time"
        assert self.running is None, "a command beside one that was left over"
        directory = Directory(held=True)
        self.directories[_start_of(one)] = directory
        self.shim = Shim(one, directory, self.chance.choice(TRUTHS), hangs=self.chance.random() < 0.2)

    def bury(self) -> None:
        """End what a dead supervisor left."""
        self.running = None

    # what a supervisor does, one stage after the other

    def go_on(self) -> None:
        """One stage further."""
        shim = self.shim
        if shim is None:
            return
        match shim.stage:
            case "born":
                shim.directory.started_in = self.now().boot_id
                shim.stage = "announced"
            case "announced":
                self._begin(shim)
            case "running":
                self._run_on(shim)
            case "ended":
                shim.directory.exit = self.truths[shim.step.name]
                shim.stage = "told"
            case "told":
                self._leave(shim)

    def _leave(self, shim: Shim) -> None:
        shim.directory.held = False
        self.shim = None

    def _begin(self, shim: Shim) -> None:
        self.effects.append(shim.step.name)
        assert self.effects.count(shim.step.name) == 1, "a command's effect twice"
        assert self.now().boot_id == self.run.opened.boot_id, "a command in another boot than its run's"
        assert self.running is None
        self.running = shim.step.name
        self.stirred_us = self.boot_us
        shim.stage = "running"

    def _run_on(self, shim: Shim) -> None:
        if shim.hangs and not shim.stop and (self.run.cancel is not None or self.chance.random() < 0.9):
            self.pass_time(
                60 * S
            )  # it ends by its timeout in the end; who was cancelled must not have to wait for that
            return
        begun_us = self.stirred_us
        self.running = None
        self.stirred_us = self.boot_us
        how = result(Ending.CANCELLED, exit_code=143) if shim.stop else shim.truth
        self.truths[shim.step.name] = replace(how, ended_us=self.wall_us, duration_s=(self.boot_us - begun_us) / S)
        shim.stage = "ended"

    # what happens to them

    def kill_agent(self) -> None:
        """It may have been writing the spec: a supervisor that did not get all of it leaves, and nothing ran."""
        if self.shim is not None and self.shim.stage == "born" and self.chance.random() < 0.5:
            self._leave(self.shim)

    def kill_shim(self) -> None:
        """Its command lives on, if it began."""
        if self.shim is not None:
            self.died_with_command |= self.shim.directory.started_in is not None
            self._leave(self.shim)

    def reboot(self) -> None:
        """What was being written is there, not there, or torn; what was not synced may be gone."""
        if self.shim is not None:
            if self.shim.stage == "ended":
                self.shim.directory.exit = self.chance.choice((None, "torn", self.truths[self.shim.step.name]))
            if self.chance.random() < 0.5:
                self.shim.directory.started_in = None
            self._leave(self.shim)
        self.running = None
        self.boots += 1
        self.pass_time(60 * S)
        self.boot_us = 10 * S
        self.stirred_us = self.boot_us


def _start_of(one: Step) -> str:
    return f"{one.name}.{one.attempt}"


def agent(machine: Machine) -> Iterator[str]:
    """One life of an agent: it may be killed wherever it yields, between any two things that it writes."""
    while machine.run.is_open:
        under_way = first_unfinished(machine.run)
        evidence = None
        if under_way is not None and under_way.state is StepState.STARTED:
            evidence = machine.look(under_way)
        action = decide(machine.run, evidence, machine.now())
        machine.decisions += 1
        machine.history.append(action)
        match action:
            case Start(one):
                assert machine.run.cancel is None, "a cancelled run starts nothing"
                still_us = machine.boot_us - machine.stirred_us
                assert still_us <= STALE_AFTER_US or machine.clock_was_set, (
                    "a run that stood still for more than an hour"
                )
                machine.put(replace(one, state=StepState.STARTED, attempt=one.attempt + 1, started=machine.now()))
                machine.stirred_us = machine.boot_us
                yield "recorded"
                machine.launch(replace(one, attempt=one.attempt + 1))
                yield "launched"
            case Wait():
                yield "waits"
            case Stop():
                if machine.shim is not None:
                    machine.shim.stop = True
                yield "waits"
            case Record(one, how):
                machine.put(replace(one, state=StepState.ENDED, result=how))
                yield "recorded"
            case Lose(one, reason):
                if reason == "supervisor_died":
                    machine.bury()
                    yield "buried"
                machine.put(replace(one, state=StepState.ENDED, result=lost_result("", reason, machine.now())))
                yield "recorded"
            case Close() as end:
                machine.run = replace(machine.run, outcome=end.outcome, reason=end.reason, failed_step=end.failed_step)


def live_through(seed: int, disasters: int) -> Machine:
    """One history: agent and supervisor go on in a random order, and `disasters` come at random moments."""
    chance = random.Random(seed)
    machine = Machine(chance)
    life = agent(machine)
    doing = ""
    asleep = 0
    for _ in range(600):
        if not machine.run.is_open:
            return machine
        machine.pass_time(chance.choice((1_000, 20_000, S)))
        if disasters and chance.random() < 0.12:
            disasters -= 1
            disaster = chance.choice(DISASTERS)
            machine.history.append(disaster)
            if disaster in (KILL_AGENT, REBOOT):
                life, doing, asleep = agent(machine), "", chance.choice((0, 0, 3, 12))
            _strike(machine, disaster)
            if disaster == CANCELLATION:
                doing = ""
        waits = doing == "waits" and machine.shim is not None
        if asleep:
            asleep -= 1
            machine.go_on()
        elif waits or chance.random() < 0.5:
            machine.go_on()
        else:
            doing = next(life, "")
    raise AssertionError(f"no end: {machine.history}")


def _strike(machine: Machine, disaster: str) -> None:
    match disaster:
        case "kill agent":
            machine.kill_agent()
        case "kill shim":
            machine.kill_shim()
        case "reboot":
            machine.reboot()
        case "cancel" if machine.run.is_open and machine.run.cancel is None:
            machine.run = replace(machine.run, cancel=CANCEL)
        case "pause":
            machine.pass_time(machine.chance.choice((10 * 60 * S, 2 * HOUR)))
        case "set":
            machine.wall_us += machine.chance.choice((-10, 10)) * YEAR
            machine.clock_was_set = True


def check_end(machine: Machine, disasters: int) -> None:
    """Whatever the history was, its end says what happened."""
    outcome = machine.run.outcome
    well = [name for name, truth in machine.truths.items() if truth.ended_well((0,))]
    assert machine.decisions <= 8 + 6 * disasters, "too many decisions"
    assert machine.running is None, "closed beside a living command"
    if outcome is Outcome.OK:
        assert machine.effects == ["download", "play"] == well
    elif outcome is Outcome.FAILED:
        assert len(well) < len(machine.truths)
    elif outcome is Outcome.TIMEOUT:
        assert Ending.TIMEOUT in [truth.ending for truth in machine.truths.values()]
    elif outcome is Outcome.LOST:
        assert machine.died_with_command or machine.boots, "lost without a loss"
    elif machine.run.reason == "stale":
        assert PAUSE in machine.history
    else:
        assert machine.run.cancel is not None, "cancelled by nobody"


def test_no_history_of_kills_reboots_and_cancels_breaks_a_rule() -> None:
    """No command twice, none in another boot, no ok that was not seen, lost only by a loss, always an end."""
    seen: dict[Outcome | None, int] = {}
    for seed in range(20_000):
        disasters = seed % 7
        machine = live_through(seed, disasters)
        try:
            check_end(machine, disasters)
        except AssertionError as error:
            raise AssertionError(f"history {seed}: {error}: {machine.history}") from error
        seen[machine.run.outcome] = seen.get(machine.run.outcome, 0) + 1
    assert min(seen.get(outcome, 0) for outcome in Outcome) > 500, f"too few of a kind to mean anything: {seen}"


def test_without_a_disaster_a_run_ends_as_its_commands_did() -> None:
    """Nobody is killed, so nothing is lost or cancelled, and each command is started once."""
    for seed in range(500):
        machine = live_through(seed, 0)
        bad = [truth for truth in machine.truths.values() if not truth.ended_well((0,))]
        wanted = Outcome.OK if not bad else Outcome.TIMEOUT if bad[0].ending is Ending.TIMEOUT else Outcome.FAILED
        assert machine.run.outcome is wanted
        assert machine.effects == ["download", "play"][: len(machine.truths)]


@settings(max_examples=300, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    first=st.sampled_from([step("download"), started("download"), ended("download"), ended("download", BAD)]),
    second=st.sampled_from([step(), started(), ended(), ended("play", BAD)]),
    evidence=st.sampled_from([None, ALIVE, DONE, NEVER_RAN, GONE, Evidence(Sight.DONE)]),
    cancel=st.sampled_from([None, CANCEL]),
    now=st.builds(stamp, wall_us=st.integers(0, 2**52), boot_us=st.integers(0, 2**45), boot_id=st.sampled_from("ab")),
    progressed=st.builds(stamp, boot_us=st.integers(0, 2**45), boot_id=st.sampled_from("ab")),
)
def test_every_state_has_a_next_action(
    first: Step, second: Step, evidence: Evidence | None, cancel: object, now: Stamp, progressed: Stamp
) -> None:
    """Whatever is found, there is one answer; a cancelled run is never given a start, a closed boot never either."""
    found = run(first, second, opened=progressed, progressed=progressed, cancel=cancel)
    action = decide(found, evidence, now)
    if isinstance(action, Start):
        assert cancel is None
        assert now.boot_id == progressed.boot_id
    if isinstance(action, Close) and action.outcome is Outcome.OK:
        assert [each.result for each in found.steps] == [OK, OK]


@pytest.mark.parametrize(
    ("since_s", "expected"),
    [(0, Start(step("play", 1))), (3600, Start(step("play", 1))), (3601, Close(Outcome.CANCELLED, "play", "stale"))],
)
def test_a_run_that_waits_for_its_turn_is_not_stale(since_s: float, expected: Action) -> None:
    """However long ago its content came: what counts is when an agent last said that it waits."""
    fetched = ended("download", result(ended_us=NOW.wall_us))
    now = later(10 * HOUR / S)
    waiting = run(fetched, step("play"), waiting_for=("max_runs",), progressed=later(10 * HOUR / S - since_s))
    assert decide(waiting, None, now) == expected
    assert decide(replace(waiting, waiting_for=()), None, now) == Close(Outcome.CANCELLED, "play", "stale")
