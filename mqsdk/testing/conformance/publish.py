"""Publishing: three outcomes, one answer per record, nothing stored that was rejected."""

from __future__ import annotations

import threading

from mqsdk.errors import REJECT_CODES
from mqsdk.spi import Outcome, Partition, Published, Rejected, StateError, Stored, Unknown
from mqsdk.testing.conformance.base import Stage, numbered
from mqsdk.testing.conformance.reader import Answers, values


class PublishScenarios(Stage):
    def test_a_publish_is_answered_stored(self) -> None:
        topic = self.topic()
        assert isinstance(self.outcomes([self.record(topic)])[0], Stored)

    def test_positions_of_a_batch_are_consecutive(self) -> None:
        topic = self.topic()
        positions = self.publish(topic, numbered(10))
        if positions[0] is not None:
            assert positions == list(range(positions[0], positions[0] + 10))

    def test_positions_rise_from_publish_to_publish(self) -> None:
        topic = self.topic()
        positions = [position for _ in range(5) for position in self.publish(topic, [b"v"]) if position is not None]
        assert positions == sorted(set(positions))

    def test_a_stored_position_is_where_the_record_is_read(self) -> None:
        topic = self.topic()
        positions = self.publish(topic, numbered(5))
        delivered = [record.position for record in self.join(topic).take(5)]
        assert positions == delivered or set(positions) == {None} or self.caps.settle == "receipt"

    def test_a_batch_over_several_partitions_is_answered_for_every_record(self) -> None:
        topic = self.topic(4)
        self.store([self.record(topic, b"%d" % number, partition=number % 4) for number in range(40)])
        assert sorted(values(self.join(topic, 4).take(40))) == sorted(b"%d" % number for number in range(40))

    def test_every_token_is_answered_exactly_once(self) -> None:
        topic = self.topic(3)
        answers = Answers(self.timeout_s)
        producer = self.backend.producer(answers)
        records = [self.record(topic, partition=number // 7 % 3) for number in range(70)]
        for start in range(0, 70, 10):
            producer.publish(records[start : start + 10], self.deadline())
        answers.of([record.token for record in records])
        assert answers.answered() == 70

    def test_a_run_of_results_names_consecutive_tokens(self) -> None:
        topic = self.topic()
        answers = Answers(self.timeout_s)
        records = [self.record(topic) for _ in range(20)]
        self.backend.producer(answers).publish(records, self.deadline())
        answers.of([record.token for record in records])
        spans = [(event.token, event.length) for event in answers.events if isinstance(event, Published)]
        assert sum(length for _, length in spans) == 20
        assert min(token for token, _ in spans) == records[0].token

    def test_a_run_of_results_is_of_one_call(self) -> None:
        topic = self.topic()
        answers = Answers(self.timeout_s)
        producer = self.backend.producer(answers)
        calls = [[self.record(topic) for _ in range(5)] for _ in range(40)]
        for call in calls:
            producer.publish(call, self.deadline())
        answers.of([record.token for call in calls for record in call])
        ends = {call[-1].token + 1 for call in calls}
        for event in answers.events:
            if isinstance(event, Published):
                assert not ends & set(range(event.token + 1, event.token + event.length))

    def test_tokens_need_not_be_consecutive(self) -> None:
        topic = self.topic()
        records = [self.record(topic, value)._replace(token=10_000 + 3 * number) for number, value in enumerate(numbered(5))]
        self.store(records)
        assert values(self.join(topic).take(5)) == numbered(5)

    def test_an_inline_producer_has_answered_when_publish_returns(self) -> None:
        topic = self.topic()
        answers = Answers(self.timeout_s)
        record = self.record(topic)
        self.backend.producer(answers).publish([record], self.deadline())
        if self.caps.publish == "inline":
            assert answers.answered() == 1
        assert isinstance(answers.of([record.token])[0], Stored)

    def test_the_largest_payload_of_the_sdk_is_stored(self) -> None:
        topic = self.topic()
        value = bytes(range(256)) * (self.sdk_payload // 256)
        self.publish(topic, [value])
        assert values(self.join(topic).take(1)) == [value]

    def test_a_payload_over_the_limit_of_the_backend_is_rejected_and_its_neighbours_are_stored(self) -> None:
        if self.caps.max_payload is None:
            return
        topic = self.topic()
        records = [self.record(topic, value) for value in (b"before", bytes(self.caps.max_payload + 1), b"after")]
        before, over, after = self.outcomes(records)
        assert isinstance(over, Rejected)
        assert (over.code, over.retryable) == ("too_large", False)
        assert isinstance(before, Stored)
        assert isinstance(after, Stored)
        assert values(self.redelivered(topic, 2)) == [b"before", b"after"]

    def test_a_publish_to_an_unknown_partition_is_rejected(self) -> None:
        topic = self.topic()
        self.assert_refused(self.outcomes([self.record(topic, partition=99)])[0])

    def test_a_rejected_record_does_not_take_its_batch_along(self) -> None:
        topic = self.topic()
        records = [self.record(topic, b"good"), self.record(topic, partition=99), self.record(topic, b"fine")]
        good, bad, fine = self.outcomes(records)
        assert isinstance(good, Stored)
        self.assert_refused(bad)
        assert isinstance(fine, Stored)
        assert values(self.join(topic).take(2)) == [b"good", b"fine"]

    def test_a_publish_after_close_is_refused_and_nothing_is_stored(self) -> None:
        topic = self.topic()
        other = self.connect()
        answers = Answers(self.timeout_s)
        producer = other.producer(answers)
        other.close(self.deadline())
        record = self.record(topic, b"late")
        try:
            producer.publish([record], self.deadline())
        except StateError:
            pass
        else:
            self.assert_refused(answers.of([record.token])[0])
        self.publish(topic, [b"in time"])
        assert values(self.redelivered(topic, 1)) == [b"in time"]

    def test_a_topic_without_a_group_keeps_its_messages_or_refuses_them(self) -> None:
        topic = self.topic(groups=())
        outcome = self.outcomes([self.record(topic, b"alone")])[0]
        if not self.caps.keeps_topic:
            assert isinstance(outcome, Rejected)
            assert outcome.code == "no_group"
            return
        assert isinstance(outcome, Stored)
        if self.caps.history:
            assert values(self.join(topic).take(1)) == [b"alone"]

    def test_a_durable_record_is_stored_whatever_the_mode(self) -> None:
        topic = self.topic()
        self.store([self.record(topic, b"kept", durable=True)])
        assert values(self.join(topic).take(1)) == [b"kept"]

    def test_many_threads_publish_through_one_producer(self) -> None:
        topic = self.topic(2)
        answers = Answers(self.timeout_s)
        producer = self.backend.producer(answers)
        batches = [[self.record(topic, b"%d" % self._token, partition=thread % 2) for _ in range(50)] for thread in range(4)]

        def run(thread: int) -> None:
            for record in batches[thread]:
                producer.publish([record], self.deadline())

        threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.timeout_s)
        outcomes = answers.of([record.token for batch in batches for record in batch])
        assert all(isinstance(outcome, Stored) for outcome in outcomes)
        sent = sorted(record.value for batch in batches for record in batch)
        assert sorted(values(self.join(topic, 2).take(200))) == sent

    def test_two_producers_of_one_backend_do_not_mix_their_answers(self) -> None:
        topic = self.topic()
        first, second = Answers(self.timeout_s), Answers(self.timeout_s)
        producers = [self.backend.producer(first), self.backend.producer(second)]
        records = [self.record(topic), self.record(topic)]
        for producer, record in zip(producers, records, strict=True):
            producer.publish([record], self.deadline())
        first.of([records[0].token])
        second.of([records[1].token])
        assert (first.answered(), second.answered()) == (1, 1)

    def test_rejected_means_not_stored(self) -> None:
        if self.gives("fail_publish"):
            outcome, stored = self._failed("rejected")
            assert isinstance(outcome, Rejected)
            assert stored == [b"next"]

    def test_unknown_may_mean_stored(self) -> None:
        if self.gives("fail_publish"):
            outcome, stored = self._failed("unknown_stored")
            assert isinstance(outcome, Unknown)
            assert stored == [b"doubtful", b"next"]

    def test_unknown_may_mean_lost(self) -> None:
        if self.gives("fail_publish"):
            outcome, stored = self._failed("unknown_lost")
            assert isinstance(outcome, Unknown)
            assert stored == [b"next"]

    def _failed(self, outcome: str) -> tuple[Outcome, list[bytes]]:
        topic = self.topic()
        self.fail_publish(self.backend, outcome)  # type: ignore[arg-type]  # one of the three literals above
        doubtful = self.outcomes([self.record(topic, b"doubtful")])[0]
        self.publish(topic, [b"next"])
        reader = self.join(topic)
        reader.until(lambda: b"next" in [record.value for _, record in reader.read], "the next record")
        return doubtful, [record.value for _, record in reader.read]

    def assert_refused(self, outcome: Outcome) -> None:
        assert isinstance(outcome, Rejected), f"{type(outcome).__name__} where nothing can have been stored"
        assert outcome.code in REJECT_CODES

    def test_a_topic_that_does_not_exist_is_refused(self) -> None:
        record = self.record("conf.never-made")._replace(partition=Partition("conf.never-made", 0))
        self.assert_refused(self.outcomes([record])[0])
