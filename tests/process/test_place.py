"""Where commands may live: read from files such as the kernel has on machines of each kind, and tried on this one."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from workbench import need, need_root

from jetwatch.process import place, tree
from jetwatch.process.place import Place, find_place


@dataclass
class Machine:
    """A machine of files: what it has mounted, and in which cgroup the agent is."""

    root: Path
    systemd_is_there: bool = False

    def mount(self, *mounts: tuple[str, str, str]) -> None:
        """`shows`, `point` below the machine's root, `kind`."""
        lines = (
            f"{number} 1 0:{number} {shows} {self.root}{point} rw,relatime shared:{number} - {kind} {kind} rw\n"
            for number, (shows, point, kind) in enumerate(mounts, start=30)
        )
        (self.root / "mountinfo").write_text("".join(lines))

    def group(self, own: str, point: str) -> Path:
        """The agent is in `own`, which is to be seen at `point`."""
        (self.root / "cgroup").write_text(f"12:pids:/\n1:name=systemd:/\n0::{own}\n")
        path = Path(f"{self.root}{point}")
        path.mkdir(parents=True, exist_ok=True)
        (path / "cgroup.procs").touch()
        return path

    def find(self) -> Place:
        """What an agent on it finds."""
        systemd = self.root / "systemd"
        if self.systemd_is_there:
            systemd.mkdir(exist_ok=True)
        return find_place("id", mountinfo=self.root / "mountinfo", proc=self.root, systemd=systemd)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with nothing on it."""
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    monkeypatch.delenv("JETWATCH_KILL_MODE", raising=False)
    return Machine(tmp_path)


def test_groups_are_made_below_the_agents_own(machine: Machine) -> None:
    """Wherever its own one is: what lies elsewhere is somebody else's."""
    machine.mount(("/", "/proc", "proc"), ("/", "/sys/fs/cgroup", "cgroup2"))
    own = machine.group("/a/b", "/sys/fs/cgroup/a/b")
    assert machine.find().root == own / "jetwatch-id"


def test_a_machine_with_nothing_but_v2_is_known_by_the_mount(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """There it is mounted where v1 has a directory of controllers."""
    monkeypatch.setattr(place, "_may_make_groups", lambda _parent, _systemd: True)
    machine.group("/", "/anywhere")
    (machine.root / "mountinfo").write_text("30 1 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    assert machine.find() == Place("v2", Path("/sys/fs/cgroup/jetwatch-id"), detach=True)


def test_on_a_hybrid_machine_the_v2_tree_is_used(machine: Machine) -> None:
    """Beside the controllers of v1 it can still kill."""
    machine.mount(("/", "/sys/fs/cgroup/pids", "cgroup"), ("/", "/sys/fs/cgroup/unified", "cgroup2"))
    own = machine.group("/", "/sys/fs/cgroup/unified")
    assert machine.find() == Place("hybrid", own / "jetwatch-id", detach=True)


def test_without_v2_there_is_no_place(machine: Machine) -> None:
    """Only v1, no files at all: never an error."""
    assert machine.find() == Place("none", None, detach=True)
    machine.mount(("/", "/sys/fs/cgroup/pids", "cgroup"))
    machine.group("/", "/sys/fs/cgroup/pids")
    assert machine.find() == Place("none", None, detach=True)


def test_a_mount_that_shows_another_part_of_the_tree_is_no_place(machine: Machine) -> None:
    """A container without its own namespace sees its group by another path, or not at all."""
    machine.mount(("/docker/abc", "/sys/fs/cgroup", "cgroup2"))
    own = machine.group("/docker/abc/app", "/sys/fs/cgroup/app")
    assert machine.find().root == own / "jetwatch-id"
    machine.group("/docker/other", "/sys/fs/cgroup/docker/other")
    assert machine.find().root is None
    machine.mount(("/", "/sys/fs/cgroup", "cgroup2"))
    machine.group("/../outside", "/sys/fs/cgroup/outside")
    assert machine.find().root is None


def test_where_systemd_manages_only_a_delegated_group_is_touched(machine: Machine) -> None:
    """Unless the unit says Delegate=yes, its tree is systemd's alone."""
    machine.mount(("/", "/sys/fs/cgroup", "cgroup2"))
    own = machine.group("/system.slice/x.service", "/sys/fs/cgroup/system.slice/x.service")
    machine.systemd_is_there = True
    assert machine.find() == Place("none", None, detach=True)
    try:
        os.setxattr(own, "user.delegate", b"1")
    except OSError:
        need(False, "needs extended attributes")
    assert machine.find().root == own / "jetwatch-id"


def test_a_group_that_may_not_be_written_to_is_no_place(machine: Machine) -> None:
    """A file system that is mounted read-only, or somebody else's."""
    machine.mount(("/", "/sys/fs/cgroup", "cgroup2"))
    own = machine.group("/", "/sys/fs/cgroup")
    (own / "cgroup.procs").unlink()
    assert machine.find().root is None


@pytest.mark.parametrize(
    ("group", "invocation", "kill_mode", "detach"),
    [
        ("/system.slice/jetwatch.service", "abc", None, False),
        ("/system.slice/jetwatch.service", "abc", "process", True),
        ("/system.slice/jetwatch.service", "abc", "none", True),
        ("/system.slice/jetwatch.service", "abc", "mixed", False),
        ("/system.slice/jetwatch.service", None, None, True),
        ("/user.slice/session-3.scope", "abc", None, True),
        ("/", None, "control-group", False),
        ("/", None, "process", True),
        ("/", None, "", True),
    ],
)
def test_a_run_outlives_its_agent_unless_the_unit_takes_it_along(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    group: str,
    invocation: str | None,
    kill_mode: str | None,
    detach: bool,
) -> None:
    """systemd ends everything in a service, unless it is told to end its process alone; a container says so itself."""
    machine.group(group, "/anywhere")
    machine.mount()
    if invocation is not None:
        monkeypatch.setenv("INVOCATION_ID", invocation)
    if kill_mode is not None:
        monkeypatch.setenv("JETWATCH_KILL_MODE", kill_mode)
    assert machine.find().detach is detach


def test_here_a_group_is_made_joined_killed_and_removed() -> None:
    """The real thing: one write ends whoever is in it, however it left its parent and its session."""
    need_root()
    here = find_place(f"test-{os.getpid()}")
    need(here.root is not None, "cannot make cgroups here")
    path = here.new_cgroup("step")
    assert path is not None
    child = subprocess.Popen(["setsid", "sh", "-c", "trap '' TERM; sleep 60 & wait"], env={"PATH": os.environ["PATH"]})
    assert tree.join_cgroup(path, child.pid)
    here.sweep()
    assert Path(path).exists(), "somebody lives there"
    assert tree.kill(tree.Family(root=None, leader=None, mark="NOBODY=1", cgroup=path), patience_s=5) == []
    assert child.wait() == -signal.SIGKILL
    here.sweep()
    assert here.root is not None
    assert not here.root.exists()
    here.sweep()


def test_a_place_that_is_none_makes_nothing() -> None:
    """And sweeping it is no error."""
    nowhere = Place("none", None, detach=True)
    assert nowhere.new_cgroup("step") is None
    nowhere.sweep()


def test_a_place_that_went_away_makes_nothing(tmp_path: Path) -> None:
    """A command starts without a group rather than not at all."""
    (tmp_path / "file").touch()
    assert Place("v2", tmp_path / "file" / "below", detach=True).new_cgroup("step") is None
