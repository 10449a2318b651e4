"""A log file among people who rename, remove, replace and truncate it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jetwatch.errors import ConfigError
from jetwatch.telemetry.logfile import LogFile

NOBODY = 65_534


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogFile]:
    """A file with one line."""
    made = LogFile(tmp_path / "log", 0o640)
    made.put(b"1\n")
    yield made
    made.close()


def texts(folder: Path) -> dict[str, str]:
    """Every file by name."""
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def test_it_is_made_with_its_mode_whatever_the_umask(tmp_path: Path, log: LogFile) -> None:
    """Others' modes stay: logrotate may have made it."""
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o640
    (tmp_path / "log").chmod(0o604)
    log.reopen()
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o604


def test_a_renamed_file_is_gone_on_with_until_it_is_opened_anew(tmp_path: Path, log: LogFile) -> None:
    """As everybody's logrotate expects."""
    (tmp_path / "log").rename(tmp_path / "log.1")
    log.put(b"2\n")
    log.reopen()
    log.put(b"3\n")
    assert texts(tmp_path) == {"log": "3\n", "log.1": "1\n2\n"}


def test_another_file_in_its_place_is_gone_on_in_without_a_signal(tmp_path: Path, log: LogFile) -> None:
    """logrotate's `create` without `postrotate`."""
    (tmp_path / "log").rename(tmp_path / "log.1")
    (tmp_path / "log").touch()
    log.put(b"2\n")
    assert texts(tmp_path) == {"log": "2\n", "log.1": "1\n"}


def test_a_removed_file_is_made_again(tmp_path: Path, log: LogFile) -> None:
    """Or everything would be written to a file without a name."""
    (tmp_path / "log").unlink()
    log.put(b"2\n")
    assert texts(tmp_path) == {"log": "2\n"}


def test_a_truncated_file_has_no_hole(tmp_path: Path, log: LogFile) -> None:
    """logrotate's `copytruncate`."""
    os.truncate(tmp_path / "log", 0)
    log.put(b"2\n")
    assert texts(tmp_path) == {"log": "2\n"}


def test_what_was_there_stays(tmp_path: Path) -> None:
    """The next agent goes on where the one before ended."""
    (tmp_path / "log").write_text("0\n")
    log = LogFile(tmp_path / "log", 0o640)
    log.put(b"1\n")
    log.close()
    assert texts(tmp_path) == {"log": "0\n1\n"}


def test_a_long_line_is_one_write(tmp_path: Path, log: LogFile) -> None:
    """Nobody comes between its parts."""
    line = b"x" * 300_000 + b"\n"
    log.put(line)
    assert (tmp_path / "log").read_bytes() == b"1\n" + line


FOREIGN: dict[str, Callable[[Path, Path], object]] = {
    "symlink": lambda path, other: path.symlink_to(other),
    "second name": lambda path, other: path.hardlink_to(other),
    "pipe": lambda path, other: os.mkfifo(path),
    "directory": lambda path, other: path.mkdir(),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: str) -> None:
    """At the start with the place; later the file at hand is kept."""
    other, path = tmp_path / "other", tmp_path / "log"
    other.write_text("mine")
    FOREIGN[kind](path, other)
    with pytest.raises(ConfigError, match=r"log\.file: cannot be written"):
        LogFile(path, 0o640)
    kept = LogFile(tmp_path / "kept", 0o640)
    (tmp_path / "kept").rename(tmp_path / "kept.1")
    FOREIGN[kind](tmp_path / "kept", other)
    kept.put(b"2\n")
    kept.close()
    assert (tmp_path / "kept.1").read_text() == "2\n"
    assert other.read_text() == "mine"


def test_a_directory_that_is_missing_is_said_at_the_start(tmp_path: Path) -> None:
    """Nothing was started."""
    with pytest.raises(ConfigError, match="No such file or directory"):
        LogFile(tmp_path / "gone" / "log", 0o640)


# --- in a directory of another account --------------------------------------------------------------------------------


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A directory of somebody else, beside one of root's."""
    if os.geteuid() != 0:
        pytest.skip("only root gives a directory to another account")
    for name in ("victim", "theirs", "theirs/logs"):
        (tmp_path / name).mkdir()
    for name in ("theirs", "theirs/logs"):
        os.chown(tmp_path / name, NOBODY, NOBODY)
    return tmp_path / "theirs"


def test_it_may_lie_in_a_directory_of_others(theirs: Path) -> None:
    """Who may then rename and remove it, and no more."""
    made = LogFile(theirs / "logs/log", 0o640)
    made.put(b"1\n")
    made.close()
    assert (theirs / "logs/log").read_text() == "1\n"


def test_no_link_of_others_says_where_it_goes(theirs: Path, tmp_path: Path) -> None:
    """Neither at the start nor later: then the file at hand is gone on with."""
    made = LogFile(theirs / "logs/log", 0o640)
    (theirs / "logs").rename(theirs / "moved")
    (theirs / "logs").symlink_to(tmp_path / "victim")
    made.reopen()
    made.put(b"1\n")
    made.close()
    assert texts(theirs / "moved") == {"log": "1\n"}
    with pytest.raises(ConfigError, match="is a link in a directory of others"):
        LogFile(theirs / "logs/log", 0o640)
    assert texts(tmp_path / "victim") == {}
