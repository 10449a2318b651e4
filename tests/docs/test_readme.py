"""What holds for the README alone: its first example, what fits on a screen, and what it says is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from page import Page

from jetwatch.config.keys import AGENT_KEYS, WATCH_KEYS

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_is_the_one_of_the_agent_mode_page() -> None:
    """The seven keys, in their order; test_pages.py has them checked."""
    (example,) = (block.text for block in Page(ROOT / "README.md").blocks if block.kind == "yaml")
    assert re.findall(r"^(\w+):", example, re.MULTILINE) == [
        "check_command",
        "download_command",
        "jet_command",
        "check_interval",
        "splay",
        "on_ok",
        "on_fail",
    ]


def test_what_is_shown_fits_into_80_columns() -> None:
    """Output that a reader compares with a terminal is no wider than one."""
    shown = [block.text for block in Page(ROOT / "README.md").blocks if block.kind == "text"]
    assert [line for text in shown for line in text.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("page", ["README.md", "docs/reference/contract.md"])
def test_the_keys_that_are_called_absent_are_those_that_are_refused(page: str) -> None:
    """A key that comes with a new version leaves the page's section about what is not there, and no other does."""
    _, _, absent = (ROOT / page).read_text().partition("\n## Not ")
    called = set(re.findall(r"`(\w+):`", absent.partition("\n## ")[0]))
    refused = {key.name for key in (*WATCH_KEYS, *AGENT_KEYS) if key.refusal}
    assert called == refused
