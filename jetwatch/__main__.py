"""`python -m jetwatch` is `jetp`, and so is an isolated Python with the path of this file (`interpreter.py`).

With the one word `look` it is what an agent starts for a look (`content/looking.py`), without any command line.
"""

import os
import sys

# An isolated Python looks only where libraries are installed for every account. This program may lie elsewhere.
_home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib comes later
if _home not in sys.path:
    sys.path.append(_home)

# Only now it is sure to be found.
if sys.argv[1:] == ["look"]:
    from jetwatch.content.looking import main
else:
    from jetwatch.cli.main import main

main()
