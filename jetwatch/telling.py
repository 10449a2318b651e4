"""Where an event goes when it is told: the log on standard output, the log file, the figures. Any thread may tell.

History is told at least once: how far the log has come stands in a watermark, which follows when no line waits.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jetwatch import __version__
from jetwatch.config.model import LogFormat, LogSettings
from jetwatch.events import Told
from jetwatch.telemetry.render import Teller, json_fields, resolve_format
from jetwatch.telemetry.watermark import Watermark

if TYPE_CHECKING:
    from jetwatch.telemetry.logfile import LogFile
    from jetwatch.telemetry.meter import Meter
    from jetwatch.telemetry.sending import Sender

_STDOUT = 1


class Voice:
    """All roads of one agent. `meter` and `sender` are set by its owner, where there are such."""

    def __init__(self, log: LogSettings, *, format: str | None, level: str | None, told: Path, newest_seq: int) -> None:
        """`format` and `level` go over the configuration's. Raises ConfigError for a file that cannot be opened."""
        self._who = who = {"host": socket.gethostname(), "version": __version__}
        wanted = LogFormat(format) if format else log.format
        self.level = level or log.level
        self.meter: Meter | None = None
        self.sender: Sender | None = None
        self._file, self._file_teller = self._open_file(log, who)
        self._teller = Teller(_STDOUT, resolve_format(wanted, _STDOUT), self.level, **who)
        self._watermark = Watermark(told, newest_seq)
        self._told_seq = self._watermark.seq

    def _open_file(self, log: LogSettings, who: dict[str, str]) -> tuple[LogFile | None, Teller | None]:
        if log.file is None:
            return None, None
        from jetwatch.telemetry.logfile import LogFile

        file = LogFile(log.file, log.file_mode)
        return file, Teller(file, "json", self.level, **who)

    @property
    def told_seq(self) -> int:
        """Up to which event of the history an earlier agent has told."""
        return self._watermark.seq

    @property
    def dropped(self) -> int:
        """Lines that were not written."""
        return self._teller.dropped + (self._file_teller.dropped if self._file_teller is not None else 0)

    @property
    def backlog_fd(self) -> int | None:
        """The descriptor to wait on until it can be written (then `flush`), None when no line waits."""
        return self._teller.backlog_fd

    def tell(self, told: Told) -> None:
        """Tell an event on every road. Never waits, never raises for a road."""
        if self._file_teller is not None:
            self._file_teller.tell(told)
        self._teller.tell(told)
        if self.meter is not None:
            self.meter.count(told)
        if told.seq is not None and self.sender is not None:
            self.sender.news(told.seq)
        if told.seq is not None:
            self._told_seq = told.seq
            self.raise_watermark()

    def fields_of(self, told: Told) -> dict[str, Any]:
        """What the line of an event holds."""
        return json_fields(told, **self._who)

    def raise_watermark(self) -> None:
        """A line that only waits to be written is told again if we die before it is."""
        if self._teller.backlog_fd is None and self._told_seq > self._watermark.seq:
            self._watermark.raise_to(self._told_seq)

    def flush(self, timeout_s: float = 0.0) -> None:
        """Write what waits, as much as standard output takes within that time."""
        self._teller.flush(timeout_s)

    def reopen(self) -> None:
        """HUP: logrotate has renamed the file."""
        if self._file_teller is not None and self._file is not None:
            self._file_teller.alone(self._file.reopen)
