"""Delay by layer 2 over the in-memory log, which is told not to delay by itself: the mover, step by step in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from mqsdk.config.model import Cluster, Configuration, Route
from mqsdk.core import delay, shelf
from mqsdk.core.partitioner import partition_of
from mqsdk.core.shelf import CHUNK_RECORDS
from mqsdk.errors import PublishRejected
from mqsdk.events import DeadLettered, Event, GapSeen
from mqsdk.message import Receipt
from mqsdk.runtime import dispatch, ladder, targets
from mqsdk.runtime.deadletters import letters
from mqsdk.runtime.environment import Environment
from mqsdk.runtime.mover import Mover
from mqsdk.runtime.redrive import Moved, Redrive
from mqsdk.runtime.sender import Draft
from mqsdk.runtime.supervisor import Supervisor
from mqsdk.spi import Capabilities, EventSink, NewRecord, Outcome, Partition, Producer, Published, Record, Rejected, Unknown
from mqsdk.testing.clock import VirtualClock
from mqsdk.testing.simlog import MEMORY, SimBackend, SimLog

LADDER = replace(MEMORY, delay="ladder")
DAY_S = 86_400
FOREVER_S = 1e12  # leases have no part in this: the clock jumps by days
BAD = Rejected("backend", "its disk is full", retryable=True)


class _Balky(Producer):
    """A producer that asks first what is to become of a record. None: it is stored; "": never answered; "late": stored by `answer`."""

    def __init__(self, inner: Producer, sink: EventSink, decide: Callable[[NewRecord], Outcome | str | None]) -> None:
        self._inner, self._sink, self._decide = inner, sink, decide
        self._late: list[NewRecord] = []

    def answer(self) -> None:
        late, self._late = self._late, []
        for record in late:
            self._inner.publish([record], 0)

    def publish(self, batch: Sequence[NewRecord], deadline: float) -> None:
        for record in batch:
            outcome = self._decide(record)
            if outcome is None:
                self._inner.publish([record], deadline)
            elif outcome == "late":
                self._late.append(record)
            elif not isinstance(outcome, str):
                self._sink.put(Published(record.token, outcome))


class _Backend(SimBackend):
    decide: Callable[[NewRecord], Outcome | str | None] = staticmethod(lambda record: None)

    def producer(self, events: EventSink) -> Producer:  # type: ignore[override]
        self.made = _Balky(super().producer(events), events, lambda record: self.decide(record))
        return self.made


@dataclass
class Fleet:
    """One process's layer 2 without threads, over a store per cluster. The clock is turned here alone."""

    routes: tuple[Route, ...] = (Route(topics=("*",), cluster="local"),)
    capabilities: dict[str, Capabilities] = field(default_factory=lambda: {"local": LADDER})
    create: bool = True
    clock: VirtualClock = field(default_factory=VirtualClock)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stores = {name: SimLog(self.clock, partitions=4) for name in self.capabilities}
        self.supervisor = self.process()
        self.first_ms = self.clock.wall_ms()

    def process(self) -> Supervisor:
        clusters = {name: Cluster(name=name, backend="memory", create=self.create, lease_s=FOREVER_S) for name in self.capabilities}
        configuration = Configuration(clusters=clusters, routes=self.routes)
        environment = Environment(
            make_backend=lambda cluster: _Backend(
                self.stores[cluster.name], name=cluster.name, capabilities=self.capabilities[cluster.name]
            ),
            observe=self.events.append,
            clock=self.clock,
            rng=random.Random(1),
            threaded=False,
        )
        return Supervisor(configuration, environment, "test")

    def backend(self, name: str = "local") -> _Backend:
        found = self.supervisor.clusters.backend(name)
        assert isinstance(found, _Backend)
        return found

    def route(self, cluster: str) -> None:
        self.supervisor.clusters.configuration = replace(self.supervisor.configuration, routes=(Route(topics=("*",), cluster=cluster),))

    def publish(self, value: str, delay_s: float, *, topic: str = "orders", key: str | None = "k") -> Receipt:
        [receipt] = self.publish_all([(value, delay_s)], topic=topic, key=key)
        return receipt

    def publish_all(self, items: Sequence[tuple[str, float]], *, topic: str = "orders", key: str | None = "k") -> list[Receipt]:
        raw, now_ms = None if key is None else key.encode(), self.clock.wall_ms()
        drafts = [
            Draft(raw, value.encode(), value, "text/plain", (("colour", "bl\u00fce"),), now_ms + round(wait_s * 1000) if wait_s else None)
            for value, wait_s in items
        ]
        answers = self.supervisor.publisher(topic).send(topic, drafts, 5.0)
        assert all(isinstance(answer, Receipt) for answer in answers), answers
        return [answer for answer in answers if isinstance(answer, Receipt)]

    def mover(self, supervisor: Supervisor | None = None) -> Mover:
        made = (supervisor or self.supervisor).movers.make("local")
        self.settle_down(made)
        return made

    @staticmethod
    def settle_down(mover: Mover) -> None:
        for _ in range(10_000):
            if not mover.step(0.0):
                return
        raise AssertionError("the mover never rests")

    def run(self, mover: Mover, seconds: float) -> None:
        """Let time pass; the mover is woken when something is due."""
        end = self.clock.mono() + seconds
        self.settle_down(mover)
        while (due := mover.due()) is not None and due <= end:
            self.clock.advance_to(max(due, self.clock.mono() + 0.001))
            self.settle_down(mover)
        self.clock.advance_to(end)
        self.settle_down(mover)

    def arrived(self, topic: str = "orders", cluster: str = "local") -> list[Record]:
        return [record for _, record in self.stores[cluster].records(topic)]

    def values(self, topic: str = "orders", cluster: str = "local") -> list[str]:
        return [record.value.decode() for record in self.arrived(topic, cluster)]

    def waiting(self) -> int:
        return sum(one.messages for topic in delay.TOPICS for one in self.backend().admin().progress(topic, delay.GROUP))


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


