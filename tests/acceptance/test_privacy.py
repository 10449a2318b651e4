"""Secrets stay where they belong, whatever is made is private, and what others may write decides nothing."""

from __future__ import annotations

import base64
import os
import secrets
import stat
import threading
import urllib.parse
from pathlib import Path

import pytest
from agent_process import Site


class Sampled:
    """Every argv of the machine, and the environment of whoever is not to have a secret, until `stop`."""

    def __init__(self) -> None:
        self.words: set[bytes] = set()
        self.environments: dict[str, set[bytes]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(0.01):
            for path in Path("/proc").glob("[0-9]*"):
                try:
                    words = (path / "cmdline").read_bytes()
                    self.words.add(words)
                    self.environments.setdefault(os.fsdecode(words), set()).add((path / "environ").read_bytes())
                except OSError:
                    continue

    def stop(self) -> None:
        """No more."""
        self._ended.set()
        self._thread.join()


def forms(secret: str) -> list[bytes]:
    """How a secret may look: plain, encoded for a URL, and in base64 at each of its three offsets."""
    coded = [base64.b64encode(b"." * lead + secret.encode())[4 if lead else 0 : -4] for lead in range(3)]
    return [secret.encode(), urllib.parse.quote(secret, safe="").encode(), *coded]


def test_no_secret_is_told_stored_or_shown(site: Site) -> None:
    """From env_file, `env`, a URL's user part: only the commands have them; the run fails, so that much is told."""
    canaries = {name: f"{name}/{secrets.token_hex(12)}+=" for name in ("file", "env", "url", "hook")}
    env_file = site.root / "env_file"
    env_file.write_text(f"FROM_FILE='{canaries['file']}'\n")
    env_file.chmod(0o600)
    url = f"https://me:{urllib.parse.quote(canaries['url'], safe='')}@127.0.0.1:9/x"
    use = 'echo "$FROM_FILE $DB_PASSWORD $REPO $HOOK_TOKEN"; sleep 0.5'
    common = {"env_file": str(env_file), "env": {"DB_PASSWORD": canaries["env"], "REPO": url}}
    sampled = Sampled()
    site.once(
        {
            **common,
            "check_command": "true",
            "jet_command": {"shell": f"{use}; exit 3"},
            "on_fail": {"shell": use, "env": {"HOOK_TOKEN": canaries["hook"]}},
            "log": {"file": str(site.root / "log")},
        },
        "--log-level",
        "debug",
        code=1,
    )
    sampled.stop()
    pages = [site.jetp(*words, code=None) for words in (("status",), ("runs",), ("show",), ("why",))]
    pages += [site.jetp(*words, "--json", code=None) for words in (("status",), ("runs",), ("show",))]
    told = [page.stdout.encode() + page.stderr.encode() for page in pages] + [(site.root / "log").read_bytes()]
    stored = {path: path.read_bytes() for path in site.state.rglob("*") if path.is_file()}
    agents = [each for words, every in sampled.environments.items() if "watch-config" in words for each in every]
    assert agents
    for name, secret in canaries.items():
        for form in forms(secret):
            for kind, texts in (("told", told), ("argv", sampled.words), ("agent", agents)):
                assert not any(form in text for text in texts), (name, kind, form)
            kept = {path.relative_to(site.state) for path, text in stored.items() if form in text}
            # What a command writes is kept as it is, for `jetp logs` and for hooks; nothing else is.
            assert all(path.name == "output" or path.parts[0] == "exchange" for path in kept), (name, form, kept)
    used = b"".join(path.read_bytes() for path in site.state.glob("runs/*/play.1/output"))
    assert canaries["file"].encode() in used  # it was there, and could have been told


def test_whatever_is_made_is_private_to_its_owner(site: Site) -> None:
    """Also under a umask that gives everything away; links and sockets included."""
    before = os.umask(0)
    try:
        site.configure({"check_command": "true", "jet_command": "true", "on_ok": "true"})
        site.config.chmod(0o644)
        site.start(None, "--once", "--no-splay").wait()
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in [site.state, *site.state.rglob("*")]}
    assert len(modes) > 10
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}


@pytest.mark.parametrize("mode", [0o646, 0o666, 0o777])
def test_a_configuration_that_others_may_write_is_refused(site: Site, mode: int) -> None:
    """Who may write it decides what the agent runs: 78, and nothing is started."""
    site.configure({"check_command": "true", "jet_command": site.shell("touch ran")})
    site.config.chmod(mode)
    agent = site.once(None, code=78)
    assert "others may write to it" in agent.errors
    assert not (site.root / "ran").exists()


def test_an_env_file_that_others_may_write_is_refused(site: Site) -> None:
    """A variable such as LD_PRELOAD would decide what runs: 78, and nothing is started."""
    env_file = site.root / "env_file"
    env_file.write_text("A=b\n")
    env_file.chmod(0o666)
    config = {"check_command": "true", "jet_command": site.shell("touch ran"), "env_file": str(env_file)}
    agent = site.once(config, code=78)
    assert "others may write to it" in agent.errors
    assert not (site.root / "ran").exists()


def test_a_state_directory_that_others_may_write_is_refused(site: Site) -> None:
    """They could replace what lies in it."""
    site.state.mkdir(mode=0o700)
    site.state.chmod(0o777)
    agent = site.once({"check_command": "true", "jet_command": "true"}, code=78)
    assert "others may write to this directory" in agent.errors
