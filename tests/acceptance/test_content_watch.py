"""A watch with `content:` through the installed jetp: a real S3 server, no scripts, no secret left behind."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from agent_process import Site
from servers import BUCKET, S3Server
from servers import seaweedfs_server as seaweedfs_server  # noqa: PLC0414 - a fixture


def put(server: S3Server, key: str, text: str) -> None:
    """Publish one object."""
    with server.client() as client:
        client.put_object(Bucket=BUCKET, Key=key, Body=text.encode())


def content(server: S3Server, prefix: str, **more: Any) -> dict[str, Any]:
    """The `content:` of a prefix of the server."""
    return {
        "url": f"s3://{BUCKET}/{prefix}/",
        "endpoint": server.endpoint,
        "region": "us-east-1",
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
        **more,
    }


def test_a_bucket_is_applied_without_scripts_and_without_leaking_its_key(
    site: Site, seaweedfs_server: S3Server
) -> None:
    """One request when nothing changed, applied again when the marker moves; the key stands nowhere."""
    put(seaweedfs_server, "site/pb.yml", "first")
    put(seaweedfs_server, "site/RELEASE", "1")
    config = {
        "content": content(seaweedfs_server, "site", marker="RELEASE"),
        "jet_command": site.shell('cat "$JETWATCH_DOWNLOAD_PATH/pb.yml" >> played'),
    }
    site.once(config)
    before = site.standing()["requests"]
    site.once(config)
    assert site.standing()["requests"] - before == 1
    put(seaweedfs_server, "site/pb.yml", "second")
    put(seaweedfs_server, "site/RELEASE", "2")
    agent = site.once(config)
    agent.wait_for("run_finished", outcome="ok")
    assert site.read("played") == "firstsecond"
    secret = seaweedfs_server.secret_key
    assert secret not in agent.story()
    found = subprocess.run(["grep", "-rlaF", secret, site.state], capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_credentials_that_do_not_work_are_an_error_that_names_the_reason(
    site: Site, seaweedfs_server: S3Server
) -> None:
    """Never "not due": the check is in error, on_error runs, and nothing was started."""
    put(seaweedfs_server, "denied/pb.yml", "first")
    wrong = {**content(seaweedfs_server, "denied"), "secret_access_key": "canary-not-the-key"}
    agent = site.once({"content": wrong, "jet_command": "true", "on_error": site.shell("touch told")}, code=75)
    checked = agent.wait_for("check_finished", result="error", reason="content_stalled")
    assert "canary" not in agent.story()
    assert checked["output_tail"]
    assert not agent.told("run_started")
    assert (Path(site.root) / "told").exists()
