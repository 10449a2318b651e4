"""Figures for Prometheus: as a text file for node_exporter, and over HTTP. The one room that knows prometheus_client.

It is the extra `metrics`, loaded only when one of the two is configured. The registry holds nothing but what was read
at that moment: no figure is kept here.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import make_wsgi_app
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from jetwatch.telemetry.metrics import BUCKETS_S, Distribution, Kind, Metric, Reading, prometheus_name
from jetwatch.trust import open_directory_of_anybody

READABLE_BY_ALL = 0o644
_PATIENCE_S = 5.0
"""How long a scraper may take over one read or write: nobody else is served meanwhile."""


def text(readings: Iterable[Reading]) -> bytes:
    """The figures in Prometheus's text format."""
    return generate_latest(_registry(lambda: readings))


def write_textfile(path: Path, readings: Iterable[Reading]) -> None:
    """Replace the file as a whole: who reads it sees the old one or the new one. Raises OSError, NotTrusted.

    The directory may be the collector's own: all is done in it by descriptor.
    """
    folder = open_directory_of_anybody(path.parent)
    try:
        _replace(folder, path.name, text(readings))
    finally:
        os.close(folder)


def _replace(folder: int, name: str, content: bytes) -> None:
    building = f".{name}.new"  # node_exporter takes *.prom alone
    with suppress(FileNotFoundError):
        os.unlink(building, dir_fd=folder)
    fd = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            os.fchmod(fd, READABLE_BY_ALL)  # whatever the umask
        os.rename(building, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with suppress(OSError):
            os.unlink(building, dir_fd=folder)
        raise


class Listener:
    """An HTTP server for one scraper at a time. Its owner waits on `fd`, then calls `serve_one`. Raises OSError."""

    def __init__(self, address: tuple[str, int], read: Callable[[], Iterable[Reading]]) -> None:
        server = _Server6 if ":" in address[0] else _Server
        self._server = server(address, _Handler)
        self._server.timeout = 0  # asked only when somebody is there
        self._server.set_app(make_wsgi_app(_registry(read)))

    @property
    def fd(self) -> int:
        """Readable when a scraper has come."""
        return self._server.fileno()

    def serve_one(self) -> None:
        """Answer whoever has come. Never raises for what the other side does."""
        self._server.handle_request()

    def close(self) -> None:
        """Give the address back."""
        self._server.server_close()


class _Server(WSGIServer):
    request_queue_size = 16

    def server_bind(self) -> None:
        # As HTTPServer does it, but for asking the name service what this host is called.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a scraper that went away


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE_S

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Collector(Collector):
    def __init__(self, read: Callable[[], Iterable[Reading]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Family]:
        for metric, group in groupby(self._read(), key=lambda reading: reading.metric):
            yield _family(metric, list(group))


def _registry(read: Callable[[], Iterable[Reading]]) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(read))
    return registry


def _family(metric: Metric, readings: list[Reading]) -> Family:
    name = prometheus_name(metric)
    if metric.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(name, metric.help, labels=metric.labels)
        for reading in readings:
            if isinstance(reading.value, Distribution):
                histogram.add_metric(reading.labels, _cumulated(reading.value), reading.value.sum_s)
        return histogram
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = kind(name, metric.help, labels=metric.labels)
    for reading in readings:
        if not isinstance(reading.value, Distribution):
            family.add_metric(reading.labels, reading.value)
    return family


def _cumulated(spread: Distribution) -> list[tuple[str, float]]:
    bounds = [*(str(bound) for bound in BUCKETS_S), "+Inf"]
    return list(zip(bounds, accumulate(spread.counts), strict=True))
