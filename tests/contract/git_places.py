"""Git repositories that serve by file, http, https and ssh, and the publisher who works in a clone of them."""

from __future__ import annotations

import base64
import contextlib
import getpass
import http.server
import os
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from servers import GitBackend, NotReadyError, git_over_http, program
from source_suite import Place
from ssh_server import ssh_server

from jetwatch.content.git import GitSource
from jetwatch.content.source import Content, ContentKind, Source

PASSWORD = "a secret: with signs"
IDENTITY = {f"GIT_{who}_{what}": "test@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def git(*words: str | Path, stdin: bytes | None = None) -> str:
    """Run git with a configuration of its own."""
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, **IDENTITY}
    done = subprocess.run([program("git"), *words], env=env, input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def content_of(url: str, **options: Any) -> Content:
    """What watch.yml would make of this URL."""
    return Content(url=f"git+{url}", kind=ContentKind.GIT, **options)


@contextlib.contextmanager
def as_somebody_else() -> Iterator[None]:
    """Lend the rights of an ordinary user, also to the shells that git starts: they go by the real user."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@dataclass
class Repository(Place):
    """A bare repository that serves, and a clone of it in which a publisher works."""

    root: Path
    url: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    denied_options: dict[str, Any] | None = None
    name: str = "site.git"

    reuses = True
    refuses_empty = False
    hostile = (("../up", ".."), (".git/config", ".git"), (".GIT", ".git"), ("line\nbreak", "line\\nbreak"))

    def __post_init__(self) -> None:
        """Make it, with one commit on main."""
        git("init", "--quiet", "--bare", "--initial-branch=main", str(self.bare))
        git("clone", "--quiet", str(self.bare), str(self.clone))
        self.git("checkout", "--quiet", "-B", "main")
        self.url = self.url or self.bare.as_uri()
        self.commit()

    @property
    def bare(self) -> Path:
        """What is served."""
        return self.root / "served" / self.name

    @property
    def clone(self) -> Path:
        """Where the publisher works."""
        return self.root / f"clone-{self.name}"

    def git(self, *words: str | Path, stdin: bytes | None = None) -> str:
        """Run git in the publisher's clone."""
        return git("-C", str(self.clone), *words, stdin=stdin)

    def commit(self, *words: str) -> str:
        """Commit what is there on the present branch and push it; returns the commit."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "publish", *words)
        self.push()
        return self.git("rev-parse", "HEAD")

    def push(self) -> None:
        """Push every branch and tag, by force."""
        self.git("push", "--quiet", "--force", "--all")
        self.git("push", "--quiet", "--force", "--tags")

    def put(self, files: Mapping[str, bytes]) -> None:
        """Add files, commit, push."""
        for key, body in files.items():
            path = self.clone / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        self.commit()

    def remove(self, *keys: str) -> None:
        """Remove files (what was hostile is not in the clone), commit, push."""
        for key in keys:
            if key not in dict(self.hostile):
                (self.clone / key).unlink()
        self.commit()

    def put_hostile(self, key: str) -> None:
        """Publish a tree that git would not make."""
        blob = self.raw("blob", b"hostile")
        first, _, second = key.encode().partition(b"/")
        if second:
            tree = self.raw("tree", b"100644 " + second + b"\0" + bytes.fromhex(blob))
            self.publish_tree(b"40000 " + first + b"\0" + bytes.fromhex(tree))
        else:
            self.publish_tree(b"100644 " + first + b"\0" + bytes.fromhex(blob))

    def raw(self, kind: str, content: bytes) -> str:
        """Write any object, whatever git thinks of it."""
        return git("-C", self.bare, "hash-object", "-t", kind, "-w", "--literally", "--stdin", stdin=content)

    def publish_tree(self, content: bytes) -> str:
        """Make main a commit of this tree."""
        commit = git("-C", self.bare, "commit-tree", "-m", "raw", self.raw("tree", content))
        git("-C", self.bare, "update-ref", "refs/heads/main", commit)
        return commit

    def source(self, applied: str = "", **options: Any) -> GitSource:
        """A source of it."""
        return GitSource(content_of(self.url, **{"ref": "main", **self.options, **options}), applied)

    @contextlib.contextmanager
    def denied(self) -> Iterator[Source]:
        """A source that may not read it."""
        if self.denied_options is not None:
            yield self.source(**self.denied_options)
            return
        self.root.chmod(0o700)
        with as_somebody_else():
            yield self.source()


@contextlib.contextmanager
def over_http(root: Path) -> Iterator[Repository]:
    """A repository by http, open to all."""
    with git_over_http(root / "served") as base:
        yield Repository(root, f"{base}/site.git", denied_options={"ref": "nope"})


class TlsServer(http.server.ThreadingHTTPServer):
    """Ends its connections as TLS wants it: a body without a length is over only then."""

    def shutdown_request(self, request: Any) -> None:
        """Say good-bye, and close."""
        request.settimeout(5.0)
        with contextlib.suppress(OSError, ValueError):
            request.unwrap()
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about clients that do not believe the certificate."""


class LockedBackend(GitBackend):
    """Asks for a password first, and sends whoever asks for /moved/ to another host."""

    seen: list[str]

    def answer(self, body: bytes) -> None:
        """Refuse, send elsewhere, or serve."""
        given = self.headers.get("Authorization", "")
        self.seen.append(given)
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", f"https://localhost:{self.server.server_address[1]}{self.path[6:]}")
            self.end_headers()
        elif given != "Basic " + base64.b64encode(f"git:{PASSWORD}".encode()).decode():
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="test"')
            self.end_headers()
        else:
            super().answer(body)


@contextlib.contextmanager
def over_https(root: Path) -> Iterator[Repository]:
    """A repository by https with a certificate of its own, for who has the password."""
    ca_file, key = root / "ca.pem", root / "key.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test", "-keyout", str(key)]
    alternative = "subjectAltName=IP:127.0.0.1,DNS:localhost"
    subprocess.run(
        [program("openssl"), *words, "-out", ca_file, "-addext", alternative], check=True, capture_output=True
    )
    handler: type[LockedBackend] = type("Handler", (LockedBackend,), {"root": root / "served", "seen": []})
    server = TlsServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca_file, key)
    # The handshake is done by the thread that answers: a client that gives up must not stop the others.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        secrets = {"username": "git", "password": PASSWORD}
        options = {"ca_file": str(ca_file), "secrets": secrets}
        wrong = {**options, "secrets": {"username": "git", "password": "wrong"}}
        url = f"https://127.0.0.1:{server.server_address[1]}/site.git"
        repository = Repository(root, url, options=options, denied_options=wrong)
        repository.seen = handler.seen  # type: ignore[attr-defined]
        yield repository
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def over_ssh(root: Path) -> Iterator[Repository]:
    """A repository by ssh, for one key."""
    # Paths with a space and a percent sign: ssh reads both in its own way.
    keys = root / "ssh 100% here"
    keys.mkdir()
    with ssh_server(root, keys) as server:
        options = {"ssh_key": str(server.key), "known_hosts": str(server.known_hosts)}
        url = f"ssh://{getpass.getuser()}@127.0.0.1:{server.port}{root}/served/site.git"
        yield Repository(root, url, options=options, denied_options={"ssh_key": str(server.stranger)})


@contextlib.contextmanager
def over(scheme: str) -> Iterator[Repository]:
    """A repository by this scheme, in a directory of its own with a short name (sshd and git are not root's alone)."""
    with (
        tempfile.TemporaryDirectory(prefix="jw-git-", ignore_cleanup_errors=True) as name,
        contextlib.ExitStack() as stack,
    ):
        root = Path(name)
        if scheme == "file":
            yield Repository(root)
            return
        try:
            made = stack.enter_context({"http": over_http, "https": over_https, "ssh": over_ssh}[scheme](root))
        except NotReadyError as error:
            raise AssertionError(str(error)) from error
        yield made
