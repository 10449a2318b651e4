"""Runs the git command for content: hardened, bounded in time and in output, and with errors that say what is next.

git gets an environment of its own (no configuration of the machine or the user, no prompt, no hook, one protocol) and
secrets by that environment only, never by argv. It runs in a process group that is killed whole, so nothing that it
started outlives the deadline. What it complains about becomes one sentence.
"""

from __future__ import annotations

import base64
import contextlib
import math
import os
import re
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from jetwatch.content.memory import most_bytes
from jetwatch.content.source import Content, ContentError, ContentRetry, ContentSlow, ContentStalled, Limits
from jetwatch.content_records import SLOW_S, shown_without
from jetwatch.locator import is_in_the_open

MINIMUM_VERSION = (2, 34)
"""The first that verifies ssh signatures; configuration by environment came with 2.31."""

OUTPUT_BYTES = 4 << 20
"""Nothing that is asked for here answers with more; a server that says more is cut off."""

CPU_S = 900
"""More than half of the longest fetch no git has to compute: what asks for more is made to."""

BESIDE_CONTENT_BYTES = 16 << 20
"""Names, history and indexes: what may come with content of `limits.bytes`."""

MEANWHILE_S = 1.0
"""How often somebody else is asked whether a command may go on."""

SCHEMES = ("https", "http", "ssh", "file")

_PROXY = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
PASSED_ON = frozenset(
    {"PATH", "HOME", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", *_PROXY, *map(str.upper, _PROXY)}
)
"""All that git inherits: GIT_* variables could lead it anywhere, and GIT_TRACE* would print secrets."""

HARDENING = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.askPass": "",
    "credential.helper": "",
    "protocol.allow": "never",
    "submodule.recurse": "false",
    "transfer.fsckObjects": "true",
    "fetch.recurseSubmodules": "false",
    # A pack is there whole or not at all; loose objects of a fetch that was killed would be a part of it.
    "fetch.unpackLimit": "1",
    "core.commitGraph": "false",
    # Of a cache: what no commit in use needs is dropped, in the foreground.
    "gc.auto": "0",
    "gc.autoPackLimit": "20",
    "gc.autoDetach": "false",
    "gc.pruneExpire": "now",
    # Only ssh keys can have signed: no other program is asked.
    "gpg.format": "ssh",
    "gpg.openpgp.program": "/bin/false",
    "gpg.x509.program": "/bin/false",
}

# Said by git, curl or ssh when asking again will not help.
_HOPELESS = re.compile(
    r"authentication failed|could not read (username|password)|permission denied|access denied|host key verification"
    r"|returned error: (3\d\d|40[0134]|410)|not found|does(n't| not) exist|not appear to be a git repository"
    r"|certificate|transport '.*' not allowed|unsupported protocol|fsck error|unable to update url base",
    re.IGNORECASE,
)
_GONE = re.compile(r"not our ref|unadvertised object|couldn't find remote ref|no such remote ref", re.IGNORECASE)
_SLOW = re.compile(r"operation too slow", re.IGNORECASE)
_NAME_UNKNOWN = re.compile(r"could ?n.t resolve|could not resolve|name or service not known|timed out", re.IGNORECASE)
_NOISE = ("warning:", "hint:", "remote: Enumerating", "remote: Counting", "remote: Total", "From ")


class Ended(Struct, frozen=True):
    """How a git command ended."""

    exit_code: int
    out: bytes
    complaint: str


def allowed_bytes(limits: Limits) -> int:
    """How much a fetch may bring into a repository."""
    return limits.total_bytes + BESIDE_CONTENT_BYTES


class NotGiven(ContentRetry):
    """The server does not give this commit (or not by its id)."""


