"""The completion that `jetp completion` prints, in a real shell."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from agent_process import JETP


def printed(shell: str) -> str:
    """What `jetp completion SHELL` prints."""
    return subprocess.run([JETP, "completion", shell], capture_output=True, text=True, timeout=60, check=True).stdout


def completed(*words: str) -> set[str]:
    """What bash offers for the last of these words."""
    script = f"""{printed("bash")}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}) COMP_CWORD={len(words) - 1}
_jetp_completion jetp
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "-c", script],
        env={"PATH": f"{JETP.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_commands_options_and_choices() -> None:
    """As many as fit what was begun."""
    assert completed("jetp", "import-") == {"import-cron", "import-timer"}
    assert completed("jetp", "init", "--ki") == {"--kind"}
    assert completed("jetp", "init", "--kind", "s") == {"scripts", "schedule"}


@pytest.mark.parametrize(("shell", "mark"), [("zsh", "#compdef jetp"), ("fish", "complete --no-files --command jetp")])
def test_zsh_and_fish_have_theirs(shell: str, mark: str) -> None:
    """The shell itself reads it without an error, where it is installed."""
    text = printed(shell)
    assert mark in text
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=text, text=True, timeout=60, check=True)
