"""exit.json, started.json and blocked.json of a step's directory, torn, of another version, or forged."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

from fuzz.target import Target, choice_and_rest
from jetwatch.process import launch
from jetwatch.process.shim import boot_id, pid_namespace
from jetwatch.records import Evidence, Sight, from_json, to_json

STEP = "step-1"
FILES = ("exit.json", "started.json", "blocked.json")
_room = tempfile.TemporaryDirectory(prefix="fuzz-step-")
ROOM = Path(_room.name)
_held = os.open(ROOM / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)


def one_input(data: bytes) -> None:
    """Evidence that can be stored, whether the supervisor lives or not."""
    road, rest = choice_and_rest(data, 2 * len(FILES))
    lives, name = divmod(road, len(FILES))
    for each in FILES:
        (ROOM / each).unlink(missing_ok=True)
    rest = rest.replace(b"BOOT", boot_id().encode()).replace(b"NAMESPACE", pid_namespace().encode())
    (ROOM / FILES[name]).write_bytes(rest)
    fcntl.flock(_held, fcntl.LOCK_EX if lives else fcntl.LOCK_UN)
    evidence = launch.look(ROOM, STEP)
    assert from_json(to_json(evidence), Evidence) == evidence
    assert (evidence.sight is Sight.ALIVE) == bool(lives)
    if evidence.result is not None:
        assert evidence.result.step_id == STEP
    if evidence.supervisor is not None and (pidfd := launch.open_pidfd(evidence.supervisor)) is not None:
        os.close(pidfd)


def seeds() -> list[bytes]:
    """One of each file, as they are written."""
    started = (
        b'{"format":1,"step_id":"step-1","boot_id":"BOOT","pid_namespace":"NAMESPACE","supervisor_pid":4194300,'
        b'"supervisor_start_ticks":5,"pid":4194301,"start_ticks":6,"monotonic_us":7,"cgroup":null}'
    )
    done = (
        b'{"format":1,"step_id":"step-1","ending":"exited","exit_code":0,"pid":7,"started_us":1,"ended_us":2,'
        b'"duration_s":0.5,"output_tail":"x","outputs":{"revision":"1"},"left_running":0}'
    )
    blocked = b'{"pid":7,"state":"D"}'
    return [
        b"%d" % (road * len(FILES) + number) + text
        for road in (0, 1)
        for number, text in enumerate((done, started, blocked))
    ]


TARGET = Target(
    "step_files",
    "whatever stands in a step's files, a look at its directory is evidence, and a signal goes to nobody else",
    one_input,
    words=(
        b'"supervisor_pid":',
        b'"pid":-1',
        b'"pid":0',
        b"99999999999999999999",
        b'"format":',
        b"[" * 3000,
        b"null",
        b'"ending":"lost"',
        b'"outputs":{',
        b"\\ud800",
        b"1e400",
        b"-0",
    ),
    seeds=seeds,
)
