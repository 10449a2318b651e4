"""One question by HTTP: connection, credentials, redirects, and what a server's answer means for the caller.

Nothing is repeated here and no redirect is followed by the library: credentials go to the host of the URL and nowhere
else, and what began encrypted stays encrypted. What a server says in a header is read in functions that raise nothing
but ContentError; none of its text reaches a message, only its status. With `ca_file` only what is in it is believed.
"""

from __future__ import annotations

import base64
import email.utils
import http.client
import re
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import urllib3
from urllib3.exceptions import (
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    SSLError,
    TimeoutError,
)
from urllib3.response import BaseHTTPResponse

from jetwatch.connections import Connections
from jetwatch.content.source import Content, ContentError, ContentRetry, ContentStalled, ContentWait
from jetwatch.locator import is_in_the_open, is_loopback

CONNECT_S = 10.0
READ_S = 30.0
REDIRECTS = 5
LONGEST_WAIT_S = 24 * 3600.0
"""A server can ask for silence, but not for more of it than this."""
_YEAR_10000_S = 253_402_300_800
_MOVED = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}


FAILURES = (HTTPError, OSError, ValueError, http.client.HTTPException)
"""What a connection, or an answer that is none, makes the library raise."""


class HttpClient:
    """Asks for one URL. Not for two threads at once, but for `close`. `trust`: whom to believe (`trust_of`)."""

    def __init__(self, content: Content, trust: ssl.SSLContext, now: Callable[[], float] = time.time) -> None:
        self._url = content.url
        self._may_be_open = content.is_proven or content.insecure
        self._now = now
        self._connections = Connections(most=REDIRECTS + 1)
        self._origin = _allowed(self._url, self._may_be_open)
        self._authorization = _authorization(content.secrets)
        if self._authorization and is_in_the_open(self._url):
            raise ContentStalled(f"{self._url}: credentials would travel in the open: write https://")
        self._pools = self._make_pools(content, trust)

    def get(self, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """Return an answer with status 200 or 304, its body not read. Raises ContentError."""
        url, origin = self._url, self._origin
        for _ in range(REDIRECTS + 1):
            answer = self._ask(url, origin, headers)
            if answer.status in (200, 304):
                return answer
            answer.close()
            if answer.status not in _MOVED:
                raise self._refusal(answer)
            url, origin = self._next(url, origin, answer.headers.get("Location"))
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
        """End every connection, also one that another thread waits on. No other is made."""
        self._connections.end()
        self._pools.clear()

    def _make_pools(self, content: Content, trust: ssl.SSLContext) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "retries": False,
            "timeout": urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            "ssl_context": trust,
        }
        parts = urllib.parse.urlsplit(content.url)
        proxy = urllib.request.getproxies().get(parts.scheme)
        # What may only come from this machine does not go by a proxy, which is another.
        is_own = parts.scheme == "http" and is_loopback(parts.hostname or "")
        if proxy and not is_own and not urllib.request.proxy_bypass(parts.hostname or ""):
            try:
                pools: urllib3.PoolManager = urllib3.ProxyManager(proxy, **options)
            except (HTTPError, ValueError):
                name = f"{parts.scheme}_proxy"
                raise ContentStalled(f"{self._url}: expected http://host:port in the variable {name}") from None
        else:
            pools = urllib3.PoolManager(**options)
        pools.pool_classes_by_scheme = self._connections.pool_classes()
        return pools

    def _ask(self, url: str, origin: Origin, headers: Mapping[str, str]) -> BaseHTTPResponse:
        # As stored, not unpacked on the way: the archive is what has a length and a digest.
        sent = {"User-Agent": "jetwatch", "Accept-Encoding": "identity", **headers}
        if self._authorization and origin == self._origin:
            sent["Authorization"] = self._authorization
        try:
            return self._pools.request(
                "GET", url, headers=sent, redirect=False, preload_content=False, decode_content=False
            )
        except FAILURES as error:
            raise self.failure(error) from None

    def _next(self, url: str, origin: Origin, location: str | None) -> tuple[str, Origin]:
        """Where a redirect leads."""
        if not location:
            raise ContentStalled(f"{self._url}: a redirect without a place to go")
        try:
            target = urllib.parse.urljoin(url, location)
            found = _allowed(target, self._may_be_open)
        except ValueError:
            raise ContentStalled(f"{self._url}: redirects to something that is no URL") from None
        except ContentStalled as error:
            raise ContentStalled(f"{self._url}: refused a redirect: {error}") from None
        if origin.scheme == "https" and found.scheme != "https":
            raise ContentStalled(f"{self._url}: refused a redirect from https to {found.scheme}")
        return target, found

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
    """The certificates of this machine, or only those of a file. Slow (some 25 ms), large (0.9 MB), can be shared."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:  # also an SSLError, for a file without a certificate
        reason = getattr(error, "strerror", None) or "no certificate in it"
        raise ContentStalled(f"ca_file {ca_file}: {reason}") from None


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
    """Unix time of an HTTP date of this age (1970 to 9999); None for what is none. Raises nothing."""
    if not re.fullmatch(r"[\x20-\x7e]{1,64}", text):
        return None
    try:
        seconds = email.utils.parsedate_to_datetime(text).timestamp()
    except (ArithmeticError, LookupError, OSError, TypeError, ValueError):
        return None
    return seconds if 0 <= seconds < _YEAR_10000_S else None


class Origin(NamedTuple):
    """What one server is, as credentials see it."""

    scheme: str
    host: str
    port: int


def _allowed(url: str, may_be_open: bool) -> Origin:
    """Return the origin of https, or of http from this machine or where that will do. Raises ContentStalled."""
    if not re.fullmatch(r"[\x21-\x7e]+", url):
        raise ContentStalled("expected a URL of printable ASCII characters; write others as %XX")
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        raise ContentStalled("expected https://host/path, found something that is no URL") from None
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
        raise ContentStalled("expected https://host/path, without a user")
    if is_in_the_open(url) and not may_be_open:
        raise ContentStalled(
            f"http://{parts.hostname}: only https is taken; http needs `sha256`, or a loopback address"
        )
    return Origin(parts.scheme, parts.hostname, port)


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
