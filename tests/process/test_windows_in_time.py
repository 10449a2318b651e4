"""What windows do to runs as hours go by: a real engine, real commands, a moved clock that begins Monday 14:13:20."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_in_time import START_WALL_US, EngineInTime, MovedClock
from msgspec.structs import replace

from jetwatch.config.load import load
from jetwatch.looks import Looks
from jetwatch.records import CheckResult, Deadline, Stamp, Suspension, Trigger, TriggerKind, WatchState, WindowWait

HOUR_S = 3600.0
TO_OPENING_S = 8 * HOUR_S - 800  # from 14:13:20 to 22:00
NIGHT = "timezone: UTC\nwindows: [{from: 22:00, to: 04:00}]\n"
PLAY = "jet_command: 'true'\n"
Make = Callable[..., EngineInTime]


@pytest.fixture
def clock() -> MovedClock:
    """A clock that the test moves."""
    return MovedClock()


@pytest.fixture
def make(tmp_path: Path, clock: MovedClock) -> Make:
    """Makes engines over one state directory."""
    return lambda config, **more: EngineInTime(tmp_path, config, clock, **more)


def check(tmp_path: Path, answer: int, revision: str = "1") -> str:
    """A check_command that says what was written last, and counts its calls."""
    say(tmp_path, answer, revision)
    text = f"echo >> {tmp_path}/asked; cat {tmp_path}/revision > $JETWATCH_OUTPUT; exit $(cat {tmp_path}/answer)"
    return f"check_command: {{shell: '{text}'}}\n"


def say(tmp_path: Path, answer: int, revision: str = "1") -> None:
    """What it says from now on."""
    (tmp_path / "revision").write_text(f"revision={revision}\n")
    (tmp_path / "answer").write_text(f"{answer}\n")


def shown(stamp: str) -> str:
    """The hour of an RFC 3339 time."""
    return stamp[11:19]


def test_a_run_that_is_due_outside_starts_when_the_window_opens(make: Make, clock: MovedClock, tmp_path: Path) -> None:
    """It is told once until when it waits; checks go on; it starts within the splay after the opening."""
    config = check(tmp_path, 0) + PLAY + NIGHT + "check_interval: 1h\nsplay: 20m\n"
    with make(config) as engine:
        engine.wait_for(1, "splay_started")
        clock.pass_s(600)  # the start-up splay: half of it
        engine.wait_for(1, "check_finished", result="due")
        (deferred,) = engine.wait_for(1, "run_deferred", reason="window", revision="1")
        assert (shown(deferred.until), shown(deferred.start_at)) == ("22:00:00", "22:10:00")
        state = engine.state()
        assert (state.last_result, state.waiting_for) == (CheckResult.DUE, ("window",))
        clock.pass_s(HOUR_S)
        engine.wait_for(2, "check_finished", result="due")
        clock.pass_s(TO_OPENING_S - HOUR_S - 600)
        engine.settle()
        assert engine.state().waiting_for == ("splay",)
        clock.pass_s(599)
        engine.settle()
        assert engine.told("run_started") == []
        clock.pass_s(1)
        engine.wait_for(1, "run_finished", outcome="ok")
        engine.wait_for(1, "run_deferred")
        assert engine.told("run_started")[0].trigger == "check"
        assert engine.state().window is None


def test_a_run_that_is_due_inside_starts_at_once(make: Make, clock: MovedClock, tmp_path: Path) -> None:
    """The window is no second splay, and a run that goes on when it closes goes on."""
    gate = tmp_path / "gate"
    config = (
        check(tmp_path, 1)
        + f"jet_command: {{shell: 'until [ -e {gate} ]; do sleep 0.02; done'}}\n"
        + NIGHT
        + "check_interval: 1h\n"
    )
    with make(config) as engine:
        engine.wait_for(1, "check_finished")
        clock.pass_s(TO_OPENING_S + 4 * HOUR_S)
        engine.wait_for(2, "check_finished")
        say(tmp_path, 0)
        clock.pass_s(HOUR_S)
        engine.wait_for(1, "run_started")
        assert engine.told("run_deferred") == []
        clock.pass_s(4 * HOUR_S)
        engine.settle()
        assert engine.told("run_finished") == []
        gate.touch()
        engine.wait_for(1, "run_finished", outcome="ok")


def test_a_due_answer_survives_a_restart_and_is_not_asked_again(make: Make, clock: MovedClock, tmp_path: Path) -> None:
    """Though the check says not due by then: the next agent starts the run at the same time."""
    config = check(tmp_path, 0, "7") + PLAY + NIGHT + "check_interval: 1d\nsplay: 20m\n"
    with make(config) as engine:
        engine.wait_for(1, "splay_started")
        clock.pass_s(600)
        engine.wait_for(1, "run_deferred")
    say(tmp_path, 1)
    clock.pass_s(HOUR_S)
    with make(config) as engine:
        engine.wait_for(1, "splay_started")
        clock.pass_s(TO_OPENING_S - 600 - HOUR_S + 599)
        engine.settle()
        assert engine.told("run_started") == []
    with make(config) as engine:
        engine.wait_for(1, "splay_started")
        clock.pass_s(1)
        engine.wait_for(1, "run_started", revision="7")
        engine.wait_for(1, "run_finished", outcome="ok")
        assert engine.told("run_deferred") == []


def test_a_due_answer_survives_a_reboot(make: Make, clock: MovedClock) -> None:
    """Its time is read off the wall clock then; one that has passed in an open window is now."""
    engine = make("check_command: 'false'\njet_command: 'true'\n" + NIGHT + "check_interval: 1d\nsplay: 20m\n")
    before = Stamp(START_WALL_US, 77, "another boot")
    clock.pass_s(TO_OPENING_S + HOUR_S)
    opens = Deadline.after(before, round(TO_OPENING_S * 1e6))
    wait = WindowWait(opens, Deadline.after(before, opens.span_us + 600_000_000))
    due = Trigger(TriggerKind.CHECK, before, revision="7")
    engine.remember(state=WatchState("watch", due=due, waiting_for=("window",), window=wait))
    with engine:
        engine.wait_for(1, "run_started", revision="7")
        engine.wait_for(1, "run_finished", outcome="ok")


def test_a_newer_revision_takes_the_place_of_the_one_that_waits(make: Make, clock: MovedClock, tmp_path: Path) -> None:
    """Checks go on outside, and one run starts: of what was said last. "Not due" takes nothing back."""
    with make(check(tmp_path, 0, "1") + PLAY + NIGHT + "check_interval: 1h\n") as engine:
        engine.wait_for(1, "run_deferred", revision="1")
        since = engine.state().due
        clock.pass_s(HOUR_S)
        engine.wait_for(2, "check_finished", result="due")
        assert engine.state().due == since
        say(tmp_path, 0, "2")
        clock.pass_s(HOUR_S)
        engine.wait_for(1, "check_finished", revision="2")
        say(tmp_path, 1)
        clock.pass_s(HOUR_S)
        engine.wait_for(1, "check_finished", result="not_due")
        clock.pass_s(TO_OPENING_S - 3 * HOUR_S)
        (started,) = engine.wait_for(1, "run_started")
        assert started.revision == "2"
        engine.wait_for(1, "run_finished", outcome="ok")
        engine.wait_for(1, "run_deferred")


class LeapingClock(MovedClock):
    """A clock that leaps by some hours when it is read for the Nth time after `arm_leap`."""

    def __init__(self, reads: int, leap_s: float) -> None:
        super().__init__()
        self._reads, self._leap_s = reads, leap_s
        self._left: int | None = None

    def arm_leap(self) -> None:
        """From now on reads count."""
        self._left = self._reads

    def now(self) -> Stamp:
        """The instant, which may be another than that of the read before."""
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self.leap()
        return super().now()

    def leap(self) -> None:
        """Leap now, unless that was done."""
        if self._left is not None:
            self._left = None
            self.pass_s(self._leap_s)


@pytest.mark.parametrize("reads", range(6))
def test_an_opening_is_not_slept_through_at_whatever_instant_it_comes(tmp_path: Path, reads: int) -> None:
    """Between what is seen and what is waited for as well; the next check would come a week later."""
    clock = LeapingClock(reads, TO_OPENING_S)
    config = "check_command: 'true'\ncheck_interval: 7d\nsplay: 0\n" + PLAY + NIGHT

    class Told(list[Any]):
        def append(self, line: Any) -> None:
            super().append(line)
            if line.event.name == "run_deferred":
                clock.arm_leap()

    engine = EngineInTime(tmp_path, config, clock)
    engine.lines = Told()
    engine.runtime._tell = engine.lines.append
    with engine:
        engine.wait_for(1, "run_deferred")
        engine.settle()
        clock.leap()
        engine.wait_for(1, "run_finished", outcome="ok")


def test_retries_wait_for_a_window_too(make: Make, clock: MovedClock, tmp_path: Path) -> None:
    """A backoff that ends after the window has closed goes on until it opens again; the attempt counts on."""
    config = (
        "check_command: 'true'\njet_command: 'false'\n"
        + NIGHT
        + "check_interval: 7d\nretry: {initial: 16h, max: 16h, factor: 1}\n"
    )
    with make(config) as engine:
        engine.wait_for(1, "run_deferred")
        clock.pass_s(TO_OPENING_S)
        engine.wait_for(1, "run_finished", outcome="failed")
        clock.pass_s(8 * HOUR_S)  # 06:00: the backoff has ended
        (first, second) = engine.wait_for(2, "run_deferred")
        assert (first.trigger, second.trigger) == ("check", "retry")
        clock.pass_s(16 * HOUR_S)
        engine.wait_for(1, "run_started", trigger="retry", attempt=2)
        engine.wait_for(2, "run_finished", outcome="failed")


def test_every_firing_is_due_and_waits_for_its_window(make: Make, clock: MovedClock) -> None:
    """A schedule outside of its windows: one run per opening, however many firings."""
    config = "schedule: '0 12,15,18 * * *'\nsplay: 0\njet_command: 'true'\n" + NIGHT
    with make(config) as engine:
        engine.settle()
        clock.pass_s(HOUR_S)
        engine.wait_for(1, "run_deferred", trigger="schedule")
        clock.pass_s(3 * HOUR_S)
        engine.settle()
        assert engine.told("run_started") == []
        clock.pass_s(4 * HOUR_S)
        engine.wait_for(1, "run_finished", outcome="ok")
        engine.wait_for(1, "run_deferred")


def test_nothing_can_force_a_run_past_its_window(make: Make, clock: MovedClock, tmp_path: Path) -> None:
    """`jetp trigger` checks now, says that the run waits, and with --force keeps it whatever the check says."""
    said: list[tuple[str, bool]] = []
    with make(check(tmp_path, 1) + PLAY + NIGHT + "check_interval: 1d\nsplay: 2h\n") as engine:
        engine.settle()
        engine.runtime.post(
            lambda: engine.engine.trigger(None, force=True, by="eve", report=lambda *words: said.append(words))
        )
        engine.wait_for(1, "run_deferred", trigger="manual")
        assert said == [("watch: due, and kept, but no run starts now (window); jetp why", False)]
        clock.pass_s(TO_OPENING_S)
        engine.settle()
        assert engine.told("run_started") == []
        assert engine.state().waiting_for == ("splay",)
        engine.runtime.post(lambda: engine.engine.trigger(None, force=True, by="eve", report=None))
        engine.wait_for(1, "run_started", trigger="manual")  # past the splay, now that it is open
        engine.wait_for(1, "run_finished", outcome="ok")


def test_what_else_stands_in_the_way_may_outlast_the_window(make: Make, clock: MovedClock, tmp_path: Path) -> None:
    """A suspension that ends after the window has closed leaves the run to the next opening, which is told."""
    engine = make(check(tmp_path, 0) + PLAY + NIGHT + "check_interval: 7d\n")
    until = Deadline.after(clock.now(), round((TO_OPENING_S + 8 * HOUR_S) * 1e6))
    with engine:
        engine.wait_for(1, "run_deferred")
        suspension = Suspension("eve", "tests", clock.now(), until)

        def suspend() -> None:
            lane = engine.engine._lanes["watch"]
            lane.put_state(replace(lane.state, suspended=suspension))
            engine.engine.changed(lane)

        engine.runtime.post(suspend)
        clock.pass_s(TO_OPENING_S)
        engine.settle()
        assert engine.state().waiting_for == ("suspended",)
        clock.pass_s(8 * HOUR_S)
        engine.wait_for(1, "resumed")
        (_, second) = engine.wait_for(2, "run_deferred")
        assert second.until.startswith("2026-09-22T22:00")
        assert engine.told("run_started") == []
        clock.pass_s(16 * HOUR_S)
        engine.wait_for(1, "run_finished", outcome="ok")


def test_a_machine_that_sleeps_through_its_window_waits_for_the_next(
    make: Make, clock: MovedClock, tmp_path: Path
) -> None:
    """It wakes at noon: no run at noon."""
    with make(check(tmp_path, 0) + PLAY + NIGHT + "check_interval: 7d\n") as engine:
        engine.wait_for(1, "run_deferred")
        clock.pass_s(TO_OPENING_S + 14 * HOUR_S)
        engine.wait_for(2, "run_deferred")
        engine.settle()
        assert engine.told("run_started") == []


def test_a_step_of_the_wall_clock_moves_the_opening(make: Make, clock: MovedClock, tmp_path: Path) -> None:
    """Set forward into the window the run starts; set back, it waits as long as the clock on the wall says."""
    with make(check(tmp_path, 0) + PLAY + NIGHT + "check_interval: 7d\n") as engine:
        engine.wait_for(1, "run_deferred")
        clock.set_wall(START_WALL_US - round(HOUR_S * 1e6))
        engine.settle()
        clock.pass_s(TO_OPENING_S)
        engine.settle()
        assert engine.told("run_started") == []
        clock.set_wall(START_WALL_US + round((TO_OPENING_S + 60) * 1e6))
        engine.wait_for(1, "run_finished", outcome="ok")


def test_a_reload_that_takes_the_windows_away_lets_the_run_start(make: Make, clock: MovedClock, tmp_path: Path) -> None:
    """Within the splay that a changed watch draws."""
    config = check(tmp_path, 0) + PLAY + "check_interval: 7d\n"
    with make(config + NIGHT) as engine:
        engine.wait_for(1, "run_deferred")
        (tmp_path / "watch.yml").write_text(config)
        settings, _ = load(tmp_path / "watch.yml")
        engine.runtime.post(lambda: engine.engine.reload(settings))
        engine.wait_for(1, "run_finished", outcome="ok")


# -- content


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with one file."""
    path = tmp_path / "source"
    path.mkdir()
    (path / "greeting").write_text("one")
    return path


