"""The pages are true where a program can tell: paths exist, links lead somewhere, every command is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jetwatch.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("contrib/**/*.md")]
    if not page.name.startswith(".")
)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
QUOTED = re.compile(r"`([^`\n]+)`")
OURS = ("jetwatch/", "tests/", "docs/", "contrib/", "bench/", "packaging/", ".ci/")


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCED.sub("", page.read_text())


def paths_named(text: str) -> set[str]:
    """What is quoted as code and looks like a path of this repository."""
    found = set()
    for words in QUOTED.findall(text):
        for word in words.split():
            path = word.partition("::")[0].rstrip(",;:")
            if path.startswith(OURS) and "*" not in path:
                found.add(path)
    return found


def anchors(page: Path) -> set[str]:
    """The names under which the headings of a page can be linked to."""
    heads = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def named(page: Path) -> str:
    """A page's name for the report."""
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    """A file that was moved takes the pages that name it with it."""
    missing = sorted(path for path in paths_named(prose(page)) if not (ROOT / path).exists())
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    """Files and headings alike."""
    broken = []
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_the_architecture_page_names_every_room() -> None:
    """A new package has a row in the table of rooms, and a test that looks for paths has found some."""
    text = (ROOT / "docs/explanation/architecture.md").read_text()
    rooms = {f"jetwatch/{path.parent.name}/" for path in (ROOT / "jetwatch").glob("*/__init__.py")}
    assert rooms - paths_named(text) == set()
    assert len(paths_named(text)) > 30
    assert len(paths_named((ROOT / "CONTRIBUTING.md").read_text())) > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_the_contract_says_what_every_command_does(command: str) -> None:
    """A command has a row in the table of commands."""
    text = (ROOT / "docs/reference/contract.md").read_text()
    assert re.search(rf"^\| `jetp {command}\b", text, re.MULTILINE)


def test_the_index_lists_every_page() -> None:
    """Nobody finds a page that is not in the index."""
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / target.partition("#")[0]).resolve() for target in LINK.findall(index.read_text())}
    assert {page for page in ROOT.glob("docs/**/*.md") if page != index} - listed == set()


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/adr/*.md")), ids=named)
def test_a_decision_says_context_decision_and_cost(page: Path) -> None:
    """In this order, in at most 60 lines, under the number of its file."""
    text = page.read_text()
    assert text.startswith(f"# {int(page.name[:4])}. ")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "What it costs"]
    assert len(text.splitlines()) < 60
