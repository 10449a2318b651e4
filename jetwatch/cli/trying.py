"""What `jetp check-config` says of content: what shows on this machine, and with `--online` what every source answers.

A look is the agent's own (`looks.py`): the same deadline, the same environment, the watch's user. Looks go beside each
other, a few at a time; one that cannot be ended is told and left behind. Nothing is changed but a directory in /tmp,
which is removed.
"""

from __future__ import annotations

import os
import pwd
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from jetwatch.config.model import Settings, WatchSettings
from jetwatch.content.prospects import Forbidden, doubts, file_doubt
from jetwatch.content_records import Look
from jetwatch.errors import CommandNotStarted, ContentError, ContentRetry
from jetwatch.looks import Looks
from jetwatch.process.commands import Commands
from jetwatch.process.place import Place
from jetwatch.process.prepare import Surroundings, environment
from jetwatch.records import Command
from jetwatch.statedir import StateDir

AT_ONCE = 8
_LOOK_UP_S = 0.5
_LEAVE_S = 1.0
"""Whoever interrupts waits no longer than this for what is under way."""


def surroundings() -> Surroundings:
    """What commands would get from an agent that is started here and now."""
    return Surroundings(dict(os.environ), 0o077)


def examine(watch: WatchSettings) -> Iterator[tuple[str, str]]:
    """What keeps this watch's content from working on this machine, by key; nobody is asked."""
    if watch.content is None or watch.download is None:
        return
    for path in map(Path, watch.download.env_files):
        if doubt := file_doubt(path, Forbidden.OTHERS):
            yield "env_file", doubt
    env = _environment(watch.download, watch.secrets.get("download", {}))
    for key, sentence in doubts(watch.content, env, env_files=bool(watch.download.env_files)):
        yield f"content.{key}", sentence


def _environment(fetch: Command, secrets: Mapping[str, str]) -> Mapping[str, str] | None:
    """None where the machine lacks the account, or a file that is needed: that is said elsewhere, or later."""
    try:
        return environment(fetch, secrets, surroundings())
    except CommandNotStarted:
        return None


class Result(StrEnum):
    """What came of a look."""

    OK = "ok"
    NOT_NOW = "not_now"
    CANNOT_WORK = "cannot_work"
    NOTHING_TO_TRY = "nothing_to_try"


EXIT_CODES = {Result.OK: 0, Result.NOTHING_TO_TRY: 0, Result.NOT_NOW: 75, Result.CANNOT_WORK: 78}


class Tried(Struct, frozen=True):
    """One watch: what came of the look at its content. `note`: how the look was another than the agent's."""

    watch: str
    result: Result
    look: Look | None = None
    error: str = ""
    duration_s: float = 0.0
    note: str = ""

    def as_data(self) -> dict[str, object]:
        """For programs; what there is not is left out."""
        data: dict[str, object] = {"watch": self.watch, "result": str(self.result)}
        if self.look is not None:
            look = self.look
            data |= {"revision": look.revision, "settled": look.settled, "requests": look.requests}
        if self.result is not Result.NOTHING_TO_TRY:
            data["duration_s"] = round(self.duration_s, 4)
        return data | {name: text for name, text in (("error", self.error), ("note", self.note)) if text}

    def as_line(self) -> str:
        """For people."""
        note = f" ({self.note})" if self.note else ""
        if self.result is Result.NOTHING_TO_TRY:
            return f"{self.watch}: no content, nothing to try"
        took = f"{self.duration_s * 1000:.0f} ms"
        if self.look is None:
            word = "not now" if self.result is Result.NOT_NOW else "cannot work"
            return f"{self.watch}: {word}: {self.error} ({took}){note}"
        many = "request" if self.look.requests == 1 else "requests"
        settling = "" if self.look.settled else ", not settled yet"
        return f"{self.watch}: ok: revision {self.look.revision}{settling} ({self.look.requests} {many}, {took}){note}"


def exit_code(tried: list[Tried]) -> int:
    """0 all answered; 78 a person is needed for one of them at least; 75 it may pass."""
    return max((EXIT_CODES[each.result] for each in tried), default=0)


def try_all(settings: Settings, deadline_s: float | None = None) -> Iterator[Tried]:
    """Look once at the content of every watch; told in the order of the configuration, each as soon as it is known.

    `deadline_s` is for each look; None: `timeouts.check` of its watch, as the agent has it.
    """
    with _somewhere() as commands, _Tries(commands, deadline_s) as tries:
        for watch in settings.watches.values():
            tries.begin(watch)
        for watch in settings.watches.values():
            yield tries.result(watch)


