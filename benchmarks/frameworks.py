"""mqsdk beside FastStream, Dramatiq, Celery and the best loop of the plain client, each on the same broker, in the same rounds.

    python benchmarks/frameworks.py [--only redis-handle-mqsdk,...] [--rounds N] [--json FILE]

Needs the dependency group `bench`. 200 bytes a message, one partition, brokers of its own (Redis with AOF everysec, RabbitMQ with durable
classic queues and confirmations, Kafka with one broker and acks=all). All contenders acknowledge after the handler. They run with the fast
settings that their documentation names (`faststream_peer`, `task_queue_peers`), mqsdk with its defaults. `..._quorum`: on quorum queues,
which mqsdk declares unless it is told otherwise, beside the plain client on such a queue.

`..._cpu` is the processor time of the contender's process for a message, which a busy machine changes less than the rate. On such a machine
the rates favour whoever waits for the broker least often.

publish: 100 messages in flight where the API can, else one by one (Dramatiq, Celery). handle: a no-op handler per message. batch: a handler
for up to 500. latency: 200 a second from a process that publishes to one that handles.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

import brokers
from contenders import Contender, latency, new_topic, stamps
from harness import Case, Metric

RATE_JOBS = ("publish", "handle", "batch")


class Entry(NamedTuple):
    """counts: messages of each job; what is not there it cannot, or need not, do."""

    module: str
    kind: str
    publish: int = 0
    handle: int = 0
    batch: int = 0
    latency: bool = True


FAST, MEDIUM, SLOW = 100_000, 10_000, 4_000
ENTRIES: dict[str, dict[str, Entry]] = {
    "redis": {
        "plain": Entry("plain_clients", "Redis", publish=FAST, batch=FAST),
        "mqsdk": Entry("our_sdk", "Redis", publish=FAST, handle=FAST, batch=FAST),
        "mqsdk_ordered": Entry("our_sdk", "RedisOrdered", handle=FAST, batch=FAST, latency=False),
        "faststream": Entry("faststream_peer", "Redis", publish=MEDIUM, handle=MEDIUM, batch=FAST // 2),
        "faststream_pipeline": Entry("faststream_peer", "RedisPipelined", publish=2 * MEDIUM, latency=False),
        "dramatiq": Entry("task_queue_peers", "DramatiqRedis", publish=MEDIUM, handle=SLOW),
        "celery": Entry("task_queue_peers", "CeleryRedis", publish=SLOW, handle=SLOW),
    },
    "rabbitmq": {
        "plain": Entry("plain_clients", "Pika", publish=2 * MEDIUM, batch=FAST),
        "mqsdk": Entry("our_sdk", "Rabbit", publish=2 * MEDIUM, handle=FAST // 2, batch=FAST // 2),
        "mqsdk_ordered": Entry("our_sdk", "RabbitOrdered", handle=FAST // 2, latency=False),
        "plain_quorum": Entry("plain_clients", "PikaQuorum", publish=2 * MEDIUM, batch=FAST // 2),
        "mqsdk_quorum": Entry("our_sdk", "RabbitQuorum", publish=2 * MEDIUM, handle=FAST // 2),
        "faststream": Entry("faststream_peer", "Rabbit", publish=MEDIUM, handle=MEDIUM),
        "dramatiq": Entry("task_queue_peers", "DramatiqRabbit", publish=SLOW, handle=SLOW),
        "celery": Entry("task_queue_peers", "CeleryRabbit", publish=SLOW, handle=SLOW),
    },
    "kafka": {
        "plain": Entry("plain_clients", "Kafka", publish=FAST // 2, batch=2 * FAST),
        "mqsdk": Entry("our_sdk", "Kafka", publish=FAST // 2, handle=FAST, batch=2 * FAST),
        "mqsdk_ordered": Entry("our_sdk", "KafkaOrdered", handle=FAST, batch=2 * FAST, latency=False),
        "faststream": Entry("faststream_peer", "Kafka", publish=MEDIUM, handle=SLOW, batch=FAST),
    },
}
_FRAMEWORKS = ("faststream", "dramatiq", "celery")

# What mqsdk is held to: (broker, job) -> ratio to the plain client's loop, ratio to every framework (None: nothing is promised).
MUSTS: dict[tuple[str, str], tuple[float | None, float | None]] = {
    ("redis", "publish"): (0.6, 5.0),
    ("redis", "handle"): (0.25, 8.0),
    ("redis", "batch"): (0.8, 1.0),
    ("redis", "latency_p50"): (1.6, None),
    ("redis", "latency_p99"): (1.7, None),
    ("rabbitmq", "publish"): (0.7, 1.7),
    ("rabbitmq", "handle"): (0.5, 4.0),
    ("rabbitmq", "latency_p50"): (1.5, None),
    ("rabbitmq", "latency_p99"): (1.8, None),
    ("kafka", "publish"): (0.6, None),
    ("kafka", "handle"): (0.4, 10.0),
    ("kafka", "batch"): (0.8, None),
}
ORDERED_BATCH = 0.5  # of the plain client's loop


def musts(broker: str, what: str, who: str) -> dict[str, float]:
    """Metric -> ratio to it."""
    plain, framework = MUSTS.get((broker, what), (None, None))
    rival = "plain"
    if who == "mqsdk_quorum":  # the frameworks run on classic queues
        rival, framework = "plain_quorum", None
    if who == "mqsdk_ordered" and what == "batch":
        plain = ORDERED_BATCH
    found: dict[str, float] = {}
    if plain is not None:
        # The plain client has no handlers: its best loop is that of `batch`.
        found[f"{broker}_{'batch' if what == 'handle' else what}_{rival}"] = plain
    if framework is not None:
        found |= {f"{broker}_{what}_{name}": framework for name in _FRAMEWORKS if name in ENTRIES[broker]}
    return found


def contender(broker: str, who: str, topic: str) -> Contender:
    entry = ENTRIES[broker][who]
    made: Contender = getattr(importlib.import_module(entry.module), entry.kind)(brokers.address(), topic)
    return made


def topic_of(broker: str) -> str:
    topic = new_topic()
    if broker == "kafka":
        from kafka.admin import KafkaAdminClient

        admin = KafkaAdminClient(bootstrap_servers=[brokers.address()])
        admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
        admin.close()
    return topic


def rate_case(broker: str, who: str, job: str, count: int) -> Case:
    name = f"{broker}_{job}_{who}"

    def run() -> dict[str, float]:
        one = contender(broker, who, topic_of(broker))
        began = time.process_time()
        found = one.publish(count)
        if job != "publish":
            began = time.process_time()
            found = getattr(one, job)(count)
        return {name: found, f"{name}_cpu": 1e6 * (time.process_time() - began) / count}

    ours = who.startswith("mqsdk")
    over = (f"{broker}_publish_faststream_pipeline",) if ours and broker == "redis" and job == "publish" else ()
    plain_cpu = (f"{broker}_{'batch' if job == 'handle' else job}_plain_cpu",) if ours else ()
    metrics = (
        Metric(name, "/s", over=over, musts=musts(broker, job, who) if ours else {}),
        Metric(f"{name}_cpu", "us", over=plain_cpu),
    )
    return Case(name.replace("_", "-"), run, metrics, broker)


def latency_case(broker: str, who: str) -> Case:
    name = f"{broker}_latency_%s_{who}"

    def run() -> dict[str, float]:
        topic = topic_of(broker)
        p50, p99 = latency(contender(broker, who, topic), f"{broker}-{who}", topic)
        return {name % "p50": p50, name % "p99": p99}

    ours = who.startswith("mqsdk")
    metrics = [
        Metric(name % which, "ms", at_most=True, musts=musts(broker, f"latency_{which}", who) if ours else {}) for which in ("p50", "p99")
    ]
    return Case(f"{broker}-latency-{who}".replace("_", "-"), run, tuple(metrics), broker)


def cases() -> list[Case]:
    """By broker and job, so that what is compared runs one after the other."""
    found: list[Case] = []
    for broker, entries in ENTRIES.items():
        for job in RATE_JOBS:
            counts: Mapping[str, int] = {who: getattr(entry, job) for who, entry in entries.items()}
            found += [rate_case(broker, who, job, count) for who, count in counts.items() if count]
        found += [latency_case(broker, who) for who, entry in entries.items() if entry.latency]
    return found


CASES = tuple(cases())


def main() -> int:
    if sys.argv[1:2] == ["--pulse"]:
        name, topic = sys.argv[2:]
        broker, who = name.split("-")
        contender(broker, who, topic).pulse(stamps())
        return 0
    from run import main as run

    return run({case.name: case for case in CASES})


if __name__ == "__main__":
    sys.exit(main())
