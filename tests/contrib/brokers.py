"""Real brokers on loopback: NATS, Redis, RabbitMQ, and the mock cluster of librdkafka, which speaks real TCP.

Like the servers of `servers.py`: free ports, directories and passwords of their own, gone at the end; one that is not
installed skips its tests with the reason, and fails them in CI.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from servers import START_TRIES, NotReadyError, free_ports, program, running

KAFKA_CLUSTER = Path(__file__).with_name("kafka_cluster.py")


@dataclass(frozen=True)
class Broker:
    """Where a broker listens, and the variables that let a script in."""

    url: str
    env: dict[str, str]
    password: str = ""


def server_program(name: str, *places: str) -> str:
    """Find a server where Debian puts it."""
    found = shutil.which(name, path=os.pathsep.join([*places, os.environ.get("PATH", os.defpath), "/usr/sbin"]))
    return found or program(name)


@contextlib.contextmanager
def tried(start: Callable[[Path], contextlib.AbstractContextManager[Broker]]) -> Iterator[Broker]:
    """Start a broker in a new directory, again with other ports if some were taken meanwhile."""
    with contextlib.ExitStack() as stack:
        for attempt in range(1, START_TRIES + 1):
            made = tempfile.TemporaryDirectory(prefix="jw-broker-", ignore_cleanup_errors=True)
            directory = Path(stack.enter_context(made))
            try:
                broker = stack.enter_context(start(directory))
            except NotReadyError:
                if attempt == START_TRIES:
                    raise
            else:
                break
        yield broker


@contextlib.contextmanager
def redis_in(directory: Path) -> Iterator[Broker]:
    """Run Redis with a password."""
    import redis

    port, password = free_ports(1)[0], secrets.token_hex(16)
    (directory / "redis.conf").write_text(
        f"port {port}\nbind 127.0.0.1\nrequirepass {password}\ndir {directory}\nsave ''\nlogfile ''\n".replace(
            "''", '""'
        )
    )

    def answers() -> bool:
        with contextlib.closing(redis.Redis(port=port, password=password)) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    with running([server_program("redis-server"), str(directory / "redis.conf")], directory, {}, answers):
        yield Broker(f"redis://127.0.0.1:{port}/0", {"REDIS_PASSWORD": password}, password)


NATS_CONFIG = """\
host: 127.0.0.1
port: {port}
jetstream {{ store_dir: "{directory}/store" }}
authorization {{ user: tester, password: "{password}" }}
"""


@contextlib.contextmanager
def nats_in(directory: Path) -> Iterator[Broker]:
    """Run NATS with JetStream and a password."""
    port, password = free_ports(1)[0], secrets.token_hex(16)
    (directory / "nats.conf").write_text(NATS_CONFIG.format(port=port, directory=directory, password=password))
    broker = Broker(f"nats://127.0.0.1:{port}", {"NATS_USER": "tester", "NATS_PASSWORD": password}, password)

    def answers() -> bool:
        try:
            on_nats(broker, lambda client: client.jetstream().account_info())
        except Exception:  # noqa: BLE001 - the library has many, and each means: not yet
            return False
        return True

    with running([program("nats-server"), "-c", str(directory / "nats.conf")], directory, {}, answers):
        yield broker


def on_nats(broker: Broker, work: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    """Do something as a client of NATS."""
    import nats

    async def quiet(_: Exception) -> None:
        """What goes wrong is raised too."""

    async def connected() -> Any:
        client = await nats.connect(
            broker.url, user="tester", password=broker.password, allow_reconnect=False, error_cb=quiet
        )
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(connected())


RABBITMQ_CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{port}
default_user = tester
default_pass = {password}
"""


@contextlib.contextmanager
def rabbitmq_in(directory: Path) -> Iterator[Broker]:
    """Run RabbitMQ without plugins, with a port mapper of its own (it would leave the usual one running)."""
    server = server_program("rabbitmq-server", "/usr/lib/rabbitmq/bin", "/usr/lib/rabbitmq/sbin")
    epmd = server_program("epmd", *map(str, Path("/usr/lib/erlang").glob("erts-*/bin")))
    port, distribution, mapper = free_ports(3)
    password = secrets.token_hex(16)
    (directory / "rabbitmq.conf").write_text(RABBITMQ_CONFIG.format(port=port, password=password))
    (directory / "plugins").write_text("[].")
    env = {
        "RABBITMQ_NODENAME": f"test{port}@localhost",
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": str(directory / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }
    broker = Broker(f"amqp://127.0.0.1:{port}/", {"RABBITMQ_USER": "tester", "RABBITMQ_PASSWORD": password}, password)

    def answers() -> bool:
        try:
            with on_rabbitmq(broker):
                return True
        except Exception:  # noqa: BLE001 - the library has many, and each means: not yet
            return False

    mapper_directory = directory / "epmd"
    mapper_directory.mkdir()
    argv = [epmd, "-address", "127.0.0.1", "-port", str(mapper)]
    with running(argv, mapper_directory, {}, lambda: True), running([server], directory, env, answers):
        yield broker


@contextlib.contextmanager
def on_rabbitmq(broker: Broker) -> Iterator[Any]:
    """Lend a channel."""
    import pika

    parameters = pika.URLParameters(broker.url)
    parameters.credentials = pika.PlainCredentials("tester", broker.password)
    connection = pika.BlockingConnection(parameters)
    try:
        yield connection.channel()
    finally:
        connection.close()


class KafkaCluster:
    """librdkafka's mock brokers, which listen on real ports."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.servers = self._answer()

    def publish(self, topic: str, partition: int, text: str) -> None:
        """Append one message, and wait until it is there."""
        assert self._process.stdin is not None
        print(json.dumps([topic, partition, text]), file=self._process.stdin, flush=True)
        assert self._answer() == "0"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the mock brokers have ended"
        return line.rstrip("\n")


def module(name: str) -> Any:
    """Import a client library, or skip; in CI, fail."""
    if os.environ.get("CI") == "true":
        return __import__(name)
    return pytest.importorskip(name)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Broker]:
    """A Redis for the session; tests keep apart by key."""
    module("redis")
    with tried(redis_in) as broker:
        yield broker


@pytest.fixture(scope="session")
def nats_server() -> Iterator[Broker]:
    """A NATS for the session; tests keep apart by stream."""
    module("nats")
    with tried(nats_in) as broker:
        yield broker


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[Broker]:
    """A RabbitMQ for the session; tests keep apart by queue."""
    module("pika")
    with tried(rabbitmq_in) as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka_cluster() -> Iterator[KafkaCluster]:
    """A mock cluster for the session; tests keep apart by topic."""
    module("confluent_kafka")
    words = [sys.executable, str(KAFKA_CLUSTER)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield KafkaCluster(process)
        finally:
            process.kill()