# --- when ---------------------------------------------------------------------------------------------------------------------------


def test_it_arrives_when_it_is_due_and_not_before(fleet: Fleet) -> None:
    assert fleet.publish("later", 7.25).position is None
    mover = fleet.mover()
    fleet.run(mover, 7.249)
    assert fleet.values() == []
    fleet.run(mover, 0.001)
    assert fleet.values() == ["later"]
    fleet.run(mover, 3600)
    assert (fleet.values(), fleet.waiting()) == (["later"], 0)


def test_366_days_are_hops_of_a_day_and_end_on_the_millisecond(fleet: Fleet) -> None:
    due_s = 366 * DAY_S - 0.001
    fleet.publish("far", due_s)
    mover = fleet.mover()
    fleet.run(mover, due_s - 0.001)
    assert fleet.values() == []
    assert len(fleet.arrived("mq.delay.1d")) == 365
    fleet.run(mover, 0.001)
    assert fleet.values() == ["far"]
    assert sum(len(fleet.arrived(topic)) for topic in delay.TOPICS) <= 365 + 3 + 5 + 1 + 5 + 4 + 1 + 5 + 4


def test_each_comes_once_and_in_the_order_of_due_times_whatever_the_steps(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "CHUNK_RECORDS", 1)  # it looks no further than it has to
    chance = random.Random(7)
    waits = [chance.choice((chance.uniform(0.01, 9), chance.uniform(1, 4000), chance.uniform(60, 200_000))) for _ in range(300)]
    fleet.publish_all([(f"{number}", wait_s) for number, wait_s in enumerate(waits)])
    fleet.run(fleet.mover(), 200_001)
    found = [(record.due_ms or 0) for record in fleet.arrived()]
    assert len({record.value for record in fleet.arrived()}) == len(found) == 300
    assert found == sorted(found)


def test_equal_delays_keep_the_order_of_publishing(fleet: Fleet) -> None:
    fleet.publish_all([(f"{number}", 12.0) for number in range(500)])
    fleet.run(fleet.mover(), 12)
    assert fleet.values() == [f"{number}" for number in range(500)]


