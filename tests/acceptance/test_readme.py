"""The README is true: its blocks run in their order, its example is valid, the log it shows is the log that comes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from jetwatch.config.keys import AGENT_KEYS, WATCH_KEYS

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
README = (ROOT / "README.md").read_text()
NOT_RUN = "not run: "
OUTPUT = "output of the block above"
BLOCK = re.compile(
    r"(?:^<!-- (?P<remark>[^\n]*) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
DIFFERS = (
    (r"^\d\d:\d\d:\d\d", "TIME"),
    (r"\b[0-9a-f]{8}\b", "RUN"),
    (r"\b[0-9a-f]{11}…", "REVISION…"),
    (r"\b\d+\.\ds", "SECONDS"),
    (r" /\S*", " PATH"),
)
"""What is another one in each run, and what stands for it."""


@dataclass(frozen=True)
class Block:
    """One fenced block, with the HTML comment right above it."""

    kind: str
    text: str
    remark: str


def blocks(kind: str) -> list[Block]:
    """The README's blocks of this kind, in order."""
    found = [Block(each["kind"], each["text"], each["remark"] or "") for each in BLOCK.finditer(README)]
    return [block for block in found if block.kind == kind]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory that looks like a checkout to the README's commands."""
    (tmp_path / "contrib").symlink_to(ROOT / "contrib")
    return tmp_path


def shell(text: str, directory: Path) -> str:
    """What a block prints; it has to succeed."""
    environ = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(directory),
        "LANG": "C.UTF-8",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
    }
    done = subprocess.run(
        ["sh", "-eu", "-c", text], cwd=directory, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def masked(log: str) -> list[str]:
    """A console log without what differs from run to run."""
    for pattern, name in DIFFERS:
        log = re.sub(pattern, name, log, flags=re.MULTILINE)
    return log.splitlines()


def test_every_block_that_is_left_out_says_why() -> None:
    """A block of commands either runs in this test or carries a reason."""
    for block in blocks("sh"):
        if block.remark:
            assert block.remark.startswith(NOT_RUN), block.text
            assert len(block.remark) > len(NOT_RUN) + 10, block.text


def test_the_commands_run_in_their_order_and_the_log_is_the_one_shown(checkout: Path) -> None:
    """Every block of commands succeeds; the console log differs from the shown one in times and names only."""
    (shown,) = (block.text for block in blocks("text") if block.remark == OUTPUT)
    printed = [shell(block.text, checkout) for block in blocks("sh") if not block.remark.startswith(NOT_RUN)]
    assert len(printed) >= 3
    logs = [text for text in printed if "agent started" in text]
    assert [masked(log) for log in logs] == [masked(shown)]
    assert "configuring this machine" in printed[-1]


def test_the_example_is_the_one_of_the_agent_mode_page(tmp_path: Path) -> None:
    """The seven keys are valid as they stand, and nothing in them is doubtful."""
    (example,) = (block.text for block in blocks("yaml"))
    assert re.findall(r"^(\w+):", example, re.MULTILINE) == [
        "check_command",
        "download_command",
        "jet_command",
        "check_interval",
        "splay",
        "on_ok",
        "on_fail",
    ]
    config = tmp_path / "watch.yml"
    config.write_text(example)
    done = subprocess.run(
        [BIN / "jetp", "check-config", config], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_shown_fits_into_80_columns() -> None:
    """Output that a reader compares with a terminal is no wider than one."""
    wide = [line for block in blocks("text") for line in block.text.splitlines() if len(line) > 80]
    assert wide == []


@pytest.mark.parametrize("page", ["README.md", "docs/reference/contract.md"])
def test_the_keys_that_are_called_absent_are_those_that_are_refused(page: str) -> None:
    """A key that comes with a new version leaves the page's section about what is not there, and no other does."""
    _, _, absent = (ROOT / page).read_text().partition("\n## Not ")
    called = set(re.findall(r"`(\w+):`", absent.partition("\n## ")[0]))
    refused = {key.name for key in (*WATCH_KEYS, *AGENT_KEYS) if key.refusal}
    assert called == refused
