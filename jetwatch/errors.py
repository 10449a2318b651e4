"""Every error that jetwatch raises on purpose, as one tree.

    JetwatchError                  exit_code 70
    ├── ConfigError                78  watch.yml will not do: a list of problems, each with its place
    ├── StateDirError              78  the state directory will not do
    │   ├── StateDirFailing        75  its disk is full or fails
    │   └── StateDirBusy           75  another agent holds it
    ├── ImportNotSame              70  what was imported would be read as something else
    ├── JournalError               78  the journal cannot be used (never repaired, never rewritten)
    │   ├── JournalNewer           78  written by a newer version
    │   └── JournalStalled         75  not now: no space, read-only, an I/O error, somebody else's lock
    ├── NoRoom                     75  the machine has no room for one more thread, or open file
    ├── NotTrusted                 78  another account could change what is to be believed, or where it leads
    │   └── LinkOfOthers           78  a link on the way that another account may have made
    ├── NotPermitted               77
    ├── NoAgent                    69  a verb needs a running agent
    ├── UsageError                  2  the words of a command line name nothing that exists
    ├── ContentError                1  content could not be looked at or fetched
    │   ├── ContentRetry           75  not now: the network, a server's 5xx, a timeout
    │   │   ├── ContentWait        75  the server says when to ask again
    │   │   ├── ContentSlow        75  slower than `limits.min_speed`
    │   │   ├── ContentUnsaid      75  a server refused, and its words were left unread
    │   │   └── ContentMoved       75  another revision than the one asked for
    │   └── ContentStalled          1  a person is needed
    ├── WordError                   –  a command template cannot become argv
    └── CommandNotStarted           –  a command could not be started: a code and a sentence
        └── Unforeseen              –  a worker raised what nobody named

A class carries the facts and builds its own sentence. `exit_code` is what `jetp` leaves with when nobody else
handles the error; for the last three the engine records a result instead.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

DISK_FAILS = frozenset((errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EUCLEAN))
"""What a disk says that is full or broken for now. Anything else is not the disk's doing."""

NO_FILE_LEFT = frozenset((errno.EMFILE, errno.ENFILE))
"""What the kernel says when this process, or the whole machine, may open no more files."""


def visible(text: str) -> str:
    """`text` with everything that is not printable (controls, line separators, bidi marks, surrogates) escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


class JetwatchError(Exception):
    """An error with a sentence for a person: what was expected, what was found, where, what to do."""

    exit_code = 70


class Problem(NamedTuple):
    """One thing wrong (or doubtful) in a configuration.

    `path` is the place in the document (`watches.web.check_interval`), `file` and `line` (1-based) where it stands.
    """

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}"
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ConfigError(JetwatchError):
    """The configuration will not do. `problems` holds all of them, in file order."""

    exit_code = 78

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ImportNotSame(JetwatchError):
    """What was made of a crontab or of units would be read as something else, so it is not printed."""

    def __init__(self, difference: str) -> None:
        super().__init__(
            f"the watch.yml that was made would not be read as it was meant ({difference}): nothing is printed. "
            "Take the line out and write it by hand; please report it"
        )


class StateDirError(JetwatchError):
    """The state directory cannot be used: wrong owner, wrong kind of file system, not writable."""

    exit_code = 78


class StateDirFailing(StateDirError):
    """The state directory's disk is full or fails: not a matter of configuration, and it may pass."""

    exit_code = 75

    def __init__(self, place: str, error: OSError) -> None:
        super().__init__(
            f"{place}: the state directory's disk is full or fails: {error.strerror}. "
            "Nothing that was recorded is lost; make room, or look at the kernel's log"
        )


class StateDirBusy(StateDirError):
    """Another agent holds the state directory's lock."""

    exit_code = 75

    def __init__(self, path: Path, holder_pid: int | None) -> None:
        self.holder_pid = holder_pid
        holder = f"process {holder_pid}" if holder_pid else "another process"
        super().__init__(f"{path}: {holder} holds this state directory; one agent per state directory")


class JournalError(JetwatchError):
    """The journal cannot be used. It is left exactly as it was."""

    exit_code = 78


