"""Questions that administration asks the cluster, each one call or a few; and reading records without a group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as raw
from kafka.admin import OffsetSpec
from kafka.protocol.metadata import MetadataRequest
from kafka.structs import OffsetAndMetadata

from mqsdk.spi import Member
from mqsdk_kafka.assignor import about
from mqsdk_kafka.client import Client
from mqsdk_kafka.errors import PASSING
from mqsdk_kafka.records import KafkaRecord

READ_S = 10.0
CHUNK = 1000
INTERNAL = "__"  # the broker's own topics begin so

Offsets = dict[TopicPartition, int]


class Looking:
    def __init__(self, client: Client) -> None:
        self._client = client

    def counts(self, topics: Sequence[str] | None, deadline: float | None = None) -> dict[str, int]:
        """Number of partitions of each of these topics that exists; None: of all. Raises AccessDenied."""
        asked = None if topics is None else list(topics)
        found = self._client.look(lambda admin: admin.describe_topics(asked), deadline)
        for item in found:
            error = raw.for_code(item["error_code"])
            if topics is not None and issubclass(error, raw.AuthorizationError):
                raise self._client.doors.error(error())
        return {
            item["name"]: len(item["partitions"])
            for item in found
            if item["error_code"] == 0 and item["partitions"] and not item["is_internal"] and not item["name"].startswith(INTERNAL)
        }

    def known_by(self, topic: str) -> list[bool]:
        """Whether the topic can be used, as each broker that answers sees it. Whoever asks next may be answered by any of them."""
        return self._client.look(lambda admin: admin._manager.run(_known_by, admin._manager, topic))

    def bounds(self, places: Sequence[TopicPartition]) -> tuple[Offsets, Offsets]:
        """(first offset held, offset after the last) of each."""
        starts, ends = (self._offsets(places, spec) for spec in (OffsetSpec.EARLIEST, OffsetSpec.LATEST))
        return starts, ends

    def _offsets(self, places: Sequence[TopicPartition], spec: Any) -> Offsets:
        if not places:
            return {}
        found = self._client.look(lambda admin: admin.list_partition_offsets(dict.fromkeys(places, spec)))
        return {place: found[place].offset for place in places}

    def located(self, place: TopicPartition, time_ms: int, end: int) -> int:
        """First offset whose time is at or after `time_ms`; the end if there is none."""
        found = self._client.read(lambda reader: reader.offsets_for_times({place: time_ms}))[place]
        return end if found is None else int(found.offset)

    def committed(self, identifier: str, places: Sequence[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        found = self._client.look(lambda admin: admin.list_group_offsets({identifier: list(places)}))[identifier]
        return {place: stored for place, stored in found.items() if stored.offset >= 0}

    def topics_of_groups(self) -> dict[str, set[str]]:
        """Every consumer group -> topics in which it has progress."""
        listed = self._client.look(lambda admin: admin.list_groups())
        return self.topics_of([item["group_id"] for item in listed if item.get("protocol_type") in ("consumer", "")])

    def topics_of(self, identifiers: Sequence[str]) -> dict[str, set[str]]:
        if not identifiers:
            return {}
        found = self._client.look(lambda admin: admin.list_group_offsets(dict.fromkeys(identifiers)))
        return {name: {place.topic for place, stored in offsets.items() if stored.offset >= 0} for name, offsets in found.items()}

    def described(self, identifiers: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        if not identifiers:
            return {}
        return dict(self._client.look(lambda admin: admin.describe_groups(list(identifiers))))


async def _known_by(manager: Any, topic: str) -> list[bool]:
    request = MetadataRequest(topics=[MetadataRequest.MetadataRequestTopic(name=topic)], allow_auto_topic_creation=False)
    found = []
    for broker in manager.cluster.brokers():
        try:
            (item,) = (await manager.send(request, node_id=broker.node_id)).topics
        except PASSING:
            continue  # one that is away will have heard of it before it is back
        partitions = item.partitions or ()
        found.append(bool(partitions) and item.error_code == 0 and all(one.leader_id >= 0 for one in partitions))
    return found


def members_of(described: Mapping[str, Any], topic: str | None) -> tuple[Member, ...]:
    """Members of a group that read this topic; None: all."""
    found = []
    for member in described.get("members", ()):
        metadata, assignment = member["member_metadata"], member["member_assignment"]
        topics = list(_field(metadata, "topics") or ())
        if topic is not None and topics and topic not in topics:
            continue
        said = about(metadata)
        numbers = tuple(sorted(number for name, numbers in _assigned(assignment) if topic in (None, name) for number in numbers))
        pid = said.get("pid")
        host = str(said.get("host") or member["client_host"])
        found.append(Member(member["member_id"], host, pid if isinstance(pid, int) else None, numbers))
    return tuple(found)


def _field(data: Any, name: str) -> Any:
    return data.get(name) if isinstance(data, Mapping) else getattr(data, name, None)


def _assigned(assignment: Any) -> list[tuple[str, list[int]]]:
    found = []
    for item in _field(assignment, "assigned_partitions") or ():
        found.append((item["topic"], item["partitions"]) if isinstance(item, Mapping) else (item[0], item[1]))
    return found


def read(client: Client, place: TopicPartition, position: int, end: int, limit: int) -> Iterator[KafkaRecord]:
    """Records from `position` on, at most `limit`, none at or after `end`."""
    return iter(client.read(lambda reader: _read(reader, place, position, end, limit)) if position < end and limit > 0 else ())


def _read(reader: KafkaConsumer, place: TopicPartition, position: int, end: int, limit: int) -> list[KafkaRecord]:
    reader.assign([place])
    reader.seek(place, position)
    found: list[KafkaRecord] = []
    give_up = time.monotonic() + READ_S
    while len(found) < limit and reader.position(place, timeout_ms=1000) < end:
        if time.monotonic() > give_up:
            raise raw.KafkaTimeoutError("reading takes too long")
        for record in reader.poll(timeout_ms=500, max_records=min(CHUNK, limit - len(found))).get(place, ()):
            if record.offset < end:
                found.append(KafkaRecord(record.offset, record.key, record.value, record.headers, record.timestamp))
    return found


def heads(client: Client, spans: Mapping[TopicPartition, tuple[int, int]]) -> dict[TopicPartition, int | None]:
    """When the first record of each span of offsets took its place."""
    found: dict[TopicPartition, int | None] = {}
    for place, (position, end) in spans.items():
        first = next(read(client, place, position, end, 1), None)
        found[place] = first.placed_ms if first is not None else None
    return found
