"""check-nats, check-redis, check-kafka, check-rabbitmq and acknowledge-rabbitmq against real servers."""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from brokers import Broker, KafkaCluster, on_nats, on_rabbitmq
from script_runner import Ended, Scripts


@pytest.fixture
def name() -> str:
    """A stream, key, topic or queue of this test alone."""
    return f"t{secrets.token_hex(6)}"


def nats_check(scripts: Scripts, broker: Broker, *words: str, applied: str = "", **env: str) -> Ended:
    """Run check-nats."""
    return scripts.run("check-nats", broker.url, *words, JETWATCH_APPLIED_REVISION=applied, **{**broker.env, **env})


def published(broker: Broker, stream: str, *subjects: str) -> None:
    """Publish one message for each subject, into a stream that is made if it is not there."""

    async def work(client: Any) -> None:
        jetstream = client.jetstream()
        await jetstream.add_stream(name=stream, subjects=[f"{stream}.>"])
        for subject in subjects:
            await jetstream.publish(f"{stream}.{subject}", b"go")

    on_nats(broker, work)


def sequence(ended: Ended) -> int:
    """The first part of a revision of check-nats."""
    number, _, when = ended.outputs["revision"].partition("@")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", when)
    return int(number)


def test_the_last_sequence_of_a_stream_is_the_revision(nats_server: Broker, scripts: Scripts, name: str) -> None:
    """Later, due, not due, due again; and nothing is consumed."""
    published(nats_server, name)
    assert nats_check(scripts, nats_server, "--stream", name).exit_code == 75
    published(nats_server, name, "a", "b")
    first = nats_check(scripts, nats_server, "--stream", name)
    assert (first.exit_code, sequence(first), first.stderr) == (0, 2, "")
    applied = first.outputs["revision"]
    assert nats_check(scripts, nats_server, "--stream", name, applied=applied).exit_code == 1
    published(nats_server, name, "a")
    third = nats_check(scripts, nats_server, "--stream", name, applied=applied)
    assert (third.exit_code, sequence(third)) == (0, 3)
    state = on_nats(nats_server, lambda client: client.jetstream().stream_info(name)).state
    assert (state.messages, state.consumer_count) == (3, 0)


def test_what_was_consumed_or_purged_is_no_news(nats_server: Broker, scripts: Scripts, name: str) -> None:
    """The position counts what came, not what is left."""
    published(nats_server, name, "a", "b")
    applied = nats_check(scripts, nats_server, "--stream", name).outputs["revision"]
    on_nats(nats_server, lambda client: client.jetstream().purge_stream(name))
    assert nats_check(scripts, nats_server, "--stream", name, applied=applied).exit_code == 1


@pytest.mark.parametrize("by_subject", [False, True], ids=["stream", "subject"])
def test_a_stream_that_is_made_again_is_another_one(
    nats_server: Broker, scripts: Scripts, name: str, by_subject: bool
) -> None:
    """It counts from 1 anew: with as many messages as before it must not read as unchanged."""
    words = ["--stream", name, *(["--subject", f"{name}.web"] if by_subject else [])]
    published(nats_server, name, "web", "web")
    first = nats_check(scripts, nats_server, *words)
    applied = first.outputs["revision"]
    assert nats_check(scripts, nats_server, *words, applied=applied).exit_code == 1
    on_nats(nats_server, lambda client: client.jetstream().delete_stream(name))
    assert nats_check(scripts, nats_server, *words, applied=applied).exit_code == 3
    published(nats_server, name, "web", "web")
    again = nats_check(scripts, nats_server, *words, applied=applied)
    assert (again.exit_code, sequence(again)) == (0, sequence(first))


def test_a_subject_has_a_position_of_its_own(nats_server: Broker, scripts: Scripts, name: str) -> None:
    """Messages of other subjects make nothing due."""
    published(nats_server, name, "web", "db")
    words = ("--stream", name, "--subject", f"{name}.web")
    ended = nats_check(scripts, nats_server, *words)
    assert sequence(ended) == 1
    published(nats_server, name, "db")
    assert nats_check(scripts, nats_server, *words, applied=ended.outputs["revision"]).exit_code == 1
    assert nats_check(scripts, nats_server, "--stream", name, "--subject", f"{name}.nope").exit_code == 75


