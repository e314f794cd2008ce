"""`mqsdk move` over two in-memory clusters and a fleet that reports: gates, steps, the file, and the way back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mqsdk.config.load import load
from mqsdk.core.report import TOPIC, Report
from mqsdk.spi import NewRecord, Partition, Progress, Subscription
from mqsdk.testing import SimBackend
from mqsdk.testing.simlog import MEMORY
from tests.cli.harness import NOW_MS, Result, Sink
from tests.cli.test_cluster_change import Brokers

FILE = """\
app: shop
clusters:
  a: {backend: log, path: ./a}
  b: {backend: log, path: ./b}
routes:
  - {topics: ["*"], cluster: a}  # all
"""


class Fleet:
    """A clock on which processes report every three seconds. behind: those that do not follow the file. silent: that say nothing more."""

    def __init__(self, brokers: Brokers, path: Path) -> None:
        self.brokers = brokers
        self.path = path
        self.now = 1000.0
        self.names = ["shop@h:1", "shop@h:2"]
        self.behind: dict[str, tuple[str, int]] = {}
        self.silent: set[str] = set()
        self.waits_for = ""
        self.ordered = True
        self.reported_at = 0.0
        self.at: dict[float, Any] = {}  # what happens then

    def mono(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return NOW_MS + round(self.now * 1000)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for moment in [moment for moment in self.at if moment <= self.now]:
            self.at.pop(moment)()
        if self.now - self.reported_at >= 3:
            self.report()

    def report(self) -> None:
        self.reported_at = self.now
        route = load(str(self.path), environ={}).route("orders")
        if route is None or route.move is None:
            return
        for name in self.names:
            if name not in self.silent:
                stage, epoch = self.behind.get(name, (route.move.stage, route.move.epoch))
                one = Report(name, "h", int(name[-1]), "i", "orders", stage, epoch, self.waits_for, {}, {"billing": self.ordered}, 3.3)
                self.tell(one)

    def tell(self, one: Report, cluster: str = "a") -> None:
        backend = self.backend(cluster)
        backend.admin().ensure_topic(TOPIC, 1)
        record = NewRecord(1, Partition(TOPIC, 0), one.instance.encode(), one.encoded(), one.instance, self.wall_ms())
        backend.producer(Sink([])).publish([record], 0.0)

    def backend(self, cluster: str) -> SimBackend:
        made = self.brokers.make_backend(replace(load(str(self.path), environ={}).clusters[cluster]))
        made.open(0.0)
        return made

    def put(self, cluster: str, count: int) -> None:
        """Messages of `orders` that billing has not handled."""
        record = NewRecord(1, Partition("orders", 0), None, b"x", "id", NOW_MS)
        for _ in range(count):
            self.backend(cluster).producer(Sink([])).publish([record], 0.0)

    def handle(self, cluster: str) -> None:
        """All of partition 0."""
        consumer = self.backend(cluster).consumer(Subscription(("orders",), "billing"))
        assigned = next(one for one in consumer.poll(10, 0.0) if getattr(one, "partition", Partition("", 1)).number == 0)
        end = self.backend(cluster).admin().bounds("orders", 0)[1]
        consumer.settle(Progress(assigned.partition, assigned.epoch, end))  # type: ignore[union-attr]
        consumer.close(0.0)

    @property
    def route(self) -> str:
        return self.path.read_text().split("routes:\n")[1].splitlines()[0]


@pytest.fixture
def fleet(folder: Path) -> Fleet:
    brokers = Brokers()
    path = folder / "mqsdk.yaml"
    path.write_text(FILE)
    path.chmod(0o600)
    made = Fleet(brokers, path)
    brokers.clock = made
    made.backend("a").admin().ensure_topic("orders", 2)
    made.backend("a").admin().ensure_group("orders", "billing")
    return made


def mqsdk(fleet: Fleet, *words: str) -> Result:
    return fleet.brokers.mqsdk("move", *words)


def advance(fleet: Fleet, *words: str) -> Result:
    return mqsdk(fleet, "advance", "orders", "--yes", *words)


def rollback(fleet: Fleet, *words: str) -> Result:
    return mqsdk(fleet, "rollback", "orders", "--yes", *words)


def test_a_plan_says_what_will_happen_and_changes_nothing(fleet: Fleet) -> None:
    before = fleet.path.read_text()
    found = mqsdk(fleet, "plan", "orders", "--to", "b")
    assert found.code == 0
    assert "topic orders: a -> b, now in stage source" in found.out
    assert [line[:14] for line in found.out.splitlines() if line[:1].isdigit()] == [
        "1. read_both: ",
        "2. switch_writ",
        "3. target: onc",
        "4. the end: th",
    ]
    assert "dead letters stay on a" in found.out
    assert fleet.path.read_text() == before
    assert "b" not in fleet.brokers.stores or "orders" not in fleet.brokers.stores["b"].topics


def test_a_move_goes_from_step_to_step_and_ends_in_the_route(fleet: Fleet) -> None:
    assert advance(fleet, "--to", "b").code == 0
    assert fleet.route == "  - {topics: [orders], cluster: a, move: {to: b, stage: read_both, epoch: 1}}"
    assert "billing" in fleet.brokers.stores["b"].groups["orders"]
    assert fleet.brokers.stores["b"].topics["orders"] == 2
    assert advance(fleet).code == 0
    assert "stage: switch_write, epoch: 2" in fleet.route
    assert advance(fleet).code == 0
    assert "stage: target, epoch: 3" in fleet.route
    assert advance(fleet).code == 0
    assert fleet.route == "  - {topics: [orders], cluster: b}"


def test_auto_goes_on_to_the_target(fleet: Fleet) -> None:
    found = advance(fleet, "--to", "b", "--auto", "--json")
    assert (found.code, found.document["stage"], found.document["steps"]) == (0, "target", ["read_both", "switch_write", "target"])


def test_a_step_is_refused_with_the_instance_that_is_in_the_way(fleet: Fleet) -> None:
    advance(fleet, "--to", "b")
    fleet.behind["shop@h:2"] = ("source", 0)
    fleet.report()
    refused = advance(fleet)
    assert refused.code == 5
    assert "stays in stage read_both: 1 of 4 gates before switch_write do not hold" in refused.err
    assert "instances: shop@h:2 is at epoch 0 (source), not 1" in refused.err
    assert "stage: read_both" in fleet.route
    document = advance(fleet, "--json").document
    assert document["error"]["type"] == "MoveRefused"
    assert [gate["name"] for gate in document["gates"]] == ["answering", "groups", "instances", "members"]
    assert [gate["name"] for gate in document["gates"] if not gate["ok"]] == ["instances"]


def test_an_instance_that_is_dead_stops_nothing_after_the_fence_time(fleet: Fleet) -> None:
    advance(fleet, "--to", "b")
    fleet.behind["shop@h:2"] = ("source", 0)
    fleet.report()
    fleet.silent.add("shop@h:2")
    began = fleet.now
    assert advance(fleet).code == 0
    assert 13 <= fleet.now - began < 19  # a lease, and what a report may be older than the last sign of life
    assert "stage: switch_write" in fleet.route


def test_a_member_that_reports_nothing_is_named(fleet: Fleet) -> None:
    """An old version of the SDK, or a process whose file has no move."""
    advance(fleet, "--to", "b")
    fleet.report()
    stranger = fleet.backend("a").consumer(Subscription(("orders",), "billing", instance="old@h:9"))
    stranger.poll(1, 0.0)
    refused = advance(fleet)
    assert refused.code == 5
    assert "reads on cluster a and reports nothing" in refused.err


def test_the_source_is_read_until_it_is_empty_and_silent(fleet: Fleet) -> None:
    advance(fleet, "--to", "b")
    advance(fleet)
    fleet.put("a", 3)
    refused = advance(fleet, "--timeout", "15s")
    assert "drained: cluster a: group billing has 3 unsettled, and no running consumer" in refused.err

    def late() -> None:
        fleet.put("a", 1)
        fleet.handle("a")

    fleet.at = {fleet.now + 20: lambda: fleet.handle("a"), fleet.now + 25: late}
    began = fleet.now
    assert advance(fleet, "--timeout", "60s").code == 0
    assert fleet.now - began >= 35  # a writer that has not heard of it starts the fence time anew
    assert "stage: target" in fleet.route


def test_silence_from_before_the_step_does_not_count(fleet: Fleet) -> None:
    advance(fleet, "--to", "b")
    began = fleet.now
    assert advance(fleet, "--auto").code == 0
    assert fleet.now - began >= 15  # half the fence time of listening in read_both, and the whole of silence in switch_write


def test_an_instance_that_was_started_anew_under_its_old_name_is_another_one(fleet: Fleet) -> None:
    """In a container each is process 1."""
    advance(fleet, "--to", "b")
    fleet.tell(Report("shop@h:2", "h", 2, "before", "orders", "source", 0))
    found = mqsdk(fleet, "status", "orders", "--timeout", "6s", "--json").document
    assert [(one["name"], one["epoch"]) for one in found["instances"]] == [("shop@h:1", 1), ("shop@h:2", 0), ("shop@h:2", 1)]


def test_a_group_that_came_after_the_first_step_is_made_on_the_target_before_the_next(fleet: Fleet) -> None:
    advance(fleet, "--to", "b")
    fleet.backend("a").admin().ensure_group("orders", "late")
    assert advance(fleet).code == 0
    assert "late" in fleet.brokers.stores["b"].groups["orders"]


def test_a_group_that_came_on_the_target_is_made_on_the_source_on_the_way_back(fleet: Fleet) -> None:
    advance(fleet, "--to", "b", "--auto")
    fleet.backend("b").admin().ensure_group("orders", "late")
    assert rollback(fleet).code == 0
    assert "late" in fleet.brokers.stores["a"].groups["orders"]


def test_what_waits_in_an_instance_is_named(fleet: Fleet) -> None:
    advance(fleet, "--to", "b")
    fleet.waits_for = "orders/billing to read cluster b"
    assert "shop@h:1 waits for orders/billing to read cluster b" in advance(fleet).err


def test_an_ordered_topic_goes_back_by_the_reading_stage(fleet: Fleet) -> None:
    advance(fleet, "--to", "b")
    advance(fleet)
    found = rollback(fleet, "--json")
    assert (found.document["stage"], found.document["steps"]) == ("source", ["read_back", "switch_back", "source"])
    assert rollback(fleet).code == 0
    assert fleet.route == "  - {topics: [orders], cluster: a}"


def test_an_unordered_topic_goes_back_in_one_step(fleet: Fleet) -> None:
    fleet.ordered = False
    advance(fleet, "--to", "b")
    advance(fleet)
    assert rollback(fleet, "--to-stage", "read_both", "--json").document["steps"] == ["read_both"]


def test_now_waits_for_nothing_not_even_for_the_target(fleet: Fleet) -> None:
    advance(fleet, "--to", "b")
    advance(fleet)
    fleet.brokers.down.add("b")
    fleet.behind["shop@h:2"] = ("source", 0)
    began = fleet.now
    assert rollback(fleet, "--now").code == 0
    assert "stage: read_both, epoch: 3, now: true" in fleet.route
    assert fleet.now == began


def test_status_shows_gates_instances_and_what_is_left(fleet: Fleet) -> None:
    advance(fleet, "--to", "b")
    fleet.put("a", 2)
    found = mqsdk(fleet, "status", "orders", "--timeout", "6s", "--json").document
    assert {name: found[name] for name in ("topic", "stage", "from", "to", "epoch", "next")} == {
        "topic": "orders", "stage": "read_both", "from": "a", "to": "b", "epoch": 1, "next": "switch_write",
    }  # fmt: skip
    assert found["gates"][2] == {"name": "instances", "ok": True, "detail": "2 of 2 report read_both"}
    assert [(one["name"], one["stage"]) for one in found["instances"]] == [("shop@h:1", "read_both"), ("shop@h:2", "read_both")]
    assert {"group": "billing", "cluster": "a", "messages": 2, "delayed": 0, "members": 0} in found["groups"]
    text = mqsdk(fleet, "status", "orders").out
    assert "topic orders: a -> b, stage read_both, epoch 1" in text
    assert "wait instances: 2 of 2 report read_both, listening for 0 of 5 s" in text


def test_status_that_watches_can_tell_who_is_gone(fleet: Fleet) -> None:
    advance(fleet, "--to", "b")
    fleet.report()
    fleet.silent.add("shop@h:2")
    found = mqsdk(fleet, "status", "orders", "--timeout", "20s", "--json").document
    assert [one["gone"] for one in found["instances"]] == [False, True]


def test_an_instance_that_has_left_is_not_waited_for(fleet: Fleet) -> None:
    advance(fleet, "--to", "b")
    fleet.behind["shop@h:2"] = ("source", 0)
    fleet.report()
    fleet.tell(Report("shop@h:2", "h", 2, "i", "orders", "source", 0, left=True))
    fleet.silent.add("shop@h:2")
    assert advance(fleet, "--timeout", "6s").code == 0


def test_a_report_on_one_cluster_is_enough(fleet: Fleet) -> None:
    advance(fleet, "--to", "b")
    fleet.names = []
    fleet.tell(Report("shop@h:3", "h", 3, "i", "orders", "read_both", 1), "b")
    assert "1 of 1 report read_both" in mqsdk(fleet, "status", "orders").out


def test_a_file_that_somebody_edits_meanwhile_is_looked_at_again(fleet: Fleet) -> None:
    advance(fleet, "--to", "b")
    fleet.waits_for = "something"
    text = fleet.path.read_text()
    fleet.at = {fleet.now + 8: lambda: fleet.path.write_text(text.replace("read_both, epoch: 1", "source, epoch: 2"))}
    found = advance(fleet)
    assert (found.code, "changed by somebody else" in found.err) == (5, True)
    assert "stage: source, epoch: 2" in fleet.route


REFUSED = [
    (("plan", "orders", "--to", "c"), 6, "there is no cluster c"),
    (("plan", "orders", "--to", "a"), 5, "is on cluster a already"),
    (("status", "orders"), 6, "topic orders does not move"),
    (("advance", "orders", "--yes"), 6, "name a cluster with --to: b"),
    (("rollback", "orders", "--yes"), 6, "topic orders does not move"),
    (("advance", "orders", "--to", "b"), 5, "was not confirmed"),
    (("advance", "../x", "--to", "b"), 2, "TOPIC"),
]


@pytest.mark.parametrize(("words", "code", "says"), REFUSED, ids=lambda value: "-".join(value) if isinstance(value, tuple) else "")
def test_what_cannot_be_is_refused(fleet: Fleet, words: tuple[str, ...], code: int, says: str) -> None:
    before = fleet.path.read_text()
    found = mqsdk(fleet, *words)
    assert found.code == code
    assert says in found.err
    assert fleet.path.read_text() == before


def test_another_target_in_the_middle_is_refused(fleet: Fleet) -> None:
    fleet.path.write_text(fleet.path.read_text().replace("routes:", "  c: {backend: log, path: ./c}\nroutes:"))
    advance(fleet, "--to", "b")
    assert "moves to b already, not to c" in advance(fleet, "--to", "c").err


def test_a_dry_run_says_the_step(fleet: Fleet) -> None:
    found = mqsdk(fleet, "advance", "orders", "--to", "b", "--dry-run")
    assert found.out == "topic orders: a -> b, from stage source to read_both\n"
    assert "move" not in fleet.path.read_text()


def test_a_target_that_does_not_answer_keeps_the_move_from_beginning(fleet: Fleet) -> None:
    fleet.brokers.down.add("b")
    assert advance(fleet, "--to", "b").code == 4
    assert "move" not in fleet.path.read_text()


# --- dual_write -----------------------------------------------------------------------------------------------------------------------


def doubled(fleet: Fleet) -> None:
    """In dual_write, with a consumer on the target and processes that write shadows."""
    advance(fleet, "--to", "b")
    reader = fleet.backend("b").consumer(Subscription(("orders",), "billing", instance="shop@h:1"))
    reader.poll(1, 0.0)
    found = advance(fleet, "--dual-write")
    assert found.code == 0, found.err
    assert "stage: dual_write, epoch: 2" in fleet.route


def write(fleet: Fleet, cluster: str, *ids: str, shadow: bool = False) -> None:
    """A while ago, by the process `i`."""
    extra = (("mq-shadow", "1"),) if shadow else ()
    for one in ids:
        record = NewRecord(1, Partition("orders", 0), None, b"x", one, NOW_MS - 17_000, producer="i", extra=extra)
        fleet.backend(cluster).producer(Sink([])).publish([record], 0.0)


def shadows_of(fleet: Fleet, since_ms: int) -> None:
    told = {"since_ms": since_ms, "stored": 2, "failed": 1}
    fleet.tell(Report("shop@h:1", "h", 1, "i", "orders", "dual_write", 2, groups={"billing": True}, every_s=3.3, shadows=told))


def test_dual_write_is_an_optional_step_with_a_way_back(fleet: Fleet) -> None:
    doubled(fleet)
    assert advance(fleet).code == 0
    assert "stage: switch_write, epoch: 3" in fleet.route


def test_a_group_without_a_consumer_on_the_target_keeps_dual_write_from_beginning(fleet: Fleet) -> None:
    advance(fleet, "--to", "b")
    assert "running: group billing has no running consumer on cluster b" in advance(fleet, "--dual-write").err
    assert "stage: read_both" in fleet.route


def test_from_dual_write_the_way_back_goes_by_read_both(fleet: Fleet) -> None:
    doubled(fleet)
    assert rollback(fleet, "--json").document["steps"] == ["read_both", "source"]


def test_publishes_do_not_go_to_a_target_whose_shadows_are_not_read(fleet: Fleet) -> None:
    doubled(fleet)
    write(fleet, "b", "one", "two", shadow=True)
    assert "group billing has 2 of them unsettled" in advance(fleet).err
    assert "stage: dual_write" in fleet.route


def test_status_compares_what_both_clusters_have(fleet: Fleet) -> None:
    doubled(fleet)
    fleet.put("a", 1)  # by a process that writes none
    shadows_of(fleet, NOW_MS - 60_000)
    write(fleet, "a", "one", "two", "lost")
    write(fleet, "b", "two", "one", "ghost", shadow=True)
    fleet.put("b", 1)  # no shadow
    (minute,) = mqsdk(fleet, "status", "orders", "--json").document["shadows"]["minutes"]
    assert (minute["source"], minute["target"], minute["same"], minute["missing"], minute["extra"]) == (3, 3, False, ["lost"], ["ghost"])
    text = mqsdk(fleet, "status", "orders").out
    assert "missing on b: lost" in text
    assert "not found on a: ghost" in text
    assert "shadows: 2 stored, 1 failed; 0 under way, 1 messages of processes that make none" in text


def test_status_says_when_it_cannot_compare(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    doubled(fleet)
    able = replace(MEMORY, read_by_position=False)
    stores = fleet.brokers.stores
    monkeypatch.setattr(
        fleet.brokers,
        "make_backend",
        lambda cluster: SimBackend(stores[cluster.name], name=cluster.name, capabilities=able if cluster.name == "b" else MEMORY),
    )
    assert "! not compared: cluster b (memory) cannot be read by position" in mqsdk(fleet, "status", "orders").out


def test_no_other_stage_compares(fleet: Fleet) -> None:
    advance(fleet, "--to", "b")
    assert "shadows" not in mqsdk(fleet, "status", "orders", "--json").document
