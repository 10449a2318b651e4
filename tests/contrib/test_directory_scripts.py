"""check-file, check-directory and download-directory on real files, and on a file system that does not answer."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from script_runner import Ended, Scripts, files_below

TREE = {"pb.yml": "- hosts: all\n", "roles/web/tasks/main.yml": "[]\n", "größe": "é", "empty": ""}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with files, a program and a link."""
    made = tmp_path / "source"
    for name, text in TREE.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    (made / "run").write_text("#!/bin/sh\n")
    (made / "run").chmod(0o755)
    (made / "link").symlink_to("roles/web")
    return made


def check(scripts: Scripts, source: Path, *words: str, applied: str = "") -> Ended:
    """Run check-directory."""
    return scripts.run("check-directory", source, *words, JETWATCH_APPLIED_REVISION=applied)


def download(scripts: Scripts, source: Path, directory: Path, *words: str, revision: str = "") -> Ended:
    """Run download-directory."""
    return scripts.run("download-directory", source, directory, *words, JETWATCH_REVISION=revision)


@pytest.mark.parametrize("words", [(), ("--checksum",), ("--settle", "0.1")])
@pytest.mark.parametrize("change", ["write", "add", "remove", "mode", "link", "directory"])
def test_any_change_is_due(scripts: Scripts, source: Path, words: tuple[str, ...], change: str) -> None:
    """Due at first, not due when applied, due after any change."""
    first = check(scripts, source, *words)
    assert (first.exit_code, first.stderr) == (0, "")
    applied = first.outputs["revision"]
    assert check(scripts, source, *words, applied=applied).exit_code == 1
    match change:
        case "write":
            (source / "pb.yml").write_text(TREE["pb.yml"].upper())
        case "add":
            (source / "new").touch()
        case "remove":
            (source / "empty").unlink()
        case "mode":
            (source / "pb.yml").chmod(0o755)
        case "link":
            (source / "link").unlink()
            (source / "link").symlink_to("pb.yml")
        case _:
            (source / "new").mkdir()
    assert check(scripts, source, *words, applied=applied).exit_code == 0


def test_times_count_unless_bytes_do(scripts: Scripts, source: Path) -> None:
    """Written anew with the same bytes: another walk, the same checksum."""
    by_time, by_bytes = (check(scripts, source, *words).outputs["revision"] for words in ((), ("--checksum",)))
    os.utime(source / "pb.yml", (1, 1))
    assert check(scripts, source, applied=by_time).exit_code == 0
    assert check(scripts, source, "--checksum", applied=by_bytes).exit_code == 1


def test_what_is_not_there_yet_is_later(scripts: Scripts, tmp_path: Path) -> None:
    """A directory that is not mounted is empty."""
    assert check(scripts, tmp_path / "nope").exit_code == 75
    (tmp_path / "empty").mkdir()
    assert check(scripts, tmp_path / "empty").exit_code == 75
    assert check(scripts, tmp_path / "empty", "--marker", "REVISION").exit_code == 75


def test_a_file_in_place_of_the_directory_is_an_error(scripts: Scripts, source: Path, tmp_path: Path) -> None:
    """It would be "later" for ever."""
    for ended in (check(scripts, source / "pb.yml"), download(scripts, source / "pb.yml", tmp_path / "site")):
        assert (ended.exit_code, "is a file: expected a directory" in ended.stderr) == (3, True)


def test_devices_and_sockets_are_refused_by_name(scripts: Scripts, source: Path, tmp_path: Path) -> None:
    """And opening a pipe does not hang."""
    os.mkfifo(source / "pipe")
    for ended in (check(scripts, source, "--checksum"), download(scripts, source, tmp_path / "site")):
        assert ended.exit_code == 3
        assert "'pipe' is neither a file" in ended.stderr
    marker = check(scripts, source, "--marker", "pipe")
    assert (marker.exit_code, "no ordinary file" in marker.stderr) == (3, True)


