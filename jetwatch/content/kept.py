"""Sources that stay open from one look to the next: to build a client costs many times what its question costs.

The rule: kept means the same settings, the same environment, and a last look that went well. What lies on disk beside
them (certificates) is read anew after an hour, or after a failure. Few are kept, as each takes memory and a connection;
the watches beyond that are opened for each look. What https relies on is large, so all watches share it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import TYPE_CHECKING

from msgspec import Struct

from jetwatch.content.fetch import open_source
from jetwatch.content.source import Content, ContentStalled, Look, Source

if TYPE_CHECKING:
    import ssl

MOST = 32
"""An open bucket takes about 0.13 MB, with its connection."""
LONGEST_S = 3600.0


class _Kept(Struct, frozen=True):
    content: Content
    env: Mapping[str, str]
    source: Source
    opened_s: float


class KeptSources:
    """Looks at sources, for several threads. `now_s`: seconds that only grow."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._free: list[_Kept] = []
        self._trusts: dict[str | None, tuple[ssl.SSLContext, float]] = {}
        self._lock = Lock()

    def look(self, content: Content, env: Mapping[str, str], known: Look | None, deadline_s: float) -> Look:
        """Look once, with a source that nobody else has meanwhile. Raises ContentError within the deadline."""
        try:
            kept = self._take(content, env) or self._open(content, env)
            found = kept.source.look(known, deadline_s)
        except ContentStalled:
            self._trusts.pop(content.ca_file, None)  # a certificate may be the reason, and may be there by now
            raise
        with self._lock:
            self._free = [*self._free, kept][-MOST:]
        return found

    def _take(self, content: Content, env: Mapping[str, str]) -> _Kept | None:
        with self._lock:
            self._free = [kept for kept in self._free if self._is_fresh(kept.opened_s)]
            for index, kept in enumerate(self._free):
                if kept.content == content and kept.env == env:
                    return self._free.pop(index)
        return None

    def _open(self, content: Content, env: Mapping[str, str]) -> _Kept:
        return _Kept(content, env, open_source(content, env=env, trust=self._trust, by_head=True), self._now_s())

    def _trust(self, ca_file: str | None) -> ssl.SSLContext:
        from jetwatch.content.http_client import trust_of

        trust, read_s = self._trusts.get(ca_file, (None, 0.0))
        if trust is None or not self._is_fresh(read_s):
            trust = trust_of(ca_file)
            self._trusts[ca_file] = (trust, self._now_s())
        return trust

    def _is_fresh(self, since_s: float) -> bool:
        return self._now_s() - since_s < LONGEST_S
