"""Trees that others made: measured, and removed, whatever is in them.

The rule: one descriptor shows the way, however deep it goes, and no name of more than one part is ever used; a link is
never followed and a mount never entered; work comes in slices. What lies too deep is lifted to the top of its tree by a
rename before it is entered, so that no tree is too deep to come to its end. Imports next to nothing: a supervisor loads
it.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    AnyPath = str | os.PathLike[str]

SLICE = 20_000
"""Entries that are removed at once: about a second's work."""

MOST_MEASURED = 1_000_000
"""Entries that are measured: some seconds' work. What a tree has beyond that is not counted."""

_LIFT_FROM = 256  # deeper than anything that was made to be used
_DEEPEST = 10_000  # where lifting is refused, as between quota projects; half a slice
_FOLDERS_AT_ONCE = 1_000  # names of directories that are remembered of one listing while removing
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OUTSIDE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SWAPPED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR)  # by somebody else, meanwhile: the next slice sees


class Walk:
    """A place in a tree, as the descriptor `fd`, and the way that led to it. Every method raises OSError.

    What is in a directory can be read after `enter`, and not any more after a `leave`: going up takes no right to read.
    """

    def __init__(self, parent: AnyPath, dir_fd: int | None = None) -> None:
        """At a directory to enter trees from, which nobody else can put another one in the place of."""
        self.fd = os.open(parent, _OUTSIDE, dir_fd=dir_fd)
        self._mount = _mount_of(self.fd)
        self._here = _identity(os.fstat(self.fd))
        self._above: list[tuple[int, int]] = []

    def __enter__(self) -> Walk:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        os.close(self.fd)

    @property
    def depth(self) -> int:
        """How many directories it has entered, and not left."""
        return len(self._above)

    def enter(self, name: str, *, by_force: bool = False) -> None:
        """Go down into a directory, one name deep. `by_force`: give its owner, if that is us, the right to do so."""
        place = os.open(name, _PLACE, dir_fd=self.fd)  # waits for nobody: it only names the place
        try:
            if _mount_of(place) != self._mount:
                raise OSError(errno.EBUSY, "it is a mount", name)
            if by_force:
                _allow_owner(place)
            inside = os.open(".", _ENTER, dir_fd=place)
        finally:
            os.close(place)
        try:
            _expect(_identity(os.stat("..", dir_fd=inside)), self._here, name)
            here = _identity(os.fstat(inside))
        except OSError:
            os.close(inside)
            raise
        os.close(self.fd)
        self._above.append(self._here)
        self.fd, self._here = inside, here

    def leave(self) -> None:
        """Go up again, to the very directory that it came from."""
        outside = os.open("..", _OUTSIDE, dir_fd=self.fd)
        try:
            _expect(_identity(os.fstat(outside)), self._above[-1], "..")
        except OSError:
            os.close(outside)
            raise
        os.close(self.fd)
        self.fd, self._here = outside, self._above.pop()

    def entries(self) -> Iterator[os.DirEntry[str]]:
        """What is in the directory here."""
        with os.scandir(self.fd) as listing:
            yield from listing


def visit(
    path: AnyPath,
    *,
    on_folder: Callable[[int], None] = lambda _fd: None,
    on_entry: Callable[[os.DirEntry[str]], None] = lambda _entry: None,
    most: int = MOST_MEASURED,
) -> None:
    """Show every directory of a tree, as a descriptor, and everything else in it, as an entry; each once.

    What cannot be seen (it is gone, somebody else's, a mount) is passed over; so is what comes after `most` entries.
    """
    seen = 0

    def look(walk: Walk) -> list[str]:
        nonlocal seen
        folders = []
        try:
            on_folder(walk.fd)
            for entry in walk.entries():
                seen += 1
                if seen > most:
                    break
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                else:
                    on_entry(entry)
        except OSError:
            pass  # it is being removed, or its disk fails
        return folders

    parent, name = os.path.split(path)
    try:
        with Walk(parent or ".") as walk:
            waiting = [[name]]
            while seen <= most:
                if not waiting[-1]:
                    waiting.pop()
                    if not waiting:
                        return
                    walk.leave()
                elif _has_entered(walk, waiting[-1].pop()):
                    waiting.append(look(walk))
    except OSError:
        return  # it was never made, or is moved about meanwhile


def size_bytes(path: AnyPath) -> int:
    """What the files of a tree take on their disk; 0 where there is none."""
    blocks = 0

    def count(entry: os.DirEntry[str]) -> None:
        nonlocal blocks
        try:
            blocks += entry.stat(follow_symlinks=False).st_blocks
        except OSError:
            return  # gone meanwhile

    visit(path, on_entry=count)
    return blocks * 512


