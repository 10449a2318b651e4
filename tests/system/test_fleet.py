"""Five machines on one read-only root follow one bucket: each applies what is published, once, whatever befalls it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nspawn import Machine, bare_machine, powered
from servers import BUCKET, S3Server
from servers import seaweedfs_server as seaweedfs_server  # noqa: PLC0414 - a fixture
from test_artefacts import chrooted, nothing_but
from waiting import until

MACHINES = 5
SPLAY_S = 8
WITHIN_S = 120  # an interval, the splay and a play are some 15 s; the rest is for a machine that is busy
PLAY = """
mkdir -p /srv/fleet
echo "$JETWATCH_REVISION $JETWATCH_ATTEMPT" >> /srv/fleet/began
while [ -e /srv/fleet/hold ]; do sleep 0.1; done
cat "$JETWATCH_DOWNLOAD_PATH/text" >> /srv/fleet/applied
"""
TARGET = "[Unit]\nRequires=basic.target\nAfter=basic.target\nWants=jetwatch.service\nAllowIsolate=yes\n"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass
class Member:
    """One machine of the fleet. `disk` is what outlives its power: state directory, and what its plays leave."""

    name: str
    root: Path
    disk: Path
    stack: ExitStack
    machine: Machine | None = None

    def boot(self) -> None:
        """Give it power. All but its disk is as on the first day."""
        options = ["--volatile=overlay"]
        for folder, place in (("state", "/var/lib/jetwatch"), ("srv", "/srv/fleet")):
            (self.disk / folder).mkdir(parents=True, exist_ok=True)
            options.append(f"--bind={self.disk / folder}:{place}")
        options.append(f"--hostname={self.name}")
        console = self.disk / "console"
        self.machine = self.stack.enter_context(powered(self.root, self.name, console, *options, unit="fleet.target"))

    def lines(self, name: str) -> list[str]:
        """What plays wrote; also of a machine without power."""
        file = self.disk / "srv" / name
        return file.read_text().splitlines() if file.exists() else []

    def splay_s(self) -> float:
        """How long its agent waited at the start."""
        assert self.machine is not None
        log = self.machine.run("journalctl", "-u", "jetwatch", "-o", "cat").splitlines()
        told = [json.loads(line) for line in log if '"splay_started"' in line]
        return float(told[0]["wait_s"])

    def runs(self) -> list[dict[str, Any]]:
        """Its runs, the newest first."""
        assert self.machine is not None
        found: list[dict[str, Any]] = json.loads(self.machine.run("jetp", "runs", "--json"))
        return found


@pytest.fixture(scope="module")
def root(packages: Path, seaweedfs_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root with the package and its configuration, installed once for all machines."""
    config = {
        "content": {
            "url": f"s3://{BUCKET}/fleet/",
            "marker": "RELEASE",
            "endpoint": seaweedfs_server.endpoint,
            "region": "us-east-1",
            "access_key_id": seaweedfs_server.access_key,
            "secret_access_key": seaweedfs_server.secret_key,
        },
        "jet_command": "sh {{ download_path }}/play.sh",
        "check_interval": 2,
        "splay": SPLAY_S,
        "retry": {"initial": 1, "max": 5},
    }
    with bare_machine(tmp_path_factory.mktemp("fleet-root")) as made:
        shutil.copy2(packages / "now.deb", made / "root/now.deb")
        installed = nothing_but(Path("/"), *chrooted(made), "/usr/bin/dpkg", "-i", "/root/now.deb")
        assert installed.returncode == 0, installed.stdout + installed.stderr
        (made / "etc/jetwatch/watch.yml").write_text("".join(f"{key}: {json.dumps(config[key])}\n" for key in config))
        (made / "etc/jetwatch/watch.yml").chmod(0o600)
        (made / "etc/systemd/system/fleet.target").write_text(TARGET)
        # The network is the host's, and on its ports stand the host's own daemons.
        shutil.rmtree(made / "etc/systemd/system/sockets.target.wants", ignore_errors=True)
        yield made


@pytest.fixture
def fleet(root: Path, tmp_path: Path) -> Iterator[list[Member]]:
    """Five machines with power. Their network is the host's: the server listens there alone."""
    with ExitStack() as stack:
        members = [Member(f"f{number}", root, tmp_path / f"f{number}", stack) for number in range(MACHINES)]
        for member in members:
            member.boot()
        yield members


def publish(server: S3Server, text: str) -> None:
    """Content, its marker last."""
    with server.client() as client:
        for key, body in (("play.sh", PLAY), ("text", f"{text}\n"), ("RELEASE", text)):
            client.put_object(Bucket=BUCKET, Key=f"fleet/{key}", Body=body.encode())


def test_five_machines_follow_what_is_published_and_one_of_them_twice_loses_its_power(
    fleet: list[Member], seaweedfs_server: S3Server
) -> None:
    """Spread in time, bounded in time, and each revision applied once on each machine."""
    publish(seaweedfs_server, "one")
    until(lambda: all(member.lines("applied") == ["one"] for member in fleet), WITHIN_S, pause_s=0.2)
    waits = [member.splay_s() for member in fleet]
    assert len(set(waits)) == MACHINES
    assert all(0 <= each < SPLAY_S for each in waits)

    (fleet[3].disk / "srv/hold").touch()
    publish(seaweedfs_server, "two")
    until(lambda: len(fleet[3].lines("began")) == 2, WITHIN_S, pause_s=0.2)
    victim = fleet[3].machine
    assert victim is not None
    victim.cut_power()
    others = [member for member in fleet if member is not fleet[3]]
    until(lambda: all(member.lines("applied") == ["one", "two"] for member in others), WITHIN_S, pause_s=0.2)
    assert fleet[3].lines("applied") == ["one"]

    (fleet[3].disk / "srv/hold").unlink()
    fleet[3].boot()
    until(lambda: fleet[3].lines("applied") == ["one", "two"], WITHIN_S, pause_s=0.2)
    until(lambda: fleet[3].runs()[0]["outcome"] == "ok", WITHIN_S, pause_s=0.2)
    assert [run["outcome"] for run in fleet[3].runs()] == ["ok", "lost", "ok"]
    assert len(fleet[3].lines("began")) == 3

    # One that had nothing to do is off for a while: it comes back, looks, and applies nothing again.
    idle = fleet[4].machine
    assert idle is not None
    idle.cut_power()
    fleet[4].boot()
    again = fleet[4].machine
    assert again is not None
    until(lambda: found_nothing_new(again), WITHIN_S, pause_s=0.2)
    assert [member.lines("applied") for member in fleet] == [["one", "two"]] * MACHINES
    assert [len(member.runs()) for member in fleet] == [2, 2, 2, 3, 2]


def found_nothing_new(machine: Machine) -> bool:
    """Whether the agent of this boot has looked, and applied nothing."""
    status = json.loads(machine.run("jetp", "status", "--json"))
    [watch] = status["watches"]
    return watch["last_result"] == "not_due" and watch["last_check"] > status["agent"]["since"]
