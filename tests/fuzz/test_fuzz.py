"""Every target, in a small dose: each input of its corpus, and what chance makes of them with a seed that is fixed."""

from __future__ import annotations

import itertools
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz import finding, hunting
from fuzz.target import Target, is_a_sentence

HERE = Path(__file__).resolve().parent
SEED = 11


def target_for(one_input: Callable[[bytes], None]) -> Target:
    """A target of this function, with a bound that is soon met."""
    return Target("planted", "nothing is wrong", one_input, words=(b"needle",), cpu_s=0.2)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", finding.names())
def test_no_input_breaks_the_promise(name: str, tmp_path: Path) -> None:
    """`make fuzz` does the same for longer; what it found lies in the corpus."""
    done = fuzz(name, "--small", f"--seed={SEED}", f"--crashes={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", none broke it" in last_line(done)


def test_what_breaks_a_promise_is_kept_once_for_each_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its traceback and the command that tries it again; the hunt goes on."""

    def one_input(data: bytes) -> None:
        if b"needle" in data:
            raise KeyError("found")
        assert b"other" not in data

    target = target_for(one_input)
    hunt = hunting.Hunt(target, tmp_path)
    for data in (b"a", b"a needle", b"another needle", b"the other", b"b"):
        hunt.attempt(data)
    assert hunt.tried == 5
    assert [path.read_bytes() for path in hunt.found] == [b"a needle", b"the other"]
    assert all(path.name.startswith("crash-") for path in hunt.found)
    told = capsys.readouterr().out
    assert "KeyError: 'found'" in told
    assert hunting.again(target, hunt.found[0]) in told


def test_chance_finds_a_word_that_breaks_a_promise(tmp_path: Path) -> None:
    """Within the dose that the tests give, and at the same place with the same seed."""

    def one_input(data: bytes) -> None:
        assert b"needle" not in data

    def first() -> int:
        return next(
            number
            for number, data in enumerate(itertools.islice(hunting.deal(target_for(one_input), SEED, [b"hay"]), 500))
            if b"needle" in data
        )

    assert first() == first()


def test_an_input_that_takes_too_long_breaks_the_promise(tmp_path: Path) -> None:
    """Even where the code under test catches every Exception."""

    def one_input(data: bytes) -> None:
        while True:
            try:
                sum(range(1000))
            except Exception:  # noqa: BLE001 - what such code may look like
                continue

    hunt = hunting.Hunt(target_for(one_input), tmp_path)
    hunt.attempt(b"x")
    assert [path.read_bytes() for path in hunt.found] == [b"x"]


def test_an_input_that_takes_memory_breaks_the_promise(tmp_path: Path) -> None:
    """More than a quarter of a GiB that the process never held before."""
    held: list[bytes] = []

    def one_input(data: bytes) -> None:
        for _ in range(64):
            held.append(b"\1" * (32 * 1024 * 1024))
            if _grown():
                return

    def _grown() -> bool:
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kib - before_kib > hunting.MOST_GROWTH_KIB + 1024

    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    hunt = hunting.Hunt(target_for(one_input), tmp_path)
    hunt.attempt(b"x")
    held.clear()
    assert len(hunt.found) == 1


@pytest.mark.parametrize("said", ["", "a\x1b[2Jb", "a\u2028b", "x" * 5000])
def test_an_error_that_is_no_sentence_breaks_the_promise(said: str) -> None:
    """Nothing, control characters, or all that was sent."""
    with pytest.raises(AssertionError):
        is_a_sentence(ValueError(said))


def test_an_input_can_be_tried_once_more_by_hand(tmp_path: Path) -> None:
    """The program takes the file that a hunt kept; its traceback says what is wrong."""
    file = tmp_path / "crash-x"
    file.write_bytes(b'0{"verb":"ping"}')
    done = fuzz("control_messages", str(file))
    assert (done.returncode, done.stdout) == (0, f"control_messages: {file}: holds\n"), done.stderr


def test_a_hunt_of_some_time_goes_on_until_it_is_over(tmp_path: Path) -> None:
    """And says what it did: inputs, failures, time and memory."""
    done = fuzz("control_messages", "--seconds=1", f"--seed={SEED}", "--plain", f"--crashes={tmp_path}")
    said = re.fullmatch(r"control_messages: (\d+) inputs, none broke it; slowest .* s, peak .* MiB", last_line(done))
    assert said, done.stdout + done.stderr
    assert int(said[1]) > 100


def test_a_target_that_is_not_there_is_refused_by_name() -> None:
    """With the names of those that are."""
    done = fuzz("nothing")
    assert done.returncode == 2
    assert "no target is named nothing" in done.stderr
    assert "archives" in done.stderr


def fuzz(*words: str) -> subprocess.CompletedProcess[str]:
    """The program, in a process of its own: a target may change what a process can reach."""
    return subprocess.run([sys.executable, str(HERE), *words], capture_output=True, text=True, check=False, timeout=280)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that it said."""
    return done.stdout.splitlines()[-1] if done.stdout else ""
