"""The two forms in which history is posted: Splunk's HTTP Event Collector, and one JSON object a line.

The token is read anew for each attempt, from a file or a variable, and goes into one header; no redirect is followed
with it. urllib3 is the extra `http`, loaded only when this is configured.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import urllib3
from msgspec import Struct
from urllib3.exceptions import HTTPError

from jetwatch.connections import Connections
from jetwatch.errors import NotTrusted
from jetwatch.events import Told
from jetwatch.telemetry.sending import Answer
from jetwatch.trust import Accounts, open_file, require

_CONNECT_S = 5.0
_WHOLE_ANSWERS = 3.0
"""So many times `timeout_s` a whole attempt may take; `timeout_s` alone counts from byte to byte."""
_TOLD_OF_AN_ANSWER = 200
_READ_OF_AN_ANSWER = 4096
_LONGEST_TOKEN = 16 * 1024
"""Bytes; no server takes a longer header."""


class Target(Struct, frozen=True):
    """Where history goes. `token_file` or `token_env` (the name of a variable), or neither."""

    url: str
    hec: bool
    token_file: Path | None = None
    token_env: str | None = None
    ca_file: Path | None = None
    index: str | None = None
    timeout_s: float = 10.0


class HttpRoad:
    """One server. `line` gives an event's fields as the log has them; `origin` is the id of the state directory."""

    def __init__(self, target: Target, line: Callable[[Told], Mapping[str, object]], origin: str) -> None:
        self._target = target
        self._line = line
        self._origin = origin
        self._pools: urllib3.PoolManager | None = None
        self._connections = Connections(most=1)

    def form(self, told: Told) -> bytes:
        """The event with its `id`; for HEC in its envelope."""
        line = {**self._line(told), "id": f"{self._origin}:{told.seq}"}
        if not self._target.hec:
            return _json(line) + b"\n"
        envelope: dict[str, object] = {
            "time": told.at_us / 1e6,
            "host": line["host"],
            "source": "jetwatch",
            "sourcetype": "jetwatch",
        }
        if self._target.index is not None:
            envelope["index"] = self._target.index
        return _json({**envelope, "event": line}) + b"\n"

    def post(self, batch: list[bytes]) -> Answer:
        """Send them in one request. A server that goes on and on is left."""
        watch = threading.Timer(_WHOLE_ANSWERS * self._target.timeout_s, self.leave)
        watch.daemon = True
        watch.start()
        try:
            return self._post(batch)
        finally:
            watch.cancel()

    def leave(self) -> None:
        """End what is under way, and its connection."""
        self._connections.end()
        self._pools = None  # the next attempt makes its own

    def _post(self, batch: list[bytes]) -> Answer:
        target, token = self._target, None
        try:
            headers = {"Content-Type": "application/json" if target.hec else "application/x-ndjson"}
            if (token := self._token()) is not None:
                headers["Authorization"] = f"{'Splunk' if target.hec else 'Bearer'} {token}"
            answer = self._pool().request(
                "POST",
                target.url,
                body=b"".join(batch),
                headers={"User-Agent": "jetwatch", "Accept-Encoding": "identity", **headers},
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            try:
                # As it came: a few bytes can unpack to gigabytes, and nothing of it was asked for.
                said = answer.read(_READ_OF_AN_ANSWER, decode_content=False).decode("utf-8", "replace")
            finally:
                answer.release_conn()
                answer.close()
        except (HTTPError, OSError, ValueError, http.client.HTTPException, NotTrusted) as error:
            return Answer(None, _reason(error))
        if token is not None:
            said = said.replace(token, "***")  # of a server that repeats what it was sent
        detail = f"HTTP {answer.status} {said[:_TOLD_OF_AN_ANSWER]}".strip()
        return Answer(answer.status, detail, _seconds(answer.headers.get("Retry-After")))

    def _pool(self) -> urllib3.PoolManager:
        if self._pools is None:
            if self._target.ca_file is not None:
                require(self._target.ca_file, Accounts.own())
            trust = ssl.create_default_context(cafile=self._target.ca_file)
            timeout = urllib3.Timeout(connect=min(_CONNECT_S, self._target.timeout_s), read=self._target.timeout_s)
            self._connections = Connections(most=1)
            self._pools = urllib3.PoolManager(num_pools=1, retries=False, timeout=timeout, ssl_context=trust)
            self._pools.pool_classes_by_scheme = self._connections.pool_classes()
        return self._pools

    def _token(self) -> str | None:
        target = self._target
        if target.token_file is not None:
            token = _read_token(target.token_file)
            source = f"token_file {target.token_file}"
        elif target.token_env is not None:
            token, source = os.environ.get(target.token_env, "").strip(), f"the variable {target.token_env}"
        else:
            return None
        if not token.isascii() or not token.isprintable() or not token:
            raise ValueError(f"{source}: expected one line with a token")  # the token itself is never told
        return token


def _read_token(path: Path) -> str:
    descriptor = open_file(path, Accounts.own())
    if descriptor is None:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        return file.read(_LONGEST_TOKEN).decode("utf-8").strip()


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()


def _reason(error: Exception) -> str:
    """A sentence without what may be secret: a URL has no user info, and a token stands in no error."""
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "no connection to the server"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error, urllib3.exceptions.SSLError):
        return f"TLS: {error}"
    if isinstance(error, HTTPError):
        return f"the connection failed ({type(error).__name__})"
    return str(error)


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds. Dates are not used by those who ask machines to wait."""
    return float(text) if text and text.isascii() and text.isdigit() and len(text) <= 9 else None
