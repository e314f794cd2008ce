"""A route's cluster changed while consumers run, in virtual time: both are read, in order, until the old one has nothing left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mqsdk import App, Backoff, ConfigError, Message, RetryPolicy
from mqsdk.runtime.readers import Readers
from mqsdk.runtime.unfinished import InMemory
from mqsdk.testing.clock import VirtualClock
from mqsdk.testing.simlog import MEMORY
from tests.switch.stage import FILE, Service, Stores

Make = Callable[..., Service]


@pytest.fixture
def stores() -> Stores:
    return Stores(VirtualClock())


@pytest.fixture
def make(tmp_path: Path, stores: Stores) -> Iterator[Make]:
    made: list[Service] = []

    def one(name: str, *args: Any, **options: Any) -> Service:
        (tmp_path / name).mkdir(exist_ok=True)
        made.append(Service(tmp_path / name, stores, *args, **options))
        return made[-1]

    yield one
    for service in made:
        service.app.close()


class Billing:
    """A consumer that notes what it handled, and fails for what is in `broken`."""

    def __init__(self, **options: Any) -> None:
        self.options = {"retry": RetryPolicy(attempts=50, backoff=Backoff("1s", factor=1)), **options}
        self.seen: list[int] = []
        self.broken: set[int] = set()

    def declare(self, app: App) -> None:
        @app.consumer("orders", group="billing", **self.options)
        def bill(payload: int, message: Message[int]) -> None:
            if payload in self.broken:
                raise ConnectionError("not yet")
            self.seen.append(payload)


def test_what_is_left_is_handled_and_then_the_old_cluster_is_closed(make: Make) -> None:
    billing = Billing()
    service = make("p", billing.declare)
    service.app.start()
    service.app.publish("orders", 1, key="k")  # not handled yet: nothing runs by itself
    service.switch("b")
    assert service.app.publish("orders", 2, key="k").cluster == "b"
    assert service.clusters == ["a", "b"]
    service.settle()
    assert sorted(billing.seen) == [1, 2]
    service.advance("3s")
    assert service.clusters == ["b"]
    assert service.steps == [("reading", "billing", "a", "b"), ("writing", "", "a", "b"), ("closed", "billing", "a", "b")]
    assert service.app.lag("orders", "billing").messages == 0


def test_every_group_of_the_old_cluster_is_made_on_the_new_one_before_anything_is_published_there(make: Make) -> None:
    service, seen = make("p"), list[int]()

    def declare(app: App) -> None:
        @app.consumer("orders", group="search", from_="latest")
        def search(payload: int) -> None:
            seen.append(payload)

    other = make("q", declare)
    other.app.start()  # in another process, which has not heard of the change
    service.app.publish("orders", 1)
    service.switch("b")
    service.app.publish("orders", 2)
    other.switch("b")
    other.settle()
    assert sorted(seen) == [1, 2]


def test_a_message_on_the_new_cluster_waits_for_its_producers_last_one_on_the_old(make: Make) -> None:
    billing = Billing(ordered=True)
    service = make("p", billing.declare)
    service.app.start()
    billing.broken.add(1)
    service.app.publish("orders", 1, key="k")
    service.settle()
    service.switch("b")
    service.app.publish("orders", 2, key="k")
    service.advance("5s")
    assert billing.seen == []
    assert service.clusters == ["a", "b"]
    billing.broken.clear()
    service.advance("2s")
    assert billing.seen == [1, 2]


def test_other_keys_of_the_producer_wait_for_the_partition_of_their_own_only(make: Make) -> None:
    billing = Billing(ordered=True)
    service = make("p", billing.declare)
    service.app.start()
    billing.broken.add(1)
    place = service.app.publish("orders", 1, key="k").partition
    other = next(key for key in map(str, range(100)) if service.app.publish("orders", 0, key=key).partition != place)
    service.settle()
    service.switch("b")
    service.app.publish("orders", 2, key="k")
    service.app.publish("orders", 3, key=other)
    service.advance("2s")
    assert billing.seen[-1] == 3
    assert 2 not in billing.seen


def test_messages_without_key_wait_for_all_partitions(make: Make) -> None:
    billing = Billing(ordered=True)
    service = make("p", billing.declare)
    service.app.start()
    billing.broken.add(1)
    service.app.publish("orders", 1, key="k")
    service.settle()
    service.switch("b")
    service.app.publish("orders", 2)
    service.advance("2s")
    assert billing.seen == []
    billing.broken.clear()
    service.advance("2s")
    assert billing.seen == [1, 2]


def test_unordered_messages_wait_for_nothing(make: Make) -> None:
    billing = Billing()
    service = make("p", billing.declare)
    service.app.start()
    billing.broken.add(1)
    service.app.publish("orders", 1)
    service.switch("b")
    service.app.publish("orders", 2)
    service.settle()
    assert billing.seen == [2]


def test_a_writer_that_follows_later_is_heard_and_its_messages_stay_in_order(make: Make) -> None:
    billing = Billing(ordered=True)
    service, late = make("p", billing.declare), make("late")
    service.app.start()
    late.app.publish("orders", 1, key="k")
    service.switch("b")
    service.advance("10s")
    assert service.clusters == ["b"]
    late.app.publish("orders", 2, key="k")  # an hour later, to a cluster that nobody reads any more
    late.switch("b")
    late.app.publish("orders", 3, key="k")
    service.settle()
    service.advance("1s")  # its first message on the new one asks how far the old one is, so nobody waits for the next look
    assert billing.seen == [1], "it may be one that is ahead"
    service.advance("10s")
    assert billing.seen == [1, 2, 3]
    assert ("reopened", "billing", "a", "b") in service.steps
    service.advance("10s")
    assert service.clusters == ["b"]


def test_a_process_that_looks_less_often_leaves_a_closed_cluster_alone_for_longer(make: Make) -> None:
    """Else it would read there before it has heard that the topic is back."""
    billing = Billing(ordered=True)
    service, late = make("p", billing.declare), make("late")
    service.app.start()
    late.app.publish("orders", 1, key="k")
    service.switch("b")
    service.advance("10s")
    service.switch("b", file=FILE.replace("settle: 2s", "settle: 2s, every: 1m"))
    late.app.publish("orders", 2, key="k")
    service.advance("230s")
    assert billing.seen == [1]
    service.advance("60s")
    assert billing.seen == [1, 2]


def test_a_closed_cluster_is_looked_at_every_half_minute(make: Make) -> None:
    billing = Billing()
    service, late = make("p", billing.declare), make("late")
    service.app.start()
    late.app.publish("orders", 1)
    service.switch("b")
    service.advance("10m")
    late.app.publish("orders", 2)
    service.advance("31s")
    assert billing.seen == [1, 2]
    assert [step for step, *_ in service.steps] == ["reading", "writing", "closed", "reopened", "closed"]


def test_a_delayed_message_keeps_the_old_cluster_open_until_it_is_due(make: Make) -> None:
    billing = Billing()
    service = make("p", billing.declare)
    service.app.start()
    service.app.publish("orders", 1, delay="5m")
    service.switch("b")
    service.advance("299s")
    assert service.clusters == ["a", "b"]
    service.advance("2s")
    assert billing.seen == [1]
    service.advance("5s")
    assert service.clusters == ["b"]


def test_there_and_back(make: Make) -> None:
    billing = Billing(ordered=True)
    service = make("p", billing.declare)
    service.app.start()
    for number, cluster in enumerate("bababa"):
        billing.broken.add(2 * number)
        service.app.publish("orders", 2 * number, key="k")
        service.settle()
        service.switch(cluster)
        service.app.publish("orders", 2 * number + 1, key="k")
        service.advance("2s")
        billing.broken.clear()
        service.advance("10s")
        assert service.clusters == [cluster]
    assert billing.seen == list(range(12))


def test_the_two_do_not_wait_for_each_other_after_the_way_back(make: Make) -> None:
    billing = Billing(ordered=True)
    service = make("p", billing.declare)
    service.app.start()
    service.switch("b")
    service.advance("10s")
    other = make("other")
    other.route("b")
    other.app.reload()
    service.switch("a")
    other.app.publish("orders", 1, key="k")  # new on b, where a producer's first message used to ask how far a is
    service.app.publish("orders", 2, key="k")  # new on a, and waits for b
    service.advance("1s")
    assert billing.seen == [1, 2]


def test_an_ordered_consumer_refuses_a_second_change_by_name_until_the_first_is_done(make: Make) -> None:
    billing = Billing(ordered=True)
    service = make("p", billing.declare)
    service.app.start()
    service.switch("b")
    for cluster in ("a", "c"):
        with pytest.raises(ConfigError, match=r"topic orders cannot go from b to [ac] while in use: .* earlier change is unfinished"):
            service.switch(cluster)
    assert service.app.publish("orders", 1, key="k").cluster == "b"
    service.advance("10s")
    service.switch("c")
    assert service.app.publish("orders", 1, key="k").cluster == "c"


def test_a_process_that_goes_back_before_this_one_has_heard_of_it_overtakes_nothing(make: Make) -> None:
    """The cluster that is watched for late writers has messages again: of somebody who is ahead, for whom this one has to follow first."""
    billing = Billing(ordered=True)
    service, ahead = make("p", billing.declare), make("q")
    service.app.start()
    for one in (service, ahead):
        one.app.publish("orders", 0, key="k")
        one.switch("b")
    service.advance("10s")
    assert service.clusters == ["b"]
    billing.broken.add(1)
    ahead.app.publish("orders", 1, key="k")
    ahead.switch("a")
    ahead.app.publish("orders", 2, key="k")
    service.advance("8s")  # found by the cut that message 1 asks for, and left alone for as long as this process may take to follow
    service.switch("a")
    service.advance("5s")
    assert billing.seen[2:] == []
    billing.broken.clear()
    service.advance("5s")
    assert billing.seen[2:] == [1, 2]


def test_an_unordered_consumer_reads_all_sides(make: Make) -> None:
    billing = Billing()
    service = make("p", billing.declare)
    service.app.start()
    for number, cluster in enumerate("abc"):
        if number:
            service.switch(cluster)
        service.app.publish("orders", number)
    assert service.clusters == ["a", "b", "c"]
    service.settle()
    assert sorted(billing.seen) == [0, 1, 2]
    service.switch("a")
    service.app.publish("orders", 3)
    service.settle()
    assert sorted(service.clusters) == ["a", "b", "c"]
    service.advance("10s")
    assert service.clusters == ["a"]
    assert sorted(billing.seen) == [0, 1, 2, 3]


def concurrency(service: Service) -> list[int]:
    """What is shown, and what the loops have."""
    assert service.app._session is not None
    loops = service.app._session.supervisor.loops
    shown = [info.concurrency for info in service.app.consumers()]
    service.settle()
    assert [loop._tuning.concurrency for _, loop in loops] == shown
    return shown


def test_limits_are_divided_while_both_are_read(make: Make) -> None:
    billing = Billing()
    service = make("p", billing.declare)
    service.app.start()
    billing.broken.add(1)
    service.app.publish("orders", 1)
    service.switch("b")
    service.settle()
    assert concurrency(service) == [2, 2]
    service.switch("b", file=FILE.replace("concurrency: 4", "concurrency: 9"))
    assert concurrency(service) == [4, 5]
    billing.broken.clear()
    service.advance("2s")
    assert concurrency(service) == [1, 8]  # nothing is left on the first
    service.advance("5s")
    assert concurrency(service) == [9]


def test_pause_holds_on_both(make: Make) -> None:
    billing = Billing()
    service = make("p", billing.declare)
    service.app.start()
    service.app.pause("orders", "billing")
    service.app.publish("orders", 1)
    service.switch("b")
    service.app.publish("orders", 2)
    service.advance("10s")
    assert billing.seen == []
    service.app.resume("orders", "billing")
    service.settle()
    assert sorted(billing.seen) == [1, 2]


def test_a_restart_in_the_middle_goes_on_reading_both_in_order(make: Make) -> None:
    memory, billing = InMemory(), Billing(ordered=True)
    first = make("p", billing.declare, memory=memory)
    first.app.start()
    billing.broken.add(1)
    first.app.publish("orders", 1, key="k")
    first.settle()
    first.switch("b")
    first.app.publish("orders", 2, key="k")
    first.settle()
    first.app.close()
    second = make("p", billing.declare, memory=memory, file=FILE.replace('["orders*"], cluster: a', '["orders*"], cluster: b'))
    second.app.start()
    second.settle()
    assert second.clusters == ["b", "a"]
    assert billing.seen == []
    billing.broken.clear()
    second.advance("10s")
    assert billing.seen == [1, 2]
    assert second.clusters == ["b"]


def test_an_old_cluster_that_is_down_holds_up_neither_a_start_nor_the_new_one(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    memory, billing = InMemory(), Billing()
    first = make("p", billing.declare, memory=memory)
    first.app.start()
    billing.broken.add(1)
    first.app.publish("orders", 1)
    first.switch("b")
    first.app.close()
    second = make("p", billing.declare, memory=memory, file=FILE.replace('["orders*"], cluster: a', '["orders*"], cluster: b'))
    assert second.stage is not None
    second.stage.down.add("a")
    billing.broken.clear()
    second.app.start()
    second.app.publish("orders", 2)
    second.advance("10s")
    assert billing.seen == [2]
    assert caplog.text.count("cluster a: how far the group is there is not known: no answer") == 1
    second.stage.down.clear()
    second.advance("31s")
    assert billing.seen == [2, 1]


def test_a_new_cluster_says_what_holds_there(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    service = make("p", Billing().declare)
    service.app.start()
    with caplog.at_level("INFO", "mqsdk.app"):
        service.switch("b")
    assert "cluster b: " in caplog.text


def test_a_day_later_a_restart_looks_no_more(make: Make, stores: Stores) -> None:
    memory, billing = InMemory(), Billing()
    first = make("p", billing.declare, memory=memory)
    first.app.start()
    first.switch("b")
    first.advance("25h")
    assert [step for step, *_ in first.steps] == ["reading", "writing", "closed", "over"]
    first.app.close()
    second = make("p", billing.declare, memory=memory, file=FILE.replace('["orders*"], cluster: a', '["orders*"], cluster: b'))
    second.app.start()
    second.settle()
    assert second.clusters == ["b"]


def test_what_is_known_of_an_old_cluster_outlasts_what_is_still_to_be_read_there(make: Make) -> None:
    memory, billing = InMemory(), Billing()
    service = make("p", billing.declare, memory=memory)
    service.app.start()
    service.app.publish("orders", 1, delay="3d")
    service.switch("b")
    service.advance("1m")
    assert service.clusters == ["a", "b"]
    assert service.app._session is not None
    a_week_later = service.app._session.supervisor.environment.clock.wall_ms() + 7 * 86_400_000
    assert "orders" in memory.entries(a_week_later)


def test_publishes_go_on_where_the_consumers_of_a_change_could_not_be_started(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    billing = Billing()
    service = make("p", billing.declare)
    service.app.start()
    reconcile, tried = Readers.reconcile, []

    def fails_once(readers: Readers, now: float) -> bool:
        tried.append(now)
        if len(tried) == 1:
            raise OSError(24, "too many open files")
        return reconcile(readers, now)

    monkeypatch.setattr(Readers, "reconcile", fails_once)
    with pytest.raises(OSError, match="too many"):
        service.switch("b")
    assert service.app.publish("orders", 1).cluster == "b"
    service.settle()
    assert billing.seen == [1]


def test_a_broadcast_reads_the_old_cluster_on(make: Make) -> None:
    billing = Billing(broadcast=True)
    service, late = make("p", billing.declare), make("late")
    service.app.start()
    service.switch("b")
    service.advance("1h")
    late.app.publish("orders", 1)
    service.app.publish("orders", 2)
    service.settle()
    assert sorted(billing.seen) == [1, 2]
    assert service.clusters == ["a", "b"]


REFUSED = {
    "what the new one cannot do": (replace(MEMORY, ordered=False), MEMORY, "keeps no order per key"),
    "an old one that cannot tell how far a group is": (MEMORY, replace(MEMORY, read_by_position=False), "cannot tell how far a group is"),
}


@pytest.mark.parametrize(("target", "source", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_kept_is_refused_and_nothing_changes(make: Make, target: Any, source: Any, why: str) -> None:
    billing = Billing(ordered=True)
    service = make("p", billing.declare, capabilities={"a": source, "b": target})
    service.app.start()
    with pytest.raises(ConfigError, match=why):
        service.switch("b")
    assert service.app.publish("orders", 1, key="k").cluster == "a"
    assert service.clusters == ["a"]
    service.settle()
    assert billing.seen == [1]


def test_a_cluster_that_would_forget_a_halt_is_refused(make: Make) -> None:
    billing = Billing(ordered=True, retry=RetryPolicy(attempts=1, on_exhausted="halt_partition"))
    service = make("p", billing.declare, capabilities={"b": replace(MEMORY, attempts=False)})
    service.app.start()
    with pytest.raises(ConfigError, match="would forget it"):
        service.switch("b")
    assert service.clusters == ["a"]


def test_a_cluster_that_cannot_keep_the_topics_retention_is_refused(make: Make) -> None:
    """It was taken, and then nobody read there and every publish was refused."""
    file = FILE + 'topics: {"orders": {retention: 1d}}\n'
    service = make("p", Billing().declare, capabilities={"b": replace(MEMORY, retention=False)}, file=file)
    service.app.start()
    with pytest.raises(ConfigError, match=r"cluster b .* cannot be told how long to keep topic orders"):
        service.switch("b", file=file)
    assert service.app.publish("orders", 1).cluster == "a"
    assert service.clusters == ["a"]
    service.switch("c", file=file)
    assert service.app.publish("orders", 2).cluster == "c"


SAME = {
    "a path written otherwise": ("a: {backend: log, path: ./a}", "b: {backend: log, path: ./x/../a}"),
    "servers in another order": (
        'a: {backend: redis, servers: ["m1:1", "m2:2"]}',
        'b: {backend: redis, servers: ["m2:2", "m1:1"], keep: 2h}',
    ),
    "a default that is written out": ('a: {backend: redis, servers: ["m1:1"]}', 'b: {backend: redis, servers: ["m1:1"], database: 0}'),
}


@pytest.mark.parametrize(("source", "target"), SAME.values(), ids=SAME.keys())
def test_another_name_of_the_same_place_is_refused(make: Make, source: str, target: str) -> None:
    file = FILE.replace("a: {backend: log, path: ./a}", source).replace("b: {backend: log, path: ./b}", target)
    service = make("p", Billing(ordered=True).declare, file=file)
    service.app.start()
    with pytest.raises(ConfigError, match="one place under two names"):
        service.switch("b", file=file)
    assert service.app.publish("orders", 1).cluster == "a"


def test_an_ordered_broadcast_is_refused(make: Make) -> None:
    service = make("p", Billing(ordered=True, broadcast=True).declare)
    service.app.start()
    with pytest.raises(ConfigError, match="ordered broadcast"):
        service.switch("b")


def test_the_backend_of_an_old_cluster_that_is_still_needed_is_refused(make: Make) -> None:
    service = make("p", Billing().declare)
    service.app.start()
    service.switch("b")
    with pytest.raises(ConfigError, match=r"clusters\.a\.backend: is needed until"):
        service.switch("b", file=FILE.replace("a: {backend: log, path: ./a}", "a: {backend: redis}"))
