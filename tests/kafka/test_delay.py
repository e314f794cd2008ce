"""Delay on a real broker: through its delay topics, by whoever runs consumers, across kills of the broker and of the process that moves."""

from __future__ import annotations

import gc
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import TopicPartition

from mqsdk.config.model import Cluster, Configuration, Route
from mqsdk.core import delay
from mqsdk.core.actions import Failure
from mqsdk.core.retry import Backoff, RetryPolicy
from mqsdk.message import Receipt
from mqsdk.runtime import launching, movers
from mqsdk.runtime.clock import SystemClock
from mqsdk.runtime.deadletters import DeadLetter, letters
from mqsdk.runtime.environment import Declared, Environment
from mqsdk.runtime.redrive import Moved, Redrive
from mqsdk.runtime.sender import Draft
from mqsdk.runtime.supervisor import Supervisor
from mqsdk.runtime.targets import RETRY_S
from mqsdk.spi import Record
from tests.brokers.kafka import KafkaBroker
from tests.kafka.stage import LEAKS
from tests.processes import MQSDK, Running, mqsdk
from tests.runtime.test_supervisor import QUICK, Recorder

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(LEAKS)]

PATIENCE_S = 60.0
LATE_MS = 3000  # three times the promise
START_S = 30.0


class Shop:
    """One process's layer 2 over the broker, with a consumer that notes when what came."""

    def __init__(self, broker: KafkaBroker) -> None:
        self.topic = f"orders-{uuid.uuid4().hex[:8]}"
        cluster = Cluster(name="main", backend="kafka", options={"servers": [broker.address]}, lease_s=4.0)
        configuration = Configuration(clusters={"main": cluster}, routes=(Route(topics=("*",), cluster="main"),))
        self.supervisor = Supervisor(configuration, Environment(), "shop")
        self.came: list[tuple[int, Record]] = []
        self.handler = Recorder(lambda record: self.came.append((time.time_ns() // 1_000_000, record)))

    def start(self) -> None:
        self.supervisor.start([Declared(topic=self.topic, group="g", handler=self.handler, tuning={"retry": QUICK})], START_S)

    def publish(self, *waits_ms: int) -> int:
        """Values `0`, `1`, ... with these delays from now on; now."""
        now_ms = time.time_ns() // 1_000_000
        drafts = [
            Draft(b"k%d" % number, b"%d" % number, f"m{number}", None, (("colour", "bl\u00fce"),), now_ms + wait)
            for number, wait in enumerate(waits_ms)
        ]
        answers = self.supervisor.publisher(self.topic).send(self.topic, drafts, 20.0)
        assert all(isinstance(answer, Receipt) and answer.position is None for answer in answers), answers
        return now_ms

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"not in time: {what}; {len(self.came)} came"
            threading.Event().wait(0.01)

    def await_mover(self) -> None:
        """This process moves: what is published from now on is its own."""
        self.publish(100)
        self.wait(lambda: len(self.came) >= 1, "the first delayed message")
        self.came.clear()


@pytest.fixture
def shop(kafka_broker: KafkaBroker) -> Iterator[Shop]:
    made = Shop(kafka_broker)
    yield made
    made.supervisor.close(10.0)
    gc.collect()  # what the client leaks is found within the test that may leak it


def test_it_comes_when_it_is_due_once_and_as_it_was(shop: Shop, kafka_broker: KafkaBroker) -> None:
    shop.start()
    shop.await_mover()
    waits = [300 + 11 * number for number in range(250)]
    now_ms = shop.publish(*waits)
    shop.wait(lambda: len(shop.came) >= 250, "250 delayed messages")
    assert Counter(record.value for _, record in shop.came) == Counter(b"%d" % number for number in range(250))
    for at_ms, record in shop.came:
        number = int(record.value)
        assert (record.key, record.id, record.headers) == (b"k%d" % number, f"m{number}", (("colour", "bl\u00fce"),))
        assert (record.extra, record.due_ms) == ((), now_ms + waits[number])
        assert now_ms <= (record.timestamp_ms or 0) <= now_ms + 2000
        assert now_ms + waits[number] <= at_ms <= now_ms + waits[number] + LATE_MS
    # The broker counts retention from its own time of a message: one that waited for a month must not be a month old.
    consumer = kafka_broker.consumer(group_id=None, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(shop.topic, number) for number in range(8)])
    consumer.seek_to_beginning()
    found = [record for _ in range(20) for records in consumer.poll(100).values() for record in records]
    consumer.close()
    stamps = {record.value: record.timestamp for record in found}
    assert len(stamps) == 250
    assert all(stamps[b"%d" % number] >= now_ms + wait for number, wait in enumerate(waits))


def test_it_survives_a_kill_of_the_broker(shop: Shop, kafka_broker: KafkaBroker) -> None:
    shop.start()
    shop.await_mover()
    shop.publish(*[6000 + number for number in range(100)])
    kafka_broker.kill()
    kafka_broker.start()
    shop.wait(lambda: {record.value for _, record in shop.came} >= {b"%d" % number for number in range(100)}, "all, after the restart")


def test_a_topic_that_is_gone_makes_a_dead_letter_which_can_be_redriven(shop: Shop) -> None:
    shop.start()
    shop.await_mover()
    old, admin = f"{shop.topic}-old", shop.supervisor.clusters.backend("main").admin()
    now_ms = time.time_ns() // 1_000_000
    [receipt] = shop.supervisor.publisher(old).send(old, [Draft(b"k", b"lost", "lost", due_ms=now_ms + 1500)], 20.0)
    assert isinstance(receipt, Receipt)
    shop.publish(1500, 1600)
    admin.delete_topic(old)

    def dead() -> list[DeadLetter]:
        found = letters(admin, delay.DEAD_TOPIC, delay.DEAD_GROUP)
        return [letter for letter in found if dict(letter.record.extra)[delay.TARGET] == old]

    shop.wait(lambda: len(shop.came) == 2 and len(dead()) == 1, "two messages and a dead letter")
    assert all(at_ms - (record.due_ms or 0) <= LATE_MS for at_ms, record in shop.came)
    assert dead()[0].reason == "no_route"
    admin.ensure_topic(old, 1)
    work = Redrive(shop.supervisor.clusters.backend("main"), delay.DEAD_TOPIC, delay.DEAD_GROUP, SystemClock(), 10.0)
    threading.Event().wait(RETRY_S)  # what is known of a topic is asked anew after that
    assert list(work.run(iter(dead()))) == [Moved(1)]
    shop.wait(lambda: admin.bounds(old, 0)[1] == 1, "the redriven one")
    [record] = admin.read(old, 0, 0, 10)
    assert (record.key, record.value, record.id, record.extra, record.due_ms) == (b"k", b"lost", "lost", (), now_ms + 1500)


def test_a_long_wait_for_a_retry_is_a_delayed_copy(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "LONGEST_WAIT_S", 0.5)
    policy = RetryPolicy(attempts=3, backoff=Backoff("1s", factor=1, jitter=0))
    handler = Recorder(lambda record: Failure("error", "ValueError: no"))
    shop.supervisor.start([Declared(topic=shop.topic, group="g", handler=handler, tuning={"retry": policy})], START_S)
    shop.supervisor.publisher(shop.topic).send(shop.topic, [Draft(b"k", b"poison", "m")], 20.0)
    shop.wait(lambda: len(handler.seen) == 3, "three attempts")
    admin = shop.supervisor.clusters.backend("main").admin()
    shop.wait(lambda: len(list(letters(admin, shop.topic, "g"))) == 1, "the dead letter")
    assert handler.seen == [(b"poison", 1), (b"poison", 2), (b"poison", 3)]
    [letter] = letters(admin, shop.topic, "g")
    assert (letter.id, letter.attempts, letter.reason, letter.record.key) == ("m", 3, "exhausted", b"k")
    assert admin.bounds(f"{shop.topic}.g.retry", letter.origin_partition or 0)[1] == 2
    shop.wait(lambda: shop.supervisor.lag(shop.topic, "g").messages == 0, "all settled")


def test_what_has_left_a_delay_topic_is_removed_from_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movers, "TRIM_EVERY_S", 0.1)
    monkeypatch.setattr(movers, "LOOK_EVERY_S", 0.1)
    shop.start()
    shop.await_mover()
    shop.publish(*[300] * 100)
    shop.wait(lambda: len(shop.came) >= 100, "100 delayed messages")
    admin = shop.supervisor.clusters.backend("main").admin()

    def left() -> int:
        bounds = [admin.bounds(delay.TOPICS[0], number) for number in range(admin.partitions(delay.TOPICS[0]) or 0)]
        return sum(end - start for start, end in bounds)

    shop.wait(lambda: left() == 0, "the delay topic is empty")


APP = """
import os, time
from mqsdk import App, Message
app = App()
handled = os.open("handled", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

@app.consumer("{topic}", group="g")
def note(payload: str, message: Message) -> None:
    os.write(handled, f"{{payload}} {{time.time() - message.due_at.timestamp():.3f}}\\n".encode())
"""
CONFIG = """
version: 1
app: shop
clusters:
  main: {{backend: kafka, servers: ["{address}"], lease: 2s}}
routes: [{{topics: ["*"], cluster: main}}]
"""
PUBLISH = """
from mqsdk import App, Outgoing
with App() as app:
    app.publish_many("{topic}", [Outgoing(f"m{{n}}", key=f"k{{n}}", delay=4 + n / 1000) for n in range(4000)], timeout="30s")
"""


def handled(folder: Path) -> list[tuple[str, float]]:
    found = [line.split() for line in (folder / "handled").read_text().splitlines()]
    return [(name, float(late)) for name, late in found]


def test_a_kill_of_the_process_that_moves_loses_nothing_and_repeats_little(tmp_path: Path, kafka_broker: KafkaBroker) -> None:
    """Nobody publishes or consumes but real processes; the one that is killed moves, the other one takes over."""
    topic = f"orders-{uuid.uuid4().hex[:8]}"
    (tmp_path / "shop.py").write_text(APP.format(topic=topic))
    (tmp_path / "fill.py").write_text(PUBLISH.format(topic=topic))
    (tmp_path / "mqsdk.yaml").write_text(CONFIG.format(address=kafka_broker.address))
    (tmp_path / "mqsdk.yaml").chmod(0o600)

    def wait(condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + 2 * PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"not in time: {what}; {len(handled(tmp_path))} handled"
            threading.Event().wait(0.02)

    (tmp_path / "handled").touch()
    with Running([*MQSDK, "run", "shop:app"], tmp_path) as first:
        first.wait_for(f"{topic}/g")
        assert mqsdk(tmp_path, "publish", topic, "warm", "--delay", "100ms").returncode == 0
        first.wait_for("this process moves delayed messages")
        wait(lambda: len(handled(tmp_path)) == 1, "the first delayed message")
        filled = Running([MQSDK[0], "fill.py"], tmp_path)
        with filled:
            assert filled.process.wait(PATIENCE_S) == 0, filled.lines
        with Running([*MQSDK, "run", "shop:app"], tmp_path) as second:
            second.wait_for("this process moves delayed messages")
            wait(lambda: len(handled(tmp_path)) > 500, "in the middle of it")
            first.kill()
            wanted = {f"m{number}" for number in range(4000)}
            wait(lambda: wanted <= {name for name, _ in handled(tmp_path)}, "all of them")
            assert second.stop() == 0
    found = handled(tmp_path)
    assert min(late for _, late in found) >= 0.0, "none came early"
    # What the dead one had moved and not settled, and what its consumer had not: a tenth of a second's worth, and what was in flight.
    assert len(found) - 1 - 4000 <= 2000


def test_a_process_without_delayed_messages_makes_no_topic_and_joins_nothing(tmp_path: Path) -> None:
    broker = KafkaBroker(tmp_path)
    shop = Shop(broker)
    try:
        shop.start()
        shop.supervisor.publisher(shop.topic).send(shop.topic, [Draft(None, b"now", "m")], 10.0)
        shop.handler.wait_for(1)
        admin = shop.supervisor.clusters.backend("main").admin()
        assert [info.name for info in admin.topics()] == [shop.topic]
        assert shop.supervisor.movers.problems() == []
        shop.publish(100)
        shop.handler.wait_for(2)
        names = {info.name for info in admin.topics()}
        assert names == {shop.topic, *delay.TOPICS}
        assert [info.group for info in admin.groups(delay.TOPICS[0])] == [delay.GROUP]
    finally:
        shop.supervisor.close(10.0)
        broker.stop()
        gc.collect()
