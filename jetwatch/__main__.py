"""`python -m jetwatch` is `jetp`, and so is an isolated Python with the path of this file (`interpreter.py`)."""

import os
import sys

# An isolated Python looks only where libraries are installed for every account. This program may lie elsewhere.
_home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib comes later
if _home not in sys.path:
    sys.path.append(_home)

from jetwatch.cli.main import main  # noqa: E402 - only now it is sure to be found

main()
