"""The pages that are generated from the command line and from the errors say what the program says.

Those of watch.yml, events and metrics are held by the tests of their rooms.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from jetwatch.cli.exit_codes import MEANINGS, errors_told

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs/reference"


def test_the_page_of_the_command_line_does_not_drift() -> None:
    """`python packaging/command_line.py > docs/reference/command-line.md` after a change of a command."""
    words = [sys.executable, ROOT / "packaging/command_line.py"]  # click keeps what other tests have asked of it
    page = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    assert (REFERENCE / "command-line.md").read_text("utf-8") == page


def test_the_page_of_exit_codes_does_not_drift() -> None:
    """`python -m jetwatch.cli.exit_codes > docs/reference/exit-codes.md` after a change of an error."""
    words = [
        sys.executable,
        "-m",
        "jetwatch.cli.exit_codes",
    ]  # other tests have loaded errors that no command ends with
    page = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    assert (REFERENCE / "exit-codes.md").read_text("utf-8") == page


def test_every_error_has_a_code_with_a_meaning() -> None:
    """And errors have been found."""
    told = list(errors_told())
    assert len(told) > 10
    assert [error for error in told if str(error.exit_code) not in MEANINGS] == []
