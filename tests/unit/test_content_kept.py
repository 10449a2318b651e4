"""Sources between looks: which are kept, for whom, and how long."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from jetwatch.content import kept
from jetwatch.content.kept import KeptSources
from jetwatch.content.source import Content, ContentError, ContentKind, ContentRetry, ContentStalled, Look

CONTENT = Content("s3://bucket/x/", ContentKind.BUCKET, secrets={"access_key_id": "a"})
ENV = {"AWS_REGION": "r"}


class Opened:
    """A source that says its number, or what it is told to."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.error: ContentError | None = None
        self.gate: threading.Barrier | None = None

    def look(self, known: Look | None, deadline_s: float) -> Look:
        """Which one it is."""
        if self.gate is not None:
            self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return Look(str(self.number))


class Shop:
    """Everything that was opened, and a clock."""

    def __init__(self) -> None:
        self.opened: list[Opened] = []
        self.now = 100.0
        self.gate: threading.Barrier | None = None
        self.sources = KeptSources(lambda: self.now)

    def open(self, *_: Any, **__: Any) -> Opened:
        """A new one."""
        self.opened.append(Opened(len(self.opened)))
        self.opened[-1].gate = self.gate
        return self.opened[-1]

    def look(self, content: Content = CONTENT, env: Mapping[str, str] = ENV) -> str:
        """The number of the source that looked."""
        return self.sources.look(content, env, None, 60).revision


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Shop:
    """An empty one."""
    made = Shop()
    monkeypatch.setattr(kept, "open_source", made.open)
    return made


def test_a_source_is_kept_for_the_same_settings_and_environment(shop: Shop) -> None:
    """Equal is enough: an env_file is read anew for each look."""
    assert [shop.look(), shop.look(replace(CONTENT), dict(ENV))] == ["0", "0"]


@pytest.mark.parametrize(
    ("content", "env"),
    [
        (replace(CONTENT, secrets={"access_key_id": "b"}), ENV),
        (replace(CONTENT, marker="DONE"), ENV),
        (CONTENT, {"AWS_REGION": "s"}),
        (CONTENT, {}),
    ],
)
def test_anything_else_opens_another(shop: Shop, content: Content, env: dict[str, str]) -> None:
    """Credentials above all."""
    assert [shop.look(), shop.look(content, env), shop.look()] == ["0", "1", "0"]


@pytest.mark.parametrize("error", [ContentRetry("later"), ContentStalled("never")])
def test_one_that_failed_is_not_used_again(shop: Shop, error: ContentError) -> None:
    """Whatever was wrong with it: the next one begins anew."""
    shop.look()
    shop.opened[0].error = error
    with pytest.raises(ContentError):
        shop.look()
    assert shop.look() == "1"


def test_none_is_kept_for_longer_than_an_hour(shop: Shop) -> None:
    """What it has read from the disk is old by then."""
    shop.look()
    shop.now += 3599
    assert shop.look() == "0"
    shop.now += 1
    assert shop.look() == "1"


def test_few_are_kept(shop: Shop) -> None:
    """Those that looked last; memory has a bound."""
    many = [replace(CONTENT, url=f"s3://bucket/{number}/") for number in range(kept.MOST + 1)]
    for content in many:
        shop.look(content)
    assert shop.look(many[1]) == "1"
    assert shop.look(many[0]) == str(kept.MOST + 1)


def test_two_at_once_have_one_each(shop: Shop) -> None:
    """A source is not for two threads; afterwards both are there."""
    shop.gate = threading.Barrier(2)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(shop.look())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["0", "1"]
