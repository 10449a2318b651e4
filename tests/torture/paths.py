"""Lets these programs find the helpers of the acceptance tests: tests/ is no package."""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parent.parent

for _folder in (_TESTS, _TESTS / "acceptance", _TESTS / "torture"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))
