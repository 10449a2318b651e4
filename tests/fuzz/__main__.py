"""`python tests/fuzz`: every target, or those that are named, for so long; or one target with the inputs of files.

    python tests/fuzz --seconds 3600              all of them, side by side, within an hour
    python tests/fuzz mountinfo --seconds 60      one of them
    python tests/fuzz mountinfo FILE …            these inputs once more, each with its traceback

Leaves with 1 where an input broke a promise. It is kept as `crash-…` in the target's corpus, where the tests find it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from queue import Empty, Queue
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(path for path in sys.path if Path(path or ".").resolve() != HERE)]

from fuzz import finding, hunting  # noqa: E402

ROOM = HERE.parent.parent / "build" / "fuzz"
"""What a hunt learns of coverage is kept here for the next one; `make clean` removes it."""


def main() -> int:
    """Read the words and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", help=f"one of: {', '.join(finding.names())}; all of them without one")
    parser.add_argument("files", nargs="*", type=Path, help="inputs to try once more")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long in all (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 100_000, help="the same seed deals the same")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at once (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="the dose of the tests, instead of seconds")
    parser.add_argument("--crashes", type=Path, help="where to keep what broke a promise (default: the corpus)")
    parser.add_argument("--plain", action="store_true", help="by chance alone, even where atheris is installed")
    options = parser.parse_args()
    if options.target is None:
        return _all(options)
    if options.target not in finding.names():
        parser.error(f"no target is named {options.target}; there are {', '.join(finding.names())}")
    if options.files:
        return _again(options.target, options.files)
    return _one(options)


def _again(name: str, files: list[Path]) -> int:
    target = finding.find(name)
    for file in files:
        hunting.check(target, file.read_bytes())
        print(f"{name}: {file}: holds")
    return 0


def _one(options: argparse.Namespace) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (hunting.MEMORY_BYTES, hunting.MEMORY_BYTES))
    by_coverage = not (options.plain or options.small) and importlib.util.find_spec("atheris") is not None
    with _watched_imports() if by_coverage else nullcontext():
        target = finding.find(options.target)
    dose = "a small dose" if options.small else f"{options.seconds:g} s"
    how = "by coverage" if by_coverage else "by chance"
    print(f"{target.name}: {target.promise} ({how}, {dose}, seed {options.seed})", flush=True)
    hunt = hunting.Hunt(target, options.crashes or target.corpus)
    room = ROOM / target.name
    if options.small:
        hunting.hunt_a_little(target, hunt, options.seed)
    elif by_coverage:
        hunting.hunt_by_coverage(target, hunt, options.seed, options.seconds, room)
    else:
        hunting.hunt_by_chance(target, hunt, options.seed, options.seconds, room / "reached")
    print(hunt.figure(), flush=True)
    return 1 if hunt.found else 0


def _watched_imports() -> Any:
    import atheris  # type: ignore[import-untyped, unused-ignore]

    return atheris.instrument_imports(include=["jetwatch"])


def _all(options: argparse.Namespace) -> int:
    """Each target in a process of its own, `jobs` at once, each with its share of the time."""
    waiting: Queue[str] = Queue()
    for name in finding.names():
        waiting.put(name)
    share_s = options.seconds * options.jobs / waiting.qsize()
    failed: list[str] = []

    def work() -> None:
        while True:
            try:
                name = waiting.get_nowait()
            except Empty:
                return
            plain = ["--plain"] if options.plain else []
            words = [name, f"--seconds={share_s:g}", f"--seed={options.seed}", *plain]
            if subprocess.run([sys.executable, HERE, *words], check=False).returncode != 0:
                failed.append(name)

    workers = [threading.Thread(target=work) for _ in range(options.jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(f"broken: {', '.join(sorted(failed))}" if failed else "no promise was broken")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
