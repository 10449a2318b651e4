"""The documentation as a site: it builds with every link tried, and its pages ask the network for nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?([^\"' >]+)|<link\b[^>]*\bhref=[\"']?([^\"' >]+)"
)
IMPORTED = re.compile(r"@import|url\(\s*[\"']?(?:https?:)?//")


def has_generator() -> None:
    """Without it the test is skipped, or fails in CI."""
    if importlib.util.find_spec("zensical") is None:
        reason = "zensical is not installed (the extra `docs`): the site is not built"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    has_generator()
    target = tmp_path_factory.mktemp("build")
    done = subprocess.run(
        [sys.executable, ROOT / "docs/site/build.py", target], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target / "site"


def test_every_page_is_on_the_site(site: Path) -> None:
    """Each of docs/, and the index as the first."""
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in ROOT.glob("docs/**/*.md")]
    missing = [page for page in pages if page.name != "README.html" and not (site / page).is_file()]
    assert missing == []
    assert "jetwatch is a pull agent" in (site / "index.html").read_text()


def test_a_page_asks_the_network_for_nothing(site: Path) -> None:
    """Scripts, pictures, styles and fonts are beside it."""
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text()
        for found in FETCHED.finditer(text):
            address = found[1] or found[2]
            assert not re.match(r"(https?:)?//", address), (page, address)
            if page.name != "404.html" and not address.startswith(("#", "data:")):
                assert (page.parent / address.partition("?")[0]).exists(), (page, address)
    for style in site.rglob("*.css"):
        assert not IMPORTED.search(style.read_text()), style


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    """The build ends with 1 and names it."""
    has_generator()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# A page\n\n[nowhere](missing.md)\n")
    (tmp_path / "zensical.toml").write_text('[project]\nsite_name = "x"\n')
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "page does not exist" in done.stdout + done.stderr