def test_far_ones_hold_nobody_up_and_are_not_read(fleet: Fleet) -> None:
    fleet.publish_all([(f"far {number}", 3 * DAY_S) for number in range(5000)])
    mover = fleet.mover()
    assert mover.held <= CHUNK_RECORDS
    fleet.publish("soon", 2.5)
    fleet.run(mover, 2.5)
    assert fleet.values() == ["soon"]
    fleet.run(mover, 3 * DAY_S)
    assert len(set(fleet.values())) == len(fleet.values()) == 5001


def test_many_that_are_due_while_nobody_moves_all_come_when_somebody_does(fleet: Fleet) -> None:
    fleet.publish_all([(f"{number}", 6.0) for number in range(20_000)])
    fleet.clock.advance(60)
    fleet.run(fleet.mover(), 0)
    assert len(set(fleet.values())) == len(fleet.values()) == 20_000


def test_a_clock_that_is_set_back_delays_and_loses_nothing(fleet: Fleet) -> None:
    fleet.publish("later", 30)
    mover = fleet.mover()
    fleet.run(mover, 20)
    fleet.clock._wall_ms -= 3_600_000
    fleet.run(mover, 3600)
    assert fleet.values() == []
    fleet.run(mover, 10)
    assert fleet.values() == ["later"]


# --- what -------------------------------------------------------------------------------------------------------------------------


def test_everything_of_the_message_comes_back(fleet: Fleet) -> None:
    raw = bytes(range(256)) * 4
    now_ms = fleet.clock.wall_ms()
    draft = Draft(
        b"\x00k\xff", raw, "an-id", "application/json", (("colour", "bl\u00fce"),), now_ms + 9_500, (("mq-redrive-of", "orders:0:1"),), 3
    )
    [receipt] = fleet.supervisor.publisher("orders").send("orders", [draft], 5.0)
    assert isinstance(receipt, Receipt)
    fleet.run(fleet.mover(), 10)
    [(number, found)] = fleet.stores["local"].records("orders")
    assert (found.key, found.value, found.id, found.content_type, found.headers, found.extra, found.attempt) == (
        b"\x00k\xff", raw, "an-id", "application/json", draft.headers, draft.extra, 3,
    )  # fmt: skip
    assert (found.timestamp_ms, found.due_ms, found.placed_ms) == (now_ms, now_ms + 9_500, now_ms + 9_500)
    assert (number, found.sequence) == (partition_of(b"\x00k\xff", 4), 0)
    assert found.producer


@pytest.mark.parametrize("place", ["mq.delay.1s", "orders"])
def test_what_was_in_doubt_on_its_way_says_so_where_it_arrives(fleet: Fleet, place: str) -> None:
    """Else whoever reads it cannot tell two of them from two messages."""
    outcomes: list[Outcome] = [Unknown("no answer")]
    fleet.publish("plain", 1.0)
    fleet.backend().decide = lambda record: outcomes.pop() if outcomes and record.partition.topic == place else None
    mover = fleet.mover()
    if place == "orders":
        fleet.run(mover, 10.0)
    else:
        fleet.publish("first", 1.0)
        fleet.run(mover, 10.0)
    assert outcomes == []
    again = {record.value.decode(): record.again for record in fleet.arrived()}
    assert again == ({"plain": True} if place == "orders" else {"plain": False, "first": True})


def test_the_receipt_is_that_of_the_topic_without_a_position(fleet: Fleet) -> None:
    now, later = fleet.publish_all([("now", 0), ("later", 60)], key=None)
    assert (now.topic, now.partition, now.position, now.due_at) == ("orders", later.partition, "0", None)
    assert (later.topic, later.position, later.cluster) == ("orders", None, "local")
    assert later.due_at == datetime.fromtimestamp((fleet.clock.wall_ms() + 60_000) / 1000, UTC)
    fleet.run(fleet.mover(), 60)
    assert [number for number, _ in fleet.stores["local"].records("orders")] == [now.partition] * 2


