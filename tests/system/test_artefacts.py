"""Every artefact of dist/ where nothing else is: it says its version, and applies content once."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import DIST
from nspawn import bare_machine, missing_here

ROOT = DIST.parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "jetwatch" / "__init__.py").read_text())[1]  # type: ignore[index]
Done = subprocess.CompletedProcess[str]
Jetp = Callable[..., Done]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def artefact(pattern: str) -> Path:
    """The one file of dist/ that is called so."""
    found = next(iter(DIST.glob(pattern)), None)
    if found is None:
        pytest.skip(f"there is no dist/{pattern}: make package")
    return found


def nothing_but(base: Path, *words: str) -> Done:
    """Run a program with an empty environment, in a directory of its own."""
    return subprocess.run(words, env={}, cwd=base, capture_output=True, text=True, check=False, timeout=120)


def it_works(jetp: Jetp, base: Path, seen: Path | None = None) -> None:
    """`jetp version`, then one cycle: new content is fetched and applied. `seen`: `base` as the program has it."""
    told = jetp("version")
    assert (told.returncode, told.stdout.strip()) == (0, f"jetwatch {VERSION}"), told.stdout + told.stderr
    place = seen or base
    (base / "content").mkdir(parents=True)
    (base / "content" / "play.sh").write_text(f"echo applied > {place}/proof\n")
    (base / "watch.yml").write_text(
        f"content: {{url: file://{place}/content, settle: 0.1}}\njet_command: sh {{{{ download_path }}}}/play.sh\n"
    )
    words = ("--watch-config", f"{place}/watch.yml", "--state-dir", f"{place}/state", "--once", "--no-splay")
    ran = jetp("watch", *words)
    if ran.returncode == 75:  # content that changed just now is not taken for whole
        ran = jetp("watch", *words)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (base / "proof").read_text() == "applied\n"


@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"])
def test_wheel_and_sdist_work_in_a_fresh_environment(pattern: str, tmp_path: Path) -> None:
    """Nothing of this checkout is seen: the environment is empty and Python isolated."""
    made = artefact(pattern)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=120)
    installed = subprocess.run(
        [tmp_path / "venv/bin/python", "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", made],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert installed.returncode == 0, installed.stderr
    it_works(lambda *words: nothing_but(tmp_path, str(tmp_path / "venv/bin/jetp"), *words), tmp_path)


def test_the_one_file_works_with_a_bare_python(tmp_path: Path) -> None:
    """The machine's own, isolated, without any environment; it unpacks itself where root's programs do."""
    made = artefact("jetp.pyz")
    python = Path("/usr/bin/python3")
    if not python.exists():
        pytest.skip("there is no /usr/bin/python3")
    env = {"JETWATCH_UNPACK_DIR": str(tmp_path / "unpacked")}

    def jetp(*words: str) -> Done:
        return subprocess.run(
            [python, "-I", made, *words],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    it_works(jetp, tmp_path)


def test_the_deb_works_on_a_machine_of_its_own(tmp_path: Path) -> None:
    """Installed by dpkg, in a root whose changes are gone afterwards."""
    made = artefact("*.deb")
    if reason := missing_here():
        pytest.skip(reason)
    with bare_machine(tmp_path / "machine") as root:
        shutil.copy2(made, root / "root/now.deb")
        installed = nothing_but(tmp_path, *chrooted(root), "/usr/bin/dpkg", "-i", "/root/now.deb")
        assert installed.returncode == 0, installed.stdout + installed.stderr
        it_works_in(root)


def test_the_rpm_works_unpacked_on_a_machine_of_its_own(tmp_path: Path) -> None:
    """Its files, owners and modes as rpm lays them out; its scripts ask for a machine with rpm as its own packager."""
    made = artefact("*.rpm")
    if reason := missing_here():
        pytest.skip(reason)
    if shutil.which("rpm") is None:
        pytest.skip("rpm is not installed: apt install rpm")
    with bare_machine(tmp_path / "machine") as root:
        words = ("rpm", "--root", str(root), "--force-debian", "--nodeps", "--noscripts", "-i", str(made))
        installed = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
        assert installed.returncode == 0, installed.stderr
        it_works_in(root)


def chrooted(root: Path) -> tuple[str, ...]:
    """Words that run a program in a root, with a PATH as any machine has it and nothing else."""
    return ("/usr/sbin/chroot", str(root), "/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")


def it_works_in(root: Path) -> None:
    """The same in another root."""

    def jetp(*words: str) -> Done:
        return nothing_but(Path("/"), *chrooted(root), "/usr/bin/jetp", *words)

    it_works(jetp, root / "root/trial", Path("/root/trial"))
