"""`topics`, `peek`, `tail`: looking without touching a group."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest

from mqsdk.cli.look import follow
from mqsdk.cli.session import Place
from tests.cli.harness import NOW_MS, Broker

FIELDS = {"id", "topic", "cluster", "partition", "position", "key", "headers", "content_type", "attempt", "published_at", "due_at", "size"}


def test_topics_lists_what_there_is_with_sizes(broker: Broker) -> None:
    broker.topic("orders.created", 2)
    broker.group("orders.created", "billing")
    broker.put("orders.created", "abc", "de")
    found = broker.mqsdk("topics", "--json").document
    assert found == {
        "topics": [
            {"name": "orders.created", "cluster": "local", "partitions": 2, "groups": ["billing"], "messages": 2, "bytes": 5},
        ]
    }


def test_the_same_rows_are_a_table_for_people(broker: Broker) -> None:
    broker.topic("orders.created", 2)
    title, row = broker.mqsdk("topics").out.splitlines()
    assert title.split() == ["name", "cluster", "partitions", "groups", "messages", "bytes"]
    assert row.split() == ["orders.created", "local", "2", "-", "0", "0", "B"]


def test_topics_takes_a_pattern_in_which_a_star_is_any_run(broker: Broker) -> None:
    for name in ("orders.created", "orders.paid", "users"):
        broker.topic(name)
    found = broker.mqsdk("topics", "orders.*", "--json").document["topics"]
    assert [one["name"] for one in found] == ["orders.created", "orders.paid"]


def test_no_topics_is_said_on_stderr_and_is_an_empty_list_in_json(broker: Broker) -> None:
    plain = broker.mqsdk("topics")
    assert (plain.code, plain.out) == (0, "")
    assert "no topics yet" in plain.err
    assert broker.mqsdk("topics", "--json").document == {"topics": []}


def test_deleting_a_topic_needs_yes_and_takes_its_groups_and_own_topics_along(broker: Broker) -> None:
    for name in ("orders", "orders.billing.dlq", "orders2"):
        broker.topic(name)
    broker.group("orders", "billing")
    broker.put("orders", "a", "b")
    refused = broker.mqsdk("topics", "delete", "orders", "--json")
    assert (refused.code, refused.error["type"]) == (5, "Refused")
    assert "--yes" in refused.error["fix"]
    planned = broker.mqsdk("topics", "delete", "orders", "--dry-run", "--json")
    assert planned.code == 0
    assert planned.document["plan"][0] == "delete topic orders on cluster local: 2 messages"
    assert "delete the progress of group billing" in planned.document["plan"]
    assert broker.mqsdk("topics", "delete", "orders", "--yes").code == 0
    assert [one["name"] for one in broker.mqsdk("topics", "--json").document["topics"]] == ["orders2"]


def test_deleting_a_topic_takes_what_a_deleted_group_has_left_behind(broker: Broker) -> None:
    for name in ("orders", "orders.billing.dlq", "orders.billing.dlq.clerk.dlq", "orders.new", "orders.new.billing.dlq"):
        broker.topic(name)
    broker.group("orders", "billing")
    assert broker.mqsdk("groups", "delete", "orders", "billing", "--yes").code == 0
    deleted = broker.mqsdk("topics", "delete", "orders", "--yes", "--json").document["deleted"]
    assert deleted == ["orders", "orders.billing.dlq", "orders.billing.dlq.clerk.dlq"]
    assert [one["name"] for one in broker.mqsdk("topics", "--json").document["topics"]] == ["orders.new", "orders.new.billing.dlq"]


def test_a_topic_whose_dead_letters_are_being_consumed_is_not_deleted(broker: Broker) -> None:
    for name in ("orders", "orders.billing.dlq"):
        broker.topic(name)
    broker.group("orders.billing.dlq", "clerk")
    broker.join("orders.billing.dlq", "clerk")
    refused = broker.mqsdk("topics", "delete", "orders", "--yes", "--json")
    assert (refused.code, refused.error["where"]) == (5, "by orders.billing.dlq/clerk")


def test_a_topic_that_is_being_consumed_is_not_deleted(broker: Broker) -> None:
    broker.topic("orders")
    broker.group("orders", "billing")
    broker.join("orders", "billing")
    refused = broker.mqsdk("topics", "delete", "orders", "--yes", "--json")
    assert (refused.code, refused.error["type"]) == (5, "StateError")
    assert "billing" in refused.error["where"]


@pytest.mark.parametrize("words", [("peek", "orders"), ("tail", "orders"), ("topics", "delete", "orders", "--yes"), ("groups", "orders")])
def test_a_topic_that_does_not_exist_is_exit_6_with_the_nearest_name(broker: Broker, words: tuple[str, ...]) -> None:
    broker.topic("order")
    found = broker.mqsdk(*words, "--json")
    assert (found.code, found.error["type"]) == (6, "NotFound")
    assert found.error["fix"] == "did you mean order?"


@pytest.mark.parametrize("name", ["", "../../etc", "a/b", "x" * 300, "mq.own", "a\nb", "a..b"])
def test_a_name_that_breaks_the_rules_never_reaches_a_backend(broker: Broker, name: str) -> None:
    assert broker.mqsdk("peek", name, "--json").code == 2
    assert broker.mqsdk("topics", "delete", name, "--yes", "--json").code == 2


def test_peek_shows_fields_but_bodies_only_when_asked(broker: Broker) -> None:
    broker.topic("orders")
    broker.put("orders", '{"id":7}', key=b"7", headers=(("source", "web"),), content_type="application/json")
    (line,) = broker.mqsdk("peek", "orders", "--json").lines
    assert set(line) == FIELDS
    assert (line["id"], line["key"], line["headers"], line["size"]) == ("id-1", "7", {"source": "web"}, 8)
    assert line["published_at"] == "2023-11-14T22:13:20.001Z"
    assert broker.mqsdk("peek", "orders", "--body", "--json").lines[0]["body"] == '{"id":7}'
    assert "7}" not in broker.mqsdk("peek", "orders").out
    assert '{"id":7}' in broker.mqsdk("peek", "orders", "--body").out


def test_a_body_that_is_no_text_comes_as_base64(broker: Broker) -> None:
    broker.topic("orders")
    broker.put("orders", b"\xff\x00")
    (line,) = broker.mqsdk("peek", "orders", "--body", "--json").lines
    assert line["body_base64"] == "/wA="
    assert "body" not in line


def test_a_foreign_message_gets_an_id_from_its_place(broker: Broker) -> None:
    broker.topic("orders")
    broker.put("orders", "x", id="")
    assert broker.mqsdk("peek", "orders", "--json").lines[0]["id"] == "local:orders:0:0"


def test_control_characters_of_a_producer_do_not_reach_the_terminal(broker: Broker) -> None:
    broker.topic("orders")
    broker.put("orders", "red\x1b[31m\nnext", key=b"k\x1b]0;title\x07", headers=(("h", "\x1b[2J"),))
    shown = broker.mqsdk("peek", "orders", "--body").out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert len(shown.splitlines()) == 2


def test_peek_merges_partitions_by_publish_time(broker: Broker) -> None:
    broker.topic("orders", 2)
    for body, partition, age in (("a", 1, 30), ("b", 0, 20), ("c", 1, 10)):
        broker.put("orders", body, partition=partition, age_s=age)
    assert [line["body"] for line in broker.mqsdk("peek", "orders", "--body", "--json").lines] == ["a", "b", "c"]
    assert [line["body"] for line in broker.mqsdk("peek", "orders", "-n", "2", "--body", "--json").lines] == ["a", "b"]


@pytest.mark.parametrize(
    ("place", "bodies"),
    [
        ("earliest", ["m0", "m1", "m2", "m3"]),
        ("latest", ["m2", "m3"]),
        ("2", ["m2", "m3"]),
        (datetime.fromtimestamp((NOW_MS - 15_000) / 1000, UTC).isoformat(), ["m2", "m3"]),
    ],
)
def test_peek_begins_at_a_place(broker: Broker, place: str, bodies: list[str]) -> None:
    broker.topic("orders")
    for number in range(4):
        broker.put("orders", f"m{number}", age_s=30 - number * 10)
    count = "2" if place == "latest" else "10"
    lines = broker.mqsdk("peek", "orders", "--from", place, "-n", count, "--body", "--json").lines
    assert [line["body"] for line in lines] == bodies


@pytest.mark.parametrize("place", ["yesterday", "-1", "2026-01-31T12:00:00", "30s ago", "9" * 30])
def test_a_place_that_is_none_is_a_usage_error(broker: Broker, place: str) -> None:
    broker.topic("orders")
    found = broker.mqsdk("peek", "orders", f"--from={place}", "--json")
    assert (found.code, found.error["type"]) == (2, "BadParameter")


def test_a_position_without_its_partition_is_a_usage_error(broker: Broker) -> None:
    """`--from 15` is what is left of `--from 15m`; it used to show nothing and say nothing."""
    broker.topic("orders", 2)
    broker.put("orders", "x")
    found = broker.mqsdk("peek", "orders", "--from", "15", "--json")
    assert (found.code, "--partition" in found.error["what"], "15m" in found.error["what"]) == (2, True, True)
    assert broker.mqsdk("peek", "orders", "--from", "0", "--partition", "0", "--json").lines[0]["id"] == "id-1"


def test_peek_of_one_partition_only(broker: Broker) -> None:
    broker.topic("orders", 2)
    broker.put("orders", "zero", partition=0)
    broker.put("orders", "one", partition=1)
    assert [line["body"] for line in broker.mqsdk("peek", "orders", "--partition", "1", "--body", "--json").lines] == ["one"]
    assert broker.mqsdk("peek", "orders", "--partition", "2").code == 2


def test_looking_leaves_a_groups_progress_alone(broker: Broker) -> None:
    broker.topic("orders")
    broker.group("orders", "billing")
    broker.put("orders", "a", "b")
    broker.mqsdk("peek", "orders")
    assert broker.mqsdk("lag", "orders", "billing", "--json").document["lag"][0]["messages"] == 2


def test_following_gives_what_is_published_from_now_on_in_every_partition(broker: Broker) -> None:
    broker.topic("orders", 2)
    broker.put("orders", "before")
    ended = threading.Event()
    found = follow(Place("local", broker.backend.admin(), 2), "orders", ended.is_set)
    assert next(found) is None  # one round without anything new
    broker.put("orders", "after", partition=1)
    one = next(found)
    assert one is not None
    assert (one.partition, one.record.value) == (1, b"after")
    ended.set()
    assert next(found) is None
    with pytest.raises(StopIteration):
        next(found)
