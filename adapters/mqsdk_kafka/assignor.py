"""The client's side of `sharing`: what this member says when it joins, and what the leader answers."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kafka.coordinator.assignors.abstract import AbstractPartitionAssignor, RebalanceProtocol
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription

from mqsdk_kafka.sharing import Place, Said, share_out

NAME = "mqsdk-1"  # changes with the rules: members that share out differently must not be in one group
_VERSION = 1  # of the client's envelope, the first that names owned partitions


class Assignor(AbstractPartitionAssignor):  # type: ignore[misc]  # the client has no type hints
    """One per consumer: a shared one would mix up what two members hold. say: what this member holds now."""

    def __init__(self, say: Callable[[], Said], instance: str) -> None:
        self._say = say
        self._about = {"host": socket.gethostname(), "pid": os.getpid(), "instance": instance}

    @property
    def name(self) -> str:
        return NAME

    def supported_protocols(self) -> list[RebalanceProtocol]:
        return [RebalanceProtocol.COOPERATIVE]

    def metadata(self, topics: set[str]) -> Any:
        said = self._say()
        about = {**self._about, "generation": said.generation, "leaving": said.leaving}
        kind = ConsumerProtocolSubscription.TopicPartition
        owned = [kind(topic=topic, partitions=numbers) for topic, numbers in _by_topic(sorted(said.held))]
        return ConsumerProtocolSubscription(
            version=_VERSION, topics=sorted(topics), user_data=json.dumps(about).encode(), owned_partitions=owned
        )

    def assign(self, cluster: Any, members: Sequence[Any]) -> dict[str, Any]:
        said = {member.member_id: _said(member.metadata) for member in members}
        topics = {topic for one in said.values() for topic in one.topics}
        counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}
        shares = share_out(said, counts)
        return {name: ConsumerProtocolAssignment(_VERSION, _by_topic(sorted(places)), b"") for name, places in shares.items()}

    def on_assignment(self, assignment: Any, generation: int) -> None:
        """The listener is told as well, and knows more."""


def about(metadata: Any) -> dict[str, Any]:
    """What a member says about itself; empty for a foreign one. metadata: as an assignor is given it, or as an admin describes it."""
    try:
        raw = metadata.get("user_data") if isinstance(metadata, Mapping) else metadata.user_data
        found = json.loads(raw if isinstance(raw, str) else bytes(raw or b"{}"))
    except (ValueError, AttributeError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _said(metadata: Any) -> Said:
    one = about(metadata)
    generation = one.get("generation", -1)
    held = {(owned.topic, number) for owned in metadata.owned_partitions or () for number in owned.partitions}
    return Said(frozenset(metadata.topics), frozenset(held), generation if isinstance(generation, int) else -1, one.get("leaving") is True)


def _by_topic(places: Sequence[Place]) -> list[tuple[str, list[int]]]:
    found: dict[str, list[int]] = {}
    for topic, number in places:
        found.setdefault(topic, []).append(number)
    return list(found.items())
