"""What the engine asks of the machine, through the one object that does it: starts, checks, and what runs leave."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from waiting import until
from workbench import NOBODY, Workbench, need, need_root, tmpfs

from jetwatch import statedir, trees
from jetwatch.errors import CommandNotStarted
from jetwatch.process import commands
from jetwatch.process.commands import Commands
from jetwatch.process.output import Writer
from jetwatch.process.place import Place, find_place
from jetwatch.process.prepare import Surroundings
from jetwatch.records import Command, CommandResult, Ending, Evidence, Sight
from jetwatch.statedir import StateDir

RUN = "3f2b8c1e-0000-4000-8000-000000000001"
OTHER = "3f2b8c1e-0000-4000-8000-000000000002"


@dataclass
class House:
    """A state directory with the object that works in it."""

    layout: StateDir
    commands: Commands
    bench: Workbench

    def command(self, shell: str, **asked: Any) -> Command:
        """A command whose processes the test can tell."""
        return Command(shell=shell, env={"JETWATCH_TEST": self.bench.mark}, **asked)

    def step(self, shell: str, name: str = "play", run: str = RUN, **asked: Any) -> CommandResult:
        """Run a step to its end."""
        directory, step_id = self.layout.step(run, name, 1), f"{run}.{name}.1"
        download = (self.layout.download(run),)
        self.commands.start_step(
            self.command(shell, **asked), directory, step_id, {}, directories=download, owner=asked.get("user")
        )
        return self.ended(directory, step_id)

    def hook(self, shell: str, output: Path | None = None, run: str = RUN, **asked: Any) -> CommandResult:
        """Run a hook to its end."""
        directory, step_id = self.layout.hook(run, "on_ok", 1, 1), f"{run}.on_ok.1"
        given = (output, self.layout.run(run), asked.get("user")) if output is not None else None
        self.commands.start_hook(self.command(shell, **asked), directory, step_id, {}, output=given)
        return self.ended(directory, step_id)

    def ended(self, directory: Path, step_id: str) -> CommandResult:
        """Wait for a supervisor to leave."""

        def result() -> Evidence | None:
            seen = self.commands.look(directory, step_id)
            return seen if seen.sight is not Sight.ALIVE else None

        found = until(result).result
        assert found is not None
        return found

    def check(self, shell: str, **asked: Any) -> CommandResult:
        """Run a check to its end."""
        never = os.eventfd(0, os.EFD_CLOEXEC)
        secrets = asked.pop("secrets", {})
        try:
            return self.commands.check(
                self.command(shell, **asked),
                str(uuid.uuid4()),
                variables={"watch": "web"},
                secrets=secrets,
                cancel_fd=never,
                on_blocked=lambda _pid, _state: None,
            )
        finally:
            os.close(never)


@pytest.fixture
def house(bench: Workbench) -> Iterator[House]:
    """An empty house in which some watch has a user of its own."""
    layout = StateDir.at(bench.root / "state")
    statedir.prepare(layout, passable=True)
    surroundings = Surroundings({"PATH": os.environ["PATH"]}, umask=0o022)
    commands = Commands(layout, bench.program, Place("none", None, detach=True), surroundings, bench.mark)
    yield House(layout, commands, bench)
    commands.close()


# -- starts


def test_a_step_finds_its_download_path_empty_and_private(house: House) -> None:
    """0700, its owner's, there before the first instruction."""
    path = house.layout.download(RUN)
    assert house.step(f'test -z "$(ls -A {path})" && stat -c %a {path} && touch {path}/a').exit_code == 0
    assert (path / "a").exists()
    assert path.stat().st_mode & 0o777 == 0o700


def test_another_users_step_owns_what_it_needs_and_sees_no_more(house: House) -> None:
    """Its download_path and its JETWATCH_OUTPUT; not the state directory around them."""
    need_root()
    path, state = house.layout.download(RUN), house.layout.root
    result = house.step(
        f"id -un; touch {path}/a && echo a=1 > $JETWATCH_OUTPUT; ls {state} {state}/runs {state}/exchange; echo end",
        user="nobody",
    )
    assert result.outputs == {"a": "1"}
    assert path.stat().st_uid == NOBODY
    assert result.output_tail.startswith("nobody\n")
    assert result.output_tail.count("Permission denied") == 3


