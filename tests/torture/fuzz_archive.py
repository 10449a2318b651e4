"""Extracts broken and hostile archives: for so long (`--seconds 600`) or so many (`--count 1000`), dealt by `--seed`.

Nothing may be written outside the directory, no link may lead out, every error is a sentence of ours, memory and time
are bounded, and an archive that is covered by a checksum becomes the exact tree or an error. What breaks a rule is
written to the working directory, and its seed and number are printed; exit 1. INT or TERM ends it earlier, with the
same figures.
"""

from __future__ import annotations

import argparse
import gzip
import math
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from archives import CHECKED, SEEDS, Deadline, mutate, repair, tree, try_out, whole, zstd

SLOW_S = 5.0
MEMORY_BYTES = 2 * 1024**3


def case(seed: int, number: int, seeds: dict[str, bytes]) -> tuple[str, bytes]:
    """The archive of this number: which seed it came from, and its bytes."""
    chance = random.Random(f"{seed}/{number}")
    kind = chance.choice(sorted(seeds))
    packed = seeds[kind]
    if chance.random() < 0.4:
        kind = chance.choice(("pax.tar", "gnu.tar"))
        packed = repair(seeds[kind], chance)
        form = chance.choice(("", ".gz", ".zst"))
        return f"{kind}{form} (header)", {"": bytes, ".gz": gzip.compress, ".zst": zstd}[form](packed)
    return kind, mutate(packed, chance)


def run(seconds: float, seed: int, first: int, count: float = math.inf) -> int:
    """Go on until the time is over or so many were tried; how many cases broke a rule."""
    seeds = {name: make() for name, make in SEEDS.items()}
    room = Path(tempfile.mkdtemp(prefix="fuzz-archive-"))
    expected, counts, broken, slowest = whole(), Counter[str](), 0, 0.0
    until, number = time.monotonic() + seconds, first
    ended: list[int] = []
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda received, _frame: ended.append(received))
    while time.monotonic() < until and number - first < count and not ended:
        kind, packed = case(seed, number, seeds)
        inner = room / "outer" / "room"
        inner.mkdir(parents=True)
        started = time.monotonic()
        try:
            said = try_out(packed, inner)
            if said is None and kind in CHECKED:
                assert tree(inner / "into") == expected, "a changed archive became another tree"
            counts["refused" if said else "extracted"] += 1
        except Deadline:
            counts["deadline"] += 1
        except Exception:  # noqa: BLE001 - any other error is what it looks for
            broken += 1
            Path(f"broken-{seed}-{number}").write_bytes(packed)
            print(f"seed {seed} number {number} {kind}:\n{traceback.format_exc()}", flush=True)
        took = time.monotonic() - started
        slowest = max(slowest, took)
        if took > SLOW_S:
            print(f"seed {seed} number {number} {kind}: took {took:.1f} s", flush=True)
        shutil.rmtree(room / "outer")
        number += 1
    shutil.rmtree(room)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{number - first} archives: {dict(counts)}, {broken} broke a rule; slowest {slowest:.2f} s, peak {peak} MiB")
    return broken


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="so many, however long they take")
    parser.add_argument("--first", type=int, default=0, help="number of the first archive; to see one again")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    seconds, count = (options.seconds, math.inf) if options.count is None else (math.inf, options.count)
    sys.exit(1 if run(seconds, options.seed, options.first, count) else 0)


if __name__ == "__main__":
    main()
