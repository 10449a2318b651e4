"""Where everything lies on disk: chosen in one order, private to its owner, refused where it will not do, locked."""

from __future__ import annotations

import fcntl
import os
import pwd
import resource
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from children import NOBODY, as_nobody, in_child

from jetwatch import statedir
from jetwatch.errors import StateDirBusy, StateDirError
from jetwatch.statedir import PASSABLE, PRIVATE, StateDir, choose, prepare, read_holder, take_lock

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")

# --- which one --------------------------------------------------------------------------------------------------------

OPTION, CONFIGURED = Path("/from/option"), Path("/from/config")
SAID = {"JETWATCH_STATE_DIR": "/from/environment", "XDG_STATE_HOME": "/home/ann/state", "HOME": "/home/ann"}


def home_of(uid: int) -> str:
    """The home directory of an account of this machine."""
    return pwd.getpwuid(uid).pw_dir


@pytest.mark.parametrize(
    ("option", "environ", "configured", "uid", "chosen"),
    [
        (OPTION, SAID, CONFIGURED, 0, "/from/option"),
        (None, SAID, CONFIGURED, 0, "/from/environment"),
        (None, {**SAID, "JETWATCH_STATE_DIR": ""}, CONFIGURED, 0, "/from/config"),
        (None, {}, CONFIGURED, 1000, "/from/config"),
        (None, {"XDG_STATE_HOME": "/home/ann/state", "HOME": "/root"}, None, 0, "/var/lib/jetwatch"),
        (None, {"XDG_STATE_HOME": "/home/ann/state", "HOME": "/home/ann"}, None, 1000, "/home/ann/state/jetwatch"),
        (None, {"HOME": "/home/ann"}, None, 1000, "/home/ann/.local/state/jetwatch"),
        (None, {"XDG_STATE_HOME": "", "HOME": "/home/ann"}, None, 1000, "/home/ann/.local/state/jetwatch"),
        (None, {"HOME": "/"}, None, 1000, "/.local/state/jetwatch"),
        (None, {"XDG_STATE_HOME": "state", "HOME": "/home/ann"}, None, 1000, "/home/ann/.local/state/jetwatch"),
        (None, {}, None, os.getuid() or 65534, f"{home_of(os.getuid() or 65534)}/.local/state/jetwatch"),
        (None, {"HOME": ""}, None, 4_000_000_000, "/.local/state/jetwatch"),
    ],
)
def test_the_state_directory_is_chosen_in_one_order(
    option: Path | None,
    environ: dict[str, str],
    configured: Path | None,
    uid: int,
    chosen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The option, the environment, the configuration, the place of this user."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert choose(option, environ, configured) == Path(chosen)


def test_a_relative_one_is_taken_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not move when the working directory does."""
    monkeypatch.chdir(tmp_path)
    assert choose(Path("a"), {}, None) == tmp_path / "a"
    assert choose(None, {"JETWATCH_STATE_DIR": "b"}, None) == tmp_path / "b"
    assert choose(None, {}, Path("c")) == tmp_path / "c"


# --- layout -----------------------------------------------------------------------------------------------------------


def test_everything_has_a_place_below_one_root() -> None:
    """And no two things have the same one."""
    layout = StateDir.at(Path("/state"))
    places = [
        layout.journal,
        layout.lock_file,
        layout.told,
        layout.socket,
        layout.shim,
        layout.trash,
        layout.step("run-1", "play", 1),
        layout.step("run-1", "play", 2),
        layout.hook("run-1", "on_ok", 7, 1),
        layout.hook(None, "on_error", 7, 1),
        layout.hook(None, "on_error", 7, 2),
        layout.hook(None, "on_error", 8, 1),
        layout.secrets("run-1", "play"),
        layout.download("run-1"),
        layout.exchange("run-1.play.1"),
    ]
    assert len(set(places)) == len(places)
    assert all(place.is_relative_to("/state") for place in places)
    assert all(layout.step("run-1", "play", 1).is_relative_to(place) for place in (layout.runs, layout.run("run-1")))


def test_downloads_may_lie_elsewhere() -> None:
    """Then nothing else does."""
    layout = StateDir.at(Path("/state"), Path("/srv/downloads"))
    assert layout.download("run-1") == Path("/srv/downloads/run-1")
    assert layout.runs == Path("/state/runs")


def test_the_socket_of_the_system_is_where_sockets_are() -> None:
    """Elsewhere it lies inside."""
    assert StateDir.at(Path("/var/lib/jetwatch")).socket == Path("/run/jetwatch/control.sock")
    assert StateDir.at(Path("/srv/state")).socket == Path("/srv/state/control.sock")


# --- making it --------------------------------------------------------------------------------------------------------


@pytest.fixture
def layout(tmp_path: Path) -> StateDir:
    """A layout of which nothing is there, nor its parents."""
    return StateDir.at(tmp_path / "var" / "lib" / "jetwatch")


@pytest.fixture(params=[0o000, 0o002, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Whatever umask the agent was started with."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(root: Path) -> dict[str, int]:
    """The mode of everything below `root`, and its own."""
    found = {str(each.relative_to(root)): each.stat().st_mode & 0o7777 for each in root.rglob("*")}
    return {".": root.stat().st_mode & 0o7777, **found}


@pytest.mark.usefixtures("umask")
def test_everything_is_private_to_its_owner(layout: StateDir, tmp_path: Path) -> None:
    """Whatever the umask, parents that had to be made included."""
    prepare(layout, passable=False)
    os.close(take_lock(layout, 1))
    found = modes(layout.root)
    assert {name for name, mode in found.items() if mode == 0o600} == {"id", "lock"}
    assert {".", "runs", "hooks", "downloads", "exchange", "shim"} <= set(found)
    assert {mode for name, mode in found.items() if name not in ("id", "lock")} == {PRIVATE}
    assert {modes(tmp_path)[name] for name in ("var", "var/lib")} == {PRIVATE}


@pytest.mark.usefixtures("umask")
def test_other_users_can_pass_through_to_their_own_files(layout: StateDir, tmp_path: Path) -> None:
    """They cannot list anything, and the rest stays closed."""
    prepare(layout, passable=True)
    found = modes(layout.root)
    passed = {name for name, mode in found.items() if mode == PASSABLE}
    assert {".", "downloads", "exchange"} <= passed <= {".", "downloads", "exchange", "cache"}
    assert {mode for name, mode in found.items() if name not in passed} == {PRIVATE, 0o600}
    assert {modes(tmp_path)[name] for name in ("var", "var/lib")} == {PASSABLE}


def test_modes_follow_the_configuration(layout: StateDir) -> None:
    """A watch got a user of its own, or lost it."""
    for passable in (False, True, False):
        prepare(layout, passable=passable)
        assert modes(layout.root)["exchange"] == modes(layout.root)["."] == (PASSABLE if passable else PRIVATE)


def test_what_lies_inside_is_made_private_again(layout: StateDir) -> None:
    """A copy or a restored backup may have come with other modes."""
    prepare(layout, passable=False)
    (layout.runs / "run-1").mkdir()
    layout.runs.chmod(0o755)
    prepare(layout, passable=False)
    assert modes(layout.root)["runs"] == PRIVATE


def test_what_is_there_stays(layout: StateDir) -> None:
    """Another agent's history, and the id that the stable grid hangs on."""
    prepare(layout, passable=False)
    state_id = layout.state_id()
    assert str(uuid.UUID(state_id)) == state_id
    (layout.runs / "run-1").mkdir()
    layout.journal.write_text("kept")
    prepare(layout, passable=False)
    assert (layout.state_id(), layout.journal.read_text(), (layout.runs / "run-1").is_dir()) == (state_id, "kept", True)


def test_every_state_directory_has_an_id_of_its_own(tmp_path: Path) -> None:
    """Copied or not, made at the same moment or not."""
    layouts = [StateDir.at(tmp_path / str(number)) for number in range(3)]
    for each in layouts:
        prepare(each, passable=False)
    assert len({each.state_id() for each in layouts}) == 3


def test_of_two_that_begin_at_the_same_time_the_first_id_counts(
    layout: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one takes it over, and leaves nothing of its own."""
    fsync = os.fsync

    def overtaken(fd: int) -> None:
        fsync(fd)
        if not (layout.root / "id").exists():
            (layout.root / "id").write_text("the first one's\n")

    monkeypatch.setattr(os, "fsync", overtaken)
    prepare(layout, passable=False)
    assert layout.state_id() == "the first one's"
    assert [each.name for each in layout.root.iterdir() if each.is_file()] == ["id"]


def test_an_id_is_there_whole_or_not_at_all(layout: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that dies while it is written has none, and makes one the next time."""

    def power_cut(fd: int) -> None:
        raise SystemExit

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", power_cut)
        with pytest.raises(SystemExit):
            prepare(layout, passable=False)
    assert not (layout.root / "id").exists()
    prepare(layout, passable=False)
    assert uuid.UUID(layout.state_id())


# --- where something is already ---------------------------------------------------------------------------------------


def test_an_empty_directory_becomes_ours(layout: StateDir) -> None:
    """With our mode, as if we had made it; a file system of its own has a lost+found."""
    layout.root.mkdir(parents=True, mode=0o755)
    (layout.root / "lost+found").mkdir()
    prepare(layout, passable=False)
    assert modes(layout.root)["."] == PRIVATE


@pytest.mark.parametrize(
    ("mode", "passable", "after"), [(0o755, False, 0o755), (0o755, True, 0o755), (0o700, True, 0o711)]
)
def test_a_directory_that_holds_other_things_keeps_its_mode(
    layout: StateDir, mode: int, passable: bool, after: int
) -> None:
    """Somebody named `/` or a home directory: it is made passable where it has to be, and what is ours is private."""
    (layout.root / "etc").mkdir(parents=True, mode=0o755)
    layout.root.chmod(mode)
    for _ in range(2):  # also when it has become a state directory
        prepare(layout, passable=passable)
        found = modes(layout.root)
        assert (found["."], found["etc"], found["runs"], found["id"]) == (after, 0o755, PRIVATE, 0o600)


@pytest.mark.parametrize("mode", [0o775, 0o777, 0o1777, 0o720, 0o702])
@pytest.mark.parametrize("name", ["state", "downloads", "state/runs"])
def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    """They could put their own files in the place of ours; it is not repaired, for who knows what is in it by now."""
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name).chmod(mode)
    with pytest.raises(StateDirError, match=f"{tmp_path / name}: others may write to this directory"):
        prepare(StateDir.at(tmp_path / "state", tmp_path / "downloads"), passable=True)
    assert (tmp_path / name).stat().st_mode & 0o7777 == mode


@as_root
@pytest.mark.parametrize("name", ["state", "downloads", "state/runs"])
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path, name: str) -> None:
    """Root too works in its own alone: the owner could replace what root is about to run."""
    (tmp_path / name).mkdir(parents=True)
    os.chown(tmp_path / name, NOBODY, NOBODY)
    with pytest.raises(StateDirError, match=f"{tmp_path / name}: this directory belongs to uid {NOBODY}"):
        prepare(StateDir.at(tmp_path / "state", tmp_path / "downloads"), passable=False)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory of root's that another user gets to, too."""
    with TemporaryDirectory(prefix="jetwatch-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@as_root
def test_a_place_where_nothing_can_be_made_is_refused(shared: Path) -> None:
    """With the path, the reason, and what to do."""
    said = as_nobody(lambda: prepare(StateDir.at(shared / "state"), passable=False))
    assert said == (
        f"StateDirError: {shared}/state: the state directory cannot be used: Permission denied. "
        "Name another one with --state-dir"
    )
    assert list(shared.iterdir()) == []


@as_root
def test_another_user_makes_its_own(shared: Path) -> None:
    """Root is not needed for anything."""
    os.chown(shared, NOBODY, NOBODY)
    assert as_nobody(lambda: prepare(StateDir.at(shared / "state"), passable=True)) == ""
    assert {each.stat().st_uid for each in (shared / "state").rglob("*")} == {NOBODY}


@pytest.mark.parametrize("name", ["state", "state/runs", "downloads", "above/state"])
def test_a_file_in_the_place_of_a_directory_is_refused(tmp_path: Path, name: str) -> None:
    """And left as it was."""
    blocked = tmp_path / name.removesuffix("/state")
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("mine")
    blocked.chmod(0o644)
    root = tmp_path / ("above/state" if name.startswith("above") else "state")
    with pytest.raises(StateDirError, match=r"cannot be used: (Not a directory|File exists)"):
        prepare(StateDir.at(root, tmp_path / "downloads"), passable=False)
    assert (blocked.read_text(), blocked.stat().st_mode & 0o777) == ("mine", 0o644)


def test_downloads_elsewhere_are_made_like_the_rest(tmp_path: Path) -> None:
    """Private, or passable; one that is there and holds other things keeps its mode."""
    layout = StateDir.at(tmp_path / "state", tmp_path / "srv" / "downloads")
    before = os.umask(0o077)
    try:
        prepare(layout, passable=True)
    finally:
        os.umask(before)
    assert layout.downloads.stat().st_mode & 0o7777 == PASSABLE
    assert not (layout.root / "downloads").exists()
    layout.downloads.chmod(0o755)
    layout.download("run-1").mkdir()
    prepare(layout, passable=False)
    assert layout.downloads.stat().st_mode & 0o7777 == 0o755


# --- file systems -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    ["nfs", "nfs4", "cifs", "smb3", "fuse", "fuse.sshfs", "fuse.glusterfs", "9p", "ceph", "lustre", "virtiofs", "gfs2"],
)
def test_a_network_or_fuse_file_system_is_refused(layout: StateDir, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks and durability do not hold there."""
    monkeypatch.setattr(statedir, "file_system_of", lambda _path: kind)
    with pytest.raises(StateDirError, match=f"of kind {kind}, where locks and durability do not hold"):
        prepare(layout, passable=False)
    assert not (layout.root / "id").exists()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", ""])
def test_a_local_file_system_will_do(layout: StateDir, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not known too."""
    monkeypatch.setattr(statedir, "file_system_of", lambda _path: kind)
    prepare(layout, passable=False)
    assert layout.state_id()


# --- the lock ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def ready(layout: StateDir) -> StateDir:
    """A state directory that nobody holds."""
    prepare(layout, passable=False)
    return layout


def test_the_second_agent_is_refused_with_the_pid_of_the_first(ready: StateDir) -> None:
    """From the same process or from another one; and it changes nothing in the file."""
    fd = take_lock(ready, 12_345)
    with pytest.raises(StateDirBusy, match=f"process {os.getpid()} holds this state directory") as refused:
        take_lock(ready, 1)
    assert refused.value.holder_pid == os.getpid()
    assert refused.value.exit_code == 75
    assert in_child(lambda: take_lock(ready, 1)) == f"StateDirBusy: {refused.value}"
    assert read_holder(ready) == (os.getpid(), 12_345)
    os.close(fd)


def test_the_lock_is_free_when_its_holder_is_gone(ready: StateDir) -> None:
    """However it went; its name stays until the next one comes."""

    def die_holding() -> None:
        take_lock(ready, 1)
        os.kill(os.getpid(), 9)

    in_child(die_holding)
    assert read_holder(ready) is not None
    os.close(take_lock(ready, 2))
    assert read_holder(ready) == (os.getpid(), 2)


def test_the_lock_file_is_never_unlinked(ready: StateDir) -> None:
    """Taken, given back and taken again it is one and the same file."""
    inodes = set()
    for _ in range(3):
        fd = take_lock(ready, 1)
        inodes.add(ready.lock_file.stat().st_ino)
        os.close(fd)
        inodes.add(ready.lock_file.stat().st_ino)
    assert len(inodes) == 1


def test_a_shorter_name_leaves_nothing_of_a_longer_one(ready: StateDir) -> None:
    """Nor does whatever else was in the file."""
    ready.lock_file.write_text("9" * 100 + " 12345\nand more\n")
    fd = take_lock(ready, 7)
    assert ready.lock_file.read_text() == f"{os.getpid()} 7\n"
    os.close(fd)


def test_a_command_does_not_inherit_the_lock(ready: StateDir) -> None:
    """Or it would hold the directory after its agent is gone."""
    fd = take_lock(ready, 1)
    command = [sys.executable, "-IS", "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"
        os.close(fd)
        os.close(take_lock(ready, 2))
        child.communicate(b"\n")


def test_a_holder_who_has_not_written_its_name_yet_is_another_process(ready: StateDir) -> None:
    """There is a moment between the lock and the name."""
    with ready.lock_file.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StateDirBusy, match="another process holds") as refused:
            take_lock(ready, 1)
    assert refused.value.holder_pid is None


@pytest.mark.parametrize("text", ["", "1", "1 2 3", "a b", "\0\0"])
def test_a_holder_who_cannot_be_read_is_unknown(ready: StateDir, text: str) -> None:
    """No guess is made."""
    ready.lock_file.write_text(text)
    assert read_holder(ready) is None


def test_without_a_lock_file_there_is_no_holder(ready: StateDir) -> None:
    """And asking does not make one."""
    assert read_holder(ready) is None
    assert not ready.lock_file.exists()


def test_a_link_in_the_place_of_the_lock_is_refused(ready: StateDir, tmp_path: Path) -> None:
    """The agent writes to no place that somebody else chose."""
    ready.lock_file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateDirError, match=str(ready.lock_file)):
        take_lock(ready, 1)
    assert not (tmp_path / "elsewhere").exists()


def test_a_disk_without_room_is_an_error_with_a_name(ready: StateDir) -> None:
    """And the lock is given back."""

    def without_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        take_lock(ready, 1)

    assert in_child(without_room) == f"StateDirError: {ready.lock_file}: File too large"


@as_root
def test_a_lock_that_may_not_be_opened_is_an_error_with_a_name(shared: Path) -> None:
    """It is somebody else's."""
    layout = StateDir.at(shared / "state")
    prepare(layout, passable=True)
    os.close(take_lock(layout, 1))
    assert as_nobody(lambda: take_lock(layout, 1)) == f"StateDirError: {layout.lock_file}: Permission denied"