def _use_cache(house: House, user: str | None) -> Path:
    """Where a fetch of the watch `web` has its cache, when it runs as this user; it leaves a file there."""
    run = str(uuid.uuid4())
    directory, step_id = house.layout.step(run, "download", 1), f"{run}.download.1"
    command = house.command('touch "$JETWATCH_CACHE_PATH/mark" && echo cache=$JETWATCH_CACHE_PATH > $JETWATCH_OUTPUT')
    house.commands.start_step(
        replace(command, user=user), directory, step_id, {}, directories=(), owner=user, cache_of="web"
    )
    result = house.ended(directory, step_id)
    assert result.exit_code == 0, result.output_tail
    return Path(result.outputs["cache"])


def test_a_cache_is_kept_while_the_account_is_the_same(house: House) -> None:
    """It is private, and what a fetch left there the next one finds."""
    cache = _use_cache(house, None)
    assert cache == house.layout.cache("web", os.geteuid())
    assert cache.stat().st_mode & 0o777 == 0o700
    (cache / "kept").touch()
    assert _use_cache(house, None) == cache
    assert (cache / "kept").exists()


def test_another_account_has_another_cache_and_the_old_one_goes(house: House, tmp_path: Path) -> None:
    """Nothing of the former account is opened, re-owned or followed; other watches keep theirs."""
    need_root()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    other = house.layout.cache("web-2", NOBODY)
    other.mkdir()
    before = _use_cache(house, "nobody")
    assert before.stat().st_uid == NOBODY
    (before / "link").symlink_to(tmp_path / "precious")
    os.chown(before / "mark", NOBODY, NOBODY)
    after = _use_cache(house, None)
    assert {path.name for path in house.layout.caches.iterdir()} == {other.name, after.name}
    assert [path.name for path in after.iterdir()] == ["mark"]
    assert (after / "mark").stat().st_uid == 0
    assert (tmp_path / "precious/file").exists()


def test_a_cache_that_another_account_made_is_not_used(house: House) -> None:
    """Neither its files nor a link in its place; one that others may write to begins anew."""
    need_root()
    cache = house.layout.cache("web", 0)
    cache.mkdir()
    (cache / "config").write_text("evil")
    os.chown(cache, NOBODY, NOBODY)
    assert [path.name for path in _use_cache(house, None).iterdir()] == ["mark"]
    (cache / "config").write_text("evil")
    cache.chmod(0o777)
    assert [path.name for path in _use_cache(house, None).iterdir()] == ["mark"]


def test_caches_of_before_they_belonged_to_an_account_are_removed(house: House, tmp_path: Path) -> None:
    """They may be anybody's. What links in them lead to stays."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    old = house.layout.caches / "web"
    (old / "git").mkdir(parents=True)
    (old / "git/link").symlink_to(tmp_path / "precious")
    new = house.layout.cache("web", os.geteuid())
    new.mkdir()
    house.commands.forget_half_done()
    assert [path.name for path in house.layout.caches.iterdir()] == [new.name]
    assert (tmp_path / "precious/file").exists()


def test_what_can_never_start_is_refused_with_its_reason(house: House) -> None:
    """The user's mistake: no supervisor is started for it, and no second try will help."""
    with pytest.raises(CommandNotStarted) as refused:
        house.step("true", user="no-such-user")
    assert refused.value.code == "no_such_user"


def test_no_room_for_a_directory_is_a_refusal_for_now(house: House) -> None:
    """The engine tries again later."""
    house.layout.runs.rmdir()
    house.layout.runs.touch()
    with pytest.raises(CommandNotStarted) as refused:
        house.step("true")
    assert refused.value.code == "no_room"
    assert str(house.layout.run(RUN)) in str(refused.value)


def test_a_hook_is_given_the_output_of_its_run_as_a_plain_file(house: House) -> None:
    """All steps in order, every start of each; its own it does not see."""
    house.step("echo downloaded", name="download")
    house.step("echo played; echo badly >&2")
    output = house.layout.exchange(f"{RUN}.log")
    result = house.hook(f"cat {output}", output)
    assert result.output_tail == "downloaded\nplayed\nbadly\n"


