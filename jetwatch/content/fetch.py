"""What `jetp fetch` and the download step of a run do: a source opened by its kind, looked at, and fetched whole.

The rule: an empty directory becomes full at once or stays empty. What may pass is tried again here, with full jitter
and within the deadline; what needs a person is said at once. A source's library is loaded when the source is opened.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from jetwatch.content.publish import Target
from jetwatch.content.source import (
    Content,
    ContentKind,
    ContentMoved,
    ContentRetry,
    ContentSlow,
    ContentStalled,
    ContentWait,
    Fetched,
    Look,
    Progress,
    Source,
)
from jetwatch.content_records import SLOW_S
from jetwatch.errors import NotTrusted
from jetwatch.trust import Accounts, require

if TYPE_CHECKING:
    import ssl

DEADLINE_S = 1800.0
LOOK_S = 60.0
TRIES = 6
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0


class _Room(Struct, frozen=True):
    """Where a kind is built, and the library that an extra brings for it."""

    module: str
    name: str
    library: str = ""
    extra: str = ""


_BUCKET = _Room("jetwatch.content.bucket", "BucketSource", "obstore", "s3")
_ROOMS = {
    ContentKind.BUCKET: _BUCKET,
    ContentKind.OBJECT: _BUCKET,
    ContentKind.GIT: _Room("jetwatch.content.git", "GitSource"),
    ContentKind.HTTP: _Room("jetwatch.content.http", "HttpSource", "urllib3", "http"),
    ContentKind.DIRECTORY: _Room("jetwatch.content.directory", "DirectorySource"),
    ContentKind.FILE: _Room("jetwatch.content.directory", "FileSource"),
}


_BELIEVED = ("ca_file", "ssh_key", "known_hosts", "allowed_signers")
"""Files that are named in a content."""

_WAY_OUT = re.compile(r"(?i:[a-z]+_proxy)|SSL_CERT_FILE|SSL_CERT_DIR")


class Floor:
    """Raises ContentSlow when a fetch is slower than `least_bytes_s` (0: never) over SLOW_S."""

    def __init__(self, least_bytes_s: int, what: str, now_s: Callable[[], float]) -> None:
        self._least_bytes_s = least_bytes_s
        self._what = what
        self._now_s = now_s
        self._since_s: float | None = None  # the first bytes are awaited from the first word of progress on
        self._done = 0

    def reached(self, done: int, total: int | None) -> None:
        """So many bytes are here by now. What happens when all of them are is no matter of speed."""
        now_s = self._now_s()
        if self._since_s is None:
            self._since_s, self._done = now_s, done
        elapsed_s, came = now_s - self._since_s, done - self._done
        if elapsed_s < SLOW_S:
            return
        if done != total and came < elapsed_s * self._least_bytes_s:
            raise ContentSlow(
                f"{self._what}: {came} bytes in {elapsed_s:.0f} s: slower than {self._least_bytes_s} bytes a second "
                "(`limits.min_speed`)"
            )
        self._since_s, self._done = now_s, done


class Clock:
    """Time and chance of a fetch."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()  # noqa: S311 - jitter is no secret

    def now_s(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def jitter(self, most_s: float) -> float:
        """Uniform in [0, `most_s`)."""
        return self._chance.uniform(0.0, most_s)


def open_source(
    content: Content,
    applied: str = "",
    *,
    env: Mapping[str, str] | None = None,
    trust: Callable[[str | None], ssl.SSLContext] | None = None,
    meanwhile: Callable[[], None] = lambda: None,
    by_head: bool = False,
) -> Source:
    """The source of this content. `applied`: the revision that the machine has, for sources that must descend from it.

    `env`: the environment that credentials are taken from (None: this process's own); see `reads_alike`. `trust`: gives
    the certificates that https relies on, where they are shared. `meanwhile`: what it raises ends a git that is waited
    for. `by_head`: see BucketSource. Raises ContentStalled where its library is not installed, with the command that
    installs it, and where another account could change a file that it names.
    """
    if missing := missing_library(content):
        raise ContentStalled(f"{content.url}: {missing}")
    _refuse_what_others_may_change(content)
    room = _ROOMS[content.kind]
    build: Callable[..., Source] = getattr(importlib.import_module(room.module), room.name)
    if content.kind is ContentKind.GIT:
        return build(content, applied, env=env, meanwhile=meanwhile)
    if content.kind is ContentKind.HTTP:
        return build(content, trust=trust(content.ca_file) if trust else None)
    return build(content, env=env, by_head=by_head) if room is _BUCKET else build(content)


def _refuse_what_others_may_change(content: Content) -> None:
    """Raise ContentStalled for a file that decides what is believed, and is another account's to change."""
    own = Accounts.own()
    for key in _BELIEVED:
        path = getattr(content, key)
        try:
            if path:
                require(Path(path), own)
        except NotTrusted as error:
            raise ContentStalled(f"{key} {error}") from error
        except OSError:
            continue  # said by what reads it


def missing_library(content: Content) -> str:
    """What has to be installed before a source of this kind can be opened; empty where nothing is missing."""
    room = _ROOMS[content.kind]
    if not room.library or importlib.util.find_spec(room.library) is not None:
        return ""
    return f"this kind of source needs {room.library}, which is not installed: pip install 'jetwatch[{room.extra}]'"


def reads_alike(content: Content, env: Mapping[str, str], own: Mapping[str, str]) -> bool:
    """Whether a look in this process, whose environment is `own`, is the one that a process with `env` would take.

    Libraries read some variables by themselves, and a process with threads cannot change them for one of its sources.
    False too where boto3 would have to be loaded, which is too large to keep.
    """
    if _ROOMS[content.kind] is not _BUCKET:
        names = {name for name in (*env, *own) if _WAY_OUT.fullmatch(name)}
        return all(env.get(name) == own.get(name) for name in names)
    from jetwatch.content.bucket_store import HANDED_OVER, needs_boto3

    names = {name for name in (*env, *own) if name.startswith("AWS_") or _WAY_OUT.fullmatch(name)}
    same = all(name in env and (name in HANDED_OVER or env[name] == own.get(name)) for name in names)
    return same and not needs_boto3(content, env)


def look(content: Content, known: Look | None = None, deadline_s: float = LOOK_S) -> Look:
    """Look once at what is there now. Raises ContentError within the deadline; a path may block for ever."""
    return open_source(content).look(known, deadline_s)


def fetch(
    content: Content,
    target: Path,
    *,
    revision: str | None,
    cache: Path | None,
    progress: Progress,
    deadline_s: float = DEADLINE_S,
    applied: str = "",
    clock: Clock | None = None,
) -> Fetched:
    """Put `revision` (None: what is there now) into the empty directory `target`, which is made if it is missing.

    Raises ContentError; then `target` is as it was. With a revision, another one being there is ContentMoved at once.
    """
    clock = clock or Clock()
    attempt = _Fetch(
        content=content,
        revision=revision,
        cache=cache,
        progress=progress,
        applied=applied,
        clock=clock,
        deadline_s=deadline_s,
        end_s=clock.now_s() + deadline_s,
    )
    with Target(target) as place:
        try:
            return attempt.run(place)
        except BaseException:
            place.withdraw()
            raise


class _Fetch(Struct, frozen=True, kw_only=True):
    """One fetch and its tries."""

    content: Content
    revision: str | None
    cache: Path | None
    progress: Progress
    applied: str
    clock: Clock
    deadline_s: float
    end_s: float

    def run(self, place: Target) -> Fetched:
        """Try until it is there, or until it is clear that it will not be."""
        source = open_source(self.content, self.applied)
        requests = 0
        for number in range(1, TRIES + 1):
            try:
                with place.staged() as staging:
                    revision, requests = self._settled(source, requests)
                    fetched = source.fetch(revision, staging, self.cache, self._watched())
                return replace(fetched, requests=fetched.requests + requests)
            except ContentRetry as error:
                is_final = isinstance(error, ContentSlow) or (
                    self.revision is not None and isinstance(error, ContentMoved)
                )
                if number == TRIES or is_final:
                    raise
                self._wait(error, number)
        raise AssertionError("the last try returns or raises")

    def _settled(self, source: Source, requests: int) -> tuple[str, int]:
        """The revision to fetch, and the requests so far. A listing counts when it stays the same for a while."""
        if self.revision is not None:
            return self.revision, requests
        seen: Look | None = None
        while True:
            found = source.look(seen, min(LOOK_S, self._left_s()))
            requests += found.requests
            if found.settled or (seen is not None and seen.revision == found.revision):
                return found.revision, requests
            seen = found
            if self.content.settle_s >= self._left_s():
                raise ContentRetry(f"{self.content.url}: it was still changing when {self.deadline_s:g} s were over")
            self.clock.pause(self.content.settle_s)

    def _wait(self, error: ContentRetry, number: int) -> None:
        """Wait before the next try, or raise the error if there is no time for one."""
        pause_s = self.clock.jitter(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**number))
        if isinstance(error, ContentWait):
            pause_s += error.after_s
        if pause_s >= self._remaining_s():
            raise error
        self.clock.pause(pause_s)

    def _watched(self) -> Progress:
        """Passes progress on, for one try; past the deadline, or where it is too slow, it ends the try."""
        # git counts the bytes that it writes, not those that it waits for: it watches its speed itself.
        least_bytes_s = 0 if self.content.kind is ContentKind.GIT else self.content.limits.min_speed_bytes_s
        floor = Floor(least_bytes_s, self.content.url, self.clock.now_s)

        def progress(done: int, total: int | None) -> None:
            self._left_s()
            floor.reached(done, total)
            self.progress(done, total)

        return progress

    def _left_s(self) -> float:
        left_s = self._remaining_s()
        if left_s <= 0:
            raise ContentRetry(f"{self.content.url}: not done within {self.deadline_s:g} s")
        return left_s

    def _remaining_s(self) -> float:
        return self.end_s - self.clock.now_s()
