"""Which runs keep their directories. Pure: sizes and ages in, ids out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from jetwatch.config.model import Retain
from jetwatch.records import Run, Stamp


def to_sweep(
    closed: Sequence[Run],
    retain: Retain,
    now: Stamp,
    *,
    sizes_bytes: Mapping[str, int],
    keep: Collection[str],
) -> tuple[str, ...]:
    """The ids of the runs to remove, of `closed` (newest first), by count, age and total size.

    A run in `keep` stays, and counts. The newest run stays whatever its size: it is what a person wants to look at.
    """
    swept = []
    total_bytes = 0
    for place, run in enumerate(closed):
        total_bytes += sizes_bytes.get(run.id, 0)
        too_many = place >= retain.runs
        too_old = now.wall_us - run.opened.wall_us > retain.age_s * 1_000_000
        too_big = retain.max_bytes is not None and total_bytes > retain.max_bytes and place > 0
        if (too_many or too_old or too_big) and run.id not in keep:
            swept.append(run.id)
    return tuple(swept)
