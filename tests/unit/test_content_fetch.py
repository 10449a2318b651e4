"""A fetch fills an empty directory at once or leaves it as it was; what may pass is tried again, until the deadline."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from accounts import STRANGER, needs_accounts

from jetwatch.content import fetch as fetching
from jetwatch.content import publish
from jetwatch.content.fetch import Clock, fetch, open_source, reads_alike
from jetwatch.content.publish import Target
from jetwatch.content.source import (
    Content,
    ContentError,
    ContentKind,
    ContentMoved,
    ContentRetry,
    ContentSlow,
    ContentStalled,
    ContentWait,
    Fetched,
    Limits,
    Look,
    Progress,
)

CONTENT = Content("file:///nowhere", ContentKind.DIRECTORY)


class Patience(Clock):
    """A clock that moves only when somebody waits."""

    def __init__(self) -> None:
        super().__init__(random.Random(1))
        self.now = 0.0
        self.pauses: list[float] = []

    def now_s(self) -> float:
        """The time so far."""
        return self.now

    def pause(self, seconds: float) -> None:
        """Let it pass."""
        self.pauses.append(seconds)
        self.now += seconds


class Told:
    """A source that looks and fetches as it is told: one entry of each list per call, the last one for ever."""

    def __init__(self) -> None:
        self.looks: list[Look | ContentError] = [Look("r1")]
        self.fetches: list[ContentError | Callable[[Progress], None] | None] = [None]
        self.asked: list[str] = []

    def look(self, known: Look | None, deadline_s: float) -> Look:
        """The next look."""
        found = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(found, ContentError):
            raise found
        return found

    def fetch(self, revision: str, staging: Path, cache: Path | None, progress: Progress) -> Fetched:
        """Half of it, then the next end."""
        self.asked.append(revision)
        assert list(staging.iterdir()) == []
        (staging / "half").write_bytes(b"x")
        end = self.fetches.pop(0) if len(self.fetches) > 1 else self.fetches[0]
        if isinstance(end, ContentError):
            raise end
        if end is not None:
            end(progress)
        (staging / "sub").mkdir()
        (staging / "sub/file").write_bytes(revision.encode())
        return Fetched(revision, 2, 3, requests=5)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """The source that every content has in this test."""
    made = Told()
    monkeypatch.setattr(fetching, "open_source", lambda *_: made)
    return made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An empty directory with a mode of its own."""
    made = tmp_path / "parent/target"
    made.mkdir(parents=True)
    made.chmod(0o711)
    return made


def go(
    target: Path,
    *,
    revision: str | None = "r1",
    clock: Clock | None = None,
    deadline_s: float = 600.0,
    content: Content = CONTENT,
) -> Fetched:
    """Fetch into `target`."""
    return fetch(
        content,
        target,
        revision=revision,
        cache=None,
        progress=lambda _done, _total: None,
        deadline_s=deadline_s,
        clock=clock or Patience(),
    )


def names(directory: Path) -> list[str]:
    """What lies in it."""
    return sorted(path.name for path in directory.iterdir())


def test_the_directory_becomes_full_and_keeps_its_mode(told: Told, target: Path) -> None:
    """The tree is there, nothing is beside it, and mode and owner are the directory's own."""
    os.chown(target, 12345, 12346)
    fetched = go(target)
    assert fetched == Fetched("r1", 2, 3, requests=5)
    assert names(target) == ["half", "sub"]
    assert names(target.parent) == ["target"]
    facts = target.stat()
    assert (stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid) == (0o711, 12345, 12346)


def test_a_missing_directory_is_made(told: Told, tmp_path: Path) -> None:
    """Its parents are not."""
    go(tmp_path / "new")
    assert names(tmp_path / "new") == ["half", "sub"]
    with pytest.raises(ContentRetry, match="No such file"):
        go(tmp_path / "no/such")