def of(source: Path, more: str = "") -> str:
    """A watch with this content, that writes what it plays to `played`."""
    play = f"{{shell: 'cat $JETWATCH_DOWNLOAD_PATH/greeting >> {source.parent}/played'}}"
    return f"content: {{url: 'file://{source}', settle: 0}}\njet_command: {play}\ncheck_interval: 7d\n{NIGHT}{more}"


def test_content_is_looked_at_again_when_the_window_opens(
    make: Make, clock: MovedClock, source: Path, tmp_path: Path
) -> None:
    """What is there then is applied, not what was there when the run became due."""
    with make(of(source), looks=Looks) as engine:
        (deferred,) = engine.wait_for(1, "run_deferred")
        (source / "greeting").write_text("two!")
        clock.pass_s(TO_OPENING_S)
        (started,) = engine.wait_for(1, "run_started", trigger="check")
        assert started.revision != deferred.revision
        engine.wait_for(1, "run_finished", outcome="ok")
    assert (tmp_path / "played").read_text() == "two!"


def test_content_that_is_back_at_what_is_applied_starts_nothing(make: Make, clock: MovedClock, source: Path) -> None:
    """A change that was taken back before the window opened is none."""
    with make(of(source), looks=Looks) as engine:
        engine.wait_for(1, "run_deferred")
        due = engine.state().due
        assert due is not None
    with make(of(source), looks=Looks) as engine:
        state = engine.state()
        engine.runtime.post(
            lambda: engine.engine._lanes["watch"].put_state(replace(state, applied_revision=due.revision))
        )
        clock.pass_s(TO_OPENING_S)
        engine.wait_for(1, "check_finished", result="not_due")
        engine.settle()
        assert engine.told("run_started") == []
        assert engine.state().due is None


