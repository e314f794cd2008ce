"""What runs on the client's own loop: taking partitions over, handing them back, committing progress. Nothing here blocks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from kafka import AsyncConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka import errors as client
from kafka.admin import OffsetSpec
from kafka.coordinator.base import MemberState
from kafka.structs import OffsetAndMetadata

from mqsdk.spi import Assigned, Partition, Progress, Revoking, Settled
from mqsdk_kafka import marks
from mqsdk_kafka.desk import Desk
from mqsdk_kafka.errors import PASSING
from mqsdk_kafka.owned import Owned

COMMIT_S = 5.0  # a settle that is not stored by then has failed and may be repeated
TICK_S = 0.02
# Share of a lease that layer 2 has to hand a partition back. A member that joins meanwhile makes the others wait for this one without
# heartbeats, and they must not give up by their own clocks.
HAND_BACK = 0.75
_OVER = (client.UnknownMemberIdError, client.IllegalGenerationError, client.FencedInstanceIdError)

Outcome = Literal["stored", "stale", "failed"]


class Keeper(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # the client has no type hints
    """Uses parts of the client that it calls private (`_coordinator`, `_manager`, `_net`); its version is pinned for them."""

    def __init__(self, consumer: KafkaConsumer, desk: Desk, mark_limit: int) -> None:
        self._consumer = consumer
        self._coordinator = consumer._coordinator
        self._manager = consumer._client._manager
        self._net = consumer._client._net
        self._desk = desk
        self._mark_limit = mark_limit
        self._is_flushing = False

    # --- partitions come ----------------------------------------------------------------------------------------------------------------

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Begin where the group has come to, and note there that somebody has begun."""
        desk = self._desk
        order = {topic: place for place, topic in enumerate(desk.topics)}
        places = sorted(assigned, key=lambda place: (order.get(place.topic, 0), place.topic, place.partition))
        if not places or desk.closing:
            return
        granted_at = time.monotonic()
        committed = await self._coordinator.fetch_committed_offsets_async(places, timeout_ms=int(desk.lease_s * 1000))
        ends = await self._ends([place for place in places if not marks.decode(_note(committed.get(place))).clean])
        generation = int(self._consumer.group_metadata().generation_id)
        taken: list[tuple[Owned, marks.Mark]] = []
        for place in places:
            stored = committed.get(place)
            mark = marks.decode(_note(stored))
            # Without progress it is a partition that was added later: from its beginning. What is gone of it will be a gap.
            position = stored.offset if stored is not None else 0
            self._consumer.seek(place, position)
            taken.append((Owned(Partition(*place), max(generation, mark.epoch + 1), position, mark.blob), mark))
        # Whoever comes after a crash finds it.
        await self._commit([owned for owned, _ in taken], clean=False, known=True)
        with desk:
            desk.generation = generation
            desk.granted_at = max(desk.granted_at, granted_at)
            for owned, mark in taken:
                desk.owned[owned.partition] = owned
                valid_until = granted_at + desk.lease_s - desk.margin_s
                end = ends.get(TopicPartition(*owned.partition))
                desk.tell(Assigned(owned.partition, owned.epoch, owned.position, mark.blob, valid_until, mark.clean, end))

    async def _ends(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Offsets after the newest records, where the last owner did not hand back: it may have had so much."""
        asked = dict.fromkeys(places, OffsetSpec.LATEST)
        try:
            found = await self._consumer._fetcher._fetch_offsets_by_times_async(asked, timeout_ms=int(self._desk.lease_s * 500))
        except PASSING:
            return {}
        return {place: item.offset for place, item in found.items()}

    # --- partitions go ------------------------------------------------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Ask layer 2 for them and wait; the broker gives them on when this returns. Heartbeats go on meanwhile."""
        desk = self._desk
        deadline = time.monotonic() + desk.lease_s * HAND_BACK
        with desk:
            asked = [owned for place in revoked if (owned := desk.owned.get(Partition(*place))) is not None]
            if not desk.closing:
                for owned in asked:
                    if not owned.ending:
                        owned.asked = owned.ending = True
                        desk.tell(Revoking(owned.partition, owned.epoch, deadline))
        while self._holds(asked) and time.monotonic() < deadline and not desk.closing:
            await self._net.sleep(TICK_S)
        if desk.closing:
            await self._hand_back(asked)
        with desk:
            desk.lose(lambda owned: owned in asked)

    async def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        gone = {Partition(*place) for place in lost}
        with self._desk as desk:
            desk.lose(lambda owned: owned.partition in gone)

    def _holds(self, asked: Sequence[Owned]) -> bool:
        with self._desk as desk:
            return any(desk.owned.get(owned.partition) is owned for owned in asked)

    async def _hand_back(self, asked: Sequence[Owned]) -> None:
        """The end of the consumer: what it was asked to settle, and the word that it left in order."""
        await self.flush()
        with self._desk as desk:
            left = [owned for owned in asked if desk.owned.get(owned.partition) is owned]
            desk.events = [event for event in desk.events if not isinstance(event, Revoking)]
            left_s = max(0.5, desk.close_by - time.monotonic())
        await self._commit(left, clean=True, timeout_s=min(COMMIT_S, left_s))

    # --- progress -----------------------------------------------------------------------------------------------------------------------

    def nudge(self) -> None:
        """There is something to commit. Any thread."""
        with self._desk:
            if self._is_flushing:
                return
            self._is_flushing = True
        self._manager.call_soon(self._flush_on)

    async def _flush_on(self) -> None:
        while True:
            await self.flush()
            with self._desk as desk:
                if not desk.settles:
                    self._is_flushing = False
                    return

    async def flush(self) -> None:
        """Commit everything that was asked for in one request; one request at a time, so that none overtakes another."""
        with self._desk as desk:
            batch = desk.take_settles()
        if not batch:
            return
        tall = {owned.partition for owned, _ in batch if len(marks.encode(owned.mark(False))) > self._mark_limit}
        finals = {owned.partition for owned, progress in batch if progress.final}
        latest = {owned.partition: owned for owned, _ in batch if owned.partition not in tall}
        done = await self._commit([owned for owned in latest.values() if owned.partition in finals], clean=True)
        rest = await self._commit([owned for owned in latest.values() if owned.partition not in finals], clean=False)
        with self._desk:
            for owned, progress in batch:
                if owned.partition in tall:
                    self._answer(owned, progress, "failed", "the sparse blob does not fit into the broker's offset.metadata.max.bytes")
                else:
                    self._answer(owned, progress, *(done if owned.partition in finals else rest))

    def _answer(self, owned: Owned, progress: Progress, outcome: Outcome, error: str = "") -> None:
        desk, partition = self._desk, owned.partition
        if desk.owned.get(partition) is not owned and not (owned.handed_back and outcome == "stored"):
            outcome = "stale"
        desk.tell(Settled(partition, owned.epoch, progress.token, outcome, error if outcome == "failed" else ""))
        if outcome == "stale":
            desk.lose(lambda one: one is owned)
        elif progress.final and outcome == "stored" and not owned.handed_back:
            owned.handed_back = True
            del desk.owned[partition]
            if not owned.asked:
                # Layer 2 leaves. The group shares out anew, without this member for what it does not hold any more.
                desk.leaving = True
                self._coordinator.request_rejoin()

    async def _commit(
        self, wanted: Sequence[Owned], *, clean: bool, known: bool = False, timeout_s: float = COMMIT_S
    ) -> tuple[Outcome, str]:
        """Commit the watermarks of what is owned under the same epoch still. known: these are not on the desk yet."""
        give_up = time.monotonic() + timeout_s
        while wanted:
            left_ms = max(1, int((give_up - time.monotonic()) * 1000))
            if time.monotonic() >= give_up or not await self._coordinator.ensure_coordinator_ready_async(timeout_ms=left_ms):
                return "failed", "the group's coordinator cannot be reached"
            state = self._consumer.group_metadata().state
            if state is MemberState.UNJOINED:
                return "stale", ""
            if state is MemberState.REBALANCING:
                await self._net.sleep(TICK_S)
                continue
            with self._desk as desk:
                current = [owned for owned in wanted if known or desk.owned.get(owned.partition) is owned]
            offsets = {
                TopicPartition(*owned.partition): OffsetAndMetadata(owned.watermark, marks.encode(owned.mark(clean)), -1)
                for owned in current
            }
            try:
                await self._manager.wait_for(self._consumer.commit_async(offsets, callback=_nothing), left_ms)
            except client.CommitFailedError as error:
                if not (error.args and isinstance(error.args[0], client.RebalanceInProgressError)):
                    return "stale", ""
            except client.RebalanceInProgressError:
                await self._net.sleep(TICK_S)
            except _OVER:
                return "stale", ""
            except (client.KafkaError, *PASSING) as error:
                return "failed", type(error).__name__
            else:
                return "stored", ""
        return "stored", ""


def _note(stored: OffsetAndMetadata | None) -> str:
    return str(stored.metadata or "") if stored is not None else ""


def _nothing(*_: Any) -> None:
    """The result is awaited; the client's own callback would log it."""
