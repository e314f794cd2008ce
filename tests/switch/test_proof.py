"""A process that stood still looks at its route before it publishes to a topic that moves: the move may have gone on without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mqsdk import PublishRejected
from mqsdk.runtime.unfinished import InMemory
from tests.live.keys import shows
from tests.switch.stage import FILE, Service, Stores, until

PATIENT = FILE.replace("watch: false", "every: 1h")
MOVING = '["orders*"], cluster: a, move: {{to: b, stage: {}, epoch: {}}}'


def staged(stage: str, epoch: int = 1) -> str:
    return PATIENT.replace('["orders*"], cluster: a', MOVING.format(stage, epoch))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """It looks at its file every hour."""
    made = Service(tmp_path, Stores(), virtual=False, memory=InMemory(), file=staged("read_both"))
    yield made
    made.app.close()


def freeze(service: Service) -> None:
    """For longer than its last look, or report, is worth."""
    session = service.app._session
    assert session is not None
    reporting = session.supervisor.reporting
    reporting._is_closed = True  # a stopped process says nothing; what it says afterwards proves nothing
    session.supervisor.proof._at -= 100.0


def publish(service: Service) -> str:
    return service.app.publish("orders", 1, key="k").cluster


def publish_async(service: Service) -> str:
    async def one() -> str:
        return (await service.app.publish_async("orders", 1, key="k")).cluster

    return asyncio.run(one())


def publish_nowait(service: Service) -> str:
    return service.app.publish_nowait("orders", 1, key="k").result(10).cluster


def publish_many(service: Service) -> str:
    return service.app.publish_many("orders", [1, 2], key="k")[1].cluster


@pytest.mark.parametrize("send", [publish, publish_async, publish_nowait, publish_many])
def test_a_writer_that_stood_still_looks_at_its_route_first(service: Service, send: Callable[[Service], str]) -> None:
    assert send(service) == "a"
    service.route(file=staged("switch_write", 2))
    assert send(service) == "a"  # it does not know yet, and may not: it is heard of
    freeze(service)
    assert send(service) == "b"


def test_a_writer_that_cannot_find_out_does_not_publish(service: Service) -> None:
    assert publish(service) == "a"
    service.path.write_text("routes: [")
    freeze(service)
    with pytest.raises(PublishRejected, match="could not be found out") as refused:
        service.app.publish("orders", 2, key="k", timeout="500ms")
    assert (refused.value.code, refused.value.retryable) == ("throttled", True)
    assert service.app.publish("payments", 1).cluster == "c"  # what does not move needs no proof
    service.route(file=staged("read_both"))
    assert publish(service) == "a"


def test_reports_that_are_stored_keep_the_proof(service: Service) -> None:
    """Here the file is gone, and the clusters answer."""
    assert publish(service) == "a"
    session = service.app._session
    assert session is not None
    proof, reporting = session.supervisor.proof, session.supervisor.reporting
    service.path.unlink()
    proof._at -= proof.fence_s / 4
    before = proof._at
    reporting.changed()
    until(lambda: proof._at > before)
    assert publish(service) == "a"


@shows("routes.[].move.fence")
def test_a_shorter_fence_holds_for_a_writer_that_stands_still_then(service: Service) -> None:
    session = service.app._session
    assert session is not None
    proof = session.supervisor.proof
    service.route(file=staged("read_both").replace("epoch: 1", "epoch: 1, fence: 1h"))
    service.app.reload()
    assert publish(service) == "a"
    assert proof.holds(proof._at + 100.0)
    service.route(file=staged("read_both").replace("epoch: 1", "epoch: 1, fence: 20s"))
    service.app.reload()
    assert not proof.holds(proof._at + 100.0)
    assert publish(service) == "a"