class JournalNewer(JournalError):
    """The journal has a schema of a newer jetwatch."""

    def __init__(self, path: Path, found: int, known: int) -> None:
        super().__init__(
            f"{path}: this journal has schema {found}, and this jetwatch knows up to {known}: "
            "it was written by a newer version. Install that version again; the journal was not touched"
        )


class JournalStalled(JournalError):
    """The journal cannot be read or written now, and may be later; what was to be written was not.

    `reason` is stable: no_space, read_only, io_error, locked.
    """

    exit_code = 75

    def __init__(self, path: Path, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(
            f"{path}: the journal cannot be used now ({reason}): {detail}. Nothing that was recorded is lost; "
            "look at the disk: free space and inodes, read-only, errors in the kernel's log"
        )


class NoRoom(JetwatchError):
    """The machine, the control group or a limit has no room for one more thread, or one more open file."""

    exit_code = 75


class NotTrusted(JetwatchError):
    """Another account could change what is at `path`, or what it leads to. `reason` says which part of it, and how.

    `owner_uid`: whose that part is; None where it is not the owner that makes it so.
    """

    exit_code = 78

    def __init__(self, path: Path, reason: str, owner_uid: int | None = None) -> None:
        self.path = path
        self.reason = reason
        self.owner_uid = owner_uid
        super().__init__(f"{path}: {reason}")


class LinkOfOthers(NotTrusted):
    """On the way to `path` stands `link`, which another account may have made."""

    def __init__(self, path: Path, link: Path) -> None:
        self.link = link
        super().__init__(path, f"{link} is a link in a directory of others, or one of theirs, and could lead anywhere")


class NotPermitted(JetwatchError):
    """The caller may not do this."""

    exit_code = 77


class NoAgent(JetwatchError):
    """A verb needs a running agent and there is none."""

    exit_code = 69


class UsageError(JetwatchError):
    """The words of a command line name nothing that exists, or more than one thing."""

    exit_code = 2


class WordError(JetwatchError):
    """A command template cannot become argv: bad quoting, an unknown name, a forbidden value.

    The sentence may quote what a stranger chose: it is one visible line, whatever that is.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(visible(sentence))


NOT_NOW = frozenset({"no_supervisor", "no_room"})
"""Codes of CommandNotStarted that say nothing of the command: the machine has no room, for now."""


class CommandNotStarted(JetwatchError):
    """A command could not be started. `code` is stable (`no_such_user`, `no_such_file`, …)."""

    def __init__(self, code: str, sentence: str) -> None:
        self.code = code
        super().__init__(sentence)


class Unforeseen(CommandNotStarted):
    """A worker raised what nobody named. It is the error of the action that it worked for, and of nothing else.

    `kind` says what was raised, `trace` where, a line for each call. The exception's own words are left out: they may
    hold a secret.
    """

    def __init__(self, kind: str, trace: str) -> None:
        self.kind = kind
        self.trace = trace
        super().__init__(
            "internal_error",
            f"jetwatch itself failed here ({kind}); its log says where (internal_error). Please report that",
        )


class ContentError(JetwatchError):
    """Content could not be looked at or fetched."""

    exit_code = 1


class ContentRetry(ContentError):
    """Not now: the network, a server's 5xx, a timeout. Ask again after a backoff."""

    exit_code = 75


class ContentWait(ContentRetry):
    """The server says when to ask again (429 or 503 with Retry-After)."""

    def __init__(self, sentence: str, after_s: float) -> None:
        self.after_s = after_s
        super().__init__(sentence)


class ContentSlow(ContentRetry):
    """A fetch slower than `limits.min_speed`: it is not tried again at once, others wait for its place."""


class ContentUnsaid(ContentRetry):
    """A server refused, and its words were left unread: a process that can bear them has to ask again."""


class ContentMoved(ContentRetry):
    """What is there now is another revision than the one asked for, or changed while it was fetched."""


class ContentStalled(ContentError):
    """A person is needed: wrong credentials, no such bucket, a key or an entry that is refused (by name)."""
