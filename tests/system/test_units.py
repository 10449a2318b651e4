"""The units, read by systemd itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parent.parent.parent / "packaging" / "systemd"


@pytest.mark.parametrize(("unit", "instance"), [("jetwatch.service", ""), ("jetwatch@.service", "web")])
def test_systemd_finds_nothing_wrong_with_a_unit(unit: str, instance: str, tmp_path: Path) -> None:
    """No unknown key and no bad value. The program is another one here, since it must be there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = (UNITS / unit).read_text()
    assert "ExecStart=/usr/bin/jetp " in text
    copy = tmp_path / unit.replace("@", f"@{instance}")
    copy.write_text(text.replace("/usr/bin/jetp", "/bin/true"))
    words = ["systemd-analyze", "verify", "--recursive-errors=no", str(copy)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_unit_that_spares_plays_tells_the_agent_so() -> None:
    """KillMode= and JETWATCH_KILL_MODE agree, or the agent would wait for plays that nobody ends."""
    for unit in UNITS.glob("*.service"):
        lines = unit.read_text().splitlines()
        assert "KillMode=process" in lines, unit
        assert "Environment=JETWATCH_KILL_MODE=process" in lines, unit
