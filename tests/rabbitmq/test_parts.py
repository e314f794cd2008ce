"""Messages of and for plain clients, and the parts that need no server."""

from __future__ import annotations

import inspect
from typing import Any

import pika
import pytest
from mqsdk_rabbitmq import frames, names
from mqsdk_rabbitmq.catalog import Catalog, Topic
from mqsdk_rabbitmq.outbox import Answerer, Entry, Unconfirmed, Window
from mqsdk_rabbitmq.owned import Owned
from mqsdk_rabbitmq.peers import BYE, HERE, Note, Peers
from mqsdk_rabbitmq.records import RabbitRecord, TooLarge, content_frames, publish_frame
from mqsdk_rabbitmq.token import Token
from mqsdk_rabbitmq.wire import Connection
from pika.frame import decode_frame

from mqsdk.spi import ConfigError, NewRecord, Partition, Published, Rejected, Stored
from mqsdk.testing.conformance.reader import Answers
from tests.rabbitmq.stage import RabbitStage

HERE_0 = Partition("t", 0)


class TestForeignClients(RabbitStage):
    def test_a_plain_client_reads_the_payload_untouched(self) -> None:
        topic = self.topic()
        value = bytes(range(256))
        self.store([self.record(topic, value, b"k", headers=(("mine", "1"),), content_type="application/json")])
        with self.server.channel() as channel:
            method, properties, body = next(channel.consume(names.queue(Partition(topic, 0), "g")))
        assert body == value
        assert (properties.content_type, properties.delivery_mode, properties.message_id) == ("application/json", 2, "id-1")
        assert properties.headers["mine"] == "1"
        assert properties.headers["mq-key"] == b"k"
        assert method.exchange == names.exchange(topic)

    def test_a_message_without_any_header_is_consumed(self) -> None:
        topic = self.topic()
        with self.server.channel() as channel:
            channel.basic_publish(names.exchange(topic), "0", b"bare")
        (record,) = self.join(topic).take(1)
        assert (record.value, record.key, record.id, record.attempt, record.headers) == (b"bare", None, None, 1, ())
        assert (record.timestamp_ms, record.content_type) == (None, None)

    def test_the_properties_of_a_plain_client_are_the_fields(self) -> None:
        topic = self.topic()
        table = {"key": "customer", "number": 7, "many": ["a", "b"], "raw": b"\xff"}
        properties = pika.BasicProperties(message_id="m-1", timestamp=1_700_000_000, content_type="text/plain", headers=table)
        with self.server.channel() as channel:
            channel.basic_publish(names.exchange(topic), "0", b"v", properties)
        (record,) = self.join(topic).take(1)
        assert (record.key, record.id, record.timestamp_ms, record.content_type) == (b"customer", "m-1", 1_700_000_000_000, "text/plain")
        assert record.headers == (("number", "7"), ("many", "a"), ("many", "b"), ("raw", "\udcff"))

    def test_what_the_server_writes_into_a_message_that_comes_again_is_no_header(self) -> None:
        topic = self.topic()
        self.store([self.record(topic, b"v", b"k", headers=(("mine", "1"),))])
        first = self.join(topic)
        first.take(1)
        first.close()
        (again,) = self.join(topic).take(1)
        assert again.redelivered
        assert (again.key, again.headers, again.extra, again.attempt) == (b"k", (("mine", "1"),), (), 1)

    def test_headers_over_a_frame_are_refused_and_the_connection_stays(self) -> None:
        topic = self.topic()
        before, over, after = self.outcomes(
            [self.record(topic, b"1"), self.record(topic, b"2", headers=(("h", "x" * 200_000),)), self.record(topic, b"3")]
        )
        assert isinstance(before, Stored)
        assert isinstance(over, Rejected)
        assert over.code == "too_large"
        assert isinstance(after, Stored)

    def test_a_long_name_of_a_header_is_refused(self) -> None:
        topic = self.topic()
        (outcome,) = self.outcomes([self.record(topic, b"1", headers=(("h" * 256, "x"),))])
        assert isinstance(outcome, Rejected)
        assert outcome.code == "invalid"


# --- encoding -----------------------------------------------------------------------------------------------------------------------------


def made(**fields: Any) -> NewRecord:
    return NewRecord(**{"token": 1, "partition": HERE_0, "key": None, "value": b"v", "id": "i", "timestamp_ms": 5, **fields})


