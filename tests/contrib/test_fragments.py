"""Every watch.yml fragment of contrib/README.md through the installed jetp, against the real server that it speaks of.

A fragment is taken as it stands; only what is elsewhere here is replaced: names of hosts, directories, the file with
the credentials, and the play, which copies what it was given.
"""

from __future__ import annotations

import contextlib
import getpass
import io
import json
import re
import sys
import tarfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from acceptance.agent_process import Site
from brokers import Broker, KafkaCluster, on_nats, on_rabbitmq
from script_runner import CONTRIB, path_of
from servers import S3Server, git_over_http
from ssh_server import ssh_server
from test_git_scripts import Repository, git
from web_server import Page, serving

pytestmark = pytest.mark.slow

FRAGMENTS = re.findall(r"```yaml\n(.*?)```", (CONTRIB / "README.md").read_text(), re.DOTALL)
PLAYBOOK = "- hosts: localhost\n"

Replacements = Mapping[str, str]
Request = pytest.FixtureRequest


def fragment_with(*words: str) -> str:
    """The one fragment of the README that has all these words."""
    found = [text for text in FRAGMENTS if all(word in text for word in words)]
    assert len(found) == 1, words
    return found[0]


def env_file(site: Site, values: Mapping[str, str]) -> str:
    """A private file with credentials."""
    path = site.root / "secret.env"
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    path.chmod(0o600)
    return str(path)


@contextlib.contextmanager
def in_bucket(site: Site, request: Request, client: str) -> Iterator[Replacements]:
    """A prefix of SeaweedFS, with a marker."""
    server: S3Server = request.getfixturevalue("seaweedfs_server")
    prefix = f"{uuid.uuid4()}/"
    with server.client() as writer:
        for key, text in {"pb.yml": PLAYBOOK, "REVISION": "1"}.items():
            writer.put_object(Bucket=server.bucket, Key=prefix + key, Body=text.encode())
    names = ("MINIO_ENDPOINT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY")
    minio = dict(zip(names, (server.endpoint, server.access_key, server.secret_key), strict=True))
    secrets = env_file(site, minio if client == "minio" else server.env())
    yield {
        "s3://content/site/": f"s3://{server.bucket}/{prefix}",
        f"/etc/jetwatch/{client}.env": secrets,
        "--settle 10": "--settle 0.2",
    }


@contextlib.contextmanager
def in_git(site: Site) -> Iterator[Repository]:
    """A repository with a playbook on `main`, and below `machines` on `release`."""
    made = Repository(site.root, "")
    git("init", "--quiet", "--bare", "--initial-branch=main", str(made.bare))
    git("clone", "--quiet", str(made.bare), str(site.root / "clone"))
    made.git("checkout", "--quiet", "-B", "main")
    made.publish({"pb.yml": PLAYBOOK})
    made.git("checkout", "--quiet", "-B", "release")
    made.publish({"machines/pb.yml": PLAYBOOK})
    yield made


@contextlib.contextmanager
def s3_marker(site: Site, request: Request) -> Iterator[Replacements]:
    """A prefix with a marker."""
    with in_bucket(site, request, "s3") as found:
        yield found


@contextlib.contextmanager
def s3_listing(site: Site, request: Request) -> Iterator[Replacements]:
    """This fragment shows no credentials: they are the agent's own."""
    server: S3Server = request.getfixturevalue("seaweedfs_server")
    with in_bucket(site, request, "s3") as found:
        yield {**found, "jet_command:": f"env: {json.dumps(server.env())}\njet_command:"}


@contextlib.contextmanager
def minio(site: Site, request: Request) -> Iterator[Replacements]:
    """The same, with the variables of MinIO."""
    with in_bucket(site, request, "minio") as found:
        yield found


@contextlib.contextmanager
def git_https(site: Site, _: Request) -> Iterator[Replacements]:
    """A repository by http."""
    with in_git(site), git_over_http(site.root / "served") as base:
        yield {"https://git.example.com/": f"{base}/"}


