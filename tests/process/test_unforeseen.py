"""What nobody foresaw is the error of one action: the agent, and every other watch, go on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest
from engine_in_time import EngineInTime, MovedClock, until
from simulated_machine import SimulatedMachine

from jetwatch.answering import Answering
from jetwatch.content_records import Look
from jetwatch.control.protocol import Request, Response, Verb
from jetwatch.engine.unforeseen import MOST_CALLS
from jetwatch.errors import ContentWait
from jetwatch.records import CommandResult, Ending, Outcome

SECRET = "hunter2"
RAISED = [ValueError(SECRET), RecursionError(SECRET), MemoryError(SECRET), OSError(36, SECRET, SECRET)]
ENDINGS = [KeyboardInterrupt(), SystemExit(SECRET), GeneratorExit()]
CONFIG = """\
defaults: {check_interval: 200}
watches:
  bad: {check_command: look, jet_command: apply, on_error: tell, on_ok: well, on_fail: unwell}
  good: {check_command: look, jet_command: apply}
"""


class FaultyMachine(SimulatedMachine):
    """A machine on which what the test names fails in a way that nobody foresaw, before or after it was done."""

    NAMES: ClassVar = (
        *("check", "free_space", "start_step", "start_hook", "look", "open_pidfd", "ask_to_stop", "bury"),
        *("end_old_checks", "forget_half_done", "leftovers", "run_size_bytes", "sweep", "forget_secrets"),
    )

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.faults: dict[str, BaseException] = {}
        self.late = False
        self.seen: list[str] = []
        for name in self.NAMES:
            setattr(self, name, self._faulty(name, getattr(self, name)))

    def _faulty(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def act(*words: Any, **more: Any) -> Any:
            fault = self.faults.get(name)
            if fault is None:
                return call(*words, **more)
            self.seen.append(name)
            if self.late:
                call(*words, **more)
            raise fault

        return act


@pytest.fixture
def clock() -> MovedClock:
    """A clock that the test moves."""
    return MovedClock()


@pytest.fixture
def machine() -> Iterator[FaultyMachine]:
    """A machine whose checks say not due."""
    machine = FaultyMachine()
    yield machine
    machine.close()


@pytest.fixture
def engine(tmp_path: Path, clock: MovedClock, machine: FaultyMachine) -> Iterator[EngineInTime]:
    """An engine with two watches, not started."""
    engine = EngineInTime(tmp_path, CONFIG, clock, commands=machine)
    yield engine
    engine.stop()
    assert SECRET not in repr(engine.lines)


@pytest.mark.parametrize("raised", RAISED + ENDINGS, ids=lambda raised: type(raised).__name__)
@pytest.mark.parametrize("call", ["check", "free_space"])
def test_a_check_that_fails_so_is_an_error_of_its_watch(
    engine: EngineInTime, clock: MovedClock, machine: FaultyMachine, call: str, raised: BaseException
) -> None:
    """Never not due, told to on_error once, asked again at the regular time; then all is well again."""
    machine.faults[call] = raised
    engine.start()
    for watch in ("bad", "good"):
        (said,) = engine.wait_for(1, "check_finished", watch=watch)
        assert (said.result, said.reason) == ("error", "internal_error")
        (told,) = engine.wait_for(1, "internal_error", watch=watch)
        assert told.action == "check"
        assert told.error.startswith(type(raised).__name__)
        assert "simulated" not in told.error
        assert __file__ in told.traceback
    assert engine.state("bad").check_errors == 1
    engine.settle()
    assert [step_id.split(".")[1] for step_id, _ in machine.hooks] == ["on_error"]
    clock.pass_s(200)
    engine.wait_for(2, "check_finished", watch="bad", result="error")
    machine.faults.clear()
    clock.pass_s(200)
    engine.wait_for(1, "check_finished", watch="bad", result="not_due")
    engine.settle()
    assert len(machine.hooks) == 1
    assert engine.state("bad").check_errors == 0


def test_a_check_in_error_gives_its_descriptors_back(
    engine: EngineInTime, clock: MovedClock, machine: FaultyMachine
) -> None:
    """A hundred of them leave as many open as one."""
    machine.faults["check"] = ValueError(SECRET)
    engine.start()
    engine.settle()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(100):
        clock.pass_s(200)
        engine.settle()
    assert machine.seen.count("check") > 150
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.parametrize("raised", RAISED + ENDINGS, ids=lambda raised: type(raised).__name__)
def test_a_command_that_surely_never_ran_has_failed(
    engine: EngineInTime, clock: MovedClock, machine: FaultyMachine, raised: BaseException
) -> None:
    """Its run has failed with it, and is told so; the next one goes well."""
    machine.answer = 0
    machine.faults["start_step"] = raised
    engine.start()
    (ended,) = engine.wait_for(1, "run_finished", watch="bad")
    assert (ended.outcome, ended.reason, ended.failed_step) == ("failed", "internal_error", "play")
    engine.wait_for(1, "run_finished", watch="good", outcome="failed")
    assert machine.effects == []
    until(lambda: [each.split(".")[1] for each, _ in machine.hooks] == ["on_fail"], "nobody was told")
    machine.faults.clear()
    clock.pass_s(200)
    until(lambda: len(machine.effects) == 2, "no second run")
    while machine.running is not None:
        machine.end(0)
    engine.wait_for(1, "run_finished", watch="bad", outcome="ok")


def test_a_command_that_began_all_the_same_is_not_begun_again(
    engine: EngineInTime, clock: MovedClock, machine: FaultyMachine
) -> None:
    """What went wrong came after it had begun: its directory says that it lives, and it is waited for."""
    machine.answer, machine.late = 0, True
    machine.faults["start_step"] = MemoryError(SECRET)
    engine.start()
    until(lambda: len(machine.effects) == 2, "they did not begin")
    machine.answer = 1
    engine.settle()
    assert engine.told("run_finished") == []
    while machine.running is not None:
        machine.end(0)
    for _ in range(3):
        engine.settle()
        clock.pass_s(1)
    engine.wait_for(1, "run_finished", watch="bad", outcome="ok")
    engine.wait_for(1, "run_finished", watch="good", outcome="ok")
    assert len(machine.effects) == len(set(machine.effects)) == 2


@pytest.mark.parametrize("late", [False, True])
def test_a_hook_that_fails_so_is_tried_again(
    engine: EngineInTime, clock: MovedClock, machine: FaultyMachine, late: bool
) -> None:
    """As any other hook that failed; one that was delivered all the same is not called again."""
    machine.answer, machine.late = 0, late
    machine.faults["start_hook"] = ValueError(SECRET)
    engine.start()
    until(lambda: len(machine.effects) == 2, "they did not begin")
    machine.answer = 1
    while machine.running is not None:
        machine.end(0)
    engine.wait_for(2, "run_finished", outcome="ok")
    engine.settle()
    assert len(engine.told("hook_retry")) == (not late)
    machine.faults.clear()
    clock.pass_s(10)
    until(lambda: bool(engine.told("step_finished", step="on_ok", ok=True)), "the hook was not delivered")
    engine.settle()
    assert len(machine.hooks) == 1


@pytest.mark.parametrize("call", ["look", "open_pidfd"])
def test_a_command_that_cannot_be_looked_at_is_looked_at_again(
    engine: EngineInTime, clock: MovedClock, machine: FaultyMachine, call: str
) -> None:
    """Nobody knows how it stands, so nothing is said of it, and nothing begins in its place."""
    machine.answer = 0
    machine.faults[call] = OSError(24, SECRET)
    engine.start()
    until(lambda: len(machine.effects) == 2, "they did not begin")
    machine.answer = 1
    for _ in range(5):
        engine.settle()
        clock.pass_s(8)
    assert engine.told("run_finished") == []
    machine.faults.clear()
    while machine.running is not None:
        machine.end(0)
    for _ in range(4):
        clock.pass_s(30)
        engine.settle()
    engine.wait_for(2, "run_finished", outcome="ok")
    assert len(machine.effects) == 2


def test_what_may_still_live_is_not_called_lost(
    engine: EngineInTime, clock: MovedClock, machine: FaultyMachine
) -> None:
    """A burial that fails is tried again; only when all are gone the run is over."""
    machine.answer = 0
    machine.faults["bury"] = RuntimeError(SECRET)
    engine.start()
    until(lambda: len(machine.effects) == 2, "they did not begin")
    machine.answer = 1
    machine.kill_supervisor()
    until(lambda: "bury" in machine.seen, "nobody was buried")
    engine.settle()
    assert engine.told("run_finished") == []
    machine.faults.clear()
    clock.pass_s(5)
    until(lambda: bool(engine.told("run_finished", outcome="lost")), "the run was not lost")
    machine.end(0)


def test_a_run_whose_cancelling_fails_so_ends_all_the_same(
    engine: EngineInTime, clock: MovedClock, machine: FaultyMachine
) -> None:
    """It is told, and the command's own end is waited for."""
    machine.answer = 0
    machine.faults["ask_to_stop"] = ValueError(SECRET)
    engine.start()
    until(lambda: len(machine.effects) == 2, "they did not begin")
    machine.answer = 1
    run_id = machine.effects[0].split(".")[0]
    engine.runtime.post(lambda: engine.engine.cancel(run_id, by="test"))
    engine.wait_for(1, "internal_error", action="cancel")
    while machine.running is not None:
        machine.end(0)
    engine.wait_for(2, "run_finished")


