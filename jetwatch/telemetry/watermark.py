"""How far the history has been told, across kills of the agent that tells it."""

from __future__ import annotations

import os
from pathlib import Path


class Watermark:
    """Up to which event of the journal's history the log was written: what is above it, the next agent tells.

    Overwritten in place after each line, so a kill repeats at most one line; not fsynced, so a power cut may repeat a
    few. A line carries its `seq`: who reads it twice can tell.
    """

    _DIGITS = 20

    def __init__(self, path: Path, default: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        text = os.pread(self._fd, self._DIGITS, 0)
        self.seq = int(text) if text.isdigit() else default
        self.raise_to(self.seq)

    def raise_to(self, seq: int) -> None:
        """Everything up to `seq` is told."""
        self.seq = seq
        os.pwrite(self._fd, f"{seq:0{self._DIGITS}}".encode(), 0)
