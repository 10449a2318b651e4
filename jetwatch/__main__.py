"""`python -m jetwatch` is `jetp`, and so is an isolated Python with the path of this file (`interpreter.py`).

An agent's own `fetch --look` is taken past the command line, as it is started for every look (`content/looking.py`).
"""

import os
import sys

# An isolated Python looks only where libraries are installed for every account. This program may lie elsewhere.
_home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib comes later
if _home not in sys.path:
    sys.path.append(_home)

# Only now it is sure to be found.
if sys.argv[1:3] == ["fetch", "--look"] and "JETWATCH_LOOK" in os.environ:
    from jetwatch.content.looking import main
else:
    from jetwatch.cli.main import main

main()
