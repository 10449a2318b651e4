"""What every source of content can do.

A source answers two questions: which revision is there now, as cheap as its protocol allows, and put exactly that
revision into an empty directory. It knows no watch, no run and no journal; limits and deadlines are handed in. Its
errors (`errors.py`) say what the caller does next: ask again after a backoff, wait as long as the server says, or
tell a person.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from jetwatch.content_records import Content, ContentKind, Limits, Look
from jetwatch.errors import (
    ContentError,
    ContentMoved,
    ContentRetry,
    ContentSlow,
    ContentStalled,
    ContentUnsaid,
    ContentWait,
)

__all__ = [
    "Content",
    "ContentError",
    "ContentKind",
    "ContentMoved",
    "ContentRetry",
    "ContentSlow",
    "ContentStalled",
    "ContentUnsaid",
    "ContentWait",
    "Fetched",
    "Limits",
    "Look",
    "Progress",
    "Source",
]


class Fetched(Struct, frozen=True):
    """What a fetch put into the directory, and what it cost. `reused_bytes` did not travel."""

    revision: str
    files: int
    total_bytes: int
    reused_bytes: int = 0
    requests: int = 0


Progress = Callable[[int, int | None], None]
"""Called with bytes so far and bytes in all (None: not known)."""


class Source(Protocol):
    """One place that content comes from."""

    def look(self, known: Look | None, deadline_s: float) -> Look:
        """Which revision is there now. `known` is the look before. Raises ContentError within the deadline."""

    def fetch(self, revision: str, staging: Path, cache: Path | None, progress: Progress) -> Fetched:
        """Exactly this revision into the empty directory `staging`. Raises ContentError; then nothing counts.

        `cache` is a private directory that outlives the run; what is in it is verified before it is used again.
        """
