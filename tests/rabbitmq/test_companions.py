"""Topics beside the topic when queues, tokens and servers go: what belongs together stays together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from mqsdk_rabbitmq import names, wire
from mqsdk_rabbitmq.companions import Companions

from mqsdk.spi import Assigned, Gap, Link, Lost, Partition, StateError
from mqsdk.testing.conformance.base import numbered
from mqsdk.testing.conformance.reader import Reader, values
from tests.rabbitmq.stage import RabbitStage, cut


class TestCompanions(RabbitStage):
    def pair(self) -> tuple[Partition, Partition, Reader]:
        """A partition, the one that follows it, and who owns both."""
        topic = self.topic()
        beside = f"{topic}.g.retry"
        self.admin.ensure_topic(beside, 1)
        self.admin.ensure_group(beside, "g")
        return Partition(topic, 0), Partition(beside, 0), self.subscribe(topic, beside).joined(2)

    @pytest.mark.parametrize("name_of", [names.queue, names.owner])
    @pytest.mark.parametrize(("gone", "lost"), [(0, 2), (1, 1)])
    def test_who_loses_the_topics_partition_loses_the_companions_and_not_the_other_way_round(
        self, name_of: Callable[[Partition, str], str], gone: int, lost: int
    ) -> None:
        *both, reader = self.pair()
        with self.server.channel() as channel:
            channel.queue_delete(name_of(both[gone], "g"))
        reader.until(lambda: len(reader.seen(Assigned)) == 2 + lost, "taken again")
        assert [event.partition for event in reader.seen(Lost) if isinstance(event, Lost)] == both[gone : gone + lost]
        gaps = [event.partition for event in reader.seen(Gap) if isinstance(event, Gap)]
        assert gaps == ([both[gone]] if name_of is names.queue else [])
        self.publish(both[0].topic, [b"new"])
        self.publish(both[1].topic, [b"again"])
        assert sorted(values(reader.take(2))) == [b"again", b"new"]

    def test_a_cut_connection_and_a_killed_server_cost_neither(self) -> None:
        topic, beside, reader = self.pair()
        for is_kill in (False, True):
            links = len(reader.seen(Link))
            if is_kill:
                self.server.kill()
                self.server.start()
            else:
                cut(reader)
            reader.until(lambda links=links: len(reader.seen(Link)) >= links + 2 and len(reader.owned) == 2, "both again")  # type: ignore[misc]
            self.publish(beside.topic, [b"again"])
            self.publish(topic.topic, [b"new"])
            assert sorted(values(reader.take(2))) == [b"again", b"new"]
            reader.settle_all()

    def test_what_was_found_over_a_connection_that_is_gone_is_looked_for_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wire, "BACKOFF_S", (0.5, 1.0))
        answered = Companions._answered

        def late(self: Companions, *answer: Any) -> None:
            """Between two connections."""
            monkeypatch.setattr(Companions, "_answered", answered)
            cut(reader)
            self._loop.later(0.1, lambda: answered(self, *answer))

        topic = self.topic()
        beside = f"{topic}.g.retry"
        self.admin.ensure_topic(beside, 1)
        self.admin.ensure_group(beside, "g")
        monkeypatch.setattr(Companions, "_answered", late)
        reader = self.subscribe(topic, beside)
        reader.until(lambda: bool(reader.seen(Link)) and len(reader.owned) == 2, "both, after the cut")

    def test_a_companion_that_is_read_has_members_and_its_lag_counts_what_they_hold(self) -> None:
        topic, beside, _ = self.pair()
        self.publish(beside.topic, numbered(3))
        self.publish(topic.topic, numbered(2))
        self.until([], lambda: [self.messages(one) for one in (topic, beside)] == [2, 3], "counted")
        with pytest.raises(StateError):
            self.admin.delete_topic(beside.topic)

    def messages(self, partition: Partition) -> int:
        return self.admin.progress(partition.topic, "g")[0].messages

    def test_a_companion_that_was_deleted_and_made_again_is_taken_up(self) -> None:
        topic, beside, reader = self.pair()
        reader.close()
        self.admin.delete_topic(beside.topic)
        again = self.subscribe(topic.topic, beside.topic).joined(1)
        again.quiet()
        self.admin.ensure_topic(beside.topic, 1)
        self.admin.ensure_group(beside.topic, "g")
        self.publish(beside.topic, [b"again"])
        assert values(again.take(1)) == [b"again"]