def test_what_was_dropped_of_an_output_is_said_in_its_place(house: House) -> None:
    """A gap in the plain file is no surprise."""
    directory = house.layout.step(RUN, "play", 1)
    directory.mkdir(parents=True)
    writer = Writer(str(directory), 1000)
    for _ in range(50):
        writer.write(b"x" * 99 + b"\n", 1)
    writer.close()
    output = house.layout.exchange(f"{RUN}.log")
    house.hook("true", output)
    lines = output.read_text().splitlines()
    (said,) = [line for line in lines if line.endswith("bytes dropped ...")]
    dropped = int(said.split()[1])
    assert sum(len(line) + 1 for line in lines if line.startswith("x")) + dropped >= 5000


def test_the_plain_file_belongs_to_whoever_the_hook_runs_as(house: House) -> None:
    """Each hook can read it, whoever the one before it was."""
    need_root()
    house.step("echo played")
    output = house.layout.exchange(f"{RUN}.log")
    assert house.hook(f"cat {output}", output, user="nobody").exit_code == 0
    assert (output.stat().st_uid, output.stat().st_mode & 0o777) == (NOBODY, 0o600)


def test_a_buried_step_leaves_no_file_behind_that_it_could_have_answered_in(house: House) -> None:
    """Nothing collects in the exchange."""
    directory, step_id = house.layout.step(RUN, "play", 1), f"{RUN}.play.1"
    house.commands.start_step(house.command("sleep 60"), directory, step_id, {}, directories=(), owner=None)
    supervisor = until(lambda: house.commands.look(directory, step_id).supervisor)
    os.kill(supervisor.pid, 9)
    until(lambda: house.commands.look(directory, step_id).sight is Sight.GONE)
    assert house.layout.exchange(step_id).exists()
    assert house.commands.bury(directory, step_id, patience_s=5) is None
    assert list(house.layout.exchange("").iterdir()) == []


# -- checks


def test_a_check_answers_with_code_outputs_and_tail(house: House) -> None:
    """And carries the mark by which a later agent would find it."""
    result = house.check("echo $JETWATCH_WATCH $JETWATCH_CHECK; echo revision=7 > $JETWATCH_OUTPUT; exit 75")
    assert (result.ending, result.exit_code, result.outputs) == (Ending.EXITED, 75, {"revision": "7"})
    assert result.output_tail == f"web {house.bench.mark}\n"
    assert list(house.layout.exchange("").iterdir()) == []


def test_a_checks_secrets_are_masked(house: House) -> None:
    """Values that the engine handed over, and values of an env_file."""
    path = house.bench.root / "env"
    path.write_text("FILED=filed-secret\n")
    result = house.check("echo $HANDED $FILED", secrets={"HANDED": "handed-secret"}, env_files=(str(path),))
    assert result.output_tail == "*** ***\n"


def test_a_check_that_cannot_be_prepared_is_a_result(house: House) -> None:
    """A wrong user fails this check, and no agent."""
    result = house.check("true", user="no-such-user")
    assert (result.ending, result.reason) == (Ending.NOT_STARTED, "no_such_user")
    assert result.detail == "user no-such-user: no such user on this machine"


def test_what_checks_of_an_earlier_agent_left_is_removed(house: House) -> None:
    """Processes and files; those of steps and hooks stay."""
    kept = [house.layout.exchange(f"{RUN}.play.1"), house.layout.exchange("hook-7.on_error.1")]
    for path in (house.layout.exchange(str(uuid.uuid4())), *kept):
        path.touch()
    (house.layout.exchange("") / str(uuid.uuid4())).mkdir()
    house.commands.forget_half_done()
    assert set(house.layout.exchange("").glob("*.*")) == set(kept)


def test_a_cgroup_that_an_earlier_agent_made_for_nobody_is_removed(house: House, bench: Workbench) -> None:
    """It was killed before the supervisor began; the step is started again, in another one."""
    need_root()
    place = find_place(bench.mark)
    need(place.root is not None, "cannot make cgroups here")
    group = place.new_cgroup(f"{RUN}.play.1")
    assert group is not None
    surroundings = Surroundings({"PATH": os.environ["PATH"]}, umask=0o022)
    Commands(house.layout, bench.program, place, surroundings, bench.mark).forget_half_done()
    assert place.root is not None
    assert not place.root.exists()


