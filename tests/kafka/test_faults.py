"""What a broker, a connection or a neighbour can do to a consumer and a producer that run."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest
from kafka import TopicPartition
from kafka import errors as raw
from mqsdk_kafka.backend import KafkaBackend
from mqsdk_kafka.consumer import KafkaConsumer
from mqsdk_kafka.line import Line

from mqsdk.spi import (
    Assigned,
    BackendError,
    Batch,
    Consumer,
    Gap,
    Link,
    Lost,
    NewRecord,
    Outcome,
    Partition,
    Producer,
    Published,
    Rejected,
    Revoking,
    StateError,
    Stored,
    Unknown,
)
from mqsdk.testing.conformance.base import numbered
from mqsdk.testing.conformance.reader import Answers, values
from tests.kafka.stage import KafkaStage, cut_the_log


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def line_of(producer: Producer) -> Line:
    line = producer._line  # type: ignore[attr-defined]
    assert isinstance(line, Line)
    return line


class TestBroker(KafkaStage):
    def store_as_layer_2_does(self, record: NewRecord) -> None:
        """A broker that has just come up may refuse a connection on a busy machine: what was certainly not stored is tried again."""
        deadline = self.deadline()
        while not isinstance((outcome := self.outcomes([record])[0]), Stored):
            assert isinstance(outcome, Rejected)
            assert outcome.retryable
            assert time.monotonic() < deadline, outcome

    def test_a_killed_broker_loses_nothing_and_everybody_goes_on(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(5))
        reader = self.join(topic)
        first = reader.take(3)
        (partition,) = reader.owned
        reader.answer(reader.send_settle(partition, first[-1].position + 1))
        self.broker.kill()
        reader.until(lambda: bool(reader.seen(Link)), "the news that the link is down")
        self.broker.start()
        self.store_as_layer_2_does(self.record(topic, b"after"))
        # Whether its session outlived the broker or not: what was not settled is delivered, once per ownership.
        reader.until(lambda: b"after" in [record.value for _, record in reader.read], "the message after the restart")
        reader.until(lambda: len(reader.seen(Link)) == 2, "the news that the link is up")
        assert {b"m3", b"m4", b"after"} <= {record.value for _, record in reader.read} or len(reader.seen(Assigned)) == 1
        assert [event.up for event in reader.events if isinstance(event, Link)] == [False, True]
        reader.settle_all()
        assert self.committed(topic)[0] == 6
        assert not reader.gaps()

    def test_what_was_published_across_a_kill_is_stored_once_or_unknown(self) -> None:
        topic = self.topic()
        answers = Answers(self.timeout_s)
        producer = self.backend.producer(answers)
        killed = threading.Event()

        def kill() -> None:
            self.broker.kill()
            killed.set()
            self.broker.start()

        killer = threading.Thread(target=kill)
        outcomes: dict[bytes, Outcome] = {}
        number = 0
        while number < 200 or not killed.is_set() or not isinstance(outcomes[b"%d" % (number - 1)], Stored):
            if number == 50:
                killer.start()
            records = [self.record(topic, b"%d" % (number + step)) for step in range(5)]
            producer.publish(records, self.deadline(10.0))
            found = answers.of([record.token for record in records])
            outcomes |= {record.value: outcome for record, outcome in zip(records, found, strict=True)}
            number += 5
        killer.join(self.timeout_s)
        found_values = values(self.admin.read(topic, 0, 0, 100_000))
        assert len(found_values) == len(set(found_values))
        assert {value for value, outcome in outcomes.items() if isinstance(outcome, Stored)} <= set(found_values)
        assert not {value for value, outcome in outcomes.items() if isinstance(outcome, Rejected)} & set(found_values)
        assert found_values == sorted(found_values, key=int)

    def test_after_a_publish_that_the_broker_did_not_answer_the_next_one_works(self) -> None:
        """The client's producer might neither store nor fail anything of this partition any more: it has been replaced."""
        topic = self.topic()
        answers = Answers(self.timeout_s)
        producer = self.backend.producer(answers)
        warm = self.record(topic, b"warm")
        producer.publish([warm], self.deadline())
        answers.of([warm.token])
        doubtful, behind = self.record(topic, b"doubtful"), self.record(topic, b"behind")
        line = line_of(producer)
        self.broker.freeze()
        began = time.monotonic()
        try:
            producer.publish([doubtful], self.deadline(1.5))  # long enough to be sent on a busy machine
            wait_until(lambda: any(line._raw._sender._in_flight_batches.values()), self.timeout_s)
            producer.publish([behind], self.deadline(15.0))
            first, second = answers.of([doubtful.token, behind.token])
        finally:
            self.broker.thaw()
        assert time.monotonic() - began < 4.5
        assert isinstance(first, Unknown)
        assert isinstance(second, Rejected)  # nothing newer passes it, and this one never left
        assert second.retryable
        following = self.record(topic, b"next")
        producer.publish([following], self.deadline())
        assert isinstance(answers.of([following.token])[0], Stored)
        stored = values(self.admin.read(topic, 0, 0, 10))
        assert stored[0] == b"warm"
        assert stored[-1] == b"next"
        assert b"behind" not in stored
        wait_until(lambda: not line._raw._sender.is_alive(), self.timeout_s)

    def test_other_partitions_than_the_doubtful_one_go_on(self) -> None:
        topic = self.topic(2)
        answers = Answers(self.timeout_s)
        producer = self.backend.producer(answers)
        warm = [self.record(topic, b"warm", partition=number) for number in range(2)]
        producer.publish(warm, self.deadline())
        answers.of([record.token for record in warm])
        self.broker.freeze()
        try:
            doubtful = self.record(topic, b"doubtful")
            producer.publish([doubtful], self.deadline(1.0))
            answers.of([doubtful.token])
            late = self.record(topic, b"late", partition=1)
            producer.publish([late], self.deadline(15.0))
        finally:
            self.broker.thaw()
        (outcome,) = answers.of([late.token])
        # While the broker is away a new connection may be refused: then it was never sent, and that is said.
        assert isinstance(outcome, Stored) or (isinstance(outcome, Rejected) and outcome.retryable)

    def test_a_close_ends_by_its_deadline_while_the_broker_is_frozen(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"1"])
        other = self.connect()
        reader = self.join(topic, backend=other)
        reader.take(1)
        self.broker.freeze()
        try:
            (partition,) = reader.owned
            reader.send_settle(partition, final=True)
            began = time.monotonic()
            other.close(self.deadline(1.0))
            assert time.monotonic() - began < 6.0
        finally:
            self.broker.thaw()

    def test_looking_ends_when_the_broker_is_away(self) -> None:
        backend = self.connect()
        self.broker.kill()
        try:
            health = backend.health()
        finally:
            self.broker.start()
        assert not health.ok
        assert [finding.code for finding in health.findings] == ["unreachable"]
        assert backend.health().ok


