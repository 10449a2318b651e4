"""Figures for Prometheus: as a text file for node_exporter, and over HTTP. The one room that knows prometheus_client.

It is the extra `metrics`, loaded only when one of the two is configured. The registry holds nothing but what was read
at that moment: no figure is kept here.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from io import BufferedIOBase
from itertools import accumulate, groupby
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import make_wsgi_app
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from jetwatch.telemetry.metrics import BUCKETS_S, Distribution, Kind, Metric, Reading, prometheus_name
from jetwatch.trust import enter

READABLE_BY_ALL = 0o644
REQUEST_WITHIN_S = 5.0
"""How long a scraper may take over all of it: to ask, to be answered, to read the answer."""

REQUEST_BYTES = 16 * 1024
"""Request line and headers together: Prometheus sends some hundred bytes."""

MOST_CONNECTIONS = 32
"""At one time: each has a thread."""

_CLOSE_WITHIN_S = 0.3
_PAUSE_S = 0.1


def text(readings: Iterable[Reading]) -> bytes:
    """The figures in Prometheus's text format."""
    return generate_latest(_registry(lambda: readings))


def write_textfile(path: Path, readings: Iterable[Reading]) -> None:
    """Replace the file as a whole: who reads it sees the old one or the new one. Raises OSError, NotTrusted.

    The directory may be the collector's own: all is done in it by descriptor.
    """
    with enter(path.parent) as folder:
        _replace(folder.fd, path.name, text(readings))


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
    """An HTTP server in a thread of its own, and in one for each scraper. Raises OSError for an address it cannot have.

    `ask` may wait a moment for newer figures; `read` gives what there is, to one scraper at a time.
    """

    def __init__(
        self, address: tuple[str, int], ask: Callable[[], None], read: Callable[[], Iterable[Reading]]
    ) -> None:
        server = _Server6 if ":" in address[0] else _Server
        self._server = server(address, _Handler)
        self._server.timeout = 0  # asked only when somebody is there
        self._server.set_app(_in_turn(ask, make_wsgi_app(_registry(read))))
        self._stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stop_fd, selectors.EVENT_READ)
        self._selector.register(self._server.fileno(), selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="metrics listener", daemon=True)

    def start(self) -> None:
        """Begin to answer. Raises RuntimeError where there can be no thread."""
        self._thread.start()

    def close(self) -> None:
        """Take nobody more, and give the address back."""
        os.eventfd_write(self._stop_fd, 1)
        if self._thread.is_alive():
            self._thread.join(_CLOSE_WITHIN_S)
        self._server.server_close()
        if not self._thread.is_alive():
            self._selector.close()
            os.close(self._stop_fd)

    def _serve(self) -> None:
        while True:
            ready = {key.fd for key, _ in self._selector.select(self._server.next_deadline_in_s())}
            if self._stop_fd in ready:
                return
            if ready:
                self._server.handle_request()
            self._server.end_late_ones()


def _in_turn(ask: Callable[[], None], app: Callable[..., Any]) -> Callable[..., Any]:
    """The application, rendering for one scraper at a time: many at once take no more of the processor than one."""
    turn = threading.Lock()

    def answer(environ: Any, start_response: Any) -> Any:
        ask()
        with turn:
            return app(environ, start_response)

    return answer


class _Server(ThreadingMixIn, WSGIServer):
    """Every connection has a deadline as a whole, and there are never more than a few of them.

    When one too many comes, it takes the place of the one that has been silent longest: whoever opens connections and
    says nothing keeps nobody away who asks.
    """

    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def __init__(self, *args: Any) -> None:
        self._lock = threading.Lock()
        self._since: dict[socket.socket, float] = {}
        self._asked: set[socket.socket] = set()
        super().__init__(*args)

    def server_bind(self) -> None:
        # As HTTPServer does it, but for asking the name service what this host is called.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            time.sleep(_PAUSE_S)  # no descriptor is left: the one who waits would be found again at once
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._since) >= MOST_CONNECTIONS:
                # The order of a dict is that of its making: the first of those that have not asked, else the first.
                self._end(next((each for each in self._since if each not in self._asked), next(iter(self._since))))
            self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def has_asked(self, request: socket.socket) -> None:
        """Its request is here as a whole."""
        with self._lock:
            if request in self._since:
                self._asked.add(request)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._forget(request)
        super().shutdown_request(request)

    def next_deadline_in_s(self) -> float | None:
        """None: nobody is here."""
        with self._lock:
            first = next(iter(self._since.values()), None)
        return None if first is None else max(0.0, first + REQUEST_WITHIN_S - time.monotonic())

    def end_late_ones(self) -> None:
        """Let go of everybody whose time is over, in whatever its thread hangs."""
        with self._lock:
            over = time.monotonic() - REQUEST_WITHIN_S
            for request in [each for each, since in self._since.items() if since <= over]:
                self._end(request)

    def _end(self, request: socket.socket) -> None:
        """Its thread finds the connection closed, and leaves."""
        self._forget(request)
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    def _forget(self, request: socket.socket) -> None:
        self._since.pop(request, None)
        self._asked.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a scraper that went away


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_WITHIN_S

    def setup(self) -> None:
        super().setup()
        self.rfile: Any = _Bounded(self.rfile)

    def parse_request(self) -> bool:
        is_good = super().parse_request()
        if isinstance(self.server, _Server):
            self.server.has_asked(self.connection)
        return is_good

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Bounded:
    """The reading side of a connection, for as many bytes as a request may have."""

    def __init__(self, stream: BufferedIOBase) -> None:
        self._stream = stream
        self._left = REQUEST_BYTES

    def readline(self, limit: int = -1) -> bytes:
        """One line, of `limit` bytes at most. Raises OSError behind the bound."""
        line = self._stream.readline(self._left + 1 if limit < 0 else min(limit, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise OSError(errno.EFBIG, f"the request is longer than {REQUEST_BYTES} bytes")
        return line

    def close(self) -> None:
        """As of the stream."""
        self._stream.close()


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
