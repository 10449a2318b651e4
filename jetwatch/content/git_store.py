"""The bare repository into which commits are fetched: in the cache of a watch, or for one fetch only.

One at a time uses it (a lock that is never unlinked), so locks and half-written packs of a killed git are swept. It
remembers the newest commit that was written from it, which is all a server needs to know to send only what is new.
Nothing here is believed: `git_tree` checks every object again when it is read.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from jetwatch.content.git_command import Git, NotGiven
from jetwatch.content.git_tree import CacheBroken
from jetwatch.content.source import ContentError

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

# Said by git when what is in the store is not what it should be.
_BROKEN = re.compile(
    r"corrupt|loose object|bad (tree|object|default revision|signature)|packfile|pack file|inflate|missing (blob|tree)"
    r"|all necessary objects|object directory|not a git repository|shallow|index file|invalid object|bad config",
    re.IGNORECASE,
)


class Store(Struct, frozen=True):
    """A bare repository that is ours alone for now. `lasting`: it was there before and outlives the fetch."""

    path: Path
    lasting: bool

    def reset(self, git: Git, commit: str) -> None:
        """Make it anew and empty."""
        shutil.rmtree(self.path, ignore_errors=True)
        object_format = "sha256" if len(commit) == 64 else "sha1"
        git.run("init", "--quiet", "--bare", "--template=", f"--object-format={object_format}", "--", str(self.path))

    def has(self, git: Git, commit: str) -> bool:
        """Whether the commit itself is there."""
        return git.try_run("cat-file", "-e", f"{commit}^{{commit}}", repository=self.path).exit_code == 0

    def fetch(self, git: Git, name: str, depth: int) -> None:
        """Fetch a commit, or what a full ref name stands for, with `depth` commits of history."""
        words = ["--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-gc", "--no-recurse-submodules"]
        try:
            git.run("fetch", *words, f"--depth={depth}", "--", git.url, name, repository=self.path, ask=True)
        except NotGiven:
            raise
        except ContentError as error:
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
        if self.lasting and len(list(self.path.glob("objects/pack/*.pack"))) > 20:
            git.try_run("gc", "--quiet", "--prune=now", repository=self.path)


def _ref_of(module: bytes) -> str:
    return f"refs/jetwatch/{hashlib.sha256(module).hexdigest() if module else 'current'}"


@contextlib.contextmanager
def opened(git: Git, commit: str, cache: Path | None, staging: Path) -> Iterator[Store]:
    """Lend the store of a cache, or one inside `staging` that is gone afterwards."""
    if cache is None:
        place = Path(tempfile.mkdtemp(prefix=".git-store-", dir=staging))
        try:
            store = Store(place, lasting=False)
            store.reset(git, commit)
            yield store
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(cache / "git.lock"):
        store = Store(cache / ("git-sha256" if len(commit) == 64 else "git"), lasting=True)
        if (store.path / "HEAD").is_file():
            _sweep(store.path)
        else:
            store.reset(git, commit)
        yield store


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