def test_a_key_of_a_bucket_is_a_subject(nats_server: Broker, scripts: Scripts, name: str) -> None:
    """The revision of a key-value entry is what --subject shows."""

    async def work(client: Any) -> int:
        bucket = await client.jetstream().create_key_value(bucket=name)
        await bucket.put("other", b"1")
        return int(await bucket.put("site", b"2"))

    revision = on_nats(nats_server, work)
    ended = nats_check(scripts, nats_server, "--stream", f"KV_{name}", "--subject", f"$KV.{name}.site")
    assert sequence(ended) == revision


@pytest.mark.parametrize("stream", ["", "a.b", "*", ">", "a b", "a/b"])
def test_a_name_that_no_stream_can_have_is_wrong_usage(nats_server: Broker, scripts: Scripts, stream: str) -> None:
    """It would be a part of another question."""
    assert nats_check(scripts, nats_server, "--stream", stream).exit_code == 2


def test_nats_errors_are_one_line(nats_server: Broker, scripts: Scripts, name: str) -> None:
    """A missing stream, a wrong password, nobody there: 3, and the password is not shown."""
    missing = nats_check(scripts, nats_server, "--stream", name)
    assert (missing.exit_code, "has no stream" in missing.stderr) == (3, True)
    denied = nats_check(scripts, nats_server, "--stream", name, NATS_PASSWORD="wrong-password")
    assert (denied.exit_code, "authorization violation" in denied.stderr.lower()) == (3, True)
    assert "wrong-password" not in denied.stdout + denied.stderr
    gone = scripts.run("check-nats", f"nats://127.0.0.1:{_closed_port()}", "--stream", name)
    assert (gone.exit_code, "Connect call failed" in gone.stderr) == (3, True)
    assert [ended.stderr.count("\n") for ended in (missing, denied, gone)] == [1, 1, 1]


@pytest.mark.parametrize("text", ["", "nonsense"])
def test_a_file_without_a_certificate_is_said(scripts: Scripts, tmp_path: Any, text: str) -> None:
    """Of NATS and RabbitMQ, before anything is asked."""
    ca_file = tmp_path / "ca.pem"
    if text:
        ca_file.write_text(text)
    nats = scripts.run("check-nats", "tls://127.0.0.1:9", "--stream", "x", NATS_CA=str(ca_file))
    rabbit = scripts.run("check-rabbitmq", "amqps://127.0.0.1:9/", "--queue", "x", RABBITMQ_CA=str(ca_file))
    assert (nats.exit_code, nats.stderr.count("\n"), "NATS_CA" in nats.stderr) == (3, 1, True)
    assert (rabbit.exit_code, rabbit.stderr.count("\n"), str(ca_file) in rabbit.stderr) == (3, 1, True)


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1/", ""])
@pytest.mark.parametrize("script", ["check-rabbitmq", "acknowledge-rabbitmq"])
def test_what_is_no_url_of_rabbitmq_is_wrong_usage(scripts: Scripts, script: str, url: str) -> None:
    """And says what was expected."""
    ended = scripts.run(script, url, "--queue", "x", JETWATCH_REVISION="x")
    assert (ended.exit_code, "expected amqp://" in ended.stderr) == (2, True)


def _closed_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@contextlib.contextmanager
def redis_client(broker: Broker) -> Iterator[Any]:
    """Lend a client."""
    import redis

    with contextlib.closing(redis.Redis.from_url(broker.url, password=broker.password)) as client:
        yield client


def redis_check(scripts: Scripts, broker: Broker, *words: str, applied: str = "", **env: str) -> Ended:
    """Run check-redis."""
    return scripts.run("check-redis", broker.url, *words, JETWATCH_APPLIED_REVISION=applied, **{**broker.env, **env})


def test_the_last_id_of_a_redis_stream_is_the_revision(redis_server: Broker, scripts: Scripts, name: str) -> None:
    """Also when entries were trimmed away since; nothing is consumed."""
    assert redis_check(scripts, redis_server, "--stream", name).exit_code == 75
    with redis_client(redis_server) as client:
        first = client.xadd(name, {"go": "1"}).decode()
        ended = redis_check(scripts, redis_server, "--stream", name)
        assert (ended.exit_code, ended.outputs, ended.stderr) == (0, {"revision": first}, "")
        assert redis_check(scripts, redis_server, "--stream", name, applied=first).exit_code == 1
        second = client.xadd(name, {"go": "2"}).decode()
        client.xtrim(name, maxlen=0)
        assert redis_check(scripts, redis_server, "--stream", name, applied=first).outputs == {"revision": second}
        client.delete(name)
        client.xgroup_create(name, "group", mkstream=True)
        assert redis_check(scripts, redis_server, "--stream", name).exit_code == 75


