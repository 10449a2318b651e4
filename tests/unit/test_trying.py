"""What `jetp check-config --online` says and leaves with, and as whom it looks."""

from __future__ import annotations

import os
import pwd

import pytest

from jetwatch.cli.trying import Result, Tried, _as_possible, exit_code
from jetwatch.config.model import WatchSettings
from jetwatch.content_records import Content, ContentKind, Look
from jetwatch.records import Command

OK, NOTHING = Tried("a", Result.OK, Look("r", requests=2), duration_s=0.012), Tried("b", Result.NOTHING_TO_TRY)
NOT_NOW, CANNOT = Tried("c", Result.NOT_NOW, error="x: later"), Tried("d", Result.CANNOT_WORK, error="x: never")


@pytest.mark.parametrize(
    ("tried", "code"),
    [
        ([], 0),
        ([NOTHING], 0),
        ([OK, NOTHING], 0),
        ([OK, NOT_NOW], 75),
        ([CANNOT, NOT_NOW, OK], 78),
    ],
)
def test_the_worst_answer_decides(tried: list[Tried], code: int) -> None:
    """A person before patience before nothing."""
    assert exit_code(tried) == code


def test_each_answer_is_a_line() -> None:
    """With what was found, or what is wrong."""
    assert [each.as_line() for each in (OK, NOTHING, NOT_NOW, CANNOT)] == [
        "a: ok: revision r (2 requests, 12 ms)",
        "b: no content, nothing to try",
        "c: not now: x: later (0 ms)",
        "d: cannot work: x: never (0 ms)",
    ]


def watch(user: str | None = None, group: str | None = None) -> WatchSettings:
    """A watch whose commands run as somebody."""
    fetch = Command(words=("x",), user=user, group=group)
    return WatchSettings("w", fetch, content=Content("file:///x", ContentKind.DIRECTORY), download=fetch, user=user)


@pytest.mark.parametrize(
    ("uid", "user", "group", "as_another"),
    [
        (0, "daemon", None, False),
        (65534, None, None, False),
        (65534, "nobody", None, False),
        (65534, "65534", None, False),
        (65534, "daemon", None, True),
        (65534, None, "daemon", True),
    ],
)
def test_who_is_not_root_looks_as_itself_and_says_so(
    monkeypatch: pytest.MonkeyPatch, uid: int, user: str | None, group: str | None, as_another: bool
) -> None:
    """As the watch's user where that is possible."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    settings, note = _as_possible(watch(user, group))
    assert settings.download is not None
    if as_another:
        assert (settings.download.user, settings.download.group) == (None, None)
        assert note == f"looked at as {pwd.getpwuid(65534).pw_name}, not as {user or group}: only root can"
    else:
        assert (settings.download.user, settings.download.group, note) == (user, group, "")
