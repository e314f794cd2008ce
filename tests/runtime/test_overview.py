"""What a process says of its clusters when it starts."""

from __future__ import annotations

import logging

import pytest

from mqsdk.config.model import Cluster
from mqsdk.runtime.overview import told_at_start
from mqsdk.spi import BackendHealth, Finding

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
    (guarantee, *warnings) = told_at_start(cluster, BackendHealth(True, "4.4", 1.0, "one copy of everything", FINDINGS))
    assert guarantee == (logging.INFO, "cluster main: one copy of everything")
    assert [level for level, _ in warnings] == [logging.WARNING] * len(told)
    assert [line.split(": ")[1] for _, line in warnings] == [f"kafka.{code}" for code in told]
    if "rf1" in told:
        assert warnings[0][1] == "cluster main: kafka.rf1: a new topic has one copy (set `replication: 3`)"
