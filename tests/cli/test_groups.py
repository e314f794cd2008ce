"""`groups`, `lag`, `offsets`."""

from __future__ import annotations

from typing import Any

import pytest

from mqsdk.spi import PartitionProgress
from tests.cli.harness import NOW_MS, Broker


@pytest.fixture
def orders(broker: Broker) -> Broker:
    """A topic of two partitions with a group; three messages, the oldest 90 s old."""
    broker.topic("orders", 2)
    broker.group("orders", "billing")
    broker.put("orders", "a", "b", age_s=90)
    broker.put("orders", "c", partition=1, age_s=10)
    return broker


def moves(broker: Broker, *words: str) -> list[dict[str, Any]]:
    found = broker.mqsdk("offsets", *words, "--json").document["partitions"]
    return [{name: one[name] for name in ("partition", "from", "to")} for one in found]


# --- groups ----------------------------------------------------------------------------------------------------------------------


def test_groups_shows_members_and_who_owns_what(orders: Broker) -> None:
    consumer = orders.join("orders", "billing")
    (row,) = orders.mqsdk("groups", "--json").document["groups"]
    assert (row["topic"], row["group"], row["halted"]) == ("orders", "billing", [])
    (member,) = row["members"]
    assert set(member) == {"id", "host", "pid"}
    assert row["assignment"] == {"0": member["id"], "1": member["id"]}
    consumer.close(0.0)
    assert orders.mqsdk("groups", "orders", "--json").document["groups"][0]["members"] == []


def test_groups_of_one_topic_only(orders: Broker) -> None:
    orders.topic("users")
    orders.group("users", "mail")
    assert [one["group"] for one in orders.mqsdk("groups", "--json").document["groups"]] == ["billing", "mail"]
    assert [one["group"] for one in orders.mqsdk("groups", "users", "--json").document["groups"]] == ["mail"]


def test_ensure_creates_topic_and_group_once(broker: Broker) -> None:
    assert broker.mqsdk("groups", "ensure", "orders", "billing").code == 5
    assert broker.mqsdk("groups", "ensure", "orders", "billing", "--dry-run", "--json").document["plan"] == [
        "create topic orders on cluster local",
        "create group billing of topic orders",
    ]
    assert broker.mqsdk("topics", "--json").document == {"topics": []}
    assert broker.mqsdk("groups", "ensure", "orders", "billing", "--yes", "--json").document["created"] is True
    again = broker.mqsdk("groups", "ensure", "orders", "billing", "--json")  # nothing to change, so nothing to confirm
    assert (again.code, again.document["created"]) == (0, False)
    assert broker.mqsdk("groups", "orders", "--json").document["groups"][0]["group"] == "billing"


@pytest.mark.parametrize(("topic", "group"), [("orders", "a.b"), ("orders", ""), ("orders.dlq", "g"), ("a/b", "g"), ("orders", "x" * 200)])
def test_ensure_refuses_names_that_break_the_rules(broker: Broker, topic: str, group: str) -> None:
    assert broker.mqsdk("groups", "ensure", topic, group, "--yes").code == 2


def test_deleting_a_group_names_what_is_lost(orders: Broker) -> None:
    (step, *_) = orders.mqsdk("groups", "delete", "orders", "billing", "--dry-run", "--json").document["plan"]
    assert "3 messages" in step
    assert orders.mqsdk("groups", "delete", "orders", "billing").code == 5
    assert orders.mqsdk("groups", "delete", "orders", "billing", "--yes", "--json").document["deleted"] is True
    assert orders.mqsdk("groups", "--json").document == {"groups": []}
    assert orders.mqsdk("groups", "delete", "orders", "billing", "--yes").code == 6


def test_a_group_with_members_is_not_deleted(orders: Broker) -> None:
    orders.join("orders", "billing")
    found = orders.mqsdk("groups", "delete", "orders", "billing", "--yes", "--json")
    assert (found.code, found.error["type"]) == (5, "StateError")


@pytest.mark.parametrize("answer", ["n\n", "\n"])
def test_on_a_terminal_a_change_asks_and_no_means_no(orders: Broker, answer: str) -> None:
    orders.terminal = True
    found = orders.mqsdk("groups", "delete", "orders", "billing", input=answer)
    assert found.code == 5
    assert "3 messages" in found.err
    assert "nothing was changed" in found.err
    assert orders.mqsdk("groups", "--json").document["groups"]


def test_on_a_terminal_yes_is_enough(orders: Broker) -> None:
    orders.terminal = True
    assert orders.mqsdk("groups", "delete", "orders", "billing", input="y\n").code == 0
    assert orders.mqsdk("groups", "--json").document == {"groups": []}


# --- lag -------------------------------------------------------------------------------------------------------------------------


