"""Reads the tree of a commit, believing nothing that was not checked by its digest.

Every object is read through `git cat-file --batch` and must hash to its own name, from the commit down to the last
byte of the last file; so what lies in a cache, or came from a server, is what the commit says or is refused. git's own
checkout is not used: no hook, filter, attribute or configuration can have a part in it, and files are the very bytes of
the repository. What a name may look like and where a link may lead is for `staging` to say.
"""

from __future__ import annotations

import hashlib
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType

from msgspec import Struct

from jetwatch.content.git_command import MEANWHILE_S, Git, end_group, there
from jetwatch.content.source import ContentStalled, Limits
from jetwatch.content.staging import COMPONENT_BYTES, Parts, Staging, shown

CHUNK_BYTES = 1 << 20
HEAD_BYTES = 64 << 20
"""No commit, tree, link or .gitmodules is larger; files are never held in memory."""
NAMES_BYTES = 256 << 20
"""All paths of a commit together, which are held in memory: a thousand times what large repositories have."""

DIRECTORY, LINK, MODULE = 0o040000, 0o120000, 0o160000


class CacheBroken(Exception):
    """An object is missing or is not what its name says: what was fetched before cannot be used."""


class Entry(Struct, frozen=True):
    """One file, link or submodule of a tree."""

    path: bytes
    mode: int
    oid: str


