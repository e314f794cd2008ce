"""Opening and closing: bounded, idempotent, also while a poll is blocked; nothing is left behind."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import pytest

from mqsdk.spi import CapabilityError, Consumer, StateError
from mqsdk.testing.conformance.base import Stage, numbered
from mqsdk.testing.conformance.reader import values

LONG_POLL_S = 30.0


class CloseScenarios(Stage):
    def test_capabilities_are_known_before_open(self) -> None:
        backend = self.make_backend()
        assert backend.capabilities.settle in ("cursor", "receipt")
        assert backend.capabilities.publish in ("inline", "async")
        assert backend.kind
        assert backend.name

    def test_opening_changes_no_capability(self) -> None:
        assert self.make_backend().capabilities == self.backend.capabilities

    def test_a_backend_that_was_never_opened_is_closed_in_peace(self) -> None:
        self.make_backend().close(self.deadline())

    def test_an_open_backend_is_healthy(self) -> None:
        health = self.backend.health()
        assert health.ok
        assert health.guarantee

    def test_what_is_not_claimed_is_refused_and_listed(self, capsys: pytest.CaptureFixture[str]) -> None:
        reader = self.join(self.topic())
        ((partition, assigned),) = reader.owned.items()
        if not self.caps.release:
            with pytest.raises(CapabilityError):
                reader.consumer.release(partition, assigned.epoch, [0])
        if not self.caps.extend:
            with pytest.raises(CapabilityError):
                reader.consumer.extend(partition, assigned.epoch, [0], 1.0)
        with capsys.disabled():
            print(f"\n{type(self).__name__} ({self.backend.kind}): not claimed or not given: {', '.join(self.missing()) or 'nothing'}")

    def test_closing_a_consumer_twice_is_fine(self) -> None:
        reader = self.join(self.topic())
        for _ in range(2):
            reader.close()

    def test_closing_a_backend_twice_is_fine(self) -> None:
        other = self.connect()
        for _ in range(2):
            other.close(self.deadline())

    def test_closing_a_consumer_after_its_backend_is_fine(self) -> None:
        other = self.connect()
        reader = self.join(self.topic(), backend=other)
        other.close(self.deadline())
        reader.close()

    def test_wake_after_close_is_fine(self) -> None:
        reader = self.join(self.topic())
        reader.close()
        reader.consumer.wake()

    def test_a_poll_after_close_gives_nothing_and_does_not_block(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
        reader.close()
        self.publish(topic, [b"late"])
        began = time.monotonic()
        assert self._poll(reader.consumer, LONG_POLL_S) == 0
        assert time.monotonic() - began < LONG_POLL_S / 2

    def _poll(self, consumer: Consumer, timeout_s: float) -> int:
        try:
            return len(consumer.poll(10, timeout_s))
        except StateError:
            return 0

    def test_a_settle_after_close_changes_nothing(self) -> None:
        topic = self.topic()
        self.publish(topic, numbered(2))
        reader = self.join(topic)
        end = reader.take(2)[1].position + 1
        (partition,) = reader.owned
        reader.close()
        with suppress(StateError):
            reader.send_settle(partition, end)
        assert values(self.redelivered(topic, 2)) == numbered(2)

    def test_closing_a_consumer_ends_its_blocked_poll(self) -> None:
        reader = self.join(self.topic())
        self.assert_poll_ended_by(reader.consumer, reader.close)

    def test_closing_a_backend_ends_a_blocked_poll(self) -> None:
        other = self.connect()
        reader = self.join(self.topic(), backend=other)
        self.assert_poll_ended_by(reader.consumer, lambda: other.close(self.deadline()))

    def assert_poll_ended_by(self, consumer: Consumer, close: object) -> None:
        assert callable(close)
        polling, closed = threading.Event(), threading.Event()

        def poll() -> None:
            polling.set()
            # Other news (a renewed lease) may end a poll as well: what counts is that polling ends once close was called.
            while not closed.is_set():
                self._poll(consumer, LONG_POLL_S)

        thread = threading.Thread(target=poll)
        thread.start()
        assert polling.wait(self.timeout_s)
        began = time.monotonic()
        closed.set()
        close()
        thread.join(self.timeout_s)
        assert not thread.is_alive()
        assert time.monotonic() - began < LONG_POLL_S / 2

    def test_close_ends_by_its_deadline(self) -> None:
        topic = self.topic(4)
        self.publish(topic, numbered(100))
        reader = self.join(topic, 4)
        reader.until(lambda: len(reader.read) == 100, "100 records")
        began = time.monotonic()
        reader.consumer.close(self.deadline(1.0))
        assert time.monotonic() - began < 3.0

    def test_a_deadline_that_has_passed_still_closes(self) -> None:
        topic = self.topic()
        self.publish(topic, [b"v"])
        reader = self.join(topic)
        reader.consumer.close(time.monotonic() - 1.0)
        assert values(self.join(topic).take(1)) == [b"v"]

    def test_a_closed_backend_hands_out_nothing(self) -> None:
        topic = self.topic()
        other = self.connect()
        other.close(self.deadline())
        with pytest.raises(StateError):
            self.subscribe(topic, backend=other)

    def test_closing_a_backend_frees_the_partitions_of_its_consumers(self) -> None:
        topic = self.topic(2)
        other = self.connect()
        self.join(topic, 2, backend=other)
        other.close(self.deadline())
        self.join(topic, 2)

    def test_other_connections_go_on_when_one_is_closed(self) -> None:
        topic = self.topic()
        reader = self.join(topic)
        other = self.connect()
        self.store([self.record(topic, b"1")], other)
        other.close(self.deadline())
        self.publish(topic, [b"2"])
        assert values(reader.take(2)) == [b"1", b"2"]

    def test_opening_and_closing_many_times_leaves_nothing_behind(self) -> None:
        topic = self.topic()
        before = threading.active_count()
        for number in range(5):
            other = self.connect()
            self.store([self.record(topic, b"%d" % number)], other)
            self.join(topic, backend=other).take(1)
            other.close(self.deadline())
        left = [thread for thread in threading.enumerate()[before:] if not self._ends(thread)]
        assert not left
