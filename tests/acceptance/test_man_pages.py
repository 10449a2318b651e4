"""The man pages that packaging makes from the program's own help."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from servers import how_to_install

from jetwatch.cli.main import COMMANDS, jetp

PROGRAM = Path(__file__).resolve().parents[2] / "packaging/man_pages.py"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every page by its name."""
    target = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, PROGRAM, target], timeout=60, check=True)
    return {path.stem: path for path in target.iterdir()}


def test_every_command_has_a_page_with_every_option(pages: dict[str, Path]) -> None:
    """And none is left over."""
    assert set(pages) == {"jetp", *(f"jetp-{name}" for name in COMMANDS)}
    for name in COMMANDS:
        text = pages[f"jetp-{name}"].read_text().replace("\\-", "-")
        command = jetp.get_command(click.Context(jetp), name)
        assert command is not None
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or all(option in text for option in parameter.opts), name
        assert "\nExample" in text, name
        assert "\b" not in text


def test_the_page_of_the_program_names_every_command(pages: dict[str, Path]) -> None:
    """With its sentence."""
    text = pages["jetp"].read_text()
    assert all(sentence.replace("-", "\\-") in text for _, sentence in COMMANDS.values())


def test_roff_has_nothing_to_say_against_them(pages: dict[str, Path]) -> None:
    """groff with all its warnings; examples come out as they were written."""
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip(f"whether groff takes the pages was not looked at: {how_to_install('groff')}")
    for path in pages.values():
        done = subprocess.run(
            [groff, "-ww", "-man", "-Tascii", "-P-cbou", path], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stderr == "", path
    assert (
        "jetp import-cron /etc/crontab > watch.yml && jetp check-config watch.yml"
        in subprocess.run(
            [groff, "-man", "-Tascii", "-P-cbou", pages["jetp-import-cron"]], capture_output=True, text=True, check=True
        ).stdout
    )


def test_the_packages_hold_the_pages_and_the_completions(tmp_path: Path) -> None:
    """Where man, bash, zsh and fish look for them."""
    script = "import build, pathlib, sys; build.lay_out_help(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", script, tmp_path], cwd=PROGRAM.parent, timeout=100, check=True)
    share = tmp_path / "usr/share"
    assert len(list((share / "man/man1").iterdir())) == len(COMMANDS) + 1
    assert gzip.decompress((share / "man/man1/jetp-watch.1.gz").read_bytes()).startswith(b".TH JETP")
    completions = (
        "bash-completion/completions/jetp",
        "zsh/vendor-completions/_jetp",
        "fish/vendor_completions.d/jetp.fish",
    )
    assert all("_JETP_COMPLETE" in (share / name).read_text() for name in completions)
