"""A directory is entered part by part; where another account may rename, no link is followed."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from accounts import STRANGER, needs_accounts

from jetwatch.content.cache import make_private
from jetwatch.content.places import enter
from jetwatch.content.source import ContentStalled


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A directory of another account."""
    made = tmp_path / "theirs"
    made.mkdir(mode=0o755)
    os.chown(made, pwd.getpwnam(STRANGER).pw_uid, -1)
    return made


def test_a_directory_below_ours_is_ours_and_links_of_ours_are_followed(tmp_path: Path) -> None:
    """Relative and absolute ones, with `..` in them; what is missing is made where that is asked for."""
    (tmp_path / "real/inner").mkdir(parents=True)
    (tmp_path / "relative").symlink_to("real/inner/..")
    (tmp_path / "absolute").symlink_to(tmp_path / "relative")
    with enter(tmp_path / "absolute/inner/new/newer", make_missing=True) as place:
        assert place.ours
        assert os.path.samestat(os.fstat(place.fd), (tmp_path / "real/inner/new/newer").stat())
    with pytest.raises(FileNotFoundError), enter(tmp_path / "real/missing"):
        pass


def test_a_loop_of_links_has_an_end(tmp_path: Path) -> None:
    """As for the kernel."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"), enter(tmp_path / "a/x"):
        pass


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_what_others_may_write_to_is_not_ours(tmp_path: Path, mode: int) -> None:
    """By everybody's bits, or by a foreign group's."""
    (tmp_path / "open/inner").mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(tmp_path / "open", -1, 12345)
    elif mode == 0o770:
        pytest.skip("only root can give a directory to another group")
    (tmp_path / "open").chmod(mode)
    with enter(tmp_path / "open/inner") as place:
        assert not place.ours
    (tmp_path / "open").chmod(mode | 0o1000)
    with enter(tmp_path / "open/inner") as place:  # sticky: nobody else can rename what is ours
        assert place.ours


@needs_accounts
def test_no_link_is_followed_below_another_accounts_directory(theirs: Path, tmp_path: Path) -> None:
    """Whoever made it, and even where the link leads back to what is ours."""
    (theirs / "real").mkdir()
    (theirs / "link").symlink_to(tmp_path)
    with enter(theirs / "real") as place:
        assert not place.ours
    with pytest.raises(ContentStalled, match="'link' is a link that another"), enter(theirs / "link"):
        pass


@needs_accounts
def test_a_link_of_another_account_in_a_directory_for_all_is_not_followed(tmp_path: Path) -> None:
    """As in /tmp: it is sticky, and anybody may put a link there."""
    everybodys = tmp_path / "everybodys"
    everybodys.mkdir()
    everybodys.chmod(0o1777)
    (everybodys / "link").symlink_to(tmp_path)
    os.chown(everybodys / "link", pwd.getpwnam(STRANGER).pw_uid, -1, follow_symlinks=False)
    with pytest.raises(ContentStalled, match="'link' is a link"), enter(everybodys / "link"):
        pass


@needs_accounts
def test_a_cache_below_another_accounts_directory_is_refused(theirs: Path) -> None:
    """Its owner could put another one in its place."""
    with pytest.raises(ContentStalled, match=r"or a directory above it: expected a directory of user 0"):
        make_private(theirs / "cache")


@needs_accounts
def test_a_cache_of_another_account_is_refused(tmp_path: Path) -> None:
    """What is in it was written by somebody else."""
    (tmp_path / "cache").mkdir(mode=0o700)
    os.chown(tmp_path / "cache", pwd.getpwnam(STRANGER).pw_uid, -1)
    with pytest.raises(ContentStalled, match="expected a directory of user 0 that nobody else may write to"):
        make_private(tmp_path / "cache")
