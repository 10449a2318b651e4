"""R11: thousands of runs of one agent, and nothing is left of them but what is to be kept.

Sixty watches are due each second. Before the bulk of the runs and after it every watch is suspended and, with nothing
under way, everything that could leak is counted.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import paths  # noqa: F401
from ground import Ground
from oracle import outcomes_in
from row import Dose, Row
from waiting import until

WATCHES = 60
KEPT = 3
WAL_LIMIT_BYTES = 8 * 1024**2
RSS_GROWTH_BYTES = 8 * 1024**2
PATIENCE_S = 3600.0


@dataclass(frozen=True)
class Count:
    """What an agent at rest has."""

    descriptors: int
    threads: int
    zombies: int
    cgroups: int
    rss_bytes: int

    @classmethod
    def of(cls, pid: int, state: Path) -> Count:
        """Counted now."""
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        state_id = (state / "id").read_text().strip()
        return cls(
            descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
            threads=int(status["Threads"]),
            zombies=sum(_is_zombie_of(path, pid) for path in Path("/proc").glob("[0-9]*/stat")),
            cgroups=sum(state_id in folder for folder, _, _ in os.walk("/sys/fs/cgroup")),
            rss_bytes=int(status["VmRSS"].split()[0]) * 1024,
        )


def _is_zombie_of(path: Path, pid: int) -> bool:
    try:
        fields = path.read_text().rsplit(") ", 1)[1].split()
    except OSError:
        return False
    return fields[0] == "Z" and int(fields[1]) == pid


def torture(dose: Dose) -> str:
    """A tenth of the runs (at least 200) before the first count, the rest before the second."""
    with Ground() as ground:
        ground.configure_watches(
            [f"w{number}" for number in range(WATCHES)],
            download_command=None,
            jet_command="true",
            on_done=None,
            retain={"runs": KEPT},
            disk_reserve={"bytes": 0, "inodes": 0},
        )
        agent = ground.launch("--log-level", "error")
        first = max(200, dose.count // 10)
        _let_run(ground, dose, first)
        before = _rest(ground, agent.pid)
        ground.jetp("resume")
        wal_bytes = _let_run(ground, dose, dose.count)
        after = _rest(ground, agent.pid)
        runs = _runs(ground)
        bad = {outcome for outcome in outcomes_in(ground.state / "journal.db").values() if outcome != "ok"}
        assert not bad, f"runs of `true` ended {bad}"
        left = _left_on_disk(ground)
        agent.terminate()
        code = agent.wait(timeout=120)
        assert code == 0, f"the agent left with {code}: {ground.errors.read_text()}"
    growth = after.rss_bytes - before.rss_bytes
    _judge(before, after, left, wal_bytes)
    return (
        f"{runs} runs; descriptors {before.descriptors} → {after.descriptors}, threads {before.threads} → "
        f"{after.threads}, zombies {after.zombies}, control groups {before.cgroups} → {after.cgroups}, "
        f"memory {before.rss_bytes / 1024**2:.1f} → {after.rss_bytes / 1024**2:.1f} MiB ({growth / 1024:+.0f} KiB), "
        f"log of the journal at most {wal_bytes / 1024**2:.1f} MiB; directories of runs {left['runs']} "
        f"(kept are {KEPT} for each of {WATCHES} watches), downloads {left['downloads']}, trash {left['trash']}, "
        f"exchange {left['exchange']}"
    )


def _judge(before: Count, after: Count, left: dict[str, int], wal_bytes: int) -> None:
    assert after.descriptors <= before.descriptors, f"descriptors leak: {before} {after}"
    assert after.threads <= before.threads, f"threads leak: {before} {after}"
    assert after.zombies == 0, f"zombies: {after}"
    assert after.cgroups <= before.cgroups, f"control groups leak: {before} {after}"
    assert after.rss_bytes - before.rss_bytes <= RSS_GROWTH_BYTES, f"memory grows: {before} {after}"
    assert wal_bytes <= WAL_LIMIT_BYTES, f"the journal's log had {wal_bytes} bytes"
    assert left["runs"] <= KEPT * WATCHES, f"run directories: {left}"
    assert left["downloads"] <= KEPT * WATCHES, f"downloads: {left}"
    assert left["trash"] == 0, f"half removed: {left}"
    assert left["exchange"] == 0, f"exchange files: {left}"


def _let_run(ground: Ground, dose: Dose, wanted: int) -> int:
    """Wait for so many runs in all. Returns how long the write-ahead log was at most."""
    most = said = 0

    def done() -> bool:
        nonlocal most, said
        log = ground.state / "journal.db-wal"
        most = max(most, log.stat().st_size if log.exists() else 0)
        count = _runs(ground)
        if count >= said + 1000:
            said = count
            dose.say(f"{count} of {dose.count} runs")
        return count >= wanted

    until(done, PATIENCE_S, pause_s=1.0)
    return most


def _runs(ground: Ground) -> int:
    path = ground.state / "journal.db"
    if not path.exists():
        return 0
    database = sqlite3.connect(f"file://{path}?mode=ro", uri=True)
    try:
        return int(database.execute("SELECT count(*) FROM run WHERE outcome IS NOT NULL").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # it is just being made
    finally:
        database.close()


def _rest(ground: Ground, pid: int) -> Count:
    """With every watch suspended, nothing under way, and all that is to be removed removed."""
    ground.jetp("suspend", "--reason", "to be counted")
    until(lambda: not ground.supervisors() and all(not watch["open_run"] for watch in _watches(ground)), 300.0)
    until(lambda: int(_status_of(pid, "Threads")) <= 2, 300.0)
    return Count.of(pid, ground.state)


def _watches(ground: Ground) -> list[dict[str, object]]:
    return list(ground.data("status")["watches"])


def _status_of(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split(":")[1] for line in lines if line.startswith(f"{name}:"))


def _left_on_disk(ground: Ground) -> dict[str, int]:
    homes = [ground.state / "runs", ground.state / "downloads"]
    return {
        "runs": len([path for path in homes[0].iterdir() if not path.name.startswith(".")]),
        "downloads": len([path for path in homes[1].iterdir() if not path.name.startswith(".")]),
        "trash": sum(path.name.startswith(".trash.") for home in homes for path in home.iterdir()),
        "exchange": len(list((ground.state / "exchange").iterdir())),
    }


ROW = Row("R11", "nothing is left of thousands of runs but what is to be kept", torture, count=10_000, small=400)

if __name__ == "__main__":
    ROW.main()
