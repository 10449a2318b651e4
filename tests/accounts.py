"""Other accounts of this machine, and a `jetp` that they can run, for tests that need more than one account.

Nothing is added to the machine: every Unix has these accounts, and no process of theirs is expected to be there.
"""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest

STRANGER = "nobody"
"""An account that has nothing to do with the agent's."""
NEIGHBOUR = "games"
"""One more, which has nothing to do with the stranger's either."""

EXTRAS = ("s3", "http", "metrics")
_SYSTEM_PYTHON = Path("/usr/bin/python3")

needs_accounts = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")


def run_as(
    account: str, words: Sequence[str | Path], environ: Mapping[str, str] | None = None, *, within_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a command as another account, with its groups and no others."""
    return subprocess.run(words, **_as(account, environ), capture_output=True, text=True, timeout=within_s, check=False)


def start_as(
    account: str, words: Sequence[str | Path], environ: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a command as another account. Whoever starts it ends it."""
    return subprocess.Popen(words, **_as(account, environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _as(account: str, environ: Mapping[str, str] | None) -> dict[str, object]:
    facts = pwd.getpwnam(account)
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"} if environ is None else dict(environ)
    return {
        "user": facts.pw_uid,
        "group": facts.pw_gid,
        "extra_groups": [],
        "env": env,
        "cwd": "/",
        "stdin": subprocess.DEVNULL,
    }


@functools.cache
def jetp_for_all() -> Path:
    """A `jetp` that every account can run; the test is skipped where there can be none.

    That of this environment, unless its Python lies in somebody's home: then a copy for the system's Python.
    """
    ours = Path(sys.executable).with_name("jetp")
    if _runs_for_a_stranger(ours):
        return ours
    made = _copied_environment()
    if not _runs_for_a_stranger(made):
        pytest.skip(f"no account but this one can run {sys.executable}, nor a copy for {_SYSTEM_PYTHON}")
    return made


def _runs_for_a_stranger(jetp: Path) -> bool:
    try:
        return run_as(STRANGER, [jetp, "version"]).returncode == 0
    except OSError:
        return False


def _copied_environment() -> Path:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not _SYSTEM_PYTHON.exists() or version not in subprocess.getoutput(f"{_SYSTEM_PYTHON} --version"):
        pytest.skip(f"no account but this one can run {sys.executable}, and {_SYSTEM_PYTHON} is no Python {version}")
    root = Path(tempfile.mkdtemp(prefix="jetwatch-for-all-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    root.chmod(0o755)
    subprocess.run([_SYSTEM_PYTHON, "-m", "venv", "--without-pip", root / "venv"], check=True)
    packages = root / "venv/lib" / f"python{version}" / "site-packages"
    for found in _distributions("jetwatch", EXTRAS, set()):
        _copy(found, packages)
    import jetwatch

    shutil.copytree(Path(jetwatch.__file__).parent, packages / "jetwatch", dirs_exist_ok=True)
    jetp = root / "venv/bin/jetp"
    jetp.write_text(f"#!{root}/venv/bin/python\nimport sys\nfrom jetwatch.cli.main import main\nsys.exit(main())\n")
    jetp.chmod(0o755)
    return jetp


def _distributions(name: str, extras: Sequence[str], seen: set[str]) -> Iterator[Distribution]:
    """What is installed of this name, and of all that it requires."""
    if name in seen:
        return
    seen.add(name)
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return  # for another Python or another system
    yield found
    for line in found.requires or ():
        wanted, _, condition = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", condition)
        if extra is None or extra[1] in extras:
            yield from _distributions(re.split(r"[\s\[<>=!~(;]", wanted.strip())[0], (), seen)


def _copy(found: Distribution, packages: Path) -> None:
    for file in found.files or ():
        if ".." in file.parts or file.suffix in (".pyc", ".pth"):
            continue  # programs have this environment's Python in their first line; a checkout's path is not wanted
        target = packages / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(file.locate()), target)
