"""jetp.pyz on this machine's own Python, as somebody who has nothing else."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from conftest import DIST

PYZ = DIST / "jetp.pyz"
PYTHON = "/usr/bin/python3"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYZ.exists(), reason="there is no dist/jetp.pyz: make package"),
    pytest.mark.skipif(not Path(PYTHON).exists(), reason=f"there is no {PYTHON}"),
]


def jetp(base: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the file with an environment that knows nothing of this checkout."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(base), "JETWATCH_UNPACK_DIR": str(base / "unpacked")}
    return subprocess.run([PYTHON, str(PYZ), *words], env=env, cwd=base, capture_output=True, text=True, check=False)


def test_it_fetches_content_and_applies_it(tmp_path: Path) -> None:
    """The agent, its supervisors and the fetch, which is a Python of its own, all come out of the one file."""
    (tmp_path / "content").mkdir()
    (tmp_path / "content" / "play.sh").write_text(f"echo applied > {tmp_path}/proof\n")
    config = tmp_path / "watch.yml"
    config.write_text(
        f"content: {{url: file://{tmp_path}/content, settle: 0.1}}\njet_command: sh {{{{ download_path }}}}/play.sh\n"
    )
    ran = jetp(tmp_path, "watch", "--watch-config", str(config), "--state-dir", f"{tmp_path}/state", "--once")
    if ran.returncode == 75:  # the first look at content that nobody marked as whole says: later
        ran = jetp(tmp_path, "watch", "--watch-config", str(config), "--state-dir", f"{tmp_path}/state", "--once")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path / "proof").read_text() == "applied\n"


def test_a_second_start_unpacks_nothing(tmp_path: Path) -> None:
    """The directory of a version is made once."""
    assert jetp(tmp_path, "version").returncode == 0
    [unpacked] = (tmp_path / "unpacked").iterdir()
    made_ns = unpacked.stat().st_ctime_ns
    told = json.loads(jetp(tmp_path, "version", "--json").stdout)
    assert told["version"]
    assert [each.stat().st_ctime_ns for each in (tmp_path / "unpacked").iterdir()] == [made_ns]


def test_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    """Or they could put a program of theirs where root starts it."""
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "unpacked").chmod(0o777)
    refused = jetp(tmp_path, "version")
    assert refused.returncode == 1
    assert "others may write here" in refused.stderr
