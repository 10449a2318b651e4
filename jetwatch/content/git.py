"""Content from a git repository: the revision is a commit, and its tree is the content.

`git+https://`, `git+ssh://` and `git+file://` (and `git+http://` without credentials). A look is one ls-remote. A fetch
takes exactly the commit that it is told, alone, and writes the bytes of its files by itself: no hook, no filter, no
attribute and no configuration has a part in it, and `.git` is never there. Submodules are refused unless asked for.

With `allowed_signers` a commit counts only if one of those ssh keys signed it, and only if it descends from `applied`:
somebody who can write to the server can neither make a revision nor bring back an old one. `descends_from` binds the
repository, `signed_tag` the name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from jetwatch import trees
from jetwatch.content import git_modules, git_verify
from jetwatch.content.git_command import Git, NotGiven, git_for, require_version
from jetwatch.content.git_growth import Growth
from jetwatch.content.git_store import COMMIT, Store, opened
from jetwatch.content.git_tree import (
    MODULE,
    CacheBroken,
    Entry,
    Objects,
    entries_of,
    head_of,
    names,
    subtree,
    walk,
    write,
)
from jetwatch.content.source import (
    Content,
    ContentError,
    ContentMoved,
    ContentRetry,
    ContentStalled,
    Fetched,
    Look,
    Progress,
)
from jetwatch.content.staging import Staging, parts_of, path_error

MODULES_DEEP = 8
"""Submodules of submodules: deeper is a loop or a mistake."""

_NO_NAME = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^[-/.]|[/.]$|/\.|\.lock(/|$)")


class GitSource:
    """A branch, tag or commit of a git repository, or a directory of it.

    `applied` is the revision that the machine has (empty: none is known). It counts only with `allowed_signers`.
    `env` is the environment that git inherits from (None: this process's own). `meanwhile` is called now and then while
    a look waits; what it raises ends git.
    """

    def __init__(
        self,
        content: Content,
        applied: str = "",
        *,
        env: Mapping[str, str] | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        self._content = content
        self._applied = applied
        self._env = env
        self._meanwhile = meanwhile
        self._ref = content.ref or "HEAD"
        if content.signed_tag:
            self._ref = f"refs/tags/{self._ref.removeprefix('refs/tags/')}"

    def look(self, known: Look | None, deadline_s: float) -> Look:  # noqa: ARG002 - an ls-remote costs the same
        """Which commit is there now: one ls-remote, and none at all for a full commit id."""
        if COMMIT.fullmatch(self._ref):
            return Look(self._ref)
        git = replace(git_for(self._content, self._env), meanwhile=self._meanwhile)
        require_version(git)
        revision, _ = remote_revision(git, self._ref, deadline_s)
        return Look(revision, requests=_requests(git))

    def fetch(self, revision: str, staging: Path, cache: Path | None, progress: Progress) -> Fetched:
        """Put the files of one commit into `staging`; what the cache has does not travel again."""
        if not COMMIT.fullmatch(revision):
            raise ContentStalled(f"expected a full commit id as revision, found {revision!r}")
        git = git_for(self._content, self._env)
        require_version(git)
        try:
            with opened(git, revision, cache, staging) as store:
                return self._fetch_bounded(git, store, revision, staging, progress)
        except OSError as error:
            raise path_error(error, str(error.filename or staging)) from error

    def _fetch_bounded(self, git: Git, store: Store, revision: str, staging: Path, progress: Progress) -> Fetched:
        """What is refused after it came has no place in a cache."""
        told = _Told(progress, Growth(store.path, git.url, self._content.limits))
        try:
            return self._fetch_twice(replace(git, meanwhile=told.again), store, revision, staging, told)
        except ContentStalled:
            if store.lasting and told.growth.bytes():
                store.remove()
            raise

    def _fetch_twice(self, git: Git, store: Store, revision: str, staging: Path, told: _Told) -> Fetched:
        """A cache that is broken is made anew, once."""
        try:
            return self._fetch_once(git, store, revision, staging, told)
        except CacheBroken as broken:
            if not store.lasting:
                raise ContentRetry(f"{git.url}: {broken}") from broken
        _clear(staging)
        store.reset(git, revision)
        told.growth.begin()
        try:
            return self._fetch_once(git, store, revision, staging, told)
        except CacheBroken as broken:
            raise ContentRetry(f"{git.url}: {broken}") from broken

    def _fetch_once(self, git: Git, store: Store, revision: str, directory: Path, progress: Progress) -> Fetched:
        """Fetch, verify, write; remember the commit for the next time."""
        with Staging(directory, self._content.limits) as staging:
            fetch = _Fetch(self._content, self._ref, store, staging, progress)
            known = fetch.known_blobs(git, b"")
            if not store.has(git, revision):
                fetch.obtain(git, revision)
            self._verify(git, store, revision, lambda depth: fetch.obtain(git, revision, depth))
            fetch.write(_Tree(git, revision, self._content.subdir, known))
            staging.finish()
            store.tidy(git)
            return Fetched(revision, staging.files, staging.total_bytes, fetch.reused_bytes, fetch.requests)

    def _verify(self, git: Git, store: Store, revision: str, deepen: Callable[[int], None]) -> None:
        """What `verify` asks for: who signed, of which repository, not older than what is applied."""
        content = self._content
        if content.allowed_signers is None:
            return
        if content.signed_tag:
            git_verify.tag(git, store, revision, self._ref, content.allowed_signers)
        else:
            git_verify.signature(git, store, revision, content.allowed_signers)
        if content.descends_from is not None:
            git_verify.origin(git, store, revision, content.descends_from, deepen)
        git_verify.descent(git, store, revision, self._applied, deepen)


class _Told:
    """Passes progress on, and again while git is at work: so whoever has a deadline can end git by it.

    What git brings meanwhile is measured each time.
    """

    def __init__(self, progress: Progress, growth: Growth) -> None:
        self.growth = growth
        self._progress = progress
        self._last: tuple[int, int | None] = (0, None)

    def __call__(self, done: int, total: int | None) -> None:
        """Tell what is new."""
        self._last = (done, total)
        self._progress(done, total)

    def again(self) -> None:
        """Tell the same once more."""
        self._progress(*self._last)
        self.growth.check()


def remote_revision(git: Git, ref: str, deadline_s: float | None) -> tuple[str, str]:
    """Return the commit that `ref` names in the repository now, and the full name of the ref."""
    if _NO_NAME.search(ref):
        raise ContentStalled(f"{ref!r} cannot be the name of a branch or tag")
    full = [ref] if ref == "HEAD" or ref.startswith("refs/") else [f"refs/heads/{ref}", f"refs/tags/{ref}"]
    asked = [pattern for name in full for pattern in (name, name + "^{}")]
    # With these a server need not list what is neither: pull requests can be many times as many.
    kinds = [] if ref == "HEAD" or ref.startswith("refs/") else ["--heads", "--tags"]
    try:
        answer = git.run("ls-remote", *kinds, "--", git.url, *asked, deadline_s=deadline_s, ask=True)
    except ContentError as error:
        raise type(error)(f"ref {ref!r}: {error}") from error
    # ls-remote also lists names that only end like the ones asked for.
    lines = (line.partition("\t") for line in answer.decode(errors="replace").split("\n"))
    found = {name: commit for commit, _, name in lines if name in asked and COMMIT.fullmatch(commit)}
    present = [name for name in full if name in found]
    if not present:
        raise ContentStalled(f"{git.url} has no branch or tag {ref!r}")
    if len(present) > 1:
        raise ContentStalled(f"{git.url} has {ref!r} as branch and as tag: write {' or '.join(full)}")
    return found.get(present[0] + "^{}", found[present[0]]), present[0]


def _requests(git: Git, *, by_name: bool = False) -> int:
    """What a question, or a fetch, costs: by http the server is asked which protocol it speaks, and then for it.

    `by_name`: a fetch of what a ref names, which is asked for first. By ssh and file all of it is one connection.
    """
    return (3 if by_name else 2) if git.scheme in {"http", "https"} else 1


def _clear(directory: Path) -> None:
    """Take away what a fetch wrote before it met a broken cache."""
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            trees.remove(entry)
        else:
            entry.unlink()


class _Tree(Struct, frozen=True):
    """What is to be written: a commit of a repository, or a directory of it.

    `known` are the files that were there before. Of a submodule, `above` is its path below the content, ending with a
    slash, and `deep` how many submodules it is inside of.
    """

    git: Git
    revision: str
    subdir: str
    known: frozenset[str]
    above: bytes = b""
    deep: int = 0


class _Fetch(Struct):
    """One fetch from one store into one directory, and what it has cost so far."""

    content: Content
    ref: str
    store: Store
    staging: Staging
    progress: Progress
    reused_bytes: int = 0
    requests: int = 0

    def known_blobs(self, git: Git, module: bytes) -> frozenset[str]:
        """The files that the store has from the time before, so they need not travel."""
        before = self.store.current(git, module)
        if not before:
            return frozenset()
        with Objects(git, self.store.path) as objects:
            tree, _ = head_of(objects, before)
            try:
                return frozenset(entry.oid for entry in walk(objects, tree, self.content.limits))
            except ContentStalled:  # the limits were others then
                return frozenset()

    def obtain(self, git: Git, revision: str, depth: int = 1) -> None:
        """Fetch the commit by its id; where a server does not give ids, fetch the ref and see whether it is that."""
        self.requests += _requests(git)
        try:
            self.store.fetch(git, revision, depth)
        except NotGiven as error:
            self.obtain_by_ref(git, revision, depth, error)

    def obtain_by_ref(self, git: Git, revision: str, depth: int, error: NotGiven) -> None:
        """Fetch what the ref names, if that is the commit."""
        if COMMIT.fullmatch(self.ref):
            raise ContentStalled(f"{git.url} does not give the commit {revision}: name a branch or tag") from error
        self.requests += _requests(git)
        now, name = remote_revision(git, self.ref, None)
        if now == revision:
            self.requests += _requests(git, by_name=True)
            self.store.fetch(git, name, depth)
        if now != revision or not self.store.has(git, revision):
            sentence = f"{git.url} {self.ref} is at {now}, and this run is for {revision}, which cannot be had"
            raise ContentMoved(f"{sentence}: the next check decides") from error

    def write(self, wanted: _Tree) -> None:
        """Write the files of a commit, then those of its submodules."""
        git, limits = wanted.git, self.content.limits
        above = parts_of(wanted.above.rstrip(b"/") or b".", limits)
        with Objects(git, self.store.path) as objects:
            top, time_s = head_of(objects, wanted.revision)
            entries = list(walk(objects, subtree(objects, top, wanted.subdir, wanted.revision), limits))
            modules = [entry for entry in entries if entry.mode == MODULE]
            self.refuse_modules(wanted, modules)
            urls = self.module_urls(git, objects, top) if modules else {}
            for entry in entries:
                if entry.mode != MODULE:
                    before = self.staging.total_bytes
                    write(objects, entry, above + parts_of(entry.path, limits), self.staging, time_s)
                    self.reused_bytes += self.staging.total_bytes - before if entry.oid in wanted.known else 0
                    self.progress(self.staging.total_bytes, None)
        self.store.remember(git, wanted.revision, wanted.above)
        prefix = f"{wanted.subdir.strip('/')}/".encode() if wanted.subdir.strip("/") else b""
        for module in modules:
            self.write_module(wanted, module, urls.get(prefix + module.path))

    def write_module(self, parent: _Tree, module: Entry, written_url: str | None) -> None:
        """Write the files of a submodule at the commit that the tree names."""
        path = parent.above + module.path
        git = replace(parent.git, url=git_modules.resolved(parent.git, path, written_url))
        known = self.known_blobs(git, path + b"/")
        if not self.store.has(git, module.oid):
            self.requests += _requests(git)
            try:
                self.store.fetch(git, module.oid, 1)
            except ContentError as error:
                kind = ContentStalled if isinstance(error, NotGiven) else type(error)
                raise kind(f"submodule {path.decode(errors='replace')!r}: {error}") from error
        self.write(_Tree(git, module.oid, "", known, path + b"/", parent.deep + 1))

    def refuse_modules(self, wanted: _Tree, modules: list[Entry]) -> None:
        """Refuse submodules that nobody asked for, by name."""
        if modules and not self.content.submodules:
            names_of = names(modules, wanted.above)
            raise ContentStalled(f"submodule {names_of}: refused; write `submodules: true` to have it fetched too")
        if modules and wanted.deep >= MODULES_DEEP:
            raise ContentStalled(f"submodule {names(modules, wanted.above)} is inside {MODULES_DEEP} others: refused")

    def module_urls(self, git: Git, objects: Objects, top: str) -> Mapping[bytes, str]:
        """What `.gitmodules` says."""
        blobs = [entry.oid for entry in entries_of(objects, top) if entry.path == b".gitmodules"]
        return git_modules.urls_of(git, self.store.path, blobs[0]) if blobs else {}
