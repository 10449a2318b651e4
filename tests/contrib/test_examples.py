"""Every watch.yml that contrib shows is a valid configuration, and names options that its scripts have."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from script_runner import CONTRIB, path_of

JETP = Path(sys.executable).parent / "jetp"
NAMES = sorted(path.name for kind in ("check-scripts", "download-scripts") for path in (CONTRIB / kind).iterdir())


def examples() -> dict[str, str]:
    """All fragments: those of the README, the one in the header of each script, and the demo's."""
    readme = (CONTRIB / "README.md").read_text()
    found = {f"README-{n}": text for n, text in enumerate(re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL), 1)}
    for name in NAMES:
        header = path_of(name).read_text().partition("\nExample\n")[2].partition('"""')[0]
        found[name] = textwrap.dedent(header)
    found["demo"] = (CONTRIB / "demo" / "watch.yml").read_text()
    return found


EXAMPLES = examples()


def test_every_source_has_its_example() -> None:
    """The fragments are found at all."""
    assert set(NAMES) <= set(EXAMPLES)
    shown = "".join(text for name, text in EXAMPLES.items() if name.startswith("README"))
    assert [name for name in NAMES if f"/etc/jetwatch/{name} " not in shown] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_a_valid_configuration(name: str, tmp_path: Path) -> None:
    """`jetp check-config` takes it as it stands, but for the places that are somewhere else here."""
    env_file = tmp_path / "s3.env"
    env_file.touch(mode=0o600)
    config = tmp_path / "watch.yml"
    text = EXAMPLES[name].replace("$work", str(tmp_path))
    config.write_text(re.sub(r"^env_file: .*", f"env_file: {env_file}", text, flags=re.MULTILINE))
    done = subprocess.run([JETP, "check-config", config], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_gives_both_scripts_the_same_options(name: str) -> None:
    """The pair speaks of the same place, and the scripts take the options that are shown."""
    config = yaml.safe_load(EXAMPLES[name])
    keys = ("check_command", "download_command", "on_start")
    shown = {key: shlex.split(config[key].replace("{{ download_path }}", "DIR")) for key in keys if key in config}
    check, download = shown["check_command"], shown.get("download_command", [])
    for words in shown.values():
        usage = subprocess.run([path_of(Path(words[0]).name), "--help"], capture_output=True, text=True, check=True)
        assert all(f"\n  {word}" in usage.stdout for word in words if word.startswith("--"))
    if "check-file" not in check[0]:  # it is given a file, and its partner the directory that the file is in
        assert {words[1] for words in shown.values()} == {check[1]}
    if download:
        assert "DIR" in download
    if "--marker" in check:
        assert check[check.index("--marker") :] == download[download.index("--marker") :]
    if "on_start" in shown:
        assert check[1:] == shown["on_start"][1:]
