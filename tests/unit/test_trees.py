"""Trees that somebody else made: measured and removed to their end, and nothing beside them."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetwatch import trees

DEEP = 5_000  # five times what Python calls itself
FEW_FILES = 32


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory, where there is one: a disk that is busy takes a second for a hundred directories."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="jetwatch-trees-", dir=memory if os.access(memory, os.W_OK) else None))
    yield root
    subprocess.run(["rm", "-rf", root], check=True)


def dig(top: Path, levels: int) -> None:
    """Directories in each other below `top`, and a file at the bottom."""
    at = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=at)
        inside = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = inside
    fd = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=at)
    os.write(fd, bytes(100_000))
    os.close(fd)
    os.close(at)


@pytest.fixture
def few_files() -> Iterator[None]:
    """No more than a few descriptors for this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + FEW_FILES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_files")
def test_a_tree_of_any_depth_is_measured_and_removed_with_a_few_descriptors(place: Path) -> None:
    """Where a walk that calls itself, or a path that is written out, has long come to its end."""
    top = place / "top"
    top.mkdir()
    dig(top, DEEP)
    assert 100_000 <= trees.size_bytes(top) < 200_000
    trees.remove(top)
    assert list(place.iterdir()) == []


def test_removing_comes_in_slices_each_of_which_is_bounded(place: Path) -> None:
    """Others have their turn between two of them; what is gone is gone."""
    top = place / "top"
    for folder in range(20):
        (top / str(folder)).mkdir(parents=True)
        for file in range(50):
            (top / str(folder) / str(file)).touch()
    before, slices = 20 * 51, 0
    while not trees.remove_some(top, most=100):
        slices += 1
        left = sum(1 for _ in top.rglob("*"))
        assert before - 100 <= left < before
        before = left
    assert slices >= 10
    assert not top.exists()


def test_more_directories_than_are_remembered_at_once_are_removed(place: Path) -> None:
    """A listing is read anew for the rest."""
    top = place / "top"
    for number in range(trees._FOLDERS_AT_ONCE + 5):
        (top / str(number)).mkdir(parents=True)
    assert trees.remove_some(top) is False
    assert len(list(top.iterdir())) == 5
    assert trees.remove_some(top) is True


def test_names_of_any_bytes_and_directories_that_nobody_may_enter_are_removed(place: Path) -> None:
    """Their owner may give itself the right."""
    top = place / "top"
    odd = top / os.fsdecode(b"\xff\xfe \n\x1b[2J")
    odd.mkdir(parents=True)
    (odd / os.fsdecode(b"\x85\xe2\x80\xa8")).touch()
    os.mkfifo(odd / "fifo")
    (top / "shut" / "inside").mkdir(parents=True)
    for path in (top / "shut" / "inside", top / "shut", top):
        path.chmod(0)

    def remove() -> None:
        trees.remove(top)

    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "65534:65534", place], check=True)
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            remove()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    else:
        remove()
    assert list(place.iterdir()) == []


def test_links_are_removed_and_never_followed(place: Path) -> None:
    """At the top, deep inside, and in the place of what is to be removed."""
    precious = place / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(bytes(500_000))
    top = place / "top"
    (top / "deep").mkdir(parents=True)
    (top / "link").symlink_to(precious)
    (top / "deep" / "link").symlink_to(precious / "file")
    assert trees.size_bytes(top) < 100_000
    trees.remove(top)
    top.symlink_to(precious)
    assert trees.size_bytes(top) == 0
    with pytest.raises(NotADirectoryError):
        trees.remove(top)
    assert (precious / "file").stat().st_size == 500_000


@pytest.mark.parametrize("kind", ["another disk", "the same disk"])
def test_a_mount_is_never_entered(place: Path, kind: str) -> None:
    """Also a second view of the same disk, which has the same number; the rest goes, and the mount is told."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    precious = place / "precious"
    point = place / "top" / "deep" / "mount"
    for path in (precious, point, place / "top" / "other"):
        path.mkdir(parents=True)
    (precious / "file").write_bytes(bytes(500_000))
    words = ["-t", "tmpfs", "none"] if kind == "another disk" else ["--bind", str(precious)]
    done = subprocess.run(["mount", *words, point], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount: {done.stderr.decode()}")
    try:
        (point / "file").write_bytes(bytes(500_000))
        assert trees.size_bytes(place / "top") < 100_000
        with pytest.raises(OSError, match="it is a mount"):
            trees.remove(place / "top")
        assert (point / "file").stat().st_size == 500_000
        assert not (place / "top" / "other").exists()
    finally:
        subprocess.run(["umount", point], check=True)


def test_a_tree_that_is_moved_about_meanwhile_costs_nothing_beside_it(place: Path) -> None:
    """Whoever swaps its directories for links, and moves them away and back, loses what is in them and no more."""
    precious = place / "precious"
    (precious / "sub").mkdir(parents=True)
    (precious / "sub" / "file").touch()
    top = place / "top"
    (top / "a" / "b").mkdir(parents=True)
    over = threading.Event()
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)

    def swap() -> None:
        while not over.is_set():
            for step in (
                lambda: os.mkdir("a", dir_fd=fd),
                lambda: os.mkdir("a/b", dir_fd=fd),
                lambda: os.rename("a", "c", src_dir_fd=fd, dst_dir_fd=fd),
                lambda: os.symlink(precious, "a", dir_fd=fd),
                lambda: os.unlink("a", dir_fd=fd),
                lambda: os.rename("c", "a", src_dir_fd=fd, dst_dir_fd=fd),
                lambda: os.rename("a/b", "b", src_dir_fd=fd, dst_dir_fd=fd),
            ):
                try:
                    step()
                except OSError:
                    continue

    attacker = threading.Thread(target=swap)
    attacker.start()
    try:
        for _ in range(300):
            try:
                if trees.remove_some(top):
                    break
            except OSError:
                continue
    finally:
        over.set()
        attacker.join()
        os.close(fd)
    assert (precious / "sub" / "file").exists()
    shutil.rmtree(top, ignore_errors=True)


def test_what_cannot_be_removed_is_told_when_all_the_rest_is_gone(place: Path, tmp_path: Path) -> None:
    """One file that nobody may touch keeps nothing but itself and the directories above it."""
    top = tmp_path / "top"
    (top / "deep").mkdir(parents=True)
    (top / "deep" / "stays").touch()
    for name in ("a", "z"):
        (top / name).mkdir()
        (top / name / "goes").touch()
    if subprocess.run(["chattr", "+i", top / "deep" / "stays"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root and a file system with immutable files")
    try:
        with pytest.raises(OSError, match="Operation not permitted: 'stays'"):
            trees.remove(top)
        assert [path.name for path in sorted(top.rglob("*"))] == ["deep", "stays"]
    finally:
        subprocess.run(["chattr", "-i", top / "deep" / "stays"], check=True)
    trees.remove(top)


def test_what_is_not_there_is_gone_and_takes_nothing(place: Path) -> None:
    """Also where its parent is not."""
    assert trees.remove_some(place / "none") is True
    assert trees.remove_some(place / "no" / "parent") is True
    assert trees.size_bytes(place / "none") == 0


def test_measuring_ends_at_its_bound(place: Path) -> None:
    """What there is beyond is not counted, however much it is."""
    for number in range(30):
        (place / str(number)).mkdir()
        (place / str(number) / "file").touch()
    seen: list[str] = []
    trees.visit(place, on_entry=lambda entry: seen.append(entry.name), most=40)
    assert 0 < len(seen) < 30
