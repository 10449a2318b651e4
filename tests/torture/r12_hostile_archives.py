"""R12: archives of every kind, broken byte by byte and field by field, and unpacked.

The work is that of `fuzz_archive.py`, in a process of its own with a limit of memory.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import paths  # noqa: F401
from row import Dose, Row

FUZZER = Path(__file__).resolve().with_name("fuzz_archive.py")
LONGEST_S = 3600.0


def torture(dose: Dose) -> str:
    """`count` archives: each becomes a tree below its directory, or a refusal in a sentence."""
    seed = dose.random.randrange(10**9)
    words = [sys.executable, str(FUZZER), "--count", str(dose.count), "--seed", str(seed)]
    with tempfile.TemporaryDirectory(prefix="r12-") as kept:  # broken archives are written there
        ended = subprocess.run(words, check=False, cwd=kept, capture_output=True, text=True, timeout=LONGEST_S)
    assert ended.returncode == 0, f"--seed {seed}:\n{ended.stdout}{ended.stderr}"
    return ended.stdout.strip().splitlines()[-1]


ROW = Row(
    "R12",
    "an archive is unpacked below its directory, or refused in a sentence; nothing is written elsewhere",
    torture,
    count=20_000,
    small=400,
)

if __name__ == "__main__":
    ROW.main()
