"""Every way in which jetwatch starts Python: nothing is imported but what was installed with it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from hostile_modules import HostileModules
from workbench import Ended, Workbench

import jetwatch
from jetwatch import interpreter

PACKAGE = Path(jetwatch.__file__).parent
ROOT = PACKAGE.parent
SCRIPTS = sorted(path for kind in ("check", "download") for path in (ROOT / "contrib" / f"{kind}-scripts").iterdir())


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[HostileModules]:
    """Modules of somebody else, none of which is imported by the end of the test."""
    made = HostileModules(tmp_path / "hostile")
    yield made
    assert made.imported == []


def run_in(hostile: HostileModules, *argv: str | Path, **environ: str) -> str:
    """What a program says that is started among them. It must end well."""
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environ}
    done = subprocess.run(argv, cwd=hostile.directory, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_python_that_is_not_isolated_would_import_them(tmp_path: Path) -> None:
    """Else the tests below could not fail."""
    hostile = HostileModules(tmp_path / "hostile")
    env = {"PYTHONPATH": str(hostile.directory)}
    subprocess.run([sys.executable, "-c", "import json"], env=env, capture_output=True, check=False)
    assert hostile.imported


def test_supervisors_and_forkers_import_nothing_of_others(
    hostile: HostileModules, monkeypatch: pytest.MonkeyPatch, bench: Workbench, run: Callable[..., Ended]
) -> None:
    """Whatever directory and environment the agent itself has."""
    monkeypatch.chdir(hostile.directory)
    for name, value in hostile.environ.items():
        monkeypatch.setenv(name, value)
    assert run("echo done").output == b"done\n"


def test_the_agents_own_program_imports_nothing_of_others(hostile: HostileModules) -> None:
    """It is what looks and fetches are started with."""
    environ = {**hostile.environ, **interpreter.ENVIRONMENT}
    assert "jetwatch" in run_in(hostile, *interpreter.jetp("version"), **environ)


def test_the_installed_command_imports_nothing_from_where_it_is_started(hostile: HostileModules) -> None:
    """`jetp`, of which the agent's own process is made."""
    assert "jetwatch" in run_in(hostile, Path(sys.executable).with_name("jetp"), "version")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_contributed_script_imports_nothing_of_others(hostile: HostileModules, script: Path) -> None:
    """Not even from the directory that it lies in."""
    copy = hostile.directory / script.name
    copy.write_bytes(script.read_bytes())
    copy.chmod(0o755)
    assert "Exit codes" in run_in(hostile, copy, "--help", **hostile.environ)


def test_the_program_is_found_where_an_isolated_python_does_not_look(hostile: HostileModules, tmp_path: Path) -> None:
    """As after `pip install --user`: it and its libraries lie in a directory that only its own path names."""
    site = tmp_path / "site"
    site.mkdir()
    for path in {path.name: path for path in (*Path(click.__file__).parents[1].iterdir(), PACKAGE)}.values():
        (site / path.name).symlink_to(path)
    python = Path(sys.executable).resolve()
    environ = {**hostile.environ, **interpreter.ENVIRONMENT}
    assert "jetwatch" in run_in(hostile, python, "-I", site / "jetwatch" / "__main__.py", "version", **environ)


def test_one_module_alone_knows_the_interpreter() -> None:
    """What starts Python asks `interpreter.py`; `jetp local` only looks for ansible beside it."""
    names = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"executable", "_base_executable"}
    }
    assert names == {"interpreter.py", "cli/local.py"}


def test_every_interpreter_that_is_started_is_isolated() -> None:
    """It is the first thing that Python is told."""
    for argv in (interpreter.isolated("program", "word"), interpreter.jetp("version")):
        assert argv[:2] == (sys.executable, "-I")


def test_the_one_file_program_asks_for_an_isolated_python() -> None:
    """Before it has unpacked itself, and after."""
    header = r'#!/bin/sh\nunset PYTHONEXECUTABLE __PYVENV_LAUNCHER__\nexec python3 -I "$0" "$@"\n'
    assert header in (ROOT / "packaging" / "build.py").read_text()
    assert '[python, "-I", "-m", "jetwatch"' in (ROOT / "packaging" / "zipapp" / "__main__.py").read_text()