@contextmanager
def _somewhere() -> Iterator[Commands]:
    """What starts children, in a directory that no agent uses."""
    with tempfile.TemporaryDirectory(prefix="jetp-check-", ignore_cleanup_errors=True) as name:
        layout = StateDir.at(Path(name))
        for path in (layout.root, layout.exchange("")):
            path.mkdir(exist_ok=True)
            path.chmod(0o711)  # a child may be another user's
        yield Commands(layout, Path(), Place("none", None, detach=True), surroundings(), str(uuid.uuid4()))


class _Tries:
    """Looks, a few at a time, each in a thread. A context manager: whoever leaves early ends what is under way."""

    def __init__(self, commands: Commands, deadline_s: float | None) -> None:
        self._looks = Looks(commands, lambda: str(uuid.uuid4()))
        self._deadline_s = deadline_s
        self._free = threading.Semaphore(AT_ONCE)
        self._answers: dict[str, Future[Tried]] = {}
        self._stuck: set[threading.Thread] = set()
        self._threads: list[threading.Thread] = []
        self._cancel_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._left = False

    def __enter__(self) -> _Tries:
        """A TERM is an early end, too."""
        self._on_term = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
        return self

    def __exit__(self, *_: object) -> None:
        """End every child; one that nothing ends is left to the kernel."""
        signal.signal(signal.SIGTERM, self._on_term)
        self._left = True
        os.eventfd_write(self._cancel_fd, 1)
        busy = [thread for thread in self._threads if thread.is_alive() and thread not in self._stuck]
        until = time.monotonic() + _LEAVE_S
        for thread in busy:
            thread.join(max(0.0, until - time.monotonic()))

    def begin(self, watch: WatchSettings) -> None:
        """Look at it as soon as its turn comes."""
        answer: Future[Tried] = Future()
        self._answers[watch.name] = answer
        if watch.content is None:
            answer.set_result(Tried(watch.name, Result.NOTHING_TO_TRY))
            return
        thread = threading.Thread(target=self._run, args=(watch, answer), daemon=True)
        self._threads.append(thread)
        thread.start()

    def result(self, watch: WatchSettings) -> Tried:
        """Wait for it, and look up now and then: a signal that came just before a wait does not end that wait."""
        answer = self._answers[watch.name]
        while not wait([answer], timeout=_LOOK_UP_S).done:
            continue
        return answer.result()

    def _run(self, watch: WatchSettings, answer: Future[Tried]) -> None:
        with self._free:
            if self._left:
                return
            try:
                answer.set_result(self._try(watch, answer))
            except InvalidStateError:
                return  # it was told as stuck, and came back
            except BaseException as error:  # noqa: BLE001 - the thread's one catch-all: who waits for it raises it
                answer.set_exception(error)

    def _try(self, watch: WatchSettings, answer: Future[Tried]) -> Tried:
        settings, note = _as_possible(watch)
        if self._deadline_s is not None:
            settings = replace(settings, timeouts=replace(settings.timeouts, check_s=self._deadline_s))
        began_s = time.monotonic()

        def tried(result: Result, error: str = "", look: Look | None = None) -> Tried:
            return Tried(watch.name, result, look, error, time.monotonic() - began_s, note)

        def tell_stuck(pid: int, state: str) -> None:
            url = watch.content.url if watch.content else ""
            reason = f"{url}: process {pid} cannot be killed (state {state}): is it a dead mount?"
            self._stuck.add(threading.current_thread())
            answer.set_result(tried(Result.NOT_NOW, reason))
            self._free.release()  # this thread may never come back, and others wait

        try:
            return tried(Result.OK, look=self._looks.look(settings, None, self._cancel_fd, tell_stuck))
        except ContentError as error:
            passing = isinstance(error, ContentRetry)
            return tried(Result.NOT_NOW if passing else Result.CANNOT_WORK, str(error))


def _as_possible(watch: WatchSettings) -> tuple[WatchSettings, str]:
    """The watch with a user that this process can look as, and a word about it where that is another."""
    fetch = watch.download
    if fetch is None or os.geteuid() == 0 or (fetch.user is None and fetch.group is None):
        return watch, ""
    own = _own_names()
    if fetch.user in own and fetch.group is None:
        return watch, ""
    note = f"looked at as {own[0]}, not as {fetch.user or fetch.group}: only root can"
    return replace(watch, download=replace(fetch, user=None, group=None)), note


def _own_names() -> tuple[str, ...]:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name, str(uid)
    except KeyError:
        return (str(uid),)
