"""Finds the programs of this directory: every rNN_*.py holds one ROW."""

from __future__ import annotations

import importlib
from pathlib import Path

import paths  # noqa: F401
from row import Row


def rows() -> list[Row]:
    """All rows, in order."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("r[0-9][0-9]_*.py"))
    return [importlib.import_module(name).ROW for name in names]
