"""Finds the targets: every file of `targets/` holds one `TARGET`."""

from __future__ import annotations

import importlib
from pathlib import Path

from fuzz.target import Target

_TARGETS = Path(__file__).resolve().parent / "targets"


def names() -> list[str]:
    """The names of all targets, in order."""
    return sorted(path.stem for path in _TARGETS.glob("[a-z]*.py"))


def find(name: str) -> Target:
    """The target of this name. Its module is imported now and not before, so that an engine can watch the import."""
    target = importlib.import_module(f"fuzz.targets.{name}").TARGET
    assert isinstance(target, Target)
    assert target.name == name, f"{target.name} stands in {name}.py"
    return target
