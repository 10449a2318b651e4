"""How `jetp local` chooses an engine, its Python and its environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jetwatch.cli.local import Machine, NoEngineError, find_engine, interpreter_of, playbook_path
from jetwatch.errors import UsageError

ELF = b"\x7fELF not really"


def machine(tmp_path: Path, **environ: str) -> Machine:
    """A machine whose PATH is tmp_path/bin and whose own Python is tmp_path/venv/bin/python, an executable."""
    python = executable(tmp_path / "venv" / "bin" / "python", b"")
    (tmp_path / "bin").mkdir(exist_ok=True)
    own = frozenset({executable(tmp_path / "venv" / "bin" / "jetp", b"#!python\n").resolve()})
    return Machine({"PATH": str(tmp_path / "bin"), **environ}, python, own, on_terminal=False)


def executable(path: Path, content: bytes) -> Path:
    """Write an executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def test_jets_own_binary_comes_first(tmp_path: Path) -> None:
    """A native `jetp` is Jet, and gets Jet's command line."""
    here = machine(tmp_path)
    jet = executable(tmp_path / "bin" / "jetp", ELF)
    executable(tmp_path / "bin" / "ansible-playbook", b"#!/bin/sh\n")
    assert find_engine(here).argv == (str(jet), "local", "--playbook")


def test_our_own_command_is_not_taken_for_jet(tmp_path: Path) -> None:
    """A script that names us is ours, and so is a native file that is the one running, under any name."""
    packed = executable(tmp_path / "packed", ELF)
    here = machine(tmp_path)
    here = Machine(here.environ, here.python, frozenset({packed.resolve()}), on_terminal=False)
    (tmp_path / "bin" / "jetp").symlink_to(packed)
    executable(tmp_path / "bin" / "jet", b"#!/usr/bin/python3\nfrom jetwatch.cli.main import main\n")
    ansible = executable(tmp_path / "bin" / "ansible-playbook", b"#!/bin/sh\n")
    assert find_engine(here).argv[0] == str(ansible)


@pytest.mark.parametrize("name", ["jet", "jetp"])
def test_a_script_in_jets_place_is_taken_for_it(tmp_path: Path, name: str) -> None:
    """Some wrap Jet's binary in a script of their own."""
    here = machine(tmp_path)
    jet = executable(tmp_path / "bin" / name, b'#!/bin/sh\nexec /opt/jet/jetp "$@"\n')
    assert find_engine(here).argv[0] == str(jet)


def test_an_engine_that_starts_us_again_is_none(tmp_path: Path) -> None:
    """Then the next one is tried, and each only once."""
    executable(tmp_path / "bin" / "jet", b"#!/bin/sh\n")
    ansible = executable(tmp_path / "bin" / "ansible-playbook", b"#!/bin/sh\n")
    second = find_engine(machine(tmp_path, **find_engine(machine(tmp_path)).env))
    assert second.argv[0] == str(ansible)
    with pytest.raises(NoEngineError):
        find_engine(machine(tmp_path, **second.env))


def test_a_jet_behind_our_own_command_on_path_is_found(tmp_path: Path) -> None:
    """All of PATH is searched, not only the first of that name."""
    here = machine(tmp_path, PATH=f"{tmp_path}/venv/bin::{tmp_path}/jet")
    jet = executable(tmp_path / "jet" / "jetp", ELF)
    assert find_engine(here).argv[0] == str(jet)


@pytest.mark.parametrize("entry", ["", ".", "bin/..", "./"])
@pytest.mark.parametrize("engine", ["jetp", "ansible-playbook"])
def test_an_engine_in_the_current_directory_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, engine: str
) -> None:
    """No entry of PATH lets content supply the engine."""
    monkeypatch.chdir(tmp_path)
    executable(tmp_path / engine, ELF)
    with pytest.raises(NoEngineError):
        find_engine(machine(tmp_path, PATH=f"{entry}:{tmp_path}/bin"))


def test_the_ansible_of_our_own_environment_comes_before_that_on_path(tmp_path: Path) -> None:
    """The extra `ansible` is what was installed for this."""
    here = machine(tmp_path)
    executable(tmp_path / "bin" / "ansible-playbook", b"#!/bin/sh\n")
    beside = executable(tmp_path / "venv" / "bin" / "ansible-playbook", f"#!{here.python}\n".encode())
    interpreter = f"ansible_python_interpreter={here.python}"
    assert find_engine(here).argv == (str(beside), "-i", "localhost,", "-c", "local", "-e", interpreter)


