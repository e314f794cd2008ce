"""What a process says of its clusters when it starts."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from mqsdk.config.model import Cluster
from mqsdk.runtime.overview import told_at_start
from mqsdk.spi import BackendHealth, Finding
from mqsdk.testing.simlog import MEMORY

FINDINGS = (
    Finding("info", "latency", "fast"),
    Finding("warn", "rf1", "a new topic has one copy", "set `replication: 3`"),
    Finding("warn", "unclean", "a lost leader loses messages"),
)


@pytest.mark.parametrize(
    ("accept", "told"), [((), ["rf1", "unclean"]), (("kafka.rf1",), ["unclean"]), (("kafka.rf1", "kafka.unclean"), [])]
)
def test_what_holds_is_told_and_each_warning_that_is_not_accepted(accept: tuple[str, ...], told: list[str]) -> None:
    cluster = Cluster(name="main", backend="kafka", accept=accept)
    (guarantee, *warnings) = told_at_start(cluster, BackendHealth(True, "4.4", 1.0, "one copy of everything", FINDINGS), MEMORY)
    assert guarantee == (logging.INFO, "cluster main: one copy of everything")
    assert [level for level, _ in warnings] == [logging.WARNING] * len(told)
    assert [line.split(": ")[1] for _, line in warnings] == [f"kafka.{code}" for code in told]
    if "rf1" in told:
        assert warnings[0][1] == "cluster main: kafka.rf1: a new topic has one copy (set `replication: 3`)"


def test_what_layer_2_does_in_place_of_a_backend_is_told() -> None:
    cluster = Cluster(name="main", backend="kafka")
    lines = told_at_start(cluster, BackendHealth(True, guarantee="one copy"), replace(MEMORY, delay="ladder"))
    assert [line for _, line in lines] == [
        "cluster main: one copy",
        "cluster main: delay is emulated: delayed messages wait in topics `mq.delay.*`, and processes that run consumers move them",
    ]
