"""The agent: builds every part, owns the lock, the signals and the exit code, and takes everything down again.

The main thread waits for signals, the control socket and systemd's watchdog, and leaves calls in the engine's inbox; it
decides nothing itself. Signal handlers do nothing but wake it.
"""

from __future__ import annotations

import errno
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from jetwatch import __version__, descriptors, statedir
from jetwatch.answering import Answering
from jetwatch.clock import SystemClock
from jetwatch.config.load import load
from jetwatch.config.model import Settings, StopMode
from jetwatch.content_records import ContentKind
from jetwatch.control.server import Server
from jetwatch.engine.engine import Engine, Found
from jetwatch.engine.runtime import Runtime
from jetwatch.engine.timetable import Identity, Timetable
from jetwatch.engine.unforeseen import internal_error
from jetwatch.engine.variables import Host
from jetwatch.errors import (
    DISK_FAILS,
    NO_FILE_LEFT,
    JetwatchError,
    JournalStalled,
    NoRoom,
    StateDirError,
    StateDirFailing,
)
from jetwatch.events import AgentStarted, AgentStopped, Told
from jetwatch.journal.journal import Journal
from jetwatch.looks import Looks
from jetwatch.notify import Notifier
from jetwatch.process import launch, tree
from jetwatch.process.commands import Commands
from jetwatch.process.place import Place, find_place
from jetwatch.process.prepare import Surroundings
from jetwatch.records import AgentState, Stamp
from jetwatch.reloading import Reloading
from jetwatch.signals import Signals
from jetwatch.statedir import StateDir
from jetwatch.telling import Voice

if TYPE_CHECKING:
    from jetwatch.telemetry.meter import Meter
    from jetwatch.telemetry.sending import Sender

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_ENGINE_PATIENCE_S = 2.0
_SENDING_PATIENCE_S = 30.0  # with --once the next agent may come in a day


class Options(Struct, frozen=True):
    """What the command line says beside the configuration."""

    config_path: Path
    state_dir: Path | None = None
    once: bool = False
    no_splay: bool = False
    log_format: str | None = None
    log_level: str | None = None


def run(
    config_path: Path,
    *,
    state_dir: Path | None = None,
    once: bool = False,
    no_splay: bool = False,
    log_format: str | None = None,
    log_level: str | None = None,
) -> int:
    """Run the agent until it is stopped. Returns the exit code; raises JetwatchError before anything was started."""
    options = Options(config_path.absolute(), state_dir, once, no_splay, log_format, log_level)
    # Everything of ours is private, and checks in flight take descriptors: commands get back what stood before.
    surroundings = Surroundings(
        dict(os.environ), umask=os.umask(0o077), cwd=_working_directory(), open_files=descriptors.raise_limit()
    )
    settings, warnings = load(options.config_path)
    for warning in warnings:
        print(f"jetp: warning: {warning}", file=sys.stderr)  # noqa: T201 - said before there is a log
    layout = StateDir.at(statedir.choose(state_dir, os.environ, settings.state_dir), settings.download_dir)
    with _failing_disk_named(layout):
        statedir.prepare(layout, passable=any(watch.user is not None for watch in settings.watches.values()))
        own = tree.look_up(os.getpid())
        # Never given back but by the end of this process: until then some thread of it may be at work.
        statedir.take_lock(layout, own.start_ticks if own else 0)
        return _Agent(options, settings, layout, surroundings).run()