HOUSEWORK = ["end_old_checks", "forget_half_done", "leftovers", "run_size_bytes", "sweep", "forget_secrets"]


@pytest.mark.parametrize("raised", [ValueError(SECRET), SystemExit(SECRET)], ids=["ValueError", "SystemExit"])
@pytest.mark.parametrize("call", HOUSEWORK)
def test_housework_that_fails_so_is_told_and_all_else_goes_on(
    tmp_path: Path, clock: MovedClock, machine: FaultyMachine, call: str, raised: BaseException
) -> None:
    """Runs begin and end as ever."""
    if call == "forget_secrets" and isinstance(raised, SystemExit):
        pytest.skip("it is done in the engine's own thread, where nothing exits")
    machine.answer = 0
    machine.faults[call] = raised
    config = "check_command: look\njet_command: apply\ncheck_interval: 200\nretain: {runs: 1, bytes: 1}\n"
    with EngineInTime(tmp_path, config, clock, commands=machine) as engine:
        for count in range(1, 4):
            until(lambda count=count: len(machine.effects) == count, "no run")  # type: ignore[misc]
            machine.end(0)
            engine.wait_for(count, "run_finished", outcome="ok")
            clock.pass_s(200)
        assert call in machine.seen
        assert engine.told("internal_error")
        assert SECRET not in repr(engine.lines)


