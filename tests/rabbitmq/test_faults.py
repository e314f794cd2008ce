"""What a server, a connection or a neighbour can do to a consumer and a producer that run."""

from __future__ import annotations

import os
import threading
import time

import pytest
from mqsdk_rabbitmq import names, slot
from mqsdk_rabbitmq.browse import browse

from mqsdk.spi import Assigned, Flow, Gap, Link, Lost, Outcome, Partition, Rejected, Revoking, StateError, Stored, Unknown, UnsafeBackend
from mqsdk.testing.conformance.base import numbered
from mqsdk.testing.conformance.reader import Answers, values
from tests.rabbitmq.stage import RabbitStage, cut


class TestServer(RabbitStage):
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
        self.publish(topic, [b"warm"])
        answers = Answers(self.timeout_s)
        producer = self.backend.producer(answers)
        batches = [[self.record(topic, b"%d" % (100 * batch + number)) for number in range(100)] for batch in range(40)]
        for number, batch in enumerate(batches):
            if number == 20:
                self.server.kill()
            producer.publish(batch, self.deadline())
        self.server.start()
        outcomes: dict[bytes, Outcome] = {}
        for batch in batches:
            outcomes |= dict(zip([record.value for record in batch], answers.of([record.token for record in batch]), strict=True))
        self.publish(topic, [b"last"])
        reader = self.join(topic)
        reader.until(lambda: b"last" in [record.value for _, record in reader.read], "the last record")
        found = [record.value for _, record in reader.read]
        assert len(found) == len(set(found))
        assert {value for value, outcome in outcomes.items() if isinstance(outcome, Stored)} <= set(found)
        assert not {value for value, outcome in outcomes.items() if isinstance(outcome, Rejected)} & set(found)
        assert any(isinstance(outcome, Stored) for outcome in outcomes.values())

    def test_a_publish_to_a_frozen_server_is_unknown_by_its_deadline(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"warm"])
        answers = Answers(self.timeout_s)
        producer = self.backend.producer(answers)
        record = self.record(topic, b"doubtful")
        self.server.freeze()
        began = time.monotonic()
        try:
            producer.publish([record], self.deadline(0.3))
            assert isinstance(answers.of([record.token])[0], Unknown)
            took = time.monotonic() - began
        finally:
            self.server.thaw()
        assert 0.25 < took < 2.0
        self.publish(topic, [b"next"])
        assert values(self.join(topic).take(3)) == [b"warm", b"doubtful", b"next"]

    def test_a_full_window_blocks_no_longer_than_the_deadline_and_is_never_sent(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"warm"])
        answers = Answers(self.timeout_s)
        producer = self.backend.producer(answers)
        value = bytes(1 << 20)
        records = [self.record(topic, value) for _ in range(40)]
        self.server.freeze()
        began = time.monotonic()
        try:
            producer.publish(records, self.deadline(0.5))
            assert time.monotonic() - began < 2.0
            outcomes = answers.of([record.token for record in records])
        finally:
            self.server.thaw()
        assert isinstance(outcomes[0], Unknown)
        last = outcomes[-1]
        assert isinstance(last, Rejected)
        assert (last.code, last.retryable) == ("throttled", True)

    def test_a_close_ends_by_its_deadline_while_the_server_is_frozen(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"1"])
        reader = self.join(topic, backend=self.connect())
        reader.take(1)
        self.server.freeze()
        try:
            began = time.monotonic()
            reader.consumer.close(self.deadline(0.3))
            assert time.monotonic() - began < 2.0
        finally:
            self.server.thaw()
        assert values(self.join(topic).take(1)) == [b"1"]

    def test_a_server_that_is_short_of_memory_stops_publishers_and_not_consumers(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(50))
        reader = self.join(topic)
        reader.take(50)
        answers = Answers(self.timeout_s)
        producer = self.backend.producer(answers)
        self.server.ctl("set_vm_memory_high_watermark", "0.00001")
        try:
            first = self.record(topic, b"into the alarm")
            producer.publish([first], self.deadline(1.0))
            assert isinstance(answers.of([first.token])[0], Unknown)
            assert Flow(True, "the server's memory or disk is short") in answers.events
            second = self.record(topic, b"never sent")
            producer.publish([second], self.deadline(0.2))
            outcome = answers.of([second.token])[0]
            assert isinstance(outcome, Rejected)
            assert (outcome.code, outcome.retryable) == ("full", True)
            reader.settle_all()
        finally:
            self.server.ctl("set_vm_memory_high_watermark", "0.4")
        self.publish(topic, [b"again"])
        assert values(reader.take(2)) == [b"into the alarm", b"again"]
        assert [event.blocked for event in answers.events if isinstance(event, Flow)] == [True, False]

    def test_a_delivery_held_past_consumer_timeout_comes_again_under_a_new_epoch(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"slow"])
        times = "application:set_env(rabbit, consumer_timeout, {0}), application:set_env(rabbit, channel_tick_interval, {1})."
        self.server.ctl("eval", times.format(200, 200))
        try:
            reader = self.join(topic)
            reader.take(1)
            reader.until(lambda: len(reader.seen(Assigned)) == 2, "a new ownership")
            assert values(reader.take(1)) == [b"slow"]
            assert reader.seen(Lost)
        finally:
            self.server.ctl("eval", times.format(1_800_000, 60_000))


