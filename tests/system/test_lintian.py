"""The deb, read by Debian's own critic."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from conftest import DIST


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_lintian_says_nothing_that_is_not_answered() -> None:
    """An error or a warning wants mending, or an override with its reason; one that is not needed goes."""
    built = next(iter(DIST.glob("*.deb")), None)
    if built is None:
        pytest.skip("there is no package in dist/: make package")
    if shutil.which("lintian") is None:
        pytest.skip("lintian is not installed: apt install lintian")
    words = ["lintian", "--tag-display-limit", "0", "--fail-on", "warning,error", str(built)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    said = [line for line in done.stdout.splitlines() if line.startswith(("E:", "W:")) or "mismatched-override" in line]
    assert (said, done.returncode) == ([], 0)
