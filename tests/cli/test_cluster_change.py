"""What the command line shows while a topic is read on two clusters."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqsdk import App
from mqsdk.cli.processes import _consumers_text
from mqsdk.config.model import Cluster
from mqsdk.errors import Unavailable
from mqsdk.runtime.environment import Environment
from mqsdk.testing import SimBackend, SimLog
from tests.cli.harness import NOW_MS, Broker
from tests.switch.stage import FILE


class Brokers(Broker):
    """As Broker, with a log of its own for each cluster."""

    def __init__(self) -> None:
        super().__init__()
        self.stores: dict[str, SimLog] = {}
        self.down: set[str] = set()

    def make_backend(self, cluster: Cluster) -> SimBackend:
        if cluster.name in self.down:
            raise Unavailable("no answer", cluster=cluster.name, fix="check `servers`")
        return SimBackend(self.stores.setdefault(cluster.name, SimLog()), name=cluster.name)


class Clock:
    """The time of the command line's harness, for what is written down by it."""

    def mono(self) -> float:
        return 100.0

    def wall_ms(self) -> int:
        return NOW_MS

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing sleeps here")


@pytest.fixture
def brokers(folder: Path) -> Brokers:
    """One message of `orders` for `billing` is left on cluster a, two are on b."""
    made = Brokers()
    path = folder / "mqsdk.yaml"

    def route(cluster: str) -> None:
        path.write_text(FILE.replace('["orders*"], cluster: a', f'["orders*"], cluster: {cluster}'))
        path.chmod(0o600)

    route("a")
    app = App()
    app._open(environment=Environment(make_backend=made.make_backend, clock=Clock(), threaded=False))
    with app:
        app.publish("orders", 0)
        made.stores["a"].create_group("orders", "billing", None, history=True, by_time=True)
        route("b")
        app.reload()
        app.publish_many("orders", [1, 2])
    return made


def test_lag_counts_what_is_left_on_the_older_cluster(brokers: Brokers) -> None:
    assert brokers.mqsdk("lag", "orders", "billing").out.splitlines()[1].split()[:3] == ["orders", "billing", "3"]
    assert brokers.mqsdk("lag", "orders", "billing", "--max-messages", "2").code == 1
    rows = brokers.mqsdk("lag", "orders", "billing", "--json").document["lag"]
    left = {cluster: sum(row["messages"] for row in rows if row["cluster"] == cluster) for cluster in ("a", "b")}
    assert left == {"a": 1, "b": 2}


def test_doctor_says_what_is_left_on_a_cluster_where_no_route_leads(brokers: Brokers) -> None:
    rows = {row["name"]: row["findings"] for row in brokers.mqsdk("doctor", "--json").document["clusters"]}
    (left,) = [finding for finding in rows["a"] if finding["code"] == "log.left_behind"]
    assert (left["level"], left["what"]) == ("warn", "1 messages of orders/billing are left here, and its route leads to b")
    assert not [finding for name in "bc" for finding in rows[name] if finding["code"] == "log.left_behind"]


def test_an_older_cluster_that_does_not_answer_is_told(brokers: Brokers) -> None:
    brokers.down.add("a")
    found = brokers.mqsdk("lag", "orders", "billing")
    assert found.code == 4
    assert "no answer" in found.err
    assert found.out.splitlines()[1].split()[:3] == ["orders", "billing", "2"]


def test_ps_names_the_cluster_of_a_consumer_that_reads_two() -> None:
    one = {"topic": "orders", "group": "billing", "state": "running"}
    assert _consumers_text([{**one, "cluster": "a"}]) == "orders/billing running"
    both = _consumers_text([{**one, "cluster": "a", "state": "draining"}, {**one, "cluster": "b"}])
    assert both == "orders/billing on a draining, orders/billing on b running"


def test_the_difference_of_a_routes_cluster_is_live(brokers: Brokers, folder: Path) -> None:
    (folder / "old.yaml").write_text(FILE)
    (folder / "old.yaml").chmod(0o600)
    changes = brokers.mqsdk("check", "mqsdk.yaml", "--diff", "old.yaml", "--json").document["changes"]
    assert [(one["key"], one["old"], one["new"], one["applies"]) for one in changes] == [("routes[0].cluster", "a", "b", "live")]
