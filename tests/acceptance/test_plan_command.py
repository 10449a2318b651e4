"""`jetp plan`: what a fleet asks of its servers, without asking any of them."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

from agent_process import JETP

SEED = """\
check_command: /var/jetp/check.sh
jet_command: jetp local --playbook /srv/pb.yml
check_interval: 200
splay: 100
"""


def plan(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """One `jetp plan`."""
    return subprocess.run([JETP, "plan", path, *words], capture_output=True, text=True, check=False)


def write(path: Path, text: str) -> Path:
    """A watch.yml."""
    path.write_text(text)
    return path


def test_the_seed_on_a_large_fleet_is_uneven_and_a_stable_phase_mends_it(tmp_path: Path) -> None:
    """The splay of half an interval gives 2.2; what the warning advises gives 1.2 at most."""
    path = write(tmp_path / "watch.yml", SEED)
    answer = plan(path, "--machines", "100000", "--json")
    document = json.loads(answer.stdout)
    assert answer.returncode == 0
    assert 2.0 < document["peak_over_mean"] < 2.4
    assert document["phase_stable"]["peak_over_mean"] <= 1.2
    assert document["requests_per_s"]["mean"] == 500
    assert document["per_month"]["fleet"]["checks"] == 100_000 * 12_960
    assert "`phase: stable`" in answer.stderr
    even = json.loads(
        plan(write(path, SEED.replace("splay: 100", "phase: stable")), "--machines", "100000", "--json").stdout
    )
    assert even["peak_over_mean"] <= 1.2
    assert even["warnings"] == []


def test_it_draws_on_eighty_columns_and_into_a_file(tmp_path: Path) -> None:
    """For people in a terminal, and for a page."""
    path = write(tmp_path / "watch.yml", SEED.replace("check_command: /var/jetp/check.sh", "content: s3://b/site/"))
    answer = plan(path, "--machines", "1000", "--svg", str(tmp_path / "load.svg"), "--change-size", "1GiB")
    assert answer.returncode == 0
    assert max(map(len, answer.stdout.splitlines())) <= 100
    assert "█" in answer.stdout
    assert "LISTs" in answer.stdout
    assert "1000 GiB in that time" in answer.stdout
    assert ET.parse(tmp_path / "load.svg").getroot().tag.endswith("svg")


def test_a_schedule_without_splay_is_said(tmp_path: Path) -> None:
    """A whole fleet in one second."""
    text = 'schedule: "0 3 * * *"\ncontent: https://host/site.tar.zst\njet_command: /bin/true\n'
    answer = plan(write(tmp_path / "night.yml", text), "--machines", "100", "--json")
    assert any("same second" in warning for warning in json.loads(answer.stdout)["warnings"])


def test_windows_without_splay_are_said(tmp_path: Path) -> None:
    """Every run that waited starts in the second in which the window opens."""
    windows = 'phase: stable\nwindows: [{from: "22:00", to: "04:00"}]\n'
    text = "content: https://host/site.tar.zst\njet_command: /bin/true\n" + windows
    (warning,) = json.loads(plan(write(tmp_path / "w.yml", text), "--machines", "100", "--json").stdout)["warnings"]
    assert "`windows` without `splay`" in warning
    spread = plan(write(tmp_path / "s.yml", text + "splay: 200\n"), "--machines", "100", "--json")
    assert json.loads(spread.stdout)["warnings"] == []


def test_what_it_cannot_plan_is_said(tmp_path: Path) -> None:
    """A broken configuration, no number of machines, no size, no place for the picture."""
    bad = write(tmp_path / "bad.yml", "check_interval: 200\n")
    assert plan(bad, "--machines", "10").returncode == 78
    path = write(tmp_path / "watch.yml", SEED)
    assert plan(path).returncode == 2
    assert plan(path, "--machines", "0").returncode == 2
    assert "bytes or a size" in plan(path, "--machines", "1", "--change-size", "big").stderr
    missing = plan(path, "--machines", "1", "--svg", str(tmp_path / "no" / "load.svg"))
    assert missing.returncode == 2
    assert "load.svg" in missing.stderr
