"""The supervisor's program as it is installed, and what an agent asks of processes by number."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import until
from workbench import Workbench

from jetwatch.descriptors import is_readable
from jetwatch.process import launch, tree
from jetwatch.process.shim import boot_id
from jetwatch.records import ProcessId


@pytest.fixture
def shim_root(tmp_path: Path) -> Path:
    """Where a state directory keeps the program."""
    path = tmp_path / "shim"
    path.mkdir(mode=0o700)
    return path


# -- the program


def test_it_is_installed_once(shim_root: Path) -> None:
    """The same version is the same directory, untouched; nothing half made is left beside it."""
    first = launch.install(shim_root)
    times = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert launch.install(shim_root) == first
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == times
    assert list(shim_root.iterdir()) == [first]


def test_another_version_gets_another_directory(shim_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A running supervisor's files are never replaced, not even by another Python's."""
    first = launch.install(shim_root)
    monkeypatch.setattr(launch.sys, "version", "another")
    assert launch.install(shim_root) != first
    assert first.is_dir()


def test_an_installation_that_was_killed_is_begun_anew(shim_root: Path) -> None:
    """A directory has its name only when it is complete."""
    first = launch.install(shim_root)
    half = first.with_name(f"{first.name}.new")
    first.rename(half)
    (half / "jetwatch" / "process" / "shim.py").write_text("half a line")
    assert launch.install(shim_root) == first
    assert b"half a line" not in (first / "jetwatch" / "process" / "shim.py").read_bytes()
    assert not half.exists()


def test_it_is_private_whatever_the_umask_is(shim_root: Path) -> None:
    """Directories 0700, files 0600."""
    previous = os.umask(0)
    try:
        program = launch.install(shim_root)
    finally:
        os.umask(previous)
    for path in (program, *program.rglob("*")):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_it_needs_nothing_but_the_standard_library(shim_root: Path) -> None:
    """Run as a supervisor is, it imports its own copies and modules of the standard library, and no others."""
    program = launch.install(shim_root)
    listing = (
        "import sys; sys.path.insert(0, sys.argv[1]); import jetwatch.process.shim\n"
        "for name, module in sorted(sys.modules.items()): print(name, getattr(module, '__file__', None))"
    )
    argv = [sys.executable, "-I", "-S", "-c", listing, program]
    lines = subprocess.run(argv, env={}, capture_output=True, text=True, check=True).stdout.splitlines()
    imported = dict(line.split(" ", 1) for line in lines)
    ours = {name: file for name, file in imported.items() if name.startswith("jetwatch")}
    assert all(file.startswith(str(program)) for file in ours.values())
    assert {name.partition(".")[0] for name in imported} <= {*sys.stdlib_module_names, "jetwatch", "__main__"}
    assert not {"pathlib", "subprocess", "typing", "dataclasses", "threading", "inspect"} & imported.keys()


# -- processes by number


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stays until it is ended."""
    child = subprocess.Popen(["/bin/sleep", "60"], env={})
    yield child
    child.kill()
    child.wait()


def test_a_pidfd_tells_the_end_of_this_very_process(sleeper: subprocess.Popen[bytes]) -> None:
    """It becomes readable when the process ends."""
    found = tree.look_up(sleeper.pid)
    assert found is not None
    fd = launch.open_pidfd(ProcessId(found.pid, found.start_ticks, boot_id()))
    assert fd is not None
    assert not is_readable(fd)
    sleeper.kill()
    assert is_readable(fd, within_s=10)
    os.close(fd)


def test_a_number_that_is_somebody_elses_gives_none(sleeper: subprocess.Popen[bytes]) -> None:
    """Another start time, or nobody at all; and no descriptor is left of the look."""
    before = sorted(Path("/proc/self/fd").iterdir())
    found = tree.look_up(sleeper.pid)
    assert found is not None
    assert launch.open_pidfd(ProcessId(found.pid, found.start_ticks - 1, boot_id())) is None
    assert launch.open_pidfd(ProcessId(2**22 + 1, 1, boot_id())) is None
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_checks_of_a_killed_agent_are_ended_by_their_mark(bench: Workbench) -> None:
    """Wherever they went, whoever their parent is."""
    mark = f"JETWATCH_CHECK={bench.mark}"
    child = subprocess.Popen(
        bench.hostile("daemon", "session"), env={"JETWATCH_CHECK": bench.mark, "JETWATCH_TEST": bench.mark}
    )
    until(lambda: len(bench.registered()) == 3)
    launch.end_all_marked(f"{mark}-not", patience_s=1)
    assert len(bench.survivors()) == 3
    launch.end_all_marked(mark, patience_s=5)
    child.wait()
    assert bench.survivors() == []


@pytest.mark.usefixtures("no_child_left")
def test_starting_and_looking_leaves_no_descriptor_and_no_zombie(bench: Workbench) -> None:
    """However often an agent does it."""
    bench.as_step("true")
    before = sorted(Path("/proc/self/fd").iterdir())
    for _ in range(5):
        bench.as_step("exit 1")
    assert sorted(Path("/proc/self/fd").iterdir()) == before
