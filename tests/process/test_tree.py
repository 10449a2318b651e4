"""The processes of a command: found whatever they do, never mistaken for others, ended wholly or told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from waiting import until
from workbench import MARK, NOBODY, SCRIPTS, Workbench, as_nobody, need, need_root

from jetwatch.process import tree
from jetwatch.process.place import find_place
from jetwatch.process.tree import Family

Started = list[subprocess.Popen[bytes]]


@pytest.fixture
def popen(bench: Workbench) -> Iterator[Started]:
    """What was started by `begin`; all of it is ended and waited for."""
    started: Started = []
    yield started
    for child in started:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()
    for pid in bench.survivors():
        os.kill(pid, signal.SIGKILL)


def begin(bench: Workbench, popen: Started, *argv: str, env: dict[str, str] | None = None) -> tuple[int, int]:
    """Start a process in a session of its own. Its pid and start time."""
    child = subprocess.Popen(argv, env={MARK: bench.mark, **(env or {})}, start_new_session=True)
    popen.append(child)
    found = tree.look_up(child.pid)
    assert found is not None
    return child.pid, found.start_ticks


def pids(family: Family) -> set[int]:
    """Who is a member now."""
    return {process.pid for process in family.members()}


def family(
    *, root: int | None = None, leader: tuple[int, int] | None = None, mark: str = "NOBODY=1", cgroup: str | None = None
) -> Family:
    """A family that is found by what is given alone."""
    return Family(root=root, leader=leader, mark=mark, cgroup=cgroup)


# -- who belongs to it


@pytest.mark.parametrize("mark", ["", "NAME"])
def test_a_mark_that_is_none_makes_no_family(mark: str) -> None:
    """An empty one would be found in every environment of the machine."""
    with pytest.raises(ValueError, match="no mark"):
        family(mark=mark)


def test_a_process_is_read_whatever_it_is_called(bench: Workbench, popen: Started, tmp_path: Path) -> None:
    """A name of blanks, parentheses and bytes that are no text shifts no field."""
    odd = tmp_path / os.fsdecode(b"a) R 1 (\xff")
    odd.symlink_to("/bin/sleep")
    pid, _ = begin(bench, popen, str(odd), "60")
    found = until(lambda: (now := tree.look_up(pid)) and now.state == "S" and now)
    assert (found.pid, found.parent, found.session, found.threads) == (pid, os.getpid(), pid, 1)


def test_nobody_is_there_when_nobody_is() -> None:
    """A pid that nobody has is no error."""
    assert tree.look_up(2**22 + 1) is None


def test_children_of_children_are_found_by_descent(bench: Workbench, popen: Started) -> None:
    """In sessions of their own, without environment: below a living root or leader they are found."""
    leader = begin(bench, popen, *bench.hostile("cleared"))
    until(lambda: len(bench.registered()) == 2)
    everybody = {pid for pid, _ in bench.registered()}
    assert pids(family(leader=leader)) == everybody
    assert everybody <= pids(family(root=os.getpid()))
    assert os.getpid() not in pids(family(root=os.getpid()))


def test_who_was_found_once_is_known_when_its_parent_is_gone(bench: Workbench, popen: Started) -> None:
    """An orphan in a session of its own, without environment, stays a member."""
    leader = begin(bench, popen, *bench.hostile("cleared"))
    until(lambda: len(bench.registered()) == 2)
    ours = family(leader=leader)
    (orphan,) = pids(ours) - {leader[0]}
    popen[0].kill()
    popen[0].wait()
    assert pids(ours) == {orphan}
    assert pids(family(leader=leader)) == set()


def test_orphans_in_the_leaders_session_are_found(bench: Workbench, popen: Started) -> None:
    """A session is never left by accident, and its number is not given away while somebody is in it."""
    leader = begin(bench, popen, *bench.hostile("stay"))
    until(lambda: len(bench.registered()) == 2)
    popen[0].kill()
    popen[0].wait()
    (orphan,) = bench.survivors()
    assert pids(family(leader=leader)) == {orphan}


def test_the_first_process_is_nobodys() -> None:
    """Every orphan is its child: a family with it would be the whole machine."""
    first = tree.look_up(1)
    assert first is not None
    assert 1 not in pids(family(leader=(1, first.start_ticks)))


def test_a_daemon_is_found_by_its_mark(bench: Workbench, popen: Started) -> None:
    """No parent, a session of its own: what it was started with is still in its environment."""
    begin(bench, popen, *bench.hostile("daemon"))
    until(lambda: len(bench.registered()) == 2)
    popen[0].kill()
    popen[0].wait()
    (orphan,) = bench.survivors()
    assert pids(family(mark=f"{MARK}={bench.mark}")) == {orphan}
    assert pids(family(mark=f"{MARK}={bench.mark[:-1]}")) == set()


def test_a_daemon_that_cleared_its_environment_is_found_by_its_brand(bench: Workbench, popen: Started) -> None:
    """No parent, a session of its own, no variable: the limit of file locks is inherited all the same."""
    mark = f"{MARK}={bench.mark}"
    popen.append(
        subprocess.Popen(
            bench.hostile("cleared_daemon"),
            preexec_fn=lambda: tree.brand(tree.Mark(mark).brand, tree.hard_limit_of_brands()),  # noqa: PLW1509
        )
    )
    until(lambda: len(bench.registered()) == 2)
    popen[0].kill()
    popen[0].wait()
    (orphan,) = bench.survivors()
    assert pids(family(mark=mark)) == {orphan}
    assert pids(family(mark=mark[:-1])) == set()


def test_an_environment_of_any_size_costs_one_page(bench: Workbench, popen: Started) -> None:
    """What a process calls its environment may be as large as it likes; the mark stands first in it."""
    pid, _ = begin(bench, popen, "/bin/sleep", "60", env={f"LONG_{n}": "x" * 100_000 for n in range(12)})
    process = tree.look_up(pid)
    assert process is not None
    mark, other = tree.Mark(f"{MARK}={bench.mark}"), tree.Mark("OTHER=1")
    until(lambda: tree.is_marked(process, mark))  # just after exec there is none yet
    tracemalloc.start()
    try:
        assert tree.is_marked(process, other) is False
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


def test_the_memory_of_other_accounts_is_never_read(bench: Workbench, popen: Started) -> None:
    """It may be a file that is served by nobody, and never comes. The brand, which the kernel keeps, tells of them."""
    need_root()
    mark = tree.Mark(f"{MARK}={bench.mark}")

    def begin_as_nobody(*, branded: bool) -> tree.Process:
        child = subprocess.Popen(
            ["/bin/sleep", "60"],
            env={MARK: bench.mark},
            user=NOBODY,
            preexec_fn=lambda: tree.brand(mark.brand if branded else 2**61, tree.hard_limit_of_brands()),  # noqa: PLW1509
        )
        popen.append(child)
        return until(lambda: (now := tree.look_up(child.pid)) and tree.name_of(child.pid) == "sleep" and now)

    assert tree.is_marked(begin_as_nobody(branded=False), mark) is False
    assert tree.is_marked(begin_as_nobody(branded=True), mark) is True


@pytest.fixture
def cgroup(bench: Workbench) -> Iterator[str]:
    """A cgroup of this test's own."""
    need_root()
    place = find_place(bench.mark)
    need(place.root is not None, "cannot make cgroups here")
    path = place.new_cgroup("step")
    assert path is not None
    yield path
    tree.remove_cgroup(path)
    assert not Path(path).parent.exists()