@pytest.mark.parametrize(
    ("value", "is_digest"), [(b"v1.2", False), (b"two\nlines", True), (b"x" * 300, True), (b"\xff", False), (b"", True)]
)
def test_the_value_of_a_redis_key_is_the_revision(
    redis_server: Broker, scripts: Scripts, name: str, value: bytes, is_digest: bool
) -> None:
    """As it is if it is one short line, else by its digest."""
    assert redis_check(scripts, redis_server, "--key", name).exit_code == 75
    with redis_client(redis_server) as client:
        client.set(name, value)
        ended = redis_check(scripts, redis_server, "--key", name)
        assert ended.exit_code == 0
        revision = ended.outputs["revision"]
        assert revision.startswith("sha256:") == is_digest
        assert redis_check(scripts, redis_server, "--key", name, applied=revision).exit_code == 1
        client.set(name, value + b"2")
        assert redis_check(scripts, redis_server, "--key", name, applied=revision).exit_code == 0


def test_redis_errors_are_one_line(redis_server: Broker, scripts: Scripts, name: str) -> None:
    """A key of another kind, a wrong password, nobody there."""
    with redis_client(redis_server) as client:
        client.xadd(name, {"go": "1"})
        client.set(f"{name}-key", "x")
    other = redis_check(scripts, redis_server, "--key", name)
    stream = redis_check(scripts, redis_server, "--stream", f"{name}-key")
    denied = redis_check(scripts, redis_server, "--key", name, REDIS_PASSWORD="wrong-password")
    gone = scripts.run("check-redis", f"redis://127.0.0.1:{_closed_port()}/0", "--key", name)
    for ended in (other, stream, denied, gone):
        assert (ended.exit_code, ended.stderr.count("\n")) == (3, 1)
    assert "WRONGTYPE" in other.stderr
    assert "wrong-password" not in denied.stderr


def kafka_check(scripts: Scripts, cluster: KafkaCluster, topic: str, *words: str, applied: str = "") -> Ended:
    """Run check-kafka."""
    variables = {"JETWATCH_APPLIED_REVISION": applied}
    return scripts.run("check-kafka", cluster.servers, "--topic", topic, *words, **variables)


def test_the_end_offsets_of_a_topic_are_the_revision(kafka_cluster: KafkaCluster, scripts: Scripts, name: str) -> None:
    """A message in any partition is another revision, and a look changes nothing."""
    kafka_cluster.publish(name, 0, "go")
    first = kafka_check(scripts, kafka_cluster, name)
    assert (first.exit_code, first.stderr) == (0, "")
    assert first.outputs["revision"].startswith("0:1,1:0")
    assert kafka_check(scripts, kafka_cluster, name, applied=first.outputs["revision"]).exit_code == 1
    kafka_cluster.publish(name, 1, "go")
    second = kafka_check(scripts, kafka_cluster, name, applied=first.outputs["revision"])
    assert second.exit_code == 0
    assert second.outputs["revision"].startswith("0:1,1:1")


def test_kafka_errors_are_one_line(kafka_cluster: KafkaCluster, scripts: Scripts, name: str, tmp_path: Any) -> None:
    """A missing topic, nobody there, settings that are none."""
    missing = kafka_check(scripts, kafka_cluster, name)
    words = ("--topic", name, "--timeout", "3")
    gone = scripts.run("check-kafka", f"127.0.0.1:{_closed_port()}", *words)
    for ended in (missing, gone):
        assert (ended.exit_code, ended.stderr.count("\n")) == (3, 1)
    assert name in missing.stderr
    settings = tmp_path / "kafka.conf"
    for text in ("no equals sign", "no.such.setting=1"):
        settings.write_text(f"# settings\nsocket.timeout.ms=1000\n{text}\n")
        ended = kafka_check(scripts, kafka_cluster, name, "--config", str(settings))
        assert (ended.exit_code, ended.stderr.count("\n")) == (2, 1)
    settings.write_text("socket.timeout.ms=1000\n")
    kafka_cluster.publish(name, 0, "go")
    assert kafka_check(scripts, kafka_cluster, name, "--config", str(settings)).exit_code == 0


