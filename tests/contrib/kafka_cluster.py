"""The mock brokers of librdkafka, which speak real TCP, in a process of their own until that is killed.

They live as long as a client that asked for them, and to take such a client down can wait for ever in C, where no
timeout reaches: a test's process is no place for it. Standard output: first the brokers' addresses, then a line for
each message of standard input (a JSON array: topic, partition, text) as soon as it is there.
"""

from __future__ import annotations

import json
import sys

import confluent_kafka


def main() -> None:
    """Serve until killed."""
    producer = confluent_kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
    found = producer.list_topics(timeout=30).brokers.values()
    print(",".join(f"{broker.host}:{broker.port}" for broker in found), flush=True)
    for line in sys.stdin:
        topic, partition, text = json.loads(line)
        producer.produce(topic, text.encode(), partition=partition)
        print(producer.flush(30), flush=True)


if __name__ == "__main__":
    main()