def test_everybody_in_a_cgroup_is_found(bench: Workbench, popen: Started, cgroup: str) -> None:
    """Groups below it included; nothing else need be known of them."""
    first, _ = begin(bench, popen, "/bin/sleep", "60")
    second, _ = begin(bench, popen, "/bin/sleep", "60")
    assert tree.join_cgroup(cgroup, first)
    assert tree.join_cgroup(f"{cgroup}/below", second)
    assert pids(family(cgroup=cgroup)) == {first, second}
    assert tree.kill(family(cgroup=cgroup), patience_s=5) == []
    assert [child.wait() for child in popen] == [-signal.SIGKILL] * 2


def test_a_cgroup_that_was_swept_meanwhile_is_made_again(bench: Workbench, popen: Started, cgroup: str) -> None:
    """An empty one may be removed at any moment, even between its making and its first process."""
    pid, _ = begin(bench, popen, "/bin/sleep", "60")
    tree.remove_cgroup(cgroup)
    assert not Path(cgroup).exists()
    assert tree.join_cgroup(cgroup, pid)
    assert pids(family(cgroup=cgroup)) == {pid}
    tree.remove_cgroup(cgroup)
    assert Path(cgroup).exists(), "somebody lives there"
    tree.kill(family(cgroup=cgroup), patience_s=5)


def test_a_cgroup_that_cannot_be_joined_is_told(tmp_path: Path, cgroup: str) -> None:
    """Nobody relies on a group that holds nobody."""
    assert not tree.join_cgroup(cgroup, 2**22 + 1)
    assert not tree.join_cgroup(str(tmp_path / "no_cgroup"), os.getpid())


# -- who does not


def test_a_zombie_is_gone(bench: Workbench, popen: Started) -> None:
    """Only its name is left; nobody waits for it."""
    leader = begin(bench, popen, "/bin/true")
    until(lambda: (now := tree.look_up(leader[0])) and now.state == "Z")
    assert pids(family(leader=leader)) == set()
    assert tree.kill(family(leader=leader), patience_s=5) == []


def test_a_process_whose_first_thread_ended_lives(bench: Workbench, popen: Started) -> None:
    """In /proc it looks like a zombie; it is found and ended."""
    leader = begin(
        bench, popen, sys.executable, "-I", "-S", str(SCRIPTS / "hostile.py"), str(bench.register), "threaded"
    )
    until(lambda: len(bench.registered()) == 2)
    threaded = next(pid for pid, _ in bench.registered() if pid != leader[0])
    assert until(lambda: (now := tree.look_up(threaded)) and now.state == "Z" and now).threads > 1
    assert threaded in pids(family(leader=leader))
    assert tree.kill(family(leader=leader), patience_s=5) == []
    assert bench.survivors() == []


