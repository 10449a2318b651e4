"""What every source of content can do, and how it says that it cannot.

A source answers two questions: which revision is there now, as cheap as its protocol allows, and put exactly that
revision into an empty directory. It knows no watch, no run and no journal; limits and deadlines are handed in. Its
errors say what the caller does next: ask again after a backoff, wait as long as the server says, or tell a person.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from jetwatch.errors import JetwatchError


class ContentKind(StrEnum):
    """What the URL of a source names."""

    BUCKET = "bucket"  # s3://bucket/prefix/
    OBJECT = "object"  # s3://bucket/key.tar.zst
    GIT = "git"  # git+https://…@ref#subdir
    HTTP = "http"  # https://host/file.tar.zst
    DIRECTORY = "directory"  # file:///dir
    FILE = "file"  # file:///file.tar.zst


@dataclass(frozen=True, slots=True)
class Limits:
    """What a fetch may cost; beyond it the content is refused, by name."""

    total_bytes: int = 16 * 1024**3
    entries: int = 1_000_000
    depth: int = 64
    ratio: float = 200.0  # unpacked to packed, beyond the first 64 MiB


@dataclass(frozen=True, slots=True)
class Content:
    """Where content comes from. `url` has no user info; `secrets` has what it needs to get in, and no repr shows it.

    Names in `secrets`: `access_key_id`, `secret_access_key`, `session_token`, `username`, `password`, `bearer_token`.
    An option that a kind has no use for is refused when the configuration is read.
    """

    url: str
    kind: ContentKind
    marker: str | None = None
    settle_s: float = 10.0
    checksum: bool = False
    sha256: str | None = None
    endpoint: str | None = None
    region: str | None = None
    path_style: bool = True
    anonymous: bool = False
    profile: str | None = None
    ca_file: Path | None = None
    ref: str | None = None
    subdir: str = ""
    submodules: bool = False
    allowed_signers: Path | None = None
    ssh_key: Path | None = None
    known_hosts: Path | None = None
    limits: Limits = Limits()
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Look:
    """What is there now.

    `settled` false: a listing, which counts only when a second look `settle_s` later shows the same. `validator` is
    what makes the next look cheap (an ETag); `requests` is what this look cost.
    """

    revision: str
    settled: bool = True
    validator: str = ""
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Fetched:
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


class ContentError(JetwatchError):
    """Content could not be looked at or fetched."""

    exit_code = 1


class ContentRetry(ContentError):
    """Not now: the network, a server's 5xx, a timeout. Ask again after a backoff."""

    exit_code = 75


class ContentWait(ContentRetry):
    """The server says when to ask again (429 or 503 with Retry-After)."""

    def __init__(self, sentence: str, after_s: float) -> None:
        self.after_s = after_s
        super().__init__(sentence)


class ContentMoved(ContentRetry):
    """What is there now is another revision than the one asked for, or changed while it was fetched."""


class ContentStalled(ContentError):
    """A person is needed: wrong credentials, no such bucket, a key or an entry that is refused (by name)."""
