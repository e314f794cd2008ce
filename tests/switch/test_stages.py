"""The stages of a move in one process and in two that see different ones, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mqsdk import ConfigError, PublishRejected
from mqsdk.runtime.unfinished import InMemory
from mqsdk.testing.clock import VirtualClock
from tests.live.keys import shows
from tests.switch.stage import Service, Stores
from tests.switch.test_readers import Billing

Make = Callable[..., Service]


@pytest.fixture
def stores() -> Stores:
    return Stores(VirtualClock())


@pytest.fixture
def make(tmp_path: Path, stores: Stores) -> Iterator[Make]:
    made: list[Service] = []

    def one(name: str, *args: Any, stage: str = "", **options: Any) -> Service:
        (tmp_path / name).mkdir(exist_ok=True)
        if stage:
            options["file"] = staged(stage)
        made.append(Service(tmp_path / name, stores, *args, **options))
        return made[-1]

    yield one
    for service in made:
        service.app.close()


def staged(stage: str, extra: str = "") -> str:
    from tests.switch.stage import FILE

    return FILE.replace('["orders*"], cluster: a', f'["orders*"], cluster: a, move: {{to: b, stage: {stage}{extra}}}')


def go(service: Service, *stages: str, extra: str = "") -> None:
    """One after the other, with time to take each."""
    for stage in stages:
        service.route(file=staged(stage, extra))
        service.app.reload()
        service.advance("1s")


def publish(service: Service, number: int, key: str | None = "k") -> str:
    return service.app.publish("orders", number, key=key).cluster


AHEAD = ("read_both", "switch_write", "target")
BACK = ("read_back", "switch_back", "source")


@shows("routes.[].move.to", "routes.[].move.stage", "routes.[].move.epoch")
def test_there_and_back_keeps_the_order_and_loses_nothing(make: Make) -> None:
    billing = Billing(ordered=True)
    service = make("p", billing.declare, stage="source")
    service.app.start()
    billing.broken.add(0)
    written = [publish(service, 0)]
    for number, stage in enumerate((*AHEAD, *BACK, "read_both", "source")):
        go(service, stage)
        billing.broken.add(number + 1)
        written.append(publish(service, number + 1))
        service.settle()
        assert billing.seen == list(range(number))  # the last one of the stage before waits for its next attempt, and the new one for it
        billing.broken.discard(number)
        service.advance("5s")
    billing.broken.clear()
    service.advance("5s")
    assert written == ["a", "a", "b", "b", "b", "a", "a", "a", "a"]
    assert billing.seen == list(range(9))


READ = {"source": "a", "read_both": "ab", "switch_write": "ab", "target": "b", "read_back": "ab", "switch_back": "ab"}


@pytest.mark.parametrize("ordered", [True, False])
def test_each_stage_reads_what_it_says_for_as_long_as_it_lasts(make: Make, ordered: bool) -> None:
    service = make("p", Billing(ordered=ordered).declare, stage="source")
    service.app.start()
    for stage in (*AHEAD, *BACK):
        go(service, stage)
        service.advance("5m")
        assert "".join(sorted(service.clusters)) == READ[stage]


@pytest.mark.parametrize("stage", ["read_both", "switch_write"])
def test_what_a_quicker_process_puts_into_the_target_waits_for_the_source(make: Make, stage: str) -> None:
    billing = Billing(ordered=True)
    service, quick = make("p", billing.declare, stage="read_both"), make("quick", stage="read_both")
    service.app.start()
    go(service, "read_both", stage) if stage != "read_both" else None
    billing.broken.add(1)
    assert publish(quick, 1) == "a"
    service.settle()
    go(quick, "switch_write")
    assert publish(quick, 2) == "b"
    service.advance("3s")
    assert billing.seen == []
    billing.broken.clear()
    service.advance("2s")
    assert billing.seen == [1, 2]


@pytest.mark.parametrize("stage", ["read_back", "switch_back"])
def test_on_the_way_back_the_source_waits_for_the_target(make: Make, stage: str) -> None:
    billing = Billing(ordered=True)
    service, quick = make("p", billing.declare, stage="switch_write"), make("quick", stage="switch_write")
    service.app.start()
    go(service, "read_back")
    go(service, stage) if stage != "read_back" else None
    billing.broken.add(1)
    assert publish(quick, 1) == "b"
    service.settle()
    go(quick, "read_back", "switch_back")
    assert publish(quick, 2) == "a"
    service.advance("3s")
    assert billing.seen == []
    billing.broken.clear()
    service.advance("2s")
    assert billing.seen == [1, 2]


@pytest.mark.parametrize(("stage", "first"), [("read_both", "a"), ("switch_write", "a"), ("read_back", "b"), ("switch_back", "b")])
def test_a_process_that_starts_in_the_middle_keeps_the_order(make: Make, stage: str, first: str) -> None:
    """It knows nothing but the file."""
    billing = Billing(ordered=True)
    writer = make("w", stage="read_both" if first == "a" else "read_back")
    service = make("p", billing.declare, stage=stage, memory=InMemory())
    service.app.start()
    assert "".join(sorted(service.clusters)) == "ab"
    billing.broken.add(1)
    assert publish(writer, 1) == first
    service.settle()
    go(writer, "switch_write" if first == "a" else "switch_back")
    assert publish(writer, 2) != first
    service.advance("3s")
    assert billing.seen == []
    billing.broken.clear()
    service.advance("2s")
    assert billing.seen == [1, 2]


def test_unordered_messages_wait_for_nothing(make: Make) -> None:
    billing = Billing()
    service = make("p", billing.declare, stage="read_both")
    service.app.start()
    billing.broken.add(1)
    publish(service, 1)
    go(service, "switch_write")
    publish(service, 2)
    service.settle()
    assert billing.seen == [2]


@pytest.mark.parametrize("stage", ["read_both", "source"])
def test_ordered_consumers_refuse_to_go_back_without_the_reading_stage(make: Make, stage: str) -> None:
    service = make("p", Billing(ordered=True).declare, stage="read_both")
    service.app.start()
    go(service, "switch_write")
    with pytest.raises(ConfigError, match=r"topic orders cannot go from b to a while in use: .* read_back and switch_back"):
        go(service, stage)
    assert publish(service, 1) == "b"


def test_unordered_consumers_go_back_in_one_step(make: Make) -> None:
    billing = Billing()
    service = make("p", billing.declare, stage="read_both")
    service.app.start()
    go(service, "switch_write")
    assert publish(service, 1) == "b"
    go(service, "read_both")
    assert publish(service, 2) == "a"
    service.advance("1s")
    assert sorted(billing.seen) == [1, 2]


@shows("routes.[].move.now")
def test_now_gives_up_the_order_and_goes_back_although_the_target_is_down(make: Make) -> None:
    billing = Billing(ordered=True)
    service = make("p", billing.declare, stage="read_both")
    service.app.start()
    go(service, "switch_write")
    billing.broken.add(1)
    assert publish(service, 1) == "b"
    service.settle()
    go(service, "read_both", extra=", now: true")
    assert publish(service, 2) == "a"
    service.advance("1s")
    assert billing.seen == [2]
    billing.broken.clear()
    service.advance("2s")
    assert billing.seen == [2, 1]


def test_what_is_left_when_a_cluster_is_left_is_read_all_the_same(make: Make) -> None:
    """Somebody has edited the file by hand and not looked at the gates."""
    billing = Billing(ordered=True)
    service = make("p", billing.declare, stage="read_both")
    service.app.start()
    billing.broken.add(1)
    publish(service, 1)
    service.settle()
    go(service, "switch_write", "target")
    publish(service, 2)
    service.advance("30s")
    assert billing.seen == []
    billing.broken.clear()
    service.advance("5s")
    assert billing.seen == [1, 2]
    assert service.clusters == ["b"]


def test_the_end_of_a_move_changes_nothing(make: Make) -> None:
    service = make("p", Billing(ordered=True).declare, stage="read_both")
    service.app.start()
    go(service, "switch_write", "target")
    service.advance("10s")
    steps = list(service.steps)
    service.switch("b")
    service.advance("10s")
    assert (service.clusters, service.steps) == (["b"], steps)


def test_a_cluster_that_is_only_listened_to_gets_one_handler(make: Make) -> None:
    service = make("p", Billing().declare, stage="read_both")
    service.app.start()
    service.advance("5s")
    assert {one.cluster: one.concurrency for one in service.app.consumers()} == {"a": 3, "b": 1}
    go(service, "switch_write")
    service.advance("5s")
    assert {one.cluster: one.concurrency for one in service.app.consumers()} == {"a": 1, "b": 3}


def test_the_lag_of_a_moving_topic_counts_both_clusters(make: Make, stores: Stores) -> None:
    billing = Billing()
    service = make("p", billing.declare, stage="read_both")
    service.app.start()
    billing.broken |= {1, 2}
    publish(service, 1)
    go(service, "switch_write")
    publish(service, 2)
    service.settle()
    other = make("q", stage="switch_write")
    assert other.app.lag("orders", "billing").messages == service.app.lag("orders", "billing").messages == 2


def test_every_group_exists_on_the_target_before_anybody_writes_there(make: Make, stores: Stores) -> None:
    billing = Billing()
    service = make("p", billing.declare, stage="source")
    service.app.start()
    stores["a"].create_group("orders", "offline", None, history=True, by_time=True)
    go(service, "read_both")
    assert set(stores["b"].groups["orders"]) == {"billing", "offline"}


# --- dual_write -----------------------------------------------------------------------------------------------------------------------


def stored(stores: Stores, cluster: str) -> list[tuple[bytes, bool]]:
    """(body, whether it is a shadow) of `orders`."""
    return [(record.value, record.shadow) for _, record in stores[cluster].records("orders")] if "orders" in stores[cluster].topics else []


def shadows_of(service: Service) -> dict[str, int]:
    session = service.app._session
    assert session is not None
    found = dict(session.supervisor.shadowing.counts("orders"))
    found.pop("since_ms", None)
    return found


@pytest.mark.parametrize("ordered", [True, False])
def test_dual_write_stores_a_shadow_that_nobody_handles(make: Make, stores: Stores, ordered: bool) -> None:
    billing = Billing(ordered=ordered)
    service = make("p", billing.declare, stage="read_both")
    service.app.start()
    publish(service, 0)
    go(service, "dual_write")
    assert [publish(service, number) for number in (1, 2)] == ["a", "a"]
    service.advance("5s")
    assert billing.seen == [0, 1, 2]
    assert stored(stores, "b") == [(b"1", True), (b"2", True)]
    assert shadows_of(service) == {"stored": 2, "failed": 0}
    assert service.app.lag("orders", "billing").messages == 0  # settled on the target too
    for number, (stage, cluster) in enumerate([("switch_write", "b"), ("target", "b")], 3):
        go(service, stage)
        assert publish(service, number) == cluster
        service.advance("5s")
    assert billing.seen == [0, 1, 2, 3, 4]
    assert [is_shadow for _, is_shadow in stored(stores, "b")] == [True, True, False, False]


def test_every_way_to_publish_has_its_shadow(make: Make, stores: Stores) -> None:
    service = make("p", stage="dual_write")
    app = service.app
    app.publish("orders", 1, key="k", headers={"mine": "x"}, id="one")
    app.publish_many("orders", [2, 3], key="k")
    app.publish_nowait("orders", 4).result(1.0)
    app.publish("orders", 5, delay="1h")
    service.settle()
    assert [value for value, is_shadow in stored(stores, "b") if is_shadow] == [b"1", b"2", b"3", b"4", b"5"]
    (first, *_), (shadow, *_) = ([record for _, record in stores[cluster].records("orders")] for cluster in "ab")
    assert (shadow.id, shadow.key, shadow.headers, shadow.content_type) == (first.id, first.key, first.headers, first.content_type)


def test_a_shadow_that_fails_fails_no_publish_and_is_counted(make: Make, stores: Stores) -> None:
    billing = Billing(ordered=True)
    service = make("p", billing.declare, stage="read_both")
    service.app.start()
    go(service, "dual_write")
    stores["b"].fail_publish("rejected", 2)
    assert [publish(service, number) for number in (1, 2, 3)] == ["a"] * 3
    service.advance("2s")
    assert billing.seen == [1, 2, 3]
    assert shadows_of(service) == {"stored": 1, "failed": 2}


def test_a_target_that_is_down_fails_no_publish(make: Make) -> None:
    service = make("p", stage="dual_write")
    assert service.stage is not None
    service.stage.down.add("b")
    assert [publish(service, number) for number in (1, 2)] == ["a", "a"]
    assert shadows_of(service) == {"stored": 0, "failed": 2}


def test_a_publish_that_the_source_refuses_has_no_shadow(make: Make, stores: Stores) -> None:
    service = make("p", stage="dual_write")
    publish(service, 0)
    stores["a"].fail_publish("rejected", 1)
    with pytest.raises(PublishRejected):
        publish(service, 1)
    assert [value for value, _ in stored(stores, "b")] == [b"0"]


@pytest.mark.parametrize("stage", ["read_both", "switch_write", "read_back"])
def test_a_shadow_is_known_by_a_process_in_any_stage(make: Make, stores: Stores, stage: str) -> None:
    """One that has not heard of dual_write, or has gone on; the writer's shadows come late."""
    billing = Billing(ordered=True)
    service, writer = make("p", billing.declare, stage="read_both"), make("w", stage="dual_write")
    service.app.start()
    go(service, *{"read_both": (), "switch_write": ("switch_write",), "read_back": ("switch_write", "read_back")}[stage])
    assert [publish(writer, number) for number in (1, 2)] == ["a", "a"]
    service.advance("5s")
    assert billing.seen == [1, 2]
    assert [is_shadow for _, is_shadow in stored(stores, "b")] == [True, True]


