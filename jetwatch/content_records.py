"""The records of content: where it is, what a look saw, what a fetch may cost.

They stand apart from the other records because `jetp fetch`, a process of its own for every download, knows no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct, field

SECRETS_VARIABLE = "JETWATCH_CONTENT_SECRETS"
"""The variable that hands the credentials of a content over to its fetch and its look: a JSON object."""


def shown_without(record: Struct, secret: str) -> str:
    """A record as its repr shows it, without the field that no log and no traceback is to show."""
    shown = [f"{name}={getattr(record, name)!r}" for name in record.__struct_fields__ if name != secret]
    return f"{type(record).__name__}({', '.join(shown)})"


class ContentKind(StrEnum):
    """What the URL of a source names."""

    BUCKET = "bucket"  # s3://bucket/prefix/
    OBJECT = "object"  # s3://bucket/key.tar.zst
    GIT = "git"  # git+https://…@ref#subdir
    HTTP = "http"  # https://host/file.tar.zst
    DIRECTORY = "directory"  # file:///dir
    FILE = "file"  # file:///file.tar.zst


SLOW_S = 300.0
"""Over so long a time a fetch must be as fast as `Limits.min_speed_bytes_s`: short droughts are no fault."""


class Limits(Struct, frozen=True):
    """What a fetch may cost; beyond it the content is refused, by name."""

    total_bytes: int = 16 * 1024**3
    entries: int = 1_000_000
    depth: int = 64
    ratio: float = 200.0  # unpacked to packed, beyond the first 64 MiB
    min_speed_bytes_s: int = 1024  # over SLOW_S, while a fetch waits for bytes; 0: as slow as it likes


class Content(Struct, frozen=True):
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
    ca_file: str | None = None
    ref: str | None = None
    subdir: str = ""
    submodules: bool = False
    allowed_signers: str | None = None
    descends_from: str | None = None
    signed_tag: bool = False
    ssh_key: str | None = None
    known_hosts: str | None = None
    insecure: bool = False
    limits: Limits = Limits()
    secrets: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return shown_without(self, "secrets")

    @property
    def is_proven(self) -> bool:
        """Whether something that did not come the same way says what the content has to be: a digest, a signature."""
        return self.sha256 is not None or self.allowed_signers is not None


class Look(Struct, frozen=True):
    """What is there now.

    `settled` false: a listing, which counts only when a second look `settle_s` later shows the same. `validator` is
    what makes the next look cheap (an ETag); `requests` is what this look cost.
    """

    revision: str
    settled: bool = True
    validator: str = ""
    requests: int = 0
