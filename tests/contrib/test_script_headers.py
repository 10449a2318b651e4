"""Every contributed script is one executable file that stands alone, says how it is used, and is listed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from script_runner import CONTRIB, path_of

SCRIPTS = sorted(path.name for kind in ("check-scripts", "download-scripts") for path in (CONTRIB / kind).iterdir())
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
    assert text.startswith("#!/usr/bin/env python3\n# /// script\n")
    block = re.search(r"^# /// script\n((?:#.*\n)+?)# ///$", text, re.MULTILINE)
    assert block is not None
    metadata = tomllib.loads(re.sub(r"^# ?", "", block[1], flags=re.MULTILINE))
    assert metadata["requires-python"] == ">=3.11"
    assert metadata["dependencies"] == (["boto3>=1.34"] if name.endswith("s3") else [])


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_imports_nothing_from_jetwatch(name: str) -> None:
    """It can be copied to a machine alone."""
    tree = ast.parse(path_of(name).read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(module.split(".", 1)[0] == "jetwatch" for module in modules)


def test_a_missing_boto3_is_said_in_one_line(tmp_path: Path) -> None:
    """Without the library the script says for which Python it is missing."""
    for name in ("check-s3", "download-s3"):
        argv = [sys.executable, "-I", "-S", path_of(name), "s3://content/", tmp_path]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 3
        assert f"{name}: No module named 'boto3': install boto3 for {sys.executable}" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("source", ["s3", "git"])
def test_what_a_pair_shares_is_the_same_in_both(source: str) -> None:
    """Scripts stand alone, so they repeat each other; a fix in one must reach the other."""
    check, download = functions_of(f"check-{source}"), functions_of(f"download-{source}")
    own = {"parse", "main"}
    shared = (check.keys() & download.keys()) - own
    assert "tell_revision" in shared
    assert {name for name in shared if check[name] != download[name]} == set()


def test_every_script_is_in_the_table() -> None:
    """contrib/README.md has a row for each."""
    table = (CONTRIB / "README.md").read_text()
    assert [name for name in SCRIPTS if f"| `{name}` " not in table] == []