def test_back_from_dual_write_nothing_is_left_and_nothing_came_twice(make: Make, stores: Stores) -> None:
    billing = Billing(ordered=True)
    service = make("p", billing.declare, stage="read_both")
    service.app.start()
    go(service, "dual_write")
    publish(service, 1)
    go(service, "read_both")
    publish(service, 2)
    go(service, "source")
    publish(service, 3)
    service.advance("30s")
    assert billing.seen == [1, 2, 3]
    assert (service.clusters, len(stored(stores, "b"))) == (["a"], 1)


def test_a_shadow_does_not_let_a_message_pass_what_waits_on_the_source(make: Make) -> None:
    """Had the shadow taken its producer's cut, the cut would lie before what came to the source after it."""
    billing = Billing(ordered=True)
    service = make("p", billing.declare, stage="read_both")
    service.app.start()
    go(service, "dual_write")
    publish(service, 1)
    service.advance("3s")
    billing.broken.add(2)
    publish(service, 2)
    go(service, "switch_write")
    publish(service, 3)
    service.advance("3s")
    assert billing.seen == [1]
    billing.broken.clear()
    service.advance("5s")
    assert billing.seen == [1, 2, 3]


def test_a_shadow_of_a_delayed_message_is_not_delayed(make: Make, stores: Stores) -> None:
    billing = Billing()
    service = make("p", billing.declare, stage="dual_write")
    service.app.start()
    service.app.publish("orders", 1, key="k", delay="10s")
    service.advance("1s")
    assert (stored(stores, "b"), billing.seen) == ([(b"1", True)], [])
    service.advance("15s")
    assert billing.seen == [1]