def test_the_marker_alone_decides(scripts: Scripts, source: Path, tmp_path: Path) -> None:
    """By its bytes or its text, for both scripts and for check-file."""
    (source / "REVISION").write_text("v1\nmore\n")
    digest = check(scripts, source, "--marker", "REVISION").outputs["revision"]
    assert scripts.run("check-file", source / "REVISION").outputs == {"revision": digest}
    words = ("--marker", "REVISION", "--text")
    assert check(scripts, source, *words).outputs == {"revision": "v1"}
    (source / "pb.yml").write_text("half published")
    assert check(scripts, source, *words, applied="v1").exit_code == 1
    assert download(scripts, source, tmp_path / "site", *words, revision="v1").exit_code == 0
    (source / "REVISION").write_text("v2\n")
    assert check(scripts, source, *words, applied="v1").exit_code == 0
    assert download(scripts, source, tmp_path / "other", *words, revision="v1").exit_code == 75


def test_a_marker_file_is_due_when_it_changed(scripts: Scripts, tmp_path: Path) -> None:
    """Later, due, not due; a directory, a device and a huge file are no markers."""
    marker = tmp_path / "REVISION"
    assert scripts.run("check-file", marker).exit_code == 75
    marker.touch()
    assert scripts.run("check-file", marker).exit_code == 75
    marker.write_text("one")
    first = scripts.run("check-file", marker)
    assert (first.exit_code, first.stderr) == (0, "")
    applied = first.outputs["revision"]
    assert scripts.run("check-file", marker, JETWATCH_APPLIED_REVISION=applied).exit_code == 1
    marker.write_text("two")
    assert scripts.run("check-file", marker, JETWATCH_APPLIED_REVISION=applied).exit_code == 0
    marker.write_text("x" * 2_000_000)
    for bad in (tmp_path, Path("/dev/zero"), marker):
        ended = scripts.run("check-file", bad)
        assert (ended.exit_code, ended.stderr.count("\n")) == (3, 1)
        assert str(bad) in ended.stderr
    marker.write_text("a\x1bb\n")
    assert scripts.run("check-file", marker, "--text").exit_code == 3


@pytest.mark.parametrize("words", [(), ("--checksum",)])
def test_a_download_is_the_directory_and_nothing_else(
    scripts: Scripts, source: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Bytes, modes, times and links; a revision that is there no more is left to the next check."""
    revision = check(scripts, source, *words).outputs["revision"]
    target = tmp_path / "site"
    ended = download(scripts, source, target, *words, revision=revision)
    assert (ended.exit_code, ended.stderr, ended.outputs) == (0, "", {"revision": revision})
    assert files_below(target) == TREE | {"run": "#!/bin/sh\n"}
    assert (target / "link").readlink() == Path("roles/web")
    assert (target / "run").stat().st_mode & 0o777 == 0o755
    assert (target / "pb.yml").stat().st_mtime_ns == (source / "pb.yml").stat().st_mtime_ns
    (source / "new").touch()
    moved = download(scripts, source, tmp_path / "other", *words, revision=revision)
    assert (moved.exit_code, list((tmp_path / "other").iterdir())) == (75, [])


@pytest.mark.parametrize("link", ["/etc/passwd", "../x", "roles/../../x"])
def test_links_that_lead_out_are_refused_by_name(scripts: Scripts, source: Path, tmp_path: Path, link: str) -> None:
    """Nothing is copied."""
    (source / "evil").symlink_to(link)
    ended = download(scripts, source, tmp_path / "site")
    assert (ended.exit_code, list((tmp_path / "site").iterdir())) == (3, [])
    assert "'evil'" in ended.stderr


def test_a_directory_that_is_not_empty_is_refused(scripts: Scripts, source: Path, tmp_path: Path) -> None:
    """What is there stays."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine").write_text("mine")
    assert download(scripts, source, tmp_path / "site").exit_code == 3
    assert files_below(tmp_path / "site") == {"mine": "mine"}


def test_a_read_that_hangs_ends_at_the_timeout(scripts: Scripts, source: Path, tmp_path: Path) -> None:
    """The child hangs, the check does not: here its read of a directory never returns."""
    hook = tmp_path / "hook"
    hook.mkdir()
    # A dead mount cannot be had everywhere; what counts is that the one who looks is not the one who waits.
    (hook / "sitecustomize.py").write_text("import os, signal\nos.scandir = os.open = lambda *a, **k: signal.pause()\n")
    scripts.before = (sys.executable,)
    began = time.monotonic()
    for name, place in (("check-directory", source), ("check-file", source / "pb.yml")):
        ended = scripts.run(name, place, "--timeout", "0.3", PYTHONPATH=str(hook))
        assert ended.exit_code == 3
        assert "no answer within 0.3 s: is the mount dead?" in ended.stderr
    assert time.monotonic() - began < 10