def remove(path: AnyPath, *, dir_fd: int | None = None) -> None:
    """Remove a whole tree, for as long as that takes. Raises OSError as `remove_some` does."""
    while not remove_some(path, dir_fd=dir_fd):
        continue


def remove_some(path: AnyPath, *, most: int = SLICE, files: bool = True, dir_fd: int | None = None) -> bool:
    """Remove up to `most` entries of the tree at `path`, a directory whose parents nobody else can change.

    Returns whether all of it is gone; False: call again. Raises OSError when nothing could be removed, with what stands
    in the way. Without `files` (as in a control group) only directories are. `dir_fd`: where a relative path begins.
    """
    parent, name = os.path.split(path)
    try:
        with Walk(parent or ".", dir_fd) as walk:
            return _Removal(walk, most, files=files).run(name)
    except FileNotFoundError:
        return True


class _Removal:
    """One slice of removing a tree."""

    def __init__(self, walk: Walk, most: int, *, files: bool) -> None:
        self._walk = walk
        self._left = most
        self._files = files
        self._removed = 0
        self._failure: OSError | None = None

    def run(self, name: str) -> bool:
        """Whether the tree `name` is gone. Raises OSError when nothing was removed."""
        self._walk.enter(name, by_force=True)
        top = os.dup(self._walk.fd)
        try:
            gone = self._go_through(name, top)
        except OSError as error:  # a directory was moved under us
            self._failure, gone = self._failure or error, False
        finally:
            os.close(top)
        if not gone and not self._removed:
            raise self._failure or OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), name)
        return gone

    def _go_through(self, name: str, top: int) -> bool:
        names = [name]
        waiting = [self._clear()]
        while self._left > 0:
            if waiting[-1]:
                inner = waiting[-1].pop()
                if self._has_lifted(inner, top) or not self._has_entered(inner):
                    continue
                names.append(inner)
                waiting.append(self._clear())
                continue
            waiting.pop()
            self._walk.leave()
            gone = self._try(lambda: os.rmdir(names.pop(), dir_fd=self._walk.fd))
            if not waiting:
                return gone
        return False

    def _clear(self) -> list[str]:
        """Unlink what is here; returns the directories, or as many of them as are taken at once."""
        folders: list[str] = []
        for entry in self._walk.entries():
            if self._left <= 0 or len(folders) == _FOLDERS_AT_ONCE:
                break
            self._left -= 1
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif self._files:
                self._try(lambda name=entry.name: os.unlink(name, dir_fd=self._walk.fd))  # type: ignore[misc]
        return folders

    def _has_entered(self, name: str) -> bool:
        if self._walk.depth > _DEEPEST:
            self._note(OSError(errno.ENAMETOOLONG, f"deeper than {_DEEPEST} directories", name))
            return False
        try:
            self._walk.enter(name, by_force=True)
        except OSError as error:
            self._note(error)
            return False
        return True

    def _has_lifted(self, name: str, top: int) -> bool:
        """Whether a directory that lies deep is at the top now, for the next slice."""
        if self._walk.depth < _LIFT_FROM:
            return False
        try:
            os.rename(name, f"lifted-{os.urandom(8).hex()}", src_dir_fd=self._walk.fd, dst_dir_fd=top)
        except OSError:
            return False  # refused between quota projects, subvolumes, control groups: then it is entered
        self._removed += 1
        return True

    def _try(self, call: Callable[[], None]) -> bool:
        try:
            call()
        except OSError as error:
            self._note(error)
            return False
        self._removed += 1
        return True

    def _note(self, error: OSError) -> None:
        if error.errno not in (*_SWAPPED, errno.ENOTEMPTY):
            self._failure = self._failure or error


def _has_entered(walk: Walk, name: str) -> bool:
    try:
        walk.enter(name)
    except OSError:
        return False
    return True


def _allow_owner(place: int) -> None:
    facts = os.fstat(place)
    if facts.st_uid == os.geteuid() and facts.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(f"/proc/self/fd/{place}", stat.S_IRWXU)


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


def _expect(found: tuple[int, int], wanted: tuple[int, int], name: str) -> None:
    if found != wanted:
        raise OSError(errno.ESTALE, "it was moved meanwhile", name)


def _mount_of(fd: int) -> bytes:
    """The kernel's number of the mount that a descriptor lies on: also two views of one disk have two of them."""
    info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = os.read(info, 4096).split(b"\n")
    finally:
        os.close(info)
    return next((line for line in lines if line.startswith(b"mnt_id:")), b"")
