"""The page of the security model names, for each promise, tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/explanation/security-model.md"
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


def test_every_promise_names_a_test_that_there_is() -> None:
    """A row of the table without one, or with one that was renamed, is a promise that nobody keeps an eye on."""
    table = PAGE.read_text("utf-8").partition("## What holds, and the test that shows it")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 20
    for row in rows:
        named = NAMED.findall(row)
        assert named, f"no test is named: {row}"
        for file, test in named:
            text = (ROOT / file).read_text("utf-8")
            assert f"def {test}(" in text, f"{file} has no {test}"
