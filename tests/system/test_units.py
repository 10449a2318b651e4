"""The units, read by systemd itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "packaging" / "systemd"


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


@pytest.mark.parametrize("unit", ["jetwatch.service", "jetwatch@.service"])
def test_the_exposure_is_the_one_that_the_page_tells(unit: str) -> None:
    """A sandbox that comes or goes has its line in install.md. Other versions of systemd count other things."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    told = re.search(r"rates both ([0-9.]+) of 10 \(systemd (\d+)\)", (ROOT / "docs/how-to/install.md").read_text())
    assert told is not None
    words = ["systemd-analyze", "--no-pager", "security", "--offline=true", str(UNITS / unit)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    here = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True).stdout
    if here.split()[1] != told[2]:
        pytest.skip(f"systemd {here.split()[1]} says {found[1]}; the page tells of systemd {told[2]}")
    assert found[1] == told[1]


def test_a_unit_that_spares_plays_tells_the_agent_so() -> None:
    """KillMode= and JETWATCH_KILL_MODE agree, or the agent would wait for plays that nobody ends."""
    for unit in UNITS.glob("*.service"):
        lines = unit.read_text().splitlines()
        assert "KillMode=process" in lines, unit
        assert "Environment=JETWATCH_KILL_MODE=process" in lines, unit


def test_the_service_of_openrc_is_a_script_that_a_shell_can_read() -> None:
    """And it says what was tried of it, and what not."""
    script = ROOT / "packaging" / "openrc" / "jetwatch.initd"
    done = subprocess.run(["/bin/sh", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "# Not tried: " in script.read_text()
