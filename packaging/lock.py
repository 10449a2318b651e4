"""Writes requirements/*.txt: every package with its version and the digests of its files. `make lock`.

`release.txt` is what deb, rpm and jetp.pyz hold, `build.txt` what makes a wheel, `demo.txt` what the demo needs,
`dev.txt` what development needs, all of the others included. Versions that are locked stay until their line is taken
out. jetwatch itself is asked for by its own extras and is never an entry: it would be this machine's path.
The oldest Python writes them: a newer one takes releases that the oldest refuses, and leaves out what only it needs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"
RELEASE = ("s3", "http", "metrics")
"""The extras that the packages hold."""

OLDEST = (3, 11, 2)
"""Debian 12 has it. What it can install, 3.12 and 3.13 can install, too."""

HEAD = (
    "# Every package of {what}, with its version and the digests of its files, for Python 3.11 on Linux. "
    "Written by `make lock`.\n"
)
_BUILD_DEPENDENCIES = ("--build-deps-for", "wheel", "--build-deps-for", "editable", "--only-build-deps")
_WARNING = "\n# WARNING: The following packages were not pinned"


def main() -> None:
    """All files, the last within the versions of the others. Leaves the program where a newer Python runs it."""
    if sys.version_info[:3] > OLDEST:
        wanted, here = (".".join(map(str, each)) for each in (OLDEST, sys.version_info[:3]))
        raise SystemExit(
            f"the locks are written by Python {wanted} or older; this is {here}. "
            "In a fresh clone on Debian 12: make lock PYTHON=/usr/bin/python3.11"
        )
    extras = [word for extra in RELEASE for word in ("--extra", extra)]
    write(LOCKS / "release.txt", f"`.[{','.join(RELEASE)}]`", *extras)
    write(LOCKS / "build.txt", "the build backend", *_BUILD_DEPENDENCIES)
    write(LOCKS / "demo.txt", "`.[demo]`", "--extra", "demo", *_within("release", "build"))
    write(LOCKS / "dev.txt", "`.[dev]`", "--extra", "dev", *_within("release", "build", "demo"))


def _within(*locks: str) -> list[str]:
    """Words for pip-compile: the versions of these are taken."""
    return [word for lock in locks for word in ("--constraint", f"requirements/{lock}.txt")]


def write(lock: Path, what: str, *more: str) -> None:
    """One file, by pip-compile."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, lock.name)
        made.write_text(lock.read_text() if lock.exists() else "")
        words = [sys.executable, "-m", "piptools", "compile", "--quiet", "--generate-hashes", "--strip-extras"]
        words += ["--no-header", "--no-emit-options", "--no-emit-index-url", "--no-emit-find-links"]
        words += ["--no-emit-trusted-host", "--unsafe-package", "jetwatch", "--output-file", str(made), *more]
        subprocess.run([*words, "pyproject.toml"], cwd=ROOT, check=True)
        lock.write_text(cleaned(made.read_text(), what))


def cleaned(text: str, what: str) -> str:
    """What pip-compile wrote, with our first line, and without what it says of jetwatch itself at the end.

    Leaves the program where jetwatch is an entry all the same.
    """
    body, warning, left_out = text.partition(_WARNING)
    named = [line for line in left_out.splitlines()[1:] if line.startswith("# ") and " " not in line[2:]]
    if warning and named != ["# jetwatch"]:
        raise SystemExit(f"not locked, and not jetwatch itself: {', '.join(named)}")
    if entries := [line for line in body.splitlines() if line.startswith("jetwatch") or " @ file:" in line]:
        raise SystemExit(f"this machine's own path would be locked: {entries[0]}")
    return HEAD.format(what=what) + body.rstrip("\n") + "\n"


if __name__ == "__main__":
    main()
