"""A real sshd on loopback for tests, with throw-away keys: one that it knows, one that it does not."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from servers import free_ports, program, running

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host
AuthorizedKeysFile {directory}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AcceptEnv GIT_PROTOCOL
"""


@dataclass(frozen=True)
class SshServer:
    """Where it listens, the key that it takes, one that it does not, and a file of known hosts that has it."""

    port: int
    key: Path
    stranger: Path
    known_hosts: Path


def new_key(path: Path) -> Path:
    """Make a key pair that nobody uses for anything else."""
    words = ["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run([program("ssh-keygen"), *words], check=True)
    return path


def sshd() -> str:
    """Where sshd is; it insists on its full path."""
    found = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    return found or program("sshd")


@contextlib.contextmanager
def ssh_server(root: Path, keys: Path) -> Iterator[SshServer]:
    """Run it below `root` (a short path without spaces); the keys lie in `keys`, which must exist."""
    program("ssh")
    for name in ("host", "user", "stranger"):
        new_key(keys / name)
    directory = root / "ssh"
    directory.mkdir()
    for name in ("host", "user.pub"):
        shutil.copy2(keys / name, directory)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True, mode=0o755)
    port = free_ports(1)[0]
    (directory / "sshd_config").write_text(CONFIG.format(port=port, directory=directory))
    argv = [sshd(), "-D", "-e", "-f", str(directory / "sshd_config")]

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    known_hosts = keys / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{port} {(keys / 'host.pub').read_text()}")
    with running(argv, directory, {}, answers):
        yield SshServer(port, keys / "user", keys / "stranger", known_hosts)