def test_a_number_that_somebody_else_has_now_is_left_alone(bench: Workbench, popen: Started) -> None:
    """The same pid with another start time is another process: no member, and never signalled."""
    pid, ticks = begin(bench, popen, *bench.hostile())
    until(bench.registered)
    stranger = family(leader=(pid, ticks - 1))
    assert pids(stranger) == set()
    assert tree.kill(stranger, patience_s=5) == []
    process = tree.look_up(pid)
    assert process is not None
    process.start_ticks -= 1
    tree.send([process], signal.SIGKILL)
    assert bench.survivors() == [pid]


def test_a_session_whose_number_may_have_been_given_away_counts_for_nothing_beside_a_cgroup(
    bench: Workbench, popen: Started, tmp_path: Path
) -> None:
    """With its leader gone and a cgroup at hand, the cgroup alone says who belongs to it."""
    leader = begin(bench, popen, *bench.hostile("stay"))
    until(lambda: len(bench.registered()) == 2)
    popen[0].kill()
    popen[0].wait()
    assert pids(family(leader=leader, cgroup=str(tmp_path))) == set()
    assert pids(family(leader=leader)) == set(bench.survivors())


def test_who_looks_is_never_one_of_them(bench: Workbench) -> None:
    """An agent that a command started carries the command's mark, and so do those whom it starts for others."""
    child = subprocess.run(
        bench.script("look.py", Path(tree.__file__).parents[2], f"{MARK}={bench.mark}"),
        env={MARK: bench.mark},
        capture_output=True,
        check=True,
    )
    assert child.stdout == b"[]\n"


def test_a_successor_of_who_ends_while_it_is_looked_at_is_met(bench: Workbench, popen: Started) -> None:
    """It was not there yet when the looking began."""
    first, _ = begin(bench, popen, "/bin/sleep", "60")

    def judge(process: tree.Process) -> bool | None:
        if process.pid == first:
            begin(bench, popen, "/bin/sleep", "60")
            popen[0].kill()
            popen[0].wait()
            return None
        return process.pid in [child.pid for child in popen]

    assert set(tree.meet_everybody(judge, passes=9)) == {popen[1].pid}


def test_who_has_just_ended_cannot_be_judged(bench: Workbench, popen: Started) -> None:
    """Neither marked nor not: with its memory it has given back its environment."""
    pid, _ = begin(bench, popen, "/bin/sleep", "60")
    process = tree.look_up(pid)
    assert process is not None
    mark = tree.Mark(f"{MARK}={bench.mark}")
    until(lambda: tree.is_marked(process, mark))  # just after exec there is none yet
    assert tree.is_marked(process, tree.Mark("OTHER=1")) is False
    popen[0].kill()
    until(lambda: (now := tree.look_up(pid)) and now.state == "Z")
    assert tree.is_marked(process, mark) is None
    popen[0].wait()
    assert tree.is_marked(process, mark) is None


# -- ending them


def test_terminate_wakes_who_is_stopped(bench: Workbench, popen: Started) -> None:
    """A stopped process can obey only when it goes on."""
    leader = begin(bench, popen, "/bin/sleep", "60")
    os.kill(leader[0], signal.SIGSTOP)
    until(lambda: (now := tree.look_up(leader[0])) and now.state == "T")
    tree.terminate(family(leader=leader))
    assert popen[0].wait(timeout=10) == -signal.SIGTERM


def test_kill_ends_a_swarm(bench: Workbench, popen: Started) -> None:
    """Fifty processes that leave successors faster than they can be listed."""
    leader = begin(bench, popen, *bench.hostile("swarm"))
    until(lambda: len(bench.registered()) > 100)
    assert tree.kill(family(leader=leader, mark=f"{MARK}={bench.mark}"), patience_s=20) == []
    assert bench.survivors() == []


def test_who_may_not_be_signalled_is_told_after_the_patience(bench: Workbench, popen: Started) -> None:
    """As an ordinary user, root's process cannot be ended: it is returned, not waited for."""
    need_root()
    leader = begin(bench, popen, "/bin/sleep", "60")
    told = as_nobody(lambda: [process.pid for process in tree.kill(family(leader=leader), patience_s=0.2)])
    assert told == [leader[0]]
    assert popen[0].poll() is None


def test_who_does_not_end_is_looked_at_less_and_less(bench: Workbench, popen: Started) -> None:
    """A look reads all of /proc: over a process in D state it would go on for days, at the cost of everybody else."""
    need_root()
    leader = begin(bench, popen, "/bin/sleep", "60")

    def kill() -> list[float]:
        pauses: list[float] = []
        tree.kill(family(leader=leader), patience_s=0.5, on_pause=pauses.append)
        return pauses

    pauses = as_nobody(kill)
    assert pauses[0] <= 0.01
    assert len(pauses) > 1
    assert all(later in (2 * earlier, tree._LONGEST_PAUSE_S) for earlier, later in pairwise(pauses))
    assert popen[0].poll() is None
