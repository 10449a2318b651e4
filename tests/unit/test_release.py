"""Which checkout is a release, and what is said of two builds."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from servers import program

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def release() -> ModuleType:
    """packaging/release.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("release", ROOT / "packaging" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("tags", "changes", "untagged", "said"),
    [
        (["v1.2.0"], [], False, ""),
        (["nightly", "v1.2.0"], [], False, ""),
        ([], [], True, ""),
        (["nightly"], [], True, ""),
        ([], [], False, "no tag v1.2.0"),
        (["v1.3.0"], [], False, "the tag here says v1.3.0, and jetwatch/__init__.py says 1.2.0"),
        (["v1.3.0"], [], True, "the tag here says v1.3.0"),
        (["v1.2.0"], [" M README.md", "?? x"], False, "2 files are changed or not in git (README.md, x)"),
        ([], [" M README.md"], True, "commit or remove them first"),
    ],
)
def test_only_a_clean_commit_with_its_own_tag_is_released(
    release: ModuleType, tags: list[str], changes: list[str], untagged: bool, said: str
) -> None:
    """A rehearsal does without the tag, and with nothing else."""
    refusal = release.why_not("1.2.0", tags, changes, untagged=untagged)
    assert said in refusal
    assert bool(refusal) == bool(said)


def test_two_builds_are_compared_by_name_and_digest(release: ModuleType, tmp_path: Path) -> None:
    """What only one of them has differs, too."""
    (tmp_path / "a").write_text("x")
    one = release.digests(tmp_path)
    assert release.comparison(one, one) == f"same twice  {one['a']}  a"
    assert release.comparison(one, {"a": "00", "b": "11"}).splitlines() == [
        f"DIFFERS     {one['a']} 00  a",
        "DIFFERS     missing 11  b",
    ]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key of a maker, and the file that says whom to believe."""
    made = tmp_path_factory.mktemp("keys") / "key"
    subprocess.run([program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", made], check=True)
    public = made.with_suffix(".pub").read_text()
    made.with_name("allowed_signers").write_text(f'jetwatch-release namespaces="jetwatch-release" {public}')
    return made


def verified(folder: Path, signers: Path) -> subprocess.CompletedProcess[str]:
    """The line of the page, as a reader would run it beside the release."""
    page = (ROOT / "docs/how-to/install.md").read_text()
    (line,) = re.findall(r"^ssh-keygen -Y verify .*$", page, re.MULTILINE)
    line = line.replace("-f allowed_signers", f"-f {shlex.quote(str(signers))}")
    return subprocess.run(["/bin/sh", "-c", line], cwd=folder, capture_output=True, text=True, check=False)


def test_what_is_signed_is_believed_and_nothing_else(release: ModuleType, key: Path, tmp_path: Path) -> None:
    """Another artefact, other digests, another key, and a signature for another purpose are refused."""
    (tmp_path / "jetp.pyz").write_text("x")
    sums, signers = tmp_path / "SHA256SUMS", key.with_name("allowed_signers")
    sums.write_text("".join(f"{digest}  {name}\n" for name, digest in release.digests(tmp_path).items()))
    release.sign(sums, key)
    assert verified(tmp_path, signers).returncode == 0
    (tmp_path / "jetp.pyz").write_text("y")
    assert verified(tmp_path, signers).returncode != 0
    sums.write_text(
        "".join(f"{digest}  {name}\n" for name, digest in release.digests(tmp_path).items() if "pyz" in name)
    )
    assert verified(tmp_path, signers).returncode != 0
    release.sign(sums, key)
    assert verified(tmp_path, signers).returncode == 0
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    release.sign(sums, other)
    assert verified(tmp_path, signers).returncode != 0
    (tmp_path / "SHA256SUMS.sig").unlink()
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", "file", sums], check=True)
    assert verified(tmp_path, signers).returncode != 0


def test_a_release_without_a_signature_is_none(release: ModuleType, tmp_path: Path) -> None:
    """A rehearsal may do without; a key that is not there is said before anything is built."""
    assert "KEY=" in release.why_not_signed(None, untagged=False)
    assert release.why_not_signed(None, untagged=True) == ""
    assert "no such key" in release.why_not_signed(tmp_path / "none", untagged=True)