def test_one_call_with_delayed_and_other_messages_answers_each(fleet: Fleet) -> None:
    receipts = fleet.publish_all([("a", 0), ("b", 5), ("c", 0), ("d", 0.5)])
    assert [receipt.position for receipt in receipts] == ["0", None, "1", None]
    assert fleet.values() == ["a", "c"]
    fleet.run(fleet.mover(), 5)
    assert fleet.values() == ["a", "c", "d", "b"]


def test_one_by_one_it_waits_like_many(fleet: Fleet) -> None:
    fleet.publish("now", 0)
    publisher = fleet.supervisor.publisher("orders")
    receipt = publisher.send_one("orders", Draft(b"k", b"later", "later", due_ms=fleet.clock.wall_ms() + 5000), 5.0)
    assert isinstance(receipt, Receipt)
    assert (receipt.topic, receipt.position) == ("orders", None)
    assert publisher.submit("orders", Draft(b"k", b"last", "last", due_ms=fleet.clock.wall_ms() + 6000), 5.0).result(5).position is None
    assert fleet.values() == ["now"]
    fleet.run(fleet.mover(), 6)
    assert fleet.values() == ["now", "later", "last"]


def test_without_the_right_to_make_topics_a_delay_is_refused_and_they_are_named() -> None:
    fleet = Fleet(create=False)
    fleet.stores["local"].create_topic("orders", 4)
    with pytest.raises(PublishRejected, match="9 of its delay topics do not exist") as caught:
        fleet.publish("later", 5)
    assert caught.value.code == "unsupported"
    assert "mq.delay.30m" in caught.value.fix
    for topic in delay.TOPICS:
        fleet.stores["local"].create_topic(topic, 1)
    fleet.publish("later", 5)
    fleet.run(fleet.mover(), 5)
    assert fleet.values() == ["later"]


# --- who moves --------------------------------------------------------------------------------------------------------------------


def test_a_mover_that_dies_repeats_what_it_had_not_settled_and_the_next_one_goes_on(fleet: Fleet) -> None:
    fleet.publish_all([(f"{number}", 2 + number / 1000) for number in range(1000)])
    first = fleet.mover()
    fleet.run(first, 2.5)
    before = len(fleet.values())
    assert 0 < before < 1000
    fleet.backend().crash()
    fleet.supervisor = fleet.process()
    fleet.run(fleet.mover(), 2)
    found = fleet.values()
    assert set(found) == {f"{number}" for number in range(1000)}
    assert len(found) - 1000 <= 110  # of a tenth of a second


def test_a_mover_that_stops_hands_back_and_repeats_nothing(fleet: Fleet) -> None:
    fleet.publish_all([(f"{number}", 2 + number / 1000) for number in range(1000)])
    first = fleet.mover()
    fleet.run(first, 2.5)
    first.drain(fleet.clock.mono() + 5)
    fleet.settle_down(first)
    assert first.finished.is_set()
    first.close(fleet.clock.mono() + 1)
    fleet.run(fleet.mover(), 2)
    assert sorted(fleet.values()) == sorted(f"{number}" for number in range(1000))


def test_two_movers_share_what_waits(fleet: Fleet) -> None:
    other = fleet.process()
    for key in "abcdefgh":
        fleet.publish_all([(f"{key}{number}", 3.0) for number in range(50)], key=key)
    movers = [fleet.mover(), fleet.mover(other)]
    for _ in range(400):
        fleet.clock.advance(0.01)
        for mover in movers:
            mover.step(0.0)
    assert sorted(fleet.values()) == sorted(f"{key}{number}" for key in "abcdefgh" for number in range(50))
    assert all(mover.owned for mover in movers)