class Git(Struct, frozen=True):
    """The git command for one repository: where it is, and how to get in.

    `meanwhile` is called now and then while a command runs; what it raises ends the command. `limits` bound what a
    command may write into one file.
    """

    url: str
    env: Mapping[str, str]
    meanwhile: Callable[[], None] = lambda: None
    limits: Limits = Limits()

    def __repr__(self) -> str:
        return shown_without(self, "env")

    @property
    def scheme(self) -> str:
        """How the repository is reached."""
        return urlsplit(self.url).scheme

    def run(
        self, *words: str, repository: Path | None = None, deadline_s: float | None = None, ask: bool = False
    ) -> bytes:
        """Run git and return what it printed; `ask` puts in what a command that talks to the server needs."""
        ended = self.try_run(*words, repository=repository, deadline_s=deadline_s, ask=ask)
        if ended.exit_code != 0:
            raise explained(self.url, ended)
        return ended.out

    def try_run(
        self, *words: str, repository: Path | None = None, deadline_s: float | None = None, ask: bool = False
    ) -> Ended:
        """Run git to its end, whatever that is."""
        place = [f"--git-dir={repository}"] if repository else []
        command, *rest = words
        asking = [f"--upload-pack={_UPLOAD_PACK}"] if ask and self.scheme == "file" else []
        return _run([*self.words, *place, command, *asking, *rest], self, deadline_s)

    @property
    def words(self) -> tuple[str, ...]:
        """How each git starts: no larger file, no longer computing, no more memory and no dump of it."""
        blocks = allowed_bytes(self.limits) // _BLOCK_BYTES + 1  # so one that met this bound can be told by its size
        return (*_BOUNDED, str(blocks), str(CPU_S), str(most_bytes(self.limits) // _KIB), *_GIT)


_GIT = ("git", "--no-pager", "--literal-pathspecs")
_BLOCK_BYTES = 512
_KIB = 1024
# Set by a shell, since a process with threads can set nothing for its child alone. What is less already stays.
_BOUNDED = (
    "/bin/sh",
    "-c",
    '{ ulimit -f "$1"; ulimit -t "$2"; ulimit -d "$3"; ulimit -c 0; } 2>/dev/null; shift 3; exec "$@"',
    "sh",
)
_NOT_FOUND = 127

# Whose repository it is does not matter: the one in watch.yml is trusted to say what runs on this machine.
_UPLOAD_PACK = "git -c safe.directory=* -c core.hooksPath=/dev/null upload-pack"


def git_for(content: Content, environ: Mapping[str, str] | None = None) -> Git:
    """Make the git command for a source; it inherits from `environ` (None: this process's own).

    Raises ContentStalled when its URL or its credentials cannot work.
    """
    environ = os.environ if environ is None else environ
    url = content.url.removeprefix("git+")
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ContentStalled(f"expected git+https://, git+ssh:// or git+file://, found {content.url!r}")
    if any(letter.isspace() or not letter.isprintable() for letter in url) or parts.netloc.startswith("-"):
        raise ContentStalled(f"{content.url!r} is no URL of a git repository")
    settings = dict(HARDENING) | {f"protocol.{parts.scheme}.allow": "always"}
    settings |= {"http.lowSpeedLimit": str(content.limits.min_speed_bytes_s), "http.lowSpeedTime": f"{SLOW_S:.0f}"}
    settings |= _http_settings(content, parts) if parts.scheme in {"http", "https"} else {}
    if content.allowed_signers:
        settings["gpg.ssh.allowedSignersFile"] = content.allowed_signers
    env = {name: value for name, value in environ.items() if name in PASSED_ON}
    env |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_ATTR_NOSYSTEM": "1", "LC_ALL": "C"}
    env |= {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "SSH_ASKPASS_REQUIRE": "never", "GIT_NO_LAZY_FETCH": "1"}
    # Whatever a configuration says: one way to a server, refs as files.
    env |= {"GIT_ALLOW_PROTOCOL": parts.scheme, "GIT_DEFAULT_REF_FORMAT": "files"}
    env |= {"GIT_CONFIG_COUNT": str(len(settings)), "GIT_NO_REPLACE_OBJECTS": "1", "GIT_OPTIONAL_LOCKS": "0"}
    for number, (key, value) in enumerate(settings.items()):
        env |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    if parts.scheme == "ssh":
        env |= {"GIT_SSH_COMMAND": ssh_command(content), "GIT_SSH_VARIANT": "ssh"}
        if "@" not in parts.netloc and content.secrets.get("username"):
            url = parts._replace(netloc=f"{content.secrets['username']}@{parts.netloc}").geturl()
    return Git(url, env, limits=content.limits)


def _http_settings(content: Content, parts: SplitResult) -> dict[str, str]:
    """What http needs: the certificates, and who we are (never over a connection that others can read)."""
    if parts.scheme == "http" and is_in_the_open(content.url) and not (content.is_proven or content.insecure):
        raise ContentStalled(
            f"{content.url} is not protected on its way: use git+https://, or give `verify`, or say `insecure: true`"
        )
    settings = {"http.sslVerify": "true"}
    if content.ca_file:
        # Without a directory of its own curl would go on to believe the system's.
        settings |= {"http.sslCAInfo": content.ca_file, "http.sslCAPath": os.devnull}
    if parts.scheme == "http" and not is_in_the_open(content.url):
        settings["http.proxy"] = ""  # what may only come from this machine does not go by another
        if not (content.is_proven or content.insecure):
            settings["http.followRedirects"] = "false"  # nor does it come from another
    username, password = content.secrets.get("username", ""), content.secrets.get("password", "")
    token = content.secrets.get("bearer_token", "")
    if not (password or token):
        return settings
    if parts.scheme == "http":
        raise ContentStalled(f"{content.url}: credentials would travel in the open: write git+https://")
    basic = base64.b64encode(f"{username}:{password}".encode()).decode()
    header = f"Authorization: Bearer {token}" if token else f"Authorization: Basic {basic}"
    if any(letter in header for letter in "\r\n\0"):
        raise ContentStalled(f"{content.url}: the password or token has a line break in it")
    # The header goes along with every request, so it must not follow the server to another host.
    return settings | {"http.extraHeader": header, "http.followRedirects": "false"}


def ssh_command(content: Content) -> str:
    """Return the ssh command line: it asks nobody, knows its host beforehand, and gives up."""
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "ConnectTimeout": "10",
        "ServerAliveInterval": "10",
        "ServerAliveCountMax": "3",
        "ForwardAgent": "no",
        "ClearAllForwardings": "yes",
        "PermitLocalCommand": "no",
        "ControlMaster": "no",  # a master would live on, and hold the pipes open
        "ControlPath": "none",
    }
    if content.ssh_key:
        options |= {"IdentityFile": _ssh_path(content.ssh_key), "IdentitiesOnly": "yes", "IdentityAgent": "none"}
    if content.known_hosts:
        options |= {"UserKnownHostsFile": _ssh_path(content.known_hosts), "GlobalKnownHostsFile": os.devnull}
    return shlex.join(["ssh", *(f"-o{name}={value}" for name, value in options.items())])


def _ssh_path(text: str) -> str:
    """Write a path as ssh reads it: quoted, and with no sign that stands for something else."""
    if any(letter in text for letter in '"\\$~') or not text.isprintable():
        raise ContentStalled(f"{text!r}: ssh cannot be given a path with a quote, a backslash, $ or ~: rename it")
    return '"' + text.replace("%", "%%") + '"'


def require_version(git: Git) -> None:
    """Refuse a git that is too old."""
    printed = git.run("version").decode(errors="replace")
    found = re.search(r"(\d+)\.(\d+)", printed)
    if not found or (int(found[1]), int(found[2])) < MINIMUM_VERSION:
        wanted = ".".join(str(part) for part in MINIMUM_VERSION)
        raise ContentStalled(f"expected git {wanted} or newer, found {printed.strip()!r}")


def _run(argv: Sequence[str], git: Git, deadline_s: float | None) -> Ended:
    """Run a command in a process group of its own, and end the whole group at the deadline."""
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            argv, env=git.env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, process_group=0, cwd="/"
        )
    except FileNotFoundError as error:
        raise ContentStalled("there is no /bin/sh on this machine, which starts git within its limits") from error
    with there(process.stdout) as stdout, there(process.stderr) as stderr:
        try:
            out, complaint = _read_both(stdout, stderr, deadline_s, git.meanwhile)
            exit_code = process.wait(2.0)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise ContentRetry(f"{git.url}: no answer within {deadline_s or 0:g} s") from error
        finally:
            end_group(process)
    if exit_code == _NOT_FOUND:
        raise ContentStalled("git is not on PATH: install it")
    return Ended(exit_code, out, complaint.decode(errors="replace"))