# --- what strangers say -----------------------------------------------------------------------------------------------

UNSOUND: list[dict[str, Any]] = [
    {"outputs": {"revision": "\ud800"}},
    {"outputs": {"revision": {"deep": "er"}}},
    {"exit_code": 10**30},
    {"exit_code": "0"},
    {"duration_s": float("inf")},
    {"duration_s": float("nan")},
    {"output_tail": "\udcff"},
]


@pytest.mark.parametrize("said", UNSOUND, ids=repr)
def test_an_answer_that_the_journal_cannot_hold_is_an_error_of_its_check(
    engine: EngineInTime, machine: FaultyMachine, said: dict[str, Any]
) -> None:
    """It is looked at before anything is made of it, and above all before it is written down."""
    answer = CommandResult(**{"step_id": "x", "ending": Ending.EXITED, "exit_code": 0, **said})
    machine.check = lambda *_, **__: answer  # type: ignore[method-assign]
    engine.start()
    (told,) = engine.wait_for(1, "check_finished", watch="bad")
    assert (told.result, told.reason) == ("error", "internal_error")
    assert engine.told("run_started") == []
    assert len(engine.journal.watches()) == 2


@pytest.mark.parametrize("said", UNSOUND, ids=repr)
def test_a_result_that_the_journal_cannot_hold_is_never_ok(
    engine: EngineInTime, machine: FaultyMachine, said: dict[str, Any]
) -> None:
    """The command ended, and how nobody can say: its run has failed."""
    machine.answer = 0
    engine.start()
    until(lambda: len(machine.effects) == 2, "they did not begin")
    machine.answer = 1
    while (held := machine.running) is not None:
        result = {"step_id": held.step_id, "ending": Ending.EXITED, "exit_code": 0, **said}
        machine._finish(held, CommandResult(**result))
    for told in engine.wait_for(2, "run_finished"):
        assert (told.outcome, told.reason) == ("failed", "bad_result")
    assert [run.outcome for run in engine.journal.runs()] == [Outcome.FAILED] * 2