class TestDoubt(KafkaStage):
    def test_nothing_newer_is_sent_after_an_error_that_leaves_a_doubt(self) -> None:
        """An injected out-of-order answer: the client would bump its epoch and send what is younger under the new one."""
        topic = self.topic()
        answers = Answers(self.timeout_s)
        producer = self.backend.producer(answers)
        warm = self.record(topic, b"warm")
        producer.publish([warm], self.deadline())
        answers.of([warm.token])
        sender = line_of(producer)._raw._sender
        complete, injected, handed_in = sender._complete_batch, threading.Event(), threading.Event()

        def out_of_order(batch: object, response: object) -> None:
            if injected.is_set():
                complete(batch, response)
                return
            injected.set()
            handed_in.wait(self.timeout_s)
            response.error_code = raw.OutOfOrderSequenceNumberError.errno  # type: ignore[attr-defined]
            complete(batch, response)

        sender._complete_batch = out_of_order
        first = self.record(topic, b"doubtful")
        rest = [self.record(topic, b"%d" % number) for number in range(200)]
        producer.publish([first], self.deadline())
        assert injected.wait(self.timeout_s)
        for record in rest:
            producer.publish([record], self.deadline())
        queue = producer._queue  # type: ignore[attr-defined]
        wait_until(lambda: not queue, self.timeout_s)
        # The publisher's own thread is slow: the client alone must not go on.
        turn, released = producer._turn, threading.Event()  # type: ignore[attr-defined]
        producer._turn = lambda: (released.wait(self.timeout_s), turn())  # type: ignore[attr-defined]
        handed_in.set()
        released.wait(0.5)
        assert values(self.admin.read(topic, 0, 0, 1000)) == [b"warm", b"doubtful"]
        released.set()
        doubt, *others = answers.of([record.token for record in [first, *rest]])
        assert isinstance(doubt, Unknown)
        assert {type(outcome) for outcome in others} == {Rejected}
        assert {outcome.retryable for outcome in others if isinstance(outcome, Rejected)} == {True}
        assert values(self.admin.read(topic, 0, 0, 1000)) == [b"warm", b"doubtful"]
        following = self.record(topic, b"next")
        producer.publish([following], self.deadline())
        assert isinstance(answers.of([following.token])[0], Stored)

    def test_a_run_of_results_never_joins_two_calls(self) -> None:
        """Whoever waits for a call looks for runs that begin in it."""
        topic = self.topic()
        answers = Answers(self.timeout_s)
        producer = self.backend.producer(answers)
        warm = self.record(topic)
        producer.publish([warm], self.deadline())
        answers.of([warm.token])
        self.broker.freeze()
        try:
            calls = [[self.record(topic) for _ in range(3)] for _ in range(4)]
            for call in calls:
                producer.publish(call, self.deadline())
        finally:
            self.broker.thaw()
        answers.of([record.token for call in calls for record in call])
        begun = {event.token for event in answers.events if isinstance(event, Published)}
        assert {call[0].token for call in calls} <= begun

    def test_a_publisher_waits_for_room_no_longer_than_its_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mqsdk_kafka.producer.WINDOW_RECORDS", 1)
        topic = self.topic()
        answers = Answers(self.timeout_s)
        producer = self.backend.producer(answers)
        warm = self.record(topic)
        producer.publish([warm], self.deadline())
        answers.of([warm.token])
        self.broker.freeze()
        try:
            waits, late = self.record(topic), self.record(topic)
            producer.publish([waits], self.deadline(10.0))
            began = time.monotonic()
            producer.publish([late], self.deadline(0.3))
            assert time.monotonic() - began < 3.0
            (outcome,) = answers.of([late.token])
            assert isinstance(outcome, Rejected)
            assert outcome.retryable
        finally:
            self.broker.thaw()
        assert isinstance(answers.of([waits.token])[0], Stored)


