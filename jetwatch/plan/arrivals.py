"""How the checks of a fleet fall on the seconds, from the worst moment on: every machine starts at the same time.

That is what a fleet does after a rollout or when the power comes back. Each machine's first two checks are planned by
`engine.schedule`, with a chance and a machine id of its own; what follows repeats the second with the interval. A
schedule fires at its time on every machine, each after its own splay.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from jetwatch.config.model import Phase, WatchSettings
from jetwatch.engine import schedule
from jetwatch.records import Stamp

LONGEST_WINDOW_S = 35 * 86_400
_RATE_OF_FIRINGS = 366
_SECOND_US = 1_000_000


class Demand(Struct, frozen=True):
    """One watch, and how many requests each of its checks makes."""

    watch: WatchSettings
    requests: float


class Load(Struct, frozen=True):
    """Requests of the fleet. `per_second[i]`: in second i after the start. `mean_per_s`: in the long run."""

    per_second: Sequence[float]
    mean_per_s: float

    @property
    def peak_per_s(self) -> float:
        """The busiest second of the window."""
        return max(self.per_second, default=0.0)

    @property
    def peak_over_mean(self) -> float:
        """1 would be perfectly even. 0 where nothing is asked at all."""
        return self.peak_per_s / self.mean_per_s if self.mean_per_s else 0.0


def simulate(demands: Sequence[Demand], machines: int, chance: random.Random, start_us: int) -> Load:
    """The load of `machines` that all start together, over two of the longest intervals (or until all schedules fired).

    `start_us`: Unix time in microseconds from which schedules are looked at; the start is moved to the first firing.
    """
    start = _start(demands, start_us)
    window_s = _window_s(demands, start)
    per_second = [0.0] * window_s
    mean_per_s = 0.0
    for demand in demands:
        if demand.requests <= 0:
            continue
        mean_per_s += machines * demand.requests / period_s(demand.watch, start.wall_us)
        of_watch = _scheduled if demand.watch.schedule is not None else _repeated
        for second, checks in enumerate(of_watch(demand.watch, machines, chance, start, window_s)):
            per_second[second] += checks * demand.requests
    return Load(per_second, mean_per_s)


def evened(watch: WatchSettings) -> WatchSettings:
    """The same watch as even as it can be: on a stable grid over its whole interval; a schedule keeps its splay."""
    return replace(watch, phase=Phase.STABLE, splay_s=watch.splay_s if watch.schedule is not None else 0.0)


def period_s(watch: WatchSettings, from_us: int) -> float:
    """Mean seconds from check to check of one machine."""
    if watch.schedule is None:
        return watch.check_interval_s + (watch.jitter_s + watch.jitter_fraction * watch.check_interval_s) / 2
    firings = list(itertools.islice(_firings(watch, from_us), _RATE_OF_FIRINGS))
    return (firings[-1] - firings[0]) / (len(firings) - 1) / _SECOND_US if len(firings) > 1 else math.inf


def _start(demands: Sequence[Demand], start_us: int) -> Stamp:
    """The moment at which the first schedule fires, else the given one."""
    firings = [_first_firing(demand.watch, start_us) for demand in demands if demand.watch.schedule is not None]
    wall_us = min((firing for firing in firings if firing is not None), default=start_us)
    return Stamp(wall_us, 0, "plan")


def _first_firing(watch: WatchSettings, after_us: int) -> int | None:
    return next(_firings(watch, after_us), None)


def _firings(watch: WatchSettings, after_us: int) -> Iterator[int]:
    """Unix times (microseconds) of the firings after an instant."""
    firing_us = schedule.next_fire(watch.schedule or "", watch.timezone, after_us)
    while firing_us is not None:
        yield firing_us
        firing_us = schedule.next_fire(watch.schedule or "", watch.timezone, firing_us)


def _window_s(demands: Sequence[Demand], start: Stamp) -> int:
    spans_s = [60.0]
    for demand in demands:
        watch = demand.watch
        if watch.schedule is None:
            spans_s.append(max(2 * watch.check_interval_s, watch.splay_s + watch.check_interval_s))
        elif (firing := _first_firing(watch, start.wall_us - 1)) is not None:
            spans_s.append((firing - start.wall_us) / _SECOND_US + watch.splay_s + 1)
    return min(LONGEST_WINDOW_S, math.ceil(max(spans_s)))


def _repeated(
    watch: WatchSettings, machines: int, chance: random.Random, start: Stamp, window_s: int
) -> Sequence[float]:
    """Checks per second of a watch with an interval."""
    first, later = [0.0] * window_s, [0.0] * window_s
    for _ in range(machines):
        offset_s = _offset_s(watch, chance)
        check = schedule.first_check(watch, start, _uniform(chance), offset_s=offset_s)
        following = schedule.next_check(watch, check, check.at, _uniform(chance), started=check.at, offset_s=offset_s)
        for planned, counts in ((check, first), (following, later)):
            second = planned.at.boot_us // _SECOND_US
            if second < window_s:
                counts[second] += 1
    interval_s = max(1, round(watch.check_interval_s))
    at_once = max(1.0, 1 / watch.check_interval_s)  # an interval below a second: so many checks in each
    for second in range(interval_s, window_s):
        later[second] += later[second - interval_s]
    return [(early + late) * at_once for early, late in zip(first, later, strict=True)]


def _scheduled(
    watch: WatchSettings, machines: int, chance: random.Random, start: Stamp, window_s: int
) -> Sequence[float]:
    """Checks per second of a watch with a schedule: every firing, spread over the splay."""
    spread: dict[int, int] = {}
    for _ in range(machines):
        wait_s = _offset_s(watch, chance) if watch.phase is Phase.STABLE else chance.uniform(0, watch.splay_s)
        second = int((wait_s or 0.0) + chance.uniform(0, watch.jitter_s))
        spread[second] = spread.get(second, 0) + 1
    counts = [0.0] * window_s
    for firing_us in _firings(watch, start.wall_us - 1):
        at_s = (firing_us - start.wall_us) // _SECOND_US
        if at_s >= window_s:
            break
        for second, checks in spread.items():
            if at_s + second < window_s:
                counts[at_s + second] += checks
    return counts


def _offset_s(watch: WatchSettings, chance: random.Random) -> float | None:
    """Where one machine, with ids of its own, lies on the stable grid."""
    if watch.phase is not Phase.STABLE:
        return None
    if watch.schedule is not None and not watch.splay_s:
        return 0.0
    state_id, machine_id = f"{chance.getrandbits(128):032x}", f"{chance.getrandbits(128):032x}"
    return schedule.stable_offset_s(state_id, machine_id, watch.name, watch.splay_s or watch.check_interval_s)


def _uniform(chance: random.Random) -> schedule.Uniform:
    return lambda limit_s: chance.random() * limit_s
