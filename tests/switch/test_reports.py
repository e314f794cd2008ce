"""What a process reports of a move: where it is, what it still waits for, what it holds; and that it leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqsdk import App
from mqsdk.core.report import TOPIC, Report, decoded
from mqsdk.events import Event, MoveAdvanced
from mqsdk.runtime.unfinished import InMemory
from mqsdk.spi import Partition
from mqsdk.testing.clock import VirtualClock
from tests.switch.stage import Service, Stores, until
from tests.switch.test_readers import Billing
from tests.switch.test_stages import go, publish, staged


@pytest.fixture
def stores() -> Stores:
    return Stores(VirtualClock())


@pytest.fixture
def service(tmp_path: Path, stores: Stores) -> Iterator[Service]:
    made = Service(tmp_path, stores, Billing(ordered=True).declare, file=staged("source"))
    yield made
    made.app.close()


def report(service: Service) -> Report:
    session = service.app._session
    assert session is not None
    ((route, found),) = session.supervisor.reporting.reports()
    assert route.clusters == ("a", "b")
    return found


def test_a_report_says_where_the_process_is_and_what_it_holds(service: Service) -> None:
    service.app.start()
    service.settle()
    found = report(service)
    assert (found.topic, found.stage, found.epoch, found.waits_for, found.left) == ("orders", "source", 1, "", False)
    assert (found.pid, found.groups) == (os.getpid(), {"billing": True})
    go(service, "read_both", extra=", epoch: 2")
    publish(service, 1)
    assert report(service).held == {"a": 0, "b": 0}
    assert (report(service).stage, report(service).epoch) == ("read_both", 2)


def test_a_process_that_only_publishes_reports_too(tmp_path: Path, stores: Stores) -> None:
    (tmp_path / "w").mkdir()
    writer = Service(tmp_path / "w", stores, file=staged("read_both"))
    session = writer.app._session
    assert session is not None
    assert session.supervisor.reporting.reports() == []
    publish(writer, 1)
    assert report(writer).groups == {}
    writer.app.close()


def test_shadows_are_told_with_the_moment_from_which_there_are_some(service: Service, stores: Stores) -> None:
    service.app.start()
    go(service, "read_both")
    publish(service, 0)
    assert report(service).shadows == {}
    go(service, "dual_write", extra=", epoch: 2")
    publish(service, 1)
    stores["b"].fail_publish("rejected")
    publish(service, 2)
    assert stores.clock is not None
    assert report(service).shadows == {"since_ms": stores.clock.wall_ms(), "stored": 1, "failed": 1}
    go(service, "read_both", extra=", epoch: 3")
    assert report(service).shadows == {}
    go(service, "dual_write", extra=", epoch: 4")
    publish(service, 3)
    assert (report(service).shadows["stored"], report(service).shadows["failed"]) == (1, 0)


def test_a_process_that_cannot_read_a_cluster_waits_for_it(service: Service) -> None:
    service.route(file=staged("read_both"))
    service.app.reload()
    assert service.stage is not None
    service.stage.down.add("b")
    session = service.app._session
    assert session is not None
    session.supervisor.clusters._backends.pop("b", None)
    service.app.start()
    service.settle()
    assert report(service).waits_for == "orders/billing to read cluster b"
    service.stage.down.clear()
    service.advance("3s")
    assert report(service).waits_for == ""


def test_a_refused_reload_is_told(service: Service) -> None:
    service.app.start()
    go(service, "read_both", "switch_write")
    try:
        go(service, "read_both")
    except Exception:  # it is the text that counts
        assert report(service).waits_for.startswith("reload refused: topic orders cannot go from b to a")
    else:
        raise AssertionError("it was not refused")
    go(service, "switch_write", extra=", epoch: 7")
    assert report(service).waits_for == ""


def test_each_stage_is_an_event(service: Service) -> None:
    seen: list[MoveAdvanced] = []

    def note(event: Event) -> None:
        if isinstance(event, MoveAdvanced):
            seen.append(event)

    service.app.observe(note)
    service.app.start()
    go(service, "read_both", "read_both", "switch_write")
    assert seen == [MoveAdvanced("orders", stage, "a", "b") for stage in ("read_both", "switch_write")]


def told(stores: Stores, cluster: str) -> list[Report]:
    records = stores[cluster].logs[Partition(TOPIC, 0)].read(0, 1000) if TOPIC in stores[cluster].topics else []
    return [found for record in records if (found := decoded(record.value)) is not None]


def test_reports_go_to_both_clusters_and_the_last_one_says_that_it_leaves(tmp_path: Path) -> None:
    stores = Stores()
    service = Service(tmp_path, stores, declare, virtual=False, memory=InMemory(), file=staged("read_both"))
    service.app.start()
    until(lambda: all(any(not one.waits_for for one in told(stores, cluster)) for cluster in "ab"))
    service.app.close()
    assert [told(stores, cluster)[-1].left for cluster in "ab"] == [True, True]
    assert stores["a"].topics[TOPIC] == 1


def test_what_does_not_move_reports_nothing(tmp_path: Path) -> None:
    stores = Stores()
    service = Service(tmp_path, stores, declare, virtual=False, memory=InMemory())
    service.app.start()
    service.app.publish("orders", 1)
    session = service.app._session
    assert session is not None
    assert session.supervisor.reporting._thread is None
    service.app.close()
    assert TOPIC not in stores["a"].topics


def declare(app: App) -> None:
    @app.consumer("orders", group="billing", ordered=True)
    def bill(payload: int) -> None:
        """Handled."""