class TestMembers(KafkaStage):
    def test_a_settle_of_an_ownership_that_was_lost_and_not_regained_changes_nothing(self) -> None:
        """The broker checks the member and its generation, not who owns the partition."""
        topic = self.topic(2)
        for number in range(2):
            self.publish(topic, numbered(3), partition=number)
        first = self.join(topic, 2)
        first.until(lambda: len(first.read) == 6, "6 records")
        second = self.subscribe(topic, backend=self.connect())
        self.until([first, second], lambda: len(second.owned) == 1 == len(first.owned), "one partition each")
        (moved,) = second.owned
        asked = next(event for event in first.seen(Revoking) if isinstance(event, Revoking))
        before = self.committed(topic, partition=moved.number)
        token = first.send_settle(moved, 3, epoch=asked.epoch)
        assert first.answer(token).outcome == "stale"
        assert self.committed(topic, partition=moved.number) == before

    def test_a_blob_that_does_not_fit_is_said_and_nothing_else_is_lost(self) -> None:
        topic = self.topic(2)
        self.publish(topic, numbered(2), partition=0)
        self.publish(topic, numbered(2), partition=1)
        reader = self.join(topic, 2)
        reader.until(lambda: len(reader.read) == 4, "4 records")
        tall, fine = sorted(reader.owned)
        tokens = [reader.send_settle(tall, 1, sparse=bytes(5000)), reader.send_settle(fine, 2)]
        assert [reader.answer(token).outcome for token in tokens] == ["failed", "stored"]
        assert "offset.metadata.max.bytes" in reader.answer(tokens[0]).error
        assert reader.answer(reader.send_settle(tall, 2)).outcome == "stored"

    def test_who_leaves_partition_by_partition_keeps_the_rest_until_it_hands_it_back(self) -> None:
        topic = self.topic(4)
        leaving = self.join(topic, 4)
        other = self.subscribe(topic, backend=self.connect(), credit=None)
        handed_back = min(leaving.owned)
        # Before the other one has joined, or while it does: it gets this one, and nothing is asked back.
        leaving.answer(leaving.send_settle(handed_back, final=True))
        self.until([leaving, other], lambda: handed_back in other.owned, "the partition at the other one")
        assert len(leaving.owned) + len(other.owned) == 4
        leaving.settle_all(final=True)
        self.until([leaving, other], lambda: len(other.owned) == 4, "all partitions at the other one")
        assert all(event.clean for event in other.seen(Assigned) if isinstance(event, Assigned))

    def test_a_member_that_ends_by_itself_while_it_is_given_up_raises_nothing(self) -> None:
        """`close` gives up a reading thread at its deadline; this one ends in that very moment."""
        reader = self.join(self.topic())
        consumer = reader.consumer
        assert isinstance(consumer, KafkaConsumer)
        consumer.close(self.deadline())
        consumer.vanish()

    def test_a_dead_member_does_not_stop_the_living(self) -> None:
        """Whoever joins waits for the dead one's session; who owns partitions goes on with them, longer than its last heartbeat lasts."""
        topic = self.topic(2)
        doomed = self.connect()
        living = self.join(topic, 2, lease_s=3.0)
        dying = self.subscribe(topic, backend=doomed, lease_s=3.0)
        self.until([living, dying], lambda: len(dying.owned) == 1 == len(living.owned), "one partition each")
        (kept,) = living.owned
        assert isinstance(doomed, KafkaBackend)
        doomed.vanish()
        replacing = self.subscribe(topic, backend=self.connect(), lease_s=3.0)
        began, last, sent = time.monotonic(), time.monotonic(), 0
        while not replacing.owned:
            assert time.monotonic() - began < self.timeout_s
            self.publish(topic, [b"%d" % sent], partition=kept.number)
            sent += 1
            living.take(1)
            assert time.monotonic() - last < 2.0, "it stood still"
            last = time.monotonic()
            replacing.poll(0.1)
        assert time.monotonic() - began > 1.5
        assert not living.seen(Lost)

    def test_wake_and_close_work_while_partitions_are_asked_back(self) -> None:
        topic = self.topic(2)
        first = self.join(topic, 2, answers_revoking=False)
        second = self.subscribe(topic, backend=self.connect())
        self.until([first, second], lambda: bool(first.seen(Revoking)), "a Revoking")
        threading.Timer(0.1, first.consumer.wake).start()
        began = time.monotonic()
        first.poll(10.0)
        assert time.monotonic() - began < 3.0
        began = time.monotonic()
        first.consumer.close(self.deadline(3.0))
        assert time.monotonic() - began < 5.0
        second.joined(2)
        assert all(event.clean for event in second.seen(Assigned) if isinstance(event, Assigned)), "left without a word"

    def test_who_does_not_answer_a_revoke_loses_the_partition_after_a_lease(self) -> None:
        topic = self.topic(2)
        first = self.join(topic, 2, answers_revoking=False, lease_s=1.5)
        second = self.subscribe(topic, backend=self.connect(), lease_s=1.5)
        self.until([first, second], lambda: len(second.owned) == 1, "the partition at the other one")
        assert len(first.seen(Lost)) == 1
        assert len(first.owned) == 1

    def test_a_member_without_work_asks_seldom_and_closes_at_once(self) -> None:
        """From outside: a hundred consumers without a message kept two cores busy."""
        topic = self.topic(2)
        reader = self.join(topic, 2)
        self.publish(topic, [b"1"])
        reader.take(1)
        raw_consumer = reader.consumer._raw  # type: ignore[attr-defined]
        poll, polls = raw_consumer.poll, list[float]()

        def counted(**how: object) -> object:
            polls.append(time.monotonic())
            return poll(**how)

        raw_consumer.poll = counted
        reader.until(lambda: len(polls) > 1 and polls[-1] - polls[-2] > 0.3, "a pause between two looks")
        until = time.monotonic() + 2.0
        before = len(polls)
        while (left := until - time.monotonic()) > 0:
            reader.poll(left)
        assert len(polls) - before <= 12
        self.publish(topic, [b"2"])
        assert values(reader.take(1)) == [b"2"]
        began = time.monotonic()
        reader.close()
        assert time.monotonic() - began < 3 * 0.5

    def test_a_read_ahead_is_bounded_whatever_the_backlog(self) -> None:
        topic = self.topic()
        sent = [b"x" * 2000 + b"%05d" % number for number in range(3000)]
        for start in range(0, 3000, 500):
            self.publish(topic, sent[start : start + 500])
        reader = self.join(topic, credit=(1, 1 << 20))
        reader.take(1)
        (partition,) = reader.owned
        owned = reader.consumer._desk.owned[partition]  # type: ignore[attr-defined]
        reader.until(lambda: owned.paused, "the pause")
        assert owned._ahead_bytes < 3 << 20
        reader.consumer.credit(partition, 10_000, 1 << 30)
        assert values(reader.take(2999)) == sent[1:]

    def test_a_backlog_of_several_partitions_is_read_to_its_end_through_small_credit(self) -> None:
        """The client loses sight of what it has half handed out when more than one partition is paused."""
        topic = self.topic(4)
        counts = {number: 5100 + 300 * number for number in range(4)}
        for number, count in counts.items():
            self.publish(topic, [b"%d" % place for place in range(count)], partition=number)
        reader = self.join(topic, 4, credit=None)
        got: dict[Partition, int] = dict.fromkeys(reader.owned, 0)
        owned = reader.consumer._desk.owned  # type: ignore[attr-defined]
        reader.until(lambda: all(one.paused for one in owned.values()), "every partition paused")

        def more() -> bool:
            for partition in got:
                reader.consumer.credit(partition, 500, 1 << 20)
            for partition, _ in reader.read:
                got[partition] += 1
            reader.read.clear()
            return all(counts[partition.number] == count for partition, count in got.items())

        reader.until(more, "all of the backlog")

    def test_an_error_of_the_reading_thread_is_raised_by_poll(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
        self.fail(reader.consumer, raw.GroupAuthorizationFailedError("group"))
        with pytest.raises(BackendError, match="right on the consumer group"):
            reader.until(lambda: False, "the error")

    def fail(self, consumer: Consumer, error: Exception) -> None:
        def poll(**_: object) -> None:
            raise error

        consumer._raw.poll = poll  # type: ignore[attr-defined]

    def test_a_forked_child_is_refused_and_the_parent_goes_on(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
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

    def test_an_owner_that_is_cut_off_is_told_by_its_own_clock(self) -> None:
        topic = self.topic()
        reader = self.join(topic, lease_s=1.5)
        self.broker.freeze()
        try:
            reader.until(lambda: bool(reader.seen(Lost)), "the loss")
        finally:
            self.broker.thaw()
        reader.until(lambda: len(reader.owned) == 1, "a new ownership")
        epochs = [event.epoch for event in reader.events if isinstance(event, Assigned)]
        assert epochs == sorted(set(epochs))

    def test_a_log_that_was_cut_is_a_gap_and_is_read_anew_from_there(self) -> None:
        """Injected: the client reports it after an unclean election, when other records stand at positions that were read already."""
        topic = self.topic()
        self.publish(topic, numbered(10))
        reader = self.join(topic)
        reader.take(10)
        ((partition, before),) = reader.owned.items()
        reader.answer(reader.send_settle(partition, 8))
        cut_the_log(reader, TopicPartition(topic, 0), 3)
        reader.until(lambda: len(reader.seen(Assigned)) == 2, "a new ownership")
        assert [(event.start, event.stop, event.reason) for event in reader.seen(Gap) if isinstance(event, Gap)] == [(3, 10, "truncated")]
        assert reader.owned[partition].epoch > before.epoch
        assert values(reader.take(7)) == numbered(10)[3:]

    def test_a_partition_that_is_added_later_is_read_from_its_beginning(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
        admin = self.broker.admin()
        admin.create_partitions({topic: 2})
        admin.close()
        self.until([reader], lambda: self.admin.partitions(topic) == 2, "the new partition")
        self.publish(topic, [b"first of the new one"], partition=1)
        backend = self.connect()
        late = self.subscribe(topic, backend=backend)
        self.until([reader, late], lambda: bool(reader.read or late.read), "the message")
        assert [event for one in (reader, late) for event in one.seen(Batch)]
        assert Partition(topic, 1) in {partition for one in (reader, late) for partition, _ in one.read}
        assert isinstance(backend, KafkaBackend)