@pytest.mark.parametrize("error", [ContentStalled("no"), ContentMoved("no"), RuntimeError("no"), KeyboardInterrupt()])
def test_after_a_failure_everything_is_as_it_was(told: Told, target: Path, error: BaseException) -> None:
    """No staging, no half, whatever ended it; a directory that was made is gone."""

    def end(_progress: Progress) -> None:
        raise error

    told.fetches = [end]
    for place in (target, target.parent / "made"):
        with pytest.raises(type(error)):
            go(place)
    assert names(target) == []
    assert names(target.parent) == ["target"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o711


def test_a_directory_that_is_not_empty_is_refused(told: Told, target: Path) -> None:
    """Nothing in it is touched, and nothing was asked."""
    (target / "mine").write_bytes(b"x")
    with pytest.raises(ContentStalled, match="something in it"):
        go(target)
    assert names(target) == ["mine"]
    assert told.asked == []


def test_a_directory_that_fills_meanwhile_is_not_replaced(told: Told, target: Path) -> None:
    """What somebody put there during the fetch stays, and the fetch fails."""
    told.fetches = [lambda _progress: (target / "mine").write_bytes(b"x") and None]
    with pytest.raises(ContentError):
        go(target)
    assert names(target) == ["mine"]
    assert names(target.parent) == ["target"]


def test_a_file_or_link_in_place_of_the_directory_is_refused(told: Told, target: Path) -> None:
    """A link is not followed."""
    (target.parent / "file").write_bytes(b"")
    (target.parent / "link").symlink_to("target")
    for name in ("file", "link"):
        with pytest.raises(ContentStalled):
            go(target.parent / name)
    assert names(target) == []


def test_a_parent_that_may_not_be_written_is_no_hindrance(told: Told, tmp_path: Path) -> None:
    """The agent's own directory holds the target, which is another user's: it is filled from inside."""
    if os.geteuid() != 0:
        pytest.skip("needs root to be two users")
    root = Path("/tmp") / f"jetwatch-test-{os.getpid()}"
    parent = root / "parent"
    target = parent / "target"
    target.mkdir(parents=True)
    os.chown(target, 65534, 65534)
    target.chmod(0o700)
    os.seteuid(65534)
    try:
        go(target)
        assert names(target) == ["half", "sub"]
        assert names(parent) == ["target"]
    finally:
        os.seteuid(0)
        shutil.rmtree(root)


def test_what_may_pass_is_tried_again(told: Told, target: Path) -> None:
    """With full jitter, each try with an empty staging directory; requests of looks are counted too."""
    told.looks = [ContentRetry("a"), Look("r1", requests=1), Look("r2", requests=1)]
    told.fetches = [ContentRetry("b"), None]
    clock = Patience()
    fetched = go(target, revision=None, clock=clock)
    assert told.asked == ["r1", "r2"]
    assert fetched == Fetched("r2", 2, 3, requests=7)
    assert len(clock.pauses) == 2
    assert all(0 <= pause <= 30 for pause in clock.pauses)


def test_the_tries_have_an_end(told: Told, target: Path) -> None:
    """After some tries it is for the caller's backoff."""
    told.fetches = [ContentRetry("the network")]
    clock = Patience()
    with pytest.raises(ContentRetry, match="the network"):
        go(target, clock=clock)
    assert len(told.asked) == fetching.TRIES
    assert sum(clock.pauses) < 120


def test_a_wait_that_the_server_asks_for_is_kept(told: Told, target: Path) -> None:
    """At least as long as it says."""
    told.fetches = [ContentWait("busy", 77.0), None]
    clock = Patience()
    go(target, clock=clock)
    assert 77.0 <= clock.pauses[0] <= 77.0 + 30.0


def test_a_wait_beyond_the_deadline_is_not_begun(told: Told, target: Path) -> None:
    """The error is raised at once, with the time in it for the caller."""
    told.fetches = [ContentWait("busy", 700.0), None]
    clock = Patience()
    with pytest.raises(ContentWait) as raised:
        go(target, clock=clock)
    assert raised.value.after_s == 700.0
    assert clock.pauses == []


def test_what_needs_a_person_is_said_at_once(told: Told, target: Path) -> None:
    """No second try."""
    told.fetches = [ContentStalled("no such bucket"), None]
    with pytest.raises(ContentStalled):
        go(target)
    assert len(told.asked) == 1


def test_a_revision_that_is_gone_is_said_at_once(told: Told, target: Path) -> None:
    """Asked for exactly one, another is no substitute; asked for the present one, it is."""
    told.fetches = [ContentMoved("gone"), ContentMoved("gone"), None]
    with pytest.raises(ContentMoved):
        go(target, revision="r1")
    assert go(target, revision=None).revision == "r1"


def test_the_deadline_ends_a_fetch_that_goes_on(told: Told, target: Path) -> None:
    """Every call of progress asks the clock."""
    clock = Patience()

    def drip(progress: Progress) -> None:
        for done in range(10_000):
            clock.now += 1.0
            progress(done * 2048, None)
        raise AssertionError("nobody ended it")

    told.fetches = [drip]
    with pytest.raises(ContentRetry, match="600 s"):
        go(target, clock=clock)
    assert clock.now == pytest.approx(600, abs=2)
    assert names(target) == []


def test_a_listing_has_to_stay_the_same(told: Told, target: Path) -> None:
    """Without a revision, two equal looks with the settle time between them."""
    told.looks = [Look(revision, settled=False, requests=1) for revision in ("a", "b", "b")]
    clock = Patience()
    fetched = go(target, revision=None, clock=clock)
    assert fetched.revision == "b"
    assert fetched.requests == 5 + 3
    assert clock.pauses == [CONTENT.settle_s] * 2


def test_a_listing_that_never_stays_the_same_is_asked_for_later(told: Told, target: Path) -> None:
    """The deadline bounds it, and nothing is fetched."""
    told.looks = [Look(str(number), settled=False) for number in range(1000)]
    with pytest.raises(ContentRetry, match="still changing"):
        go(target, revision=None)
    assert told.asked == []


def test_what_a_killed_fetch_left_is_swept(told: Told, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside and inside; what a living fetch holds, and what is no staging directory, stays."""
    monkeypatch.setattr(publish, "_YOUNG_S", -1.0)
    inside, left, held, other = (
        target / f".jetwatch-{0:016x}",
        target.parent / f".jetwatch-{1:016x}",
        target.parent / f".jetwatch-{2:016x}",
        target.parent / ".jetwatch-of-mine",
    )
    for path in (inside, left, held, other):
        (path / "sub").mkdir(parents=True)
    lock = os.open(held, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        go(target)
    finally:
        os.close(lock)
    assert names(target.parent) == [f".jetwatch-{2:016x}", ".jetwatch-of-mine", "target"]
    assert names(target) == ["half", "sub"]


@pytest.fixture
def theirs(target: Path) -> Path:
    """The target in a directory of another account, which owns both."""
    for path in (target, target.parent):
        os.chown(path, pwd.getpwnam(STRANGER).pw_uid, pwd.getpwnam(STRANGER).pw_gid)
    return target


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """What only this account may change."""
    made = tmp_path / "victim"
    made.mkdir(mode=0o700)
    (made / "file").write_bytes(b"precious")
    return made


def untouched(victim: Path) -> bool:
    """Whether nothing was done to it."""
    facts = victim.stat()
    same = (facts.st_uid, stat.S_IMODE(facts.st_mode)) == (os.geteuid(), 0o700)
    return same and names(victim) == ["file"] and (victim / "file").read_bytes() == b"precious"


@needs_accounts
def test_whoever_swaps_the_directory_that_is_filled_changes_nothing_else(
    told: Told, theirs: Path, victim: Path
) -> None:
    """The fetch fails; what the link leads to keeps its owner, its mode and its files."""

    def swap(_progress: Progress) -> None:
        (filling,) = theirs.parent.glob(".jetwatch-*")
        filling.rename(theirs.parent / "moved")
        filling.symlink_to(victim)

    told.fetches = [swap]
    with pytest.raises(ContentError):
        go(theirs)
    assert untouched(victim)
    assert names(theirs.parent / "moved") == []


@needs_accounts
def test_whoever_swaps_it_for_a_directory_of_its_own_is_found_out(told: Told, theirs: Path) -> None:
    """Success is told only of the very directory that was filled."""

    def swap(_progress: Progress) -> None:
        (filling,) = theirs.parent.glob(".jetwatch-*")
        filling.rename(theirs.parent / "moved")
        filling.mkdir()
        (filling / "evil").touch()

    told.fetches = [swap]
    with pytest.raises(ContentStalled, match="somebody put another thing in its place"):
        go(theirs)


@needs_accounts
def test_whoever_swaps_the_target_for_a_link_changes_nothing_else(told: Told, theirs: Path, victim: Path) -> None:
    """Nothing is renamed over, or into, what the link leads to."""

    def swap(_progress: Progress) -> None:
        theirs.rmdir()
        theirs.symlink_to(victim)

    told.fetches = [swap]
    with pytest.raises(ContentError):
        go(theirs)
    assert untouched(victim)


@needs_accounts
def test_what_is_filled_in_anothers_directory_is_ours_until_it_is_whole(told: Told, theirs: Path) -> None:
    """Nobody reaches into it; then it has the owner and the mode of the directory whose place it takes."""
    seen: list[tuple[int, int]] = []

    def look(_progress: Progress) -> None:
        (filling,) = theirs.parent.glob(".jetwatch-*")
        seen.append((filling.stat().st_uid, stat.S_IMODE(filling.stat().st_mode)))

    told.fetches = [look]
    go(theirs)
    assert seen == [(0, 0o700)]
    assert theirs.stat().st_uid == pwd.getpwnam(STRANGER).pw_uid
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o711


@needs_accounts
def test_a_link_in_anothers_directory_is_not_followed_to_the_target(told: Told, theirs: Path, victim: Path) -> None:
    """Nor are directories made beyond it."""
    (theirs.parent / "link").symlink_to(victim)
    with pytest.raises(ContentStalled, match="'link' is a link that another account may have made"):
        go(theirs.parent / "link/site")
    assert untouched(victim)


@needs_accounts
def test_nothing_is_swept_where_another_account_may_rename(
    told: Told, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory of ours that its owner gave the name of a leftover keeps all that is in it."""
    monkeypatch.setattr(publish, "_YOUNG_S", -1.0)
    ours = theirs.parent / f".jetwatch-{7:016x}"
    ours.mkdir(mode=0o700)
    (ours / "precious").touch()
    go(theirs)
    assert names(ours) == ["precious"]


def test_a_mount_point_is_filled_from_inside(told: Told, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be renamed onto it."""
    monkeypatch.setattr("os.path.ismount", lambda _path: True)
    inode = target.stat().st_ino
    go(target)
    assert names(target) == ["half", "sub"]
    assert target.stat().st_ino == inode


def test_the_working_directory_is_filled_and_stays(told: Told, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`jetp fetch URL .`: the shell that called it still stands in it."""
    monkeypatch.chdir(target)
    go(Path())
    assert sorted(path.name for path in Path().iterdir()) == ["half", "sub"]
    assert names(target) == ["half", "sub"]


def test_a_full_disk_while_publishing_leaves_nothing(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the last step can fail."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "rename", full)

    def fill() -> None:
        with Target(target) as place, place.staged() as staging:
            (staging / "file").write_bytes(b"x")

    with pytest.raises(ContentRetry, match="space"):
        fill()
    monkeypatch.undo()
    assert names(target) == []
    assert names(target.parent) == ["target"]


KINDS = {
    "s3://bucket/prefix/": ContentKind.BUCKET,
    "s3://bucket/key.zip": ContentKind.OBJECT,
    "https://host/key.zip": ContentKind.HTTP,
}


@pytest.mark.parametrize("url", KINDS)
def test_a_missing_library_is_named_with_its_extra(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence can be pasted into a shell."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    extra = "http" if url.startswith("https") else "s3"
    with pytest.raises(ContentStalled, match=rf"pip install 'jetwatch\[{extra}\]'"):
        open_source(Content(url, KINDS[url]))


def test_a_source_is_loaded_with_its_kind_only() -> None:
    """Opening a directory loads no library of another kind."""
    import subprocess
    import sys

    code = (
        "import sys; from jetwatch.content.fetch import open_source;"
        "from jetwatch.content.source import Content, ContentKind;"
        "open_source(Content('file:///x', ContentKind.DIRECTORY));"
        "print([name for name in ('obstore', 'boto3', 'urllib3', 'zstandard', 'asyncio') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


S3 = Content("s3://bucket/x/", ContentKind.BUCKET)
WEB = Content("https://host/x.tar", ContentKind.HTTP)
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "r"}
PROXY = {"https_proxy": "http://p"}


@pytest.mark.parametrize(
    ("content", "env", "own", "alike"),
    [
        (S3, {}, {}, True),
        (S3, KEYS, {}, True),  # handed over
        (S3, KEYS, {**KEYS, "AWS_ACCESS_KEY_ID": "other"}, True),  # and over those of the process
        (S3, {}, KEYS, False),  # the process would use its own
        (S3, KEYS, {"AWS_SESSION_TOKEN": "t"}, False),
        (S3, {**KEYS, "AWS_REQUEST_PAYER": "true"}, {}, False),  # nobody hands this over
        (S3, {**KEYS, **PROXY}, {}, False),
        (S3, {**KEYS, **PROXY}, PROXY, True),
        (S3, {"AWS_PROFILE": "p"}, {}, False),  # for boto3
        (S3, {"AWS_WEB_IDENTITY_TOKEN_FILE": "f"}, {"AWS_WEB_IDENTITY_TOKEN_FILE": "f"}, True),
        (S3, {"AWS_WEB_IDENTITY_TOKEN_FILE": "f"}, {}, False),
        (WEB, KEYS, {}, True),
        (WEB, PROXY, {}, False),
        (WEB, {}, {"HTTPS_PROXY": "http://p"}, False),
        (WEB, PROXY, PROXY, True),
        (WEB, {"SSL_CERT_FILE": "f"}, {}, False),
    ],
)
def test_a_source_is_opened_here_if_it_reads_what_the_watch_says(
    content: Content, env: dict[str, str], own: dict[str, str], alike: bool
) -> None:
    """Variables that a library reads by itself decide; what is handed over does not."""
    home = {"HOME": "/nonexistent"}
    assert reads_alike(content, {**home, **env}, own) is alike


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    """A fetch closes what it opens."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def dripping(clock: Patience, bytes_s: int, seconds: int) -> Callable[[Progress], None]:
    """A fetch to which so many bytes come each second, for so long."""

    def drip(progress: Progress) -> None:
        for second in range(seconds):
            progress(second * bytes_s, None)
            clock.now += 1.0

    return drip


def test_a_fetch_below_the_floor_of_speed_is_given_up_at_once(told: Told, target: Path) -> None:
    """After five minutes, with its key named, and without another try: others wait for its place."""
    clock = Patience()
    told.fetches = [dripping(clock, 1023, 10_000)]
    with pytest.raises(ContentSlow, match=r"`limits.min_speed`"):
        go(target, clock=clock)
    assert 300 <= clock.now < 302
    assert told.asked == ["r1"]
    assert names(target) == []


@pytest.mark.parametrize(("least", "bytes_s"), [(1024, 1024), (0, 0), (10, 10)])
def test_a_fetch_that_is_fast_enough_goes_on(told: Told, target: Path, least: int, bytes_s: int) -> None:
    """The floor is the one of the content, and 0 is none."""
    clock = Patience()
    told.fetches = [dripping(clock, bytes_s, 1200)]
    content = Content("file:///nowhere", ContentKind.DIRECTORY, limits=Limits(min_speed_bytes_s=least))
    assert go(target, clock=clock, content=content, deadline_s=2000).revision == "r1"


def test_what_happens_when_all_bytes_are_there_is_no_matter_of_speed(told: Told, target: Path) -> None:
    """An archive that is unpacked for ten minutes has come long ago."""
    clock = Patience()

    def unpacked_slowly(progress: Progress) -> None:
        for _ in range(600):
            progress(10, 10)
            clock.now += 1.0

    told.fetches = [unpacked_slowly]
    assert go(target, clock=clock, deadline_s=2000).revision == "r1"


def test_the_time_before_the_first_word_of_progress_is_not_counted(told: Told, target: Path) -> None:
    """A listing of many pages is asked for first."""
    clock = Patience()

    def listed_slowly(progress: Progress) -> None:
        clock.now += 400.0
        progress(0, 10)
        progress(10, 10)

    told.fetches = [listed_slowly]
    assert go(target, clock=clock, deadline_s=2000).revision == "r1"
