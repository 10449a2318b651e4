"""Strangers of a machine, each with one deed that it does over and over: accounts, servers, a publisher, plays.

`Strangers` is what they are together: every deed has a thread, a count, and a pause. A deed that fails by itself is
told at the end, so that no attack stops unseen. Nothing of theirs is asked of anybody but loopback.
"""

from __future__ import annotations

import ctypes
import os
import random
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import paths  # noqa: F401
from accounts import STRANGER, run_as, start_as
from archives import SEEDS, mutate
from fuzz.answering import Answering
from fuzz.target import CORPORA

HOSTILE_NAMES = (
    *(b"a\rb", b"a\x0bb", b"a\x0cb", b"a\x1cb", b"a\x85b", b"a b\tc\nd\\e", b"\xff\xfe", "\u2028".encode(), b"-"),
    b"x\r25 1 0:22 / / rw - cgroup2 cgroup2 rw",
)
"""What a mount may be called: whoever splits lines at more than LF reads one of these as two."""

DEEP_TREE = """\
import os
os.chdir(os.environ["JETWATCH_DOWNLOAD_PATH"])
for _ in range(3000):
    os.mkdir("d")
    os.chdir("d")
"""
OUTPUTS = """\
number=$(cat turn 2>/dev/null || echo 0)
echo $(( (number + 1) % 9 )) > turn
case $number in
  0) ln -sf /etc/shadow "$JETWATCH_OUTPUT" ;;
  1) rm -f "$JETWATCH_OUTPUT"; mkfifo "$JETWATCH_OUTPUT" ;;
  2) rm -f "$JETWATCH_OUTPUT"; mkdir "$JETWATCH_OUTPUT" ;;
  3) head -c 70000 /dev/zero > "$JETWATCH_OUTPUT" ;;
  4) printf 'a=\\0\\n' > "$JETWATCH_OUTPUT" ;;
  5) printf 'a=\\377\\376\\n' > "$JETWATCH_OUTPUT" ;;
  6) printf 'revision=\\033[2J\\302\\205\\n' > "$JETWATCH_OUTPUT" ;;
  7) for key in $(seq 250); do echo "k$key=$(head -c 200 /dev/zero | tr '\\0' x)"; done > "$JETWATCH_OUTPUT" ;;
  8) rm -f "$JETWATCH_OUTPUT"; exit 1 ;;
esac
"""
"""A check that forges its outputs, each time in another way."""

_BEGUN = (b"G", b"GET / HTTP/1.1\r\nX: ", b"\xff" * 100, b"GET " + b"/" * 9000)
"""What a scraper says before it goes no further."""
_NOISE = (
    *(b"", b"\n", b"{", b'{"verb":', b'{"verb":"x"}\n', b"\xff" * 100 + b"\n"),
    *(b"[" * 5000 + b"\n", b'{"a":' * 5000 + b"\n", b"x" * 70_000),
)
"""What is no request at the control socket."""
_ENTRY = (
    "<Contents><Key>p/{}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified><ETag>&quot;aa&quot;</ETag>"
    "<Size>1</Size></Contents>"
)

TRAP = """\
import os
with open({became!r}, "a") as became:
    became.write(f"{{os.geteuid()}} {{__file__}}\\n")
"""
"""Stands under names that Python imports: whoever runs it is written down."""
TRAPS = ("sitecustomize.py", "usercustomize.py", "json.py", "jetwatch.py", "encodings.py", "urllib3.py", "os.py")


