"""`publish`: one message, or a line each; three outcomes, three exit codes."""

from __future__ import annotations

import io
import os
import subprocess
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mqsdk.cli.publish import chunks
from tests.cli.harness import Broker
from tests.processes import MQSDK, PATIENCE_S, environment


def stored(broker: Broker, topic: str = "orders") -> list[dict[str, Any]]:
    return broker.mqsdk("peek", topic, "-n", "10000", "--body", "--json").lines


def test_text_is_sent_as_it_is(broker: Broker) -> None:
    found = broker.mqsdk("publish", "orders", '{"id": 7}', "--json")
    assert found.code == 0
    assert set(found.document) == {"id", "topic", "cluster", "partition", "position"}
    (message,) = stored(broker)
    assert (message["body"], message["content_type"]) == ('{"id": 7}', "text/plain; charset=utf-8")
    assert (message["id"], str(message["position"])) == (found.document["id"], str(found.document["position"]))


def test_people_are_told_where_it_is(broker: Broker) -> None:
    found = broker.mqsdk("publish", "orders", "x")
    assert "stored in orders on local" in found.out
    assert broker.mqsdk("publish", "orders", "x", "-q").out == ""


def test_key_headers_and_id_are_the_messages(broker: Broker) -> None:
    words = ("--key", "7", "--header", "source=web", "--header", "empty=", "--header", "eq=a=b", "--id", "mine")
    assert broker.mqsdk("publish", "orders", "x", *words).code == 0
    (message,) = stored(broker)
    assert (message["id"], message["key"]) == ("mine", "7")
    assert message["headers"] == {"source": "web", "empty": "", "eq": "a=b"}


@pytest.mark.parametrize(
    ("body", "shown", "content_type"),
    [
        (b"two\nlines\n", {"body": "two\nlines\n"}, "text/plain; charset=utf-8"),
        (b"\xff\xfe", {"body_base64": "//4="}, "application/octet-stream"),
        (b"", {"body": ""}, "text/plain; charset=utf-8"),
    ],
)
def test_a_dash_takes_all_of_stdin_unchanged(broker: Broker, body: bytes, shown: dict[str, str], content_type: str) -> None:
    assert broker.mqsdk("publish", "orders", "-", input=body).code == 0
    (message,) = stored(broker)
    assert {**message, **shown} == message
    assert message["content_type"] == content_type


def test_lines_are_one_message_each_in_order(broker: Broker) -> None:
    found = broker.mqsdk("publish", "orders", "--lines", "--key", "k", "--json", input="a\n\nb\r\nlast")
    assert found.code == 0
    counts = {name: found.document[name] for name in ("topic", "cluster", "published", "stored", "rejected", "unknown", "failures")}
    assert counts == {
        "topic": "orders",
        "cluster": "local",
        "published": 4,
        "stored": 4,
        "rejected": 0,
        "unknown": 0,
        "failures": [],
    }
    assert [one["body"] for one in stored(broker)] == ["a", "", "b", "last"]


def test_many_lines_are_counted_for_people_on_stderr(broker: Broker) -> None:
    found = broker.mqsdk("publish", "orders", "-", "--lines", input="".join(f"{i}\n" for i in range(2500)))
    assert (found.code, found.out) == (0, "")
    assert "2,500 messages to orders" in found.err
    assert "2,500 stored, 0 rejected, 0 unknown" in found.err
    assert len(stored(broker)) == 2500


def test_a_line_that_cannot_be_sent_takes_no_other_with_it(broker: Broker) -> None:
    big = "x" * 1_100_000
    lines = "\n".join(["ok0", "ok1", "ok2", big, "after0", big, *(f"after{number}" for number in range(1, 5))])
    found = broker.mqsdk("publish", "orders", "--lines", "--key", "k", "--json", input=lines)
    assert found.code == 1
    assert (found.document["stored"], found.document["rejected"]) == (8, 2)
    assert [(one["line"], one["code"]) for one in found.document["failures"]] == [(4, "too_large"), (6, "too_large")]
    assert found.document["failures"][0]["what"] == "the payload has 1,100,000 bytes, at most 1,048,576 are allowed"
    assert [one["body"] for one in stored(broker)] == ["ok0", "ok1", "ok2", *(f"after{number}" for number in range(5))]


def test_a_chunk_of_nothing_but_lines_that_are_too_large_does_not_end_it(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqsdk.cli.publish.CHUNK_LINES", 1)
    found = broker.mqsdk("publish", "orders", "--lines", "--json", input="\n".join(["x" * 1_100_000, "after"]))
    assert (found.document["stored"], found.document["rejected"]) == (1, 1)


def test_a_line_without_an_end_is_named_and_what_came_before_it_is_told(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqsdk.cli.publish.MAX_LINE_BYTES", 1024 * 1024)
    found = broker.mqsdk("publish", "orders", "--lines", "--json", input="a\nb\n" + "x" * 2 * 1024 * 1024)
    assert (found.code, found.document["stored"], found.document["rejected"]) == (1, 2, 1)
    assert [(one["line"], one["what"]) for one in found.document["failures"]] == [(3, "the line is longer than 1 MiB")]


def test_no_lines_are_no_messages(broker: Broker) -> None:
    assert broker.mqsdk("publish", "orders", "--lines", "--json", input="").document["published"] == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("orders",), 2),
        (("orders", "x", "--lines"), 2),
        (("orders", "--lines", "--id", "one"), 2),
        (("orders", "x", "--header", "novalue"), 2),
        (("orders", "x", "--header", "=v"), 2),
        (("a/b", "x"), 1),
        (("orders.billing.dlq", "x"), 1),
        (("orders", "x", "--key", ""), 1),
        (("orders", "x", "--id", "a b"), 1),
        (("orders", "x", "--header", "mq-id=1"), 1),
        (("orders", "x", "--delay", "30"), 2),
        (("orders", "x", "--delay", "367d"), 1),
        (("orders", "x" * (1024 * 1024 + 1)), 1),
    ],
)
def test_what_cannot_be_published_is_refused_and_not_stored(broker: Broker, words: tuple[str, ...], code: int) -> None:
    found = broker.mqsdk("publish", *words, "--json")
    assert found.code == code
    assert broker.mqsdk("topics", "--json").document["topics"] == []


