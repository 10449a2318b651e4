"""What an agent of root is told to believe, and where it is told to work, when another account could change it.

A stranger's real account, the installed `jetp`, and files of root's that have to stay as they are.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accounts import STRANGER, jetp_for_all, needs_accounts, run_as, start_as
from agent_process import JETP, Site, is_alive, until

from jetwatch.control.address import peer_uid

pytestmark = needs_accounts

LEAST = {"check_command": "true", "jet_command": "touch {{ state_dir }}/../ran"}

OFTEN = {"check_command": "false", "check_interval": "0.5s"}


@pytest.fixture
def uid() -> int:
    """The stranger's."""
    return pwd.getpwnam(STRANGER).pw_uid


def give(path: Path, *, below: bool = False) -> Path:
    """To the stranger; with `below` all that lies in it."""
    facts = pwd.getpwnam(STRANGER)
    for each in (path, *(path.rglob("*") if below else ())):
        os.chown(each, facts.pw_uid, facts.pw_gid, follow_symlinks=False)
    return path


@pytest.fixture
def theirs(site: Site) -> Path:
    """A directory of the stranger's."""
    (site.root / "theirs").mkdir()
    return give(site.root / "theirs")


@pytest.fixture
def precious(site: Site) -> Path:
    """A private directory of root's with one file, for `untouched`."""
    folder = site.root / "precious"
    folder.mkdir(mode=0o700)
    (folder / "file").write_text("root's")
    (folder / "file").chmod(0o600)
    return folder


def untouched(folder: Path) -> bool:
    """Whether it is as it was."""
    facts = (folder / "file").stat()
    same = [each.name for each in folder.iterdir()] == ["file"] and (folder / "file").read_text() == "root's"
    return same and folder.stat().st_mode & 0o777 == 0o700 and (facts.st_uid, facts.st_mode & 0o777) == (0, 0o600)


def refused(site: Site, sentence: str, config: Path | None = None) -> None:
    """The agent refuses to start, `check-config` and `doctor` say the same, and nothing ran."""
    place = config or site.config
    agent = site.start(None, "--once", "--no-splay") if config is None else None
    if agent is not None:
        assert agent.wait() == 78
        assert sentence in agent.errors
    for words in (["check-config", place], ["doctor", "--watch-config", place, "--json", "--state-dir", site.state]):
        done = subprocess.run([JETP, *words], env=site.environ, capture_output=True, text=True, timeout=60, check=False)
        said = done.stderr if words[0] == "check-config" else _problems(done.stdout)
        assert done.returncode == 78, done
        assert sentence in said, said
    assert not (site.root / "ran").exists()


def _problems(text: str) -> str:
    return "\n".join(each["found"] for each in json.loads(text)["findings"] if each["verdict"] == "problem")


# --- the configuration ------------------------------------------------------------------------------------------------


def test_a_configuration_of_another_account_is_refused(site: Site, uid: int) -> None:
    """Whoever owns it decides what root runs, whatever its mode."""
    site.configure(LEAST)
    site.config.chmod(0o600)
    give(site.config)
    refused(site, f"it belongs to uid {uid}, who so decides what is in it")


def test_a_configuration_in_a_directory_of_another_account_is_refused(site: Site, theirs: Path, uid: int) -> None:
    """Its own owner does not help: another file could stand there in a moment."""
    site.config = theirs / "watch.yml"
    site.configure(LEAST)
    refused(site, f"{theirs} belongs to uid {uid}")


def test_a_configuration_behind_a_link_of_another_account_is_refused(site: Site, theirs: Path, uid: int) -> None:
    """The link of today leads to a file of root's."""
    site.configure(LEAST)
    (theirs / "watch.yml").symlink_to(site.config)
    site.config = site.root / "by_link.yml"
    site.config.symlink_to(theirs / "watch.yml")
    refused(site, f"{theirs} belongs to uid {uid}")


