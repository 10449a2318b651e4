"""The lock files: whole, and of nobody's machine."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from packaging.specifiers import SpecifierSet
from servers import how_to_install

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


@pytest.mark.parametrize(
    ("file", "extras"), [("release.txt", ("s3", "http", "metrics")), ("demo.txt", ("demo",)), ("dev.txt", ("dev",))]
)
def test_every_package_that_is_asked_for_is_locked(file: str, extras: tuple[str, ...]) -> None:
    """A new line in pyproject.toml wants `make lock`."""
    asked = [*PROJECT["dependencies"], *(line for extra in extras for line in asked_by(extra))]
    wanted = {plain(each) for each in asked}
    assert wanted - locked(file).keys() == set()


def locked(file: str) -> dict[str, str]:
    """The version of each package by its name."""
    lines = (ROOT / "requirements" / file).read_text().splitlines()
    return {plain(line): line.split("==")[1].split()[0] for line in lines if "==" in line[:80]}


def test_what_development_is_tested_with_is_what_is_handed_out() -> None:
    """Demo and development have the versions of release and build: all can stand in one environment."""
    for narrow, wide in (("release.txt", "dev.txt"), ("demo.txt", "dev.txt"), ("build.txt", "dev.txt")):
        one, other = locked(narrow), locked(wide)
        assert {name: one[name] for name in one.keys() & other} == {name: other[name] for name in one.keys() & other}
    assert locked("release.txt").items() <= locked("dev.txt").items()
    assert locked("demo.txt").items() <= locked("dev.txt").items()


def test_the_oldest_python_can_install_what_is_locked(lock: ModuleType) -> None:
    """Looked up in what is installed here, where it is of the locked version."""
    oldest = ".".join(map(str, lock.OLDEST))
    looked_at = 0
    for name, version in locked("dev.txt").items():
        try:
            facts = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue
        if facts["Version"] == version:
            looked_at += 1
            assert SpecifierSet(facts["Requires-Python"] or "").contains(oldest), name
    assert looked_at


def test_a_newer_python_writes_no_lock(lock: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take releases that the oldest refuses."""
    monkeypatch.setattr(lock.sys, "version_info", (3, 11, 7, "final", 0))
    with pytest.raises(SystemExit, match=r"Python 3\.11\.2 or older; this is 3\.11\.7"):
        lock.main()


@pytest.mark.parametrize("target", ["demo", "dev"])
def test_make_installs_by_digest_and_nothing_else(target: str) -> None:
    """Each call of pip asks for the locked digests, or takes nothing but jetwatch itself."""
    words = ["make", "--dry-run", "--always-make", target]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    calls = [
        call for line in done.stdout.replace("\\\n", "").splitlines() for call in line.split("&&") if "pip" in call
    ]
    installed = [shlex.split(call) for call in calls if "pip install" in call]
    locked_ones = [call for call in installed if "--require-hashes" in call]
    assert [f"requirements/{target}.txt" in call for call in locked_ones] == [True]
    assert all({"--no-deps", "--no-build-isolation"} <= {*call} for call in installed if call not in locked_ones)


def test_a_test_without_its_program_says_what_to_install() -> None:
    """A Debian package, or the environment; `make test-services` knows the same table."""
    assert how_to_install("sshd").startswith("apt install openssh-server, or `make test-services`")
    assert how_to_install("weed") == "`make dev` brings it"
    assert "tests/programs.txt" in (ROOT / ".ci" / "services").read_text()


@pytest.mark.parametrize("file", ["release.txt", "build.txt", "demo.txt", "dev.txt"])
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