class Says:
    """Looks that say what the test wants."""

    def __init__(self, said: Callable[[], Look]) -> None:
        self._said = said

    def look(self, *_: object) -> Look:
        """Just that."""
        return self._said()


def looking(top: Path, clock: MovedClock, said: Callable[[], Look]) -> EngineInTime:
    """An engine whose one watch has content, of which is said what the test wants."""
    config = f"content: file://{top}\njet_command: apply\ncheck_interval: 200\nname: watch\n"
    return EngineInTime(top, config, clock, looks=lambda *_: Says(said), commands=SimulatedMachine())


@pytest.mark.parametrize(
    "look",
    [
        Look("\ud800"),
        Look("x", requests=10**30),
        Look("x", requests="1"),  # type: ignore[arg-type]
        Look("x", validator=b"\xff"),  # type: ignore[arg-type]
        Look("x", settled=None),  # type: ignore[arg-type]
        Look(None),  # type: ignore[arg-type]
        "no look at all",
    ],
    ids=repr,
)
def test_a_look_that_the_journal_cannot_hold_is_an_error_of_its_watch(
    tmp_path: Path, clock: MovedClock, look: Look
) -> None:
    """It is checked by type and size in the worker, and nothing of it is kept."""
    with looking(tmp_path, clock, lambda: look) as engine:
        (told,) = engine.wait_for(1, "check_finished")
        assert (told.result, told.reason) == ("error", "internal_error")
        assert engine.state().look is None


@pytest.mark.parametrize("asked_s", [float("inf"), float("nan"), -1.0, 1e300])
def test_a_server_cannot_ask_for_more_than_a_day(tmp_path: Path, clock: MovedClock, asked_s: float) -> None:
    """Whatever number it says: the next look comes within a day, and not before the regular time."""

    def busy() -> Look:
        raise ContentWait("busy", asked_s)

    with looking(tmp_path, clock, busy) as engine:
        engine.wait_for(1, "check_finished", result="later", reason="server_busy")
        clock.pass_s(199)
        engine.settle()
        engine.wait_for(1, "check_finished")
        clock.pass_s(86_400)
        engine.wait_for(2, "check_finished")


def test_one_that_asks_for_something_impossible_is_told_so(engine: EngineInTime) -> None:
    """A verb that fails in a way nobody foresaw is refused, and everybody else is served."""
    engine.start()
    engine.engine.clear = None  # type: ignore[assignment,method-assign]
    answers: list[Response] = []
    desk = Answering(engine.engine, engine.runtime)
    desk.submit(Request(Verb.CLEAR, by="me"), answers.append)
    desk.submit(Request(Verb.PING, by="me"), answers.append)
    until(lambda: len(answers) == 2, "no answer")
    assert [(answer.ok, answer.exit_code) for answer in answers] == [(False, 70), (True, 0)]
    engine.wait_for(1, "internal_error", action="verb", error="TypeError")


def test_an_endless_recursion_is_told_in_few_lines(engine: EngineInTime, machine: FaultyMachine) -> None:
    """The newest calls, and no more."""

    def deeper(*_: object, **__: object) -> Any:
        return deeper()

    machine.check = deeper  # type: ignore[method-assign]
    engine.start()
    (told,) = engine.wait_for(1, "internal_error", watch="bad")
    assert told.error == "RecursionError"
    assert len(told.traceback.splitlines()) == MOST_CALLS


# --- rows that cannot be read -----------------------------------------------------------------------------------------


def damage(engine: EngineInTime, *tables: str) -> None:
    """Somebody wrote into the rows of the watch `bad`."""
    with closing(sqlite3.connect(engine.layout.journal)) as connection, connection:
        for table in tables:
            column = "name" if table == "watch" else "watch"
            connection.execute(f"UPDATE {table} SET record = '{{' || record WHERE {column} = 'bad'")


