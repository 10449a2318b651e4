"""What earlier fetches of a prefix left in the cache: an object is the same when its name, size and ETag are.

The cache verifies every byte that it gives out. What was fetched before a failure is remembered too, so that the next
try goes on where this one ended.
"""

from __future__ import annotations

from jetwatch.content.bucket_listing import Item
from jetwatch.content.cache import Cache, Kept


class Reuse:
    """The objects of one source in a cache. `take` and `keep` may be called from several threads at once."""

    def __init__(self, cache: Cache, source: str) -> None:
        self._cache = cache
        self._source = source
        self._known = cache.known(source)
        self._now: dict[str, Kept] = {}

    def knows(self, item: Item) -> bool:
        """Whether this very object was fetched before; its bytes may be gone since."""
        kept = self._known.get(item.name)
        return kept is not None and (kept.size_bytes, kept.etag) == (item.size, item.etag)

    def take(self, item: Item, descriptor: int) -> bool:
        """Write the bytes of a known object into an empty file; False, with the file empty, where they are gone."""
        kept = self._known[item.name]
        if not self._cache.take(kept.sha256, item.size, descriptor):
            return False
        self._now[item.name] = kept
        return True

    def keep(self, item: Item, descriptor: int, sha256: str, *, whole: bytes | memoryview | None) -> None:
        """Keep the bytes of a file that was fetched and checked. `whole`: all of them, where they are still at hand."""
        if self._cache.keep(descriptor, sha256, whole):
            self._now[item.name] = Kept(item.size, item.etag, sha256)

    def remember(self, *, whole: bool) -> None:
        """Write down what is known now; after a fetch that was not whole, what was known before still counts."""
        self._cache.remember(self._source, self._now if whole else {**self._known, **self._now})
        self._cache.trim()
