"""Which checkout is a release, and what is said of two builds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

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
