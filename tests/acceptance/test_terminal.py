"""What others wrote, on a terminal: no revision, output, name or error moves the cursor, sets a title or hides text."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from agent_process import JETP, Site

ESCAPES = r"\033]0;owned\007\033[2J\302\2332J\342\200\256\342\200\250\302\205"
"""For printf: a title, a screen erased in two ways, a bidi mark, two ends of line that are none."""

OF_RICH = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[lh]|[0-9]*[AK])")
NAME = "x\x1b]0;owned\x07\x9b2J\u202e"


def on_terminal(words: list[str | Path], site: Site) -> str:
    """Everything that a terminal gets of `jetp WORDS`: both streams."""
    ours, theirs = pty.openpty()
    environ = site.environ | {"TERM": "xterm"}
    outputs = {"stdin": subprocess.DEVNULL, "stdout": theirs, "stderr": theirs}
    with subprocess.Popen([JETP, *words], **outputs, env=environ, cwd=site.root):
        os.close(theirs)
        got = b""
        with contextlib.suppress(OSError):  # how a terminal says that nobody has it any more
            while part := os.read(ours, 65536):
                got += part
    os.close(ours)
    return got.decode("utf-8", "replace")


def unseen(text: str) -> set[str]:
    """What a terminal would obey, or could not show."""
    return {char for char in OF_RICH.sub("", text) if not char.isprintable() and char not in "\r\n\t"}


def test_no_command_lets_a_terminal_obey_what_others_wrote(site: Site) -> None:
    """A check's revision and outputs, a play's output, and a reason, shown by every command that shows them."""
    site.configure(
        {
            "name": "w",
            "check_command": site.shell(f"printf 'revision={ESCAPES}evil\\nk=\\033[31m\\n' >> $JETWATCH_OUTPUT"),
            "jet_command": site.shell(f"printf 'out {ESCAPES} \\r overwritten\\n'; exit 3"),
            "retry": {"max_attempts": 1, "initial": 1},
        }
    )
    agent = site.start(None, "--no-splay")
    agent.wait_for("run_finished")
    for words in (["suspend", "--reason", NAME], ["resume"], ["trigger"], ["trigger", "--wait", "--force"], ["clear"]):
        assert unseen(on_terminal([*words, "--state-dir", site.state], site)) == set(), words
    shown = []
    for command in ("status", "runs", "show", "logs", "why"):
        for form in ([], ["--json"]):
            text = on_terminal([command, *form, "--state-dir", site.state], site)
            assert unseen(text) == set(), (command, form)
            shown.append(text)
    assert any("u202e" in text for text in shown), "nothing hostile was shown at all"
    assert agent.stop() == 0


@pytest.mark.parametrize(
    "words",
    [
        ["check-config", NAME],
        ["check-config", "--online", "watch.yml"],
        ["check-config", "watch.yml"],
        ["check-config", "--json", "watch.yml"],
        ["doctor", "--watch-config", "watch.yml"],
        ["doctor", "--watch-config", NAME],
        ["plan", "watch.yml", "--machines", "2"],
        ["plan", NAME, "--machines", "2"],
        ["fetch", f"file:///nowhere/{NAME}", "there"],
        ["fetch", f"file:///nowhere/{NAME}", NAME],
        ["import-cron", NAME],
        ["import-cron", "--user", "root", "crontab"],
        ["import-timer", NAME],
        ["init", "--kind", "schedule", "--run", "x", NAME],
        ["show", NAME],
        ["status", "--state-dir", NAME],
        ["watch", "--watch-config", NAME],
        ["watch", "--watch-config", "watch.yml", "--state-dir", NAME + "/x", "--once"],
        [NAME],
        [f"--{NAME}"],
    ],
    ids=lambda words: " ".join(words).encode("unicode_escape").decode(),
)
def test_no_word_name_or_error_reaches_a_terminal_as_it_is(site: Site, words: list[str]) -> None:
    """Files with such names, words of a command line, and values of a configuration."""
    site.config.write_text(
        'name: w\ncontent: {url: "file:///nowhere/x\\e]0;owned\\a\\u009b2J\\u202e"}\n'
        'jet_command: ["echo", "\\e[2J\\u202e\\u2028"]\n'
    )
    (site.root / "crontab").write_text(f"MAILTO={NAME}\n@reboot {NAME}\n@daily {NAME}\n")
    text = on_terminal(words, site)
    assert text
    assert unseen(text) == set()