# -- room


def test_free_space_is_told_of_each_place_once(house: House) -> None:
    """One file system, one row; what is gone has no room."""
    (path, free_bytes, inodes), *more = house.commands.free_space()
    stat = os.statvfs(house.layout.root)
    assert path == str(house.layout.root)
    assert 0 < free_bytes <= stat.f_blocks * stat.f_frsize
    assert inodes > 0
    assert [row[0] for row in more] == [str(house.layout.downloads)]
    house.layout.downloads.rmdir()
    assert house.commands.free_space()[1] == (str(house.layout.downloads), 0, 0)


def test_a_runs_size_is_that_of_its_files(house: House) -> None:
    """Of both its directories, whether they are there or not; links are not followed."""
    assert house.commands.run_size_bytes(RUN) == 0
    folder = house.layout.download(RUN) / "deep"
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(bytes(100_000))
    (folder / "link").symlink_to("/usr")
    house.layout.run(RUN).mkdir()
    (house.layout.run(RUN) / "b").write_bytes(bytes(50_000))
    assert 150_000 <= house.commands.run_size_bytes(RUN) <= 170_000


def test_what_is_mounted_in_a_run_does_not_count_as_its_own(house: House) -> None:
    """Another disk is not made free by removing the run."""
    inside = house.layout.download(RUN) / "disk"
    inside.mkdir(parents=True)
    with tmpfs(inside, "size=2m"):
        (inside / "big").write_bytes(bytes(1_000_000))
        assert house.commands.run_size_bytes(RUN) < 100_000


# -- secrets


def test_secrets_are_kept_in_private_files_until_they_are_forgotten(house: House) -> None:
    """One file for each command, in a private directory; nothing of them stays."""
    paths = house.commands.keep_secrets(RUN, {"play": {"TOKEN": "a'b\\"}, "on_ok": {"X": ""}})
    assert {name: Path(path).stat().st_mode & 0o777 for name, path in paths.items()} == {"play": 0o600, "on_ok": 0o600}
    assert Path(paths["play"]).parent.stat().st_mode & 0o777 == 0o700
    assert house.check('printf %s "$TOKEN" | od -An -c', env_files=(paths["play"],)).output_tail.split() == list(
        "a'b\\"
    )
    house.commands.forget_secrets(RUN)
    assert not house.layout.run(RUN).exists()
    house.commands.forget_secrets(RUN)


# -- what runs leave


def left(house: House, run: str = RUN) -> tuple[Path, Path]:
    """Both directories of a run, with something in each."""
    made = house.layout.download(run), house.layout.run(run)
    for path in made:
        (path / "deep" / "deeper").mkdir(parents=True)
        (path / "deep" / "file").touch()
    return made


def test_a_swept_run_leaves_nothing(house: House) -> None:
    """Its directories, its answers, its plain output; and of other runs nothing is touched."""
    left(house)
    others = left(house, OTHER)
    kept = house.layout.exchange(f"{OTHER}.log")
    for path in (house.layout.exchange(f"{RUN}.play.1"), house.layout.exchange(f"{RUN}.log"), kept):
        path.touch()
    assert house.commands.sweep([RUN]) == []
    assert sorted(house.layout.downloads.iterdir()) == [others[0]]
    assert sorted(house.layout.runs.iterdir()) == [others[1]]
    assert sorted(house.layout.exchange("").iterdir()) == [kept]
    assert house.commands.sweep([RUN]) == []


def test_links_out_of_a_run_are_removed_and_not_followed(house: House) -> None:
    """To a file, to a directory, and in place of the run's own directory."""
    outside = house.bench.root / "outside"
    (outside / "precious").mkdir(parents=True)
    download, run = left(house)
    (download / "link").symlink_to(outside)
    (run / "link").symlink_to(outside / "precious")
    house.layout.download(OTHER).symlink_to(outside)
    assert house.commands.sweep([RUN, OTHER]) == []
    assert (outside / "precious").is_dir()
    assert not download.exists()
    assert not run.exists()


