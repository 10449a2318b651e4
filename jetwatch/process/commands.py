"""Everything that the engine has done on the machine: steps and hooks under supervisors, checks held by a worker.

One object for one agent. Methods that may block say so and are called in a worker. What a command of a run leaves is
found in its step directory alone; this object remembers nothing about it.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import msgspec
from msgspec.structs import replace

from jetwatch import trees
from jetwatch.errors import CommandNotStarted
from jetwatch.mounts import read_mounts
from jetwatch.process import launch
from jetwatch.process import output as output_frames
from jetwatch.process.forks import Forks
from jetwatch.process.hold import hold
from jetwatch.process.place import Place
from jetwatch.process.prepare import Start, Surroundings, environment, prepare, user_ids, write_env_file
from jetwatch.records import Command, CommandResult, Ending, Evidence, ProcessId, Sight
from jetwatch.statedir import StateDir
from jetwatch.trees import SLICE
from jetwatch.trust import is_private

_TRASH = ".trash."
_GONE = ""
_MOST_SLICES = 500
"""Ten million entries of one run at one time: then somebody fills its directory as fast as it is emptied."""
_STEPS = ("download", "play")

Variables = Mapping[str, str | Mapping[str, str]]


class Commands:
    """Starts, finds, stops and buries commands."""

    def __init__(
        self, layout: StateDir, program: Path, place: Place, surroundings: Surroundings, state_id: str
    ) -> None:
        self._layout = layout
        self._program = program
        self._place = place
        self._surroundings = surroundings
        self._state_id = state_id
        self._forks = Forks(program, f"JETWATCH_CHECK={state_id}")

    def close(self) -> None:
        """End what serves the checks."""
        self._forks.close()

    # -- steps and hooks

    def start_step(
        self,
        command: Command,
        directory: Path,
        step_id: str,
        variables: Variables,
        *,
        directories: tuple[Path, ...],
        owner: str | None,
        cache_of: str | None = None,
    ) -> ProcessId | None:
        """Start a step of a run under a supervisor of its own, in a fresh `directory`. Blocks.

        `directories` are made first where they are missing, and given to the user `owner` (None: the agent's). So is
        the cache of the watch `cache_of`; the step is told of it as `cache_path`.
        Raises CommandNotStarted when it cannot be started (`no_supervisor`, `no_room`: not now; anything else: never).
        """
        with _room_needed():
            directory.mkdir(mode=0o700, parents=True)
            for path in directories:
                _make_for(path, owner)
            if cache_of is not None:
                variables = {**variables, "cache_path": str(self._own_cache(cache_of, owner))}
        return self._launch(command, directory, step_id, variables)

    def start_hook(
        self,
        command: Command,
        directory: Path,
        step_id: str,
        variables: Variables,
        *,
        output: tuple[Path, Path, str | None] | None,
    ) -> ProcessId | None:
        """Start a hook under a supervisor of its own, in a fresh `directory`. Blocks.

        `output` names a plain file to be made of the output of a run, that run's directory, and the user it is given
        to. Raises CommandNotStarted as `start_step` does.
        """
        with _room_needed():
            directory.mkdir(mode=0o700, parents=True)
            if output is not None:
                _write_plain_output(*output)
        return self._launch(command, directory, step_id, variables)

    def _launch(self, command: Command, directory: Path, step_id: str, variables: Variables) -> ProcessId | None:
        start = Start(
            step_id=step_id,
            variables=variables,
            extra_env={},
            secrets={},
            outputs_path=str(self._layout.exchange(step_id)),
        )
        spec = prepare(command, start, self._surroundings)
        return launch.start(self._program, directory, replace(spec, cgroup=self._place.new_cgroup(step_id)))

    def look(self, directory: Path, step_id: str) -> Evidence:
        """What the step directory shows now."""
        return launch.look(directory, step_id)

    def open_pidfd(self, process: ProcessId) -> int | None:
        """A descriptor that becomes readable when this very process ends; None when it has ended."""
        return launch.open_pidfd(process)

    def ask_to_stop(self, directory: Path, step_id: str) -> None:
        """Cancel a command that is held."""
        launch.ask_to_stop(directory, step_id)

    def end_supervisor(self, directory: Path, step_id: str) -> None:
        """KILL a supervisor that is far over its time."""
        launch.end_supervisor(directory, step_id)

    def bury(self, directory: Path, step_id: str, patience_s: float) -> tuple[int, str] | None:
        """End everything that a dead supervisor left. Blocks. Returns who cannot be ended."""
        survivor = launch.bury(directory, step_id, patience_s)
        if survivor is None:
            self._forget_outputs(step_id)
        return survivor

    def bury_run(self, run_id: str, patience_s: float, *, stop: bool) -> tuple[int, str] | None:
        """End everything that the dead supervisors of a run left. Blocks. Returns who cannot be ended.

        Raises CommandNotStarted while a supervisor of it lives; with `stop` that one is told to end its command.
        """
        for directory in _step_directories(self._layout.run(run_id)):
            step_id = f"{run_id}.{directory.name}"
            if self.look(directory, step_id).sight is Sight.ALIVE:
                if stop:
                    self.ask_to_stop(directory, step_id)
                raise CommandNotStarted("still_running", f"{directory}: its supervisor lives")
            survivor = self.bury(directory, step_id, patience_s)
            if survivor is not None:
                return survivor
        return None

    # -- checks

    def check(
        self,
        command: Command,
        check_id: str,
        *,
        variables: Variables,
        secrets: Mapping[str, str],
        cancel_fd: int,
        on_blocked: Callable[[int, str], None],
    ) -> CommandResult:
        """Run a check to its end. Blocks for as long as it takes; a byte on `cancel_fd` ends it.

        `on_blocked(pid, state)` is called, in this thread, when KILL does not end it.
        """
        start = Start(
            step_id=check_id,
            variables=variables,
            extra_env={"JETWATCH_CHECK": self._state_id},
            secrets=secrets,
            outputs_path=str(self._layout.exchange(check_id)),
        )
        try:
            spec = prepare(command, start, self._surroundings)
        except CommandNotStarted as error:
            return CommandResult(step_id=check_id, ending=Ending.NOT_STARTED, reason=error.code, detail=str(error))

        def announce(kind: str, facts: dict[str, Any]) -> None:
            if kind == "blocked":
                on_blocked(facts["pid"], facts["state"])

        ways = self._forks.ways()
        document, _ = hold(spec, output_frames.Counter(), announce, cancel_fd, supervisor=False, forks=ways)
        return msgspec.convert(document, CommandResult)

    def environment(self, command: Command, secrets: Mapping[str, str]) -> dict[str, str]:
        """What the command would have in its environment if it started now. Raises CommandNotStarted. May block."""
        return environment(command, secrets, self._surroundings)

    def end_old_checks(self) -> None:
        """End what the checks of an agent that was killed left. Blocks for a moment."""
        launch.end_all_marked(f"JETWATCH_CHECK={self._state_id}", patience_s=5.0)

    def free_space(self) -> list[tuple[str, int, int]]:
        """Path, free bytes and free inodes of state and downloads (inodes -1: not counted; 0: gone). Blocks."""
        return [_space(path) for path in dict.fromkeys((self._layout.root, self._layout.downloads))]

    def own_space(self) -> tuple[str, int, int]:
        """The same of the state directory alone, which is on a local disk."""
        return _space(self._layout.root)

    # -- what runs leave

    def _own_cache(self, watch: str, owner: str | None) -> Path:
        """The watch's cache for this account. Those that it had for other accounts are removed."""
        uid, _ = user_ids(owner) or (os.geteuid(), os.getegid())
        path = self._layout.cache(watch, uid)
        for found in self._layout.caches.glob(f"{watch}@*"):
            if found != path or not _is_usable_cache(path, uid):
                _remove_tree(found)
        _make_for(path, owner)
        return path

    def keep_secrets(self, run_id: str, secrets: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        """Write the secret environments of a run's commands to private files. Returns the path by command.

        Raises CommandNotStarted (`no_room`).
        """
        paths = {}
        with _room_needed():
            for name, values in secrets.items():
                path = self._layout.secrets(run_id, name)
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_env_file(path, values)
                paths[name] = str(path)
        return paths

    def forget_secrets(self, run_id: str) -> None:
        """Remove them: the run needs them no more."""
        secrets = self._layout.run(run_id) / "secrets"
        with suppress(OSError):
            trees.remove(secrets)
            self._layout.run(run_id).rmdir()  # where there was nothing else

    def forget_try(self, directory: Path) -> None:
        """Remove the directory of a hook that belongs to no run."""
        entry, attempt = directory.name.split(".")
        self._forget_outputs(f"hook-{entry}.*.{attempt}")
        with suppress(OSError):
            trees.remove(directory)

    def run_size_bytes(self, run_id: str) -> int:
        """What the run's directories take on disk. Blocks."""
        return trees.size_bytes(self._layout.run(run_id)) + trees.size_bytes(self._layout.download(run_id))

    def sweep(self, run_ids: Iterable[str]) -> list[tuple[str, str]]:
        """Remove the directories of these runs. Blocks. Returns those that had to stay, with the reason.

        A slice of each in turn: a huge one, and one that somebody goes on filling, keep no other waiting.
        """
        ids = tuple(run_ids)
        refused = []
        waiting = deque((home / run_id, _MOST_SLICES) for run_id in ids for home in self._homes())
        while waiting:
            path, slices = waiting.popleft()
            reason = _remove_slice(path) if slices else f"it is still filled, after {_MOST_SLICES * SLICE} entries"
            if reason is None:
                waiting.append((path, slices - 1))
            elif reason:
                refused.append((str(path), reason))
        for run_id in ids:
            self._forget_outputs(f"{run_id}.*")
        self._place.sweep()
        return refused

    def leftovers(self) -> frozenset[str]:
        """The ids of the runs that something on disk is named after, what is half removed included. Blocks."""
        names = (path.name.removeprefix(_TRASH) for home in self._homes() for path in _entries(home))
        return frozenset(name for name in names if _is_guid(name))

    def forget_half_done(self) -> None:
        """Remove what the checks of an earlier agent said, and the cgroups that it made for nobody.

        What steps and hooks say is named for them, and stays.
        """
        for path in _entries(self._layout.exchange("")):
            if _is_guid(path.name):
                self._forget_outputs(path.name)
        for path in _entries(self._layout.caches):
            if "@" not in path.name:  # of before caches belonged to one account, or half removed
                _remove_tree(path)
        self._place.sweep()

    def _homes(self) -> tuple[Path, Path]:
        return self._layout.downloads, self._layout.runs

    def _forget_outputs(self, pattern: str) -> None:
        for leftover in self._layout.exchange("").glob(pattern):
            with suppress(OSError):  # its command made something else of it
                leftover.unlink()


def _space(path: Path) -> tuple[str, int, int]:
    try:
        stat = os.statvfs(path)
    except OSError:
        return str(path), 0, 0
    return str(path), stat.f_bavail * stat.f_frsize, stat.f_favail if stat.f_files else -1


def _is_guid(name: str) -> bool:
    return len(name) == 36 and name.count("-") == 4  # what runs and checks are called; anything else is not ours


def _entries(parent: Path) -> list[Path]:
    return sorted(parent.iterdir()) if parent.is_dir() else []


@contextmanager
def _room_needed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommandNotStarted("no_room", f"{error.filename}: {error.strerror}") from error


def _make_for(path: Path, owner: str | None) -> None:
    """Make a private directory for a user. One that is there must be the user's, or ours since we were killed here."""
    own = (os.geteuid(), os.getegid())
    ids = user_ids(owner) or own
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not S_ISDIR(found.st_mode) or found.st_uid not in (own[0], ids[0]):
        raise PermissionError(errno.EPERM, f"expected a directory of uid {ids[0]}, found another one's", str(path))
    if (found.st_uid, found.st_gid) != ids:
        os.chown(path, *ids, follow_symlinks=False)


def _is_usable_cache(path: Path, uid: int) -> bool:
    """Whether a cache is one account's alone. What is not there yet is."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return True
    return is_private(found, os.geteuid(), uid)


def _write_plain_output(target: Path, run: Path, owner: str | None) -> None:
    """One plain file with the output of all steps, gaps said. Written once; a later hook is given it as it is."""
    ids = user_ids(owner)
    if target.exists():
        if ids is not None:
            os.chown(target, *ids, follow_symlinks=False)
        return
    building = target.with_name(f"{target.name}.new")
    fd = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as plain:
        for source in _step_directories(run):
            position = 0
            for offset, _, data in output_frames.read(str(source)):
                if offset > position:
                    plain.write(f"\n... {offset - position} bytes dropped ...\n".encode())
                plain.write(data)
                position = offset + len(data)
        if ids is not None:
            os.fchown(plain.fileno(), *ids)
    building.rename(target)


def _step_directories(run: Path) -> list[Path]:
    """Every start of every step, in order."""
    found = (path for name in _STEPS for path in run.glob(f"{name}.*"))
    return sorted(found, key=lambda path: (_STEPS.index(path.stem), int(path.suffix[1:])))


def _remove_tree(path: Path) -> None:
    """Remove a directory as a whole, or as much of it as can go."""
    while _remove_slice(path) is None:
        continue


def _remove_slice(path: Path) -> str | None:
    """Rename a directory out of sight, then remove a slice of it by descriptors.

    Returns None when there is more to do, why it must stay, or nothing when it is gone.
    """
    trash = path.with_name(f"{_TRASH}{path.name}")
    place = trash if trash.is_dir() else path
    if place.is_symlink() or not place.is_dir():
        return _GONE
    reason = _why_keep(place)
    if reason is not None:
        return reason
    try:
        if place != trash:
            place.rename(trash)
        trees.remove_some(trash)
    except OSError as error:
        return f"{trash}: {_visible(error.filename)}: {error.strerror}"
    return None


def _visible(name: object) -> str:
    """A name that a stranger chose, as one line of text."""
    return repr(os.fsdecode(name))[1:-1] if isinstance(name, str | bytes) else ""


def _why_keep(path: Path) -> str | None:
    path = path.resolve()  # as the kernel names what lies below it
    for mount in read_mounts():
        if mount.point.is_relative_to(path):
            return f"{mount.point} is a mount"
    for process in Path("/proc").glob("[0-9]*"):
        for link in ("cwd", "exe"):
            try:
                target = (process / link).readlink()
            except OSError:
                continue
            if target.is_relative_to(path):
                return f"process {process.name} lives there"
    return None
