"""The processes of one command: found by cgroup, by descent, by session, by mark and by brand, and ended wholly.

The mark is a variable in everybody's environment. The brand is a number made of it, in everybody's soft limit of file
locks: a limit that counts for nothing since Linux 2.4.25, but is inherited, shown to everybody, and still there in who
left the session, lost its parent and cleared its environment.

Whoever holds a step's lock is its only killer. Without a cgroup the search is repeated with everything stopped until
nothing new is found, so that no fork can run away from it. A zombie is dead, and buried where it is ours, so that who
forks without end does not use up the machine's pids while it is ended; a process that KILL does not end is told, not
waited for in silence. Imports next to nothing: a supervisor loads it.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from _thread import allocate_lock  # that of threading, which a supervisor does without

from jetwatch.bounded import read_proc
from jetwatch.trees import remove_some, visit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_PROC = "/proc"
_STAT_BYTES = 1024  # a name of 64 bytes at most, and 51 numbers
_NAME_BYTES = 64  # TASK_COMM_LEN is 16
_LIMITS_BYTES = 4096  # 17 lines of 78 bytes
_LOAD_BYTES = 256
_MARK_WITHIN_BYTES = 4096  # the mark is the first variable that a command is given
_NOT_FOR_US = b"?"  # an environment without any mark
_EXITING = 0x4  # PF_EXITING and PF_KTHREAD of the kernel's sched.h, as /proc/PID/stat shows them
_KERNEL_THREAD = 0x200000
_PASSES = 100
_MOST_PIDS = 2**22
_MEMBERS_BYTES = 8 * _MOST_PIDS  # each of them in a line
_INIT = 1  # the parent of everybody who lost theirs: to call it ours would be to end the machine
_BRAND_LIMIT = 10  # RLIMIT_LOCKS, which the module `resource` has no name for
_BRAND_LINE = b"%-25s %d "  # as /proc/PID/limits shows the name and the soft limit
_TWICE = 2  # two looks in a row that find nothing: the first may have met a fork half way
_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.5  # who is still there after some looks is not ending: looking on costs the others their time

_ONE_LOOKS = allocate_lock()
"""Where a hundred checks are ended at once, as on a dead mount, threads that all look at the same time spend three
quarters of it handing the interpreter's lock about, and nobody else gets to it."""
_TURN_PATIENCE_S = 10.0  # who looks may hang on a process that hangs; then the others look all the same


class Process:
    """One line of /proc/PID/stat: enough to know a process again and to see whose it is."""

    __slots__ = ("flags", "parent", "pid", "session", "start_ticks", "state", "threads")

    def __init__(
        self, *, pid: int, state: str, parent: int, session: int, flags: int, threads: int, start_ticks: int
    ) -> None:
        self.pid = pid
        self.state = state
        self.parent = parent
        self.session = session
        self.flags = flags
        self.threads = threads
        self.start_ticks = start_ticks

    @property
    def is_dead(self) -> bool:
        """Whether only its name is left. One whose first thread ended looks like a zombie while the others live on."""
        return self.state in "ZXx" and self.threads <= 1

    @property
    def is_ending(self) -> bool:
        """Whether it does nothing any more; what it did last may just be seen."""
        return self.is_dead or bool(self.flags & _EXITING and self.threads <= 1)