def test_content_that_cannot_be_looked_at_keeps_the_run_due(
    make: Make, clock: MovedClock, source: Path, tmp_path: Path
) -> None:
    """It is asked again after the backoff, and the run starts when it is back."""
    with make(of(source), looks=Looks) as engine:
        engine.wait_for(1, "run_deferred")
        hidden = source.rename(source.with_name("hidden"))
        clock.pass_s(TO_OPENING_S)
        engine.wait_for(1, "check_finished", result="error")
        assert engine.state().due is not None
        hidden.rename(source)
        clock.pass_s(15)
        engine.wait_for(1, "run_finished", outcome="ok")
    assert (tmp_path / "played").read_text() == "one"


def test_a_retry_whose_content_cannot_be_looked_at_stays_a_retry(
    make: Make, clock: MovedClock, source: Path, tmp_path: Path
) -> None:
    """It waited for the window with its attempt, and goes on waiting with it."""
    with make(of(source), looks=Looks) as engine:
        engine.wait_for(1, "run_deferred")
        due = engine.state().due
        assert due is not None
    retry = replace(due, kind=TriggerKind.RETRY, attempt=3)
    with make(of(source), looks=Looks) as engine:
        engine.wait_for(1, "check_finished")
        state = replace(engine.state(), due=retry)
        engine.runtime.post(lambda: engine.engine._lanes["watch"].put_state(state))
        hidden = source.rename(source.with_name("hidden"))
        clock.pass_s(TO_OPENING_S)
        engine.wait_for(1, "check_finished", result="error", trigger="retry")
        assert (engine.state().due, engine.state().retry_at) == (retry, None)
        hidden.rename(source)
        clock.pass_s(15)
        engine.wait_for(1, "run_started", trigger="retry", attempt=3)
        engine.wait_for(1, "run_finished", outcome="ok")


