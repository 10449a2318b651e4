"""Counts the calls by which a program and all that it starts change the world, and kills one process before one call.

`tracer.py LOG WHERE COMMAND...`: each call becomes a line `TASK NUMBER PROCESS CALL OBJECT` of LOG. A task is a thread
or a process, named by descent: `0` is the command itself, `0.3` the third that it started, so that a second run of the
same names them alike; PROCESS is the task that began the process. WHERE is `none`, or `TASK:NUMBER`: that process gets
KILL when its task is about to make this call, and the call is not made. Leaves when all have ended, with the command's
exit code.

Why not strace: its injection counts the calls of each thread by itself, so the first thread that gets to the Nth call
is killed, and calls of the others are never tried. The kernel stops a task for the calls of the list only (seccomp).
Needs x86_64 and Linux 5.3. Runs alone, with `python -I -S`.
"""

import ctypes
import os
import signal
import struct
import sys
from pathlib import Path
from typing import Any

CALLS = {
    "write": 1,
    "pwrite64": 18,
    "writev": 20,
    "clone": 56,
    "fork": 57,
    "vfork": 58,
    "execve": 59,
    "kill": 62,
    "flock": 73,
    "fsync": 74,
    "fdatasync": 75,
    "ftruncate": 77,
    "rename": 82,
    "mkdir": 83,
    "rmdir": 84,
    "link": 86,
    "unlink": 87,
    "symlink": 88,
    "chmod": 90,
    "fchmod": 91,
    "chown": 92,
    "fchown": 93,
    "exit_group": 231,
    "openat": 257,
    "mkdirat": 258,
    "fchownat": 260,
    "unlinkat": 263,
    "renameat": 264,
    "linkat": 265,
    "symlinkat": 266,
    "fchmodat": 268,
    "utimensat": 280,
    "fallocate": 285,
    "renameat2": 316,
    "pidfd_send_signal": 424,
    "clone3": 435,
}
PAGE_BYTES = 4096
NAMES = {number: name for name, number in CALLS.items()}
BY_DESCRIPTOR = ("write", "pwrite64", "writev", "flock", "fsync", "fdatasync", "ftruncate", "fchmod", "fchown")
BY_PATH = {
    "rename": (0, 1),
    **dict.fromkeys(("mkdir", "unlink", "rmdir", "execve", "chmod"), (0,)),
    **dict.fromkeys(("openat", "mkdirat", "unlinkat", "fchmodat"), (1,)),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

SEIZE, CONT, LISTEN, GETEVENTMSG, SYSCALL_INFO = 0x4206, 7, 0x4208, 0x4201, 0x420E
EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_SECCOMP, EVENT_STOP = 1, 2, 3, 4, 7, 128
OPTIONS = sum(1 << event for event in (EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_SECCOMP)) | 1 << 20
WALL = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.restype = ctypes.c_long
LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)

# Classic BPF: load a word, jump if equal, jump if any bit is set, leave.
LOAD, EQUAL, ANY_BIT, LEAVE = 0x20, 0x15, 0x45, 0x06
TRACE, ALLOW = 0x7FF00000, 0x7FFF0000
THIRD_ARGUMENT = 16 + 2 * 8


def ptrace(request: int, pid: int, address: Any = None, data: Any = None) -> int:
    """Raises ProcessLookupError for a task that is gone."""
    answer = LIBC.ptrace(request, pid, address, data)
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(answer)


def stop_at_calls() -> None:
    """From now on the calls of the list stop whoever makes them, this process and all that it starts."""
    always = [number for name, number in CALLS.items() if name != "openat"]
    tail = [(LOAD, 0, 0, THIRD_ARGUMENT), (ANY_BIT, 0, 1, WRITING), (LEAVE, 0, 0, TRACE), (LEAVE, 0, 0, ALLOW)]
    program = [(LOAD, 0, 0, 0)]
    for place, number in enumerate(always):
        program.append((EQUAL, len(always) - place + 2, 0, number))  # to the first LEAVE of the tail
    program.append((EQUAL, 0, 3, CALLS["openat"]))
    program += tail
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    kept = ctypes.create_string_buffer(code)
    document = struct.pack("=H6xQ", len(program), ctypes.addressof(kept))
    LIBC.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS: asked for, where it is not root that asks
    if LIBC.prctl(22, 2, document, 0, 0) != 0:  # PR_SET_SECCOMP
        raise OSError(ctypes.get_errno(), "seccomp")


