"""The parts that talk to nobody: sharing out, what stands beside an offset, names, options."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqsdk_kafka import marks
from mqsdk_kafka.looking import members_of as members_of_group
from mqsdk_kafka.marks import Mark
from mqsdk_kafka.names import group_id, group_of
from mqsdk_kafka.options import PER_TOPIC, SHARED, Settings
from mqsdk_kafka.records import KafkaRecord, headers_of
from mqsdk_kafka.sharing import Place, Said, share_out

from mqsdk.spi import ConfigError, Member, NewRecord, encode_headers
from mqsdk.spi import Partition as Where

BOTH = frozenset({"t", "t.g.retry"})


def settled(members: dict[str, Said], counts: dict[str, int]) -> dict[str, list[Place]]:
    """Rounds until nobody's share changes, each member handing back what it was not given again."""
    for generation in range(4):
        given = share_out(members, counts)
        held = {name: frozenset(places) for name, places in given.items()}
        if all(members[name].held == held[name] for name in members):
            return given
        members = {name: said._replace(held=held[name], generation=generation) for name, said in members.items()}
    raise AssertionError("the shares do not come to rest")


members_of = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.builds(
        Said,
        topics=st.just(BOTH),
        held=st.frozensets(st.tuples(st.sampled_from(sorted(BOTH)), st.integers(0, 7))),
        generation=st.integers(-1, 3),
        leaving=st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


@given(members_of, st.integers(0, 8), st.integers(0, 8))
def test_no_place_is_given_twice_nor_while_another_holds_it(members: dict[str, Said], first: int, second: int) -> None:
    counts = {"t": first, "t.g.retry": second}
    given_out = share_out(members, counts)
    places = [place for share in given_out.values() for place in share]
    assert len(places) == len(set(places))
    for name, share in given_out.items():
        for place in share:
            number = place[1]
            holders = {one for one, said in members.items() if any(held[1] == number and held[0] in BOTH for held in said.held)}
            newest = max((members[one].generation for one in holders), default=-1)
            assert name in holders or not any(members[one].generation == newest and place in members[one].held for one in holders)


@given(members_of, st.integers(1, 8))
def test_shares_come_to_rest_fair_and_together(members: dict[str, Said], count: int) -> None:
    counts = {"t": count, "t.g.retry": count}
    staying = {name: said._replace(held=frozenset(), leaving=False) for name, said in members.items()}
    given_out = settled(staying, counts)
    sizes = [len(share) for share in given_out.values()]
    assert sum(sizes) == 2 * count
    assert max(sizes) - min(sizes) <= 2  # one number of both topics
    for share in given_out.values():
        assert {number for topic, number in share if topic == "t"} == {number for topic, number in share if topic != "t"}


def test_a_joining_member_moves_only_its_share() -> None:
    held = frozenset(("t", number) for number in range(4))
    members = {"a": Said(frozenset({"t"}), held, 1), "b": Said(frozenset({"t"}))}
    first = share_out(members, {"t": 4})
    assert (len(first["a"]), first["b"]) == (2, [])
    assert len(settled(members, {"t": 4})["b"]) == 2


def test_what_a_leaving_member_handed_back_goes_on_and_the_rest_stays_with_it() -> None:
    topics = frozenset({"t"})
    members = {"a": Said(topics, frozenset({("t", 0)}), 1, leaving=True), "b": Said(topics, frozenset({("t", 2)}), 1)}
    assert share_out(members, {"t": 3}) == {"a": [("t", 0)], "b": [("t", 1), ("t", 2)]}


def test_of_two_who_hold_a_place_the_later_one_keeps_it() -> None:
    held = frozenset({("t", 0)})
    members = {"a": Said(frozenset({"t"}), held, 3), "b": Said(frozenset({"t"}), held, 7)}
    assert share_out(members, {"t": 1}) == {"a": [], "b": [("t", 0)]}


def test_members_of_other_topics_do_not_count() -> None:
    members = {"a": Said(frozenset({"t"})), "b": Said(frozenset({"u"}))}
    assert settled(members, {"t": 3, "u": 2}) == {"a": [("t", 0), ("t", 1), ("t", 2)], "b": [("u", 0), ("u", 1)]}


@given(st.booleans(), st.integers(0, 2**63), st.binary(max_size=marks.room(marks.BROKER_LIMIT)))
def test_a_mark_comes_back_and_fits(clean: bool, epoch: int, blob: bytes) -> None:
    text = marks.encode(Mark(clean, epoch, blob))
    assert len(text.encode("utf-16-le")) // 2 <= marks.BROKER_LIMIT
    assert marks.decode(text) == Mark(clean, epoch, blob)


@given(st.text(max_size=60) | st.none())
def test_a_foreign_text_is_no_mark(text: str | None) -> None:
    assert marks.decode(text) == Mark()


@pytest.mark.parametrize("text", ["mq1:o:1:not base 85 \x7f", "mq1:x:1:", "mq1:o:-1:", "mq1:o:1", "mq2:o:1:"])
def test_a_damaged_mark_is_none(text: str) -> None:
    assert marks.decode(text) == Mark()


def test_groups_of_a_topic_and_of_its_retry_topic_are_one_in_kafka() -> None:
    assert group_id(PER_TOPIC, "orders", "billing") == group_id(PER_TOPIC, "orders.billing.retry", "billing") == "orders.billing"
    assert group_id(SHARED, "orders", "billing") == "billing"
    assert group_of(PER_TOPIC, "orders", "orders.billing") == "billing"
    assert group_of(PER_TOPIC, "orders.billing.retry", "orders.billing") == "billing"
    assert group_of(PER_TOPIC, "orders", "other.billing") is None
    assert group_of(PER_TOPIC, "orders", "billing") is None
    assert group_of(SHARED, "orders", "billing") == "billing"


@pytest.mark.parametrize(
    ("given_options", "said"),
    [
        ({"servers": "kafka:9092"}, "a list of addresses"),
        ({"servers": ["kafka:0"]}, "host:port"),
        ({"auth": {"user": "a", "password": "secret"}}, "belong together"),
        ({"auth": {"mechanism": "GSSAPI", "user": "a", "password": "secret"}}, "SCRAM-SHA-512"),
        ({"auth": {"token": "secret"}}, "not token"),
        ({"servers": ["kafka:9092"], "auth": {"mechanism": "PLAIN", "user": "a", "password": "secret"}}, "in the clear"),
        ({"replication": 0}, "number of copies"),
        ({"group_id": "{topic}"}, "{group}"),
        ({"options": {"acks": 1}}, "no option of the client"),
        ({"servres": []}, "unknown key"),
    ],
)
def test_options_that_cannot_be_used_are_named(given_options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as found:
        Settings.parse(given_options, "shop")
    assert said in str(found.value)
    assert "secret" not in str(found.value)


def test_plain_passwords_are_let_through_encryption_and_on_this_host() -> None:
    auth = {"mechanism": "plain", "user": "a", "password": "secret"}
    assert Settings.parse({"servers": ["kafka:9092"], "auth": auth, "tls": {}}, "shop").mechanism == "PLAIN"
    assert Settings.parse({"servers": ["localhost:9092", "[::1]:1"], "auth": auth}, "shop").addresses == ["localhost:9092", "[::1]:1"]
    assert "secret" not in repr(Settings.parse({"auth": auth}, "shop"))


@given(
    st.lists(st.tuples(st.sampled_from(["mq", "id", "x"]), st.sampled_from(["", "y", "1 y 2"])), max_size=4),
    st.sampled_from(["id-1", "of two words"]),
    st.sampled_from([None, "text/plain; charset=utf-8"]),
    st.integers(1, 2),
    st.sampled_from([(), (("mq-x", "y"),)]),
)
def test_a_record_survives_its_headers_whatever_they_are_called(
    headers: list[tuple[str, str]], id: str, content_type: str | None, attempt: int, extra: tuple[tuple[str, str], ...]
) -> None:
    new = NewRecord(1, Where("t", 0), b"k", b"v", id, 1234, content_type, tuple(headers), "p", 7, attempt, extra=extra)
    for pairs in headers_of(new), encode_headers(new):
        found = KafkaRecord(9, b"k", b"v", pairs, 99)
        assert (found.id, found.timestamp_ms, found.content_type, found.attempt) == (id, 1234, content_type, attempt)
        assert (found.producer, found.sequence, found.extra, found.due_ms, found.headers) == ("p", 7, extra, None, tuple(headers))


@pytest.mark.parametrize("id", ["id-1", "of two words"])
def test_copies_of_a_message_have_one_mark_and_others_another(id: str) -> None:
    first = NewRecord(1, Where("t", 0), b"k", b"v", id, 1234, producer="p", sequence=7)
    sent = (first, first._replace(again=True), first._replace(sequence=8))
    plain, copy, other = (KafkaRecord(9, b"k", b"v", headers_of(one), 99) for one in sent)
    assert (plain.again, copy.again) == (False, True)
    assert copy.mark == plain.mark != other.mark
    assert copy.extra == ()


def test_what_every_message_has_is_one_header() -> None:
    new = NewRecord(1, Where("t", 0), b"k", b"v", "id-1", 1234, "text/plain", (("a", "b"),), "p", 7, 2, due_ms=5)
    assert headers_of(new) == [("mq", b"1 id-1 1234 p 7 text/plain"), ("mq-attempt", b"2"), ("mq-due", b"5"), ("a", b"b")]


def test_a_member_is_shown_with_the_host_and_process_that_it_tells() -> None:
    """As an admin's answer has it; it was taken for a foreign one there, and shown with the address of its connection."""
    metadata = {"topics": ["t"], "user_data": b'{"host": "h", "pid": 7}'}
    member = {"member_id": "m", "client_host": "/127.0.0.1", "member_metadata": metadata, "member_assignment": None}
    assert members_of_group({"members": [member]}, "t") == (Member("m", "h", 7, ()),)