@pytest.mark.parametrize("mode", [0o1777, 0o777])
def test_a_directory_of_files_that_others_may_add_to_is_refused(site: Site, mode: int) -> None:
    """Before a file of theirs is in it."""
    site.config = site.root / "conf.d"
    site.config.mkdir()
    (site.config / "a.yml").write_text("check_command: 'true'\njet_command: 'true'\n")
    site.config.chmod(mode)
    refused(site, f"others may write to {site.config}")


def test_each_file_of_a_directory_has_to_be_ours(site: Site, uid: int) -> None:
    """The one that is not is named."""
    site.config = site.root / "conf.d"
    site.config.mkdir()
    for name in ("a.yml", "b.yml"):
        (site.config / name).write_text("check_command: 'true'\njet_command: 'true'\n")
    give(site.config / "b.yml")
    refused(site, f"b.yml:1: cannot be read: it belongs to uid {uid}")


def test_a_reload_refuses_what_a_start_would(site: Site, uid: int) -> None:
    """And the agent works on with what it has."""
    agent = site.ready({**OFTEN, "jet_command": "true"}, "--no-splay", "--log-level", "debug")
    site.configure(LEAST)
    give(site.config)
    agent.send(signal.SIGHUP)
    told = agent.wait_for("config_rejected")
    assert f"it belongs to uid {uid}" in json.dumps(told)
    number = len(agent.told("check_finished"))
    until(lambda: len(agent.told("check_finished")) > number + 1)
    assert not (site.root / "ran").exists()


# --- files that it names ----------------------------------------------------------------------------------------------

GIT = "git+https://example.org/a.git"


def naming(key: str, path: Path) -> dict[str, Any]:
    """A configuration that names this file under this key."""
    git_over_ssh = "git+ssh://git@example.org/a.git"
    by_key: dict[str, dict[str, Any]] = {
        "env_file": {"env_file": str(path)},
        "on_ok.env_file": {"on_ok": {"run": "true", "env_file": str(path)}},
        "token_file": {"log": {"http": {"url": "https://example.org/x", "token_file": str(path)}}},
        "log.ca_file": {"log": {"http": {"url": "https://example.org/x", "ca_file": str(path)}}},
        "ca_file": {"content": {"url": GIT, "ca_file": str(path)}},
        "allowed_signers": {"content": {"url": GIT, "verify": {"allowed_signers": str(path)}}},
        "ssh_key": {"content": {"url": git_over_ssh, "ssh_key": str(path)}},
        "known_hosts": {"content": {"url": git_over_ssh, "known_hosts": str(path)}},
    }
    least = {"jet_command": LEAST["jet_command"]} if "content" in by_key[key] else LEAST
    return {**least, **by_key[key]}


