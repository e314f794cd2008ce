"""`doctor`: every cluster is looked at, whatever the others do; levels, acceptance and exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mqsdk.config.model import Cluster
from mqsdk.errors import AccessDenied, MissingExtra, MqError, Unavailable, UnsafeBackend
from mqsdk.spi import BackendHealth, Finding
from mqsdk.testing import SimBackend
from tests.cli.harness import Broker, Result

FINE = BackendHealth(True, "7.0", 0.25, "survives everything", (Finding("info", "fine", "all is well"),))
RISKY = BackendHealth(
    True, "7.0", 0.25, "survives little", (Finding("warn", "aof_off", "nothing is on disk", "CONFIG SET appendonly yes"),)
)


class Examined(Broker):
    """Clusters by name: what `open` raises, or what `health` finds."""

    def __init__(self, **clusters: MqError | BackendHealth) -> None:
        super().__init__()
        self.clusters = clusters

    def make_backend(self, cluster: Cluster) -> SimBackend:
        made = super().make_backend(cluster)
        found = self.clusters[cluster.name]

        def fail(deadline: float) -> None:
            assert isinstance(found, MqError)
            raise found

        if isinstance(found, MqError):
            made.open = fail  # type: ignore[method-assign]
        else:
            made.health = lambda: found  # type: ignore[method-assign]
        return made

    def doctor(self, *words: str, accept: str = "") -> Result:
        lines = ["version: 1", "clusters:"]
        lines += [f"  {name}: {{backend: redis, servers: [localhost:1], accept: [{accept}]}}" for name in self.clusters]
        Path("mqsdk.yaml").write_text("\n".join([*lines, "routes:", f"  - {{topics: ['*'], cluster: {next(iter(self.clusters))}}}", ""]))
        return self.mqsdk("doctor", *words)


def findings(result: Result) -> list[dict[str, Any]]:
    return [finding for cluster in result.document["clusters"] for finding in cluster["findings"]]


def test_a_sound_cluster_is_described_and_ends_with_0() -> None:
    found = Examined(main=FINE).doctor("--json")
    assert found.code == 0
    (row,) = found.document["clusters"]
    assert row == {
        "name": "main",
        "backend": "redis",
        "ok": True,
        "version": "7.0",
        "latency_ms": 0.25,
        "guarantee": "survives everything",
        "findings": [{"level": "info", "code": "redis.fine", "what": "all is well", "fix": "", "accepted": False}],
    }


def test_a_warning_ends_with_1_until_it_is_accepted_by_its_code() -> None:
    risky = Examined(main=RISKY)
    assert risky.doctor("--json").code == 1
    assert risky.doctor("--json", accept="redis.other").code == 1
    accepted = risky.doctor("--json", accept="redis.aof_off")
    assert (accepted.code, accepted.document["clusters"][0]["ok"]) == (0, True)
    assert findings(accepted)[0]["accepted"] is True


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (Unavailable("no answer", cluster="main", fix="check `servers`"), "redis.unreachable", 4),
        (AccessDenied("the password is wrong", cluster="main"), "redis.denied", 4),
        (UnsafeBackend("it evicts", finding="eviction", fix="noeviction"), "redis.eviction", 1),
        (MissingExtra("redis"), "redis.missing_extra", 1),
    ],
)
def test_what_keeps_a_cluster_from_opening_is_a_finding_and_cannot_be_accepted(error: MqError, code: str, exit_code: int) -> None:
    found = Examined(main=error).doctor("--json", accept=code)
    assert found.code == exit_code
    (finding,) = findings(found)
    assert (finding["level"], finding["code"], finding["what"], finding["fix"]) == ("refuse", code, error.what, error.fix)
    assert (finding["accepted"], found.document["clusters"][0]["ok"]) == (False, False)


def test_one_dead_cluster_hides_no_other_and_one_can_be_named() -> None:
    broker = Examined(main=Unavailable("no answer", cluster="main"), side=RISKY)
    both = broker.doctor("--json")
    assert both.code == 4
    assert [row["name"] for row in both.document["clusters"]] == ["main", "side"]
    assert broker.doctor("side", "--json").code == 1
    missing = broker.doctor("nowhere", "--json")
    assert missing.code == 3
    assert "main" in missing.error["fix"]


def test_people_read_the_guarantee_the_finding_and_the_fix() -> None:
    out = Examined(main=RISKY).doctor().out
    assert "main: survives little" in out
    assert "warn     redis.aof_off: nothing is on disk" in out
    assert "fix: CONFIG SET appendonly yes" in out


@pytest.mark.parametrize(("command", "name"), [(("topics",), "topics"), (("groups",), "groups"), (("lag",), "lag")])
def test_looking_at_all_clusters_goes_on_without_a_dead_one(command: tuple[str, ...], name: str) -> None:
    broker = Examined(main=Unavailable("no answer", cluster="main", fix="check `servers`"), side=FINE)
    broker.topic("orders")
    broker.group("orders", "billing")
    broker.doctor()
    found = broker.mqsdk(*command, "--json")
    assert found.code == 4
    assert len(found.document[name]) == 1
    assert found.document["unreachable"] == [{"cluster": "main", "what": "no answer", "fix": "check `servers`"}]
    shown = broker.mqsdk(*command)
    assert shown.code == 4
    assert "orders" in shown.out
    assert "no answer" in shown.err


def test_when_no_cluster_answers_there_is_nothing_to_show() -> None:
    broker = Examined(main=Unavailable("no answer", cluster="main"))
    broker.doctor()
    found = broker.mqsdk("topics", "--json")
    assert (found.code, found.error["what"]) == (4, "no answer")
