"""Whether a commit may be applied: one of the allowed keys signed it, and it comes after what is applied.

The signature is checked by git and ssh-keygen on the commit as it was fetched; no other kind of signature counts. The
order of commits is what keeps an old one, signed as it is, from coming back.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jetwatch.content.git_command import Git
from jetwatch.content.git_store import COMMIT, Store
from jetwatch.content.source import ContentStalled

HISTORY = (64, 4096, 2**31 - 1)
"""How much history is fetched, step by step, until the applied commit is in it; the last is all of it."""


def signature(git: Git, store: Store, revision: str, signers: str) -> None:
    """Refuse a commit that none of the allowed signers signed."""
    if not Path(signers).is_file():
        raise ContentStalled(f"{signers}: expected the file of allowed signers, found none")
    ended = git.try_run("verify-commit", "--raw", revision, repository=store.path)
    if ended.exit_code != 0:
        said = " ".join(ended.complaint.split())[:300] or "it has no signature"
        raise ContentStalled(f"{git.url}: the commit {revision} is not signed by one of {signers}: {said}")


def descent(git: Git, store: Store, revision: str, applied: str, deepen: Callable[[int], None]) -> None:
    """Refuse a commit that does not come after `applied` (anything but a commit: nothing is known, all may come)."""
    if not COMMIT.fullmatch(applied) or len(applied) != len(revision) or applied == revision:
        return
    for depth in (0, *HISTORY):
        if depth:
            deepen(depth)
        ended = git.try_run("merge-base", "--is-ancestor", applied, revision, repository=store.path)
        if ended.exit_code == 0:
            return
    sentence = f"{git.url}: the commit {revision} does not come after {applied}, which is applied"
    raise ContentStalled(f"{sentence}: it is an old one, or history was rewritten")
