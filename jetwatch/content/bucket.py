"""Content from S3 and whatever speaks it: everything below a prefix, or one archive.

A prefix has as revision the ETag of its `marker`, the object that the publisher writes last, or else the digest of its
listing, which counts only when it stands still. A fetch lists before and after: equal listings, and every object asked
for by the listed ETag, are one state of the bucket. An archive has its ETag as revision and is unpacked strictly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from jetwatch.content.bucket_digest import Digests
from jetwatch.content.bucket_listing import Item, Listing, Prefix, check, list_prefix, plain_etag
from jetwatch.content.bucket_reuse import Reuse
from jetwatch.content.bucket_store import failures, is_absent, open_store, refusal, split_url
from jetwatch.content.bucket_transfer import Gone, Tally, Transfer, download, watched
from jetwatch.content.cache import Cache
from jetwatch.content.packed import Packed, unpack
from jetwatch.content.source import (
    Content,
    ContentError,
    ContentKind,
    ContentMoved,
    ContentRetry,
    ContentStalled,
    ContentUnsaid,
    Fetched,
    Look,
    Progress,
)
from jetwatch.content.staging import Staging, shown

if TYPE_CHECKING:
    from obstore.store import S3Store

FETCH_REQUEST_S = 7 * 24 * 3600.0
"""One request of a fetch may take so long; the step's own timeout, and `stall_s`, end it before."""
FETCH_LISTING_S = 600.0
STALL_S = 60.0


def head_etag(store: S3Store, key: str, what: str) -> str:
    """The ETag of an object, by HEAD: whatever the server is, its answer has no body. Raises ContentUnsaid for 4xx."""
    import obstore

    try:
        etag = plain_etag(obstore.head(store, key)["e_tag"])
    except failures() as error:
        if isinstance(error, FileNotFoundError) or re.search(r"status code: 4(?!08|29)", str(error)):
            raise ContentUnsaid(f"{what}: the server refuses, or has nothing there (yet)") from None
        raise refusal(error, what) from None
    return _usable(etag, what)


def _usable(etag: str, what: str) -> str:
    if not etag:
        raise ContentStalled(f"{what}: the server gives no usable ETag, so a change could not be seen")
    return etag


def ask_etag(store: S3Store, key: str, known: str, what: str) -> str:
    """The ETag of an object: one conditional GET, whose body is left where it is. Raises Gone where there is none."""
    import obstore

    try:
        result = obstore.get(store, key, options={"if_none_match": f'"{known}"'} if known else None)
    except failures() as error:
        if type(error).__name__ == "NotModifiedError":
            return known
        if is_absent(error):
            raise Gone(what) from None
        raise refusal(error, what) from None
    return _usable(plain_etag(result.meta["e_tag"]), what)


