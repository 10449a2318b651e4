"""Something like an input: bytes turned, cut, moved, doubled, words mixed in, two inputs joined."""

from __future__ import annotations

import random
from collections.abc import Sequence

_ALWAYS = (
    *(b"\0", b"\n", b"\r", b"\r\n", b"\t", b" ", b"\x1b[2J", b"\x7f", b"\xff", b"\xc3\x28", b"\xed\xa0\x80"),
    *("\u2028".encode(), "\u202e".encode(), "\x85".encode(), "\ufeff".encode(), "²".encode(), "٣".encode()),
    *(b"-1", b"0", b"9" * 20, b"9" * 400, b"1e999", b"nan", b"18446744073709551616", b"99999", b"'", b'"', b"\\"),
)
_MOST_TURNS = 8


def mutate(data: bytes, chance: random.Random, words: Sequence[bytes], others: Sequence[bytes], longest: int) -> bytes:
    """A few changes to `data`, at most `longest` bytes."""
    body = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3, _MOST_TURNS))):
        _change(body, chance, (*_ALWAYS, *words), others)
    return bytes(body[:longest])


def _change(body: bytearray, chance: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> None:
    at = chance.randrange(len(body) + 1)
    end = at + chance.choice((1, 1, 2, 4, 16, 64))
    match chance.randrange(9):
        case 0 if at < len(body):
            body[at] ^= 1 << chance.randrange(8)
        case 1:
            body[at:end] = chance.randbytes(end - at)
        case 2:
            del body[at:end]
        case 3:
            body[at:at] = body[at:end] * chance.choice((1, 2, 50))
        case 4:
            del body[at:]
        case 5 if others:
            other = chance.choice(others)
            body[at:] = other[chance.randrange(len(other) + 1) :]
        case 6:
            body[at:end] = chance.choice(words)
        case _:
            body[at:at] = chance.choice(words)