def test_an_open_run_that_cannot_be_read_is_let_end_and_then_lost(
    tmp_path: Path, clock: MovedClock, machine: FaultyMachine
) -> None:
    """It is told, nothing of its watch begins beside it, no command begins twice, and other watches go on."""
    machine.answer = 0
    first = EngineInTime(tmp_path, CONFIG, clock, commands=machine).start()
    until(lambda: len(machine.effects) == 2, "they did not begin")
    run_id = next(told.play_uuid for told in first.told("run_started", watch="bad"))
    first.leave()
    first.bury()
    damage(first, "run")
    with EngineInTime(tmp_path, CONFIG, clock, commands=machine) as engine:
        (told,) = engine.wait_for(1, "row_unreadable")
        assert (told.table, told.row, told.watch) == ("run", run_id, "bad")
        for _ in range(3):
            clock.pass_s(200)
            engine.settle()
        assert len(machine.effects) == 2
        machine.answer = 1
        while machine.running is not None:
            machine.end(0)
        clock.pass_s(5)
        engine.wait_for(1, "run_finished", watch="good", outcome="ok")
        (ended,) = engine.wait_for(1, "run_finished", watch="bad")
        assert (ended.outcome, ended.reason, ended.play_uuid) == ("lost", "row_unreadable", run_id)
        assert engine.state("bad").applied_revision == ""
        machine.answer = 0
        clock.pass_s(200)
        until(lambda: len(machine.effects) == 4, "no run follows")
        machine.answer = 1
        while machine.running is not None:
            machine.end(0)
    with EngineInTime(tmp_path, CONFIG, clock, commands=machine) as engine:
        engine.settle()
        assert engine.told("row_unreadable") == []


def test_an_open_run_that_cannot_be_read_can_be_cancelled(
    tmp_path: Path, clock: MovedClock, machine: FaultyMachine
) -> None:
    """Its command is told to stop, as any other."""
    machine.answer = 0
    first = EngineInTime(tmp_path, CONFIG, clock, commands=machine).start()
    until(lambda: len(machine.effects) == 2, "they did not begin")
    run_id = next(told.play_uuid for told in first.told("run_started", watch="bad"))
    first.leave()
    first.bury()
    damage(first, "run")
    machine.answer = 1
    engine = EngineInTime(tmp_path, CONFIG, clock, commands=machine).start()
    engine.wait_for(1, "row_unreadable")
    engine.runtime.post(lambda: engine.engine.cancel(run_id, by="test"))
    for _ in range(3):
        engine.settle()
        clock.pass_s(5)
    engine.wait_for(1, "run_finished", watch="bad", outcome="lost")
    engine.leave()
    engine.bury()


def test_a_watch_that_cannot_be_read_starts_nothing_until_a_person_says_so(
    tmp_path: Path, clock: MovedClock, machine: FaultyMachine
) -> None:
    """It may have been suspended or held; the other watch works as ever."""
    first = EngineInTime(tmp_path, CONFIG, clock, commands=machine).start()
    first.wait_for(2, "check_finished")
    first.leave()
    first.bury()
    damage(first, "watch")
    machine.answer = 0
    with EngineInTime(tmp_path, CONFIG, clock, commands=machine) as engine:
        engine.wait_for(1, "suspended", watch="bad", by="jetwatch")
        engine.wait_for(1, "check_finished", watch="bad", result="skipped", reason="suspended")
        engine.wait_for(1, "run_started", watch="good")
        assert engine.told("run_started", watch="bad") == []
        engine.runtime.post(lambda: engine.engine.resume("bad", by="me"))
        clock.pass_s(200)
        until(lambda: len(machine.effects) == 2, "no run follows")
        machine.answer = 1
        while machine.running is not None:
            machine.end(0)
        engine.wait_for(2, "run_finished", outcome="ok")


def test_a_hook_that_cannot_be_read_is_given_up_and_counted(
    tmp_path: Path, clock: MovedClock, machine: FaultyMachine
) -> None:
    """It is told in the history; the hooks behind it are delivered."""
    machine.answer, machine.hook_code = 2, 1
    first = EngineInTime(tmp_path, CONFIG, clock, commands=machine).start()
    first.wait_for(1, "hook_retry")
    first.leave()
    first.bury()
    damage(first, "outbox")
    machine.hook_code = 0
    with EngineInTime(tmp_path, CONFIG, clock, commands=machine) as engine:
        engine.wait_for(1, "hook_abandoned", watch="bad", reason="row_unreadable")
        engine.settle()
        assert engine.state("bad").hooks_abandoned == 1
        assert len(machine.hooks) == 1
    with EngineInTime(tmp_path, CONFIG, clock, commands=machine) as engine:
        engine.settle()
        assert engine.told("hook_abandoned") == []
        assert engine.state("bad").hooks_abandoned == 1
