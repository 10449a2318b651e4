"""A watch with `content:` through the installed jetp: a real S3 server, no scripts, no secret left behind."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from agent_process import AgentProcess, Site
from hostile_modules import HostileModules
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


def test_looks_and_fetches_import_nothing_from_where_a_watch_works(site: Site) -> None:
    """Neither from its `cwd`, which may be another account's, nor from what its environment names."""
    hostile = HostileModules(site.root / "hostile")
    (site.root / "content").mkdir()
    (site.root / "content" / "pb.yml").write_text("first")
    config = {
        "content": f"file://{site.root}/content",
        "cwd": str(hostile.directory),
        "env": hostile.environ,
        "jet_command": {"shell": f'cp "$JETWATCH_DOWNLOAD_PATH/pb.yml" {site.root}/played'},
    }
    site.start(config, "--once", "--no-splay", before=("env", "-C", str(hostile.directory))).wait()
    assert site.read("played") == "first"
    assert hostile.imported == []


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


def bare(server: S3Server, prefix: str) -> dict[str, Any]:
    """The `content:` of a prefix, without credentials."""
    named = content(server, prefix, marker="RELEASE")
    return {key: value for key, value in named.items() if key not in ("access_key_id", "secret_access_key")}


def keys(server: S3Server, secret: str | None = None) -> str:
    """An env_file with the server's credentials, or with another secret."""
    return f"AWS_ACCESS_KEY_ID={server.access_key}\nAWS_SECRET_ACCESS_KEY={secret or server.secret_key}\n"


def looked_at_s3(agent: AgentProcess) -> bool:
    """Whether this very process has, and not a child: the library is loaded."""
    return "_obstore" in Path(f"/proc/{agent.pid}/maps").read_text()


def leaks(site: Site, secret: str) -> str:
    """The files of the state directory that hold it."""
    found = subprocess.run(["grep", "-rlaF", secret, site.state], capture_output=True, text=True, check=False)
    return found.stdout


def test_credentials_of_an_env_file_serve_the_look_as_well(site: Site, seaweedfs_server: S3Server) -> None:
    """Each look reads them anew, in one agent; a wrong one is an error, and neither is told to anybody."""
    put(seaweedfs_server, "filed/RELEASE", "1")
    env_file = site.root / "credentials.env"
    env_file.write_text(keys(seaweedfs_server))
    agent = site.ready(
        {
            "content": bare(seaweedfs_server, "filed"),
            "env_file": str(env_file),
            "retry": "off",
            "jet_command": site.shell('cat "$JETWATCH_DOWNLOAD_PATH/RELEASE" >> played'),
        },
        "--no-splay",
    )
    agent.wait_for("run_finished", outcome="ok")
    assert looked_at_s3(agent)
    env_file.write_text(keys(seaweedfs_server, "canary-not-the-secret-key"))
    site.jetp("trigger")
    checked = agent.wait_for("check_finished", result="error", reason="content_stalled")
    assert "secret key does not belong" in checked["output_tail"]
    env_file.write_text(keys(seaweedfs_server))
    put(seaweedfs_server, "filed/RELEASE", "2")
    site.jetp("trigger")
    agent.wait_for("run_finished", nth=2, outcome="ok")
    assert site.read("played") == "12"
    for secret in (seaweedfs_server.secret_key, "canary-not-the-secret-key"):
        assert secret not in agent.story()
        assert leaks(site, secret) == ""


def test_credentials_of_the_agents_environment_serve_look_and_fetch(site: Site, seaweedfs_server: S3Server) -> None:
    """As a container has them; the watch's other commands do not get them, and nobody is told."""
    put(seaweedfs_server, "ambient/RELEASE", "1")
    config = {
        "content": {"url": f"s3://{BUCKET}/ambient/", "marker": "RELEASE"},
        "jet_command": site.shell("env > environment"),
    }
    agent = site.start(config, "--once", "--no-splay", environ=seaweedfs_server.env())
    assert agent.wait() == 0, agent.story()
    assert "AWS_" not in site.read("environment")
    assert seaweedfs_server.secret_key not in agent.story()
    assert leaks(site, seaweedfs_server.secret_key) == ""


def test_two_watches_with_credentials_of_their_own_do_not_meet(site: Site, seaweedfs_server: S3Server) -> None:
    """One agent, one bucket: the one whose key is right applies, the other one is in error."""
    put(seaweedfs_server, "shared/RELEASE", "1")
    shared = {"content": bare(seaweedfs_server, "shared"), "jet_command": "true", "retry": False}
    good = {"AWS_ACCESS_KEY_ID": seaweedfs_server.access_key, "AWS_SECRET_ACCESS_KEY": seaweedfs_server.secret_key}
    bad = {**good, "AWS_SECRET_ACCESS_KEY": "canary-not-the-secret-key"}
    watches = {"good": {**shared, "env": good}, "bad": {**shared, "env": bad}}
    agent = site.once({"watches": watches}, code=75)
    agent.wait_for("run_finished", watch="good", outcome="ok")
    agent.wait_for("check_finished", watch="bad", reason="content_stalled")


def test_a_profile_is_looked_at_by_a_child_with_the_environment_of_the_watch(
    site: Site, seaweedfs_server: S3Server
) -> None:
    """boto3 is not loaded into the agent; its files are those that the watch's env names."""
    put(seaweedfs_server, "profiled/RELEASE", "1")
    (site.root / "aws").write_text(
        f"[site]\naws_access_key_id = {seaweedfs_server.access_key}\n"
        f"aws_secret_access_key = {seaweedfs_server.secret_key}\n"
    )
    agent = site.ready(
        {
            "content": {**bare(seaweedfs_server, "profiled"), "profile": "site"},
            "env": {"AWS_SHARED_CREDENTIALS_FILE": str(site.root / "aws")},
            "jet_command": "true",
        },
        "--no-splay",
    )
    agent.wait_for("run_finished", outcome="ok")
    assert not looked_at_s3(agent)
    agent.stop()
    before = site.standing()["requests"]
    site.once()
    assert site.standing()["requests"] - before == 1
    assert seaweedfs_server.secret_key not in agent.story()
    assert leaks(site, seaweedfs_server.secret_key) == ""