OF_THE_FETCH = ["allowed_signers", "ssh_key", "known_hosts"]
KEYS = ["env_file", "on_ok.env_file", "token_file", "log.ca_file", "ca_file", *OF_THE_FETCH]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("how", ["owner", "directory", "link"])
def test_a_file_that_decides_has_to_be_ours(site: Site, theirs: Path, uid: int, key: str, how: str) -> None:
    """By its owner, by the directory that it lies in, and by the place that a link of ours leads to."""
    path = site.root / "file" if how == "owner" else theirs / "file"
    path.write_text("A=b\n")
    path.chmod(0o600)
    if how == "owner":
        give(path)
    if how == "link":
        (site.root / "link").symlink_to(path)
    site.configure(naming(key, site.root / "link" if how == "link" else path))
    done = subprocess.run([JETP, "check-config", site.config], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert f"belongs to uid {uid}, who so decides what is in it" in done.stderr


@pytest.mark.parametrize("key", OF_THE_FETCH)
def test_what_only_a_fetch_reads_may_be_its_users(site: Site, theirs: Path, key: str) -> None:
    """It is read with that account's rights, for that account's content."""
    path = theirs / "file"
    path.write_text("x\n")
    path.chmod(0o600)
    give(path)
    site.configure({**naming(key, path), "user": STRANGER})
    subprocess.run([JETP, "check-config", site.config], env=site.environ, capture_output=True, timeout=60, check=True)
    os.chown(path, pwd.getpwnam("games").pw_uid, 0)
    refused(site, f"belongs to uid {pwd.getpwnam('games').pw_uid}")


@pytest.mark.parametrize("key", ["env_file", "ca_file"])
def test_what_the_agent_reads_may_not_be_the_watchs_users(site: Site, theirs: Path, uid: int, key: str) -> None:
    """A hook of the watch may go back to root, and would get what that account wrote."""
    give_file = theirs / "file"
    give_file.write_text("BASH_ENV=/x\n")
    give(give_file)
    site.configure({**naming(key, give_file), "user": STRANGER, "on_ok": {"run": "true", "user": "root"}})
    refused(site, f"belongs to uid {uid}")


def test_an_env_file_that_changes_hands_starts_nothing_more(site: Site, uid: int) -> None:
    """It is looked at again for each start."""
    env_file = site.root / "env_file"
    env_file.write_text("A=b\n")
    agent = site.ready(
        {**OFTEN, "jet_command": "true", "env_file": str(env_file)}, "--no-splay", "--log-level", "debug"
    )
    agent.wait_for("check_finished", result="not_due")
    give(env_file)
    failed = agent.wait_for("check_finished", result="error")
    assert f"it belongs to uid {uid}" in failed["output_tail"]


# --- the state directory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["theirs/link", "theirs/link/new", "theirs/own", "shared/link", "open/new"])
def test_no_state_directory_where_another_account_could_lead_it_elsewhere(
    site: Site, theirs: Path, precious: Path, name: str
) -> None:
    """Nothing is made there and no mode is changed; `doctor` says the same."""
    for folder, mode in (("shared", 0o1777), ("open", 0o777)):
        (site.root / folder).mkdir()
        (site.root / folder).chmod(mode)
    for link in (theirs / "link", site.root / "shared/link"):
        link.symlink_to(precious)
        give(link)
    site.state = site.root / name
    agent = site.once({**LEAST, "user": STRANGER}, code=78)
    assert "who so decides" in agent.errors or "others may write" in agent.errors
    done = site.jetp("doctor", "--json", code=78)
    assert "the agent refuses it" in _problems(done.stdout)
    assert untouched(precious)
    assert not (site.root / "open/new").exists()
    assert not (theirs / "own").exists()


def test_no_download_directory_either(site: Site, theirs: Path, precious: Path) -> None:
    """It is made and given away as root."""
    (theirs / "downloads").symlink_to(precious)
    agent = site.once({**LEAST, "download_dir": str(theirs / "downloads")}, code=78)
    assert f"{theirs} belongs to uid" in agent.errors
    assert untouched(precious)


# --- root's commands on the state directory of another account --------------------------------------------------------


@pytest.fixture
def agents_state(site: Site, theirs: Path) -> Path:
    """The state directory of the stranger's own agent, which has run once; its watch is called `watch`."""
    config = theirs / "watch.yml"
    config.write_text("name: watch\ncheck_command: 'true'\njet_command: echo applied\n")
    config.chmod(0o644)
    site.state = theirs / "state"
    words = [jetp_for_all(), "watch", "--watch-config", config, "--state-dir", site.state, "--once", "--no-splay"]
    done = run_as(STRANGER, words)
    assert done.returncode == 0, done.stderr
    return site.state


def test_root_reads_and_changes_it_with_its_owners_rights(site: Site, agents_state: Path, uid: int) -> None:
    """All of it works, what it makes belongs to the owner, and it says who asked."""
    assert "applied" in site.jetp("logs").stdout
    site.jetp("suspend", "--reason", "x")
    assert site.standing()["suspended"]["by"] == "root"
    assert {each.lstat().st_uid for each in [agents_state, *agents_state.rglob("*")]} == {uid}


def test_others_may_not_read_it(agents_state: Path) -> None:
    """As before: its owner and root."""
    words = [jetp_for_all(), "status", "--state-dir", agents_state]
    done = run_as("games", words)
    assert (done.returncode, done.stdout) == (77, "")


def test_a_state_directory_that_two_accounts_could_change_is_read_by_nobody(site: Site, agents_state: Path) -> None:
    """Whose rights would be the right ones?"""
    middle = site.root / "middle"
    middle.mkdir()
    os.chown(middle, pwd.getpwnam("games").pw_uid, 0)
    agents_state.rename(middle / "state")
    site.state = middle / "state"
    for verb in (("status",), ("logs",), ("clear",)):
        assert "belongs to uid" in site.jetp(*verb, code=78).stderr


def test_whoever_is_called_at_its_socket_sees_its_owner_call(site: Site, agents_state: Path, uid: int) -> None:
    """The rights of root are given up for good, before anything in the directory is looked at."""
    os.seteuid(uid)
    try:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(agents_state / "control.sock"))
        listener.listen()
    finally:
        os.seteuid(0)
    with listener:
        words = [JETP, "trigger", "--state-dir", agents_state]
        with subprocess.Popen(words, env=site.environ, stderr=subprocess.PIPE) as command:
            caller, _ = listener.accept()
            with caller:
                assert peer_uid(caller) == uid
                status = Path(f"/proc/{command.pid}/status").read_text()
            assert command.wait(60) == 69
    rights = {name: text.split() for name, _, text in (line.partition(":") for line in status.splitlines())}
    assert (rights["Uid"], rights["Gid"]) == ([str(uid)] * 4, [str(pwd.getpwuid(uid).pw_gid)] * 4)
    assert "0" not in rights["Groups"]
    assert int(rights["CapEff"][0], 16) == int(rights["CapPrm"][0], 16) == 0


