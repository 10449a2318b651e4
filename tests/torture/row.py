"""What all programs of this directory have in common: a name, a dose, a seed, and one line with what came of it."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass


class NotHere(Exception):
    """This machine cannot be tortured so: no root, no loop device. The text says what is missing."""


@dataclass(frozen=True)
class Dose:
    """How much, and the chance it is dealt by: the same seed deals the same again, as far as the machine does."""

    count: int
    random: random.Random

    def say(self, text: str) -> None:
        """Tell how far it is."""
        print(text, flush=True)


@dataclass(frozen=True)
class Row:
    """One promise put to the test. `torture` raises AssertionError when it does not hold, and returns the figure."""

    name: str
    promise: str
    torture: Callable[[Dose], str]
    count: int
    small: int

    def run(self, count: int, seed: int) -> str:
        """Deal this dose; one line that says what was done and what came of it."""
        print(f"{self.name}: {self.promise} (--count {count} --seed {seed})", flush=True)
        began_s = time.monotonic()
        figure = self.torture(Dose(count, random.Random(seed)))
        line = f"{self.name}: {figure} ({time.monotonic() - began_s:.0f} s)"
        print(line, flush=True)
        return line

    def main(self) -> None:
        """The command line of one program. Leaves with 1 when the promise was broken, 77 when it cannot be tried."""
        parser = argparse.ArgumentParser(description=f"{self.name}: {self.promise}")
        parser.add_argument("--count", type=int, default=self.count, help="how often (default: %(default)s)")
        parser.add_argument("--seed", type=int, default=new_seed(), help="repeat what an earlier run did")
        options = parser.parse_args()
        try:
            self.run(options.count, options.seed)
        except NotHere as error:
            print(f"{self.name}: not tried here: {error}")
            sys.exit(77)


def new_seed() -> int:
    """A seed short enough to be typed again."""
    return time.time_ns() % 100_000
