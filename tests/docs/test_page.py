"""Reading a page notices what is wrong with it: a block that fails, output that does not come, a missing reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from page import Page, is_like


def page(directory: Path, text: str) -> Page:
    """A page with this text, in which three ticks are written `FENCE`."""
    path = directory / "page.md"
    path.write_text(text.replace("FENCE", "```"))
    return Page(path)


def run(directory: Path, text: str, replaced: dict[str, str] | None = None) -> Path:
    """The directory in which such a page was run."""
    page(directory, text).run(directory / "run", replaced or {})
    return directory / "run"


def test_blocks_run_in_one_shell_in_their_order(tmp_path: Path) -> None:
    """Directory and variables stay from one to the next, files with a title are there, and places are replaced."""
    text = (
        'FENCEyaml title="/etc/a.yml"\na: 1\nFENCE\n\n<!-- stage: staged=yes -->\n'
        "FENCEsh\nmkdir x && cd x\nvalue=2\nFENCE\n\nFENCEsh\ncat /etc/a.yml; pwd; echo $value $staged\nFENCE\n\n"
        "<!-- output of the block above -->\nFENCEtext\na: 7\n/somewhere/x\n5 yes\nFENCE\n"
    )
    run(tmp_path, text, {"/etc/a.yml": str(tmp_path / "a.yml")})


@pytest.mark.parametrize("text", ["false", "false; true", "echo | grep x", "cd nowhere\ntrue"])
def test_a_block_that_fails_is_named(tmp_path: Path, text: str) -> None:
    """With its line, and what it printed; so is one whose first command fails."""
    with pytest.raises(AssertionError, match=r"page\.md:3 ended with [12]"):
        run(tmp_path, f"A page\n\nFENCEsh\n{text}\nFENCE\n")


def test_an_exit_code_is_the_one_that_is_said(tmp_path: Path) -> None:
    """No other one, and 0 is another one."""
    (tmp_path / "good").mkdir()
    run(tmp_path / "good", "<!-- exit: 3 -->\nFENCEsh\nsh -c 'exit 3'\nFENCE\n")
    with pytest.raises(AssertionError, match=r"page\.md:1 ended with 98"):
        run(tmp_path, "<!-- exit: 3 -->\nFENCEsh\ntrue\nFENCE\n")


def test_output_that_does_not_come_is_shown(tmp_path: Path) -> None:
    """What came instead stands in the message."""
    with pytest.raises(AssertionError, match="shows another output than\nthis"):
        run(tmp_path, "FENCEsh\necho this\nFENCE\n\n<!-- output of the block above -->\nFENCEtext\nthat\nFENCE\n")


def test_a_block_is_tried_until_it_says_what_is_waited_for(tmp_path: Path) -> None:
    """Beside one that goes on in another terminal, and is ended with the page."""
    text = (
        "<!-- in another terminal -->\nFENCEsh\nsleep 0.2; echo there > file; exec sleep 1000\nFENCE\n\n"
        "<!-- until: there -->\nFENCEsh\ncat file\nFENCE\n"
    )
    run(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("FENCE\nls\nFENCE\n", "commands are `sh`"),
        ("FENCEconsole\n$ ls\nFENCE\n", "commands are `sh`"),
        ("FENCEtext\nfile\nFENCE\n", "output of what"),
        ("<!-- not run here -->\nFENCEsh\nls\nFENCE\n", "without a reason"),
        ("<!-- not run here: x -->\nFENCEsh\nls\nFENCE\n", "without a reason"),
        ('FENCEsh title="x"\nls\nFENCE\n<!-- output of the block above -->\nFENCEtext\nx\nFENCE\n', "is not run"),
        ("<!-- wait for it -->\nFENCEsh\nls\nFENCE\n", "unknown remark"),
    ],
)
def test_a_block_without_its_remark_is_a_problem(tmp_path: Path, text: str, problem: str) -> None:
    """Nothing is left out silently."""
    (found,) = page(tmp_path, text).problems()
    assert problem in found


def test_what_is_not_run_is_told_with_its_reason(tmp_path: Path) -> None:
    """And it is not run."""
    text = "<!-- not run here: needs systemd -->\nFENCEsh\nexit 1\nFENCE\n"
    run(tmp_path, text)
    assert page(tmp_path, text).left_out() == ["page.md:1: needs systemd"]


@pytest.mark.parametrize(
    ("came", "shown", "same"),
    [
        ("run 548400f7 ok, 0.2s", "run a3f196b2 ok, 12.5s", True),
        ("run 548400f7 failed", "run a3f196b2 ok", False),
        ("web  due 2026-11-22T08:51:18Z", "web  due 20 s ago", True),
        ("next  a check 2026-11-22T08:51:18Z", "next  a check 08:54:39, in 2 min", True),
        ("at /tmp/x/y.yml", "at /etc/watch.yml", True),
        ("a\nb\nc", "a\n…\nc", True),
        ("a\nc", "a\n…\nc", True),
        ("a\nb\nd", "a\n…\nc", False),
        ("a\nb", "a", False),
    ],
)
def test_output_is_compared_by_its_shape(came: str, shown: str, same: bool) -> None:
    """Times, ids, numbers and paths may differ; words may not."""
    assert is_like(came, shown) is same
