"""Watching over one started command: its launch, its end, its overdue end, its burial. Steps and hooks alike.

The rules: nothing but the step's directory says how it ended; a descriptor of the supervisor only says when to look. A
supervisor that is far over its time is ended, and whom nobody can end makes its watch blocked. What fails in a way
nobody named is this command's failure where it surely never ran; else its directory is looked at again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from jetwatch.engine.runtime import Result, Runtime
from jetwatch.errors import DISK_FAILS, NOT_NOW, CommandNotStarted, Unforeseen
from jetwatch.records import Command, CommandResult, Ending, Evidence, ProcessId, Sight, sound

_RELOOK_US = 20_000  # a supervisor that has not yet said who it is does so within a few milliseconds
_UNSEEN_US = 1_000_000  # a disk that fails
_SLACK_S = 30.0
_BLOCKED_AFTER_S = 7.0  # a holder says "blocked" 5 s after its KILL
BURY_PATIENCE_S = 5.0
_LONGEST_PAUSE_US = 30_000_000


class Supervision:
    """At most one command at a time. `wake_us`: when the next look is due, by the boot-time clock.

    `on_pause` is told why a start came to nothing, and after how many seconds it may be tried again.
    """

    def __init__(
        self,
        runtime: Runtime,
        watch: str,
        *,
        on_change: Callable[[], None],
        on_pause: Callable[[CommandNotStarted, float], None],
    ) -> None:
        self._runtime = runtime
        self._of_watch = watch
        self._on_change = on_change
        self._on_pause = on_pause
        self._pidfd: int | None = None
        self._failures = 0
        self._relook_us = _RELOOK_US
        self._is_launched = False
        self.reset()

    def reset(self) -> None:
        """Nothing is under way."""
        self._forget_pidfd()
        self.busy = False
        self.wake_us: int | None = None
        self.asked_to_stop_us: int | None = None
        self.buried = False
        self.ended_supervisor = False
        self.blocked: tuple[int, str] | None = None
        self.refusal: CommandNotStarted | None = None
        self._failure: Unforeseen | None = None

    def may_launch(self) -> bool:
        """Whether a start that failed for want of room or processes may be tried again."""
        return not self.busy and (self.wake_us is None or self.wake_us <= self._runtime.clock.now().boot_us)

    @property
    def is_deferred(self) -> bool:
        """Whether nothing runs, because the last start came to nothing and the next one waits."""
        return self._failures > 0 and not self.busy and not self._is_launched

    def launch(self, begin: Callable[[], ProcessId | None]) -> None:
        """Start a command in a worker. A refusal for good is in `refusal`; one for now is tried again later."""
        self.busy = True
        self._failure = None
        self._runtime.work(begin, self._launched, name="start", watch=self._of_watch)

    def _launched(self, result: ProcessId | CommandNotStarted | None) -> None:
        self.busy = False
        self.wake_us = None
        if isinstance(result, Unforeseen):
            self._failure = result  # it may have begun all the same: its directory says so
        elif isinstance(result, CommandNotStarted):
            if result.code in NOT_NOW:
                self._pause(result)
            self.refusal = result
        else:
            self._is_launched = True
            self._watch(result)
        self._on_change()

    def _pause(self, why: CommandNotStarted) -> None:
        """Before the next launch, longer after each that came to nothing."""
        pause_us = min(1_000_000 * 2**self._failures, _LONGEST_PAUSE_US)
        self._failures = min(self._failures + 1, 10)
        self.wake_us = self._runtime.clock.now().boot_us + pause_us
        self._on_pause(why, pause_us / 1e6)

    @property
    def refused_for_good(self) -> CommandNotStarted | None:
        """Why the command can never be started as it is; None when it can, or when nobody knows yet."""
        return self.refusal if self.refusal is not None and self.refusal.code not in NOT_NOW else None

    def wait(self, directory: Path, step_id: str, evidence: Evidence, command: Command) -> None:
        """See to it that the end of a living command is noticed, and that it has one."""
        self.blocked = evidence.blocked
        self.buried = False
        if self._pidfd is None:
            self._watch(evidence.supervisor)
        now_us = self._runtime.clock.now().boot_us
        if self._pidfd is None:
            self.wake_us = now_us + self._relook_us
            return
        left_us = self._overdue_in_us(evidence, command)
        if left_us <= 0 and not self.ended_supervisor:
            self.ended_supervisor = True
            self._attempt(lambda: self._runtime.commands.end_supervisor(directory, step_id), "end")
        look_us = max(1_000_000, min(left_us, self._blocked_in_us(evidence, command)))
        self.wake_us = now_us + look_us

    def _age_us(self, evidence: Evidence) -> int:
        now_us = self._runtime.clock.monotonic_us()
        return now_us - (now_us if evidence.since_monotonic_us is None else evidence.since_monotonic_us)

    def _overdue_in_us(self, evidence: Evidence, command: Command) -> int:
        slack_us = round((2 * command.grace_s + _SLACK_S) * 1e6)
        left_us = round(command.timeout_s * 1e6) + slack_us - self._age_us(evidence)
        if self.asked_to_stop_us is not None:
            left_us = min(left_us, self.asked_to_stop_us + slack_us - self._runtime.clock.monotonic_us())
        return left_us

    def _blocked_in_us(self, evidence: Evidence, command: Command) -> int:
        """How long until a look would show a command that KILL did not end."""
        told_us = round((command.grace_s + _BLOCKED_AFTER_S) * 1e6)
        left_us = round(command.timeout_s * 1e6) + told_us - self._age_us(evidence)
        if self.asked_to_stop_us is not None:
            left_us = min(left_us, self.asked_to_stop_us + told_us - self._runtime.clock.monotonic_us())
        return left_us if left_us > 0 else round(BURY_PATIENCE_S * 1e6)

    def stop(self, directory: Path, step_id: str) -> None:
        """Tell the supervisor once that its command is cancelled."""
        if self.asked_to_stop_us is None:
            self.asked_to_stop_us = self._runtime.clock.monotonic_us()
            self._attempt(lambda: self._runtime.commands.ask_to_stop(directory, step_id), "cancel")

    def bury(self, end: Callable[[], tuple[int, str] | None]) -> None:
        """End, in a worker, what a dead supervisor left. `buried` says when that is done.

        `end` returns who cannot be ended, and raises CommandNotStarted while a supervisor lives.
        """
        self._forget_pidfd()
        self.busy = True
        self._runtime.work(end, self._after_burial, name="bury", watch=self._of_watch)

    def _after_burial(self, survivor: tuple[int, str] | CommandNotStarted | None) -> None:
        self.busy = False
        if survivor is not None:
            # Somebody lives, or nobody knows: it is tried again, and nothing is called lost before.
            self.blocked = survivor if isinstance(survivor, tuple) else None
            self.wake_us = self._runtime.clock.now().boot_us + round(BURY_PATIENCE_S * 1e6)
        else:
            self.blocked = None
            self.buried = True
        self._on_change()

    def look(self, directory: Path, step_id: str) -> Evidence:
        """What the directory shows now. One that cannot be looked at counts as alive, until the next look."""
        evidence = self._attempt(lambda: self._see(directory, step_id), "look")
        if evidence is None or isinstance(evidence, Unforeseen):
            self._relook_us = min(max(_UNSEEN_US, 2 * self._relook_us), _LONGEST_PAUSE_US)
            return Evidence(Sight.ALIVE)
        self._relook_us = _RELOOK_US
        if evidence.sight is not Sight.ALIVE:
            self._forget_pidfd()
        if evidence.sight is Sight.NEVER_RAN and self._is_launched:
            # It found no room for its first word, say: the next one would not either.
            self._pause(CommandNotStarted("supervisor_died", "the supervisor ended before it could write a word"))
        elif evidence.supervisor is not None or evidence.sight is Sight.DONE:
            self._failures = 0
        self._is_launched = self._is_launched and evidence.sight is Sight.ALIVE
        if evidence.sight is Sight.NEVER_RAN and self._failure is not None:
            return Evidence(Sight.DONE, result=not_started(step_id, self._failure))
        return evidence

    def _see(self, directory: Path, step_id: str) -> Evidence | None:
        """None: the disk fails, and says nothing for now."""
        try:
            evidence = self._runtime.commands.look(directory, step_id)
        except OSError as error:
            if error.errno not in DISK_FAILS:
                raise
            return None
        if evidence.result is None:
            return evidence
        try:
            return replace(evidence, result=sound(evidence.result))
        except ValueError:
            detail = "it ended, and what is written of that cannot be kept"
            return replace(evidence, result=CommandResult(step_id, Ending.EXITED, reason="bad_result", detail=detail))

    def _attempt(self, call: Callable[[], Result], action: str) -> Result | Unforeseen:
        return self._runtime.attempt(call, action=action, watch=self._of_watch)

    def _watch(self, process: ProcessId | None) -> None:
        if process is None:
            return
        pidfd = self._attempt(lambda: self._runtime.commands.open_pidfd(process), "look")
        if isinstance(pidfd, Unforeseen):
            self._relook_us = _UNSEEN_US
            return
        if pidfd is None:
            return
        self._pidfd = pidfd
        self._runtime.watch_fd(pidfd, self._ended)

    def _ended(self) -> None:
        self._forget_pidfd()
        self.wake_us = None  # the look at its overdue end is not needed any more, and must not hold up what follows
        self._on_change()

    def _forget_pidfd(self) -> None:
        if self._pidfd is not None:
            self._runtime.forget_fd(self._pidfd)
            self._pidfd = None


def not_started(step_id: str, why: CommandNotStarted) -> CommandResult:
    """The result of a command that could not be started."""
    return CommandResult(step_id=step_id, ending=Ending.NOT_STARTED, reason=why.code, detail=str(why))
