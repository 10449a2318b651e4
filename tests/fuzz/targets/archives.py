"""Archives of every kind, by the same rules as the torture's: below one directory, or refused in a sentence."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from fuzz.target import Target

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "torture"))

from archives import SEEDS, Deadline, try_out


def one_input(data: bytes) -> None:
    """Nothing is written elsewhere, no link leads out, every error is a sentence of ours."""
    with tempfile.TemporaryDirectory(prefix="fuzz-archive-") as outer:
        room = Path(outer) / "room"
        room.mkdir()
        try:
            try_out(data, room)
        except Deadline:
            return


def seeds() -> list[bytes]:
    """One of each kind."""
    return [make() for make in SEEDS.values()]


TARGET = Target(
    "archives",
    "an archive becomes a tree below its directory, or a refusal; nothing is written elsewhere",
    one_input,
    words=(
        b"ustar",
        b"../",
        b"..\0",
        b"/etc/x\0",
        b"PK\x03\x04",
        b"PK\x01\x02",
        b"PK\x05\x06",
        b"\x28\xb5\x2f\xfd",
        b"\x1f\x8b\x08",
    ),
    seeds=seeds,
    longest_bytes=64 * 1024,
    small=100,
)
