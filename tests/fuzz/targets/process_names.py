"""/proc/PID/stat, comm, limits and environ: a process chooses its name and its environment, and they are bytes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fuzz.target import Target, choice_and_rest
from jetwatch.process import tree

PID = 4_000_000
PROCESS = tree.Process(pid=PID, state="S", parent=77, session=88, flags=0, threads=1, start_ticks=99)
MARK = tree.Mark("JETWATCH_STEP=run-1.play.1")
LONGEST_NAME = 64
"""Bytes: a thread's is 15 at most, a kernel thread's and a queue's longer."""
_room = tempfile.TemporaryDirectory(prefix="fuzz-proc-")
PROC = Path(_room.name)
(PROC / str(PID)).mkdir()
tree._PROC = str(PROC)


def one_input(data: bytes) -> None:
    """A name hides no field behind it; an environment marks a process if it has the mark, and only then."""
    road, rest = choice_and_rest(data, 2)
    if road == 0:
        _name(rest.replace(b"\0", b"")[:LONGEST_NAME])
    else:
        _environment(rest)


def _name(name: bytes) -> None:
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")  # as proc_task_name() does
    rest = b"S 77 0 88 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 99 " + b"0 " * 30
    (PROC / str(PID) / "stat").write_bytes(b"%d (%s) %s\n" % (PID, escaped, rest))
    (PROC / str(PID) / "comm").write_bytes(escaped + b"\n")
    found = tree.look_up(PID)
    assert found is not None
    facts = [(each.parent, each.session, each.threads, each.start_ticks) for each in (found, PROCESS)]
    assert facts[0] == facts[1], facts
    tree.name_of(PID)


def _environment(text: bytes) -> None:
    folder = PROC / str(PID)
    (folder / "limits").write_bytes(b"Limit Soft Limit Hard Limit Units\nMax file locks unlimited unlimited locks\n")
    (folder / "environ").write_bytes(text)
    os.utime(folder)
    verdict = tree.is_marked(PROCESS, MARK)
    if MARK.variable not in text.split(b"\0"):
        assert not verdict


TARGET = Target(
    "process_names",
    "no name of a process hides what stands behind it, and no environment marks a process that has no mark",
    one_input,
    words=(b") S 1 1 1", b"(", b")", b"\\n", b"JETWATCH_STEP=run-1.play.1", b"JETWATCH_STEP=", b"\0", b"x" * 5000),
    longest_bytes=16384,
)
