"""How much a fetch has brought into a repository: measured while git is at work, against `limits.bytes`.

The kernel bounds the one pack that a git writes (see `git_command`); this bounds all of them together, and whatever
else a git could leave there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from jetwatch.content.git_command import allowed_bytes
from jetwatch.content.source import ContentStalled, Limits

MOST_FILES = 100_000
"""A fetch leaves packs, a few files each. Where it leaves more than so many files they are none of a fetch's."""


class Growth:
    """The bytes below `objects` of one repository, since this was made or begun again."""

    def __init__(self, repository: Path, url: str, limits: Limits) -> None:
        self._objects = repository / "objects"
        self._url = url
        self._limits = limits
        self.begin()

    def begin(self) -> None:
        """What is there now does not count: it was there before, or is nothing."""
        self._before_bytes = self._measured()

    def bytes(self) -> int:
        """So many have come. Blocks as long as it takes to look at some thousands of files."""
        return max(0, self._measured() - self._before_bytes)

    def check(self) -> None:
        """Raise ContentStalled when they are more than may come."""
        if self.bytes() > allowed_bytes(self._limits):
            raise ContentStalled(
                f"{self._url}: it sends more than the limit of {self._limits.total_bytes} bytes (`limits.bytes`)"
            )

    def _measured(self) -> int:
        total = 0
        for number, size in enumerate(self._sizes()):
            total += size
            if number > MOST_FILES:
                raise ContentStalled(f"{self._url}: git wrote more than {MOST_FILES} files: refused")
        return total

    def _sizes(self) -> Iterator[int]:
        for folder in _entries(self._objects):
            for file in _entries(folder.path):
                try:
                    yield file.stat(follow_symlinks=False).st_size
                except FileNotFoundError:  # it has its last name by now
                    continue


def _entries(directory: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return
