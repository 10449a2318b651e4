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

    __slots__ = ("parent", "pid", "session", "start_ticks", "state", "threads")

    def __init__(self, *, pid: int, state: str, parent: int, session: int, threads: int, start_ticks: int) -> None:
        self.pid = pid
        self.state = state
        self.parent = parent
        self.session = session
        self.threads = threads
        self.start_ticks = start_ticks

    @property
    def is_dead(self) -> bool:
        """Whether only its name is left. One whose first thread ended looks like a zombie while the others live on."""
        return self.state in "ZXx" and self.threads <= 1


def look_up(pid: int) -> Process | None:
    """The process with this pid now, None when there is none or it is hidden from us (mount option hidepid)."""
    try:
        with open(f"{_PROC}/{pid}/stat", "rb") as source:
            text = source.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The name may hold spaces and parentheses: what follows the last one is fixed (proc_pid_stat(5), fields 3 to 22).
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(
        pid=pid,
        state=fields[0].decode(),
        parent=int(fields[1]),
        session=int(fields[3]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
    )


def name_of(pid: int) -> str:
    """What the process calls itself, at most 15 bytes; empty when it is gone."""
    try:
        with open(f"{_PROC}/{pid}/comm", errors="replace") as source:
            return source.read().strip()
    except OSError:
        return ""


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
    """How the processes of one command are found. Who was found once stays one of them, whatever becomes of its parent.

    `root`: pid of a subreaper below which all of them stay, itself not one of them (None: gone, or never there).
    `leader`: pid and start time of the command, whose session the others share. `mark`: in everybody's environment.
    """

    def __init__(self, *, root: int | None, leader: tuple[int, int] | None, mark: str, cgroup: str | None) -> None:
        self.root = root
        self.leader = leader
        self.mark = mark.encode()
        self.cgroup = cgroup
        self._seen = {leader} if leader is not None else set()

    def members(self) -> list[Process]:
        """Every living process of the command."""
        present = everything()
        present.pop(os.getpid(), None)  # never ourselves: an agent that a command started carries its mark
        pids = self._by_cgroup() | self._by_session(present)
        pids |= {pid for pid, start_ticks in self._seen if _is_same(present.get(pid), start_ticks)}
        pids |= {pid for pid in present.keys() - pids if is_marked(pid, self.mark)}
        pids &= present.keys()
        pids |= _descendants(present, pids if self.root is None else {*pids, self.root})
        found = [present[pid] for pid in sorted(pids - {self.root})]
        self._seen = {(process.pid, process.start_ticks) for process in found}
        return [process for process in found if not process.is_dead]

    def _by_cgroup(self) -> set[int]:
        if self.cgroup is None:
            return set()
        found: set[int] = set()
        for folder, _, _ in os.walk(self.cgroup):
            try:
                with open(f"{folder}/cgroup.procs") as source:
                    found.update(int(line) for line in source)
            except OSError:
                continue  # removed meanwhile, or a group of threads
        return found

    def _by_session(self, present: dict[int, Process]) -> set[int]:
        if self.leader is None:
            return set()
        number, start_ticks = self.leader
        leader = present.get(number)
        if leader is not None and leader.start_ticks != start_ticks:
            return set()  # the number was given to somebody else, and with it the session
        if leader is None and self.cgroup is not None:
            return set()  # the number may have been given away and back; the cgroup knows for sure
        return {p.pid for p in present.values() if p.session == number and p.start_ticks >= start_ticks}


def _is_same(process: Process | None, start_ticks: int) -> bool:
    return process is not None and process.start_ticks == start_ticks


def _descendants(present: dict[int, Process], tops: set[int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for process in present.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    waiting = list(tops)
    while waiting:
        for pid in children.get(waiting.pop(), ()):
            if pid not in found:
                found.add(pid)
                waiting.append(pid)
    return found


def send(processes: Iterable[Process], number: int) -> None:
    """Signal each of these very processes (a pid that became somebody else's is left alone)."""
    for process in processes:
        try:
            pidfd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        try:
            if _is_same(look_up(process.pid), process.start_ticks):
                signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            pass  # a set-user-id program of a foreign user: it shows up as a survivor
        finally:
            os.close(pidfd)


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
        members = _stop_all(family, deadline)
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
        _tell(f"{cgroup}/cgroup.kill", "1")
    except OSError:
        pass  # before Linux 5.14 there is no such file: the search does it


def _stop_all(family: Family, deadline: float) -> list[Process]:
    """Stop everybody until a look finds nobody new; then no member can start another one."""
    known: dict[int, int] = {}
    while True:
        members = family.members()
        new = [p for p in members if known.get(p.pid) != p.start_ticks]
        if not new or time.monotonic() > deadline:
            return members
        send(new, signal.SIGSTOP)
        known.update((p.pid, p.start_ticks) for p in new)


def join_cgroup(path: str, pid: int) -> bool:
    """Put a process into a cgroup, which is made if need be. False: it cannot be."""
    for _ in range(3):  # somebody may remove the empty cgroup between the two calls
        try:
            os.makedirs(path, mode=0o755, exist_ok=True)
            _tell(f"{path}/cgroup.procs", str(pid))
        except FileNotFoundError:
            continue
        except OSError:
            return False
        return True
    return False


def _tell(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def remove_cgroup(path: str) -> None:
    """Remove a cgroup that nobody is in, with all below it, and the one above it if that is empty then."""
    folders = [folder for folder, _, _ in os.walk(path, topdown=False)]
    for folder in (*folders, os.path.dirname(path)):
        try:
            os.rmdir(folder)
        except OSError:
            continue  # somebody lives there, or it is gone