RabbitScript = Callable[..., Ended]


@pytest.fixture
def rabbit(rabbitmq_server: Broker, scripts: Scripts, name: str) -> RabbitScript:
    """Runs one of the two scripts on the queue of this test."""

    def run(script: str, revision: str = "", **env: str) -> Ended:
        variables = {**rabbitmq_server.env, "JETWATCH_REVISION": revision, **env}
        return scripts.run(script, rabbitmq_server.url, "--queue", name, **variables)

    return run


def filled(broker: Broker, queue: str, *messages: tuple[str | None, bytes]) -> None:
    """Put messages with these ids into a queue."""
    import pika

    with on_rabbitmq(broker) as channel:
        channel.queue_declare(queue)
        for message_id, body in messages:
            channel.basic_publish("", queue, body, pika.BasicProperties(message_id=message_id))


def waiting(broker: Broker, queue: str) -> int:
    """How many messages are in a queue."""
    with on_rabbitmq(broker) as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


def test_a_message_is_due_and_stays_until_it_is_acknowledged(
    rabbitmq_server: Broker, rabbit: RabbitScript, name: str
) -> None:
    """The check takes nothing away; on_start does, once, and twice is no harm."""
    filled(rabbitmq_server, name)
    assert rabbit("check-rabbitmq").exit_code == 1
    filled(rabbitmq_server, name, ("release-1", b"go"), ("release-2", b"go"))
    for _ in range(2):
        ended = rabbit("check-rabbitmq")
        assert (ended.exit_code, ended.outputs, ended.stderr) == (0, {"revision": "release-1"}, "")
    assert waiting(rabbitmq_server, name) == 2
    for said in ("release-1 is acknowledged", "release-1 is not in"):
        ended = rabbit("acknowledge-rabbitmq", "release-1")
        assert (ended.exit_code, ended.stderr) == (0, "")
        assert ended.stdout.startswith(said)
        assert waiting(rabbitmq_server, name) == 1
    assert rabbit("check-rabbitmq").outputs == {"revision": "release-2"}


def test_a_message_behind_others_is_acknowledged_and_they_stay(
    rabbitmq_server: Broker, rabbit: RabbitScript, name: str
) -> None:
    """What is looked at on the way goes back."""
    filled(rabbitmq_server, name, ("a", b"1"), ("b", b"2"), ("c", b"3"))
    assert rabbit("acknowledge-rabbitmq", "b").exit_code == 0
    assert waiting(rabbitmq_server, name) == 2
    assert rabbit("check-rabbitmq").outputs == {"revision": "a"}


@pytest.mark.parametrize("message_id", [None, "two\nlines", "x" * 255])
def test_a_message_without_a_proper_id_goes_by_its_digest(
    rabbitmq_server: Broker, rabbit: RabbitScript, name: str, message_id: str | None
) -> None:
    """One line in JETWATCH_OUTPUT, whatever the publisher wrote."""
    filled(rabbitmq_server, name, (message_id, b"body"))
    revision = rabbit("check-rabbitmq").outputs["revision"]
    assert revision.startswith("sha256:")
    assert rabbit("acknowledge-rabbitmq", revision).exit_code == 0
    assert waiting(rabbitmq_server, name) == 0


def test_rabbitmq_errors_are_one_line(rabbitmq_server: Broker, rabbit: RabbitScript, scripts: Scripts) -> None:
    """A missing queue, a wrong password, nobody there: for the check and for the hook."""
    for script in ("check-rabbitmq", "acknowledge-rabbitmq"):
        missing = rabbit(script, "x")
        denied = rabbit(script, "x", RABBITMQ_PASSWORD="wrong-password")
        url = f"amqp://127.0.0.1:{_closed_port()}/"
        gone = scripts.run(script, url, "--queue", "q", "--timeout", "5", JETWATCH_REVISION="x")
        for ended in (missing, denied, gone):
            assert (ended.exit_code, ended.stderr.count("\n")) == (3, 1), ended.stderr
        assert "no queue" in missing.stderr
        assert "wrong-password" not in denied.stderr
    assert rabbit("acknowledge-rabbitmq").exit_code == 2