class Strangers:
    """All of them, from `begin` to `end`. `done` counts each deed; `broken` has what made one end."""

    def __init__(self, root: Path, dealt: random.Random) -> None:
        self.root = root
        self.home = root / "home"
        self.became = root / "became"
        self.done: Counter[str] = Counter()
        self.broken: dict[str, BaseException] = {}
        self._dealt = dealt
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._processes: list[subprocess.Popen[str]] = []
        self._lock = threading.Lock()
        self.web = Answering()
        self.bucket = Answering()
        self.endless = EndlessBucket()
        self._make_home()

    def _make_home(self) -> None:
        """A home whose files lead nowhere, and whose Python files wait for somebody with more rights."""
        self.home.mkdir(mode=0o755)
        self.became.touch()
        self.became.chmod(0o666)
        for folder in (self.home, self.home / ".local", self.home / "content"):
            folder.mkdir(exist_ok=True)
            for name in TRAPS:
                (folder / name).write_text(TRAP.format(became=str(self.became)))
        for name in (".aws", ".ssh", ".config"):
            (self.home / name).symlink_to(name)
        (self.home / ".netrc").symlink_to("/proc/self/fd/0")
        (self.home / ".boto").symlink_to("x" * 255)
        os.mkfifo(self.home / ".gitconfig", 0o666)
        run = subprocess.run(["chown", "-hR", STRANGER, self.home], check=False)
        assert run.returncode == 0

    # -- their lives

    def begin(self, socket_path: Path, metrics_port: int) -> None:
        """Start them all."""
        deeds: dict[str, tuple[Callable[[], None], float]] = {
            "answers": (self._answer, 0.05),
            "archives": (self._publish, 2.0),
            "environments": (self._swell, 1.0),
            "dawdlers": (lambda: self._dawdle(metrics_port), 0.5),
            "noise": (lambda: self._make_noise(socket_path), 0.1),
            "pleas": (lambda: self._plead(socket_path), 5.0),
        }
        if may_mount():
            deeds["mounts"] = (self._mount, 0.2)
        for name, (deed, pause_s) in deeds.items():
            thread = threading.Thread(target=self._live, args=(name, deed, pause_s))
            thread.start()
            self._threads.append(thread)

    def _live(self, name: str, deed: Callable[[], None], pause_s: float) -> None:
        while not self._over.is_set():
            try:
                deed()
            except Exception as error:  # noqa: BLE001 - told at the end: an attack that stops is no attack
                self.broken[name] = error
                return
            self.done[name] += 1
            self._over.wait(pause_s)

    def end(self) -> None:
        """Let them come to their end, once, and clean up behind them."""
        if self._over.is_set():
            return
        self._over.set()
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            process.kill()
            process.communicate()
        self.endless.close()
        for path in self.home.glob("mount*"):
            _unmount(path)

    # -- their deeds

    def _answer(self) -> None:
        """The servers say another thing now: what once broke a parser, or bytes turned in it."""
        for server, corpus in ((self.web, "http_answers"), (self.bucket, "s3_answers")):
            kept = sorted((CORPORA / corpus).iterdir())
            data = self._dealt.choice(kept).read_bytes()
            if self._dealt.random() < 0.5:
                data = mutate(data or b"\0", self._dealt)
            server.say(with_head(data))

    def _publish(self) -> None:
        """The publisher replaces the archive by a broken one."""
        packed = mutate(self._dealt.choice(list(SEEDS.values()))(), self._dealt)
        building = self.home / "content" / "new"
        building.write_bytes(packed)
        building.replace(self.home / "content" / "x.tar")

    def _swell(self) -> None:
        """A process of the stranger's whose environment is as large as the kernel allows."""
        environ = {f"SWOLLEN{number}": "JETWATCH_STEP=" + "x" * 120_000 for number in range(14)}
        self._processes.append(start_as(STRANGER, ["/bin/sleep", "10"], environ))
        while len(self._processes) > 6:
            oldest = self._processes.pop(0)
            oldest.kill()
            oldest.communicate()

    def _dawdle(self, port: int) -> None:
        """Scrapers that begin a request and go no further; some go byte by byte."""
        callers = []
        try:
            for _ in range(40):
                caller = socket.create_connection(("127.0.0.1", port), timeout=5)
                caller.sendall(self._dealt.choice(_BEGUN))
                callers.append(caller)
            for _ in range(20):
                for caller in callers:
                    with suppress(OSError):
                        caller.send(b"x", socket.MSG_DONTWAIT)
                self._over.wait(0.1)
        except OSError:
            pass  # refused or hung up on: that is the listener's right
        finally:
            for caller in callers:
                caller.close()

    def _make_noise(self, path: Path) -> None:
        """At the control socket, with the rights of the agent's account: half lines, long ones, no JSON, deep JSON."""
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(5)
            try:
                caller.connect(str(path))
                caller.sendall(self._dealt.choice((*_NOISE, self._dealt.randbytes(500) + b"\n")))
                if self._dealt.random() < 0.7:
                    caller.recv(70_000)
            except OSError:
                return  # hung up on

    def _plead(self, path: Path) -> None:
        """The stranger asks the agent itself, and is not heard."""
        ask = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        done = run_as(STRANGER, ["/usr/bin/python3", "-I", "-c", ask, path])
        assert done.returncode != 0, "a stranger was let in at the control socket"

    def _mount(self) -> None:
        """Something is mounted below the stranger's home, under a name of any bytes, and unmounted again."""
        name = b"mount" + self._dealt.choice(HOSTILE_NAMES).replace(b"/", b"|")
        point = self.home / os.fsdecode(name)
        point.mkdir(exist_ok=True)
        libc = ctypes.CDLL(None, use_errno=True)
        source = self._dealt.choice(HOSTILE_NAMES)
        if libc.mount(source, os.fsencode(point), b"tmpfs", 0, b"size=64k") != 0:
            raise OSError(ctypes.get_errno(), "mount")
        self._over.wait(0.3)
        _unmount(point)


class EndlessBucket:
    """A bucket whose listing never ends: each page has new keys and a token for the next one. `port`; `pages` given."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port: int = self._listener.getsockname()[1]
        self.pages = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        with caller, suppress(OSError):
            caller.settimeout(30)
            caller.recv(65_536)
            caller.sendall(with_head(self._page()))

    def _page(self) -> bytes:
        self.pages += 1
        entries = "".join(_ENTRY.format(self.pages * 1000 + number) for number in range(1000))
        return (
            '<?xml version="1.0"?><ListBucketResult><Name>b</Name><Prefix>p/</Prefix><KeyCount>1000</KeyCount>'
            f"<MaxKeys>1000</MaxKeys><IsTruncated>true</IsTruncated><NextContinuationToken>{self.pages}"
            f"</NextContinuationToken>{entries}</ListBucketResult>"
        ).encode()

    def close(self) -> None:
        """Hear nobody any more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def with_head(data: bytes) -> bytes:
    """The answer as it is, or as the body of one."""
    body = data[1:] if data[:1].isdigit() else data
    if body.startswith(b"HTTP/"):
        return body
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % len(body) + body


def may_mount() -> bool:
    """Whether this process may mount here: CAP_SYS_ADMIN, which root lacks in most containers."""
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    return os.geteuid() == 0 and bool(effective >> 21 & 1)


def _unmount(path: Path) -> None:
    ctypes.CDLL(None).umount2(os.fsencode(path), 2)
