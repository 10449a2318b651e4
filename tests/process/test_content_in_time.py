"""What a watch with content does as time goes by: a real directory as source, a moved clock, real fetches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from engine_in_time import EngineInTime, MovedClock

from jetwatch.looks import Looks

Make = Callable[..., EngineInTime]


@pytest.fixture
def clock() -> MovedClock:
    """A clock that the test moves."""
    return MovedClock()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with one file."""
    path = tmp_path / "source"
    path.mkdir()
    (path / "greeting").write_text("one")
    return path


@pytest.fixture
def make(tmp_path: Path, clock: MovedClock, source: Path) -> Make:
    """Makes engines whose one watch has the directory as content, and writes what it plays to `played`."""

    def begin(more: str = "", play: str = "cat $JETWATCH_DOWNLOAD_PATH/greeting") -> EngineInTime:
        config = (
            f"content: {{url: 'file://{source}', settle: 0}}\ncheck_interval: 600\n"
            f"jet_command: {{shell: '({play}) >> {tmp_path}/played; code=$?; echo >> {tmp_path}/played; exit $code'}}\n"
            f"{more}"
        )
        return EngineInTime(tmp_path, config, clock, looks=Looks)

    return begin


def test_content_is_applied_once_per_revision(make: Make, clock: MovedClock, source: Path, tmp_path: Path) -> None:
    """Due at first, not due while nothing changes, due again with the next revision."""
    with make() as engine:
        engine.wait_for(1, "run_finished", outcome="ok")
        clock.pass_s(600)
        engine.wait_for(1, "check_finished", result="not_due")
        (source / "greeting").write_text("two!")
        clock.pass_s(600)
        engine.wait_for(2, "run_finished", outcome="ok")
        started = engine.told("run_started")
        assert started[0].revision != started[1].revision
    assert (tmp_path / "played").read_text().split() == ["one", "two!"]


def test_a_failed_revision_waits_for_its_retry_and_another_one_does_not(
    make: Make, clock: MovedClock, source: Path, tmp_path: Path
) -> None:
    """Regular looks say later; the retry looks again first; a new revision starts at once at attempt 1."""
    retry = "retry: {initial: 3600, max: 3600}\n"
    with make(
        retry, play="cat $JETWATCH_DOWNLOAD_PATH/greeting; grep -q good $JETWATCH_DOWNLOAD_PATH/greeting"
    ) as engine:
        engine.wait_for(1, "run_finished", outcome="failed")
        clock.pass_s(600)
        (later,) = engine.wait_for(1, "check_finished", result="later")
        assert later.reason == "retry_planned"
        clock.pass_s(1200)
        engine.wait_for(1, "run_started", trigger="retry", attempt=2)
        engine.wait_for(2, "run_finished", outcome="failed")
        (source / "greeting").write_text("good")
        clock.pass_s(600)
        engine.wait_for(1, "run_finished", outcome="ok", attempt=1)


def test_a_source_that_is_gone_is_an_error_and_is_asked_again_after_the_backoff(
    make: Make, clock: MovedClock, source: Path
) -> None:
    """Never "not due"; when it is back, its content is applied."""
    hidden = source.rename(source.with_name("hidden"))
    with make() as engine:
        (failed,) = engine.wait_for(1, "check_finished", result="error")
        assert failed.reason == "content"
        assert str(source) in failed.output_tail
        hidden.rename(source)
        clock.pass_s(15)
        engine.wait_for(1, "run_finished", outcome="ok")


def test_a_play_that_writes_into_its_directory_harms_no_later_run(
    make: Make, clock: MovedClock, source: Path, tmp_path: Path
) -> None:
    """What is reused between runs is never what a play could write to."""
    with make(play="cat $JETWATCH_DOWNLOAD_PATH/greeting; echo spoilt > $JETWATCH_DOWNLOAD_PATH/greeting") as engine:
        engine.wait_for(1, "run_finished", outcome="ok")
        (source / "other").write_text("x")
        clock.pass_s(600)
        engine.wait_for(2, "run_finished", outcome="ok")
    assert (tmp_path / "played").read_text().split() == ["one", "one"]


def test_a_check_decides_when_and_the_content_supplies_what(make: Make, clock: MovedClock, tmp_path: Path) -> None:
    """With both, a due check starts a run of what is there, applied before or not; else nothing is looked at."""
    (tmp_path / "answer").write_text("0")
    check = f"check_command: {{shell: 'exit $(cat {tmp_path}/answer)'}}\n"
    with make(check) as engine:
        engine.wait_for(1, "run_finished", outcome="ok")
        clock.pass_s(600)
        engine.wait_for(2, "run_finished", outcome="ok")
        (tmp_path / "answer").write_text("1")
        clock.pass_s(600)
        engine.wait_for(1, "check_finished", result="not_due")
    assert (tmp_path / "played").read_text().split() == ["one", "one"]
