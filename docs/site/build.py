"""python docs/site/build.py [TARGET]: the pages as a static site in build/site, with every link tried.

The pages under docs/ link to each other and to files beside docs/ as they lie in the repository, so that they can be
read there. Here they are laid out for the site: docs/README.md becomes the home page, and what is linked to outside of
docs/ comes along below `repository/`. The navigation is what docs/README.md lists, in its order.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SITE = DOCS / "site"
SHIM = "https://unpkg.com/iframe-worker/shim"
"""The one script that the generator has pages fetch from elsewhere; ours is the same, beside them."""
LINK = re.compile(r"(\[[^\]]*\]\()([^)\s]+)(\))")
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
ELSEWHERE = re.compile(r"[a-z]+:|#")


def main() -> None:
    """Lay out the pages and build the site; a link that leads nowhere ends it with 1."""
    build = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build").resolve()
    pages = build / "pages"
    for old in (pages, build / "site"):
        shutil.rmtree(old, ignore_errors=True)
    lay_out(pages)
    config = build / "zensical.toml"
    config.write_text((SITE / "zensical.toml").read_text().replace("# NAV", f"nav = {navigation()}"))
    words = ["zensical", "build", "--strict", "--clean", "--config-file", config]
    done = subprocess.run([sys.executable, "-m", *words], cwd=build, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)
    for page in (build / "site").rglob("*.html"):
        own = os.path.relpath(build / "site/site/iframe-worker.js", page.parent)
        page.write_text(page.read_text().replace(SHIM, own))


def lay_out(pages: Path) -> None:
    """Copy every file of docs/, and whatever their pages link to elsewhere in the repository."""
    waiting = [path for path in DOCS.rglob("*") if path.is_file() and SITE not in path.parents]
    waiting += [SITE / "extra.css", SITE / "iframe-worker.js"]
    done: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        target = pages / place(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            text = path.read_text(encoding="utf-8")
            waiting += linked(path, text)
            target.write_text(moved(path, text), encoding="utf-8")
        else:
            shutil.copyfile(path, target)


def place(path: Path) -> Path:
    """Where a file of the repository stands on the site."""
    if path.name == "README.md":
        path = path.with_name("index.md")
    inside = path.is_relative_to(DOCS)
    return path.relative_to(DOCS) if inside else Path("repository") / path.relative_to(ROOT)


def linked(path: Path, text: str) -> Iterator[Path]:
    """The files of the repository that a page links to."""
    for _, target, _ in LINK.findall("".join(FENCED.split(text)[::2])):
        if not ELSEWHERE.match(target):
            yield named(path, target)


def named(path: Path, target: str) -> Path:
    """The file that a link means; of a directory its README."""
    file = (path.parent / target.partition("#")[0]).resolve()
    return file / "README.md" if file.is_dir() else file


def moved(path: Path, text: str) -> str:
    """The page's text with its links as they are on the site."""

    def relinked(found: re.Match[str]) -> str:
        before, target, after = found.groups()
        if ELSEWHERE.match(target):
            return found[0]
        anchor = "#" + target.partition("#")[2] if "#" in target else ""
        where = os.path.relpath(place(named(path, target)), place(path).parent)
        return f"{before}{where}{anchor}{after}"

    parts = FENCED.split(text)
    parts[::2] = [LINK.sub(relinked, part) for part in parts[::2]]
    return "".join(parts)


def navigation() -> str:
    """The index as the site's tree: a heading, and the pages that are linked to below it (TOML)."""
    index = DOCS / "README.md"
    tree = ['{ "Home" = "index.md" }']
    for section in re.split(r"^## ", index.read_text(), flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        pages = [f'{{ "{name}" = "{place(named(index, target))}" }}' for name, target in entries(text)]
        tree.append(f'{{ "{title}" = [{", ".join(pages)}] }}')
    return f"[{', '.join(tree)}]"


def entries(text: str) -> list[tuple[str, str]]:
    """Of each row of a table the page that it is about, and its name."""
    return re.findall(r"^\| \[([^\]]+)\]\(([^)#\s]+)\)", text, re.MULTILINE)


if __name__ == "__main__":
    main()