class TestConnections(RabbitStage):
    def test_cut_connections_neither_skip_nor_reorder(self) -> None:
        topic = self.topic()
        sent = numbered(600)
        reader = self.join(topic, max_records=50)
        (partition,) = reader.owned
        got: list[bytes] = []
        for start in range(0, 600, 100):
            self.publish(topic, sent[start : start + 100])
            epochs = len(reader.seen(Assigned))
            fresh = reader.take(40)
            got += values(fresh)
            reader.answer(reader.send_settle(partition, fresh[-1].position + 1))
            cut(reader)
            reader.until(lambda epochs=epochs: len(reader.seen(Assigned)) == epochs + 1, "a new ownership")  # type: ignore[misc]
            # Read and not settled before the cut: it comes again.
            reader.read = [(where, record) for where, record in reader.read if record.redelivered or record.value not in got]
            reader.read.clear()
            reader.until(lambda: bool(reader.read), "deliveries again")
            first = int(reader.read[0][1].value[1:])
            assert first <= len(got)
            got = got[:first]
        got += values(reader.take(600 - len(got)))
        assert got == sent

    def test_a_consumer_that_is_cut_hands_over_and_gets_back(self) -> None:
        topic = self.topic(2)
        first = self.join(topic, 2)
        second = self.subscribe(topic, backend=self.connect())
        self.until([first, second], lambda: len(first.owned) == 1 == len(second.owned), "one each")
        for _ in range(3):
            lost = len(second.seen(Lost))
            cut(second)
            self.until([first, second], lambda lost=lost: len(second.seen(Lost)) > lost, "the loss")
            self.until([first, second], lambda: len(first.owned) == 1 == len(second.owned), "one each again")
        assert set(first.owned) | set(second.owned) == {Partition(topic, 0), Partition(topic, 1)}

    def test_the_settles_of_a_cut_connection_are_stale(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"1"])
        reader = self.join(topic)
        end = reader.take(1)[0].position + 1
        ((partition, assigned),) = reader.owned.items()
        cut(reader)
        reader.until(lambda: bool(reader.seen(Lost)), "the loss")
        assert reader.answer(reader.send_settle(partition, end, epoch=assigned.epoch)).outcome == "stale"
        assert values(reader.take(1)) == [b"1"]

    def test_a_publisher_that_is_cut_answers_and_goes_on(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"warm"])
        publisher = self.backend._publisher
        assert publisher is not None
        answers = Answers(self.timeout_s)
        producer = self.backend.producer(answers)
        records = [self.record(topic, b"%d" % number) for number in range(3000)]
        producer.publish(records[:1500], self.deadline())
        publisher._loop.call(lambda: publisher._wire.cut(ConnectionError("cut by the test")))
        producer.publish(records[1500:], self.deadline())
        outcomes = answers.of([record.token for record in records])
        assert answers.answered() == 3000
        stored = [record.value for record, outcome in zip(records, outcomes, strict=True) if isinstance(outcome, Stored)]
        refused = {record.value for record, outcome in zip(records, outcomes, strict=True) if isinstance(outcome, Rejected)}
        self.publish(topic, [b"last"])
        reader = self.join(topic)
        reader.until(lambda: b"last" in [record.value for _, record in reader.read], "the last record")
        found = [record.value for _, record in reader.read]
        assert [value for value in found if value in set(stored)] == stored
        assert not refused & set(found)

    def test_a_forked_child_is_refused_and_its_parent_goes_on(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"1"])
        reader = self.join(topic)
        reader.take(1)
        producer = self.backend.producer(Answers(self.timeout_s))
        child = os.fork()
        if child == 0:
            states = []
            for call in (
                lambda: reader.consumer.poll(1, 0.0),
                lambda: producer.publish([self.record(topic)], self.deadline(0.1)),
                lambda: self.backend.admin(),
            ):
                try:
                    call()
                except StateError as error:
                    states.append(error.state)
            os._exit(0 if states == ["stale"] * 3 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        self.publish(topic, [b"2"])
        assert values(reader.take(1)) == [b"2"]
        reader.settle_all()


class TestLag(RabbitStage):
    def test_what_other_processes_hold_is_counted(self) -> None:
        topic = self.topic(2)
        self.publish(topic, numbered(10), partition=0)
        self.publish(topic, numbered(7), partition=1)
        holder = self.join(topic, 2, backend=self.connect(), credit=(3, 1 << 20))
        holder.until(lambda: len(holder.read) == 6, "three of each")
        assert [item.messages for item in self.admin.progress(topic, "g")] == [10, 7]
        zero = Partition(topic, 0)
        holder.answer(holder.send_settle(zero, 3))
        assert [item.messages for item in self.admin.progress(topic, "g")] == [8, 7]


class TestDeadLetters(RabbitStage):
    def test_they_are_kept_without_a_reader_and_looking_leaves_them_in_order(self) -> None:
        name = self.topic() + ".g.dlq"
        self.admin.ensure_topic(name, 1)
        self.publish(name, numbered(50))
        for _ in range(30):
            assert values(self.admin.read(name, 0, 10, 5)) == numbered(50)[10:15]
        assert self.admin.bounds(name, 0) == (0, 50)
        assert [record.position for record in self.admin.read(name, 0, 48, 100)] == [48, 49]
        assert values(self.join(name, group="kept").take(50)) == numbered(50)

    def test_what_was_looked_at_is_back_when_the_look_is_over(self) -> None:
        """Else the next look, which counts first, misses some."""
        name = self.topic() + ".g.dlq"
        self.admin.ensure_topic(name, 1)
        self.publish(name, numbered(5000))
        dialer = self.backend._dialer
        assert dialer is not None
        with dialer.session(self.deadline()) as session:
            for _ in range(3):
                assert len(browse(session, Partition(name, 0), "kept", 0, 5000)) == 5000

    def test_what_holds_the_letters_is_named_to_who_looks(self) -> None:
        name = self.topic() + ".g.dlq"
        self.admin.ensure_topic(name, 1)
        assert self.admin.read(name, 0, 0, 10) == []
        assert [info.group for info in self.admin.groups(name)] == ["kept"]


class TestTopology(RabbitStage):
    def test_a_queue_that_is_deleted_under_its_consumer_is_a_gap(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(3))
        reader = self.join(topic, credit=(1, 1 << 20))
        reader.take(1)
        with self.server.channel() as channel:
            channel.queue_delete(names.queue(Partition(topic, 0), "g"))
        reader.until(lambda: bool(reader.seen(Gap)), "the gap")
        assert [type(event).__name__ for event in reader.events if isinstance(event, Lost | Assigned | Gap)] == [
            "Assigned",
            "Lost",
            "Assigned",
            "Gap",
        ]
        self.publish(topic, [b"after"])
        assert values(reader.take(1)) == [b"after"]

    def test_a_queue_that_is_gone_when_a_consumer_comes_is_a_gap(self) -> None:
        topic = self.topic(2)
        self.publish(topic, numbered(3))
        with self.server.channel() as channel:
            channel.queue_delete(names.queue(Partition(topic, 0), "g"))
        reader = self.join(topic, 2)
        reader.until(lambda: bool(reader.seen(Gap)), "the gap")
        assert [event.partition.number for event in reader.events if isinstance(event, Gap)] == [0]
        reader.close()
        again = self.join(topic, 2)
        again.quiet()
        assert not again.gaps()

    def test_a_queue_with_other_arguments_is_refused_by_name(self) -> None:
        topic = self.topic(groups=())
        queue = names.queue(Partition(topic, 0), "g")
        with self.server.channel() as channel:
            channel.queue_declare(queue, durable=True)  # no single active consumer: two owners at once
        with pytest.raises(UnsafeBackend) as refused:
            self.admin.ensure_group(topic, "g")
        assert refused.value.finding == "queue_arguments"
        assert queue in refused.value.what

    def test_queues_of_the_other_type_are_taken_as_they_are(self) -> None:
        topic = self.topic()
        other = self.make_backend(queues="classic")
        self._backends.append(other)
        other.open(self.deadline())
        self.publish(topic, [b"1"])
        assert values(self.join(topic, backend=other).take(1)) == [b"1"]

    def test_a_lost_token_is_made_again_and_epochs_rise(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
        ((partition, before),) = reader.owned.items()
        with self.server.channel() as channel:
            channel.queue_delete(names.owner(partition, "g"))
        reader.until(lambda: len(reader.seen(Assigned)) == 2, "a new ownership")
        assert reader.owned[partition].epoch > before.epoch
        assert not reader.gaps()

    def test_further_tokens_make_no_second_owner(self) -> None:
        topic = self.topic()
        with self.server.channel() as channel:
            for _ in range(5):
                channel.basic_publish("", names.owner(Partition(topic, 0), "g"), b'{"epoch": 0, "clean": true, "nonce": "", "gap": false}')
            channel.basic_publish("", names.owner(Partition(topic, 0), "g"), b"not a token")
        first, second = self.join(topic), self.subscribe(topic, backend=self.connect())
        second.quiet()
        assert not second.owned
        first.close()
        self.until([second], lambda: len(second.owned) == 1, "the partition at the second")

    def test_a_topic_that_is_deleted_while_it_is_published_to_is_refused_in_the_end(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"1"])
        self.admin.delete_topic(topic)
        doubtful = self.outcomes([self.record(topic)])[0]
        assert isinstance(doubtful, Unknown | Rejected)
        refused = self.outcomes([self.record(topic)])[0]
        assert isinstance(refused, Rejected)
        assert refused.code == "no_route"
        other = self.topic()
        self.publish(other, [b"others go on"])

    def test_large_bodies_narrow_the_window_and_nothing_is_lost_or_reordered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(slot, "WINDOW_BYTES", 100_000)
        topic = self.topic()
        sent = [b"%04d" % number + bytes(10_000) for number in range(60)]
        self.publish(topic, sent)
        reader = self.join(topic, credit=(5, 1 << 20))
        got: list[bytes] = []
        held = 0
        deadline = time.monotonic() + self.timeout_s
        while len(got) < 60:
            assert time.monotonic() < deadline, f"{len(got)} of 60"
            reader.poll(0.05)
            got += [record.value for _, record in reader.read]
            reader.read.clear()
            for partition in list(reader.owned):
                if len(reader.seen(Assigned)) == 2:
                    held = max(held, reader.consumer._owned[partition].unsettled)  # type: ignore[attr-defined]
                reader.settle(partition, 1 << 40)
                reader.consumer.credit(partition, 5, 1 << 20)
        assert got == sent
        assert len(reader.seen(Revoking)) == 1
        assert 0 < held <= 10

    def test_unsettled_deliveries_of_a_killed_consumer_come_in_order(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(200))
        doomed = self.connect()
        first = self.join(topic, backend=doomed)
        head = first.take(200)[:37]
        (partition,) = first.owned
        first.answer(first.send_settle(partition, head[-1].position + 1))
        second = self.subscribe(topic, backend=self.connect())
        second.poll(0.2)
        threading.Thread(target=doomed.crash).start()  # type: ignore[attr-defined]
        assert values(second.take(163)) == numbered(200)[37:]
