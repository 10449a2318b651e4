"""One question by HTTP: connection, credentials, redirects, and what a server's answer means for the caller.

Nothing is repeated here and no redirect is followed by the library: credentials go to the host of the URL and nowhere
else, and what began encrypted stays encrypted. No text of a server reaches a message, only its status.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import re
import socket
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    SSLError,
    TimeoutError,
)
from urllib3.response import BaseHTTPResponse

from jetwatch.content.source import Content, ContentError, ContentRetry, ContentStalled, ContentWait
from jetwatch.locator import is_loopback

CONNECT_S = 10.0
READ_S = 30.0
REDIRECTS = 5
LONGEST_WAIT_S = 24 * 3600.0
"""A server can ask for silence, but not for more of it than this."""
_MOVED = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}


class HttpClient:
    """Asks for one URL. Not for two threads at once, but for `close`. `trust`: whom to believe (`trust_of`)."""

    def __init__(self, content: Content, trust: ssl.SSLContext, now: Callable[[], float] = time.time) -> None:
        self._url = content.url
        self._pinned = content.sha256 is not None
        self._now = now
        self._sockets: list[socket.socket] = []
        _allowed(self._url, self._pinned)
        self._authorization = _authorization(content.secrets)
        self._pools = self._make_pools(content, trust)

    def get(self, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """Return an answer with status 200 or 304, its body not read. Raises ContentError."""
        url = self._url
        for _ in range(REDIRECTS + 1):
            answer = self._ask(url, headers)
            if answer.status in (200, 304):
                return answer
            answer.close()
            if answer.status not in _MOVED:
                raise self._refusal(answer)
            url = self._next_url(url, answer.headers.get("Location"))
        raise ContentStalled(f"{self._url}: more than {REDIRECTS} redirects")

    def failure(self, error: Exception) -> ContentError:
        """What an error of the connection means."""
        what = self._url
        certificate = error.args[0] if isinstance(error, SSLError) and error.args else None
        if isinstance(certificate, ssl.SSLCertVerificationError):
            reason = certificate.verify_message or "not valid"
            return ContentStalled(f"{what}: the server's certificate: {reason}; a private CA goes in `ca_file`")
        if isinstance(error, NameResolutionError):
            return ContentRetry(f"{what}: the name of the server cannot be resolved")
        if isinstance(error, ProxyError):
            return ContentRetry(f"{what}: the proxy cannot be reached, or refuses")
        if isinstance(error, NewConnectionError):
            return ContentRetry(f"{what}: no connection to the server")
        if isinstance(error, TimeoutError):
            return ContentRetry(f"{what}: no answer in time")
        return ContentRetry(f"{what}: the connection failed, or was closed in the middle of an answer")

    def close(self) -> None:
        """End every connection, also one that another thread waits on."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._sockets.clear()
        self._pools.clear()

    def _make_pools(self, content: Content, trust: ssl.SSLContext) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "retries": False,
            "timeout": urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            "ssl_context": trust,
        }
        parts = urllib.parse.urlsplit(content.url)
        proxy = urllib.request.getproxies().get(parts.scheme)
        if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
            pools: urllib3.PoolManager = urllib3.ProxyManager(proxy, **options)
        else:
            pools = urllib3.PoolManager(**options)
        pools.pool_classes_by_scheme = _pool_classes(self._sockets)
        return pools

    def _ask(self, url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        # As stored, not unpacked on the way: the archive is what has a length and a digest.
        sent = {"User-Agent": "jetwatch", "Accept-Encoding": "identity", **headers}
        if self._authorization and _origin(url) == _origin(self._url):
            sent["Authorization"] = self._authorization
        try:
            return self._pools.request(
                "GET", url, headers=sent, redirect=False, preload_content=False, decode_content=False
            )
        except (HTTPError, OSError) as error:
            raise self.failure(error) from None

    def _next_url(self, url: str, location: str | None) -> str:
        if not location:
            raise ContentStalled(f"{self._url}: a redirect without a place to go")
        try:
            target = urllib.parse.urljoin(url, location)
            _allowed(target, self._pinned)
            parts = urllib.parse.urlsplit(target)
        except ValueError:
            raise ContentStalled(f"{self._url}: redirects to something that is no URL") from None
        except ContentStalled as error:
            raise ContentStalled(f"{self._url}: refused a redirect: {error}") from None
        if urllib.parse.urlsplit(url).scheme == "https" and parts.scheme != "https":
            raise ContentStalled(f"{self._url}: refused a redirect from https to {parts.scheme}")
        return target

    def _refusal(self, answer: BaseHTTPResponse) -> ContentError:
        status, what = answer.status, self._url
        if status in (429, 503):
            after_s = retry_after_s(answer.headers, self._now)
            if after_s is None:
                return ContentRetry(f"{what}: the server is busy and asks for fewer requests (HTTP {status})")
            return ContentWait(f"{what}: the server asks to come back in {after_s:g} s (HTTP {status})", after_s)
        if status == 404:
            return ContentRetry(f"{what} is not there (yet) (HTTP 404)")
        if status in (401, 403, 407):
            return ContentStalled(f"{what}: access denied; look at the credentials (HTTP {status})")
        if status >= 500 or status in (408, 425):
            return ContentRetry(f"{what}: the server failed (HTTP {status})")
        return ContentStalled(f"{what}: the server refused the request (HTTP {status})")


def trust_of(ca_file: str | None) -> ssl.SSLContext:
    """The certificates of this machine and those of a file. Slow (some 25 ms) and large (0.9 MB), and can be shared."""
    try:
        trust = ssl.create_default_context()
        if ca_file:
            trust.load_verify_locations(ca_file)
    except OSError as error:  # also an SSLError, for a file without a certificate
        raise ContentStalled(f"ca_file {ca_file}: {error.strerror or 'no certificate in it'}") from None
    return trust


def retry_after_s(headers: Mapping[str, str], now: Callable[[], float]) -> float | None:
    """The seconds that a Retry-After asks for, between 1 and LONGEST_WAIT_S; None without a proper one.

    A date is taken relative to the server's own Date, as its clock and ours may differ.
    """
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,12}", text):
        return min(max(float(text), 1.0), LONGEST_WAIT_S)
    until = http_date(text)
    if until is None:
        return None
    since = http_date(headers.get("Date", ""))
    return min(max(until - (now() if since is None else since), 1.0), LONGEST_WAIT_S)


