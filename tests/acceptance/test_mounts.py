"""Content below a mount whose server hangs, dies, refuses or forgets, through the installed jetp: real FUSE mounts."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess, Site, is_alive, until
from mounts import Mounted, Unruly, sshfs, unruly

PLAY = 'cat "$JETWATCH_DOWNLOAD_PATH/pb.yml" >> played; echo >> played'


@pytest.fixture
def mounted(site: Site) -> Iterator[Mounted]:
    """A mount by sshfs with one playbook."""
    with sshfs(site.root) as mount:
        publish(mount, "first")
        yield mount


@pytest.fixture
def moody(site: Site) -> Iterator[Unruly]:
    """A mount whose faults the test decides, with one playbook."""
    with unruly(site.root) as mount:
        publish(mount, "first")
        yield mount


def publish(mount: Mounted, text: str) -> None:
    """Write another playbook behind the mount."""
    new = mount.behind / "pb.yml.new"
    new.write_text(text)
    new.rename(mount.behind / "pb.yml")


def config(site: Site, mount: Mounted, **timeouts: str) -> dict[str, Any]:
    """Two watches that look all the time: one below the mount, and one that has nothing to do with it."""
    content = {"url": mount.path.as_uri(), "settle": "0.1s"}
    retry = {"initial": "1s", "max": "1s"}
    limits = {"timeouts": {"check": "10s", "grace": "0.5s", **timeouts}, "check_interval": "1s", "retry": retry}
    well = {"check_command": site.shell("echo x >> well; exit 1"), "jet_command": "true"}
    return {
        "defaults": limits,
        "watches": {"below": {"content": content, "jet_command": site.shell(PLAY)}, "well": well},
    }


def started(site: Site, mount: Mounted, **timeouts: str) -> AgentProcess:
    """An agent that has applied what is there."""
    agent = site.start(config(site, mount, **timeouts), "--no-splay", "--log-level", "debug")
    agent.wait_for("run_finished", watch="below", outcome="ok")
    return agent


def goes_on(site: Site) -> None:
    """Wait until the other watch was checked twice more."""
    number = len(site.read_lines("well"))
    until(lambda: len(site.read_lines("well")) >= number + 2)


@pytest.mark.slow
def test_a_mount_that_hangs_is_given_up_and_comes_back(site: Site, mounted: Mounted) -> None:
    """The look is killed at its timeout and says why, the other watch goes on; what came meanwhile is applied then."""
    agent = started(site, mounted, check="3s")
    mounted.server.send_signal(signal.SIGSTOP)
    late = agent.wait_for("check_finished", watch="below", result="error")
    assert late["reason"] == "content"
    assert "no answer within 3 s: is it a dead mount?" in late["output_tail"]
    goes_on(site)
    publish(mounted, "second")
    mounted.server.send_signal(signal.SIGCONT)
    agent.wait_for("run_finished", watch="below", nth=2, outcome="ok")
    assert site.read_lines("played") == ["first", "second"]


def test_a_mount_whose_server_died_is_an_error_that_passes(site: Site, mounted: Mounted) -> None:
    """As a kernel says it; nothing is started from an empty directory."""
    agent = started(site, mounted)
    mounted.server.kill()
    dead = agent.wait_for("check_finished", watch="below", result="error", reason="content")
    assert "Transport endpoint is not connected" in dead["output_tail"]
    goes_on(site)
    assert site.read_lines("played") == ["first"]


@pytest.mark.parametrize(
    ("fault", "reason", "said"),
    [
        ("stale", "content", "Stale file handle"),
        ("broken", "content", "Input/output error"),
        ("denied", "content_stalled", "Permission denied"),
    ],
)
def test_a_fault_of_the_mount_is_said_and_passes(site: Site, moody: Unruly, fault: str, reason: str, said: str) -> None:
    """With the path; other watches go on, and when it is over so does this one."""
    agent = started(site, moody)
    moody.suffer(fault)
    wrong = agent.wait_for("check_finished", watch="below", result="error", reason=reason)
    assert said in wrong["output_tail"]
    assert str(moody.path) in wrong["output_tail"]
    goes_on(site)
    publish(moody, "second")
    moody.suffer("")
    agent.wait_for("run_finished", watch="below", nth=2, outcome="ok")
    assert site.read_lines("played") == ["first", "second"]


def test_a_fault_in_the_middle_of_a_fetch_fails_the_run_and_the_retry_heals_it(site: Site, moody: Unruly) -> None:
    """The listing works and the reading does not: the play is not started, and later it is, with everything."""
    agent = started(site, moody)
    publish(moody, "second")
    moody.suffer("denied read")
    failed = agent.wait_for("run_finished", watch="below", outcome="failed")
    assert failed["failed_step"] == "download"
    moody.suffer("")
    agent.wait_for("run_finished", watch="below", nth=2, outcome="ok")
    assert site.read_lines("played") == ["first", "second"]


@pytest.mark.slow
def test_a_look_that_cannot_be_killed_blocks_its_watch_alone(site: Site, moody: Unruly) -> None:
    """A child in D state: told and shown with its pid, other watches go on, and it is over when the mount answers."""
    agent = started(site, moody, check="1s")
    moody.suffer("hang")
    blocked = agent.wait_for("blocked", watch="below")
    assert (blocked["step"], blocked["state"]) == ("check", "D")
    assert is_alive(blocked["pid"])
    assert f"pid {blocked['pid']} in state D" in site.jetp("status").stdout
    assert {"code": "blocked", "watch": "below"} in site.data("status")["unwell"]
    goes_on(site)
    publish(moody, "second")
    moody.suffer("")
    agent.wait_for("run_finished", watch="below", nth=2, outcome="ok")
    assert {"code": "blocked", "watch": "below"} not in site.data("status")["unwell"]


@pytest.mark.slow
def test_a_fetch_that_hangs_ends_the_run_by_its_timeout(site: Site, moody: Unruly) -> None:
    """The step is over when the mount lets go, the play was never started, and the other watch went on."""
    agent = started(site, moody, download="1s")
    publish(moody, "second")
    moody.suffer("hang read")
    agent.wait_for("blocked", watch="below", step="download")
    goes_on(site)
    moody.suffer("")
    ended = agent.wait_for("run_finished", watch="below", outcome="timeout")
    assert ended["failed_step"] == "download"
    agent.wait_for("run_finished", watch="below", nth=2, outcome="ok")
    assert site.read_lines("played") == ["first", "second"]


def test_an_agent_stops_in_time_beside_a_dead_mount(site: Site, moody: Unruly) -> None:
    """TERM while a look hangs in the kernel."""
    agent = started(site, moody)
    moody.suffer("hang")
    until(lambda: any(_hangs(process) for process in Path("/proc").iterdir() if process.name.isdigit()))
    assert agent.stop(within_s=10) == 0


def _hangs(process: Path) -> bool:
    """Whether it is a look that waits in the kernel for a FUSE server."""
    try:
        return b"--look" in (process / "cmdline").read_bytes() and "wait_answer" in (process / "wchan").read_text()
    except OSError:
        return False
