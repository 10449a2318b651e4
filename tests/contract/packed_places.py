"""A place that is one archive: whatever the suite puts there is packed and published whole."""

from __future__ import annotations

import io
import os
import tarfile
from abc import abstractmethod
from collections.abc import Mapping

import zstandard
from source_suite import Place


def packed_tar(files: Mapping[str, bytes]) -> bytes:
    """Pack these files, with names as they are, also such as no tar program would write."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return packed.getvalue()


def tar_zst(files: Mapping[str, bytes]) -> bytes:
    """The same, compressed."""
    return zstandard.ZstdCompressor().compress(packed_tar(files))


class PackedPlace(Place):
    """One archive. An empty one is an empty tree; changing it is replacing it."""

    refuses_empty = False
    hostile = (
        ("../up", "../up"),
        ("a/../b", "a/../b"),
        ("a//b", "a//b"),
        ("/absolute", "/absolute"),
        ("new\nline", r"new\nline"),
        ("pb.yml/inside", "pb.yml"),
    )

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    @abstractmethod
    def publish(self, packed: bytes) -> None:
        """Replace the archive."""

    def put(self, files: Mapping[str, bytes]) -> None:
        """Add the files and publish."""
        self.files.update(files)
        self.publish(tar_zst(self.files))

    def remove(self, *keys: str) -> None:
        """Publish without these."""
        for key in keys:
            del self.files[key]
        self.publish(tar_zst(self.files))


def noise(size: int) -> bytes:
    """Bytes that do not compress."""
    return os.urandom(size)
