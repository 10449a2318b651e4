"""What the suites of several sources need: the real S3 servers, and one that takes every key."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import S3Server, free_ports, has_bucket, rclone_server, running, s3_server, seaweedfs_server

__all__ = ["rclone_server", "s3_server", "seaweedfs_server"]


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    """moto as a server: no storage to speak of and no check of credentials, but it takes keys that no other takes."""
    port = free_ports(1)[0]
    server = S3Server(kind="moto", endpoint=f"http://127.0.0.1:{port}", access_key="any", secret_key="any")
    argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with tempfile.TemporaryDirectory(prefix="jw-moto-") as directory:
        env = {"LANG": os.environ.get("LANG", "C.UTF-8")}
        with running(argv, Path(directory), env, lambda: has_bucket(server)):
            yield server


@pytest.fixture
def client(s3_server: S3Server) -> Iterator[Any]:
    """A boto3 client of the server at hand."""
    with s3_server.client() as client:
        yield client