def test_a_run_with_a_mount_in_it_stays(house: House) -> None:
    """Removing it would remove what is mounted there; the rest of the run goes."""
    download, run = left(house)
    point = download / "with blank"
    point.mkdir()
    with tmpfs(point, "size=1m"):
        (point / "precious").touch()
        assert house.commands.sweep([RUN]) == [(str(download), f"{point} is a mount")]
        assert (point / "precious").exists()
        assert not run.exists()
    assert house.commands.sweep([RUN]) == []
    assert not download.exists()


@pytest.mark.parametrize("how", ["its working directory", "its program"])
def test_a_run_in_which_a_process_lives_stays(house: House, how: str) -> None:
    """A daemon that a playbook started from its download_path keeps it; also when the state lies behind a link."""
    real, link = house.layout.root, house.bench.root / "link"
    link.symlink_to(real)
    house.commands._layout = StateDir.at(link)
    download, _ = left(house)
    program = download / "program"
    program.write_bytes(Path("/bin/sleep").resolve().read_bytes())
    program.chmod(0o755)
    daemon = subprocess.Popen(
        [program if how == "its program" else "/bin/sleep", "60"],
        cwd=download / "deep" if how == "its working directory" else "/",
        env={},
    )
    try:
        reason = f"process {daemon.pid} lives there"
        assert house.commands.sweep([RUN]) == [(str(link / "downloads" / RUN), reason)]
        assert program.exists()
    finally:
        daemon.kill()
        daemon.wait()
    assert house.commands.sweep([RUN]) == []


def test_what_cannot_be_removed_is_told_and_tried_again(house: House) -> None:
    """Renamed out of the way, it is found by its run's id."""
    need_root()
    download, _ = left(house)
    precious = download / "deep" / "file"
    if subprocess.run(["chattr", "+i", precious], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs a file system with immutable files")
    ((path, reason),) = house.commands.sweep([RUN])
    assert (path, "Operation not permitted" in reason) == (str(download), True)
    assert house.commands.leftovers() == {RUN}
    trash = house.layout.downloads / f".trash.{RUN}"
    subprocess.run(["chattr", "-i", trash / "deep" / "file"], check=True)
    assert house.commands.sweep([RUN]) == []
    assert list(house.layout.downloads.iterdir()) == []


def test_a_run_that_left_a_tree_of_any_depth_is_measured_and_swept(house: House) -> None:
    """A play may make directories in each other for as long as it runs."""
    download, _ = left(house)
    script = f"import os; os.chdir({str(download)!r}); [(os.mkdir('d'), os.chdir('d')) for _ in range(2_000)]"
    subprocess.run([sys.executable, "-I", "-c", script], check=True)
    assert house.commands.run_size_bytes(RUN) >= 0
    assert house.commands.sweep([RUN]) == []
    assert not download.exists()


def test_a_huge_run_keeps_no_other_waiting(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are removed a slice of each in turn, and one that does not come to its end is told."""
    monkeypatch.setattr(commands, "_MOST_SLICES", 3)
    remove_some = trees.remove_some
    monkeypatch.setattr(trees, "remove_some", lambda path: RUN not in str(path) and remove_some(path))
    download, run = left(house)
    others = left(house, OTHER)
    refused = house.commands.sweep([RUN, OTHER])
    assert [path for path, _ in refused] == [str(download), str(run)]
    assert all("still filled" in reason for _, reason in refused)
    assert not any(path.exists() for path in others)


def test_leftovers_are_named_by_their_runs(house: House) -> None:
    """Whole or half removed; what is not named after a run is nobody's business."""
    left(house)
    (house.layout.runs / f".trash.{OTHER}").mkdir()
    (house.layout.downloads / "by hand").mkdir()
    assert house.commands.leftovers() == {RUN, OTHER}
    house.commands.sweep(house.commands.leftovers())
    assert house.commands.leftovers() == set()
    assert (house.layout.downloads / "by hand").exists()


def test_a_try_of_a_hook_without_a_run_leaves_nothing(house: House) -> None:
    """Directory and answer; the next try's stay."""
    directory = house.layout.hook(None, "on_error", 7, 2)
    directory.mkdir()
    answers = [house.layout.exchange(f"hook-7.on_error.{attempt}") for attempt in (2, 3)]
    for path in answers:
        path.touch()
    house.commands.forget_try(directory)
    assert list(house.layout.hooks.iterdir()) == []
    assert list(house.layout.exchange("").iterdir()) == answers[1:]