@contextlib.contextmanager
def git_ssh(site: Site, _: Request) -> Iterator[Replacements]:
    """The same by ssh, with a key and a known host."""
    keys = site.root / "keys"
    keys.mkdir()
    with in_git(site) as made, ssh_server(site.root, keys) as server:
        yield {
            "git@git.example.com:site.git": f"ssh://{getpass.getuser()}@127.0.0.1:{server.port}{made.bare}",
            "ssh -i /etc/jetwatch/id_ed25519": f"ssh -i {server.key} -o UserKnownHostsFile={server.known_hosts}",
        }


@contextlib.contextmanager
def web_archive(_: Site, __: Request) -> Iterator[Replacements]:
    """An archive on a web server."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("pb.yml")
        entry.size = len(PLAYBOOK)
        archive.addfile(entry, io.BytesIO(PLAYBOOK.encode()))
    with serving() as server:
        server.pages["/site.tar.gz"] = Page(packed.getvalue(), etag='"abc"')
        yield {"https://content.example.com/": f"{server.url}/"}


@contextlib.contextmanager
def web_service(site: Site, _: Request) -> Iterator[Replacements]:
    """A service that wants a token and answers with JSON."""
    with serving() as server:
        said = json.dumps({"release": {"version": "1.2"}}).encode()
        server.pages["/machines/web1"] = Page(said, authorization="Bearer hush")
        yield {
            "https://api.example.com/": f"{server.url}/",
            "/etc/jetwatch/http.env": env_file(site, {"HTTP_TOKEN": "hush"}),
        }


@contextlib.contextmanager
def directory(site: Site, _: Request) -> Iterator[Replacements]:
    """A directory with a marker."""
    content = site.root / "content"
    content.mkdir()
    (content / "pb.yml").write_text(PLAYBOOK)
    (content / "REVISION").write_text("v1\n")
    yield {"/mnt/content/site": str(content), "--settle 10": "--settle 0.2"}


@contextlib.contextmanager
def nats(site: Site, request: Request) -> Iterator[Replacements]:
    """A stream with a message."""
    broker: Broker = request.getfixturevalue("nats_server")
    stream = f"DEPLOY{uuid.uuid4().hex}"

    async def publish(client: object) -> None:
        jetstream = client.jetstream()  # type: ignore[attr-defined]
        await jetstream.add_stream(name=stream, subjects=[f"{stream}.>"])
        await jetstream.publish(f"{stream}.web", b"go")

    on_nats(broker, publish)
    yield {
        "nats://nats.example.com:4222": broker.url,
        "--stream DEPLOY --subject deploy.web": f"--stream {stream} --subject {stream}.web",
        "/etc/jetwatch/nats.env": env_file(site, broker.env),
    }


@contextlib.contextmanager
def kafka(site: Site, request: Request) -> Iterator[Replacements]:
    """A topic with a message."""
    cluster: KafkaCluster = request.getfixturevalue("kafka_cluster")
    topic = f"deploy-{uuid.uuid4().hex}"
    cluster.publish(topic, 0, "go")
    (site.root / "kafka.conf").write_text("socket.timeout.ms=10000\n")
    yield {
        "kafka.example.com:9092": cluster.servers,
        "--topic deploy": f"--topic {topic}",
        "/etc/jetwatch/kafka.conf": str(site.root / "kafka.conf"),
    }


@contextlib.contextmanager
def redis_stream(site: Site, request: Request) -> Iterator[Replacements]:
    """A stream with an entry."""
    import redis

    broker: Broker = request.getfixturevalue("redis_server")
    name = f"deploy-{uuid.uuid4().hex}"
    with contextlib.closing(redis.Redis.from_url(broker.url, password=broker.password)) as client:
        client.xadd(name, {"go": "1"})
    yield {
        "redis://redis.example.com:6379/0": broker.url,
        "--stream deploy": f"--stream {name}",
        "/etc/jetwatch/redis.env": env_file(site, broker.env),
    }


@contextlib.contextmanager
def redis_says_when(site: Site, request: Request) -> Iterator[Replacements]:
    """A repository, and a key in which its publisher writes the commit."""
    import redis

    broker: Broker = request.getfixturevalue("redis_server")
    name = f"site-{uuid.uuid4().hex}/revision"
    with (
        in_git(site) as made,
        git_over_http(site.root / "served") as base,
        contextlib.closing(redis.Redis.from_url(broker.url, password=broker.password)) as client,
    ):
        client.set(name, made.git("rev-parse", "main"))
        yield {
            "redis://redis.example.com:6379/0": broker.url,
            "--key site/revision": f"--key {name}",
            "/etc/jetwatch/redis.env": env_file(site, broker.env),
            "git+https://git.example.com/": f"git+{base}/",
        }


@contextlib.contextmanager
def rabbitmq(site: Site, request: Request) -> Iterator[Replacements]:
    """A queue with a message."""
    broker: Broker = request.getfixturevalue("rabbitmq_server")
    queue = f"deploy-{uuid.uuid4().hex}"
    with on_rabbitmq(broker) as channel:
        channel.queue_declare(queue)
        channel.basic_publish("", queue, b"go")
    yield {
        "amqps://mq.example.com/": broker.url,
        "--queue deploy-web": f"--queue {queue}",
        "/etc/jetwatch/rabbitmq.env": env_file(site, broker.env),
    }


Maker = Callable[[Site, Request], contextlib.AbstractContextManager[Replacements]]
CASES: dict[str, tuple[tuple[str, ...], Maker]] = {
    "check-s3 with a marker": (("check-s3", "--marker"), s3_marker),
    "check-s3 by listing": (("check-s3", "--settle"), s3_listing),
    "check-git by https": (("check-git https",), git_https),
    "check-git by ssh": (("check-git git@",), git_ssh),
    "check-minio": (("check-minio",), minio),
    "check-http, an archive": (("check-http", "site.tar.gz"), web_archive),
    "check-http, a field": (("check-http", "--pointer"), web_service),
    "check-directory": (("check-directory",), directory),
    "check-file": (("check-file",), directory),
    "check-nats": (("check-nats",), nats),
    "check-kafka": (("check-kafka",), kafka),
    "check-redis": (("check-redis", "--stream"), redis_stream),
    "check-rabbitmq": (("check-rabbitmq",), rabbitmq),
    "check-redis with content": (("check-redis", "content:"), redis_says_when),
}


@pytest.fixture
def site() -> Iterator[Site]:
    """A site whose commands find this Python first."""
    made = Site()
    made.environ["PATH"] = f"{Path(sys.executable).parent}:{made.environ['PATH']}"
    try:
        yield made
    finally:
        made.end()
        made.remove()


def placed(text: str, replacements: Replacements, site: Site) -> str:
    """The fragment with what is elsewhere here."""
    for there, here in replacements.items():
        text = text.replace(there, here)
    text = re.sub(r"/etc/jetwatch/([a-z]+-[a-z0-9]+)", lambda found: str(path_of(found[1])), text)
    if "{{ download_path }}/pb.yml" in text:
        play = f"cp {{{{ download_path }}}}/pb.yml {site.root}/played"
    else:
        play = f"touch {site.root}/played"
    text, count = re.subn(r"^jet_command: .*", f"jet_command: {play}", text, flags=re.MULTILINE)
    assert count == 1
    assert "example.com" not in text
    assert "/etc/jetwatch" not in text
    return text


def test_every_fragment_has_its_case() -> None:
    """None is left out, and none is meant twice."""
    assert sorted(fragment_with(*words) for words, _ in CASES.values()) == sorted(FRAGMENTS)


@pytest.mark.parametrize("name", CASES)
def test_a_fragment_works(name: str, site: Site, request: Request) -> None:
    """The first time it is due and applied, with the revision that the check named; the second time nothing is."""
    words, maker = CASES[name]
    with maker(site, request) as replacements:
        config = placed(fragment_with(*words), replacements, site)
        agent = site.once(config)
        finished = agent.wait_for("run_finished", outcome="ok")
        assert finished["revision"]
        assert site.read("played") == (PLAYBOOK if "download_path" in config else "")
        assert (site.root / "played").exists()
        site.once(config)
        assert len(site.runs()) == 1
