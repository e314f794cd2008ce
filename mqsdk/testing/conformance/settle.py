"""Settling: what is settled stays settled, what is not comes again, and an ownership that is over changes nothing."""

from __future__ import annotations

from mqsdk.spi import Assigned, Settled
from mqsdk.testing.conformance.base import Stage, numbered
from mqsdk.testing.conformance.reader import Reader, values


class SettleScenarios(Stage):
    def with_messages(self, count: int) -> str:
        topic = self.topic()
        self.publish(topic, numbered(count))
        return topic

    def reader_of(self, topic: str, count: int) -> Reader:
        """A consumer that has read `count` records and settled none."""
        reader = self.join(topic)
        reader.until(lambda: len(reader.read) >= count, f"{count} records")
        return reader

    def assert_comes_again(self, topic: str, *expected: bytes) -> None:
        assert values(self.redelivered(topic, len(expected))) == list(expected)

    def test_settled_records_do_not_come_again(self) -> None:
        topic = self.with_messages(5)
        reader = self.reader_of(topic, 5)
        reader.settle_all()
        reader.close()
        self.assert_comes_again(topic)

    def test_unsettled_records_come_again_after_close(self) -> None:
        topic = self.with_messages(3)
        self.reader_of(topic, 3).close()
        self.assert_comes_again(topic, *numbered(3))

    def test_unsettled_records_come_again_after_the_backend_was_closed(self) -> None:
        topic = self.with_messages(3)
        other = self.connect()
        self.join(topic, backend=other).take(3)
        other.close(self.deadline())
        self.assert_comes_again(topic, *numbered(3))

    def test_unsettled_records_come_again_after_a_crash(self) -> None:
        if self.gives("crash"):
            topic = self.with_messages(4)
            other = self.connect()
            reader = self.join(topic, backend=other)
            first = reader.take(4)[0]
            (partition,) = reader.owned
            assert reader.answer(reader.send_settle(partition, first.position + 1)).outcome == "stored"
            self.crash(other)
            self.assert_comes_again(topic, *numbered(4)[1:])

    def test_a_settle_is_answered_with_its_token_and_epoch(self) -> None:
        topic = self.with_messages(1)
        reader = self.reader_of(topic, 1)
        ((partition, assigned),) = reader.owned.items()
        token = reader.send_settle(partition, reader.read[0][1].position + 1)
        answer = reader.answer(token)
        assert (answer.partition, answer.epoch, answer.outcome) == (partition, assigned.epoch, "stored")

    def test_each_settle_is_answered_once(self) -> None:
        topic = self.with_messages(10)
        reader = self.reader_of(topic, 10)
        (partition,) = reader.owned
        tokens = [reader.send_settle(partition, record.position + 1) for _, record in reader.read]
        for token in tokens:
            reader.answer(token)
        assert len(reader.seen(Settled)) == 10

    def test_delivery_resumes_at_the_watermark(self) -> None:
        topic = self.with_messages(10)
        reader = self.reader_of(topic, 10)
        (partition,) = reader.owned
        reader.answer(reader.send_settle(partition, reader.read[4][1].position))
        reader.close()
        self.assert_comes_again(topic, *numbered(10)[4:])

    def test_settled_above_the_watermark_is_remembered_by_whom_it_concerns(self) -> None:
        """Receipts: those do not come again. Cursor: they do, beside the sparse blob that tells layer 2 to skip them."""
        topic = self.with_messages(5)
        reader = self.reader_of(topic, 5)
        (partition,) = reader.owned
        positions = [record.position for _, record in reader.read]
        blob = b"1,3" if self.caps.sparse_bytes else b""
        reader.answer(reader.send_settle(partition, positions[0], done=[positions[1], positions[3]], sparse=blob))
        reader.close()
        if self.caps.settle == "receipt":
            self.assert_comes_again(topic, b"m0", b"m2", b"m4")
        else:
            again = self.join(topic)
            assert next(iter(again.owned.values())).sparse == blob
            assert values(again.take(5)) == numbered(5)

    def test_a_full_sparse_blob_comes_back_byte_for_byte(self) -> None:
        if self.caps.sparse_bytes:
            topic = self.with_messages(2)
            reader = self.reader_of(topic, 2)
            (partition,) = reader.owned
            blob = (bytes(range(256)) * (self.caps.sparse_bytes // 256 + 1))[: self.caps.sparse_bytes]
            assert reader.answer(reader.send_settle(partition, sparse=blob)).outcome == "stored"
            reader.close()
            assert next(iter(self.join(topic).owned.values())).sparse == blob

    def test_a_later_blob_replaces_an_earlier_one(self) -> None:
        if self.caps.sparse_bytes:
            topic = self.with_messages(2)
            reader = self.reader_of(topic, 2)
            (partition,) = reader.owned
            reader.send_settle(partition, sparse=b"first and long")
            reader.answer(reader.send_settle(partition, sparse=b""))
            reader.close()
            assert next(iter(self.join(topic).owned.values())).sparse == b""

    def test_a_fresh_group_has_no_blob(self) -> None:
        topic = self.with_messages(1)
        assert next(iter(self.join(topic).owned.values())).sparse == b""

    def test_settling_twice_changes_nothing(self) -> None:
        topic = self.with_messages(3)
        reader = self.reader_of(topic, 3)
        (partition,) = reader.owned
        watermark = reader.read[1][1].position
        for _ in range(2):
            assert reader.answer(reader.send_settle(partition, watermark)).outcome == "stored"
        reader.close()
        self.assert_comes_again(topic, *numbered(3)[1:])

    def test_the_watermark_never_falls_within_an_epoch(self) -> None:
        topic = self.with_messages(3)
        reader = self.reader_of(topic, 3)
        (partition,) = reader.owned
        first, last = reader.read[0][1].position, reader.read[2][1].position
        reader.answer(reader.send_settle(partition, last))
        reader.answer(reader.send_settle(partition, first))
        reader.close()
        self.assert_comes_again(topic, b"m2")

    def test_an_old_epoch_settles_nothing(self) -> None:
        topic = self.with_messages(3)
        old = self.reader_of(topic, 3)
        (partition,) = old.owned
        epoch, end = old.owned[partition].epoch, old.read[2][1].position + 1
        old.close()
        new = self.join(topic)
        assert new.owned[partition].epoch > epoch
        assert new.answer(new.send_settle(partition, end, epoch=epoch)).outcome == "stale"
        new.close()
        self.assert_comes_again(topic, *numbered(3))

    def test_after_a_final_settle_the_ownership_is_over(self) -> None:
        topic = self.with_messages(3)
        reader = self.reader_of(topic, 3)
        (partition,) = reader.owned
        epoch, positions = reader.owned[partition].epoch, [record.position for _, record in reader.read]
        assert reader.answer(reader.send_settle(partition, positions[1], final=True)).outcome == "stored"
        assert reader.answer(reader.send_settle(partition, positions[2] + 1, epoch=epoch)).outcome == "stale"
        reader.close()
        self.assert_comes_again(topic, *numbered(3)[1:])

    def test_a_settle_of_a_partition_that_is_not_owned_is_stale(self) -> None:
        topic = self.with_messages(1)
        owner = self.join(topic)
        idle = self.subscribe(topic, backend=self.connect())
        (partition,) = owner.owned
        assert idle.answer(idle.send_settle(partition, 1, epoch=owner.owned[partition].epoch)).outcome == "stale"

    def test_a_hand_back_in_order_is_told_to_the_next_owner(self) -> None:
        topic = self.with_messages(2)
        reader = self.reader_of(topic, 2)
        reader.settle_all(final=True)
        reader.close()
        assert self.assigned(topic).clean

    def test_a_close_hands_back_in_order_what_is_not_settled(self) -> None:
        topic = self.with_messages(2)
        self.reader_of(topic, 2).close()
        assert self.assigned(topic).clean

    def test_who_hands_back_unasked_is_leaving_and_gets_nothing_again(self) -> None:
        topic = self.with_messages(2)
        leaving = self.join(topic)
        leaving.take(2)
        leaving.settle_all(final=True)
        assigned = len(leaving.seen(Assigned))
        leaving.quiet()
        assert len(leaving.seen(Assigned)) == assigned
        other = self.subscribe(topic, backend=self.connect())
        self.until([leaving, other], lambda: len(other.owned) == 1, "the partition at another consumer")

    def test_an_owner_that_left_without_a_word_is_told_to_the_next_one(self) -> None:
        topic = self.with_messages(2)
        if self.gives("crash"):
            other = self.connect()
            self.join(topic, backend=other).take(2)
            self.crash(other)
            assert not self.assigned(topic).clean

    def test_the_first_owner_of_a_group_starts_clean(self) -> None:
        assert self.assigned(self.with_messages(1)).clean

    def assigned(self, topic: str) -> Assigned:
        return next(iter(self.join(topic).owned.values()))

    def test_epochs_rise_with_each_ownership(self) -> None:
        topic = self.with_messages(1)
        epochs = []
        for _ in range(4):
            reader = self.join(topic)
            epochs.append(next(iter(reader.owned.values())).epoch)
            reader.close()
        assert epochs == sorted(set(epochs))

    def test_epochs_rise_across_connections(self) -> None:
        topic = self.with_messages(1)
        epochs = []
        for _ in range(3):
            other = self.connect()
            reader = self.join(topic, backend=other)
            epochs.append(next(iter(reader.owned.values())).epoch)
            other.close(self.deadline())
        assert epochs == sorted(set(epochs))

    def test_progress_survives_all_connections(self) -> None:
        topic = self.with_messages(6)
        other = self.connect()
        reader = self.join(topic, backend=other)
        reader.until(lambda: len(reader.read) == 6, "6 records")
        (partition,) = reader.owned
        reader.answer(reader.send_settle(partition, reader.read[3][1].position))
        reader.close()
        for backend in self._backends:
            backend.close(self.deadline())
        self._main = None
        self.assert_comes_again(topic, *numbered(6)[3:])

    def test_progress_and_records_survive_a_restart_of_the_broker(self) -> None:
        if self.gives("restart_broker"):
            topic = self.with_messages(4)
            reader = self.reader_of(topic, 4)
            (partition,) = reader.owned
            reader.answer(reader.send_settle(partition, reader.read[2][1].position))
            reader.close()
            self.backend.close(self.deadline())
            self.restart_broker()
            self._main = None
            self.assert_comes_again(topic, *numbered(4)[2:])
