"""Figures for StatsD: datagrams to a daemon that may be there or not. Nothing is waited for and nothing is kept.

A StatsD daemon adds up what it is told, so counters are told as what came since the last time. It has no instants: ages
and waits in seconds stand for them. Plain StatsD has no labels: their values are the end of the name.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct, field

from jetwatch.telemetry.metrics import STEPS, Distribution, Kind, Metric, Reading, statsd_name

DATAGRAM_BYTES = 1432
"""What fits into an Ethernet frame, with room for IPv6 and a tunnel."""

_NO_TAG = re.compile(r"[|,#\n]")


class Target(Struct, frozen=True):
    """Where the daemon listens, and how it is spoken to. Fixed `tags` are DogStatsD's."""

    address: tuple[str, int]
    prefix: str = "jetwatch"
    dogstatsd: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


class Statsd:
    """One daemon. Not for two threads at once. `base` holds the counters as they were before this agent."""

    def __init__(self, target: Target, base: Iterable[Reading]) -> None:
        self._target = target
        self._sent = dict(_counters(base))

    def tell(self, readings: list[Reading], timings: Iterable[tuple[str, str, float]], now_s: float) -> None:
        """Send the figures, and the duration of each step that ended. Raises OSError; what was not sent is lost."""
        lines = [self._line(STEPS, (watch, step), round(took_s * 1000, 3), "ms") for watch, step, took_s in timings]
        counters = dict(_counters(readings))
        for key, value in counters.items():
            if (more := value - self._sent.get(key, 0)) > 0:
                lines.append(self._line(*key, more, "c"))
        self._sent |= counters
        for reading in readings:
            if (level := _level(reading, now_s)) is not None:
                lines.append(self._line(reading.metric, reading.labels, level, "g"))
        _send(self._target.address, lines)

    def _line(self, metric: Metric, labels: tuple[str, ...], value: float, kind: str) -> bytes:
        target, parts = self._target, [self._target.prefix, statsd_name(metric)]
        tags = ""
        if target.dogstatsd or target.tags:
            pairs = {**target.tags, **dict(zip(metric.labels, labels, strict=True))}
            tags = "|#" + ",".join(f"{name}:{_NO_TAG.sub('_', text)}" for name, text in pairs.items()) if pairs else ""
        else:
            parts += labels
        return f"{'.'.join(parts)}:{value:.15g}|{kind}{tags}".encode()


def _counters(readings: Iterable[Reading]) -> Iterator[tuple[tuple[Metric, tuple[str, ...]], float]]:
    for reading in readings:
        if reading.metric.kind is Kind.COUNTER and not isinstance(reading.value, Distribution):
            yield (reading.metric, reading.labels), reading.value


def _level(reading: Reading, now_s: float) -> float | None:
    """The value of a gauge. Never below 0: a sign would be understood as "so much less"."""
    if isinstance(reading.value, Distribution):
        return None
    value = float(reading.value)
    match reading.metric.kind:
        case Kind.GAUGE:
            return value
        case Kind.INSTANT:
            return round(max(0.0, now_s - value), 3)
        case Kind.COMING:
            return round(max(0.0, value - now_s), 3)
    return None


def _send(address: tuple[str, int], lines: list[bytes]) -> None:
    family, kind, protocol, _, place = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as sender:
        sender.setblocking(False)
        for datagram in packed(lines):
            sender.sendto(datagram, place)


def packed(lines: Iterable[bytes], limit: int = DATAGRAM_BYTES) -> Iterator[bytes]:
    """Lines in as few datagrams as hold them."""
    waiting: list[bytes] = []
    size = 0
    for line in lines:
        if waiting and size + len(line) > limit:
            yield b"\n".join(waiting)
            waiting, size = [], 0
        waiting.append(line)
        size += len(line) + 1
    if waiting:
        yield b"\n".join(waiting)