@contextmanager
def _failing_disk_named(layout: StateDir) -> Iterator[None]:
    """A disk that fails while an agent starts is no mistake of a configuration, and none of ours.

    One that is read-only from the beginning is refused: somebody named the wrong directory.
    """
    try:
        yield
    except (OSError, StateDirError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        refused = isinstance(error, StateDirError) and isinstance(cause, OSError) and cause.errno == errno.EROFS
        if isinstance(cause, OSError) and cause.errno in DISK_FAILS and not refused:
            raise StateDirFailing(str(cause.filename or layout.root), cause) from error
        raise


_OVER_THE_NETWORK = {ContentKind.BUCKET, ContentKind.OBJECT, ContentKind.HTTP}


def _import_what_hooks_into_forks(settings: Settings) -> None:
    """What speaks over the network loads logging, in a thread of its own, and logging hooks into fork(2).

    Where another thread forks in that very moment, the interpreter complains on standard error. So it is loaded before
    there is a second thread, where somebody will want it.
    """
    kinds = {watch.content.kind for watch in settings.watches.values() if watch.content}
    if settings.log.http or settings.metrics or kinds & _OVER_THE_NETWORK:
        import logging  # noqa: F401


class _Agent:
    """One life of the agent, in the main thread."""

    def __init__(self, options: Options, settings: Settings, layout: StateDir, surroundings: Surroundings) -> None:
        _import_what_hooks_into_forks(settings)
        self._options = options
        self._settings = settings
        self._layout = layout
        self._notifier = Notifier(os.environ)
        self._journal = Journal.open(layout.journal)
        state_id = layout.state_id()
        self._place = find_place(state_id)
        self._voice = Voice(
            settings.log,
            format=options.log_format,
            level=options.log_level,
            told=layout.told,
            newest_seq=self._journal.last_seq(),
        )
        clock = SystemClock()
        program = launch.install(layout.shim)
        self._commands = commands = Commands(layout, program, self._place, surroundings, state_id)
        self._runtime = Runtime(
            clock=clock,
            journal=self._journal,
            commands=commands,
            looks=Looks(commands, clock.new_id),
            layout=layout,
            host=Host(socket.gethostname(), str(layout.root)),
            tell=self._voice.tell,
            on_stall=self._stalled,
            open_files=descriptors.limit(),
        )
        self._journal.on_unreadable = self._runtime.tell
        self._state = _agent_state(options, settings, layout, self._place, self._runtime.clock.now())
        self._engine = Engine(
            self._runtime,
            settings,
            self._state,
            Timetable(clock, Identity(state_id, _machine_id()), once=options.once, no_splay=options.no_splay),
        )
        self._reloading = Reloading(
            options.config_path, settings, self._engine, post=self._runtime.post, notifier=self._notifier
        )
        self._voice.sender = self._make_sender()
        self._voice.meter = self._make_meter()
        self._name = tree.name_of(os.getpid())
        self._selector = selectors.PollSelector()  # it takes any standard output; epoll refuses files and /dev/null
        self._done_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._failure: BaseException | None = None
        self._engine_thread: threading.Thread | None = None
        self._server: Server | None = None
        self._signalled: int | None = None
        self._interrupted = False

    def _make_meter(self) -> Meter | None:
        if self._settings.metrics is None:
            return None
        from jetwatch.metering import meter_for  # what nobody asked for is not loaded

        known, dropped = self._journal.watches(), lambda: self._voice.dropped
        return meter_for(
            self._settings.metrics,
            self._state,
            self._runtime,
            self._engine,
            known=known,
            lines_dropped=dropped,
            sender=self._voice.sender,
        )

    def _make_sender(self) -> Sender | None:
        if self._settings.log.http is None:
            return None
        from jetwatch.sending import sender_for

        return sender_for(
            self._settings.log.http,
            self._layout,
            self._runtime.clock,
            newest_seq=self._journal.last_seq(),
            line=self._voice.fields_of,
            tell=self._runtime.tell,
        )

    def run(self) -> int:
        """From the first line of the log to the last."""
        signals = Signals(_SIGNALS)
        try:
            self._start(signals)
            self._wait_for_the_end()
            if self._failure is None:
                self._tell_the_end()
        finally:
            if self._server is not None:
                self._server.close()
            engine_has_ended = self._end_engine()
            self._commands.close()
            self._voice.flush(timeout_s=0.2)
            if engine_has_ended:
                self._journal.close()
            signals.restore()
        return self._exit_code()

    # -- start

    def _start(self, signals: Signals) -> None:
        # First what may fail: an agent that cannot start is not told to have started.
        if self._state.socket is not None:
            self._server = Server(
                Path(self._state.socket),
                Answering(self._engine, self._runtime).submit,
                on_error=lambda error: self._runtime.tell(internal_error(error, "control")),
            )
            self._selector.register(self._server.fileno(), selectors.EVENT_READ, lambda: None)
        for told in self._journal.events_after(self._voice.told_seq):
            self._voice.tell(told)  # written by an earlier agent, or by `jetp` without one, and not yet told
        self._runtime.commit(
            AgentStarted(
                pid=os.getpid(),
                detach=self._place.detach,
                cgroup=self._place.kind,
                watches=len(self._settings.watches),
                config=str(self._options.config_path),
                state_dir=str(self._layout.root),
            ),
            agent=self._state,
        )
        self._selector.register(signals.fd, selectors.EVENT_READ, lambda: self._handle(signals.read()))
        self._selector.register(self._done_fd, selectors.EVENT_READ, lambda: None)
        found = Found.of(self._journal)
        thread = threading.Thread(target=self._work, args=(found,), name="engine", daemon=True)
        try:
            thread.start()
            self._engine_thread = thread
            if self._voice.meter is not None:
                self._voice.meter.start()
            if self._voice.sender is not None:
                self._voice.sender.start()
        except RuntimeError as error:
            raise NoRoom("the machine has no room for one more thread: look at pids.max and ulimit -u") from error
        self._notifier.send("READY=1")
        self._notifier.status(_standing(len(self._settings.watches), 0))

    def _work(self, found: Found) -> None:
        try:
            self._engine.run(found)
        except BaseException as error:  # noqa: BLE001 - the thread's one catch-all: the main thread tells it
            self._failure = error
        finally:
            os.eventfd_write(self._done_fd, 1)

    # -- the main thread's loop

    def _wait_for_the_end(self) -> None:
        next_ping_s = 0.0
        while True:
            ready = self._selector.select(self._patience_s(next_ping_s))
            for key, _ in ready:
                key.data()
            if self._server is not None:
                self._server.serve_ready()
            self._flush()
            if any(key.fd == self._done_fd for key, _ in ready):
                return
            if self._notifier.watchdog_s is not None and time.monotonic() >= next_ping_s:
                next_ping_s = time.monotonic() + self._notifier.watchdog_s / 2
                # The engine answers, not this thread: what is fed to the watchdog is the loop's own progress.
                if self._runtime.journal.stalled is None:
                    self._runtime.post(self._alive)

    def _patience_s(self, next_ping_s: float) -> float | None:
        waits = []
        if self._notifier.watchdog_s is not None:
            waits.append(max(0.0, next_ping_s - time.monotonic()))
        if self._server is not None and (deadline := self._server.next_deadline_s()) is not None:
            waits.append(deadline)
        return min(waits, default=None)

    def _alive(self) -> None:
        self._notifier.send("WATCHDOG=1")
        self._notifier.status(_standing(len(self._engine.watch_names()), len(self._engine.open_runs())))

    def _stalled(self, error: JournalStalled | None) -> None:
        """Called in the engine's thread each second that it waits for the disk, and with None when it goes on."""
        _call_myself(self._name if error is None else statedir.STALLED_NAME)
        self._notifier.send("WATCHDOG=1")
        self._notifier.status("going on" if error is None else f"waits for the disk: {error}")

    def _flush(self) -> None:
        """Write what waits whenever the log can take it; nobody else waits for it."""
        self._voice.raise_watermark()
        waiting = self._voice.backlog_fd
        watched = {key.fd for key in self._selector.get_map().values() if key.events == selectors.EVENT_WRITE}
        if waiting is not None and waiting not in watched:
            self._selector.register(waiting, selectors.EVENT_WRITE, self._voice.flush)
        for fd in watched - {waiting}:
            self._selector.unregister(fd)

    def _handle(self, numbers: bytes) -> None:
        # Signals that came at one moment are written down in the order of their handlers' frames, the last one first.
        for number in sorted(numbers):
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop(signal.Signals(number))
            elif number == signal.SIGHUP:
                self._voice.reopen()
                self._reloading.begin()
            elif number == signal.SIGUSR1:
                self._runtime.post(self._engine.check_all)

    def _stop(self, number: signal.Signals) -> None:
        self._notifier.send("STOPPING=1")
        mode = self._stop_mode(number)
        self._signalled = self._signalled or number
        self._interrupted = self._interrupted or mode == StopMode.WAIT
        self._runtime.post(lambda: self._engine.stop(mode, number.name))
        self._runtime.journal.hurry()  # one that waits for the disk ends as by a kill: the next agent goes on

    def _stop_mode(self, number: signal.Signals) -> StopMode:
        """INT waits, a second one cancels; TERM does what `stop` says, and for `--once` what INT does."""
        if self._interrupted:
            return StopMode.CANCEL
        if number == signal.SIGINT or self._options.once:
            return StopMode.WAIT
        return self._settings.stop or (StopMode.DETACH if self._place.detach else StopMode.WAIT)

    # -- the end

    def _end_engine(self) -> bool:
        """Whether the engine is at work no more. Where this thread failed, it still is, and is asked to detach.

        It alone uses the journal: a connection that is closed under a thread at work crashes the interpreter.
        """
        if self._engine_thread is None:
            return True
        if self._engine_thread.is_alive():
            self._runtime.post(lambda: self._engine.stop(StopMode.DETACH, "failure"))
        self._engine_thread.join(_ENGINE_PATIENCE_S)
        return not self._engine_thread.is_alive()

    def _tell_the_end(self) -> None:
        if self._voice.meter is not None:
            self._voice.meter.close(self._engine.view())
        if self._voice.sender is not None:
            if self._options.once:
                self._voice.sender.drain(_SENDING_PATIENCE_S)
            self._voice.sender.close()
        self._voice.flush(timeout_s=0.2)
        stopped = AgentStopped(open_runs=len(self._engine.open_runs()), lines_dropped=self._voice.dropped)
        self._voice.tell(Told(stopped, self._runtime.clock.now().wall_us))

    def _exit_code(self) -> int:
        if isinstance(self._failure, JetwatchError):
            raise self._failure
        if isinstance(self._failure, OSError) and self._failure.errno in NO_FILE_LEFT:
            raise self._failure  # said in one sentence
        if self._failure is not None:
            import traceback

            traceback.print_exception(self._failure)
            return JetwatchError.exit_code
        if not self._options.once:
            return 0
        if self._signalled is not None:
            return 128 + self._signalled
        if self._engine.failed_runs:
            return 1
        return 75 if self._engine.uncertain_checks else 0


def _call_myself(name: str) -> None:
    """What others see as the name of this process; also on a disk that takes no word any more."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def _working_directory() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return "/"  # it was removed under us


def _standing(watches: int, open_runs: int) -> str:
    return f"{watches} watch{'es' * (watches != 1)}, {open_runs} run{'s' * (open_runs != 1)} open"


def _agent_state(options: Options, settings: Settings, layout: StateDir, place: Place, now: Stamp) -> AgentState:
    own = tree.look_up(os.getpid())
    socket_path = settings.control.socket or layout.socket
    return AgentState(
        pid=os.getpid(),
        start_ticks=own.start_ticks if own else 0,
        boot_id=now.boot_id,
        started=now,
        version=__version__,
        config_path=str(options.config_path),
        config_digest=settings.digest,
        detach=place.detach,
        cgroup=place.kind,
        watches=tuple(settings.watches),
        insecure=settings.insecure,
        socket=str(socket_path) if settings.control.enabled else None,
    )


def _machine_id() -> str:
    """What systemd calls this machine; its host name where there is no such thing."""
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return socket.gethostname()
