"""What lies below a prefix: every object by name, size and ETag, as one sorted list with a digest.

A name that cannot be a file below a directory is refused, never repaired: what was published is what a play sees, or
nothing is. obstore drops a last slash, so an empty `folder/` object and an empty file look alike here; the transfer,
which asks for each, tells them apart.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct, field

from jetwatch.content.bucket_store import failures, refusal
from jetwatch.content.deadline import within
from jetwatch.content.source import ContentStalled, Limits
from jetwatch.content.staging import parts_of, shown

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Store

PAGE_KEYS = 1000
NAMES_BYTES = 128 * 1024**2
"""All names of a listing together: more than a million of them have, and what a look can afford."""
_USABLE = re.compile(r"[\x21-\x7e]{1,256}").fullmatch

BAD_KEY = "no part of a key may be empty, `.` or `..`, or have control characters"


class Prefix(Struct, frozen=True):
    """Where a tree begins: `key` is empty or ends with a slash, `name` is the whole for people."""

    store: S3Store
    bucket: str
    key: str

    @property
    def name(self) -> str:
        """The prefix as a URL."""
        return f"s3://{self.bucket}/{self.key}"


class Item(NamedTuple):
    """One object. `name` is its key without the prefix, `etag` without quotes; `modified` is no part of what it is."""

    name: str
    size: int
    etag: str
    modified: datetime

    @property
    def mtime_ns(self) -> int:
        """When it was written, not before 1970."""
        return max(0, int(self.modified.timestamp() * 1e9))


class Listing(Struct, frozen=True):
    """Everything below a prefix, sorted by name, and the requests that it cost."""

    items: tuple[Item, ...]
    requests: int

    @property
    def digest(self) -> str:
        """The revision: SHA-256 over one line per object. No part can hold a line's end."""
        lines = "".join(f"{item.size} {item.etag} {item.name}\n" for item in self.items)
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def total_bytes(self) -> int:
        """The sizes, added up."""
        return sum(item.size for item in self.items)


def plain_etag(etag: str | None) -> str:
    """An ETag without its quotes and without the sign of a weak one; empty where there is none or a strange one."""
    bare = (etag or "").removeprefix("W/").strip('"')
    return bare if _USABLE(bare) else ""


def list_prefix(prefix: Prefix, deadline_s: float, limits: Limits) -> Listing:
    """List everything below a prefix. Raises ContentError within `deadline_s`; nothing there is an empty listing.

    More entries than the limit are refused as they come. Names are as the server says them: `check` before use.
    """
    given_up = Event()
    found = within(deadline_s, prefix.name, lambda: _entries(prefix, limits, given_up), given_up.set)
    # A server hands out at most 1,000 keys at a time; it is asked once more only when it says that there are more.
    return Listing(tuple(sorted(found.items)), max(1, -(-found.entries // PAGE_KEYS)))


class _Found(Struct):
    """What has come so far."""

    items: list[Item] = field(default_factory=list)
    entries: int = 0
    names_bytes: int = 0


def _entries(prefix: Prefix, limits: Limits, given_up: Event) -> _Found:
    """Read page after page, until the end or until nobody waits any more: a page has the deadline of one request."""
    import obstore

    found, own = _Found(), prefix.key.rstrip("/")
    try:
        for page in obstore.list(prefix.store, prefix.key or None, chunk_size=PAGE_KEYS):
            if given_up.is_set():
                return found
            found.entries += len(page)
            found.names_bytes += sum(len(entry["path"]) for entry in page)
            if found.entries > limits.entries + 1:  # the prefix itself may be an object, and is no entry
                raise ContentStalled(f"{prefix.name}: more objects came, and the limit is {limits.entries}")
            if found.names_bytes > NAMES_BYTES:
                raise ContentStalled(f"{prefix.name}: the names of its objects have more than {NAMES_BYTES} bytes")
            found.items += [_item(entry, prefix) for entry in page if entry["path"] != own]
    except failures() as error:
        if type(error).__name__ == "InvalidPathError":
            raise ContentStalled(f"{prefix.name}: the key {_bad_key(str(error))} cannot be a file: {BAD_KEY}") from None
        raise refusal(error, prefix.name) from None
    return found


def _bad_key(text: str) -> str:
    """The key that obstore names in the debug form of its error, where it is quoted as in Rust."""
    quoted = re.search(r'path: "((?:[^"\\]|\\.)*)"', text.partition("Debug source")[2])
    key = re.sub(r"\\u\{([0-9a-f]+)\}", lambda found: chr(int(found[1], 16)), quoted[1]) if quoted else "?"
    return shown(
        re.sub(r"\\(.)", lambda found: {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}.get(found[1], found[1]), key)
    )


def _item(entry: ObjectMeta, prefix: Prefix) -> Item:
    key, etag = entry["path"], plain_etag(entry["e_tag"])
    if not etag:
        raise ContentStalled(f"{prefix.name}: the server lists {shown(key)} without a usable ETag")
    return Item(key[len(prefix.key) :], entry["size"], etag, entry["last_modified"])


def check(items: Sequence[Item], place: str, limits: Limits) -> None:
    """Refuse what cannot be a tree of files, and what is more than the limits allow. `items` is sorted."""
    if len(items) > limits.entries:
        raise ContentStalled(f"{place}: {len(items)} objects, and the limit is {limits.entries}")
    total = sum(item.size for item in items)
    if total > limits.total_bytes:
        raise ContentStalled(f"{place}: {total} bytes, and the limit is {limits.total_bytes}")
    try:
        for item in items:
            parts_of(item.name, limits)
    except ContentStalled as error:
        raise ContentStalled(f"{place}: {error}") from None
    _check_twice(items, place)


def _check_twice(items: Sequence[Item], place: str) -> None:
    sizes: dict[str, int] = {}
    for item in items:
        if item.name in sizes:
            raise ContentStalled(f"{place}: {shown(item.name)} is there twice, with and without a slash at its end")
        sizes[item.name] = item.size
    for folder in folders(items):
        if sizes.get(folder, 0):
            raise ContentStalled(f"{place}: {shown(folder)} is a file and a folder at once")


def folders(items: Iterable[Item]) -> set[str]:
    """Every folder that the names imply, without a slash at the end."""
    found: set[str] = set()
    for item in items:
        folder = item.name.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found
