"""The processes of one command: found by cgroup, by descent, by session and by mark, and ended wholly.

Whoever holds a step's lock is its only killer. Without a cgroup the search is repeated with everything stopped until
nothing new is found, so that no fork can run away from it. A zombie is dead; a process that KILL does not end is told,
not waited for in silence. Imports next to nothing: a supervisor loads it.
"""

from __future__ import annotations

import os
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_PROC = "/proc"
_TWICE = 2  # two looks in a row that find nothing: the first may have met a fork half way
_PAUSE_S = 0.01


class Process:
    """One line of /proc/PID/stat: enough to know a process again and to see whose it is."""

    __slots__ = ("parent", "pid", "session", "start_ticks", "state")

    def __init__(self, pid: int, state: str, parent: int, session: int, start_ticks: int) -> None:
        self.pid = pid
        self.state = state
        self.parent = parent
        self.session = session
        self.start_ticks = start_ticks

    @property
    def is_dead(self) -> bool:
        """Whether only its name is left (zombie)."""
        return self.state in "ZXx"


def look_up(pid: int) -> Process | None:
    """The process with this pid now, None when there is none."""
    try:
        with open(f"{_PROC}/{pid}/stat", "rb") as source:
            text = source.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name may hold spaces and parentheses: what follows the last one is fixed (proc_pid_stat(5), fields 3 to 22).
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(pid, fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[19]))


def everything() -> dict[int, Process]:
    """Every process that can be seen, by pid."""
    found = {}
    for name in os.listdir(_PROC):
        if name.isdigit() and (process := look_up(int(name))):
            found[process.pid] = process
    return found


def is_marked(pid: int, mark: bytes) -> bool:
    """Whether the process was started with `mark` (`NAME=value`) in its environment."""
    try:
        with open(f"{_PROC}/{pid}/environ", "rb") as source:
            return mark in source.read().split(b"\0")
    except OSError:
        return False


class Family:
    """How the processes of one command are found.

    `root`: pid of a subreaper below which all of them stay, itself not one of them (None: gone, or never there).
    `leader`: pid and start time of the command, whose session the others share. `mark`: in everybody's environment.
    """

    def __init__(self, *, root: int | None, leader: tuple[int, int] | None, mark: str, cgroup: str | None) -> None:
        self.root = root
        self.leader = leader
        self.mark = mark.encode()
        self.cgroup = cgroup

    def members(self) -> list[Process]:
        """Every living process of the command."""
        present = everything()
        own = os.getpid()
        pids = self._by_cgroup() | self._by_descent(present) | self._by_session(present) | self._by_mark(present)
        return [p for pid in sorted(pids - {own}) if (p := present.get(pid)) and not p.is_dead]

    def _by_cgroup(self) -> set[int]:
        if self.cgroup is None:
            return set()
        try:
            with open(f"{self.cgroup}/cgroup.procs") as source:
                return {int(line) for line in source}
        except OSError:
            return set()

    def _by_descent(self, present: dict[int, Process]) -> set[int]:
        """Everything below the root, and below the leader where there is no root."""
        top = self.root if self.root is not None else self._living_leader(present)
        if top is None:
            return set()
        children: dict[int, list[int]] = {}
        for process in present.values():
            children.setdefault(process.parent, []).append(process.pid)
        found: set[int] = set()
        waiting = [top]
        while waiting:
            for pid in children.get(waiting.pop(), ()):
                if pid not in found:
                    found.add(pid)
                    waiting.append(pid)
        return found | ({top} if self.root is None else set())

    def _by_session(self, present: dict[int, Process]) -> set[int]:
        if self.leader is None:
            return set()
        leader = present.get(self.leader[0])
        if leader is not None and leader.start_ticks != self.leader[1]:
            return set()  # the number was given to somebody else, and with it the session
        return {p.pid for p in present.values() if p.session == self.leader[0] and p.start_ticks >= self.leader[1]}

    def _by_mark(self, present: dict[int, Process]) -> set[int]:
        return {pid for pid in present if is_marked(pid, self.mark)}

    def _living_leader(self, present: dict[int, Process]) -> int | None:
        if self.leader is None:
            return None
        process = present.get(self.leader[0])
        return process.pid if process and process.start_ticks == self.leader[1] else None


def send(processes: Iterable[Process], number: int) -> None:
    """Signal each of these very processes (a pid that became somebody else's is left alone)."""
    for process in processes:
        now = look_up(process.pid)
        if now and now.start_ticks == process.start_ticks:
            try:
                os.kill(process.pid, number)
            except ProcessLookupError:
                pass
            except PermissionError:
                pass  # a set-user-id program of a foreign user: it shows up as a survivor


def terminate(family: Family) -> None:
    """Ask everybody to end. Stopped processes are woken, so that they can."""
    members = family.members()
    send(members, signal.SIGTERM)
    send(members, signal.SIGCONT)


def kill(family: Family, *, patience_s: float, on_pause: Callable[[float], None] = time.sleep) -> list[Process]:
    """End everybody. Returns who is still there after `patience_s` (a D state), empty when all are gone.

    `on_pause` waits between two looks; a holder pumps output meanwhile.
    """
    deadline = time.monotonic() + patience_s
    clean_looks = 0
    while True:
        _kill_cgroup(family.cgroup)
        members = _stop_all(family)
        send(members, signal.SIGKILL)
        clean_looks = 0 if members else clean_looks + 1
        if clean_looks == _TWICE:
            return []
        if time.monotonic() > deadline:
            return members
        if members:
            on_pause(_PAUSE_S)


def _kill_cgroup(cgroup: str | None) -> None:
    if cgroup is None:
        return
    try:
        with open(f"{cgroup}/cgroup.kill", "w") as target:  # Linux 5.14; the search serves older ones
            target.write("1")
    except OSError:
        pass


def _stop_all(family: Family) -> list[Process]:
    """Stop everybody until a look finds nobody new; then no member can start another one."""
    known: dict[int, int] = {}
    while True:
        members = family.members()
        new = [p for p in members if known.get(p.pid) != p.start_ticks]
        if not new:
            return members
        send(new, signal.SIGSTOP)
        known.update((p.pid, p.start_ticks) for p in new)
