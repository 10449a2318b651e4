"""How far the log is told is synced often enough that a power cut repeats little."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jetwatch.telemetry.watermark import Watermark


def test_it_is_synced_when_opened_and_every_hundred_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else, after cut upon cut, each agent would tell everything since the first one again."""
    synced: list[bytes] = []
    real = {name: getattr(os, name) for name in ("fsync", "fdatasync")}
    for name, call in real.items():

        def sync(fd: int, call: object = call) -> None:
            call(fd)
            synced.append(path.read_bytes())

        monkeypatch.setattr(os, name, sync)
    path = tmp_path / "told"
    watermark = Watermark(path, 7)
    assert {int(text) for text in synced} == {7}
    synced.clear()
    for seq in range(8, 258):
        watermark.raise_to(seq)
    assert len(synced) == 2
    assert int(synced[-1]) >= 257 - 100
    assert Watermark(path, 0).seq == 257


def test_a_disk_that_takes_nothing_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is told; that it was is said with the next one."""
    watermark = Watermark(tmp_path / "told", 0)

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", refuse)
        watermark.raise_to(5)
    watermark.raise_to(6)
    assert Watermark(tmp_path / "told", 0).seq == 6
