"""What is trusted by its place: real trees, links and access lists, and an account that tries to change what passed."""

from __future__ import annotations

import errno
import os
import random
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from children import NOBODY, as_nobody

from jetwatch.errors import LinkOfOthers, NotTrusted
from jetwatch.trust import (
    MOST_LINKS,
    Accounts,
    enter,
    is_writable_by_others,
    open_directory,
    open_file,
    require,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another account")

OWN = Accounts.own()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of ours that others get to: /tmp is sticky, and this part of it is ours."""
    with TemporaryDirectory(prefix="jetwatch-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def file(place: Path) -> Path:
    """A file two directories down."""
    (place / "a/b").mkdir(parents=True)
    path = place / "a/b/file"
    path.write_text("ours")
    return path


def refusal(path: Path, accounts: Accounts = OWN) -> str:
    """Why it is not trusted."""
    with pytest.raises(NotTrusted) as refused:
        require(path, accounts)
    assert refused.value.path == path
    return refused.value.reason


def give(path: Path, uid: int = NOBODY) -> None:
    """To another account; a link itself, not what it leads to."""
    os.chown(path, uid, uid, follow_symlinks=False)


# --- owners and modes -------------------------------------------------------------------------------------------------


def test_what_is_ours_all_the_way_is_trusted(file: Path) -> None:
    """And so are its directories."""
    for path in (file, *file.parents[:3]):
        require(path, OWN)


PARTS = [("a/b/file", "it"), ("a/b", "{place}/a/b"), ("a", "{place}/a"), (".", "{place}")]


@as_root
@pytest.mark.parametrize(("part", "named"), PARTS)
def test_every_part_has_to_belong_to_root_or_to_us(place: Path, file: Path, part: str, named: str) -> None:
    """Whoever owns a directory may put something else into it; the refusal names the part."""
    give(place / part)
    named = named.format(place=place)
    assert refusal(file) == f"{named} belongs to uid {NOBODY}, who so decides what is in it: it has to belong to root"


@pytest.mark.parametrize(("part", "named"), PARTS)
@pytest.mark.parametrize("mode", [0o777, 0o702])
def test_nobody_else_may_write_to_any_part(place: Path, file: Path, part: str, named: str, mode: int) -> None:
    """The refusal names the part, and says what to do."""
    (place / part).chmod(mode)
    named = named.format(place=place)
    reason = refusal(file)
    assert reason.startswith(f"others may write to {named}")
    assert "chmod go-w" in reason


@as_root
def test_an_account_that_is_named_counts_as_ours(place: Path, file: Path) -> None:
    """And no third one beside it."""
    give(file)
    give(place / "a")
    require(file, Accounts.own((NOBODY, NOBODY)))
    give(place / "a/b", NOBODY - 1)
    assert f"{place}/a/b belongs to uid {NOBODY - 1}" in refusal(file, Accounts.own((NOBODY, NOBODY)))


@as_root
def test_what_is_roots_is_trusted_by_every_account(file: Path) -> None:
    """What another account made is not; nor is root's, where that account may write."""
    assert as_nobody(lambda: require(file, Accounts.own())) == ""
    give(file, NOBODY - 1)
    assert f"it belongs to uid {NOBODY - 1}" in as_nobody(lambda: require(file, Accounts.own()))


# --- groups and access lists ------------------------------------------------------------------------------------------


def facts(path: Path, mode: int, gid: int) -> os.stat_result:
    """Those of a file, with another mode and group."""
    found = list(path.stat())
    found[stat.ST_MODE], found[stat.ST_GID] = stat.S_IFREG | mode, gid
    return os.stat_result(found)


def test_a_group_may_write_that_has_no_other_members(file: Path) -> None:
    """Root's, and our own, as where each user has a group of that name."""
    accounts = Accounts.of((1000, 1000))
    assert [is_writable_by_others(facts(file, 0o664, gid), accounts) for gid in (0, 1000, 1001)] == [False, False, True]
    assert not is_writable_by_others(facts(file, 0o644, 1001), accounts)
    assert is_writable_by_others(facts(file, 0o646, 0), accounts)


USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NO_ID = 0xFFFFFFFF


def access_list(*named: tuple[int, int, int], mask: int = 6) -> bytes:
    """An access list as the kernel keeps it: `named` are (tag, rights, uid or gid)."""
    entries = [(USER_OBJ, 6, _NO_ID), *named, (GROUP_OBJ, 4, _NO_ID), (MASK, mask, _NO_ID), (OTHER, 0, _NO_ID)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in sorted(entries))


def set_access_list(path: Path, acl: bytes) -> None:
    """Or skip, where there are none."""
    try:
        os.setxattr(path, "system.posix_acl_access", acl)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip(f"{path}: this file system has no access lists")


@pytest.mark.parametrize(
    ("acl", "refused"),
    [
        (access_list((USER, 6, NOBODY)), True),
        (access_list((GROUP, 6, NOBODY)), True),
        (access_list((USER, 4, NOBODY)), False),
        (access_list((USER, 6, NOBODY), mask=4), False),
        (access_list((USER, 6, 0)), False),
        (access_list((GROUP, 6, 0)), False),
    ],
)
@pytest.mark.parametrize("part", ["a/b/file", "a"])
def test_an_access_list_can_let_others_write(place: Path, file: Path, part: str, acl: bytes, refused: bool) -> None:
    """The mode shows its mask as the rights of a group, which may be our own."""
    set_access_list(place / part, acl)
    if (place / part).is_dir():
        (place / part).chmod((place / part).stat().st_mode | 0o100)
    if refused:
        assert "others may write" in refusal(file)
    else:
        require(file, OWN)


# --- directories that everybody may write to --------------------------------------------------------------------------


@pytest.fixture
def shared(place: Path) -> Path:
    """A directory like /tmp."""
    (place / "shared").mkdir()
    (place / "shared").chmod(0o1777)
    return place / "shared"


def test_where_everybody_may_write_ours_stays_ours(shared: Path) -> None:
    """Nobody else can rename or remove it there; a directory of ours closes what lies in it."""
    (shared / "file").write_text("ours")
    (shared / "folder").mkdir()
    (shared / "folder/file").write_text("ours")
    (shared / "link").symlink_to("folder/file")
    for name in ("file", "folder/file", "link"):
        require(shared / name, OWN)


@as_root
@pytest.mark.parametrize("name", ["file", "folder/file", "link", "dangling"])
def test_where_everybody_may_write_theirs_is_refused(shared: Path, place: Path, name: str) -> None:
    """A file, a directory, or a link to what would be trusted by itself."""
    (place / "trusted").write_text("ours")
    (shared / "folder").mkdir()
    (shared / "folder/file").write_text("ours")
    (shared / "file").write_text("theirs")
    (shared / "link").symlink_to(place / "trusted")
    (shared / "dangling").symlink_to(place / "nothing")
    for each in ("folder", "file", "link", "dangling"):
        give(shared / each)
    assert f"belongs to uid {NOBODY}" in refusal(shared / name)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_where_everybody_may_write_a_second_name_proves_nothing(shared: Path, place: Path, kind: str) -> None:
    """A hard link has the owner of what it names, whoever made it."""
    (place / "elsewhere").write_text("ours")
    (place / "pointer").symlink_to("elsewhere")
    os.link(place / ("elsewhere" if kind == "file" else "pointer"), shared / "it", follow_symlinks=False)
    assert "has a second name, and others may make one in" in refusal(shared / "it")


def test_a_list_of_files_that_everybody_may_add_to_is_refused(shared: Path) -> None:
    """That nobody can replace what is in it does not help a directory that is read as a whole."""
    assert "others may write to" in refusal(shared)


def test_in_a_directory_without_the_sticky_bit_nothing_is_trusted(shared: Path) -> None:
    """Ours could be renamed."""
    (shared / "file").write_text("ours")
    shared.chmod(0o777)
    assert f"others may write to {shared}" in refusal(shared / "file")


# --- links ------------------------------------------------------------------------------------------------------------


def test_a_link_is_followed_to_what_is_trusted(place: Path, file: Path) -> None:
    """Absolute, relative, upwards, one behind the other."""
    (place / "absolute").symlink_to(file)
    (place / "folder").symlink_to("a/b")
    (place / "a/up").symlink_to("../absolute")
    (place / "chain").symlink_to("a/up")
    for name in ("absolute", "folder/file", "a/up", "chain", "folder/../b/file"):
        require(place / name, OWN)
        descriptor = open_file(place / name, OWN)
        assert descriptor is not None
        with os.fdopen(descriptor) as opened:
            assert opened.read() == "ours"


@as_root
@pytest.mark.parametrize("name", ["to_file", "to_folder/file", "to_chain", "folder/../../file"])
def test_a_link_to_a_place_of_others_is_refused(place: Path, file: Path, name: str) -> None:
    """The directories on the way that it takes count, not those that it is named by."""
    theirs = place / "theirs"
    (theirs / "folder").mkdir(parents=True)
    for path in (theirs / "file", theirs / "folder/file"):
        path.write_text("ours, in a directory of theirs")
    (place / "to_file").symlink_to("theirs/file")
    (place / "to_folder").symlink_to(theirs / "folder")
    (file.parent / "to_chain").symlink_to(place / "to_file")
    (place / "to_chain").symlink_to("a/b/to_chain")
    (place / "folder").symlink_to("theirs/folder")
    give(theirs)
    assert f"{theirs} belongs to uid {NOBODY}" in refusal(place / name)


def test_links_that_lead_nowhere_end(place: Path) -> None:
    """A ring, and a chain that is longer than the kernel would follow."""
    (place / "ring").symlink_to("ring")
    (place / "0").write_text("x")
    for number in range(MOST_LINKS + 1):
        (place / str(number + 1)).symlink_to(str(number))
    for name in ("ring", str(MOST_LINKS + 1)):
        with pytest.raises(OSError, match="Too many levels of symbolic links"):
            require(place / name, OWN)
    require(place / str(MOST_LINKS), OWN)


def test_what_is_not_there_is_told_with_its_path(place: Path) -> None:
    """As the kernel does it; so is a file where a directory should be."""
    (place / "file").write_text("x")
    with pytest.raises(FileNotFoundError) as missing:
        require(place / "none/below", OWN)
    assert missing.value.filename == str(place / "none")
    with pytest.raises(NotADirectoryError):
        require(place / "file/below", OWN)


def test_a_walk_leaves_no_descriptor_open(place: Path, file: Path) -> None:
    """However it ends."""
    (place / "ring").symlink_to("ring")
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    before = len([*Path("/proc/self/fd").iterdir()])
    for path in (file, place / "ring", place / "none", place / "open/x", place / "a", Path("/dev/null")):
        for walk in (require, open_file):
            try:
                descriptor = walk(path, OWN)
            except (OSError, NotTrusted):
                continue
            if descriptor is not None:
                os.close(descriptor)
    assert len([*Path("/proc/self/fd").iterdir()]) == before


# --- what an account can really do ------------------------------------------------------------------------------------


def _try_to_change(parts: list[Path]) -> None:
    """Everything that could change what a path leads to, with the rights of whoever calls this."""
    attempts: list[Callable[[Path], object]] = [
        lambda path: path.rename(path.with_name("moved")),
        lambda path: path.write_text("theirs"),
        lambda path: path.unlink(),
        lambda path: path.rmdir(),
        lambda path: path.chmod(0o777),
        lambda path: path.symlink_to("/etc/passwd"),
    ]
    for path in parts:
        for attempt in attempts:
            with suppress(OSError):
                attempt(path)


@as_root
def test_what_is_trusted_no_other_account_can_change() -> None:
    """Three hundred trees of chance, owners and modes of all kinds: what passes stands up to an account that tries."""
    chance = random.Random(20_261_128)
    passed = 0
    for _ in range(300):
        with TemporaryDirectory(prefix="jetwatch-test-") as folder:
            root = Path(folder)
            root.chmod(0o755)
            parts = [root / "a", root / "a/b", root / "a/b/file"]
            (root / "a/b").mkdir(parents=True)
            (root / "a/b/file").write_text("ours")
            for path in parts:
                if chance.random() < 0.15:
                    give(path)
                modes = (0o755, 0o755, 0o711, 0o775, 0o1777, 0o777) if path.is_dir() else (0o644, 0o644, 0o664, 0o646)
                path.chmod(chance.choice(modes))
            try:
                require(parts[-1], OWN)
            except NotTrusted:
                continue
            passed += 1
            assert as_nobody(lambda parts=parts: _try_to_change(parts)) == ""
            assert parts[-1].read_text() == "ours"
    assert passed > 50


# --- opening and making -----------------------------------------------------------------------------------------------


def test_what_is_no_file_is_not_opened(place: Path) -> None:
    """A FIFO would wait, and a device may do something."""
    os.mkfifo(place / "pipe")
    assert [open_file(path, OWN) for path in (place, place / "pipe", Path("/dev/zero"))] == [None] * 3


def test_a_directory_is_made_with_its_mode(place: Path, shared: Path) -> None:
    """Whatever the umask, all that is missing of it; also where everybody may write."""
    before = os.umask(0o077)
    try:
        for folder in (place, shared):
            os.close(open_directory(folder / "x/y", OWN, make=0o711))
    finally:
        os.umask(before)
    made = [folder / name for folder in (place, shared) for name in ("x", "x/y")]
    assert {path.stat().st_mode & 0o7777 for path in made} == {0o711}


@as_root
def test_no_directory_is_made_over_a_link_of_others(place: Path) -> None:
    """Nor in a directory of theirs."""
    (place / "victim").mkdir()
    (place / "theirs").mkdir()
    (place / "theirs/link").symlink_to(place / "victim")
    give(place / "theirs")
    for name in ("theirs/link/new", "theirs/new"):
        with pytest.raises(NotTrusted):
            open_directory(place / name, OWN, make=0o700)
    assert not [*(place / "victim").iterdir(), *(place / "theirs").glob("new")]


@as_root
def test_a_directory_of_others_is_entered_and_none_of_its_links(place: Path) -> None:
    """For what is written there by descriptor: they may have it, and do not say where it goes."""
    theirs = place / "theirs"
    (theirs / "own").mkdir(parents=True)
    (place / "victim").mkdir()
    (theirs / "link").symlink_to(place / "victim")
    (place / "ours").symlink_to("theirs/own")
    give(theirs)
    give(theirs / "own")
    for name in ("theirs", "theirs/own", "ours"):
        os.close(enter(place / name).fd)
    for name in ("theirs/link", "theirs/own/../link", "ours/../link"):
        with pytest.raises(NotTrusted, match="is a link in a directory of others"):
            enter(place / name)


def test_a_directory_that_an_access_list_opens_is_not_ours(place: Path) -> None:
    """Nor is what lies in it: who is in the list could rename it. A list that lets nobody write changes nothing."""
    (place / "a/b").mkdir(parents=True)
    for mask, ours in ((7, False), (5, True)):
        set_access_list(place / "a", access_list((USER, 7, NOBODY), mask=mask))
        with enter(place) as above, enter(place / "a") as opened, enter(place / "a/b") as inside:
            assert (above.ours, opened.ours, inside.ours) == (True, ours, ours)
            assert above.below(opened.fd).ours == ours
            assert opened.below(inside.fd).ours == ours


def test_a_second_name_of_a_link_of_ours_is_not_followed(shared: Path, place: Path) -> None:
    """Where everybody may write, anybody may have made it."""
    (place / "folder").mkdir()
    (place / "link").symlink_to("folder")
    os.link(place / "link", shared / "second", follow_symlinks=False)
    with pytest.raises(LinkOfOthers) as refused:
        enter(shared / "second")
    assert refused.value.link == shared / "second"
    with enter(place / "link") as found:
        assert found.ours


def test_what_is_missing_is_made_as_the_umask_has_it(place: Path) -> None:
    """A person made it: so it is with `mkdir -p`."""
    before = os.umask(0o027)
    try:
        with enter(place / "x/y", make_missing=True) as made:
            assert made.ours
    finally:
        os.umask(before)
    assert {stat.S_IMODE((place / name).stat().st_mode) for name in ("x", "x/y")} == {0o750}


def test_what_is_entered_is_a_directory(place: Path) -> None:
    """And else told with its path."""
    (place / "file").write_text("x")
    for walk in (enter, lambda path: open_directory(path, OWN)):
        with pytest.raises(NotADirectoryError) as refused:
            walk(place / "file")
        assert refused.value.filename == str(place / "file")


ON_DEMAND = """
import ctypes, fcntl, os, struct, sys
from pathlib import Path
from jetwatch.trust import Accounts, enter, require

READY = 0x9360  # linux/auto_fs.h: AUTOFS_IOC_READY
disk, libc = sys.argv[1], ctypes.CDLL(None)
asked, asks = os.pipe()
mounted, says_mounted = os.pipe()
daemon = os.fork()
if daemon == 0:
    os.setpgrp()  # what this group does there triggers nothing
    options = f"fd={asks},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct"
    failed = libc.mount(b"test", disk.encode(), b"autofs", 0, options.encode())
    door = os.open(disk, os.O_RDONLY)
    os.write(says_mounted, b"failed" if failed else b"mounted")
    token = struct.unpack_from("iiI", os.read(asked, 512))[2]
    libc.mount(b"test", disk.encode(), b"tmpfs", 0, b"mode=755")
    Path(disk, "folder").mkdir()
    fcntl.ioctl(door, READY, token)
    os._exit(0)
if os.read(mounted, 16) == b"failed":
    os.kill(daemon, 9)
    sys.exit("no autofs")
os.close(asks)
try:
    with enter(Path(disk, "folder")) as found:
        assert found.ours
    require(Path(disk, "folder"), Accounts.own())
finally:
    os.kill(daemon, 9)
"""


@as_root
def test_a_disk_that_is_mounted_on_demand_is_mounted_by_the_walk(place: Path) -> None:
    """As by every use of the path: what is looked up as a directory sets it off, what is only looked up does not."""
    (place / "disk").mkdir()
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", ON_DEMAND, place / "disk"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.stderr == "no autofs\n":
        pytest.skip("this machine mounts nothing on demand")
    assert (done.returncode, done.stderr) == (0, "")
