"""Runs a contributed script as the agent does: a clean environment, JETWATCH_OUTPUT, and this Python first on PATH."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

CONTRIB = Path(__file__).resolve().parents[2] / "contrib"


def path_of(name: str) -> Path:
    """Where the script of this name lies: what a check needs besides lies beside it."""
    kind = "download" if name.startswith("download-") else "check"
    return CONTRIB / f"{kind}-scripts" / name


@dataclass(frozen=True)
class Ended:
    """How a script ended, and what it wrote to JETWATCH_OUTPUT."""

    exit_code: int
    stdout: str
    stderr: str
    outputs: dict[str, str]


@dataclass
class Scripts:
    """Runs a contributed script with a clean environment, and this Python first on PATH.

    `before` are words before its path: a Python that is not isolated, where a test changes what the library does.
    """

    work: Path
    env: dict[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    runs: int = 0

    def run(self, name: str, *arguments: str | Path, **variables: str) -> Ended:
        """Run check-NAME or download-NAME; `variables` are added to its environment."""
        self.runs += 1
        output = self.work / f"output-{self.runs}"
        done = subprocess.run(
            [*self.before, path_of(name), *arguments],
            env={
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(self.work),
                "JETWATCH_OUTPUT": str(output),
                **self.env,
                **variables,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        lines = output.read_text().splitlines() if output.exists() else []
        outputs = dict(line.split("=", 1) for line in lines)
        return Ended(done.returncode, done.stdout, done.stderr, outputs)


def files_below(directory: Path) -> dict[str, str]:
    """Every file below a directory, with its text."""
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_text() for path in found}