@pytest.mark.parametrize("size", [0, 1, 200, 201, 1000])
def test_frames_are_those_of_the_client(size: int) -> None:
    record = made(
        value=b"x" * size, key=b"\x00k", content_type="a/b", headers=(("n", "1"), ("n", "2"), ("o", "ü")), attempt=2, producer="p"
    )
    data = publish_frame(3, "mq.t", "0") + content_frames(3, record, 200)
    found: list[Any] = []
    while data:
        taken, value = decode_frame(data)
        found.append(value)
        data = data[taken:]
    method, header, *bodies = found
    assert (method.method.exchange, method.method.routing_key, method.method.mandatory) == ("mq.t", "0", True)
    assert header.body_size == size
    assert b"".join(body.fragment for body in bodies) == record.value
    assert all(len(body.fragment) <= 200 for body in bodies)
    assert header.properties.headers == {
        "mq-ts": "5",
        "mq-key": b"\x00k",
        "mq-pid": "p",
        "mq-seq": "-1",
        "mq-attempt": "2",
        "n": ["1", "2"],
        "o": "ü",
    }


def test_headers_that_do_not_fit_are_told() -> None:
    with pytest.raises(TooLarge):
        content_frames(1, made(headers=(("h", "x" * 1000),)), 500)


@pytest.mark.parametrize(
    "record", [made(), made(key=b""), made(key=b"k", content_type="c"), made(key=b"mq-attempt", attempt=3), made(due_ms=9)]
)
def test_a_record_survives_encoding(record: NewRecord) -> None:
    _, header = decode_frame(content_frames(1, record, 100_000))
    raw = b"".join(header.properties.encode())
    found = RabbitRecord(7, False, raw, record.value)
    assert (found.key, found.id, found.attempt) == (record.key, record.id, record.attempt)
    assert (found.content_type, found.timestamp_ms, found.due_ms) == (record.content_type, record.timestamp_ms, record.due_ms)


def read(record: NewRecord, redelivered: bool = False) -> RabbitRecord:
    _, header = decode_frame(content_frames(1, record, 100_000))
    return RabbitRecord(7, redelivered, b"".join(header.properties.encode()), record.value)


@pytest.mark.parametrize("key", [None, b"", b"k", b"\x06mq-pidS\x00\x00\x00\x10\x08mq-again"])
def test_copies_of_a_message_have_one_mark_and_others_another(key: bytes | None) -> None:
    first = made(key=key, producer="0123456789abcdef", sequence=99)
    copy, others = read(first._replace(again=True)), [read(first._replace(sequence=98)), read(first._replace(producer="fedcba9876543210"))]
    assert (copy.again, copy.mark) == (True, read(first).mark)
    assert copy.mark not in [other.mark for other in others]
    assert copy.extra == ()


@pytest.mark.parametrize("content_type", [None, "text/plain"])
def test_messages_with_the_same_numbers_and_another_id_are_no_copies(content_type: str | None) -> None:
    """One was delayed on another cluster, where this publisher counts for itself."""
    first, other = (
        read(made(id=name, producer="0123456789abcdef", sequence=7, content_type=content_type, again=True)) for name in ("one", "two")
    )
    assert first.mark != other.mark


def test_what_is_delivered_again_under_another_tag_is_no_copy_of_itself() -> None:
    """A quorum queue does so when it could not reach the consumer's node for a while."""
    for record in (made(producer="0123456789abcdef", sequence=7, again=True), made(producer="p", sequence=7, again=True)):
        assert (read(record).again, read(record, redelivered=True).again) == (True, False)
    foreign = pika.BasicProperties(headers={"n": "1", "mq-again": "1"})
    assert not RabbitRecord(7, True, b"".join(foreign.encode()), b"").again


@pytest.mark.parametrize("further", [{}, {"mq-seq": "1"}, {"mq-seq": "1" * 300}])
def test_the_mark_of_a_foreign_message_that_has_some_of_our_headers_is_read(further: dict[str, str]) -> None:
    foreign = pika.BasicProperties(headers={"mq-ts": "5", "mq-pid": "0123456789abcdef", **further})
    assert isinstance(hash(RabbitRecord(7, False, b"".join(foreign.encode()), b"").mark), int)


@pytest.mark.parametrize("step", [1, 7, 64, 10_000])
def test_deliveries_are_read_whole_however_they_are_cut(step: int) -> None:
    deliver = pika.spec.Basic.Deliver("tag", 5, True, "mq.t", "0")
    data = pika.frame.Method(2, deliver).marshal() + content_frames(2, made(value=b"y" * 250, key=b"k"), 100)
    data += pika.frame.Heartbeat().marshal()
    data += pika.frame.Method(2, pika.spec.Basic.Deliver("tag", 6, False, "mq.t", "0")).marshal() + content_frames(2, made(value=b""), 100)
    got: list[Any] = []
    others: list[bytes] = []
    assemblies = {2: frames.Assembly(got.append)}
    buffer = b""
    for at in range(0, len(data), step):
        buffer += data[at : at + step]
        buffer = buffer[frames.read(buffer, assemblies, others.append) :]
    assert [(tag, redelivered, body) for tag, redelivered, _, body in got] == [(5, True, b"y" * 250), (6, False, b"")]
    assert RabbitRecord(5, True, got[0][2], got[0][3]).key == b"k"
    assert others == [pika.frame.Heartbeat().marshal()]


