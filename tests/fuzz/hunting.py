"""Tries inputs on a target, one after the other, and keeps each that breaks a promise.

Two engines deal them: libFuzzer (atheris), which follows the coverage of our code, where it is installed; else chance
alone. An input breaks a promise also by its cost: processor time, or memory that the process never held before.
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import FrameType

from fuzz.mutating import mutate
from fuzz.target import Target

MOST_GROWTH_KIB = 256 * 1024
MEMORY_BYTES = 4 * 1024**3
_TOLD_EVERY_S = 60.0


class TooSlow(BaseException):
    """An input cost more than its processor time. No `except Exception` on the way can hide it."""


class Hunt:
    """One hunt on one target, and what it found: the first input of each kind of failure, kept as `crash-…`."""

    def __init__(self, target: Target, crashes: Path) -> None:
        self._target = target
        self._crashes = crashes
        self._kinds: set[str] = set()
        self.tried = 0
        self.slowest_s = 0.0
        self.found: list[Path] = []

    def attempt(self, data: bytes) -> None:
        """Try one input. What breaks a promise is told and kept, and the hunt goes on."""
        self.tried += 1
        began_s = time.process_time()
        try:
            check(self._target, data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - any other error is what it looks for
            self._keep(data, error)
        self.slowest_s = max(self.slowest_s, time.process_time() - began_s)

    def figure(self) -> str:
        """One line with what was done."""
        broke = f"{len(self.found)} broke it" if self.found else "none broke it"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        return f"{self._target.name}: {self.tried} inputs, {broke}; slowest {self.slowest_s:.2f} s, peak {peak} MiB"

    def _keep(self, data: bytes, error: BaseException) -> None:
        kind = f"{type(error).__name__} {_place(error)}"
        if kind in self._kinds:
            return
        self._kinds.add(kind)
        self._crashes.mkdir(parents=True, exist_ok=True)
        path = self._crashes / f"crash-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        self.found.append(path)
        print("".join(traceback.format_exception(error)), flush=True)
        print(f"{self._target.name}: {self._target.promise}: broken by {data!r:.400}", flush=True)
        print(f"once more: {again(self._target, path)}", flush=True)


def again(target: Target, path: Path) -> str:
    """The command that tries this input again."""
    return f"{sys.executable} tests/fuzz {target.name} {path}"


def _place(error: BaseException) -> str:
    """Where in our code it happened: the innermost frame of jetwatch, else of the target."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/jetwatch/" in frame.filename and "/tests/" not in frame.filename]
    return "".join(f"{frame.filename}:{frame.lineno}" for frame in (ours or frames)[-1:])


def check(target: Target, data: bytes) -> None:
    """One input, its processor time and its memory bounded. Raises whatever breaks a promise."""
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with _within(target.cpu_s):
        target.one_input(data)
    growth_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    assert growth_kib <= MOST_GROWTH_KIB, f"{growth_kib // 1024} MiB more memory for {len(data)} bytes"


@contextmanager
def _within(cpu_s: float) -> Iterator[None]:
    """Raises TooSlow after so much processor time of this process."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise TooSlow(f"more than {cpu_s:g} s of processor time")

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def starts(target: Target, more: Path | None = None) -> list[bytes]:
    """What inputs are made of: the kept ones, the made ones, and those in the directory `more`."""
    kept = target.kept() + (sorted(more.iterdir()) if more is not None and more.is_dir() else [])
    return [path.read_bytes() for path in kept] + list(target.seeds())


def deal(target: Target, seed: int, begin: list[bytes]) -> Iterator[bytes]:
    """Inputs without end: first those of `begin`, then what chance makes of them. The same seed deals the same."""
    yield from begin
    chance = random.Random(seed)
    begin = begin or [b""]
    while True:
        yield mutate(chance.choice(begin), chance, target.words, begin, target.longest_bytes)


def hunt_a_little(target: Target, hunt: Hunt, seed: int) -> None:
    """What it begins with, and its small dose of chance."""
    begin = starts(target)
    for data in islice(deal(target, seed, begin), len(begin) + target.small):
        hunt.attempt(data)


def hunt_by_chance(target: Target, hunt: Hunt, seed: int, seconds: float, more: Path) -> None:
    """Until the time is over. Tells now and then how far it is."""
    told_s = time.monotonic()
    until_s = told_s + seconds
    for data in deal(target, seed, starts(target, more)):
        now_s = time.monotonic()
        if now_s >= until_s:
            return
        if now_s - told_s > _TOLD_EVERY_S:
            told_s = now_s
            print(f"  {hunt.figure()}", flush=True)
        hunt.attempt(data)


def hunt_by_coverage(target: Target, hunt: Hunt, seed: int, seconds: float, room: Path) -> None:
    """Let libFuzzer deal the inputs. What reaches new code stays in `room`. Never returns: it ends the process."""
    import atheris  # type: ignore[import-untyped, unused-ignore]

    found = room / "reached"
    found.mkdir(parents=True, exist_ok=True)
    made = room / "made"
    made.mkdir(exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (made / str(number)).write_bytes(data)
    words = room / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    until_s = time.monotonic() + seconds

    def one_input(data: bytes) -> None:
        if time.monotonic() >= until_s:
            print(hunt.figure(), flush=True)
            os._exit(1 if hunt.found else 0)
        hunt.attempt(data)

    options = [
        *(f"-seed={seed or 1}", f"-max_len={target.longest_bytes}", f"-dict={words}", f"-artifact_prefix={room}/"),
        *("-timeout=120", "-rss_limit_mb=0", "-print_final_stats=0", "-verbosity=0"),
    ]
    corpora = [str(path) for path in (found, made, target.corpus) if path.is_dir()]
    atheris.Setup([sys.argv[0], *options, *corpora], one_input)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)
