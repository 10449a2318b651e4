"""The end of a command's output as text for a person, its secrets masked.

The rule: no part of a secret shows, not even where the tail's beginning or the command's end cuts it in half. Of a
secret of several lines every line is one. Values shorter than four bytes are not masked: `1` or `on` are everywhere.
Imports nothing: a supervisor loads it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

TAIL_BYTES = 4096
SHORTEST_SECRET_BYTES = 4
_STARS = b"***"


class Tail:
    """The last bytes of a stream, and room for the longest secret before them."""

    def __init__(self, secrets: Iterable[bytes]) -> None:
        parts = {part.strip() for secret in secrets for part in (secret, *secret.split(b"\n"))}
        self._secrets = [part for part in parts if len(part) >= SHORTEST_SECRET_BYTES]
        self._keep = TAIL_BYTES + max(map(len, self._secrets), default=0)
        self._data = b""

    def add(self, data: bytes) -> None:
        """Take note of what came next."""
        self._data = (self._data + data[-self._keep :])[-self._keep :]

    def text(self) -> str:
        """At most some 4 KiB. What is not UTF-8 is shown as U+FFFD."""
        data, masked = self._data, self._masked()
        shown = b""
        position = max(0, len(data) - TAIL_BYTES)
        while position < len(data):
            is_secret = masked[position]
            end = masked.find(1 - is_secret, position)
            end = len(data) if end < 0 else end
            shown += _STARS if is_secret else data[position:end]
            position = end
        return shown.decode("utf-8", "replace")

    def _masked(self) -> bytearray:
        """One byte for each of the data's: 1 where it belongs to a secret."""
        masked = bytearray(len(self._data))
        for secret in self._secrets:
            ones = b"\1" * len(secret)
            start = self._data.find(secret)
            while start >= 0:
                masked[start : start + len(secret)] = ones
                start = self._data.find(secret, start + 1)
            begun = _begun(self._data, secret)
            masked[len(masked) - begun :] = ones[:begun]
        return masked


def _begun(data: bytes, secret: bytes) -> int:
    """How many bytes at the end of `data` are the beginning of `secret`; 0 when too few to tell."""
    end, whole = memoryview(data), memoryview(secret)
    for length in range(min(len(data), len(secret) - 1), SHORTEST_SECRET_BYTES - 1, -1):
        if end[-length:] == whole[:length]:
            return length
    return 0