def http_date(text: str) -> float | None:
    """Unix time of an HTTP date; None for what is none."""
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def _allowed(url: str, pinned: bool) -> None:
    """Raise ContentStalled unless this is https, or http where nobody is in between or a digest guards the content."""
    if not re.fullmatch(r"[\x21-\x7e]+", url):
        raise ContentStalled("expected a URL of printable ASCII characters; write others as %XX")
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
        raise ContentStalled("expected https://host/path, without a user")
    if parts.scheme == "http" and not pinned and not is_loopback(parts.hostname):
        raise ContentStalled(
            f"http://{parts.hostname}: only https is taken; http needs `sha256`, or a loopback address"
        )


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _authorization(secrets: Mapping[str, str]) -> str:
    if "bearer_token" in secrets:
        value = f"Bearer {secrets['bearer_token']}"
    elif "username" in secrets or "password" in secrets:
        pair = f"{secrets.get('username', '')}:{secrets.get('password', '')}"
        value = "Basic " + base64.b64encode(pair.encode()).decode()
    else:
        return ""
    if not re.fullmatch(r"[\x20-\x7e]+", value):  # the library's own complaint would show it
        raise ContentStalled("`bearer_token` has a character that no header can carry")
    return value


def _pool_classes(opened: list[socket.socket]) -> dict[str, Any]:
    """urllib3's own pools, with connections that note their sockets in `opened`, so that `close` can reach them."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            opened.append(made.dup())  # TLS takes `made` over and leaves it empty
            return made

    class Encrypted(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            opened.append(made.dup())  # TLS takes `made` over and leaves it empty
            return made

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}
