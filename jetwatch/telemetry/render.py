"""Events → log lines, told to one stream without ever waiting for it. The one room that knows structlog.

A line is one event, whatever its fields hold: no byte of a command or of a configuration can end it or begin another.
Nothing is configured globally. Levels below the one asked for are left out before any work is done.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from jetwatch.events import SCHEMA_VERSION, Told
from jetwatch.telemetry.outlet import Outlet
from jetwatch.telemetry.plain import visible

FIELD_LIMIT_BYTES = 32 * 1024
LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("json", "console", "logfmt")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Line = dict[str, Any]
Renderer = Callable[[object, str, Line], str | bytes]


def _structlog_processors() -> types.ModuleType:
    """structlog's renderers without the libraries that it imports for things we do not use. Called for logfmt only.

    With rich installed it imports rich (4 MB), and always asyncio (3 MB), into an agent that has 20 MB; nothing it does
    for us needs them. They are put back as they were, so that others can import them.
    """
    absent = {"rich": None, "asyncio": types.ModuleType("asyncio")}
    replaced = {name: stand_in for name, stand_in in absent.items() if name not in sys.modules}
    sys.modules.update(replaced)  # type: ignore[arg-type]  # None: "cannot be imported", as the import system has it
    try:
        from structlog import processors
    finally:
        for name in replaced:
            del sys.modules[name]
    return processors


class Teller:
    """Tells events to one stream. For any thread. A descriptor stays the caller's, with the flags it has."""

    def __init__(self, stream: int | Outlet, format: str, level: str, *, host: str, version: str) -> None:
        self._lock = threading.Lock()
        self._outlet = stream if isinstance(stream, Outlet) else Outlet(stream)
        self._console = format == "console"
        self._render = _renderer(format, self._outlet.fd)
        self._common = {"host": host, "agent_version": version, "schema_version": SCHEMA_VERSION}
        self.set_level(level)

    @property
    def dropped(self) -> int:
        """Lines that were not written: the stream was closed, or took none for too long."""
        return self._outlet.dropped

    @property
    def backlog_fd(self) -> int | None:
        """The descriptor to wait on until it can be written (then `flush`), None when no line waits."""
        with self._lock:  # a line that is being written does not wait, and a file cannot be waited on
            return self._outlet.fd if self._outlet.has_backlog else None

    def set_level(self, level: str) -> None:
        """Tell events from this level on: debug, info, warning, error."""
        self._threshold = LEVELS.index(level)

    def tell(self, told: Told) -> None:
        """Write the event's line, or keep it until the stream takes it. Never waits, never raises OSError."""
        level = told.event.told_level()
        if LEVELS.index(level) < self._threshold:
            return
        with self._lock:
            text = self._render(None, level, self._line(told, level))
            data = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
            self._outlet.put(data + b"\n")

    def flush(self, timeout_s: float = 0.0) -> None:
        """Write what waits, as much as the stream takes now; with `timeout_s`, wait that long in all for the rest."""
        give_up = time.monotonic() + timeout_s
        with self._lock:
            self._outlet.flush()
            while self._outlet.has_backlog and (left := give_up - time.monotonic()) > 0 and self._outlet.wait(left):
                self._outlet.flush()

    def alone(self, act: Callable[[], None]) -> None:
        """Do this while nothing is told."""
        with self._lock:
            act()

    def close(self) -> None:
        """Give back what was opened here."""
        self._outlet.close()

    def _line(self, told: Told, level: str) -> Line:
        if not self._console:
            return _line(told, level, {"timestamp": _rfc3339(told.at_us)}, self._common)
        return _line(told, level, {"at_us": told.at_us}, {})


def _line(told: Told, level: str, when: Line, common: Line) -> Line:
    own = {name: _bounded(value) for name, value in told.event.told_fields()}
    line = {**when, "level": level, "event": told.event.name, **common}
    line |= {name: own.pop(name) for name in ("watch", "play_uuid") if name in own}
    if told.seq is not None:
        line["seq"] = told.seq
    return line | own


def json_fields(told: Told, *, host: str, version: str) -> Line:
    """What a line of JSON would hold, for those who put it into something else."""
    common = {"host": host, "agent_version": version, "schema_version": SCHEMA_VERSION}
    line = _line(told, told.event.told_level(), {"timestamp": _rfc3339(told.at_us)}, common)
    return {name: _wholesome(value) for name, value in line.items()}


def resolve_format(configured: str | None, fd: int) -> str:
    """The format of the log on `fd`: what was asked for, else console on a terminal and JSON anywhere else."""
    if configured is not None:
        return str(configured)
    return "console" if os.isatty(fd) else "json"


def _renderer(name: str, fd: int) -> Renderer:
    if name == "json":
        return _json
    if name == "logfmt":
        return _logfmt(_structlog_processors().LogfmtRenderer(bool_as_flag=False))
    from jetwatch.telemetry.console import ConsoleLine

    colour = os.isatty(fd) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return ConsoleLine(colour=colour, width=lambda: _width(fd))


def _width(fd: int) -> int:
    import shutil

    try:
        return os.get_terminal_size(fd).columns or shutil.get_terminal_size().columns
    except OSError:
        return 80


def _json(_logger: object, _method: str, line: Line) -> str:
    """ASCII only. DEL is the one control character that JSON leaves as it is."""
    whole = {key: _wholesome(value) for key, value in line.items()}
    return json.dumps(whole, ensure_ascii=True, allow_nan=False).replace("\x7f", "\\u007f")


def _wholesome(value: Any) -> Any:
    """A value that every reader of JSON accepts: no half of a surrogate pair, no number that is none."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [_wholesome(each) for each in value]
    return value


def _logfmt(renderer: Renderer) -> Renderer:
    return lambda logger, method, line: renderer(logger, method, {key: _one_line(value) for key, value in line.items()})


def _one_line(value: Any) -> Any:
    if isinstance(value, str):
        return "\n".join(visible(part) for part in value.split("\n"))  # the renderer escapes newlines itself
    if isinstance(value, (tuple, list)):
        return ",".join(visible(str(each)) for each in value)
    return value


def _bounded(value: Any) -> Any:
    """The value, or its beginning and a word on how much is missing."""
    if isinstance(value, str):
        return _bounded_text(value)
    if isinstance(value, (tuple, list)):
        return _bounded_list(value)
    return value


def _bounded_text(text: str, limit: int = FIELD_LIMIT_BYTES) -> str:
    if len(text) * 4 <= limit:
        return text
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return text
    return f"{data[:limit].decode('utf-8', 'ignore')}… (cut: {len(data)} bytes in all)"


def _bounded_list(values: Iterable[Any]) -> list[Any]:
    kept: list[Any] = []
    room = FIELD_LIMIT_BYTES
    every = list(values)
    for value in every:
        text = _bounded_text(str(value), room)
        kept.append(text)
        room -= len(text)
        if room <= 0 and len(kept) < len(every):
            return [*kept, f"… (cut: {len(every)} entries in all)"]
    return kept


def _rfc3339(at_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=at_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