class Tracer:
    """Everything that descends from one command."""

    def __init__(self, log: str, where: str) -> None:
        self.log = Path(log).open("w", buffering=1)  # noqa: SIM115 - for as long as this process lives
        task, _, number = where.rpartition(":")
        self.victim = (task, int(number)) if task else None
        self.names: dict[int, str] = {}
        self.children: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.nameless: set[int] = set()
        self.code = 0

    def start(self, words: list[str]) -> None:
        """Start the command, traced from its first instruction."""
        gate_r, gate_w = os.pipe()
        self.root = os.fork()
        if self.root == 0:
            os.close(gate_w)
            os.read(gate_r, 1)
            stop_at_calls()
            os.execv(words[0], words)
        self.names[self.root] = "0"
        ptrace(SEIZE, self.root, None, OPTIONS)
        os.write(gate_w, b"g")
        os.close(gate_r)
        os.close(gate_w)

    def run(self) -> int:
        """Until everybody has ended."""
        while True:
            try:
                task, status = os.waitpid(-1, WALL)
            except ChildProcessError:
                return self.code
            if os.WIFSTOPPED(status):
                try:
                    self._stopped(task, status >> 16, os.WSTOPSIG(status))
                except ProcessLookupError:
                    continue  # killed meanwhile
            elif task == self.root:
                self.code = os.waitstatus_to_exitcode(status) % 256

    def _stopped(self, task: int, event: int, number: int) -> None:
        if event in (EVENT_FORK, EVENT_VFORK, EVENT_CLONE):
            self._name(task)
        elif event == EVENT_SECCOMP:
            self._called(task)
        elif event == EVENT_STOP and number != signal.SIGTRAP:
            ptrace(LISTEN, task)  # it was told to stop, and stays so
            return
        elif event == EVENT_STOP and task not in self.names:
            self.nameless.add(task)  # the news of its birth come later
            return
        ptrace(CONT, task, None, None if event else number)

    def _name(self, parent: int) -> None:
        message = ctypes.c_ulong()
        ptrace(GETEVENTMSG, parent, None, ctypes.addressof(message))
        child, name = message.value, self.names[parent]
        self.children[name] = self.children.get(name, 0) + 1
        self.names[child] = f"{name}.{self.children[name]}"
        if child in self.nameless:
            self.nameless.remove(child)
            ptrace(CONT, child)

    def _called(self, task: int) -> None:
        info = ctypes.create_string_buffer(96)
        ptrace(SYSCALL_INFO, task, len(info), ctypes.addressof(info))
        call, *arguments = struct.unpack_from("=7Q", info, 24)
        call_name = NAMES[call]
        subject = subject_of(task, call_name, arguments)
        if subject == "anon_inode:[eventfd]":
            return  # wakes a thread of the same process
        name, process = self.names[task], process_of(task)
        number = self.counts[name] = self.counts.get(name, 0) + 1
        self.log.write(f"{name} {number} {self.names[process]} {call_name} {subject}\n")
        if self.victim == (name, number):
            os.kill(process, signal.SIGKILL)


def process_of(task: int) -> int:
    """The process that a thread belongs to."""
    with Path(f"/proc/{task}/status").open() as source:
        return next(int(line.split()[1]) for line in source if line.startswith("Tgid:"))


def subject_of(task: int, call: str, arguments: list[int]) -> str:
    """What the call is about, for whoever reads the log."""
    try:
        if call in BY_DESCRIPTOR:
            return str(Path(f"/proc/{task}/fd/{arguments[0]}").readlink())
        return " ".join(text_at(task, arguments[place]) for place in BY_PATH.get(call, ()))
    except OSError:
        return "?"


def text_at(task: int, address: int) -> str:
    """The path that a pointer of another process points at. A read goes no further than its page: the last, perhaps."""
    text = b""
    with Path(f"/proc/{task}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        while b"\0" not in text:
            text += memory.read(PAGE_BYTES - (address + len(text)) % PAGE_BYTES)
    return text.split(b"\0")[0].decode("utf-8", "replace")


def main() -> None:
    """See above."""
    log, where, *words = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    tracer = Tracer(log, where)
    tracer.start(words)
    sys.exit(tracer.run())


if __name__ == "__main__":
    main()
