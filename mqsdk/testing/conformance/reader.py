"""What scenarios drive a backend with: a sink that waits for answers, and a Reader that polls a consumer and keeps what it saw."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from mqsdk.spi import (
    Assigned,
    Batch,
    Consumer,
    ConsumerEvent,
    Gap,
    Lost,
    Outcome,
    Partition,
    ProducerEvent,
    Progress,
    Published,
    Record,
    Revoking,
    Settled,
    Stored,
)

PLENTY = (100_000, 1 << 30)  # credit that no scenario uses up


class Overtime(AssertionError):
    """Something that a scenario waits for did not happen within its bound."""


class Answers:
    """An EventSink. Collects results from any thread and hands them out per token."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._arrived = threading.Condition()
        self.events: list[ProducerEvent] = []

    def put(self, event: ProducerEvent, /) -> None:
        with self._arrived:
            self.events.append(event)
            self._arrived.notify_all()

    def of(self, tokens: Sequence[int]) -> list[Outcome]:
        """One outcome per token, waiting for those that are still missing. Fails when a token is answered twice."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: set(tokens) <= self._by_token().keys(), self._timeout_s):
                raise Overtime(f"{len(set(tokens) - self._by_token().keys())} of {len(tokens)} publishes have no result")
            found = self._by_token()
        return [found[token] for token in tokens]

    def answered(self) -> int:
        with self._arrived:
            return len(self._by_token())

    def _by_token(self) -> dict[int, Outcome]:
        found: dict[int, Outcome] = {}
        for event in self.events:
            if isinstance(event, Published):
                for token in range(event.token, event.token + event.length):
                    assert token not in found, f"token {token} is answered twice"
                    found[token] = _at(event, token - event.token)
        return found


def _at(event: Published, offset: int) -> Outcome:
    outcome = event.outcome
    if isinstance(outcome, Stored) and outcome.position is not None:
        return Stored(outcome.position + offset)
    return outcome


class Reader:
    """Drives one consumer as layer 2 would: gives credit at Assigned, answers Revoking with a final settle (unless told not to)."""

    def __init__(
        self,
        consumer: Consumer,
        timeout_s: float,
        *,
        credit: tuple[int, int] | None = PLENTY,
        answers_revoking: bool = True,
        max_records: int = 1000,
        quiet_s: float = 0.1,
    ) -> None:
        self.consumer = consumer
        self.events: list[ConsumerEvent] = []
        self.owned: dict[Partition, Assigned] = {}
        self.read: list[tuple[Partition, Record]] = []
        self._timeout_s = timeout_s
        self._credit = credit
        self._answers_revoking = answers_revoking
        self._max_records = max_records
        self._quiet_s = quiet_s
        self._token = 0
        self._unsettled: dict[Partition, list[int]] = {}

    # --- polling -------------------------------------------------------------------------------------------------------------

    def poll(self, timeout_s: float = 0.0) -> list[ConsumerEvent]:
        events = self.consumer.poll(self._max_records, timeout_s)
        for event in events:
            self._note(event)
        self.events += events
        return events

    def _note(self, event: ConsumerEvent) -> None:
        match event:
            case Assigned(partition):
                self.owned[partition] = event
                self._unsettled[partition] = []
                if self._credit is not None:
                    self.consumer.credit(partition, *self._credit)
            case Revoking(partition) if self._answers_revoking:
                self.settle(partition, final=True)
            case Lost(partition):
                self.owned.pop(partition, None)
            case Batch(partition):
                self.read += [(partition, record) for record in event.records]
                self._unsettled[partition] += [record.position for record in event.records]

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Poll until the condition holds. Fails with `what` after the bound."""
        until([self], condition, what, self._timeout_s)

    def joined(self, partitions: int) -> Reader:
        """Wait for so many partitions."""
        self.until(lambda: len(self.owned) == partitions, f"{partitions} partitions assigned, has {len(self.owned)}")
        return self

    def take(self, count: int) -> list[Record]:
        """Wait for `count` records that no earlier `take` returned."""
        self.until(lambda: len(self.read) >= count, f"{count} records, has {len(self.read)}")
        taken, self.read = self.read[:count], self.read[count:]
        return [record for _, record in taken]

    def quiet(self) -> None:
        """Fail if a record arrives within `quiet_s`: the one wait of the suite that time alone can end."""
        end = time.monotonic() + self._quiet_s
        while (left := end - time.monotonic()) > 0:
            self.poll(left)
            assert not self.read, f"{len(self.read)} records arrived that should not"

    # --- settling ------------------------------------------------------------------------------------------------------------

    def send_settle(
        self,
        partition: Partition,
        watermark: int | None = None,
        *,
        done: Iterable[int] = (),
        sparse: bytes = b"",
        final: bool = False,
        epoch: int | None = None,
    ) -> int:
        """Settle below `watermark` (None: nothing new) and the positions `done`; returns the token of the answer."""
        assigned = self.owned.get(partition)
        unsettled = self._unsettled.get(partition, [])
        floor = min(unsettled, default=assigned.position if assigned else 0)
        watermark = floor if watermark is None else watermark
        settled = {position for position in unsettled if position < watermark} | set(done)
        self._token += 1
        progress = Progress(
            partition,
            epoch if epoch is not None else (assigned.epoch if assigned else 0),
            watermark,
            done=ranges(settled),
            high=max(settled, default=watermark - 1) + 1,
            sparse=sparse,
            token=self._token,
            final=final,
        )
        self._unsettled[partition] = [position for position in unsettled if position not in settled]
        if final:
            self.owned.pop(partition, None)
        self.consumer.settle(progress)
        return self._token

    def settle(self, partition: Partition, watermark: int | None = None, *, final: bool = False) -> None:
        self.send_settle(partition, watermark, final=final)

    def answer(self, token: int) -> Settled:
        """Wait for the answer to one settle."""
        self.until(lambda: any(isinstance(event, Settled) and event.token == token for event in self.events), f"answer to settle {token}")
        return next(event for event in self.events if isinstance(event, Settled) and event.token == token)

    def settle_all(self, *, final: bool = False) -> None:
        """Settle everything that was delivered and wait for the answers."""
        tokens = []
        for partition in list(self.owned):
            unsettled = self._unsettled[partition]
            tokens.append(self.send_settle(partition, max(unsettled) + 1 if unsettled else None, final=final))
        assert {self.answer(token).outcome for token in tokens} <= {"stored"}

    def seen(self, kind: type[ConsumerEvent]) -> list[ConsumerEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    def gaps(self) -> list[tuple[int, int]]:
        return [(event.start, event.stop) for event in self.events if isinstance(event, Gap)]

    def close(self) -> None:
        self.consumer.close(time.monotonic() + self._timeout_s)


def until(readers: Sequence[Reader], condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Poll several consumers in turn until the condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            raise Overtime(f"not within {timeout_s:g} s: {what}")
        for reader in readers:
            reader.poll(0.02 / len(readers))


def ranges(positions: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Positions as [start, stop) ranges."""
    found: list[tuple[int, int]] = []
    for position in sorted(positions):
        if found and found[-1][1] == position:
            found[-1] = (found[-1][0], position + 1)
        else:
            found.append((position, position + 1))
    return tuple(found)


def values(records: Iterable[Record]) -> list[bytes]:
    return [record.value for record in records]