def test_a_consumer_that_fails_is_replaced_and_nothing_is_lost(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.publish_all([(f"{number}", 3.0) for number in range(100)])
    mover = fleet.mover()
    fleet.run(mover, 2)
    mover._restart(RuntimeError("a bug"))
    assert mover.failure == "RuntimeError"
    fleet.run(mover, 5)
    assert sorted(fleet.values()) == sorted(f"{number}" for number in range(100))
    assert mover.failure == ""


def test_another_client_of_the_cluster_is_taken_without_a_repeat(fleet: Fleet) -> None:
    fleet.publish_all([(f"{number}", 3.0) for number in range(100)])
    mover = fleet.mover()
    fleet.run(mover, 1)
    closed: list[str] = []
    new = _Backend(fleet.stores["local"], capabilities=LADDER)
    new.open(0)
    old = fleet.supervisor.clusters.exchange("local", new)
    mover.exchange(fleet.clock.mono() + 5, lambda: closed.append("old"))
    fleet.settle_down(mover)
    assert closed == ["old"]
    assert old is not None
    old.close(0)
    fleet.run(mover, 3)
    assert sorted(fleet.values()) == sorted(f"{number}" for number in range(100))


def test_what_is_gone_from_a_delay_topic_is_a_gap_and_the_rest_comes(fleet: Fleet) -> None:
    fleet.publish_all([(f"{number}", 5.0) for number in range(10)])
    number = partition_of(b"k", 4)
    fleet.mover().drain(0)
    fleet.stores["local"].trim("mq.delay.5s", number, 4)
    fleet.backend().crash()
    fleet.supervisor = fleet.process()
    fleet.run(fleet.mover(), 5)
    assert fleet.values() == [f"{number}" for number in range(4, 10)]
    [gap] = [event for event in fleet.events if isinstance(event, GapSeen)]
    assert (gap.topic, gap.group, gap.partition, gap.start, gap.stop) == ("mq.delay.5s", delay.GROUP, number, 0, 4)
    assert fleet.waiting() == 0


def test_it_works_with_receipts_and_without_companions_too() -> None:
    """As a broker of queues would have it: each topic is shared out by itself, and what has moved is told one by one."""
    kind = replace(LADDER, settle="receipt", companions=False, sparse_bytes=0, history=False, replay=False, read_by_position=False)
    fleet = Fleet(capabilities={"local": kind})
    fleet.backend().admin().ensure_topic("orders", 4)
    fleet.backend().admin().ensure_group("orders", "g")
    fleet.publish_all([(f"{number}", 1 + number % 7) for number in range(200)])
    first = fleet.mover()
    fleet.run(first, 3.5)
    first.drain(fleet.clock.mono() + 5)
    fleet.settle_down(first)
    first.close(0)
    fleet.run(fleet.mover(), 7)
    assert sorted(fleet.values()) == sorted(f"{number}" for number in range(200))
    assert fleet.waiting() == 0


# --- where ------------------------------------------------------------------------------------------------------------------------


def test_a_target_that_is_gone_makes_a_dead_letter_and_holds_nobody_up(fleet: Fleet) -> None:
    fleet.publish("lost", 5, topic="old")
    fleet.publish("kept", 5)
    fleet.backend().admin().delete_topic("old")
    fleet.run(fleet.mover(), 5)
    assert fleet.values() == ["kept"]
    [letter] = letters(fleet.backend().admin(), delay.DEAD_TOPIC, delay.DEAD_GROUP)
    assert (letter.record.value, letter.record.key, letter.reason, letter.id) == (b"lost", b"k", "no_route", "lost")
    assert dict(letter.record.extra)["mq-dlq-topic"] == "old"
    [event] = [event for event in fleet.events if isinstance(event, DeadLettered)]
    assert (event.topic, event.group, event.message_id, event.reason) == ("old", "delay", "lost", "no_route")
    assert fleet.waiting() == 0


def test_a_dead_letter_of_what_was_delayed_can_be_redriven(fleet: Fleet) -> None:
    fleet.publish("lost", 5, topic="old")
    fleet.backend().admin().delete_topic("old")
    mover = fleet.mover()
    fleet.run(mover, 5)
    assert fleet.values("old") == []
    fleet.stores["local"].create_topic("old", 4)
    fleet.run(mover, 1.1)  # what is known of a topic is asked anew after a second
    found = letters(fleet.backend().admin(), delay.DEAD_TOPIC, delay.DEAD_GROUP)
    work = Redrive(fleet.backend(), delay.DEAD_TOPIC, delay.DEAD_GROUP, fleet.clock, 1.0)
    assert list(work.run(found)) == [Moved(1)]
    fleet.run(mover, 2)
    [record] = fleet.arrived("old")
    assert (record.value, record.key, record.id, record.extra) == (b"lost", b"k", "lost", ())
    assert record.due_ms == fleet.first_ms + 5000
    assert list(letters(fleet.backend().admin(), delay.DEAD_TOPIC, delay.DEAD_GROUP)) == []


def test_what_is_no_message_of_ours_is_a_dead_letter_too(fleet: Fleet) -> None:
    fleet.publish("ours", 5)
    fleet.stores["local"].publish_foreign("mq.delay.5s", b"k", b"garbage", ())
    fleet.run(fleet.mover(), 5)
    assert fleet.values() == ["ours"]
    [letter] = letters(fleet.backend().admin(), delay.DEAD_TOPIC, delay.DEAD_GROUP)
    assert (letter.record.value, letter.reason) == (b"garbage", "invalid")


@pytest.mark.parametrize("outcome", [BAD, Rejected("denied", "no right"), Unknown("no answer"), ""])
def test_a_target_that_takes_nothing_holds_nobody_up_and_gets_all_when_it_is_back(fleet: Fleet, outcome: Outcome | str) -> None:
    """Rejected for now, doubtful, or never answered."""
    is_down = True
    fleet.backend().decide = lambda record: outcome if is_down and record.partition.topic == "bad" else None
    fleet.publish_all([(f"bad {number}", 2.0) for number in range(300)], topic="bad")
    fleet.publish_all([(f"good {number}", 2.0 + number / 10) for number in range(300)])
    mover = fleet.mover()
    fleet.run(mover, 33)
    found = fleet.arrived()
    assert [record.value.decode() for record in found] == [f"good {number}" for number in range(300)]
    assert fleet.values("bad") == []
    is_down = False
    fleet.run(mover, 30)  # what is never answered is given up a minute after its publish
    fleet.run(mover, 40)
    assert set(fleet.values("bad")) == {f"bad {number}" for number in range(300)}
    assert len(fleet.values("bad")) == 300
    assert fleet.waiting() == 0
    assert not [event for event in fleet.events if isinstance(event, DeadLettered)]


def test_a_silent_target_does_not_use_up_what_a_mover_may_hold(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are of one partition, and those for the silent one come first."""
    monkeypatch.setattr(shelf, "MOST_RECORDS", 100)
    monkeypatch.setattr(dispatch, "FLYING_PER_TARGET", 20)
    fleet.backend().decide = lambda record: "" if record.partition.topic == "bad" else None
    fleet.publish_all([(f"bad {number}", 1.0) for number in range(300)], topic="bad")
    fleet.publish_all([(f"good {number}", 1.0) for number in range(50)])
    mover = fleet.mover()
    for _ in range(600):
        fleet.run(mover, 0.01)
    assert len(fleet.values()) == 50
    assert len(fleet.arrived("mq.delay.1s")) >= 350 + 280  # the others go round


def test_a_target_that_cannot_be_found_out_about_holds_nobody_up(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cluster is being connected to, for longer than anybody should wait for it."""
    monkeypatch.setattr(shelf, "MOST_RECORDS", 100)
    real, is_known = targets.Targets.find, False

    def find(self: targets.Targets, topic: str, here: bool = False) -> targets.Way | Rejected | None:
        return real(self, topic, here) if is_known or topic != "bad" else None

    monkeypatch.setattr(targets.Targets, "find", find)
    fleet.publish_all([(f"bad {number}", 1.0) for number in range(300)], topic="bad")
    fleet.publish_all([(f"good {number}", 1.0) for number in range(50)])
    mover = fleet.mover()
    fleet.run(mover, 6)
    assert len(fleet.values()) == 50
    is_known = True
    fleet.run(mover, 6)
    assert sorted(fleet.values("bad")) == sorted(f"bad {number}" for number in range(300))


def test_a_cluster_that_answers_late_makes_no_copies_of_what_is_under_way(fleet: Fleet) -> None:
    """As on a machine with too much to do, where a copy more makes everything worse."""
    fleet.publish_all([(f"{number}", 2.0) for number in range(5000)])
    mover = fleet.mover()
    fleet.backend().decide = lambda record: "late"
    for _ in range(30):
        fleet.run(mover, 20.0)
        fleet.backend().made.answer()
    assert len(fleet.values()) == len(set(fleet.values())) == 5000
    assert 10_000 <= len(fleet.arrived("mq.delay.1s")) < 10_030  # the steps of two seconds, and what finds out whether others are answered
    assert not [event for event in fleet.events if isinstance(event, DeadLettered)]


def test_while_a_target_is_down_one_message_a_second_tries_it(fleet: Fleet) -> None:
    tried: list[float] = []

    def decide(record: NewRecord) -> Outcome | None:
        if record.partition.topic != "bad":
            return None
        tried.append(fleet.clock.mono())
        return BAD

    fleet.backend().decide = decide
    fleet.publish_all([(f"{number}", 2.0) for number in range(200)], topic="bad")
    mover = fleet.mover()
    fleet.run(mover, 2.0)
    first = len(tried)
    fleet.run(mover, 20.0)
    assert len(tried) - first <= 20


def test_when_its_own_cluster_takes_nothing_everything_stays_unsettled(fleet: Fleet) -> None:
    is_down = False
    fleet.backend().decide = lambda record: BAD if is_down else None
    fleet.publish_all([(f"{number}", 7.0) for number in range(50)])
    mover = fleet.mover()
    is_down = True
    fleet.run(mover, 30)
    assert (fleet.values(), fleet.waiting()) == ([], 50)
    is_down = False
    fleet.run(mover, 40)
    assert sorted(fleet.values()) == sorted(f"{number}" for number in range(50))


def two_clusters(kind: Capabilities) -> Fleet:
    return Fleet(capabilities={"local": LADDER, "new": kind})


@pytest.mark.parametrize("kind", [LADDER, MEMORY, replace(MEMORY, delay="none")], ids=["ladder", "native", "none"])
def test_what_is_delayed_follows_its_topic_to_another_cluster(kind: Capabilities) -> None:
    fleet = two_clusters(kind)
    fleet.publish("later", 12.5)
    mover = fleet.mover()
    fleet.run(mover, 2)
    fleet.route("new")
    movers = [mover]
    for turn in range(1250):
        if turn == 900 and kind is MEMORY:  # a cluster that delays by itself has it from the first hop on
            assert fleet.stores["new"].delayed.due_ms() == fleet.first_ms + 12_500
        fleet.clock.advance(0.01)
        if len(movers) == 1 and ladder.exists(fleet.backend("new").admin()):
            movers.append(fleet.supervisor.movers.make("new"))
        for one in movers:
            one.step(0.0)
    assert (fleet.values(), len(movers)) == ([], 2 if kind is LADDER else 1)
    [found] = fleet.arrived(cluster="new")
    assert (found.value, found.due_ms) == (b"later", fleet.first_ms + 12_500)


def test_a_topic_without_a_route_here_stays_in_the_cluster_where_it_waits() -> None:
    fleet = Fleet()
    fleet.publish("later", 5)
    fleet.supervisor.clusters.configuration = replace(fleet.supervisor.configuration, routes=())
    fleet.run(fleet.mover(), 5)
    assert fleet.values() == ["later"]


def test_a_keyless_message_goes_to_the_partition_that_its_receipt_names(fleet: Fleet) -> None:
    receipt = fleet.publish("later", 5, key=None)
    fleet.run(fleet.mover(), 5)
    assert [number for number, _ in fleet.stores["local"].records("orders")] == [receipt.partition]
    assert Partition("orders", receipt.partition) in fleet.stores["local"].logs
