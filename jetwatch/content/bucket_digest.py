"""Whether the bytes that came are the object that was listed.

The size always; the MD5 where the ETag is one. It is none for objects put in parts (it then has a dash), in directory
buckets, and for those encrypted with a key of KMS or of the customer, which only a header says: it is asked for when a
digest differs, and nowhere else.
"""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from typing import TYPE_CHECKING

from jetwatch.content.bucket_listing import Item
from jetwatch.content.bucket_store import READ_S, failures
from jetwatch.content.source import ContentRetry

if TYPE_CHECKING:
    from obstore.store import S3Store

_ENCRYPTED = ("x-amz-server-side-encryption-aws-kms-key-id", "x-amz-server-side-encryption-customer-algorithm")
DIRECTORY_BUCKET = "--x-s3"


class Came:
    """The bytes of one object as they come in: how many, and their digests (our own, and the server's if it has one).

    An MD5 takes longer than the bytes do to come over a fast network, so it is not made for nothing.
    """

    def __init__(self, *, md5: bool) -> None:
        self.size = 0
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 else None
        self._sha256 = hashlib.sha256()

    def add(self, piece: bytes | memoryview) -> None:
        """The next piece."""
        self.size += len(piece)
        if self._md5 is not None:
            self._md5.update(piece)
        self._sha256.update(piece)

    @property
    def md5(self) -> str | None:
        """The MD5 of all so far, in hexadecimal, if it was asked for."""
        return self._md5.hexdigest() if self._md5 is not None else None

    @property
    def sha256(self) -> str:
        """The SHA-256 of all so far, in hexadecimal."""
        return self._sha256.hexdigest()


class Digests:
    """Checks the objects of one bucket."""

    def __init__(self, bucket: str, ca_file: str | None) -> None:
        self._bucket = bucket
        self._ca_file = ca_file
        self._are_md5 = not bucket.endswith(DIRECTORY_BUCKET)

    def expect(self, etag: str) -> Came:
        """What takes the bytes of an object with this ETag."""
        return Came(md5=self._are_md5 and re.fullmatch(r"[0-9a-f]{32}", etag) is not None)

    def check(self, store: S3Store, key: str, item: Item, came: Came) -> None:
        """Raise ContentRetry unless what came is the object `key` as it was listed."""
        what, digest = f"s3://{self._bucket}/{key}", came.md5
        if came.size != item.size:
            raise ContentRetry(f"{what}: {came.size} bytes came, and {item.size} were expected")
        if not self._are_md5 or digest in (None, item.etag):
            return
        if not self._encrypted(store, key):
            raise ContentRetry(f"{what}: the bytes that came are not those of its ETag (MD5 {digest}, not {item.etag})")
        self._are_md5 = False

    def _encrypted(self, store: S3Store, key: str) -> bool:
        """Ask whether it is an object whose ETag tells nothing; False when the server does not say."""
        import http.client
        import ssl
        import urllib.request

        import obstore

        class NoRedirect(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_: object, **__: object) -> None:
                """There is no next question."""

        refused: tuple[type[Exception], ...] = (*failures(), http.client.HTTPException)
        try:
            url = obstore.sign(store, "HEAD", key, timedelta(seconds=60))
            trust = ssl.create_default_context(cafile=self._ca_file)
            asked = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the URL of the configured endpoint
            # Another host's word does not count: who redirects is not followed.
            opener = urllib.request.build_opener(NoRedirect, urllib.request.HTTPSHandler(context=trust))
            with opener.open(asked, timeout=READ_S) as answer:
                headers = answer.headers
        except refused:
            return False
        return any(name in headers for name in _ENCRYPTED) or headers.get(
            "x-amz-server-side-encryption", ""
        ).startswith("aws:kms")
