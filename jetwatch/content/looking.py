"""One look, in a process of its own, which an agent starts. `asking.py` has what goes in and what comes out.

The process has the rights of the watch's user and a bound on its memory: what a server or a path makes of it ends the
look and nothing else. It loads no command line, as it is started for every look.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from jetwatch.content import asking
from jetwatch.content.fetch import look
from jetwatch.content.memory import bound_memory
from jetwatch.errors import ContentWait, JetwatchError


def main() -> None:
    """Look, write the answer down, and leave as every command does."""
    sys.exit(_run(os.environ))


def _run(environ: Mapping[str, str]) -> int:
    try:
        asked = asking.asked(environ)
        bound_memory(asked.content.limits)
        _tell(environ, asking.answer(look(asked.content, asked.known, asked.deadline_s)))
    except JetwatchError as error:
        if isinstance(error, ContentWait):
            _tell(environ, {"retry_after": str(int(error.after_s))})
        print(f"jetp: {error}", file=sys.stderr)  # noqa: T201 - the agent reads it
        return error.exit_code
    return 0


def _tell(environ: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    with Path(environ["JETWATCH_OUTPUT"]).open("a", encoding="utf-8") as target:
        target.writelines(f"{name}={value}\n" for name, value in outputs.items())