def test_without_an_engine_the_error_names_both_and_what_to_install(tmp_path: Path) -> None:
    """The sentence is enough to go on, and the exit code is its own."""
    with pytest.raises(
        NoEngineError, match=r"jetp or jet.*ansible-playbook.*pip install 'jetwatch\[ansible\]'"
    ) as told:
        find_engine(machine(tmp_path))
    assert told.value.exit_code == 69


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("#!{python}\n", "{python}"),
        ("#!{python} -I\n", "{python}"),
        ("#!/usr/bin/env python3\n", "{python}"),
        ("#!/usr/bin/env -S python3 -I\n", "{python}"),
        ("#!/bin/sh\n'''exec' '{spaced}' \"$0\" \"$@\"\n", "{spaced}"),
        ("#!/bin/sh\n'''exec' {python} \"$0\" \"$@\"\n", "{python}"),
        ("#!/bin/sh\nexec something else\n", "{own}"),
        ("#!/usr/bin/env bash\n", "{own}"),
        ("#!/gone/bin/python3\n", "{own}"),
        ("#!\n'unbalanced\n", "{own}"),
        ("", "{own}"),
    ],
)
def test_modules_run_under_the_python_of_ansible(tmp_path: Path, head: str, expected: str) -> None:
    """Read off the first lines of ansible-playbook; where they name no Python that runs, ours."""
    here = machine(tmp_path)
    names = {
        "python": executable(tmp_path / "bin" / "python3", b""),
        "spaced": executable(tmp_path / "a dir" / "python3.11", b""),
        "own": here.python,
    }
    ansible = executable(tmp_path / "ansible-playbook", head.format(**names).encode())
    assert interpreter_of(ansible, here) == expected.format(**names)


def test_a_python_with_a_space_in_its_path_stays_one_value(tmp_path: Path) -> None:
    """Ansible splits `-e` by shell rules."""
    spaced = executable(tmp_path / "a dir" / "python3", b"")
    executable(tmp_path / "bin" / "ansible-playbook", f"#!/bin/sh\n'''exec' '{spaced}' \"$0\"\n".encode())
    assert find_engine(machine(tmp_path)).argv[-1] == f"ansible_python_interpreter='{spaced}'"


def test_defaults_for_ansible_are_only_defaults(tmp_path: Path) -> None:
    """What the user set stays; the rest suits a run that nobody watches."""
    executable(tmp_path / "bin" / "ansible-playbook", b"#!/bin/sh\n")
    env = find_engine(machine(tmp_path)).env
    assert env["ANSIBLE_NOCOLOR"] == "True"
    assert env["ANSIBLE_LOCALHOST_WARNING"] == "False"
    assert env["LANG"] == "C.UTF-8"
    assert Path(env["HOME"]).is_absolute()
    own = {"ANSIBLE_FORCE_COLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "True", "LC_ALL": "POSIX", "HOME": "/my"}
    env = find_engine(machine(tmp_path, **own)).env
    assert own.items() <= env.items()
    assert not {"ANSIBLE_NOCOLOR", "LANG"} & env.keys()


def test_ansible_keeps_its_files_in_the_run_where_home_will_not_do(tmp_path: Path) -> None:
    """A service without a home directory can apply a playbook."""
    executable(tmp_path / "bin" / "ansible-playbook", b"#!/bin/sh\n")
    run = str(tmp_path / "run")
    without_home = find_engine(machine(tmp_path, HOME=os.devnull, JETWATCH_DOWNLOAD_PATH=run)).env
    assert without_home["ANSIBLE_HOME"] == f"{run}/.ansible"
    with_home = find_engine(machine(tmp_path, HOME=str(tmp_path), JETWATCH_DOWNLOAD_PATH=run)).env
    assert "ANSIBLE_HOME" not in with_home


def test_a_playbook_that_cannot_be_read_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, or a directory: said before any engine starts. A relative path becomes absolute."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="there is no such playbook"):
        playbook_path("nope.yml")
    with pytest.raises(UsageError, match="expected a playbook file"):
        playbook_path(str(tmp_path))
    (tmp_path / "-pb.yml").touch()
    assert playbook_path("-pb.yml") == f"{tmp_path}/-pb.yml"