def look_up(pid: int) -> Process | None:
    """The process with this pid now, None when there is none or it is hidden from us (mount option hidepid)."""
    try:
        text = read_proc(f"{_PROC}/{pid}/stat", _STAT_BYTES)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The name may hold spaces and parentheses: what follows the last one is fixed (proc_pid_stat(5), fields 3 to 22).
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(
        pid=pid,
        state=fields[0].decode(),
        parent=int(fields[1]),
        session=int(fields[3]),
        flags=int(fields[6]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
    )


def name_of(pid: int) -> str:
    """What the process calls itself, at most 15 bytes; empty when it is gone."""
    try:
        return read_proc(f"{_PROC}/{pid}/comm", _NAME_BYTES).decode(errors="replace").strip()
    except OSError:
        return ""


def meet_everybody(
    judge: Callable[[Process], bool | None],
    *,
    passes: int = 1,
    on_dead: Callable[[Process], None] = lambda _process: None,
) -> dict[int, Process]:
    """Show every process to `judge`, and return those that it called its own, by pid.

    Who ends while it is looked at (`judge` says None) may have left a successor that was not there yet when the looking
    began. So whoever is new is looked at, in up to so many passes, until nobody new has ended meanwhile. `on_dead` is
    shown the zombies.
    """
    found: dict[int, Process] = {}
    listed: set[int] = set()
    for _ in range(passes):
        new = {int(name) for name in os.listdir(_PROC) if name.isdigit()} - listed
        listed |= new
        everybody_was_met = True
        for pid in _newest_first(new):  # those are the ones that still live
            process = look_up(pid)
            if process is not None and process.is_dead:
                on_dead(process)
            verdict = judge(process) if process is not None and not process.is_ending else None
            if process is not None and verdict:
                found[pid] = process
            everybody_was_met = everybody_was_met and verdict is not None
        if everybody_was_met:
            break
    return found


def _newest_first(pids: set[int]) -> list[int]:
    """Numbers are given away upwards, and from below again when there is none left above."""
    newest = int(read_proc(f"{_PROC}/loadavg", _LOAD_BYTES).split()[-1])
    return sorted(pids, key=lambda pid: (newest - pid) % _MOST_PIDS)


class Mark:
    """What everybody carries whom one command started: a variable (`NAME=value`), and the brand made of it."""

    __slots__ = ("brand", "variable")

    def __init__(self, text: str) -> None:
        self.variable = text.encode()
        value = 0xCBF29CE484222325
        for byte in self.variable:
            value = (value ^ byte) * 0x100000001B3 % 2**64
        self.brand = value >> 3 | 2**61  # 61 bits of FNV-1a: nobody else's, and no limit that anybody means


def brand(number: int, hard: int) -> None:
    """Brand this process, and all that it will start. `hard`: the hard limit as it is, which stays so."""
    try:
        resource.setrlimit(_BRAND_LIMIT, (number, hard))
    except (OSError, ValueError):
        pass  # somebody limited it: the mark has to do


def lose_brand() -> None:
    """Be nobody's: an agent that a command started hands its brand down, and its supervisors are not that command's."""
    hard = hard_limit_of_brands()
    brand(hard, hard)


def hard_limit_of_brands() -> int:
    """The second argument of `brand`, asked for before a fork."""
    return resource.getrlimit(_BRAND_LIMIT)[1]


def is_marked(process: Process, mark: Mark) -> bool | None:
    """Whether it carries `mark`; None when it has ended, and nobody can tell.

    The brand is asked for first: the kernel keeps it. The environment lies in the process's own memory, which may be of
    any size, and may be a file that another account serves and never gives: it is read of processes of our own account
    alone, and no more than a page of it.
    """
    if process.flags & _KERNEL_THREAD:
        return False
    folder = f"{_PROC}/{process.pid}"
    try:
        if _BRAND_LINE % (b"Max file locks", mark.brand) in read_proc(f"{folder}/limits", _LIMITS_BYTES):
            return True
        text = read_proc(f"{folder}/environ", _MARK_WITHIN_BYTES) if _is_of_our_account(folder) else _NOT_FOR_US
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:
        return False  # it hides itself, and has no brand
    if text:
        return mark.variable in text.split(b"\0")
    now = look_up(process.pid)  # it was started with nothing, or has given its memory back on its way out
    return None if now is None or now.is_ending else False


def _is_of_our_account(folder: str) -> bool:
    """By the directory of a process, which has its effective user as owner, whatever the process allows others."""
    return os.stat(folder).st_uid == os.geteuid()


class Family:
    """How the processes of one command are found. Who was found once stays one of them, whatever becomes of its parent.

    `root`: pid of a subreaper below which all of them stay, itself not one of them (None: gone, or never there).
    `leader`: pid and start time of the command, whose session the others share. `mark`: the variable in everybody's
    environment, of which everybody's brand is made.
    """

    def __init__(self, *, root: int | None, leader: tuple[int, int] | None, mark: str, cgroup: str | None) -> None:
        if "=" not in mark:
            raise ValueError(f"{mark!r} is no mark: every environment would match it")
        self.root = root
        self.leader = leader
        self.mark = Mark(mark)
        self.cgroup = cgroup
        self._seen = {leader} if leader is not None else set()

    def members(self, on_found: Callable[[Process], None] | None = None) -> list[Process]:
        """Every living process of the command.

        With `on_found` the look is a thorough one: it hears of each at once, and nobody slips through by ending.
        """
        is_our_turn = _ONE_LOOKS.acquire(timeout=_TURN_PATIENCE_S)
        try:
            return self._look(on_found)
        finally:
            if is_our_turn:
                _ONE_LOOKS.release()

    def _look(self, on_found: Callable[[Process], None] | None) -> list[Process]:
        strangers: list[Process] = []
        ours = {self.root} if self.root is not None else set()
        in_cgroup = self._in_cgroup()
        in_session = self._has_session()

        def is_ours(process: Process) -> bool | None:
            if process.pid in (_INIT, os.getpid(), self.root):
                return False  # never ourselves: an agent that a command started carries its mark
            if self.leader is not None and process.start_ticks < self.leader[1]:
                return False  # older than the command: nothing that it started
            verdict: bool | None = (
                process.parent in ours
                or process.pid in in_cgroup
                or (process.pid, process.start_ticks) in self._seen
                or (in_session and self._shares_session(process))
                or is_marked(process, self.mark)
            )
            if verdict:
                ours.add(process.pid)
                if on_found is not None:
                    on_found(process)
            elif verdict is False:
                strangers.append(process)
            return verdict

        found = meet_everybody(is_ours, passes=1 if on_found is None else _PASSES, on_dead=self._bury)
        while late := [process for process in strangers if process.parent in ours and process.pid not in ours]:
            found.update((process.pid, process) for process in late if is_ours(process))
        self._seen = {(process.pid, process.start_ticks) for process in found.values()}
        return list(found.values())

    def _bury(self, process: Process) -> None:
        """Wait for a dead orphan that came to us; never for the command itself, whose status is the result."""
        is_leader = self.leader is not None and process.pid == self.leader[0]
        if process.parent == self.root == os.getpid() and not is_leader:
            os.waitpid(process.pid, os.WNOHANG)

    def _in_cgroup(self) -> set[int]:
        if self.cgroup is None:
            return set()
        found: set[int] = set()

        def ask(group: int) -> None:
            """Raises OSError for a group of threads, in which there are none either."""
            found.update(map(int, read_proc(f"/proc/self/fd/{group}/cgroup.procs", _MEMBERS_BYTES).split()))

        visit(self.cgroup, on_folder=ask)
        return found

    def _has_session(self) -> bool:
        """Whether the leader's session can be told from one of the same number."""
        if self.leader is None:
            return False
        leader = look_up(self.leader[0])
        if leader is None:
            return self.cgroup is None  # the number may have been given away and back; a cgroup would know for sure
        return _is_same(leader, self.leader[1])  # else it was given to somebody else, and with it the session

    def _shares_session(self, process: Process) -> bool:
        return self.leader is not None and process.session == self.leader[0] and process.start_ticks >= self.leader[1]


def _is_same(process: Process | None, start_ticks: int) -> bool:
    return process is not None and process.start_ticks == start_ticks


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
    pause_s = _PAUSE_S
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
            on_pause(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _kill_cgroup(cgroup: str | None) -> None:
    if cgroup is None:
        return
    try:
        _tell(f"{cgroup}/cgroup.kill", "1")
    except OSError:
        pass  # before Linux 5.14 there is no such file: the search does it


def _stop_all(family: Family, deadline: float) -> list[Process]:
    """Stop everybody as soon as it is found, until a look finds nobody new; then no member can start another one."""
    known: set[tuple[int, int]] = set()

    def stop(process: Process) -> None:
        if (process.pid, process.start_ticks) not in known:
            known.add((process.pid, process.start_ticks))
            send([process], signal.SIGSTOP)

    while True:
        before = len(known)
        members = family.members(stop)
        if len(known) == before or time.monotonic() > deadline:
            return members


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
    try:
        while not remove_some(path, files=False):
            continue
        os.rmdir(os.path.dirname(path))
    except OSError:
        return  # somebody lives there, or it is gone
