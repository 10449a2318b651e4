"""How this program starts Python: isolated, always.

An isolated interpreter (`-I`) looks for modules where it was installed. It does not look in the current directory, in a
script's directory, in what PYTHON* variables name, or in an account's own site-packages: those may belong to somebody
else. No other module starts Python. What the argv is started with (environment, descriptors) is for the caller to say,
but for `ENVIRONMENT`.
"""

from __future__ import annotations

import sys
from pathlib import Path

ENVIRONMENT = {"PYTHONEXECUTABLE": "", "__PYVENV_LAUNCHER__": ""}
"""What goes with `jetp` into its environment. An isolated interpreter believes these variables all the same, and
imports what is installed beside the program that they name. Empty, they name none."""

_MAIN = str(Path(__file__).absolute().parent / "__main__.py")


def isolated(program: str, *words: str) -> tuple[str, ...]:
    """The argv of a Python program (a file or a directory) that needs nothing but the standard library."""
    return (sys.executable, "-I", "-S", program, *words)


def jetp(*words: str) -> tuple[str, ...]:
    """The argv of `jetp` with these words.

    It is named by its path, so it is this very program, wherever that was installed. By its name an isolated
    interpreter could find another one, or, after `pip install --user`, none.
    """
    return (sys.executable, "-I", _MAIN, *words)