class BucketSource:
    """A prefix (`ContentKind.BUCKET`) or an archive (`ContentKind.OBJECT`) in a bucket.

    `env`: the environment that credentials, region and endpoint are taken from (None: this process's own). `stall_s`: a
    fetch to which nothing arrives for so long is given up. `by_head`: a look at one object reads no body, as obstore
    bounds none: for a process that must not end. Not for two threads at once.
    """

    def __init__(
        self,
        content: Content,
        *,
        env: Mapping[str, str] | None = None,
        stall_s: float = STALL_S,
        by_head: bool = False,
    ) -> None:
        self._by_head = by_head
        self._content = content
        self._env = env
        self._stall_s = stall_s
        self._bucket, key = split_url(content.url)
        self._whole = content.kind is ContentKind.BUCKET
        self._key = f"{key}/" if self._whole and key and not key.endswith("/") else key
        self._place = f"s3://{self._bucket}/{self._key}"
        self._stores: dict[float, S3Store] = {}

    def look(self, known: Look | None, deadline_s: float) -> Look:
        """Which revision is there now: one conditional GET; for a prefix without marker one LIST per 1,000 keys."""
        store = self._store(deadline_s)
        if self._whole and not self._content.marker:
            listing = self._list(store, deadline_s)
            return Look(listing.digest, settled=False, requests=listing.requests)
        key = self._key + (self._content.marker or "") if self._whole else self._key
        what = f"s3://{self._bucket}/{key}"
        if self._by_head:
            etag = head_etag(store, key, what)
            return Look(etag, validator=etag, requests=1)
        try:
            etag = ask_etag(store, key, known.validator if known else "", what)
        except Gone:
            raise ContentRetry(f"{what} is not there (yet)") from None
        return Look(etag, validator=etag, requests=1)

    def fetch(self, revision: str, staging: Path, cache: Path | None, progress: Progress) -> Fetched:
        """Put exactly this revision into `staging`; objects that the cache knows do not travel again."""
        store = self._store(FETCH_REQUEST_S)
        if not self._whole:
            return unpack(
                self._content,
                revision,
                staging,
                cache,
                progress,
                download=lambda file: self._download(store, revision, file, progress),
            )
        source = f"{self._content.endpoint or ''} {self._place}"
        reuse = Reuse(Cache(cache), source) if cache is not None else None
        return self._fetch_prefix(store, revision, staging, reuse, progress)

    def _store(self, request_s: float) -> S3Store:
        """The bucket, kept: a client of its own for every look would cost more than the look."""
        if request_s not in self._stores:
            self._stores = {request_s: open_store(self._content, request_s=request_s, env=self._env)}
        return self._stores[request_s]

    def _list(self, store: S3Store, deadline_s: float) -> Listing:
        listing = list_prefix(Prefix(store, self._bucket, self._key), deadline_s, self._content.limits)
        if not listing.items:
            raise ContentRetry(f"{self._place}: nothing there yet (no object below this prefix)")
        return listing

    def _fetch_prefix(
        self, store: S3Store, revision: str, staging: Path, reuse: Reuse | None, progress: Progress
    ) -> Fetched:
        self._require_marker(store, revision)
        listing = self._list(store, FETCH_LISTING_S)
        if not self._content.marker and listing.digest != revision:
            raise ContentMoved(f"{self._place}: another revision is there now than the one that was asked for")
        check(listing.items, self._place, self._content.limits)
        tally = self._transfer(store, listing, staging, reuse, progress)
        again = self._list(store, FETCH_LISTING_S)
        if again.digest != listing.digest:
            raise ContentMoved(f"{self._place}: it changed while it was fetched")
        self._require_marker(store, revision)
        self._refuse_absent(tally)
        if reuse is not None:
            reuse.remember(whole=True)
        markers = 2 if self._content.marker else 0
        return Fetched(
            revision,
            files=tally.files,
            total_bytes=listing.total_bytes,
            reused_bytes=tally.reused_bytes,
            requests=tally.requests + listing.requests + again.requests + markers,
        )

    def _transfer(
        self, store: S3Store, listing: Listing, staging: Path, reuse: Reuse | None, progress: Progress
    ) -> Tally:
        prefix, digests = Prefix(store, self._bucket, self._key), Digests(self._bucket, self._content.ca_file)
        with Staging(staging, self._content.limits) as target:
            try:
                transfer = Transfer(prefix, target, self._content.limits, digests, reuse)
                tally = transfer.run(listing.items, progress, self._stall_s)
            except ContentError:
                if reuse is not None:
                    reuse.remember(whole=False)
                raise
            target.finish()
        return tally

    def _require_marker(self, store: S3Store, revision: str) -> None:
        if not self._content.marker:
            return
        what = f"{self._place}{self._content.marker}"
        try:
            etag = ask_etag(store, self._key + self._content.marker, revision, what)
        except Gone:
            raise ContentMoved(f"{what} is gone: something new is being published") from None
        if etag != revision:
            raise ContentMoved(f"{what} has another revision now than the one that was asked for")

    def _refuse_absent(self, tally: Tally) -> None:
        """What is listed and cannot be read has another name than it seems; an empty one stands for a folder."""
        for item in sorted(tally.absent):
            if item.size:
                raise ContentStalled(
                    f"{self._place}: the key {shown(item.name)} is listed and cannot be read: "
                    "it ends with a slash, or has a character that no file name should have"
                )

    def _download(self, store: S3Store, revision: str, file: IO[bytes], progress: Progress) -> Packed:
        """Write the archive as it is into a file."""
        try:
            result, body = download(store, self._key, revision, self._place)
        except Gone:
            raise ContentMoved(f"{self._place} is gone") from None
        size, limit = result.meta["size"], self._content.limits.total_bytes
        if size > limit:
            raise ContentStalled(f"{self._place}: {size} bytes, and the limit is {limit}")
        digests = Digests(self._bucket, self._content.ca_file)
        came = digests.expect(revision)
        progress(0, size)
        for piece in watched(body, self._stall_s, self._place):
            file.write(piece)
            came.add(piece)
            progress(came.size, size)
        digests.check(store, self._key, Item("", size, revision, result.meta["last_modified"]), came)
        return Packed(size, came.sha256)
