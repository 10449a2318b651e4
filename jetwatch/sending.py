"""How history gets over HTTP: `log.http` of the configuration, with the journal to read from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jetwatch.clock import Clock
from jetwatch.config.model import HttpSettings, SinkFormat
from jetwatch.errors import ConfigError, Problem
from jetwatch.events import Event, Told
from jetwatch.journal.journal import Journal
from jetwatch.statedir import StateDir
from jetwatch.telemetry.sending import Sender
from jetwatch.telemetry.watermark import Watermark


def sender_for(
    settings: HttpSettings,
    layout: StateDir,
    clock: Clock,
    *,
    newest_seq: int,
    line: Callable[[Told], Mapping[str, object]],
    tell: Callable[[Event], None],
) -> Sender:
    """The agent's sender, not started. It begins with what comes after `newest_seq`, once. Raises ConfigError."""
    try:
        from jetwatch.telemetry.http_sink import HttpRoad, Target
    except ModuleNotFoundError as missing:
        if missing.name is None or not missing.name.startswith("urllib3"):
            raise
        sentence = "needs urllib3: install jetwatch with the extra `http`"
        raise ConfigError([Problem("watch.yml", 1, "log.http", sentence)]) from missing
    target = Target(
        url=settings.url,
        hec=settings.format is SinkFormat.HEC,
        token_file=settings.token_file,
        token_env=settings.token_env,
        ca_file=settings.ca_file,
        index=settings.index,
        timeout_s=settings.timeout_s,
    )
    reader: list[Journal] = []  # a connection of its own, opened by the thread that reads

    def read(seq: int, most: int) -> list[Told]:
        if not reader:
            reader.append(Journal.open_to_read(layout.journal))
        return list(reader[0].events_after(seq, most))

    return Sender(
        HttpRoad(target, line, layout.state_id()),
        read,
        Watermark(layout.sent, newest_seq),
        newest_seq=newest_seq,
        uniform=clock.uniform,
        tell=tell,
    )
