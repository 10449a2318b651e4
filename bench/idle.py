"""Target P1: what an agent costs while it waits, beside other programs that wait.

One watch of the simplest kind (check, download, play, two hooks) that was checked once; its next check is an hour away.
`private_mb` is memory that would be free without the process and what it started (USS), `pss_mb` counts a part of
shared pages. `wakeups_per_min` is how often a thread of it gave the processor back. All run at the same time, so that
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from ground import (
    ENVIRON,
    Row,
    family,
    jetp,
    options,
    private_kb,
    process,
    shared_kb,
    tell,
    until,
    wakeups,
    watch_argv,
    workplace,
    write_config,
)
from peers import Peers

SETTLE_S = 12
SALT = "file_client: local\nmaster_type: disable\nroot_dir: {root}\nid: bench\nuser: root\n"
SUPERVISORD = """
[supervisord]
nodaemon=true
logfile={root}/log
pidfile={root}/pid
[program:one]
command=/bin/sleep infinity
"""
CIRCUSD = """
[circus]
endpoint = ipc://{root}/endpoint
pubsub_endpoint = ipc://{root}/pubsub
[watcher:one]
cmd = /bin/sleep infinity
"""
# In a mount namespace of its own, where this machine's crontabs are not to be seen.
CRON = """
mount -t tmpfs none /run && mount -t tmpfs none /var/spool && mkdir -p /var/spool/cron/crontabs &&
{ [ ! -d /etc/cron.d ] || mount -t tmpfs none /etc/cron.d; } &&
{ [ ! -e /etc/crontab ] || mount --bind /dev/null /etc/crontab; } && exec "$0" -f
"""
LOOP = "while :; do /usr/bin/false; sleep 3600; done"


def commands(work: Path, peers: Peers) -> dict[str, list[str | Path]]:
    """The command line of each program that is to be had."""
    found: dict[str, list[str | Path]] = {"jetp watch": agent(work)}
    supervisord = peers.of_pypi("supervisor", "supervisord")
    if supervisord is not None:
        found["supervisord"] = [supervisord, "-c", written(work, "supervisord", SUPERVISORD)]
    circusd = peers.of_pypi("circus", "circusd")
    if circusd is not None:
        found["circusd"] = [circusd, written(work, "circusd", CIRCUSD)]
    minion = peers.of_pypi("salt", "salt-minion")
    if minion is not None:
        found["salt-minion, masterless"] = [minion, "-c", written(work, "minion", SALT).parent]
    cron = peers.of_debian("cron", "usr/sbin/cron")
    if cron is not None and (os.geteuid() != 0 or shutil.which("unshare") is None):
        peers.missing["cron"] = "it needs root and unshare(1), to be kept from this machine's crontabs"
    elif cron is not None:
        found["cron"] = ["unshare", "--mount", "sh", "-c", CRON, cron]
    found["sh, while sleep"] = ["sh", "-c", LOOP]
    found["bare Python"] = [sys.executable, "-I", "-c", "import signal; signal.pause()"]
    return found


def agent(work: Path) -> list[str | Path]:
    """The agent, with the keys that a first watch.yml has."""
    watch = {
        "check_command": "/usr/bin/false",
        "download_command": "/usr/bin/true {{ download_path }}",
        "jet_command": "/usr/bin/true {{ download_path }}",
        "check_interval": 3600,
        "on_ok": "/usr/bin/true {{ play_uuid }}",
        "on_fail": "/usr/bin/true {{ play_uuid }}",
    }
    return watch_argv(write_config(work / "watch.yml", watch), work / "state", "--log-format", "json")


def written(work: Path, name: str, text: str) -> Path:
    """A configuration in a directory of its own."""
    root = work / name
    root.mkdir()
    (root / name).write_text(text.format(root=root))
    return root / name


def was_checked(work: Path) -> bool:
    """Whether the agent's first check is over."""
    return bool(jetp(work / "state", "status")["watches"][0]["last_check"])


def resident(pid: int) -> list[int]:
    """A program's own processes: not what it was told to keep running."""
    return [one for one in family(pid) if Path(f"/proc/{one}/comm").read_text().strip() != "sleep"]


def measure(name: str, pid: int, seconds: int, before: int) -> Row:
    """One row, after so many seconds of waiting."""
    pids = resident(pid)
    return {
        "what": name,
        "private_mb": round(sum(private_kb(one) for one in pids) / 1024, 1),
        "pss_mb": round(sum(shared_kb(one) for one in pids) / 1024, 1),
        "wakeups_per_min": round((sum(wakeups(one) for one in pids) - before) * 60 / seconds, 1),
        "processes": len(pids),
        "threads": sum(len(list(Path(f"/proc/{one}/task").iterdir())) for one in pids),
    }


def main() -> None:
    """Start all, let them come to rest, count for a while, read."""
    chosen = options(__doc__, seconds=60)
    peers = Peers()
    with workplace() as work, ExitStack() as stack:
        argv = watch_argv(write_config(work / "bad.yml", {}), work / "state")
        subprocess.run(argv, env=ENVIRON, check=False, stderr=subprocess.DEVNULL)  # compiles what is imported
        logs, started = {}, {}
        for name, argv in commands(work, peers).items():
            logs[name] = work / f"{name.split()[0]}.log"
            started[name] = stack.enter_context(process(argv, logs[name]))
        time.sleep(SETTLE_S)
        for name, each in list(started.items()):
            if each.poll() is not None:
                last = logs[name].read_text(errors="replace").strip().splitlines()[-1:]
                peers.missing[name] = f"it ended with {each.returncode}: {' '.join(last)}"
                del started[name]
        if not until(lambda: was_checked(work), 60):
            raise SystemExit(logs["jetp watch"].read_text())
        before = {name: sum(wakeups(one) for one in resident(each.pid)) for name, each in started.items()}
        time.sleep(chosen.seconds)
        rows = [measure(name, each.pid, chosen.seconds, before[name]) for name, each in started.items()]
    for row in rows:
        row["jetp_to_this"] = round(rows[0]["private_mb"] / row["private_mb"], 2)
    tell("P1 an agent that waits", rows, peers.remarks(), chosen.json)


if __name__ == "__main__":
    main()