def there(pipe: IO[bytes] | None) -> IO[bytes]:
    """A pipe that was asked for is there."""
    if pipe is None:
        raise ValueError("the process was started without this pipe")
    return pipe


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a group. A process that hangs in the kernel is not waited for."""
    if process.returncode is None:  # else the number may be somebody else's by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)


def _read_both(
    out: IO[bytes], complaint: IO[bytes], deadline_s: float | None, meanwhile: Callable[[], None]
) -> tuple[bytes, bytes]:
    """Read two pipes to their ends. Raises TimeoutError at the deadline, ContentStalled when there is too much."""
    until = math.inf if deadline_s is None else time.monotonic() + deadline_s
    heaps = {out.fileno(): bytearray(), complaint.fileno(): bytearray()}
    with selectors.DefaultSelector() as selector:
        for number in heaps:
            selector.register(number, selectors.EVENT_READ)
        while selector.get_map():
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            ready = selector.select(min(left, MEANWHILE_S))
            meanwhile()
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                heaps[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
                if len(heaps[key.fd]) > OUTPUT_BYTES:
                    raise ContentStalled(f"git had more to say than {OUTPUT_BYTES} bytes: is this the right server?")
    return bytes(heaps[out.fileno()]), bytes(heaps[complaint.fileno()])


def explained(url: str, ended: Ended) -> ContentError:
    """Say in one line what git complained about, and what is next: ask again, or call a person."""
    if bound := _bound_met(ended):
        return ContentStalled(f"{url}: {bound}")
    lines = [line for line in ended.complaint.splitlines() if line.strip() and not line.startswith(_NOISE)]
    text = "; ".join(_printable(line) for line in lines[:3]) or f"git ended with {ended.exit_code}"
    sentence = f"{url}: {text}"
    said = text.replace(url, "")  # an address may have any words in it
    if _GONE.search(said):
        return NotGiven(sentence)
    if _SLOW.search(said):
        return ContentSlow(f"{sentence} (`limits.min_speed`)")
    if _HOPELESS.search(said) and not _NAME_UNKNOWN.search(said):
        return ContentStalled(sentence)
    return ContentRetry(sentence)


def _bound_met(ended: Ended) -> str:
    """Which bound a git, or one that it started, was ended at; empty where it was none."""
    if ended.exit_code == -signal.SIGXFSZ or f"died of signal {signal.SIGXFSZ.value}" in ended.complaint:
        return "it sends more than the limit (`limits.bytes`)"
    if ended.exit_code == -signal.SIGXCPU or f"died of signal {signal.SIGXCPU.value}" in ended.complaint:
        return f"git had to compute for more than {CPU_S} s with what it sends: refused"
    return ""


def _printable(line: str) -> str:
    """Keep a server's text from moving the cursor of whoever reads it."""
    return "".join(letter if letter.isprintable() else " " for letter in line).strip()[:300]
