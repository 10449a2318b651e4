"""The key `metrics`: where the agent's figures go. What could let others in has to be said in so many words."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Any

from jetwatch.config.model import MetricsSettings, StatsdSettings
from jetwatch.config.nodes import Node, Notes
from jetwatch.config.scalars import Boolean, Location, Plain, Text
from jetwatch.config.tables import Either, Key, Pairs, Table
from jetwatch.config.times import Duration
from jetwatch.locator import is_loopback

_ADDRESS = re.compile(r"(?:(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]{1,253}):)?([0-9]{1,5})")
_LOOPBACK = "127.0.0.1"


class Address(Plain, frozen=True):
    """`HOST:PORT` → (host, port). A port alone is one of this machine."""

    what = "an address such as `127.0.0.1:9753` or `[::1]:9753`, or a port of 127.0.0.1, 1 to 65535"

    def parse(self, text: str) -> tuple[str, int]:
        """Host names are not looked up here."""
        found = _ADDRESS.fullmatch(text.strip())
        if not found or not 1 <= int(found[2]) <= 65535:
            raise ValueError
        host = (found[1] or _LOOPBACK).strip("[]")
        if ":" in host:
            ipaddress.IPv6Address(host)
        return host, int(found[2])

    def show(self, value: tuple[str, int]) -> str:
        """With the host, always."""
        host, port = value
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def schema(self) -> dict[str, Any]:
        """Text, or a port."""
        return {
            "anyOf": [
                {"type": "string", "pattern": f"^{_ADDRESS.pattern}$"},
                {"type": "integer", "minimum": 1, "maximum": 65535},
            ]
        }


class TextFile(Location, frozen=True):
    """The path of a file that node_exporter reads: it takes `*.prom` alone."""

    what = "a path that ends in `.prom`"

    def read(self, node: Node, notes: Notes) -> Path | None:
        """The path, not looked for."""
        path = super().read(node, notes)
        if path is not None and path.suffix != ".prom":
            notes.expected(node, self.what)
            return None
        return path


def _objection(metrics: MetricsSettings) -> str:
    if metrics.listen is not None and not metrics.allow_remote and not is_loopback(metrics.listen[0]):
        host, port = metrics.listen
        return (
            f"`listen: {host}:{port}` can be reached from other machines, and whoever reaches it reads all figures: "
            f"expected a loopback address such as `{_LOOPBACK}:{port}`, or `allow_remote: true` beside it"
        )
    if metrics.textfile is None and metrics.listen is None and metrics.statsd is None:
        return "nothing is measured for nobody: expected one or more of `textfile`, `listen`, `statsd`"
    return ""


STATSD = Either(
    Address(),
    Table(
        (
            Key("address", Address(), "Where the daemon listens (UDP).", record=StatsdSettings),
            Key(
                "prefix",
                Text("letters, digits, `_`, `-`, dots, such as `ops.jetwatch`", r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*"),
                "What every name begins with.",
                record=StatsdSettings,
            ),
            Key(
                "dogstatsd",
                Boolean(),
                "Labels as tags in DogStatsD's form; else they are parts of the name.",
                record=StatsdSettings,
            ),
            Key(
                "tags",
                Pairs(
                    r"[A-Za-z][A-Za-z0-9_.-]{0,99}",
                    Text("letters, digits and `_ . / -`, at most 100", r"[A-Za-z0-9_./-]{1,100}"),
                ),
                "Fixed tags of every line; with any, `dogstatsd` is on.",
                record=StatsdSettings,
                default_text="none",
            ),
        ),
        StatsdSettings,
    ),
    widen=lambda address: StatsdSettings(address=address),
    narrow=lambda _: None,
)

METRICS = Table(
    (
        Key(
            "textfile",
            TextFile(),
            "A file for node_exporter's textfile collector, in a directory that exists; mode 0644, replaced whole.",
            record=MetricsSettings,
        ),
        Key("listen", Address(), "Where Prometheus reads `/metrics` over HTTP.", record=MetricsSettings),
        Key(
            "allow_remote",
            Boolean(),
            "Let `listen` be an address that other machines can reach.",
            record=MetricsSettings,
        ),
        Key("statsd", STATSD, "A StatsD daemon: its address, or a mapping.", record=MetricsSettings),
        Key(
            "interval",
            Duration(1),
            "How often `textfile` is written and `statsd` is told.",
            into="interval_s",
            record=MetricsSettings,
        ),
    ),
    MetricsSettings,
    objection=_objection,
)