@pytest.fixture
def abandoned(site: Site, theirs: Path) -> Iterator[Path]:
    """The directory of a step that goes on, of an agent of the stranger's that was killed."""
    config = theirs / "watch.yml"
    config.write_text("name: watch\ncheck_command: 'true'\njet_command: sleep 600\n")
    site.state = theirs / "state"
    words = [jetp_for_all(), "watch", "--watch-config", config, "--state-dir", site.state, "--no-splay"]
    agent = start_as(STRANGER, words)
    supervisor = site.supervisor_of("play")
    agent.kill()
    agent.communicate()
    [step] = site.state.glob("runs/*/play.1")
    yield step
    site.kill_supervisor(supervisor)
    until(lambda: not is_alive(supervisor))


def test_no_signal_of_root_goes_where_anothers_state_directory_says(site: Site, abandoned: Path) -> None:
    """It says that the supervisor is a process of root's, and so is the agent."""
    with subprocess.Popen(["sleep", "600"]) as victim:
        try:
            fields = Path(f"/proc/{victim.pid}/stat").read_text().rpartition(")")[2].split()
            started = json.loads((abandoned / "started.json").read_text())
            started |= {"supervisor_pid": victim.pid, "supervisor_start_ticks": int(fields[19])}
            (abandoned / "started.json").write_text(json.dumps(started))
            (site.state / "lock").write_text(f"{victim.pid} {fields[19]}\n")
            assert "was told to stop" in site.jetp("cancel").stdout
            assert victim.poll() is None
        finally:
            victim.kill()


def test_no_file_of_root_is_made_where_anothers_state_directory_says(
    site: Site, abandoned: Path, precious: Path, uid: int
) -> None:
    """Neither over a link in the place of a file, nor in that of a directory."""
    (abandoned / "cancel").symlink_to(precious / "new")
    give(abandoned / "cancel")
    site.jetp("cancel")
    assert untouched(precious)
    assert {each.lstat().st_uid for each in abandoned.iterdir()} == {uid}
