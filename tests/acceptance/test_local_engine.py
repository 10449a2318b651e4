"""`jetp local` through the installed command: a real ansible-playbook, and a native program in Jet's place."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

JETP = Path(sys.executable).parent / "jetp"
PLAYBOOK = """\
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.copy:
        dest: "{{ target }}"
        content: "{{ ansible_python_interpreter }}\\n"
        mode: "0644"
"""


def jetp_local(*words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `jetp local` with PATH as small as it can be."""
    env = {"PATH": "/usr/bin:/bin", "HOME": "/", **environ}
    return subprocess.run(
        [JETP, "local", *words], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.fixture
def playbook(tmp_path: Path) -> Path:
    """A playbook that writes one file."""
    path = tmp_path / "pb.yml"
    path.write_text(PLAYBOOK)
    return path


@pytest.fixture
def native_jet(tmp_path: Path) -> Path:
    """A native program in Jet's place: /bin/sh, which takes its first word, `local`, for a script in the directory."""
    directory = tmp_path / "jet"
    directory.mkdir()
    shutil.copy(Path("/bin/sh").resolve(), directory / "jetp")
    return directory


@pytest.mark.slow
def test_ansible_applies_the_playbook_with_its_own_python(playbook: Path, tmp_path: Path) -> None:
    """Nothing but --playbook is needed; further options reach the engine; nothing is coloured without a terminal."""
    home = tmp_path / "home"
    home.mkdir()
    target = tmp_path / "written"
    done = jetp_local("--playbook", playbook, "-e", f"target={target}", "--diff", HOME=str(home))
    assert (done.returncode, done.stderr) == (0, "")
    assert "changed=1" in done.stdout
    assert "\x1b" not in done.stdout
    assert Path(target.read_text().strip()).samefile(sys.executable)


@pytest.mark.slow
def test_ansible_works_without_a_home_directory(playbook: Path, tmp_path: Path) -> None:
    """In a run, the run's directory takes its place."""
    run = tmp_path / "run"
    run.mkdir()
    target = tmp_path / "written"
    environ = {"HOME": os.devnull, "JETWATCH_DOWNLOAD_PATH": str(run)}
    done = jetp_local("--playbook", playbook, "-e", f"target={target}", **environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert target.exists()


@pytest.mark.slow
def test_the_exit_code_is_the_engines_own(playbook: Path) -> None:
    """A task that fails is Ansible's 2: here `target` is not defined."""
    done = jetp_local("--playbook", playbook)
    assert done.returncode == 2
    assert "failed=1" in done.stdout


def test_jets_own_binary_gets_jets_command_line(playbook: Path, native_jet: Path) -> None:
    """A native `jetp` on PATH comes before Ansible, and before ourselves although we have its name."""
    (native_jet / "local").write_text('echo "$0 $*"\nexit 7\n')
    done = subprocess.run(
        [JETP, "local", "--playbook", playbook, "--roles", "roles", "-v"],
        env={"PATH": f"{JETP.parent}:{native_jet}:/usr/bin:/bin"},
        cwd=native_jet,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout == f"local --playbook {playbook} --roles roles -v\n"


def test_a_signal_reaches_the_engine_itself(playbook: Path, native_jet: Path) -> None:
    """The engine takes our place: the same pid, and no process between it and whoever started us."""
    (native_jet / "local").write_text("echo $$\nexec sleep 60\n")
    with subprocess.Popen(
        [JETP, "local", "--playbook", playbook],
        env={"PATH": f"{native_jet}:/usr/bin:/bin"},
        cwd=native_jet,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{process.pid}\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM


def test_a_missing_playbook_is_exit_2(tmp_path: Path) -> None:
    """The sentence names it, in one line."""
    done = jetp_local("--playbook", tmp_path / "nope.yml")
    assert done.returncode == 2
    assert f"{tmp_path}/nope.yml: there is no such playbook" in done.stderr
    assert "Traceback" not in done.stderr
