"""Places in a bucket: a prefix or an archive on one of the S3 servers, and how to fill it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

from obstore.store import S3Store
from packed_places import PackedPlace
from servers import S3Server
from source_suite import Place

from jetwatch.content.bucket import BucketSource
from jetwatch.content.source import Content, ContentKind, Source

_NUMBERS = itertools.count()


def content_of(server: S3Server, url: str, **options: Any) -> Content:
    """A prefix or archive on this server, with the credentials that may read it."""
    kind = ContentKind.BUCKET if url.endswith("/") else ContentKind.OBJECT
    secrets = {"access_key_id": server.access_key, "secret_access_key": server.secret_key}
    return Content(url, kind, **{"endpoint": server.endpoint, "secrets": secrets, **options})


def store_of(server: S3Server) -> S3Store:
    """A fast way to write many objects."""
    return S3Store(
        server.bucket,
        endpoint=server.endpoint,
        region="us-east-1",
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        client_options={"allow_http": True, "timeout": timedelta(seconds=60)},
    )


class BucketPlace(Place):
    """A prefix that nobody else uses."""

    reuses = True

    def __init__(self, server: S3Server, client: Any, **options: Any) -> None:
        self.server = server
        self.client = client
        self.prefix = f"bucket-{next(_NUMBERS)}/"
        self.options = options
        self._store = store_of(server)

    @property
    def url(self) -> str:
        """The prefix as the configuration has it."""
        return f"s3://{self.server.bucket}/{self.prefix}"

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write the objects, many at a time."""
        with ThreadPoolExecutor(16) as threads:
            for _ in threads.map(lambda file: self._store.put(self.prefix + file[0], file[1]), files.items()):
                pass

    def put_hostile(self, key: str) -> None:
        """Write a key that obstore would not."""
        self.client.put_object(Bucket=self.server.bucket, Key=self.prefix + key, Body=b"hostile")

    def remove(self, *keys: str) -> None:
        """Delete the objects."""
        for key in keys:
            self.client.delete_object(Bucket=self.server.bucket, Key=self.prefix + key)

    def content(self, **options: Any) -> Content:
        """What names it."""
        return content_of(self.server, self.url, **{**self.options, **options})

    def source(self) -> Source:
        """A source of it."""
        return BucketSource(self.content())

    def denied(self) -> AbstractContextManager[Source]:
        """With a secret key that is not the right one."""
        return self._denied()

    @contextlib.contextmanager
    def _denied(self) -> Iterator[Source]:
        secrets = {"access_key_id": self.server.access_key, "secret_access_key": "not the secret key"}
        yield BucketSource(self.content(secrets=secrets))


class MarkedPlace(BucketPlace):
    """A prefix with a marker, which its publisher writes last, anew each time."""

    marker = "REVISION"
    refuses_empty = False

    def __init__(self, server: S3Server, client: Any) -> None:
        super().__init__(server, client, marker=self.marker)
        self._publications = itertools.count(1)

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write the objects, and then the marker."""
        super().put(files)
        self._mark()

    def put_hostile(self, key: str) -> None:
        """The same with a key that obstore would not write."""
        super().put_hostile(key)
        self._mark()

    def remove(self, *keys: str) -> None:
        """Delete the objects, and write the marker."""
        super().remove(*keys)
        self._mark()

    def _mark(self) -> None:
        super().put({self.marker: f"{next(self._publications)}\n".encode()})


class ObjectPlace(PackedPlace):
    """One archive in a bucket."""

    def __init__(self, server: S3Server, client: Any) -> None:
        super().__init__()
        self.server = server
        self.client = client
        self.key = f"object-{next(_NUMBERS)}/site.tar.zst"

    @property
    def url(self) -> str:
        """The archive as the configuration has it."""
        return f"s3://{self.server.bucket}/{self.key}"

    def publish(self, packed: bytes) -> None:
        """Overwrite the object."""
        self.client.put_object(Bucket=self.server.bucket, Key=self.key, Body=packed)

    def content(self, **options: Any) -> Content:
        """What names it."""
        return content_of(self.server, self.url, **options)

    def source(self) -> Source:
        """A source of it."""
        return BucketSource(self.content())

    def denied(self) -> AbstractContextManager[Source]:
        """With an access key that nobody knows."""
        return self._denied()

    @contextlib.contextmanager
    def _denied(self) -> Iterator[Source]:
        yield BucketSource(self.content(secrets={"access_key_id": "NOBODY", "secret_access_key": "x"}))
