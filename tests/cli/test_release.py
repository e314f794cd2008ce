"""`groups release` and the `halted` field of `groups`, over an in-memory log; with processes that run: `test_halt_processes`."""

from __future__ import annotations

import pytest

from mqsdk.core.parking import DEAD_LETTER, DROP, KEY, PARTITION
from mqsdk.core.sparse import decode, encode
from mqsdk.spi import Corrupt, Partition, Progress
from tests.cli.harness import Broker, Result


@pytest.fixture
def halted(broker: Broker) -> Broker:
    """Of the messages a, b and one without key in partition 1 the first two are halted, b with its partition; its owner has left."""
    broker.topic("orders", 2)
    broker.group("orders", "billing")
    for key in (b"a", b"b", None):
        broker.put("orders", "x", partition=1, key=key)
    consumer = broker.join("orders", "billing")
    blob = encode(0, [], {0: 3, 1: 4}, 4040, halts={0: KEY, 1: PARTITION})
    epoch = next(cursor.epoch for cursor in broker.store.groups["orders"]["billing"].cursors if cursor.partition.number == 1)
    consumer.settle(Progress(Partition("orders", 1), epoch, 0, sparse=blob))
    consumer.close(0.0)
    return broker


def release(broker: Broker, *words: str) -> Result:
    return broker.mqsdk("groups", "release", "orders", "billing", *words)


def saved(broker: Broker) -> dict[int, int]:
    blob = broker.backend.admin().saved("orders", "billing")[1].sparse
    return dict(decode(blob, 0).halts)


def test_groups_shows_what_is_halted_wherever_its_owner_is(halted: Broker) -> None:
    (row,) = halted.mqsdk("groups", "orders", "--json").document["groups"]
    first = {"partition": 1, "position": "0", "id": "id-1", "key": "a", "attempts": 3, "scope": "key", "redriven": False}
    assert row["halted"] == [first, first | {"position": "1", "id": "id-2", "key": "b", "attempts": 4, "scope": "partition"}]
    assert halted.mqsdk("groups", "orders").out.splitlines()[-1].split()[-1] == "2"


@pytest.mark.parametrize(
    ("outcome", "left"),
    [("retry", {1: PARTITION}), ("dead_letter", {0: DEAD_LETTER, 1: PARTITION}), ("drop", {0: DROP, 1: PARTITION})],
)
def test_without_members_the_next_owner_is_told(halted: Broker, outcome: str, left: dict[int, int]) -> None:
    found = release(halted, "--key", "a", "--as", outcome, "--yes", "--json")
    assert (found.code, found.document["released"], found.document["applies"]) == (0, 1, "at the next start of a consumer")
    assert saved(halted) == left
    assert [one["key"] for one in halted.mqsdk("groups", "orders", "--json").document["groups"][0]["halted"]] == ["b"]


def test_a_release_as_retry_forgets_the_attempts(halted: Broker) -> None:
    release(halted, "--as", "retry", "--yes")
    assert halted.backend.admin().saved("orders", "billing")[1].sparse == b""


def test_without_a_key_everything_is_released(halted: Broker) -> None:
    assert release(halted, "--as", "drop", "--yes", "--json").document["released"] == 2
    assert saved(halted) == {0: DROP, 1: DROP}


@pytest.mark.parametrize("key", ["c", ""])
def test_what_is_not_halted_cannot_be_released(halted: Broker, key: str) -> None:
    found = release(halted, "--key", key, "--as", "retry", "--yes", "--json")
    assert (found.code, found.error["type"], found.error["fix"]) == (6, "NotFound", "mqsdk groups orders")


def test_it_asks_first_and_a_dry_run_changes_nothing(halted: Broker) -> None:
    assert release(halted, "--as", "drop").code == 5
    plan = release(halted, "--as", "drop", "--key", "a", "--dry-run", "--json").document["plan"]
    assert plan == ["let message id-1 go for ever (partition 1, position 0, halted after 3 attempts)"]
    assert saved(halted) == {0: KEY, 1: PARTITION}
    assert release(halted, "--key", "a").code == 2


def test_an_owner_that_cannot_be_reached_is_named_and_keeps_its_halts(halted: Broker) -> None:
    consumer = halted.join("orders", "billing")
    found = release(halted, "--as", "drop", "--yes", "--json")
    assert (found.code, found.error["type"], found.error["where"]) == (5, "Refused", consumer.id)
    assert "stop the group's consumers, run it, and start them again" in found.error["fix"]
    assert saved(halted) == {0: KEY, 1: PARTITION}


def damaged(*_: object) -> None:
    raise Corrupt("a record is damaged", file="", position=0)


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_message_that_is_gone_is_shown_and_let_go(halted: Broker, is_damaged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    halted.store.logs[Partition("orders", 1)].trim(1)
    if is_damaged:
        monkeypatch.setattr("mqsdk.testing.simadmin.SimAdmin.read", damaged)
    (row,) = halted.mqsdk("groups", "orders", "--json").document["groups"]
    assert (row["halted"][0]["key"], row["halted"][0]["position"]) == (None, "0")
    assert release(halted, "--as", "drop", "--yes", "--json").document["released"] == 2


def test_progress_that_changed_meanwhile_is_left_alone(halted: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqsdk.testing.simadmin.SimAdmin.amend", lambda *_: False)
    found = release(halted, "--as", "drop", "--yes", "--json")
    assert (found.code, "2 of 2" in found.error["what"]) == (5, True)
