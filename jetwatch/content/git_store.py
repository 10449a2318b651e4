"""The bare repository into which commits are fetched: in the cache of a watch, or for one fetch only.

One at a time uses it (a lock that is never unlinked), so locks and half-written packs of a killed git are swept. It
remembers the newest commit that was written from it, which is all a server needs to know to send only what is new.
Nothing here is believed: `git_tree` checks every object again when it is read, git's configuration is written anew
each time, and a repository that holds anything that a fetch does not make is thrown away.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from jetwatch import trees
from jetwatch.content.cache import make_private
from jetwatch.content.git_command import Git, NotGiven
from jetwatch.content.git_tree import CacheBroken
from jetwatch.content.places import enter
from jetwatch.content.source import ContentError

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

MOST_PACKS = 20
"""Each fetch brings one."""

# Said by git when what is in the store is not what it should be.
_BROKEN = re.compile(
    r"corrupt|loose object|bad (tree|object|default revision|signature)|packfile|pack file|inflate|missing (blob|tree)"
    r"|all necessary objects|object directory|not a git repository|shallow|index file|invalid object|bad config",
    re.IGNORECASE,
)

# Two lines that git needs, and nothing that could name a program, another repository or another way to a server.
_CONFIG = {
    "sha1": "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
    "sha256": "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectformat = sha256\n",
}

# What git makes there. `objects/info/alternates`, `info/grafts`, `commondir`, `hooks` and whatever comes are no part.
_DIRECTORIES = {
    "": {"objects", "refs", "info"},
    "info": set[str](),
    "objects": {"info", "pack", *(f"{first:02x}" for first in range(256))},
    "objects/info": {"commit-graphs"},
}
_FILES = {
    "": {"HEAD", "config", "packed-refs", "shallow", "gc.log", "gc.pid"},
    "info": {"refs"},
    "objects": set[str](),
    "objects/info": {"packs", "commit-graph"},
}


class Store(Struct, frozen=True):
    """A bare repository that is ours alone for now. `lasting`: it was there before and outlives the fetch."""

    path: Path
    lasting: bool

    def reset(self, git: Git, commit: str) -> None:
        """Make it anew and empty."""
        self.remove()
        object_format = _format_of(commit)
        git.run("init", "--quiet", "--bare", "--template=", f"--object-format={object_format}", "--", str(self.path))
        self.configure(commit)

    def remove(self) -> None:
        """Take it away, or whatever stands in its place; no link is followed."""
        if self.path.is_dir() and not self.path.is_symlink():
            with contextlib.suppress(OSError):
                trees.remove(self.path)
        else:
            self.path.unlink(missing_ok=True)

    def configure(self, commit: str) -> None:
        """Write git's configuration of it anew."""
        new = self.path / "config.new"
        new.unlink(missing_ok=True)
        new.write_text(_CONFIG[_format_of(commit)])
        new.replace(self.path / "config")

    def has(self, git: Git, commit: str) -> bool:
        """Whether the commit itself is there."""
        return git.try_run("cat-file", "-e", f"{commit}^{{commit}}", repository=self.path).exit_code == 0

    def fetch(self, git: Git, name: str, depth: int) -> None:
        """Fetch a commit, or what a full ref name stands for, with `depth` commits of history."""
        words = ["--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-gc", "--no-recurse-submodules"]
        try:
            git.run("fetch", *words, f"--depth={depth}", "--", git.url, name, repository=self.path, ask=True)
            git.meanwhile()  # it may have been too quick to be asked
        except NotGiven:
            raise
        except ContentError as error:
            git.meanwhile()  # git does not always say that it met the bound of a file
            if self.lasting and _BROKEN.search(str(error).replace(git.url, "")):
                raise CacheBroken(str(error)) from error
            raise

    def current(self, git: Git, module: bytes = b"") -> str:
        """The commit that was written last, or nothing. Each submodule has its own."""
        ended = git.try_run("rev-parse", "--verify", "--quiet", _ref_of(module), repository=self.path)
        return ended.out.decode().strip() if ended.exit_code == 0 else ""

    def remember(self, git: Git, commit: str, module: bytes = b"") -> None:
        """Keep this commit for the next fetch."""
        if self.lasting:
            git.run("update-ref", _ref_of(module), commit, repository=self.path)

    def tidy(self, git: Git) -> None:
        """Now and then, drop what no remembered commit needs. That it fails is no reason to fail a fetch."""
        if not self.lasting or len(list(self.path.glob("objects/pack/*.pack"))) <= MOST_PACKS:
            return
        try:
            is_tidy = git.try_run("gc", "--quiet", "--prune=now", repository=self.path).exit_code == 0
        except ContentError:
            is_tidy = False
        if not is_tidy:
            self.remove()  # else it would grow for ever


def _format_of(commit: str) -> str:
    return "sha256" if len(commit) == 64 else "sha1"


def _ref_of(module: bytes) -> str:
    return f"refs/jetwatch/{hashlib.sha256(module).hexdigest() if module else 'current'}"


@contextlib.contextmanager
def opened(git: Git, commit: str, cache: Path | None, staging: Path) -> Iterator[Store]:
    """Lend the store of a cache, or one for this fetch that is gone afterwards."""
    if cache is None:
        place = _for_one_fetch(staging)
        try:
            store = Store(place, lasting=False)
            store.reset(git, commit)
            yield store
        finally:
            with contextlib.suppress(OSError):
                trees.remove(place)
        return
    make_private(cache)
    with _locked(cache / "git.lock"):
        store = Store(cache / ("git-sha256" if len(commit) == 64 else "git"), lasting=True)
        if _is_a_store(store.path):
            _sweep(store.path)
            store.configure(commit)
        else:
            store.reset(git, commit)
        yield store


def _for_one_fetch(staging: Path) -> Path:
    """A directory inside `staging`, or among temporary files where others have a hand in that: git goes by paths."""
    with enter(staging) as place:
        inside = staging.resolve() if place.ours else None
    return Path(tempfile.mkdtemp(prefix=".git-store-", dir=inside))


def _is_a_store(path: Path) -> bool:
    """Whether it is a repository of ours, with nothing in it that no fetch makes."""
    if not stat.S_ISDIR(_mode(path)) or not (path / "HEAD").exists():
        return False
    for below, directories in _DIRECTORIES.items():
        if not (path / below).exists():
            continue
        for entry in (path / below).iterdir():
            mode = _mode(entry)
            known = stat.S_ISDIR(mode) and entry.name in directories
            known |= stat.S_ISREG(mode) and (entry.name in _FILES[below] or _is_torn(entry.name))
            if not known:
                return False
    return True


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return 0


def _is_torn(name: str) -> bool:
    """Whether a killed git, or a killed fetch, left a file of this name."""
    return name.endswith((".lock", ".new")) or name.startswith(("shallow_", "tmp_"))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file for the while."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sweep(store: Path) -> None:
    """Take away what a killed git left. Nobody else is in here: we hold the lock."""
    for pattern in ("*.lock", "refs/**/*.lock", "objects/pack/tmp_*", "objects/pack/*.lock", "shallow_*"):
        for left in store.glob(pattern):
            left.unlink(missing_ok=True)
