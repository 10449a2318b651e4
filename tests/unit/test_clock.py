"""The kernel's clocks and the one timer, with the real thing."""

from __future__ import annotations

import os
import select
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetwatch.clock import SystemClock

PATIENCE_MS = 10_000
"""Never waited for in full: a timer that rings ends the wait."""


@pytest.fixture
def clock() -> Iterator[SystemClock]:
    """A clock whose descriptors are given back."""
    clock = SystemClock()
    yield clock
    clock.close()


def rings(fd: int, timeout_ms: int) -> bool:
    """Whether the descriptor becomes readable within so many milliseconds."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_ms))


def test_an_instant_is_told_by_both_clocks(clock: SystemClock) -> None:
    """Unix time, time since boot with sleep counted, and the kernel's name of this boot."""
    wall_before, boot_before = time.time_ns() // 1000, time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    now = clock.now()
    wall_after, boot_after = time.time_ns() // 1000, time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    assert wall_before <= now.wall_us <= wall_after
    assert boot_before <= now.boot_us <= boot_after
    assert now.boot_id == clock.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_timeouts_are_counted_without_sleep(clock: SystemClock) -> None:
    """CLOCK_MONOTONIC, which never runs ahead of the boot-time clock."""
    before = time.monotonic_ns() // 1000
    assert before <= clock.monotonic_us() <= clock.now().boot_us + 1


@pytest.mark.parametrize("boot_us", [-(10**15), -1, 0, 1])
def test_an_instant_that_has_passed_rings_at_once(clock: SystemClock, boot_us: int) -> None:
    """However long ago it was."""
    clock.arm(boot_us)
    assert rings(clock.timer_fd, PATIENCE_MS)


def test_an_instant_to_come_rings_when_it_comes(clock: SystemClock) -> None:
    """Not before."""
    at_us = clock.now().boot_us + 20_000
    clock.arm(at_us)
    assert rings(clock.timer_fd, PATIENCE_MS)
    assert clock.now().boot_us >= at_us


def test_a_timer_that_is_not_armed_never_rings(clock: SystemClock) -> None:
    """Neither a new one, nor one that was switched off, even after it rang."""
    assert not rings(clock.timer_fd, 0)
    clock.arm(1)
    assert rings(clock.timer_fd, PATIENCE_MS)
    clock.arm(None)
    assert not rings(clock.timer_fd, 0)


def test_the_last_instant_counts(clock: SystemClock) -> None:
    """Arming again forgets what was asked for before, a later or an earlier one."""
    clock.arm(clock.now().boot_us + 3600 * 1_000_000)
    clock.arm(1)
    assert rings(clock.timer_fd, PATIENCE_MS)
    clock.arm(clock.now().boot_us + 3600 * 1_000_000)
    assert not rings(clock.timer_fd, 0)


def test_an_instant_in_a_century_can_be_asked_for(clock: SystemClock) -> None:
    """A schedule without a firing in sight is one."""
    clock.arm(clock.now().boot_us + 100 * 365 * 86_400 * 1_000_000)
    assert not rings(clock.timer_fd, 0)


def test_a_timer_that_was_seen_is_silent_until_armed_again(clock: SystemClock) -> None:
    """And seeing one that did not ring does no harm."""
    clock.arm(1)
    assert rings(clock.timer_fd, PATIENCE_MS)
    clock.timer_seen()
    clock.timer_seen()
    assert not rings(clock.timer_fd, 0)
    clock.arm(1)
    assert rings(clock.timer_fd, PATIENCE_MS)


def test_nobody_set_the_wall_clock(clock: SystemClock) -> None:
    """The second descriptor is silent, and may be asked at any time."""
    assert not rings(clock.step_fd, 0)
    clock.step_seen()
    assert not rings(clock.step_fd, 0)


def test_descriptors_are_not_inherited_and_do_not_block(clock: SystemClock) -> None:
    """A command must not hold the agent's timer."""
    for fd in (clock.timer_fd, clock.step_fd):
        assert not os.get_inheritable(fd)
        assert not os.get_blocking(fd)


def test_closing_gives_the_descriptors_back() -> None:
    """Both of them."""
    clock = SystemClock()
    fds = (clock.timer_fd, clock.step_fd)
    clock.close()
    assert not [fd for fd in fds if Path(f"/proc/self/fd/{fd}").exists()]


@pytest.mark.parametrize("limit_s", [0.0, 1e-6, 1.0, 100.0, 86_400.0])
def test_chance_stays_within_its_limit(clock: SystemClock, limit_s: float) -> None:
    """From zero up to the limit, and all over it."""
    drawn = [clock.uniform(limit_s) for _ in range(2_000)]
    assert all(0 <= each < limit_s or each == limit_s == 0 for each in drawn)
    # Each tenth is missed once in 10^91 histories.
    assert limit_s == 0 or {int(each / limit_s * 10) for each in drawn} == set(range(10))


def test_ids_are_random_guids(clock: SystemClock) -> None:
    """UUID version 4, never the same twice."""
    ids = {clock.new_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    assert {uuid.UUID(each).version for each in ids} == {4}
    assert all(str(uuid.UUID(each)) == each for each in ids)
