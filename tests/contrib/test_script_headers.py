"""Every contributed script is one executable file that stands alone, says how it is used, and is listed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from script_runner import CONTRIB, path_of

SCRIPTS = sorted(path.name for kind in ("check-scripts", "download-scripts") for path in (CONTRIB / kind).iterdir())
NEEDS = {
    "s3": ["boto3>=1.34"],
    "minio": ["minio>=7.2"],
    "nats": ["nats-py>=2.6"],
    "kafka": ["confluent-kafka>=2.3"],
    "redis": ["redis>=5.0"],
    "rabbitmq": ["pika>=1.3"],
}
SECTIONS = ("\nVariables\n", "\nExit codes\n", "\nExample\n  check_command: ")


def functions_of(name: str) -> dict[str, str]:
    """The functions and classes of a script, without their names' order."""
    tree = ast.parse(path_of(name).read_text())
    return {node.name: ast.dump(node) for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_needs_no_library_and_tells_all(name: str) -> None:
    """--help works with nothing installed and has every section of the header."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", path_of(name), "--help"], capture_output=True, text=True, check=True
    )
    for section in SECTIONS:
        assert section in done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_executable_and_declares_what_it_needs(name: str) -> None:
    """Both `./script` and `uv run --script script` work: a shebang, the mode, and inline metadata."""
    text = path_of(name).read_text()
    assert path_of(name).stat().st_mode & 0o111 == 0o111
    assert text.startswith("#!/bin/sh\n# /// script\n")
    assert '\n"""unset" PYTHONEXECUTABLE __PYVENV_LAUNCHER__; exec python3 -I "$0" "$@"\n' in text
    block = re.search(r"^# /// script\n((?:#.*\n)+?)# ///$", text, re.MULTILINE)
    assert block is not None
    metadata = tomllib.loads(re.sub(r"^# ?", "", block[1], flags=re.MULTILINE))
    assert metadata["requires-python"] == ">=3.11"
    assert metadata["dependencies"] == NEEDS.get(name.rpartition("-")[2], [])


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name.startswith("check-")])
def test_an_older_python_can_read_a_check_as_far_as_its_complaint(name: str) -> None:
    """What ends with a SyntaxError ends with 1, which means "not due": for ever, and nobody is told."""
    tree = ast.parse(path_of(name).read_text(), feature_version=(3, 6))
    docstring, first, guard = tree.body[:3]
    assert isinstance(docstring, ast.Expr)
    assert ast.unparse(first) == "import sys"
    assert isinstance(guard, ast.If)
    assert ast.unparse(guard.test) == "sys.version_info < (3, 11)"
    assert "sys.exit(3)" in ast.unparse(guard)


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_error_that_nobody_expected_is_no_answer(name: str, tmp_path: Path) -> None:
    """Ends with 3 and one line, where Python would end with 1, which is "not due"."""
    (tmp_path / "sitecustomize.py").write_text(
        "import argparse, sys\n"
        "def broken(*_, **__): raise KeyError('a', 'surprise')\n"
        "argparse.ArgumentParser.parse_args = broken\n"
    )
    env = {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
    words = [sys.executable, path_of(name), "x"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, f"{name}: KeyError: ('a', 'surprise')\n")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_imports_nothing_from_jetwatch(name: str) -> None:
    """It can be copied to a machine alone."""
    tree = ast.parse(path_of(name).read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(module.split(".", 1)[0] == "jetwatch" for module in modules)


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name.rpartition("-")[2] in NEEDS])
def test_a_missing_library_is_said_in_one_line(name: str) -> None:
    """Without the library the script says for which Python it is missing, and which package has it."""
    package = NEEDS[name.rpartition("-")[2]][0].partition(">")[0]
    done = subprocess.run([sys.executable, "-I", "-S", path_of(name)], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert re.fullmatch(
        rf"{name}: No module named '\w+': install {package} for {re.escape(sys.executable)}, or use .*\n", done.stderr
    )


def test_the_extra_holds_what_the_scripts_need() -> None:
    """`jetwatch[contrib]` is enough for all of them."""
    project = tomllib.loads((CONTRIB.parent / "pyproject.toml").read_text())["project"]
    assert sorted(project["optional-dependencies"]["contrib"]) == sorted(need for (need,) in NEEDS.values())


@pytest.mark.parametrize("source", ["s3", "git", "minio", "http", "directory"])
def test_what_a_pair_shares_is_the_same_in_both(source: str) -> None:
    """Scripts stand alone, so they repeat each other; a fix in one must reach the other."""
    check, download = functions_of(f"check-{source}"), functions_of(f"download-{source}")
    own = {"parse", "main"}
    shared = (check.keys() & download.keys()) - own
    assert "tell_revision" in shared
    assert {name for name in shared if check[name] != download[name]} == set()


def test_what_all_scripts_share_is_the_same_in_all() -> None:
    """How a revision is told, how an error ends a script, and how the two RabbitMQ scripts know a message."""
    for shared in (
        "tell_revision",
        "ScriptError",
        "seconds",
        "within",
        "answer_and_exit",
        "marker_revision",
        "connect",
    ):
        found: dict[str, set[str]] = {}
        for name in SCRIPTS:
            group = name.rpartition("-")[2] if shared in {"connect", "marker_revision", "within"} else "all"
            group = "files" if group in {"file", "directory"} else group
            if shared in functions_of(name):
                found.setdefault(group, set()).add(functions_of(name)[shared])
        assert {group: len(versions) for group, versions in found.items()} == dict.fromkeys(found, 1), shared


def test_every_script_is_in_the_table() -> None:
    """contrib/README.md has a row for each."""
    table = (CONTRIB / "README.md").read_text()
    assert [name for name in SCRIPTS if f"| `{name}` " not in table] == []