def test_a_name_that_only_mqsdk_may_use_is_not_told_how_names_are_spelt(broker: Broker) -> None:
    for topic in ("orders.billing.dlq", "mq.x"):
        fix = broker.mqsdk("publish", topic, "x", "--json").error["fix"]
        assert "choose another name" in fix
    assert "letters" in broker.mqsdk("publish", "a/b", "x", "--json").error["fix"]


def test_a_delay_is_kept_and_shown(broker: Broker) -> None:
    found = broker.mqsdk("publish", "orders", "x", "--delay", "30s", "--json").document
    assert found["position"] is None
    wait = datetime.fromisoformat(found["due_at"]) - datetime.now(UTC)
    assert timedelta(seconds=20) < wait <= timedelta(seconds=30)
    assert " due at 20" in broker.mqsdk("publish", "orders", "x", "--delay", "30s").out
    done = broker.mqsdk("publish", "orders", "--lines", "--delay", "30s", "--json", input="a\nb\n").document
    assert done["stored"] == 2
    assert broker.mqsdk("tail", "orders", "-n", "10").out == ""
    assert broker.store.delayed.due_ms() is not None


def test_an_error_never_shows_what_was_to_be_published(broker: Broker) -> None:
    canary = "s3cret-canary"
    words = ("publish", "a/b", canary, "--key", canary, "--header", f"h={canary}")
    for found in (broker.mqsdk(*words), broker.mqsdk(*words, "--json")):
        assert found.code == 1
        assert canary not in found.out + found.err


def test_a_rejected_publish_is_exit_1(broker: Broker) -> None:
    broker.topic("orders")
    broker.store.fail_publish("rejected", times=99)
    found = broker.mqsdk("publish", "orders", "x", "--timeout", "50ms", "--json")
    assert (found.code, found.error["type"]) == (1, "PublishRejected")


def test_an_unknown_publish_is_exit_7(broker: Broker) -> None:
    broker.topic("orders")
    broker.store.fail_publish("unknown_lost", times=99)
    found = broker.mqsdk("publish", "orders", "x", "--timeout", "50ms", "--json")
    assert (found.code, found.error["type"]) == (7, "PublishUnknown")


def test_of_many_any_unknown_is_exit_7_and_any_rejected_exit_1(broker: Broker) -> None:
    broker.topic("orders")
    too_long = "y" * (1024 * 1024 + 1)
    found = broker.mqsdk("publish", "orders", "--lines", "--json", input=f"ok\n{too_long}\n")
    assert (found.code, found.document["stored"], found.document["rejected"]) == (1, 1, 1)
    assert found.document["failures"][0]["code"] == "too_large"
    broker.store.fail_publish("unknown_lost", times=99)
    found = broker.mqsdk("publish", "orders", "--lines", "--timeout", "50ms", "--json", input="a\nb\n")
    assert (found.code, found.document["unknown"]) == (7, 2)


def test_lines_end_early_when_a_whole_chunk_fails(broker: Broker) -> None:
    found = broker.mqsdk("publish", "a/b", "--lines", "--json", input="x\n" * 5000)
    assert (found.code, found.document["stored"]) == (1, 0)
    assert found.document["rejected"] < 5000
    assert len(found.document["failures"]) == 10


# --- reading lines ---------------------------------------------------------------------------------------------------------------


class Slow(io.BytesIO):
    """A pipe that gives what has arrived."""

    def __init__(self, *arrivals: bytes) -> None:
        super().__init__()
        self.arrivals = list(arrivals)

    def read1(self, size: int | None = -1, /) -> bytes:
        return self.arrivals.pop(0) if self.arrivals else b""


def test_what_has_arrived_is_not_held_back() -> None:
    assert list(chunks(Slow(b"a\nb\n", b"c", b"d\n", b"e"))) == [[b"a", b"b"], [b"cd"], [b"e"]]


def test_chunks_are_bounded() -> None:
    found = list(chunks(io.BytesIO(b"x\n" * 2500)))
    assert [len(chunk) for chunk in found] == [1000, 1000, 500]


# --- on a terminal ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["file", "pipe"])
def test_on_a_terminal_a_bar_shows_how_far_it_is(folder: Path, source: str) -> None:
    (folder / "lines").write_text("x\n" * 3000)
    shown, terminal = os.openpty()
    with open("lines", "rb") as lines:
        process = subprocess.Popen(
            [*MQSDK, "publish", "orders", "--lines"],
            env={**environment(folder), "TERM": "xterm", "COLUMNS": "100"},
            stdin=lines if source == "file" else subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=terminal,
        )
        if process.stdin is not None:
            process.stdin.write(lines.read())
            process.stdin.close()
    os.close(terminal)
    written = read_terminal(shown)
    assert process.wait(PATIENCE_S) == 0
    assert "orders" in written
    assert "3,000 messages to orders" in written
    assert "\x1b[" in written


def read_terminal(descriptor: int) -> str:
    """Everything written until the other side is closed."""
    written = b""
    with suppress(OSError):  # Linux reports the end of a terminal as EIO
        while part := os.read(descriptor, 65536):
            written += part
    os.close(descriptor)
    return written.decode(errors="replace")
