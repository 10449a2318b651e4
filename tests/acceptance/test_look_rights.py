"""A watch with a `user` is looked at with the rights of that user, by every kind of source."""

from __future__ import annotations

import json
import pwd
import subprocess
from pathlib import Path
from typing import Any

import pytest
from accounts import STRANGER, jetp_for_all, needs_accounts
from web_server import Page, serving

PATH = "/site.tar"


def uid_of(port: int) -> int:
    """Whose the socket with this local port is, as the kernel has it."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port:
            return int(fields[7])
    raise AssertionError("nobody has it")


@needs_accounts
@pytest.mark.parametrize(
    "content", ["{}" + PATH, "git+{}/site.git@main", "s3://bucket/site.tar"], ids=["https", "git", "s3"]
)
def test_a_server_meets_the_watchs_user_and_not_the_agents(tmp_path: Path, content: str) -> None:
    """Whatever it answers, it is that account's process that reads it."""
    with serving() as server:
        seen: set[int] = set()
        page = Page(
            b"x", etag='"abc"', modified=1e9, before=lambda handler: seen.add(uid_of(handler.client_address[1]))
        )

        class Anything(dict[str, Page]):
            def get(self, path: str, default: Page | None = None) -> Page:  # type: ignore[override]
                return page

        server.pages = Anything()
        source: dict[str, Any] = {"url": content.format(server.url)}
        if content.startswith("s3:"):
            source |= {"endpoint": server.url, "region": "x", "anonymous": True}
        config = tmp_path / "watch.yml"
        config.write_text(json.dumps({"content": source, "jet_command": "true", "user": STRANGER}))
        words = [jetp_for_all(), "check-config", config, "--online", "--json"]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
        assert seen == {pwd.getpwnam(STRANGER).pw_uid}, ended.stderr + ended.stdout


@needs_accounts
def test_a_server_that_asks_a_users_watch_to_come_back_later_is_heard(tmp_path: Path) -> None:
    """Its sentence comes through the process that looked; it is no mistake that a person has to see to."""
    with serving() as server:
        server.pages[PATH] = Page(status=503, headers={"Retry-After": "77"})
        config = tmp_path / "watch.yml"
        content = {"content": server.url + PATH, "jet_command": "true", "user": STRANGER}
        config.write_text(json.dumps(content))
        words = [jetp_for_all(), "check-config", config, "--online"]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
        assert ended.returncode == 75
        assert "come back in 77 s" in ended.stdout