class Objects:
    """Reads objects of one repository; each is checked against its name. A context manager."""

    def __init__(self, git: Git, repository: Path) -> None:
        self._process = subprocess.Popen(
            [*git.words, f"--git-dir={repository}", "cat-file", "--batch"],
            env=git.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            process_group=0,
            cwd="/",
        )
        self._meanwhile, self._asked_s = git.meanwhile, time.monotonic()
        self._questions, self._answers = there(self._process.stdin), there(self._process.stdout)

    def __enter__(self) -> Objects:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End git."""
        end_group(self._process)
        self._questions.close()
        self._answers.close()

    def read(self, oid: str, kind: str) -> bytes:
        """Return a whole object that is small by nature."""
        return b"".join(self.chunks(oid, kind, HEAD_BYTES))

    def chunks(self, oid: str, kind: str, at_most: int | None = None) -> Iterator[bytes]:
        """The bytes of an object, to be taken to the end. Raises CacheBroken if they are not those of `oid`."""
        left = size = self._ask(oid, kind)
        if at_most is not None and size > at_most:
            raise ContentStalled(f"the {kind} {oid} has {size} bytes, more than the {at_most} that are taken")
        digest = hashlib.sha256() if len(oid) == 64 else hashlib.sha1(usedforsecurity=False)
        digest.update(f"{kind} {size}\0".encode())
        while left > 0:
            chunk = self._answers.read(min(left, CHUNK_BYTES))
            if not chunk:
                raise CacheBroken(f"the {kind} {oid} ends too early")
            digest.update(chunk)
            left -= len(chunk)
            yield chunk
        if self._answers.read(1) != b"\n" or digest.hexdigest() != oid:
            raise CacheBroken(f"the {kind} {oid} is not what its name says")

    def _ask(self, oid: str, kind: str) -> int:
        """Ask for an object; return its size. Now and then somebody else is asked whether to go on."""
        if time.monotonic() - self._asked_s >= MEANWHILE_S:
            self._asked_s = time.monotonic()
            self._meanwhile()
        try:
            self._questions.write(f"{oid}\n".encode())
            self._questions.flush()
        except BrokenPipeError as error:
            raise CacheBroken(f"the {kind} {oid} cannot be read") from error
        words = self._answers.readline(200).decode(errors="replace").split()
        if len(words) != 3 or words[:2] != [oid, kind] or not words[2].isdigit():
            raise CacheBroken(f"expected the {kind} {oid}, found {' '.join(words[1:]) or 'nothing'}")
        return int(words[2])


def head_of(objects: Objects, commit: str) -> tuple[str, int]:
    """Return the tree of a commit, and when it was committed, in seconds since 1970."""
    head, _, _ = objects.read(commit, "commit").partition(b"\n\n")
    lines = [line.partition(b" ") for line in head.split(b"\n")]
    facts = {word: rest.decode(errors="replace") for word, _, rest in reversed(lines)}
    tree, committer = facts.get(b"tree", ""), facts.get(b"committer", "").split()
    if len(tree) != len(commit):
        raise ContentStalled(f"the commit {commit} names no tree")
    told = committer[-2] if len(committer) > 1 else ""
    # Times can be nonsense, and a file system takes only so many years.
    return tree, int(told) if told.isdigit() and len(told) <= 10 else 0


def subtree(objects: Objects, tree: str, subdir: str, commit: str) -> str:
    """Return the tree of a directory below `tree`."""
    for part in filter(None, subdir.encode(errors="surrogateescape").split(b"/")):
        found = [entry for entry in entries_of(objects, tree) if entry.path == part and entry.mode == DIRECTORY]
        if not found:
            raise ContentStalled(f"the commit {commit} has no directory {subdir!r}")
        tree = found[0].oid
    return tree


def walk(objects: Objects, tree: str, limits: Limits) -> Iterator[Entry]:
    """Every file, link and submodule below a tree, each with its whole path.

    All entries count, those of directories too, as soon as their tree is read: trees may name each other so that a few
    of them are more directories than anybody could walk.
    """
    count, names_bytes = 0, 0
    stack = [(b"", iter([Entry(b"", DIRECTORY, tree)]))]
    while stack:
        above, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        path = above + entry.path
        if entry.mode != DIRECTORY:
            yield Entry(path, entry.mode, entry.oid)
            continue
        if len(stack) > limits.depth:
            raise ContentStalled(f"the name {shown(path + b'/')} is deeper than {limits.depth} directories")
        prefix = path + b"/" if path else b""
        found = list(islice(_checked(entries_of(objects, entry.oid), prefix), limits.entries - count + 1))
        count += len(found)
        names_bytes += sum(len(prefix) + len(each.path) for each in found)
        if count > limits.entries:
            raise ContentStalled(f"{shown(prefix + found[-1].path)}: more than {limits.entries} entries")
        if names_bytes > NAMES_BYTES:
            raise ContentStalled(f"{shown(path)}: more than {NAMES_BYTES} bytes of names")
        stack.append((prefix, iter(found)))


def _checked(entries: Iterator[Entry], above: bytes) -> Iterator[Entry]:
    """The same. Raises ContentStalled for a name that no git makes, or that no file system takes."""
    for entry in entries:
        if b"/" in entry.path or entry.path.lower() in {b".git", b"..", b"."}:
            raise ContentStalled(f"the name {shown(above + entry.path)} is none that git makes: refused")
        if len(entry.path) > COMPONENT_BYTES:
            raise ContentStalled(f"the name {shown(above + entry.path)} has a part longer than {COMPONENT_BYTES} bytes")
        yield entry


def entries_of(objects: Objects, tree: str) -> Iterator[Entry]:
    """Take a tree apart: mode, space, name, NUL, and the name of the object in binary."""
    content, at, width = objects.read(tree, "tree"), 0, len(tree) // 2
    while at < len(content):
        space, nul = content.find(b" ", at), content.find(b"\0", at)
        if not at < space < nul or nul + 1 + width > len(content) or not content[at:space].isdigit():
            raise ContentStalled(f"the tree {tree} is damaged")
        oid = content[nul + 1 : nul + 1 + width].hex()
        yield Entry(content[space + 1 : nul], int(content[at:space], 8), oid)
        at = nul + 1 + width


def write(objects: Objects, entry: Entry, parts: Parts, staging: Staging, time_s: int) -> None:
    """Write one file, or remember one link. Raises ContentStalled by the entry's name."""
    if entry.mode == LINK:
        staging.link(parts, objects.read(entry.oid, "blob"))
    elif stat.S_ISREG(entry.mode):
        mode = 0o755 if entry.mode & 0o100 else 0o644
        staging.file(parts, objects.chunks(entry.oid, "blob"), mode, time_s * 10**9)
    else:
        raise ContentStalled(f"{shown(entry.path)} has the mode {entry.mode:o}: refused")


def names(entries: Sequence[Entry], above: bytes) -> str:
    """The first few, for a sentence."""
    return ", ".join(shown(above + entry.path) for entry in entries[:5])
