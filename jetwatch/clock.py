"""Time and chance: two clocks, one timer, one source of randomness, all handed in so that tests never sleep.

Intervals follow CLOCK_BOOTTIME (sleep counts), timeouts CLOCK_MONOTONIC (inside `process/hold.py`), timestamps and
schedules the wall clock. The timer is a kernel timer on CLOCK_BOOTTIME: waiting costs nothing, and neither a step of
the wall clock nor a suspended machine can make it stall. A second descriptor says that the wall clock was stepped.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import struct
import time
import uuid
from pathlib import Path
from typing import Protocol

from jetwatch.records import Stamp

_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK and TFD_CLOEXEC have the values of the open(2) flags
_TFD_TIMER_ABSTIME = 1
_TFD_TIMER_CANCEL_ON_SET = 2
_FAR_FUTURE_S = 2**40


class Clock(Protocol):
    """What the engine knows of time and chance."""

    boot_id: str

    def now(self) -> Stamp:
        """This instant by both clocks."""

    def monotonic_us(self) -> int:
        """CLOCK_MONOTONIC: time since boot without sleep; what timeouts are counted in."""

    def uniform(self, limit_s: float) -> float:
        """A random number of seconds in [0, limit_s)."""

    def new_id(self) -> str:
        """A new random GUID (UUIDv4)."""

    def arm(self, boot_us: int | None) -> None:
        """Let `timer_fd` become readable at this boot time; None: never."""

    @property
    def timer_fd(self) -> int:
        """Readable when the armed instant has come. `timer_seen` makes it unreadable again."""

    def timer_seen(self) -> None:
        """Take note that the timer fired."""

    @property
    def step_fd(self) -> int:
        """Readable when the wall clock was set. `step_seen` makes it unreadable again."""

    def step_seen(self) -> None:
        """Take note that the wall clock was set."""


class SystemClock:
    """The kernel's clocks and timers, and the operating system's randomness."""

    def __init__(self) -> None:
        self.boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._random = random.SystemRandom()
        self._timer = _timerfd(time.CLOCK_BOOTTIME)
        self._armed_us: int | None = None
        self._step = _timerfd(time.CLOCK_REALTIME)
        self._watch_wall_clock()

    def now(self) -> Stamp:
        """This instant by both clocks."""
        wall_ns, boot_ns = time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return Stamp(wall_ns // 1000, boot_ns // 1000, self.boot_id)

    def monotonic_us(self) -> int:
        """CLOCK_MONOTONIC: time since boot without sleep."""
        return time.monotonic_ns() // 1000

    def uniform(self, limit_s: float) -> float:
        """A random number of seconds in [0, limit_s)."""
        return self._random.random() * limit_s

    def new_id(self) -> str:
        """A new random GUID (UUIDv4)."""
        return str(uuid.uuid4())

    @property
    def timer_fd(self) -> int:
        """Readable when the armed instant has come."""
        return self._timer

    @property
    def step_fd(self) -> int:
        """Readable when the wall clock was set."""
        return self._step

    def arm(self, boot_us: int | None) -> None:
        """Let `timer_fd` become readable at this boot time; None: never."""
        if boot_us == self._armed_us:
            return
        # A value of zero would disarm the timer, so an instant that has passed is asked for as the first microsecond.
        _settime(self._timer, _TFD_TIMER_ABSTIME, 0 if boot_us is None else max(1, boot_us))
        self._armed_us = boot_us

    def timer_seen(self) -> None:
        """Take note that the timer fired."""
        _drain(self._timer)
        self._armed_us = None

    def step_seen(self) -> None:
        """Take note that the wall clock was set, and wait for the next time."""
        _drain(self._step)
        self._watch_wall_clock()

    def _watch_wall_clock(self) -> None:
        _settime(self._step, _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET, _FAR_FUTURE_S * 1_000_000)

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._timer)
        os.close(self._step)


_libc = ctypes.CDLL(None, use_errno=True)


def _timerfd(clock: int) -> int:
    # os.timerfd_create exists from Python 3.13 on only.
    fd = int(_libc.timerfd_create(clock, _TFD_FLAGS))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"timerfd_create: {os.strerror(code)}")
    return fd


def _settime(fd: int, flags: int, at_us: int) -> None:
    seconds, microseconds = divmod(at_us, 1_000_000)
    itimerspec = struct.pack("llll", 0, 0, seconds, microseconds * 1000)
    if _libc.timerfd_settime(fd, flags, itimerspec, None) != 0:
        code = ctypes.get_errno()
        if code != errno.ECANCELED:  # the wall clock was set just now: the descriptor is readable and says so
            raise OSError(code, f"timerfd_settime: {os.strerror(code)}")


def _drain(fd: int) -> None:
    try:
        os.read(fd, 8)
    except BlockingIOError:
        pass
    except OSError as error:
        if error.errno != errno.ECANCELED:
            raise
