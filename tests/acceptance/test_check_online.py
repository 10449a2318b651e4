"""`jetp check-config` on content: what shows on this machine, and with --online what real servers and mounts answer."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from agent_process import JETP, Site, until
from servers import BUCKET, S3Server, free_ports
from servers import seaweedfs_server as seaweedfs_server  # noqa: PLC0414 - a fixture
from stalling_fuse import StallingFuse, can_mount

CANARY = "canary-not-the-secret-key"


@pytest.fixture
def published(seaweedfs_server: S3Server) -> S3Server:
    """A server with content."""
    with seaweedfs_server.client() as client:
        client.put_object(Bucket=BUCKET, Key="site/RELEASE", Body=b"1")
    return seaweedfs_server


def bucket(server: S3Server, **more: Any) -> dict[str, Any]:
    """A `content:` with good credentials."""
    return {
        "url": f"s3://{BUCKET}/site/",
        "marker": "RELEASE",
        "endpoint": server.endpoint,
        "region": "us-east-1",
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
        **more,
    }


def watches(**contents: Any) -> dict[str, Any]:
    """A configuration: `content:` by name, None for a watch that has none."""
    made = {
        name: {"check_command": "true"} if content is None else {"content": content}
        for name, content in contents.items()
    }
    return {"watches": {name: {**watch, "jet_command": "true"} for name, watch in made.items()}}


def environment(site: Site, more: Mapping[str, str]) -> dict[str, str]:
    """With a temporary directory of its own, so that what is left there shows."""
    (site.root / "tmp").mkdir(exist_ok=True)
    (site.root / "tmp").chmod(0o777)
    return {**site.environ, "TMPDIR": str(site.root / "tmp"), **more}


def check(site: Site, config: dict[str, Any], *words: str, code: int = 0, **environ: str) -> tuple[str, str]:
    """What `jetp check-config` says, out and err. Whatever that is, nothing is left behind and no secret is told."""
    site.configure(config)
    done = subprocess.run(
        [JETP, "check-config", *words, site.config],
        env=environment(site, environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == code, done
    assert CANARY not in done.stdout + done.stderr
    assert list((site.root / "tmp").iterdir()) == []
    assert not site.state.exists()
    return done.stdout, done.stderr


def tried(site: Site, config: dict[str, Any], *words: str, code: int = 0, **environ: str) -> dict[str, dict[str, Any]]:
    """What --online --json says, by watch."""
    out, _ = check(site, config, "--online", "--json", *words, code=code, **environ)
    return {look["watch"]: look for look in json.loads(out)["looks"]}


# -- without asking anybody


def test_what_is_missing_on_this_machine_is_a_warning_with_its_place(site: Site) -> None:
    """Libraries, files, profiles: each with file, line and key, and 0, as the agent would start all the same."""
    (site.root / "hidden").mkdir()
    (site.root / "hidden/sitecustomize.py").write_text("import sys\nsys.modules['obstore'] = None\n")
    (site.root / "key").write_text("x")
    (site.root / "key").chmod(0o644)
    site.configure("")
    text = f"""\
        watches:
          stored:
            content:
              url: s3://bucket/x/
              profile: missing
            jet_command: "true"
          repository:
            content:
              url: git+ssh://host/x
              ssh_key: {site.root}/key
              known_hosts: nowhere
            env_file: secrets.env
            jet_command: "true"
    """
    site.configure(text)
    done = subprocess.run(
        [JETP, "check-config", site.config],
        env=environment(site, {"PYTHONPATH": str(site.root / "hidden")}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()
    place = f"warning: {site.config}"
    expected = [
        (f"{place}:4: watches.stored.content.url: ", "pip install 'jetwatch[s3]'"),
        (f"{place}:5: watches.stored.content.profile: ", "no profile 'missing'"),
        (f"{place}:10: watches.repository.content.ssh_key: ", "chmod go="),
        (f"{place}:11: watches.repository.content.known_hosts: ", "No such file"),
        (f"{place}:12: watches.repository.env_file: ", "No such file"),
    ]
    for start, end in expected:
        assert any(line.startswith(start) and end in line for line in told), (start, end, told)


def test_credentials_that_cannot_work_anywhere_are_problems(site: Site) -> None:
    """78, with the place; the secret is not repeated."""
    config = watches(half={"url": "s3://bucket/x/", "secret_access_key": CANARY})
    _, err = check(site, config, code=78)
    assert "watches.half.content.secret_access_key: `secret_access_key` cannot work without `access_key_id`" in err


# -- online


def test_every_source_is_tried_and_told_on_a_line(site: Site, published: S3Server) -> None:
    """0 when all answered: revision, requests and time; a watch without content has nothing to try."""
    (site.root / "tree").mkdir()
    (site.root / "tree/file").write_text("x")
    config = watches(bucket=bucket(published), tree=f"file://{site.root}/tree", script=None)
    out, err = check(site, config, "--online")
    first, second, third = out.splitlines()
    assert first.startswith("bucket: ok: revision c4ca4238a0b923820dcc509a6f75849b (1 request, ")
    assert second.startswith("tree: ok: revision ")
    assert ", not settled yet (0 requests, " in second
    assert third == "script: no content, nothing to try"
    (warning,) = err.splitlines()  # nothing but that the server of this test is one of this machine
    assert "any account of this machine may answer at that port" in warning
    looks = tried(site, config)
    assert looks["script"] == {"watch": "script", "result": "nothing_to_try"}
    bucket_look = looks["bucket"]
    assert bucket_look.pop("duration_s") > 0
    assert bucket_look == {
        "watch": "bucket",
        "result": "ok",
        "revision": "c4ca4238a0b923820dcc509a6f75849b",
        "settled": True,
        "requests": 1,
    }


def test_what_needs_a_person_and_what_may_pass_are_told_apart(site: Site, published: S3Server) -> None:
    """78 for wrong credentials and a missing bucket, 75 for a dead port and a marker that is not there yet."""
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    contents = {
        "wrong": bucket(published, secret_access_key=CANARY),
        "missing": bucket(published, url="s3://no-such-bucket/x/"),
        "dead": bucket(published, endpoint=dead),
        "early": bucket(published, marker="NOT-YET"),
        "good": bucket(published),
    }
    looks = tried(site, watches(**contents), code=78)
    assert {name: look["result"] for name, look in looks.items()} == {
        "wrong": "cannot_work",
        "missing": "cannot_work",
        "dead": "not_now",
        "early": "not_now",
        "good": "ok",
    }
    assert "secret key does not belong" in looks["wrong"]["error"]
    assert "connection refused" in looks["dead"]["error"]
    passing = {name: contents[name] for name in ("dead", "early", "good")}
    out, _ = check(site, watches(**passing), "--online", code=75)
    assert [line.split(":")[:2] for line in out.splitlines()] == [
        ["dead", " not now"],
        ["early", " not now"],
        ["good", " ok"],
    ]


def test_credentials_come_from_where_the_agent_would_take_them(site: Site, published: S3Server) -> None:
    """env_file of the watch; without it the same source cannot work."""
    content = bucket(published)
    keys = {name: content.pop(name) for name in ("access_key_id", "secret_access_key")}
    config = watches(bucket=content)
    config["watches"]["bucket"]["env_file"] = "keys.env"
    config["watches"]["bucket"]["env"] = {"AWS_EC2_METADATA_DISABLED": "true"}
    assert "keys.env" in tried(site, config, code=78)["bucket"]["error"]
    (site.root / "keys.env").write_text("OTHER=x\n")
    assert "no credentials" in tried(site, config, code=78)["bucket"]["error"]
    (site.root / "keys.env").write_text(
        f"AWS_ACCESS_KEY_ID={keys['access_key_id']}\nAWS_SECRET_ACCESS_KEY={keys['secret_access_key']}\n"
    )
    assert tried(site, config)["bucket"]["result"] == "ok"


@contextmanager
def silence() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_server_that_says_nothing_ends_at_the_deadline(site: Site, published: S3Server) -> None:
    """Many of them beside each other: they do not add up, and the good ones are told."""
    with silence() as port:
        silent = bucket(published, endpoint=f"http://127.0.0.1:{port}")
        contents = {**{f"silent{number}": silent for number in range(12)}, "good": bucket(published)}
        looks = tried(site, watches(**contents), "--deadline", "2", code=75)
    assert looks.pop("good")["result"] == "ok"
    assert {look["result"] for look in looks.values()} == {"not_now"}


@pytest.mark.skipif(not can_mount(), reason="needs root and /dev/fuse for a mount that never answers")
def test_a_dead_mount_is_told_and_left_behind(site: Site, published: S3Server) -> None:
    """Its child cannot be killed; the others are told, and the command ends."""
    folder = site.root / "mount"
    folder.mkdir()
    mounted = StallingFuse(folder)
    try:
        site.configure(watches(dead=f"file://{mounted.stall}/tree", good=bucket(published)))
        words = [JETP, "check-config", "--online", "--deadline", "1", site.config]
        done = subprocess.run(words, env=environment(site, {}), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 75, done
        dead, good = done.stdout.splitlines()
        assert "dead: not now: " in dead
        assert "cannot be killed (state D)" in dead
        assert good.startswith("good: ok: ")
    finally:
        mounted.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_what_is_under_way(site: Site, published: S3Server, number: int) -> None:
    """130 or 143, and no child is left."""
    with silence() as port:
        slow = {**bucket(published, endpoint=f"http://127.0.0.1:{port}"), "profile": "site"}
        slow = {name: value for name, value in slow.items() if not name.endswith(("key", "key_id"))}
        (site.root / ".aws").mkdir()
        (site.root / ".aws/credentials").write_text("[site]\naws_access_key_id = a\naws_secret_access_key = b\n")
        config = watches(git=f"git+http://127.0.0.1:{port}/x", child=slow)
        config["watches"]["child"]["env"] = {"AWS_SHARED_CREDENTIALS_FILE": str(site.root / ".aws/credentials")}
        site.configure(config)
        command = [JETP, "check-config", "--online", site.config]
        with subprocess.Popen(command, env=environment(site, {}), stdout=subprocess.PIPE) as child:
            try:
                until(lambda: children_that_ask(port))
                child.send_signal(number)
                assert child.wait(30) == 128 + number
            finally:
                child.kill()
        until(lambda: not children_that_ask(port))
        assert list((site.root / "tmp").iterdir()) == []


def children_that_ask(port: int) -> list[str]:
    """Processes whose words name this port."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if f":{port}/" in line and "check-config" not in line]


def test_wrong_words_leave_with_2(site: Site) -> None:
    """--deadline is for --online, and a duration."""
    _, err = check(site, watches(script=None), "--deadline", "2", code=2)
    assert "--online" in err
    _, err = check(site, watches(script=None), "--online", "--deadline", "soon", code=2)
    assert "--deadline" in err
    assert "expected seconds or a duration" in err


def test_a_configuration_that_will_not_do_is_not_tried(site: Site) -> None:
    """78, and the problems as ever."""
    _, err = check(site, {"content": "file:///x"}, "--online", code=78)
    assert "`jet_command` is missing" in err
    assert Path(site.config).name in err
