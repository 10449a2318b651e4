"""What the tests of the contributed scripts share: the scripts, and real servers to run them on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # tests/ is no package, and servers.py lies one directory up

from brokers import kafka_cluster, nats_server, rabbitmq_server, redis_server  # noqa: E402
from script_runner import Scripts  # noqa: E402
from servers import rclone_server, s3_server, seaweedfs_server  # noqa: E402

__all__ = [
    "kafka_cluster",
    "nats_server",
    "rabbitmq_server",
    "rclone_server",
    "redis_server",
    "s3_server",
    "scripts",
    "seaweedfs_server",
]


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    """The contributed scripts, with a home directory of their own."""
    home = tmp_path / "home"
    home.mkdir()
    return Scripts(home)
