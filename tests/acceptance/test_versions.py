"""An upgrade finds what earlier versions left: journals of every schema, supervisors of every format. Never backwards.

`versions/` keeps what earlier versions wrote: a dump of a journal for each schema, the supervisor's program for each
format. Nothing in it is changed; a new schema or format adds a file.
"""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from agent_process import Site, is_alive, until
from servers import how_to_install

from jetwatch.journal.journal import SCHEMA, Journal
from jetwatch.process import launch
from jetwatch.records import FORMAT

VERSIONS = Path(__file__).with_name("versions")
JOURNALS = sorted(VERSIONS.glob("journal-schema-*.sql"))
SHIMS = sorted(VERSIONS.glob("shim-format-*.tar.gz"))
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason=f"needs strace: {how_to_install('strace')}")

MIGRATE = """\
import sys
from pathlib import Path
from types import SimpleNamespace
from jetwatch.journal import journal

journal.SCHEMA = int(sys.argv[3])
journal.packaged = SimpleNamespace(read=lambda _, name: (Path(sys.argv[1]) / name).read_bytes())
journal.Journal.open(Path(sys.argv[2])).close()
"""
TO_COME = """\
ALTER TABLE run ADD COLUMN colour TEXT;
CREATE TABLE later (id TEXT NOT NULL PRIMARY KEY, colour TEXT);
INSERT INTO later SELECT id, 'red' FROM run;
"""


def restore(dump: Path, path: Path) -> None:
    """The journal that an earlier version wrote."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript(dump.read_text())
    path.chmod(0o600)


def test_something_is_kept_of_every_schema_and_every_format() -> None:
    """A version that changes one adds what the one before it wrote."""
    assert [path.name for path in JOURNALS] == [f"journal-schema-{number}.sql" for number in range(1, SCHEMA + 1)]
    assert [path.name for path in SHIMS] == [f"shim-format-{number}.tar.gz" for number in range(1, FORMAT + 1)]


@pytest.mark.parametrize("dump", JOURNALS, ids=lambda path: path.stem)
def test_an_agent_goes_on_with_the_journal_of_an_earlier_version(site: Site, dump: Path) -> None:
    """What was open is lost by the reboot, as ever; hooks that were owed are tried; all runs are still there."""
    site.state.mkdir(mode=0o700)
    restore(dump, site.state / "journal.db")
    before = site.runs()
    assert [run["outcome"] for run in before] == ["ok", "failed", None]
    config = {"check_command": "false", "jet_command": "true", "on_done": "true", "check_interval": 1}
    agent = site.once(config, code=1)
    ended = agent.told("run_finished")
    assert [(line["play_uuid"], line["outcome"]) for line in ended] == [(before[2]["play_uuid"], "lost")]
    after = site.runs()
    assert [run["play_uuid"] for run in after] == [run["play_uuid"] for run in before]
    assert [run["outcome"] for run in after] == ["ok", "failed", "lost"]
    with closing(sqlite3.connect(site.state / "journal.db")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def killed_at(call: str, number: int, top: Path, path: Path) -> bool:
    """Whether a migration was killed right before its `number`th such system call; false when it has fewer."""
    migrate = [sys.executable, "-c", MIGRATE, top, path, str(SCHEMA + 1)]
    inject = f"inject={call}:signal=SIGKILL:when={number}"
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject, *migrate],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
    return done.returncode != 0


def points(call: str, top: Path, dump: Path | None, folder: Path) -> Iterator[Path]:
    """A journal for each point at which its migration can be killed, right after that."""
    number = 1
    while True:
        path = folder / f"{call}.{number}" / "journal.db"
        path.parent.mkdir()
        if dump is not None:
            restore(dump, path)
        if not killed_at(call, number, top, path):
            return
        yield path
        number += 1


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "fsync", "ftruncate", "unlink"])
@pytest.mark.parametrize("dump", [None, *JOURNALS], ids=lambda path: path.stem if path else "none")
def test_a_migration_may_be_killed_at_every_system_call(tmp_path: Path, dump: Path | None, call: str) -> None:
    """From nothing, and from each schema: opened again it is whole, at its new schema, with every run."""
    migrations = tmp_path / "migrations"
    package = Path(sys.modules[Journal.__module__].__file__ or "").parent
    shutil.copytree(package / "migrations", migrations)
    (migrations / f"{SCHEMA + 1:04}.sql").write_text(TO_COME)
    count = 0
    for path in points(call, tmp_path, dump, tmp_path):
        count += 1
        subprocess.run([sys.executable, "-c", MIGRATE, tmp_path, path, str(SCHEMA + 1)], check=True, timeout=60)
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA + 1,)
            runs = database.execute("SELECT id FROM run ORDER BY id").fetchall()
            assert len(runs) == (0 if dump is None else 3)
            assert database.execute("SELECT id FROM later ORDER BY id").fetchall() == runs
    print(f"killed before {count} calls of {call}")
    assert count > 0 or call not in ("pwrite64", "fdatasync")


@pytest.mark.parametrize("shim", SHIMS, ids=lambda path: path.name)
def test_an_agent_takes_over_from_the_supervisor_of_an_earlier_version(site: Site, shim: Path) -> None:
    """Held by the old program, its agent killed: the new agent waits for its end, and records it as it was."""
    program = launch.install(Path(site.root))
    old = site.state / "shim" / program.name  # where the agent looks for the program that it would make
    old.parent.mkdir(mode=0o700, parents=True)
    site.state.chmod(0o700)
    subprocess.run(["tar", "-xzf", shim, "-C", old.parent, f"--one-top-level={old.name}"], check=True)
    gate = site.gate()
    config = {
        "check_command": "true",
        "check_interval": 1,
        "jet_command": site.shell(f"echo $$ > pid; echo begin >> effects; {gate.text}; exit 7"),
        "on_done": site.shell('echo "$JETWATCH_OUTCOME $JETWATCH_EXIT_CODE" >> hooks'),
    }
    first = site.start(config, "--no-splay")
    supervisor = site.supervisor_of("play")
    assert (old / "jetwatch").is_dir()
    assert str(old) in Path(f"/proc/{supervisor}/cmdline").read_bytes().decode().replace("\0", " ")
    first.kill9()
    second = site.start({**config, "check_command": "false"}, "--no-splay")
    assert second.wait_for("run_reattached")["alive"] is True
    gate.open()
    assert second.wait_for("run_finished")["exit_code"] == 7
    assert until(lambda: site.read("hooks")) == "failed 7\n"
    assert site.read("effects") == "begin\n"
    assert not is_alive(supervisor)


def test_a_result_of_a_newer_format_is_not_taken_for_one(tmp_path: Path) -> None:
    """After a downgrade: what this version cannot know how to read counts as no result, never as a good one."""
    document = {"step_id": "a.play.1", "ending": "exited", "exit_code": 0, "format": FORMAT}
    for number, read in ((FORMAT, True), (FORMAT + 1, False)):
        (tmp_path / "exit.json").write_text(json.dumps({**document, "format": number}))
        assert (launch.read_result(tmp_path, "a.play.1") is not None) is read
