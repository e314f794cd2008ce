"""`dlq`: dead letters of one topic and group."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mqsdk import App, Reject
from mqsdk.cli.dlq import per_second
from mqsdk.cli.main import cli
from tests.cli.harness import NOW_MS, Broker
from tests.processes import PATIENCE_S
from tests.runtime.test_redrive import HandClock

LETTERS, RETRY = "orders.billing.dlq", "orders.billing.retry"


def letter(broker: Broker, body: str, *, reason: str = "exhausted", partition: int = 0, age_s: float = 0.0, **fields: Any) -> None:
    """A dead letter as layer 2 writes it."""
    at = str(NOW_MS - int(age_s * 1000))
    given = {"topic": "orders", "group": "billing", "partition": "3", "position": "17", "attempts": "10", "reason": reason}
    headers = {**given, "error": "ValueError: no", "first-at": at, "last-at": at}
    extra = tuple((f"mq-dlq-{name}", value) for name, value in headers.items())
    broker.put(LETTERS, body, partition=partition, age_s=age_s, extra=extra, **fields)


@pytest.fixture
def orders(broker: Broker) -> Broker:
    """Four dead letters, id-1 to id-4, in two partitions."""
    broker.topic("orders", 2)
    broker.group("orders", "billing")
    broker.topic(LETTERS, 2)
    letter(broker, "first", age_s=4000, key=b"k1", headers=(("source", "web"),))
    letter(broker, "second", reason="undecodable", partition=1, age_s=3000)
    letter(broker, "third", age_s=2000)
    letter(broker, "fourth", reason="rejected", partition=1, age_s=1000)
    return broker


def ids(broker: Broker, *words: str) -> list[str]:
    return [line["id"] for line in broker.mqsdk("dlq", "list", "orders", "billing", *words, "--json").lines]


def test_list_gives_one_json_line_per_letter_oldest_first(orders: Broker) -> None:
    found = orders.mqsdk("dlq", "list", "orders", "billing", "--json").lines
    assert [line["id"] for line in found] == ["id-1", "id-2", "id-3", "id-4"]
    assert found[0] == {
        "id": "id-1",
        "key": "k1",
        "reason": "exhausted",
        "attempts": 10,
        "first_at": "2023-11-14T21:06:40.000Z",
        "last_at": "2023-11-14T21:06:40.000Z",
        "error": "ValueError: no",
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--id", "id-3"), ["id-3"]),
        (("--id", "id-3", "--id", "id-1"), ["id-1", "id-3"]),
        (("--reason", "exhausted"), ["id-1", "id-3"]),
        (("--since", "2023-11-14T21:30:00Z"), ["id-3", "id-4"]),
        (("--limit", "2"), ["id-1", "id-2"]),
        (("--reason", "exhausted", "--limit", "1"), ["id-1"]),
        (("--id", "id-9"), []),
    ],
)
def test_letters_are_chosen_by_id_reason_time_and_number(orders: Broker, words: tuple[str, ...], expected: list[str]) -> None:
    assert ids(orders, *words) == expected


def test_people_see_a_table(orders: Broker) -> None:
    titles, first, *_ = orders.mqsdk("dlq", "list", "orders", "billing").out.splitlines()
    assert titles.split() == ["id", "key", "reason", "attempts", "first", "at", "last", "at", "error"]
    assert first.startswith("id-1  k1   exhausted")


def test_show_gives_everything_and_the_body_only_when_asked(orders: Broker) -> None:
    words = ("dlq", "show", "orders", "billing", "--id", "id-1", "--json")
    shown = orders.mqsdk(*words).document
    assert (shown["topic"], shown["group"], shown["partition"], shown["position"]) == ("orders", "billing", 3, "17")
    assert (shown["headers"], shown["size"]) == ({"source": "web"}, 5)
    assert "body" not in shown
    assert orders.mqsdk(*words, "--body").document["body"] == "first"
    assert "first" not in orders.mqsdk("dlq", "show", "orders", "billing", "--id", "id-1").out.replace("first_at", "")


def test_show_of_a_letter_that_is_not_there_is_exit_6(orders: Broker) -> None:
    assert orders.mqsdk("dlq", "show", "orders", "billing", "--id", "id-9").code == 6


def test_purge_removes_the_chosen_ones_and_no_others(orders: Broker) -> None:
    done = orders.mqsdk("dlq", "purge", "orders", "billing", "--reason", "exhausted", "--yes", "--json")
    assert (done.code, done.document) == (0, {"purged": 2, "failed": 0})
    assert ids(orders) == ["id-2", "id-4"]
    assert orders.mqsdk("dlq", "purge", "orders", "billing", "--yes", "--json").document["purged"] == 2
    assert ids(orders) == []
    letter(orders, "later")
    assert ids(orders) == ["id-5"]


def test_purge_needs_yes_and_a_dry_run_changes_nothing(orders: Broker) -> None:
    assert orders.mqsdk("dlq", "purge", "orders", "billing").code == 5
    planned = orders.mqsdk("dlq", "purge", "orders", "billing", "--limit", "3", "--dry-run", "--json").document["plan"]
    assert planned == [
        "remove 3 dead letters of orders/billing: nothing brings them back; "
        "their bytes leave orders.billing.dlq when all before them are removed too"
    ]
    assert len(ids(orders)) == 4


def test_a_purge_that_cannot_be_stored_is_exit_1_and_removes_nothing(orders: Broker) -> None:
    orders.store.fail_publish("rejected", times=2)
    done = orders.mqsdk("dlq", "purge", "orders", "billing", "--yes", "--json")
    assert (done.code, done.document["purged"], done.document["failed"]) == (1, 0, 4)
    assert len(ids(orders)) == 4


def test_redrive_moves_the_chosen_ones_to_the_retry_topic(orders: Broker) -> None:
    done = orders.mqsdk("dlq", "redrive", "orders", "billing", "--reason", "exhausted", "--yes", "--json")
    assert (done.code, done.document) == (0, {"moved": 2, "skipped": 0, "failed": 0})
    assert ids(orders) == ["id-2", "id-4"]
    copies = [record for _, record in orders.store.records(RETRY)]
    assert [(one.id, one.value, one.attempt) for one in copies] == [("id-1", b"first", 1), ("id-3", b"third", 1)]
    assert orders.mqsdk("dlq", "redrive", "orders", "billing", "--limit", "1", "--yes").out.split() == [
        *("moved", "1"), *("skipped", "0"), *("failed", "0"),
    ]  # fmt: skip
    assert ids(orders) == ["id-4"]


def test_redrive_needs_yes_and_a_dry_run_changes_nothing(orders: Broker) -> None:
    assert orders.mqsdk("dlq", "redrive", "orders", "billing").code == 5
    planned = orders.mqsdk("dlq", "redrive", "orders", "billing", "--id", "id-3", "--dry-run", "--json").document["plan"]
    assert planned == [
        f"create topic {RETRY} on cluster local",
        f"move 1 dead letters of orders/billing to {RETRY}, which only this group reads",
    ]
    assert (len(ids(orders)), RETRY in orders.store.topics) == (4, False)


def test_a_redrive_of_nothing_creates_nothing(orders: Broker) -> None:
    done = orders.mqsdk("dlq", "redrive", "orders", "billing", "--reason", "crash_loop", "--yes", "--json")
    assert (done.code, done.document) == (0, {"moved": 0, "skipped": 0, "failed": 0})
    assert RETRY not in orders.store.topics


@pytest.mark.parametrize("command", ["show", "purge", "redrive"])
def test_letters_that_were_named_and_are_not_there_are_exit_6(orders: Broker, command: str) -> None:
    done = orders.mqsdk("dlq", command, "orders", "billing", "--id", "id-9", *(["--yes"] if command != "show" else []), "--json")
    assert (done.code, done.error["type"]) == (6, "NotFound")
    assert len(ids(orders)) == 4


def test_letters_that_cannot_be_copied_stay_and_are_exit_1(orders: Broker) -> None:
    orders.store.fail_publish("unknown_lost", times=1)
    done = orders.mqsdk("dlq", "redrive", "orders", "billing", "--yes", "--json", "--timeout", "100ms")
    assert (done.code, done.document) == (1, {"moved": 3, "skipped": 0, "failed": 1})
    assert len(ids(orders)) == 1


def test_letters_of_a_deleted_group_are_not_redriven(orders: Broker) -> None:
    orders.mqsdk("groups", "delete", "orders", "billing", "--yes")
    assert orders.mqsdk("dlq", "redrive", "orders", "billing", "--yes").code == 6
    assert len(ids(orders)) == 4


@pytest.mark.parametrize(("text", "rate"), [("100/s", 100.0), ("30/m", 0.5), ("7200/h", 2.0)])
def test_a_rate_is_per_second_minute_or_hour(text: str, rate: float) -> None:
    assert per_second(text) == rate


@pytest.mark.parametrize("text", ["", "5", "0/s", "-1/s", "nan", "inf/s", "1/d", "1/", "x/s", "/s"])
def test_what_is_no_rate_is_a_usage_error(orders: Broker, text: str) -> None:
    assert orders.mqsdk("dlq", "redrive", "orders", "billing", "--rate", text, "--yes").code == 2


def test_a_rate_slows_it_down(orders: Broker) -> None:
    clock = HandClock()
    orders.clock = clock
    assert orders.mqsdk("dlq", "redrive", "orders", "billing", "--rate", "2/s", "--yes", "--json").document["moved"] == 4
    assert clock.now - 1000.0 == pytest.approx(1.5)


def test_what_waits_to_be_handled_again_is_lag_of_the_pair(orders: Broker) -> None:
    orders.mqsdk("dlq", "redrive", "orders", "billing", "--yes")
    rows = orders.mqsdk("lag", "--json").document["lag"]
    assert {row["topic"] for row in rows} == {"orders"}
    assert sum(row["messages"] for row in rows) == 4
    assert orders.mqsdk("lag", "orders", "billing", "--max-messages", "3").code == 1
    assert [row["topic"] for row in orders.mqsdk("groups", "--json").document["groups"]] == ["orders"]
    assert [row["group"] for row in orders.mqsdk("groups", RETRY, "--json").document["groups"]] == ["billing"]


def test_deleting_the_group_takes_its_retry_topic_along(orders: Broker) -> None:
    orders.mqsdk("dlq", "redrive", "orders", "billing", "--limit", "3", "--yes")
    plan = orders.mqsdk("groups", "delete", "orders", "billing", "--dry-run", "--json").document["plan"]
    assert "3 messages that it has not handled" in plan[0]
    assert plan[1:] == ["keep its dead letters in orders.billing.dlq", f"delete topic {RETRY}, which only this group reads"]
    assert orders.mqsdk("groups", "delete", "orders", "billing", "--yes", "--json").document["unhandled"] == 3
    assert RETRY not in orders.store.topics
    assert len(ids(orders)) == 1


def test_deleting_the_topic_takes_the_retry_topics_along(orders: Broker) -> None:
    orders.mqsdk("dlq", "redrive", "orders", "billing", "--yes")
    assert RETRY in orders.mqsdk("topics", "delete", "orders", "--yes", "--json").document["deleted"]
    assert orders.store.topics == {}


def test_a_pair_without_letters_has_none_and_one_that_does_not_exist_is_exit_6(broker: Broker) -> None:
    broker.topic("orders")
    broker.group("orders", "billing")
    assert broker.mqsdk("dlq", "list", "orders", "billing", "--json").out == ""
    assert broker.mqsdk("dlq", "list", "orders", "mail").code == 6
    assert broker.mqsdk("dlq", "list", "users", "mail").code == 6


def test_letters_of_a_deleted_group_can_still_be_read(orders: Broker) -> None:
    plan = orders.mqsdk("groups", "delete", "orders", "billing", "--dry-run", "--json").document["plan"]
    assert plan[1] == "keep its dead letters in orders.billing.dlq"
    orders.mqsdk("groups", "delete", "orders", "billing", "--yes")
    assert len(ids(orders)) == 4


def test_the_cluster_may_be_named(orders: Broker) -> None:
    assert len(ids(orders, "--cluster", "local")) == 4
    assert orders.mqsdk("dlq", "list", "orders", "billing", "--cluster", "nowhere").code == 3


def test_on_a_log_the_bytes_of_purged_letters_leave_the_disk(folder: Path) -> None:
    """They stayed for ever, with a note about each: a topic of dead letters has no retention of its own."""
    app = App()

    @app.consumer("orders", group="billing")
    def bill(order: str) -> None:
        raise Reject("nothing to bill")

    seen = threading.Semaphore(0)
    app.observe(lambda event: seen.release() if type(event).__name__ == "DeadLettered" else None)
    with app:
        app.start()
        for number in range(3):
            app.publish("orders", f"secret {number}", key="k")
        for _ in range(3):
            assert seen.acquire(timeout=PATIENCE_S)

    def stored() -> bytes:
        return b"".join(path.read_bytes() for path in (folder / ".mqsdk/topics/orders.billing.dlq").rglob("*") if path.is_file())

    assert stored().count(b"secret") == 3
    assert CliRunner().invoke(cli, ["dlq", "purge", "orders", "billing", "--limit", "1", "--yes"]).exit_code == 0
    assert stored().count(b"secret") == 3  # two of the segment are left
    assert CliRunner().invoke(cli, ["dlq", "purge", "orders", "billing", "--yes"]).exit_code == 0
    assert b"secret" not in stored()
    assert b"mq-dlq-done" not in stored()
