"""R3: the power is cut under a working agent. What was not synced is gone, truly: the file system is shut down.

The state directory lies on a disk of its own, a file that is mounted as ext4 or xfs. At a random instant its own
shutdown ioctl drops whatever is not on disk; everybody is killed, the disk is mounted again, and the next agent finds
another boot. Effects, deliveries and log lie elsewhere: they are what the world has seen until the cut. What is written
there after it, by those who live a moment longer than their disk, is taken back.
"""

from __future__ import annotations

import time
from collections import Counter

import paths  # noqa: F401
from agent_process import Elsewhen
from disks import LoopDisk, why_no_loop
from ground import Ground
from oracle import judge
from row import Dose, NotHere, Row

LONGEST_LIFE_S = 1.8


def torture(dose: Dose) -> str:
    """As many cuts on ext4 as on xfs, as far as both can be made here."""
    kinds = [kind for kind in ("ext4", "xfs") if why_no_loop(kind) is None]
    if not kinds:
        raise NotHere(str(why_no_loop("ext4")))
    parts = []
    for number, kind in enumerate(kinds):
        cuts = dose.count // len(kinds) + (number < dose.count % len(kinds))
        outcomes, before = _cuts(dose, kind, cuts)
        parts.append(
            f"{kind}: {cuts} cuts, {sum(outcomes.values())} runs {dict(outcomes)}, {before} outcomes told before"
        )
    return (
        f"{dose.count} power cuts; {'; '.join(parts)}; every effect has its row, every outcome that was told or "
        "delivered is there, no effect twice"
    )


def _cuts(dose: Dose, kind: str, cuts: int) -> tuple[Counter[str], int]:
    """Outcomes, and how many of them the world had seen before the end."""
    with Ground() as ground:
        disk = LoopDisk(kind, ground.root / "image", ground.root / "disk")
        ground.state = disk.place / "state"
        ground.configure_watches()
        try:
            for number in range(1, cuts + 1):
                _cut(ground, disk, dose)
                if number % 5 == 0:
                    ground.jetp("clear", code=None)  # lost runs would hold the watches
                if number % 50 == 0:
                    dose.say(f"{number} of {cuts} cuts on {kind}")
            before = len({line["play_uuid"] for line in ground.told("run_finished")})
            ground.settle(at=Elsewhen(rebooted=True))
            outcomes = judge(ground, lost_at_most=None)
            assert outcomes["ok"] > cuts / 8, f"hardly anything ran: {outcomes}"
        finally:
            ground.end()
            disk.unmount()
    return outcomes, before


def _cut(ground: Ground, disk: LoopDisk, dose: Dose) -> None:
    agent = ground.launch(at=Elsewhen(rebooted=True))
    if dose.random.random() < 0.8:
        ground.wait_for_beginning(agent)  # else a busy machine would be cut off while they start, and nothing else
    time.sleep(dose.random.uniform(0.0, LONGEST_LIFE_S))  # the instant is the point, not something to wait for
    world = ground.world()
    disk.cut_power()
    ground.kill_everything()
    ground.take_back(world)
    disk.unmount()
    disk.mount()


ROW = Row("R3", "a power cut loses no effect's row and no outcome that was told", torture, count=200, small=16)

if __name__ == "__main__":
    ROW.main()
