"""What a server, a connection or a neighbour can do to a consumer and a producer that run."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from mqsdk_redis import names
from mqsdk_redis.backend import RedisBackend

from mqsdk import App, PublishRejected
from mqsdk.events import FlowChanged
from mqsdk.spi import Assigned, Batch, Flow, Gap, Link, Lost, Outcome, Partition, Rejected, Revoking, StateError, Stored, Unknown
from mqsdk.testing.conformance.base import numbered
from mqsdk.testing.conformance.reader import Answers, values
from tests.redis.stage import RedisStage


class TestServer(RedisStage):
    def test_a_killed_server_loses_nothing_and_everybody_goes_on(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(5))
        reader = self.join(topic)
        first = reader.take(3)
        ((partition, before),) = reader.owned.items()
        reader.answer(reader.send_settle(partition, first[-1].position + 1))
        self.server.kill()
        reader.until(lambda: bool(reader.seen(Link)), "the news that the link is down")
        self.server.start()
        reader.until(lambda: len(reader.seen(Assigned)) == 2, "a new ownership")
        assert [event.up for event in reader.events if isinstance(event, Link)] == [False, True]
        assert reader.owned[partition].epoch > before.epoch
        reader.read.clear()
        self.publish(topic, [b"after"])
        assert values(reader.take(3)) == [b"m3", b"m4", b"after"]
        assert not reader.gaps()

    def test_what_was_published_across_a_kill_is_stored_once_or_unknown(self) -> None:
        topic = self.topic()
        killed = threading.Event()

        def kill() -> None:
            self.server.kill()
            killed.set()
            self.server.start()

        killer = threading.Thread(target=kill)
        outcomes: dict[bytes, Outcome] = {}
        number = 0
        while number < 50 or not killed.is_set() or not isinstance(outcomes[b"%d" % (number - 1)], Stored):
            if number == 20:
                killer.start()
            outcomes[b"%d" % number] = self.outcomes([self.record(topic, b"%d" % number)])[0]
            number += 1
        killer.join(self.timeout_s)
        found = values(self.admin.read(topic, 0, 0, 100_000))
        assert len(found) == len(set(found))
        assert {value for value, outcome in outcomes.items() if isinstance(outcome, Stored)} <= set(found)
        assert not {value for value, outcome in outcomes.items() if isinstance(outcome, Rejected)} & set(found)

    def test_a_publish_to_a_frozen_server_is_unknown_by_its_deadline_and_stored_once(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"warm"])
        answers = Answers(self.timeout_s)
        producer = self.backend.producer(answers)
        record = self.record(topic, b"doubtful")
        self.server.freeze()
        began = time.monotonic()
        producer.publish([record], self.deadline(0.3))
        took = time.monotonic() - began
        self.server.thaw()
        assert isinstance(answers.of([record.token])[0], Unknown)
        assert took < 2.0
        self.publish(topic, [b"next"])
        assert values(self.admin.read(topic, 0, 0, 10)) == [b"warm", b"doubtful", b"next"]

    def test_a_close_ends_by_its_deadline_while_a_poll_waits_for_a_frozen_server(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"1"])
        reader = self.join(topic)
        reader.take(1)
        (partition,) = reader.owned
        reader.send_settle(partition, final=True)
        self.server.freeze()
        polling = threading.Event()

        def poll() -> None:
            polling.set()
            reader.consumer.poll(10, 30.0)

        thread = threading.Thread(target=poll)
        thread.start()
        polling.wait(self.timeout_s)
        began = time.monotonic()
        reader.consumer.close(self.deadline(0.3))
        assert time.monotonic() - began < 2.0
        thread.join(3.0)  # less than the 5 s after which the poll gives up by itself
        assert not thread.is_alive()
        self.server.thaw()

    def test_a_consumer_without_a_server_sleeps_and_its_settle_is_answered_in_the_end(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(2))
        reader = self.join(topic)
        reader.take(2)
        self.server.kill()
        reader.until(lambda: bool(reader.seen(Link)), "the news that the link is down")
        (partition,) = reader.owned
        token = reader.send_settle(partition, 1)
        began, used = time.monotonic(), time.thread_time()
        while time.monotonic() - began < 0.6:
            reader.poll(0.6)
        assert time.thread_time() - used < 0.3
        self.server.start()
        assert reader.answer(token).outcome == "stale"  # the lease was given up with the server: what it settled runs again
        assert values(reader.take(2)) == numbered(2)

    def test_a_flush_is_a_gap_and_everybody_goes_on(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(5))
        reader = self.join(topic, lease_s=self.short_lease_s)
        last = reader.take(5)[-1].position
        self.server.call("FLUSHALL")
        reader.until(lambda: len(reader.seen(Assigned)) == 2 and bool(reader.seen(Gap)), "a new ownership and a gap")
        ((start, stop),) = reader.gaps()
        (gap,) = [event for event in reader.events if isinstance(event, Gap)]
        assert (start, gap.reason) == (last + 1, "truncated")
        self.publish(topic, [b"after"])
        (record,) = reader.take(1)
        assert (record.value, record.position >= stop) == (b"after", True)

    def test_scripts_that_the_server_has_forgotten_are_loaded_again(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
        self.server.call("SCRIPT", "FLUSH")
        self.publish(topic, numbered(3))
        assert values(reader.take(3)) == numbered(3)
        reader.settle_all()
        assert self.pending(topic) == 0

    def test_without_memory_publishing_is_refused_and_a_new_owner_drains(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(20))
        self.server.call("CONFIG", "SET", "maxmemory", 1)
        (refused,) = self.outcomes([self.record(topic)])
        assert isinstance(refused, Rejected)
        assert (refused.code, refused.retryable) == ("full", True)
        reader = self.join(topic)
        assert values(reader.take(20)) == numbered(20)
        reader.settle_all(final=True)
        assert self.pending(topic) == 0

    def test_publishers_are_told_when_memory_is_full_and_when_there_is_room_again(self) -> None:
        topic = self.topic()
        answers = Answers(self.timeout_s)
        producer = self.backend.producer(answers)

        def publish() -> Outcome:
            record = self.record(topic)
            producer.publish([record], self.deadline())
            return answers.of([record.token])[0]

        assert isinstance(publish(), Stored)
        self.server.call("CONFIG", "SET", "maxmemory", 1)
        assert [type(publish()) for _ in range(3)] == [Rejected] * 3
        self.server.call("CONFIG", "SET", "maxmemory", 0)
        assert [type(publish()) for _ in range(3)] == [Stored] * 3
        assert [event for event in answers.events if isinstance(event, Flow)] == [Flow(True, "the server's memory is full"), Flow(False)]

    def test_an_app_whose_server_is_full_says_so_in_events_and_health_and_when_it_has_room_again(self, tmp_path: Path) -> None:
        config = tmp_path / "mqsdk.yaml"
        config.write_text(FULL_CONFIG.format(address=self.server.address))
        seen: list[FlowChanged] = []
        with App(config=config) as app:
            app.observe(lambda event: seen.append(event) if isinstance(event, FlowChanged) else None)
            app.publish("full", b"1")
            self.server.call("CONFIG", "SET", "maxmemory", 1)
            with pytest.raises(PublishRejected) as caught:
                app.publish("full", b"2", timeout=0.5)
            assert (caught.value.code, caught.value.retryable) == ("full", True)
            assert "cluster main takes no publishes: the server's memory is full" in app.health().problems
            self.server.call("CONFIG", "SET", "maxmemory", 0)
            app.publish("full", b"3")
            assert not any("publishes" in problem for problem in app.health().problems)
        assert seen == [FlowChanged("main", True, "the server's memory is full"), FlowChanged("main", False, "")]


FULL_CONFIG = """
version: 1
app: shop
clusters: {{main: {{backend: redis, servers: ["{address}"]}}}}
routes: [{{topics: ["*"], cluster: main}}]
topics: {{"*": {{partitions: 1, groups: [g]}}}}
"""


class TestLostTail(RedisStage):
    fsync = "always"

    def test_a_server_that_comes_back_without_its_newest_entries_is_a_gap(self, tmp_path: Path) -> None:
        topic = self.topic()
        self.publish(topic, numbered(4))
        saved = tmp_path / "saved"
        shutil.copytree(tmp_path / "appendonlydir", saved)
        self.publish(topic, [b"lost"] * 3)
        reader = self.join(topic)
        reader.take(4)
        last = reader.take(3)[-1].position
        self.server.kill()
        shutil.rmtree(tmp_path / "appendonlydir")
        shutil.copytree(saved, tmp_path / "appendonlydir")
        self.server.start()
        reader.until(lambda: len(reader.seen(Assigned)) == 2, "a new ownership")
        self.publish(topic, [b"after"])
        records = reader.take(5)
        assert values(records) == [*numbered(4), b"after"]
        ((start, stop),) = reader.gaps()
        assert start == last - 2
        assert records[-1].position >= stop > last


class TestConnection(RedisStage):
    def test_killed_connections_neither_skip_nor_repeat_nor_reorder(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
        sent = numbered(200)
        got: list[bytes] = []
        for start in range(0, 200, 10):
            self.publish(topic, sent[start : start + 10])
            if start % 40 == 0:
                self.server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            got += values(reader.take(10))
        assert got == sent
        assert not reader.seen(Lost)
        reader.settle_all()
        assert self.pending(topic) == 0

    def test_what_a_read_took_before_its_answer_was_lost_comes_first(self) -> None:
        """The server has moved entries into the pending list, the consumer never saw them."""
        topic = self.topic()
        reader = self.join(topic)
        self.publish(topic, numbered(3))
        reader.take(1)
        self.publish(topic, [b"taken"])
        with self.server.client() as other:
            other.xreadgroup("g", "o", {self.stream(topic): ">"})
        self.server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        self.publish(topic, [b"newer"])
        assert values(reader.take(4)) == [b"m1", b"m2", b"taken", b"newer"]
        assert not reader.gaps()

    def test_a_forked_child_is_refused_and_the_parent_goes_on(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
        gone = self.connect()
        assert isinstance(gone, RedisBackend)
        self.join(topic, 0, backend=gone)
        gone.vanish()  # a copy that was given up before is not given up again, and keeps no other one from it
        producer = self.backend.producer(Answers(self.timeout_s))
        child = os.fork()
        if child == 0:
            refused = 0
            for call in (lambda: reader.consumer.poll(1, 0.0), lambda: producer.publish([self.record(topic)], self.deadline())):
                try:
                    call()
                except StateError as error:
                    refused += error.state == "stale"
            os._exit(0 if refused == 2 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        self.publish(topic, [b"parent"])
        assert values(reader.take(1)) == [b"parent"]


class TestNeighbours(RedisStage):
    def test_a_read_of_one_who_is_not_the_owner_takes_nothing(self) -> None:
        """Between two renewals the lease has become another's: the next read finds out, before it takes an entry."""
        topic = self.topic()
        reader = self.join(topic)
        (partition,) = reader.owned
        self.server.call("DEL", names.lease(partition, "g"))
        assert self.acquired(partition, b"somebody") == [b"got"]
        self.publish(topic, [b"for the new owner"])
        reader.until(lambda: bool(reader.seen(Lost)), "the news that it is not the owner")
        assert not reader.read
        assert self.pending(topic) == 0

    def test_who_was_counted_as_gone_when_a_group_was_reset_reads_nothing_under_its_old_ownership(self) -> None:
        topic = self.topic()
        first = self.publish(topic, numbered(2))[0]
        assert first is not None
        frozen = self.join(topic, lease_s=60.0)
        frozen.take(2)
        self.server.call("DEL", names.members(topic, "g")[0])  # frozen for a minute
        self.admin.reset(topic, "g", {0: first})
        frozen.until(lambda: bool(frozen.seen(Lost)), "the news that its ownership is over")
        assert self.pending(topic) == 0
        frozen.close()
        assert values(self.subscribe(topic).take(2)) == numbered(2)

    def test_an_owner_that_shows_life_reads_on_past_its_first_lease(self) -> None:
        topic = self.topic()
        reader = self.join(topic, lease_s=0.5)
        past = time.monotonic() + 3 * 0.5
        while time.monotonic() < past:
            reader.poll(0.05)
        self.publish(topic, [b"after three leases"])
        assert values(reader.take(1)) == [b"after three leases"]
        assert not reader.seen(Lost)

    def test_an_owner_is_told_up_to_where_another_may_have_read(self) -> None:
        topic = self.topic()
        ends = []
        for value in b"one", b"two":
            reader = self.join(topic)
            ((_, assigned),) = reader.owned.items()
            ends.append(assigned.end)
            reader.close()
            (position,) = self.publish(topic, [value])
            assert position is not None
            ends.append(position + 1)
        ((_, assigned),) = self.join(topic).owned.items()
        assert ends == [ends[0], ends[1], ends[1], assigned.end]

    def test_a_partition_is_given_to_one_of_two_who_ask_at_once(self) -> None:
        assert self.acquired(Partition(self.topic(), 0), b"a", b"b", b"a") == [b"got", b"held", b"held"]

    def acquired(self, partition: Partition, *members: bytes) -> list[bytes]:
        """What each of them is told who asks for the partition."""
        client = self.backend._client
        assert client is not None
        lease, ownership = names.lease(partition, "g"), names.ownership(partition, "g")
        keys = (names.stream(partition), lease, ownership, names.fences(partition, "g"))
        return [reply[0] for reply in client.call([client.scripts.acquire.call(keys, each, "g", 10_000, b"0-0") for each in members])]

    def test_an_owner_frozen_past_its_lease_reads_and_settles_nothing(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(2))
        frozen = self.join(topic, lease_s=0.5)
        ((partition, assigned),) = frozen.owned.items()
        frozen.take(2)
        taker = self.subscribe(topic, backend=self.connect(), lease_s=0.5)
        assert values(taker.take(2)) == numbered(2)
        self.publish(topic, numbered(20)[2:])
        frozen.send_settle(partition, 1 << 60, epoch=assigned.epoch)
        frozen.until(lambda: bool(frozen.seen(Lost)), "the news that it lost its partition")
        frozen.close()  # else it is a member again, and has its share
        assert values(taker.take(18)) == numbered(20)[2:]
        assert not frozen.read
        taker.settle_all()
        assert self.pending(topic) == 0

    def test_a_pending_entry_that_somebody_trimmed_is_a_gap_and_leaves_the_pending_list(self) -> None:
        topic = self.topic()
        first = self.publish(topic, numbered(5))[0]
        assert first is not None
        before = self.join(topic)
        before.take(4)
        before.close()
        self.server.call("XTRIM", self.stream(topic), "MINID", f"0-{first + 2}")
        after = self.join(topic)
        assert values(after.take(3)) == numbered(5)[2:]
        assert after.gaps() == [(first, first + 2)]
        after.settle_all()
        assert self.pending(topic) == 0

    def test_a_revoked_owner_that_does_not_answer_loses_the_partition_in_the_end(self) -> None:
        topic = self.topic(2)
        deaf = self.join(topic, 2, lease_s=0.6, answers_revoking=False)
        other = self.subscribe(topic, backend=self.connect(), lease_s=0.6)
        self.until([deaf, other], lambda: len(other.owned) == 1, "the partition at the other")
        assert len(deaf.owned) == 1
        assert len(deaf.seen(Lost)) == 1

    def test_what_is_asked_back_is_taken_in_time_whatever_the_lease(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mqsdk_redis.seat.HANDOVER_LEASES", 0.002)
        topic = self.topic(2)
        deaf = self.join(topic, 2, lease_s=300.0, answers_revoking=False)
        other = self.subscribe(topic, backend=self.connect(), lease_s=300.0)
        self.until([deaf, other], lambda: bool(deaf.seen(Revoking)), "asked back")
        self.until([deaf, other], lambda: bool(deaf.seen(Lost)), "taken")
        self.until([deaf, other], lambda: len(other.owned) == 1, "the partition at the other")

    def test_settled_entries_are_removed_and_unsettled_ones_are_kept(self) -> None:
        topic = self.topic()
        positions = self.publish(topic, numbered(250))
        backend = self.make_backend(keep=0)
        self._backends.append(backend)
        backend.open(self.deadline())
        reader = self.join(topic, backend=backend, lease_s=0.3)
        partition = next(iter(reader.owned))
        reader.take(250)
        assert positions[210] is not None
        reader.answer(reader.send_settle(partition, positions[210]))
        reader.until(lambda: self.admin.bounds(topic, 0)[0] == positions[210], "what is settled is removed")
        assert [item.messages for item in self.admin.progress(topic, "g")] == [40]
        late = self.join(topic, group="late")
        assert values(late.take(40)) == numbered(250)[210:]
        assert not late.gaps()

    @pytest.mark.parametrize("id", ["id-1", "of two words"])
    def test_what_is_kept_counts_from_the_publish_however_its_headers_are_written(self, id: str) -> None:
        topic = self.topic()
        positions = self.store([self.record(topic, id=id, timestamp_ms=ms) for ms in (1000, 2000, 3000, 1000)])
        reader = self.join(topic)
        reader.take(4)
        reader.settle_all()
        client = self.backend._client
        assert client is not None
        keys = (self.stream(topic), *names.instances(Partition(topic, 0)))
        assert client.call([client.scripts.trim.call(keys, 2500)]) == [2]
        assert self.admin.bounds(topic, 0)[0] == positions[2]

    def test_a_second_group_holds_back_the_removal(self) -> None:
        topic = self.topic(groups=("g", "slow"))
        self.publish(topic, numbered(3))
        backend = self.make_backend(keep=0)
        self._backends.append(backend)
        backend.open(self.deadline())
        reader = self.join(topic, backend=backend, lease_s=0.3)
        reader.take(3)
        reader.settle_all()
        end = time.monotonic() + 1.5
        reader.until(lambda: time.monotonic() > end, "more than one turn of the removal")
        assert values(self.join(topic, group="slow").take(3)) == numbered(3)


class TestForeign(RedisStage):
    def test_ids_of_the_clock_and_counted_ids_mix_in_order(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"ours 1", b"ours 2"])
        self.server.call("XADD", self.stream(topic), "*", "body", "theirs", "key", "k")
        stored = self.publish(topic, [b"ours 3"])
        self.server.call("XADD", self.stream(topic), "*", "only", "lone field")
        reader = self.join(topic)
        records = reader.take(5)
        assert values(records) == [b"ours 1", b"ours 2", b"theirs", b"ours 3", b"lone field"]
        assert [record.key for record in records] == [None, None, b"k", None, None]
        assert [record.position for record in records] == sorted({record.position for record in records})
        assert records[3].position == stored[0] == records[2].position + 1
        assert records[2].timestamp_ms is not None
        assert abs(records[2].timestamp_ms - time.time() * 1000) < 60_000
        assert not reader.gaps()
        assert [item.messages for item in self.admin.progress(topic, "g")] == [5]
        reader.settle_all()
        assert self.pending(topic) == 0

    def test_the_id_of_an_entry_is_shown(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"ours"])
        foreign = self.server.call("XADD", self.stream(topic), "*", "body", "theirs")
        assert isinstance(foreign, bytes)
        assert [record.ref for record in self.admin.read(topic, 0, 0, 10)] == ["1", foreign.decode()]

    @pytest.mark.parametrize("lost", [0, 1, 3])
    def test_a_loss_is_seen_where_the_numbers_jump_to_the_clock(self, lost: int) -> None:
        topic = self.topic()
        self.publish(topic, numbered(3))
        reader = self.join(topic, credit=(0, 0))
        first = self.server.call("XADD", self.stream(topic), "*", "body", "theirs")
        assert isinstance(first, bytes)
        if lost:
            self.server.call("XTRIM", self.stream(topic), "MINID", first if lost == 3 else f"0-{lost + 1}")
        (partition,) = reader.owned
        reader.consumer.credit(partition, 100, 1 << 20)
        assert values(reader.take(4 - lost)) == [*numbered(3)[lost:], b"theirs"]
        assert bool(reader.gaps()) == bool(lost)

    def test_settled_entries_gone_before_a_foreign_one_are_no_gap(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(3))
        reader = self.join(topic)
        reader.take(3)
        reader.settle_all()
        self.server.call("XTRIM", self.stream(topic), "MAXLEN", 0)
        self.server.call("XADD", self.stream(topic), "*", "body", "theirs")
        assert values(reader.take(1)) == [b"theirs"]
        assert not reader.gaps()

    def test_messages_are_read_by_others_as_they_are(self) -> None:
        topic = self.topic()
        self.store([self.record(topic, b"\x00payload\xff", b"key", headers=(("origin", "us"),))])
        with self.server.client() as plain:
            ((_, fields),) = plain.xrange(self.stream(topic))
        assert (fields[b"body"], fields[b"mq-key"], fields[b"origin"]) == (b"\x00payload\xff", b"key", b"us")


class TestMany(RedisStage):
    def test_a_large_backlog_comes_in_order_in_small_reads(self) -> None:
        topic = self.topic()
        sent = [b"%d" % number for number in range(5000)]
        self.publish(topic, sent)
        reader = self.join(topic, max_records=97)
        assert values(reader.take(5000)) == sent
        assert all(len(event.records) <= 97 for event in reader.events if isinstance(event, Batch))
        reader.settle_all()
        assert self.pending(topic) == 0

    def test_a_takeover_reads_a_long_pending_list_before_what_is_new(self) -> None:
        topic = self.topic()
        sent = [b"%d" % number for number in range(1500)]
        self.publish(topic, sent[:1200])
        first = self.join(topic)
        first.take(1200)
        first.close()
        self.publish(topic, sent[1200:])
        second = self.join(topic, credit=(10_000, 20_000))
        (partition,) = second.owned
        got: list[bytes] = []
        while len(got) < 1500:
            second.until(lambda: bool(second.read), "more records")
            got += values(second.take(len(second.read)))
            second.consumer.credit(partition, 10_000, 300)
        assert got == sent
