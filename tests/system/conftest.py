"""The machine on which the packages are tried."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # tests/ is no package

from nspawn import Machine, booted, missing_here  # noqa: E402

DIST = HERE.parent.parent / "dist"


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `now.deb`, as built, and `next.deb`, the same with a higher version."""
    if reason := missing_here():
        pytest.skip(reason)
    built = next(iter(DIST.glob("*.deb")), None)
    if built is None:
        pytest.skip("there is no package in dist/: make package")
    folder = tmp_path_factory.mktemp("packages")
    (folder / "now.deb").symlink_to(built)
    tree = folder / "tree"
    _run("dpkg-deb", "-R", str(built), str(tree))
    _raise_version(tree / "DEBIAN" / "control")
    _raise_version(tree / "usr/lib/jetwatch/site/jetwatch/__init__.py")
    with (tree / "etc/default/jetwatch").open("a") as defaults:
        defaults.write("# A line that the next version brings.\n")
    _run("dpkg-deb", "-Znone", "--root-owner-group", "-b", str(tree), str(folder / "next.deb"))
    (folder / "now.deb").unlink()
    (folder / "now.deb").write_bytes(built.read_bytes())
    return folder


@pytest.fixture(scope="module")
def machine(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted machine without jetwatch."""
    with booted(tmp_path_factory.mktemp("machine"), packages) as one:
        yield one


def _raise_version(file: Path) -> None:
    text, changed = re.subn(r'^(Version: |__version__ = )("?).*?"?$', r"\g<1>\g<2>99.0\2", file.read_text(), flags=re.M)
    assert changed == 1, f"{file} has no version"
    file.write_text(text)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
