"""What the tests of the documentation share with the others: real servers."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # tests/ is no package

from servers import seaweedfs_server  # noqa: E402

__all__ = ["seaweedfs_server"]
