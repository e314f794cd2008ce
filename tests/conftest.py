"""What every test stands on: a state folder of its own, so that no control socket is made in the home of who runs the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.brokers.kafka import KafkaBroker
    from tests.brokers.rabbitmq import RabbitServer


LONG = ("conformance", "kafka", "rabbitmq", "redis", "faults", "simulation", "simfs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes begin first: the last one to begin is what one of two workers does alone at the end."""
    items.sort(key=lambda item: not any(part in LONG for part in item.path.parts))


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("MQSDK_STATE")
    os.environ["MQSDK_STATE"] = str(tmp_path_factory.mktemp("state"))
    yield
    if before is None:
        del os.environ["MQSDK_STATE"]
    else:
        os.environ["MQSDK_STATE"] = before


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """One broker for all tests of a run: it takes seconds to start. Topics and groups are each test's own."""
    from tests.brokers.kafka import KafkaBroker

    started = KafkaBroker(tmp_path_factory.mktemp("kafka"))
    yield started
    started.stop()


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """One server for all tests that do not need one of their own: its start takes five seconds."""
    from tests.brokers.rabbitmq import RabbitServer

    started = RabbitServer(tmp_path_factory.mktemp("rabbitmq"))
    yield started
    started.stop()
