"""watch.yml: settings, or problems with file and line; bounded time and memory. What is settled can be rendered."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fuzz.target import Target, is_a_sentence
from jetwatch import words
from jetwatch.config.load import load
from jetwatch.config.model import Settings
from jetwatch.errors import ConfigError, Problem, WordError
from jetwatch.records import Command

_room = tempfile.TemporaryDirectory(prefix="fuzz-config-")
FILE = Path(_room.name) / "watch.yml"
LONGEST_PROBLEM = 4096
VALUES = {
    **dict.fromkeys(words.HOOK_VARIABLES, "1e999"),
    **{"previous_revision": "", "attempt": 1, "exit_code": None, "outputs": {"a": "-1", "size": "9" * 400}},
}


def one_input(data: bytes) -> None:
    """Settings whose commands can all be rendered or refused, or problems that name their place."""
    FILE.write_bytes(data)
    try:
        settings, warnings = load(FILE, agent_user="root")
    except ConfigError as error:
        said = error.problems
    else:
        _render_everything(settings)
        said = (*warnings, Problem(str(FILE), 1, "", "nothing is wrong"))
    assert said, "a configuration is refused, and nothing is said"
    last = len(data.decode("utf-8", "replace").splitlines()) + 1
    for problem in said:
        assert problem.file == str(FILE), problem
        assert 1 <= problem.line <= last, problem
        assert str(problem).isprintable(), problem
        assert len(str(problem)) < LONGEST_PROBLEM, len(str(problem))


def _render_everything(settings: Settings) -> None:
    for watch in settings.watches.values():
        for command in (watch.check, watch.download, watch.play, *watch.hooks.values()):
            if isinstance(command, Command) and command.words is not None:
                try:
                    words.render(command.words, VALUES)
                except WordError as error:
                    is_a_sentence(error)


TARGET = Target(
    "configurations",
    "a configuration becomes settings whose commands can be rendered, or problems with file and line",
    one_input,
    words=(
        *(
            b"jet_command: ",
            b"check_command: ",
            b"watches:\n",
            b"defaults:\n",
            b"content: ",
            b"schedule: ",
            b"{{ ",
            b" }}",
        ),
        *(b"&a ", b"*a", b"<<: ", b"!!python/object/apply:os.system [x]", b"? ", b"- ", b"|", b">", b"---\n", b"...\n"),
        *(
            b"{{ 9**9**9 }}",
            b"{{ 1e999 }}",
            b"{{ ().__class__ }}",
            b"[" * 2000,
            b"{a: " * 1000,
            b"99999999999999999999d",
        ),
        *(
            b"s3://",
            b"git+https://",
            b"file:///",
            b"http://[::1",
            b"on_fail: ",
            b"windows: ",
            b"env: ",
            b"limits: ",
            b"user: ",
        ),
    ),
    cpu_s=10.0,
    longest_bytes=16384,
)
