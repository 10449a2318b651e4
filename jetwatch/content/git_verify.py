"""Whether a commit may be applied: one of the allowed keys signed it, and it comes after what is applied.

The signature is checked by git and ssh-keygen on the commit as it was fetched, or on the tag that names it; no other
kind of signature counts. The order of commits is what keeps an old one, signed as it is, from coming back, and what
tells one repository from another.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jetwatch.content.git_command import Ended, Git
from jetwatch.content.git_store import COMMIT, Store
from jetwatch.content.git_tree import Objects
from jetwatch.content.source import ContentMoved, ContentStalled
from jetwatch.content.staging import shown

TAG_REF = "refs/jetwatch/tag"
"""Where the tag of the newest fetch lies in our repository."""

HISTORY = (64, 4096, 2**31 - 1)
"""How much history is fetched, step by step, until the applied commit is in it; the last is all of it."""


def signature(git: Git, store: Store, revision: str, signers: str) -> None:
    """Refuse a commit that none of the allowed signers signed."""
    ended = git.try_run("verify-commit", "--raw", revision, repository=store.path)
    _refuse_unsigned(ended, f"{git.url}: the commit {revision}", signers)


def _refuse_unsigned(ended: Ended, what: str, signers: str) -> None:
    if not Path(signers).is_file():
        raise ContentStalled(f"{signers}: expected the file of allowed signers, found none")
    if ended.exit_code != 0:
        said = " ".join(ended.complaint.split())[:300] or "it has no signature"
        raise ContentStalled(f"{what} is not signed by one of {signers}: {said}")


def tag(git: Git, store: Store, revision: str, ref: str, signers: str) -> None:
    """Refuse a tag that none of the allowed signers signed by this very name, or that is of another commit.

    A branch's name is in no commit; a tag's name is in the tag, so whoever writes to the server cannot change it.
    """
    store.fetch(git, f"+{ref}:{TAG_REF}", 1)
    oid = git.run("rev-parse", "--verify", TAG_REF, repository=store.path).decode().strip()
    if git.run("cat-file", "-t", oid, repository=store.path) != b"tag\n":
        raise ContentStalled(f"{git.url}: {ref} is no signed tag: it names a commit, and nobody signed the name")
    with Objects(git, store.path) as objects:
        head = objects.read(oid, "tag").partition(b"\n\n")[0]
    lines = [line.partition(b" ") for line in head.split(b"\n")]
    facts = {word.decode(errors="replace"): rest.decode(errors="replace") for word, _, rest in reversed(lines)}
    name = ref.removeprefix("refs/tags/")
    if facts.get("type") != "commit" or facts.get("tag") != name:
        raise ContentStalled(f"{git.url}: {ref} holds the tag {shown(facts.get('tag', ''))}: it was signed as that")
    ended = git.try_run("verify-tag", "--raw", oid, repository=store.path)
    _refuse_unsigned(ended, f"{git.url}: the tag {ref}", signers)
    if facts.get("object") != revision:
        raise ContentMoved(f"{git.url}: {ref} is at {facts.get('object')}, and this run is for {revision}")


def descent(git: Git, store: Store, revision: str, applied: str, deepen: Callable[[int], None]) -> None:
    """Refuse a commit that does not come after `applied` (anything but a commit: nothing is known, all may come)."""
    if COMMIT.fullmatch(applied) and not _comes_after(git, store, revision, applied, deepen):
        sentence = f"{git.url}: the commit {revision} does not come after {applied}, which is applied"
        raise ContentStalled(f"{sentence}: it is an old one, or history was rewritten")


def origin(git: Git, store: Store, revision: str, ancestor: str, deepen: Callable[[int], None]) -> None:
    """Refuse a commit that does not come after the one that watch.yml names."""
    if not _comes_after(git, store, revision, ancestor, deepen):
        sentence = f"{git.url}: the commit {revision} does not come after {ancestor}, which `descends_from` names"
        raise ContentStalled(f"{sentence}: it is an old one, or of another repository")


def _comes_after(git: Git, store: Store, revision: str, ancestor: str, deepen: Callable[[int], None]) -> bool:
    """Whether it is, or has among its ancestors, this commit. History is fetched until it is known."""
    if ancestor == revision:
        return True
    if len(ancestor) != len(revision):
        return False  # a repository of the other kind of ids
    for depth in (0, *HISTORY):
        if depth:
            deepen(depth)
        if git.try_run("merge-base", "--is-ancestor", ancestor, revision, repository=store.path).exit_code == 0:
            return True
    return False