def test_bytes_that_are_no_frame_are_told() -> None:
    with pytest.raises(frames.BadFrame):
        frames.read(b"\x01\x00\x01\x00\x00\x00\x01ab", {}, lambda _: None)


def test_what_is_used_of_the_client_beyond_its_interface_is_there() -> None:
    """Named in wire.py; a new version of the client that lacks one of these has to be looked at."""
    parent = pika.SelectConnection
    for name in ("_on_data_available", "_output_marshaled_frames", "_terminate_stream", "_process_frame"):
        assert callable(getattr(parent, name)), name
    source = inspect.getsource(pika.connection.Connection)
    assert "self._frame_buffer" in source
    assert "self.bytes_received" in source
    assert Connection.__mro__[1] is parent


# --- settling, publishing, sharing --------------------------------------------------------------------------------------------------------


def test_a_prefix_is_acknowledged_at_once_and_no_tag_twice() -> None:
    owned = Owned(HERE_0, 1)
    assert owned.acks(4, ((1, 4),), 10) == [(3, True)]
    assert owned.acks(4, ((1, 4),), 10) == []
    assert owned.acks(4, ((6, 8),), 10) == [(6, False), (7, False)]
    assert owned.acks(8, ((4, 6),), 10) == [(5, True)]
    assert owned.acks(1 << 40, (), 10) == [(10, True)]
    assert owned.acks(2, ((1, 2),), 10) == []
    assert owned.unsettled == 0


def test_returns_and_confirmations_find_their_entries() -> None:
    answers = Answers(1.0)
    answerer, sent = Answerer(Window()), Unconfirmed()
    entries = [Entry(made(token=token, id="same"), answers, 0.0) for token in range(1, 7)]
    for entry in entries:
        entry.exchange = "mq.t"
        sent.add(entry)
    assert sent.confirmed(2, multiple=False) == [entries[1]]
    assert sent.returned("same", "mq.t", "0") is entries[0]
    assert sent.returned("same", "mq.other", "0") is None
    assert sent.confirmed(3, multiple=True) == entries[:3]
    answerer.answer(entries[:3], Stored())
    answerer.answer(entries, Stored())
    assert [event for event in answers.events if isinstance(event, Published)] == [Published(1, Stored(), 3), Published(4, Stored(), 3)]
    assert sent.take_all() == entries[3:]
    sent.add(entries[0])
    assert sent.confirmed(1, multiple=False) == [entries[0]]


def test_all_shares_together_are_all_partitions_and_who_owns_more_keeps_more() -> None:
    peers = Peers("b", 5)
    peers.heard(Note(HERE, "t", "a", (0, 1)))
    peers.heard(Note(HERE, "t", "c", ()))
    assert peers.share(3) == 2
    assert peers.somebody_wants(3)
    assert Peers("c", 5, {"a": 2, "b": 2}).share(1) == 1
    assert not Peers("c", 5, {"a": 2, "b": 2}).somebody_wants(1)
    peers.heard(Note(BYE, "t", "a"))
    peers.gone("c")
    assert peers.share(0) == 5


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"kind": 1, "what": 2}', b'{"kind": "here", "topic": "t", "partitions": 3}'])
def test_what_is_no_note_is_none(body: bytes) -> None:
    assert Note.parse(body) is None


def test_a_claim_is_above_the_last_epoch_and_above_the_clock() -> None:
    assert Token(1 << 60).claimed().epoch == (1 << 60) + 1
    assert Token().claimed().epoch > 1_700_000_000_000
    assert Token.parse(Token(5, True, "n", True).encode()) == Token(5, True, "n", True)
    assert Token.parse(b"\xff").rank == (0, False)


def test_the_catalog_survives_encoding() -> None:
    catalog = Catalog(3, {"a.b": Topic(4, {"y", "x"})})
    assert Catalog.parse(catalog.encode()) == catalog


def test_long_names_stay_apart_and_short() -> None:
    base = "t" * 245
    found = {names.owner(Partition(base + end, 7), group) for end in "ab" for group in ("g", "h")}
    assert len(found) == 4
    assert max(len(name) for name in found) <= names.MAX_SHORT


@pytest.mark.parametrize("name", ["", "a..b", "a/b", ".a", "ä", "a b", "a\n"])
def test_a_name_that_could_be_read_otherwise_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        names.check_topic(name)