def test_a_check_with_content_is_not_asked_again_at_the_opening(
    make: Make, clock: MovedClock, source: Path, tmp_path: Path
) -> None:
    """The check decided when, hours ago; the content supplies what, now."""
    with make(of(source, check(tmp_path, 0)), looks=Looks) as engine:
        engine.wait_for(1, "run_deferred")
        say(tmp_path, 1)
        (source / "greeting").write_text("two!")
        clock.pass_s(TO_OPENING_S)
        engine.wait_for(1, "run_finished", outcome="ok")
    assert (tmp_path / "asked").read_text() == "\n"
    assert (tmp_path / "played").read_text() == "two!"


# -- once


def test_once_leaves_a_run_to_its_window(make: Make, clock: MovedClock, tmp_path: Path) -> None:
    """It ends, and says that something is left to do; called again in the window it starts the run."""
    config = check(tmp_path, 0, "7") + PLAY + NIGHT
    for _ in range(2):
        with make(config, once=True) as engine:
            pass
        assert engine.engine.uncertain_checks > 0
        assert engine.told("run_started") == []
    say(tmp_path, 1)
    clock.pass_s(TO_OPENING_S)
    with make(config, once=True) as engine:
        engine.wait_for(1, "run_finished", outcome="ok")
    assert engine.engine.uncertain_checks == 0


def test_once_waits_for_its_time_within_the_splay(make: Make, clock: MovedClock, tmp_path: Path) -> None:
    """In an open window `--once` waits out what was drawn, as it does for its own splay."""
    config = check(tmp_path, 0) + PLAY + NIGHT + "splay: 20m\n"
    engine = make(config, once=True).start()
    engine.wait_for(1, "splay_started")
    clock.pass_s(600)
    engine.wait_for(1, "run_deferred")
    engine.stop()
    clock.pass_s(TO_OPENING_S - 600)
    say(tmp_path, 1)
    engine = make(config, once=True).start()
    engine.wait_for(1, "splay_started")
    clock.pass_s(599)
    engine.settle()
    assert engine.told("run_started") == []
    clock.pass_s(1)
    engine.wait_for(1, "run_finished", outcome="ok")
    engine.stop()
