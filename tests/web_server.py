"""A real web server on loopback whose every answer a test decides, plain or encrypted by a throw-away authority."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import http.server
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class Page:
    """What lies under a path. `etag` and `modified` are as sent; `before` is called with the handler first.

    `status` other than 200 is answered with `headers` and no body. `authorization`: what a question must carry.
    """

    body: bytes = b""
    etag: str | None = None
    modified: float | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    authorization: str | None = None
    chunked: bool = False
    before: Callable[[http.server.BaseHTTPRequestHandler], None] | None = None


@dataclass
class WebServer:
    """A running server: put pages into `pages`; `asked` has the path and headers of every question.

    `answered` has the status of every answer.
    """

    url: str
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    sent_bytes: int = 0


def handler_of(server: WebServer) -> type[http.server.BaseHTTPRequestHandler]:
    """A handler that answers from `server.pages`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """Answer as the page says."""
            server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            page = server.pages.get(self.path, Page(status=404))
            if page.before:
                page.before(self)
            if page.authorization and self.headers.get("Authorization") != page.authorization:
                page = Page(status=401)
            with contextlib.suppress(OSError):
                self.answer(page)

        def do_HEAD(self) -> None:
            """The same without a body."""
            self.do_GET()

        def answer(self, page: Page) -> None:
            """Send status, headers and body."""
            unchanged = page.status == 200 and self.unchanged(page)
            status = 304 if unchanged else page.status
            server.answered.append(status)
            self.send_response(status)
            headers = dict(page.headers)
            if page.etag is not None:
                headers["ETag"] = page.etag
            if page.modified is not None:
                headers["Last-Modified"] = email.utils.formatdate(page.modified, usegmt=True)
            body = b"" if unchanged or page.status != 200 else page.body
            if page.chunked:
                headers["Transfer-Encoding"] = "chunked"
                body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            else:
                headers.setdefault("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            for start in range(0, len(body), 16384):
                self.wfile.write(body[start : start + 16384])
                server.sent_bytes += len(body[start : start + 16384])

        def unchanged(self, page: Page) -> bool:
            """Whether the condition of the question holds; an ETag goes before a date, as the standard has it."""
            if (condition := self.headers.get("If-None-Match")) is not None:
                return page.etag is not None and condition.removeprefix("W/") == page.etag.removeprefix("W/")
            since = self.headers.get("If-Modified-Since")
            if since is None or page.modified is None:
                return False
            return int(page.modified) <= email.utils.parsedate_to_datetime(since).timestamp()

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    return Handler


class QuietServer(http.server.ThreadingHTTPServer):
    """A client that leaves in the middle is nothing to report."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def serving(host: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> Iterator[WebServer]:
    """Run a server until the end."""
    server = WebServer(url="")
    listening = QuietServer((host, 0), handler_of(server))
    server.url = f"{'https' if context else 'http'}://{host}:{listening.server_address[1]}"
    if context:
        listening.socket = context.wrap_socket(
            listening.socket, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


@contextlib.contextmanager
def saying(words: bytes) -> Iterator[int]:
    """A server that says the same again and again, whatever it is asked, and takes who comes next; its port."""

    def tell(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while True:
                connection.sendall(words)

    def listen() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=tell, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@dataclass(frozen=True)
class Authority:
    """A certificate authority of one test run, and a server context that it vouches for.

    `own_file` has the server's certificate and key.
    """

    ca_file: Path
    own_file: Path
    context: ssl.SSLContext


def make_authority(directory: Path) -> Authority:
    """Make an authority and a certificate for 127.0.0.1."""
    directory.mkdir()
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {directory.name}")])
    ca = _certificate(ca_name, ca_name, ca_key.public_key(), ca_key, authority=True)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    own = _certificate(name, ca_name, key.public_key(), ca_key, authority=False)
    pem = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(ca.public_bytes(pem))
    plain = serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    (directory / "own.pem").write_bytes(own.public_bytes(pem) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "own.pem")
    return Authority(directory / "ca.pem", directory / "own.pem", context)


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(signer, hashes.SHA256())
    )
