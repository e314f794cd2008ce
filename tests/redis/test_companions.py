"""Topics beside the topic on a server whose leases are taken away or lapse one by one: what belongs together stays together."""

from __future__ import annotations

import time
from typing import Any

import pytest
from mqsdk_redis import names
from mqsdk_redis.leases import Leases

from mqsdk.spi import Assigned, Lost, Partition, Settled
from mqsdk.testing.conformance.reader import Reader, values
from tests.redis.stage import RedisStage


class TestCompanions(RedisStage):
    def pair(self, **how: object) -> tuple[Partition, Partition, Reader]:
        """A partition, the one that follows it, and who owns both."""
        topic = self.topic()
        beside = f"{topic}.g.retry"
        self.admin.ensure_topic(beside, 1)
        self.admin.ensure_group(beside, "g")
        reader = self.subscribe(topic, beside, **how).joined(2)  # type: ignore[arg-type]  # keywords of subscribe
        return Partition(topic, 0), Partition(beside, 0), reader

    @pytest.mark.parametrize(("taken", "lost"), [(0, 2), (1, 1)])
    def test_who_loses_the_topics_partition_loses_the_companions_and_not_the_other_way_round(self, taken: int, lost: int) -> None:
        *both, reader = self.pair(lease_s=1.0)
        self.server.call("DEL", names.lease(both[taken], "g"))
        reader.until(lambda: len(reader.seen(Assigned)) == 2 + lost, "taken again")
        assert [event.partition for event in reader.seen(Lost) if isinstance(event, Lost)] == both[taken : taken + lost]
        self.publish(both[0].topic, [b"new"])
        self.publish(both[1].topic, [b"again"])
        assert sorted(values(reader.take(2))) == [b"again", b"new"]

    def test_a_companion_is_not_taken_by_one_whose_lease_has_lapsed_meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        topic, beside, reader = self.pair(lease_s=1.0)
        chief, companion = names.lease(topic, "g"), names.lease(beside, "g")
        take = Leases._take_companions

        def late(self: Leases, *how: Any) -> None:
            """Frozen between the renewal and the taking: another has the topic's partition meanwhile."""
            monkeypatch.undo()
            stage.server.call("SET", chief, b"another|1", "PX", 1500)
            take(self, *how)

        stage = self
        self.server.call("DEL", companion)
        monkeypatch.setattr(Leases, "_take_companions", late)
        reader.until(lambda: len(reader.seen(Lost)) == 2, "both lost")
        assert len(reader.seen(Assigned)) == 2
        assert self.server.call("EXISTS", companion) == 0, "it follows the other owner's partition"
        reader.until(lambda: len(reader.owned) == 2, "both taken again when the other is gone")

    def test_a_companion_is_taken_up_within_two_seconds_whatever_the_lease(self) -> None:
        topic = self.topic()
        beside = f"{topic}.g.retry"
        reader = self.subscribe(topic, beside, lease_s=60.0).joined(1)
        self.admin.ensure_topic(beside, 1)
        self.admin.ensure_group(beside, "g")
        began = time.monotonic()
        reader.until(lambda: len(reader.owned) == 2, "taken up")
        assert time.monotonic() - began < 2.0

    def test_the_topics_lease_is_kept_until_the_companion_is_handed_back(self) -> None:
        topic, beside, reader = self.pair()
        assert reader.answer(reader.send_settle(topic, final=True)).outcome == "stored"
        reader.poll(0.0)
        assert self.server.call("EXISTS", names.lease(topic, "g")) == 1
        reader.send_settle(beside, final=True)
        reader.until(lambda: len(reader.seen(Settled)) == 2, "the answer")
        reader.poll(0.0)
        assert self.server.call("EXISTS", names.lease(topic, "g"), names.lease(beside, "g")) == 0
        again = self.subscribe(topic.topic, beside.topic).joined(2)
        assert all(assigned.clean for assigned in again.owned.values())

    def test_a_killed_server_costs_neither(self) -> None:
        topic, beside, reader = self.pair()
        self.publish(beside.topic, [b"before"])
        reader.take(1)
        self.server.kill()
        self.server.start()
        reader.until(lambda: len(reader.seen(Assigned)) == 4, "both under new ownerships")
        reader.read.clear()
        self.publish(topic.topic, [b"new"])
        assert sorted(values(reader.take(2))) == [b"before", b"new"]

    def test_a_flushed_server_costs_neither(self) -> None:
        _, beside, reader = self.pair(lease_s=1.0)
        self.server.call("FLUSHALL")
        reader.until(lambda: len(reader.seen(Assigned)) == 4, "both made again")
        self.publish(beside.topic, [b"after"])
        assert values(reader.take(1)) == [b"after"]
