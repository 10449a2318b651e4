"""Known weaknesses and licences of what is locked: `make audit`.

Leaves with 1 where a locked package has a known weakness. Says how many could be asked
about: without pip-audit, or where the index of weaknesses does not answer, that is none, and it leaves with 0.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

LOCKS = Path(__file__).resolve().parent.parent / "requirements"
ASK = (
    sys.executable,
    "-m",
    "pip_audit",
    "--disable-pip",
    "--require-hashes",
    "--progress-spinner",
    "off",
    "-f",
    "json",
)


def weaknesses(lock: Path) -> tuple[int, list[str]]:
    """How many packages could be asked about, and a line for each known weakness of one."""
    try:
        done = subprocess.run([*ASK, "-r", lock], capture_output=True, text=True, check=False, timeout=300)
        packages = json.loads(done.stdout)["dependencies"]
    except (OSError, ValueError, KeyError, subprocess.TimeoutExpired):
        return 0, []
    asked = [package for package in packages if "vulns" in package]  # else it has a `skip_reason`
    return len(asked), [
        f"{package['name']} {package['version']}: {weakness['id']}, mended in {weakness['fix_versions'] or 'none'}"
        for package in asked
        for weakness in package["vulns"]
    ]


def locked(lock: Path) -> list[str]:
    """The names of the packages."""
    return re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*\])?==", lock.read_text(), re.MULTILINE)


def licences(lock: Path) -> list[str]:
    """A line for each locked package: its version and licence, as it is installed here."""
    found = []
    for name in locked(lock):
        try:
            facts = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            found.append(f"{name}: not installed here")
            continue
        classes = [
            each.split(" :: ")[-1] for each in facts.get_all("Classifier") or () if each.startswith("License ::")
        ]
        said = (
            facts.get("License-Expression") or ", ".join(classes) or (facts.get("License") or "unknown").split("\n")[0]
        )
        found.append(f"{name} {facts['Version']}: {said}")
    return found


def main() -> int:
    """Report on each lock file."""
    print("\n".join(["Licences of what a release uses:", *licences(LOCKS / "release.txt")]))
    bad = False
    for lock in sorted(LOCKS.glob("*.txt")):
        asked, found = weaknesses(lock)
        print(f"{lock.name}: {asked} of {len(locked(lock))} packages could be asked about", *found, sep="\n  ")
        bad = bad or bool(found)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