def test_lag_is_per_partition_in_messages_and_seconds(orders: Broker) -> None:
    rows = orders.mqsdk("lag", "--json").document["lag"]
    assert [(one["topic"], one["group"], one["partition"], one["messages"]) for one in rows] == [
        ("orders", "billing", 0, 2),
        ("orders", "billing", 1, 1),
    ]
    assert rows[0]["seconds"] == pytest.approx(90, abs=0.1)
    assert rows[1]["seconds"] == pytest.approx(10, abs=0.1)


def test_people_see_a_line_per_group_and_partitions_with_v(orders: Broker) -> None:
    assert orders.mqsdk("lag").out.splitlines()[1].split()[:3] == ["orders", "billing", "3"]
    assert len(orders.mqsdk("lag", "-v").out.splitlines()) == 3


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (("--max-messages", "3"), 0),
        (("--max-messages", "2"), 1),
        (("--max-messages", "0"), 1),
        (("--max-age", "2m"), 0),
        (("--max-age", "1m"), 1),
        (("--max-messages", "3", "--max-age", "1m"), 1),
    ],
)
def test_a_limit_that_is_passed_is_exit_1(orders: Broker, limits: tuple[str, ...], code: int) -> None:
    found = orders.mqsdk("lag", "orders", "billing", *limits)
    assert found.code == code
    assert ("over the limit: orders/billing" in found.err) == (code == 1)


def test_a_group_without_backlog_is_not_old(orders: Broker) -> None:
    orders.mqsdk("offsets", "reset", "orders", "billing", "--to", "latest", "--yes")
    assert orders.mqsdk("lag", "--max-messages", "0", "--max-age", "1s", "--json").document["lag"][0]["seconds"] is None


def test_an_unknown_group_is_exit_6(orders: Broker) -> None:
    found = orders.mqsdk("lag", "orders", "billin", "--json")
    assert (found.code, found.error["fix"]) == (6, "did you mean billing?")


# --- offsets ---------------------------------------------------------------------------------------------------------------------


def test_offsets_show_tells_where_the_group_goes_on_and_where_the_partition_ends(orders: Broker) -> None:
    assert moves(orders, "show", "orders", "billing") == [{"partition": 0, "from": 0, "to": 2}, {"partition": 1, "from": 0, "to": 1}]


def test_an_epoch_is_shown_as_the_name_that_it_is(orders: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    found = PartitionProgress(partition=0, watermark=1234, end=1234, messages=0, epoch=1_795_615_829_983)
    monkeypatch.setattr("mqsdk.testing.simadmin.SimAdmin.progress", lambda *_: [found])
    last = orders.mqsdk("offsets", "show", "orders", "billing").out.splitlines()[-1]
    assert last.split() == ["0", "1,234", "1,234", "0", "0", "1795615829983"]


def test_reset_moves_every_partition_and_prints_each_move(orders: Broker) -> None:
    expected = [{"partition": 0, "from": 0, "to": 2}, {"partition": 1, "from": 0, "to": 1}]
    assert moves(orders, "reset", "orders", "billing", "--to", "latest", "--yes") == expected
    assert orders.mqsdk("lag", "orders", "billing", "--max-messages", "0").code == 0
    assert moves(orders, "reset", "orders", "billing", "--to", "earliest", "--yes")[0] == {"partition": 0, "from": 2, "to": 0}


def test_reset_to_a_time_and_to_a_position_of_one_partition(orders: Broker) -> None:
    minute = "2023-11-14T22:12:20Z"  # 60 s before NOW_MS: after a and b, before c
    assert NOW_MS == 1_700_000_000_000
    assert [one["to"] for one in moves(orders, "reset", "orders", "billing", "--to", minute, "--yes")] == [2, 0]
    expected = [{"partition": 0, "from": 2, "to": 1}]
    assert moves(orders, "reset", "orders", "billing", "--to", "1", "--partition", "0", "--yes") == expected


@pytest.mark.parametrize(("words", "code"), [(("--to", "1"), 2), (("--to", "99", "--partition", "0"), 5), ((), 2), (("--to", "later"), 2)])
def test_a_reset_that_cannot_be_meant_is_refused(orders: Broker, words: tuple[str, ...], code: int) -> None:
    assert orders.mqsdk("offsets", "reset", "orders", "billing", *words, "--yes").code == code
    assert moves(orders, "show", "orders", "billing")[0]["from"] == 0


def test_reset_needs_yes_and_a_dry_run_changes_nothing(orders: Broker) -> None:
    assert orders.mqsdk("offsets", "reset", "orders", "billing", "--to", "latest").code == 5
    planned = orders.mqsdk("offsets", "reset", "orders", "billing", "--to", "latest", "--dry-run")
    assert (planned.code, "partition 0: 0 -> 2" in planned.out) == (0, True)
    assert moves(orders, "show", "orders", "billing")[0]["from"] == 0


def test_a_group_with_members_is_not_moved_not_even_planned(orders: Broker) -> None:
    orders.join("orders", "billing")
    for last in ("--yes", "--dry-run"):
        found = orders.mqsdk("offsets", "reset", "orders", "billing", "--to", "latest", last, "--json")
        assert (found.code, found.error["type"]) == (5, "StateError")
