"""The lock files: whole, and of nobody's machine."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    """packaging/lock.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("lock", ROOT / "packaging" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain(requirement: str) -> str:
    """`python-dotenv` of `Python_Dotenv[x]>=1; marker`."""
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-").replace(".", "-")  # type: ignore[index]


def asked_by(extra: str) -> Iterator[str]:
    """What an extra asks for, those of our own extras that it names too."""
    for line in PROJECT["optional-dependencies"][extra]:
        if own := re.match(r"jetwatch\[(.+)\]", line):
            yield from (each for name in own[1].split(",") for each in asked_by(name))
        else:
            yield line


@pytest.mark.parametrize(("file", "extras"), [("release.txt", ("s3", "http", "metrics")), ("dev.txt", ("dev",))])
def test_every_package_that_is_asked_for_is_locked(file: str, extras: tuple[str, ...]) -> None:
    """A new line in pyproject.toml wants `make lock`."""
    asked = [*PROJECT["dependencies"], *(line for extra in extras for line in asked_by(extra))]
    wanted = {plain(each) for each in asked}
    locked = {plain(line) for line in (ROOT / "requirements" / file).read_text().splitlines() if "==" in line[:80]}
    assert wanted - locked == set()


@pytest.mark.parametrize("file", ["release.txt", "build.txt", "dev.txt"])
def test_no_path_of_a_machine_is_locked(file: str) -> None:
    """jetwatch asks for itself by its extras, and is no entry."""
    text = (ROOT / "requirements" / file).read_text()
    assert not re.search(r"^jetwatch|@ file:|-c /", text, re.MULTILINE)
    assert text.count("--hash=sha256:") > text.count("==")


BODY = "click==8.5.1 \\\n    --hash=sha256:00\n    # via jetwatch\n"
FOOT = "\n# WARNING: The following packages were not pinned, but pip requires them\n# to be.\n"


def test_what_pip_compile_says_of_jetwatch_itself_is_left_out(lock: ModuleType) -> None:
    """Anything else that is not locked is an error."""
    assert lock.cleaned(BODY + FOOT + "# jetwatch\n", "`.[dev]`") == lock.HEAD.format(what="`.[dev]`") + BODY
    assert lock.cleaned(BODY, "all").startswith("# Every package of all, with")
    with pytest.raises(SystemExit, match="setuptools"):
        lock.cleaned(BODY + FOOT + "# jetwatch\n# setuptools\n", "all")


@pytest.mark.parametrize("entry", ["jetwatch @ file:///home/me/jetwatch\n", "x @ file:///x\n"])
def test_an_entry_with_a_path_is_refused(lock: ModuleType, entry: str) -> None:
    """However it came in."""
    with pytest.raises(SystemExit, match="own path"):
        lock.cleaned(BODY + entry, "all")
