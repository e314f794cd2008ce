"""Ids and positions, entries and records, options: what needs no server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqsdk_redis.ids import MAX_SEQUENCE, clock_ms, id_before, id_of, position_of
from mqsdk_redis.options import Settings
from mqsdk_redis.owned import Owned
from mqsdk_redis.records import RedisRecord, fields_of

from mqsdk.spi import Batch, ConfigError, Gap, NewRecord, Partition, encode_headers
from mqsdk.spi.tls import Tls

COUNTED = st.tuples(st.just(0), st.integers(1, 1 << 61))
CLOCK = st.tuples(st.integers(1, (1 << 42) - 1), st.integers(0, MAX_SEQUENCE))
IDS = st.one_of(COUNTED, CLOCK)


@given(IDS)
def test_an_id_has_one_position_below_2_63(parts: tuple[int, int]) -> None:
    stream_id = b"%d-%d" % parts
    assert id_of(position_of(stream_id)) == stream_id
    assert 0 < position_of(stream_id) < 1 << 63


@given(IDS, IDS)
def test_positions_are_in_the_order_of_ids(left: tuple[int, int], right: tuple[int, int]) -> None:
    assert (position_of(b"%d-%d" % left) < position_of(b"%d-%d" % right)) == (left < right)


@given(IDS)
def test_the_id_before_a_position_is_below_it(parts: tuple[int, int]) -> None:
    era, sequence = (int(part) for part in id_before(position_of(b"%d-%d" % parts)).split(b"-"))
    assert (era, sequence) < parts
    assert (era, sequence) in ((parts[0], parts[1] - 1), (parts[0] - 1, (1 << 64) - 1))


def test_only_ids_of_the_clock_tell_a_time() -> None:
    assert (clock_ms(position_of(b"0-7")), clock_ms(position_of(b"1700000000123-7"))) == (None, 1_700_000_000_123)


@given(
    st.binary(),
    st.none() | st.binary(),
    st.lists(st.tuples(st.sampled_from(["body", "key", "id", "mq", "x"]), st.sampled_from(["", "y", "1 y 2"])), max_size=4),
    st.sampled_from(["id-1", "of two words"]),
    st.sampled_from([None, "text/plain", "text/plain; charset=utf-8"]),
    st.integers(1, 2),
    st.sampled_from([(), (("mq-x", "y"),)]),
)
def test_a_record_survives_its_entry_whatever_its_headers_are_called(
    value: bytes,
    key: bytes | None,
    headers: list[tuple[str, str]],
    id: str,
    content_type: str | None,
    attempt: int,
    extra: tuple[tuple[str, str], ...],
) -> None:
    new = NewRecord(1, Partition("t", 0), key, value, id, 1234, content_type, tuple(headers), "p", 7, attempt, extra=extra)
    keys = [] if key is None else [b"mq-key", key]
    spelled_out = [item for name, text in encode_headers(new) for item in (name.encode(), text)]
    for fields in fields_of(new), [b"body", value, *keys, *spelled_out]:
        found = RedisRecord(9, fields)
        assert (found.attempt, found.key, found.value, found.headers) == (attempt, key, value, tuple(headers))
        assert (found.id, found.timestamp_ms, found.content_type) == (id, 1234, content_type)
        assert (found.producer, found.sequence, found.extra, found.due_ms) == ("p", 7, extra, None)


@pytest.mark.parametrize("id", ["id-1", "of two words"])
def test_copies_of_a_message_have_one_mark_and_others_another(id: str) -> None:
    first = NewRecord(1, Partition("t", 0), b"k", b"v", id, 1234, producer="p", sequence=7)
    plain, copy, other = (RedisRecord(9, fields_of(one)) for one in (first, first._replace(again=True), first._replace(sequence=8)))
    assert (plain.again, copy.again) == (False, True)
    assert copy.mark == plain.mark != other.mark
    assert copy.extra == ()


def test_an_entry_is_short_and_legible() -> None:
    new = NewRecord(1, Partition("t", 0), b"k", b"v", "id-1", 1234, "text/plain; charset=utf-8", (("a", "b"),), "p", 7, due_ms=5678)
    assert fields_of(new) == [
        *(b"body", b"v", b"mq-key", b"k", b"mq", b"1 id-1 1234 p 7 text/plain; charset=utf-8", b"mq-due", b"5678", b"a", b"b")
    ]  # fmt: skip
    assert fields_of(new._replace(key=None, content_type=None, producer="", sequence=-1, due_ms=None, headers=())) == [
        *(b"body", b"v", b"mq", b"1 id-1 1234 - -1")
    ]  # fmt: skip
    assert RedisRecord(1, fields_of(new._replace(producer=""))).producer == ""


@pytest.mark.parametrize(
    ("fields", "key", "value", "headers"),
    [
        ([b"body", b"v"], None, b"v", ()),
        ([b"anything", b"v"], None, b"v", ()),
        ([b"key", b"k", b"body", b"v"], b"k", b"v", ()),
        ([b"a", b"1", b"body", b"v", b"b", b"2"], None, b"v", (("a", "1"), ("b", "2"))),
        ([b"a", b"1", b"b", b"2"], None, b"", (("a", "1"), ("b", "2"))),
        ([b"body", b"v", b"body", b"w"], None, b"v", (("body", "w"),)),
        ([b"body", b"v", b"mq", b"2 x"], None, b"v", (("mq", "2 x"),)),
        ([b"body", b"v", b"key", b"k", b"mq", b"x"], b"k", b"v", (("mq", "x"),)),
    ],
)
def test_a_foreign_entry_of_any_shape_is_a_record(
    fields: list[bytes], key: bytes | None, value: bytes, headers: tuple[tuple[str, str], ...]
) -> None:
    found = RedisRecord(1, fields)
    assert (found.key, found.value, found.headers) == (key, value, headers)
    assert (found.id, found.attempt, found.redelivered) == (None, 1, False)


# --- options ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"databse": 1}, "did you mean `database`"),
        ({"servers": "host:1"}, "a list of addresses"),
        ({"servers": []}, "a list of addresses"),
        ({"servers": ["host:99999"]}, "host:port"),
        ({"servers": ["redis://host:1"]}, "host:port"),
        ({"auth": {"user": "x"}}, "a user needs a password"),
        ({"auth": {"mechanism": "PLAIN", "password": "p"}}, "not mechanism"),
        ({"tls": {"verify": "no"}}, "true or false"),
        ({"tls": {"key": "k.pem"}}, "certificate that it belongs to"),
        ({"tls": {"certs": "k.pem"}}, "a mapping with ca"),
        ({"options": {"retry": 3}}, "no option of the client"),
        ({"keep": "soon"}, "a duration"),
        ({"keep": -1}, "a duration"),
        ({"database": -1}, "number of a database"),
        ({"sentinel": ""}, "name of the primary"),
        ({"noeviction": "yes"}, "true or false"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(given: Mapping[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what) as refused:
        Settings.parse(given, "shop")
    assert f"clusters.shop.{next(iter(given))}" in str(refused.value)


def test_options_are_understood() -> None:
    settings = Settings.parse(
        {
            "servers": ["redis", "[::1]:7000"], "tls": {}, "auth": {"user": "u", "token": "t"}, "keep": "10m", "database": 2,
            "sentinel": None, "options": {},
        },
        "shop",
    )  # fmt: skip
    assert settings.servers == (("redis", 6379), ("::1", 7000))
    assert (settings.user, settings.password, settings.tls) == ("u", "t", Tls())
    assert (settings.own.keep, settings.own.database, settings.own.sentinel) == (600.0, 2, None)
    assert "'t'" not in repr(settings)


# --- one ownership ------------------------------------------------------------------------------------------------------------------------


def entries(*numbers: int) -> list[tuple[bytes, list[bytes]]]:
    return [(b"0-%d" % number, [b"body", b"v"]) for number in numbers]


def owned(records: int = 100) -> Owned:
    found = Owned(Partition("t", 0), "g", b"m", 1, b"0-0", b"")
    found.history = False
    found.records, found.bytes = records, 1 << 20
    return found


def test_a_gap_stands_before_the_records_behind_it_and_after_those_before_it() -> None:
    one = owned(records=2)
    one.receive(entries(1, 2, 3, 6), False, lambda _: False)
    assert [record.position for event in one.deliver(100) if isinstance(event, Batch) for record in event.records] == [1, 2]
    one.records = 100
    first, gap, last = one.deliver(100)
    assert isinstance(first, Batch)
    assert isinstance(gap, Gap)
    assert isinstance(last, Batch)
    assert ([record.position for record in first.records], (gap.start, gap.stop)) == ([3], (4, 6))
    assert [record.position for record in last.records] == [6]


def test_only_what_was_delivered_is_settled_however_wide_the_range() -> None:
    one = owned(records=3)
    one.receive(entries(1, 2, 3, 4, 5), False, lambda _: False)
    one.deliver(100)
    assert sorted(one.take([(2, 1 << 62)])) == [2, 3]
    assert one.take([(2, 1 << 62)]) == []
    one.put_back([2])
    assert one.take([(1, 3)]) == [1, 2]


def test_the_bytes_of_credit_may_be_passed_by_one_message() -> None:
    one = owned()
    one.receive([(b"0-%d" % number, [b"body", b"v" * 10]) for number in range(1, 6)], False, lambda _: False)
    one.bytes = 11
    (batch,) = one.deliver(100)
    assert isinstance(batch, Batch)
    assert ([record.position for record in batch.records], batch.bytes, one.bytes) == ([1, 2], 20, -9)
    assert one.deliver(100) == []
    one.bytes = 1
    (batch,) = one.deliver(100)
    assert isinstance(batch, Batch)
    assert [record.position for record in batch.records] == [3]


def test_the_larger_the_messages_the_fewer_are_read_at_once() -> None:
    counts = []
    for size in 0, 200, 100_000, 10_000_000:
        one = owned()
        assert one.count(500) == 16, "nothing is known yet"
        one.bytes = 1 << 30
        one.receive([(b"0-1", [b"body", b"v" * size])], False, lambda _: False)
        one.deliver(100)
        counts.append(one.count(500))
    assert counts == [500, 500, 10, 1]


def test_a_partition_that_is_asked_back_delivers_nothing() -> None:
    one = owned()
    one.receive(entries(1), True, lambda _: False)
    one.give_back_by = 1.0
    assert not one.wants
    assert one.deliver(100) == []
