"""What a broker would hold: topics, groups, cursors, members. One SimLog is one broker; several SimBackends may share it.

One lock for everything, taken once per call and never per message. Nothing survives the process.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from datetime import datetime
from itertools import pairwise
from typing import Literal

from mqsdk.runtime.clock import Clock, SystemClock
from mqsdk.spi import BackendError, NewRecord, NotSupported, Outcome, Partition, Record, Rejected, Start, Unknown, UnsafeBackend
from mqsdk.testing.simdelay import Delayed
from mqsdk.testing.simgroup import Cursor, Group, Log

PublishFault = Literal["rejected", "unknown_stored", "unknown_lost"]
PUBLISH_FAULTS: tuple[PublishFault, ...] = ("rejected", "unknown_stored", "unknown_lost")
DEFAULT_PARTITIONS = 8  # `Admin.ensure_topic`


class SimLog:
    """The store. `clock` decides leases, hand-over deadlines and what is due; waiting is always real.

    handover_s: how long an owner may take to answer Revoking. partitions: what `ensure_topic(None)` creates.
    """

    def __init__(self, clock: Clock | None = None, *, handover_s: float = 10.0, partitions: int = DEFAULT_PARTITIONS) -> None:
        self.clock: Clock = clock or SystemClock()
        self.lock = threading.RLock()
        self.handover_s = handover_s
        self.default_partitions = partitions
        self.logs: dict[Partition, Log] = {}
        self.topics: dict[str, int] = {}
        self.groups: dict[str, dict[str, Group]] = {}
        self.instances: list[Group] = []  # of broadcasts: each consumer's own, seen by nobody else
        self.serial = 0
        self.delayed = Delayed()
        self._faults: list[tuple[PublishFault, int]] = []
        self._failed: dict[tuple[str, int, str], PublishFault] = {}
        self._member_serial = 0

    # --- topics and groups ---------------------------------------------------------------------------------------------------

    def create_topic(self, topic: str, partitions: int | None) -> int:
        with self.lock:
            existing = self.topics.get(topic)
            if existing is None:
                existing = self.topics[topic] = partitions or self.default_partitions
                self.groups[topic] = {}
                self.logs.update({Partition(topic, number): Log() for number in range(existing)})
        if partitions is not None and partitions != existing:
            raise UnsafeBackend(
                f"topic {topic} has {existing} partitions, not {partitions}",
                finding="partitions",
                fix=f"ask for {existing} partitions: changing the number would move keys between partitions",
            )
        return existing

    def create_group(self, topic: str, name: str, start: Start, *, history: bool, by_time: bool) -> Group:
        """The group, made if it is new; `start` is read only then. NotSupported for a start in a past that is not kept."""
        if not history and (start == "earliest" or isinstance(start, datetime)):
            raise NotSupported("history")
        if isinstance(start, datetime) and not by_time:
            raise NotSupported("by_time")
        with self.lock:
            groups = self.groups.get(topic)
            if groups is None:
                raise BackendError(f"topic {topic} does not exist", fix="create it with ensure_topic")
            if name not in groups:
                self.release_due()
                logs = {number: self.logs[Partition(topic, number)] for number in range(self.topics[topic])}
                begin = "latest" if start is None and not history else start
                cursors = [Cursor(Partition(topic, number), log, _start_of(log, begin)) for number, log in logs.items()]
                groups[name] = Group(topic, name, cursors)
                self._tell_members(name)
            return groups[name]

    def create_instance(self, topic: str, name: str, positions: dict[int, int]) -> Group:
        """What one consumer of a broadcast knows of its own progress; it begins at the end where no position is given."""
        with self.lock:
            if topic not in self.topics:
                raise BackendError(f"topic {topic} does not exist", fix="create it with ensure_topic")
            self.release_due()
            parts = [Partition(topic, number) for number in range(self.topics[topic])]
            made = Group(topic, name, [Cursor(part, self.logs[part], positions.get(part.number, self.logs[part].end)) for part in parts])
            self.instances.append(made)
            return made

    def _tell_members(self, name: str) -> None:
        """Consumers of a group may wait for it to begin in another topic."""
        for groups in self.groups.values():
            for member in groups[name].members if name in groups else ():
                member.nudge()

    def group(self, topic: str, name: str) -> Group | None:
        return self.groups.get(topic, {}).get(name)

    def new_member_id(self, instance: str) -> str:
        with self.lock:
            self._member_serial += 1
            return f"{instance or 'member'}-{self._member_serial}"

    def trim(self, topic: str, partition: int, before: int) -> None:
        """Lose every record below this position, as retention does; owners get a Gap if they had not read them."""
        with self.lock:
            self.logs[Partition(topic, partition)].trim(before)
            self.nudge({topic})

    def nudge(self, topics: set[str]) -> None:
        """Wake the consumers of these topics. Lock held."""
        own = [group for group in self.instances if group.topic in topics]
        for group in [*own, *(group for topic in topics for group in self.groups.get(topic, {}).values())]:
            for member in group.members:
                member.nudge()

    # --- records ---------------------------------------------------------------------------------------------------------------

    def release_due(self) -> None:
        """Give what is due its place in the order. Lock held; called before anything looks at a log or appends to one."""
        if self.delayed.due_ms() is None:
            return
        for partition, new in self.delayed.take(self.clock.wall_ms()):
            log = self.logs[partition]
            log.marks.append((log.end, self.serial))
            self.serial += 1
            log.extend([stored(new, log.end)])
            self.nudge({partition.topic})

    def due(self) -> float | None:
        """Monotonic time at which the next delayed record is due."""
        with self.lock:
            due_ms = self.delayed.due_ms()
            return None if due_ms is None else self.clock.mono() + (due_ms - self.clock.wall_ms()) / 1000

    def records(self, topic: str) -> list[tuple[int, Record]]:
        """(partition, record) of a whole topic in the order of publishing; what is delayed counts from its due time on."""
        with self.lock:
            self.release_due()
            runs: dict[int, list[tuple[int, Record]]] = defaultdict(list)
            for number in range(self.topics.get(topic, 0)):
                log = self.logs[Partition(topic, number)]
                for (position, serial), (stop, _) in pairwise([*log.marks, (log.end, 0)]):
                    first, last = max(position, log.base), max(stop, log.base)
                    runs[serial].extend((number, record) for record in log.read(first, last - first))
            return [item for serial in sorted(runs) for item in runs[serial]]

    def publish_foreign(
        self, topic: str, key: bytes | None, value: bytes, headers: tuple[tuple[str, str], ...] = (), partition: int = 0
    ) -> None:
        """Store a message as a producer that is not the SDK would: without id, timestamp or sequence."""
        with self.lock:
            log = self.logs[Partition(topic, partition)]
            log.marks.append((log.end, self.serial))
            self.serial += 1
            log.extend([Record(log.end, key, value, headers=headers)])
            self.nudge({topic})

    # --- faults ----------------------------------------------------------------------------------------------------------------

    def fail_publish(self, outcome: PublishFault, times: int = 1) -> None:
        """The next `times` messages end with this outcome; when layer 2 repeats one of them it ends the same way again."""
        if outcome not in PUBLISH_FAULTS:
            raise ValueError(f"outcome is one of {', '.join(PUBLISH_FAULTS)}")
        if times < 1:
            raise ValueError("times is at least 1")
        with self.lock:
            self._faults.append((outcome, times))

    @property
    def faulty(self) -> bool:
        return bool(self._faults or self._failed)

    def fault_of(self, producer: str, sequence: int, id: str) -> tuple[Outcome | None, bool]:
        """(outcome to answer or None, whether to store the record). Lock held."""
        message = (producer, sequence, id)
        if message in self._failed:
            return _outcome_of(self._failed[message]), False
        if not self._faults:
            return None, True
        fault, times = self._faults[0]
        self._faults[0:1] = [(fault, times - 1)] if times > 1 else []
        self._failed[message] = fault
        return _outcome_of(fault), fault == "unknown_stored"


def stored(new: NewRecord, position: int) -> Record:
    return Record(
        position,
        new.key,
        new.value,
        timestamp_ms=new.timestamp_ms,
        id=new.id,
        content_type=new.content_type,
        headers=new.headers,
        producer=new.producer,
        sequence=new.sequence,
        attempt=new.attempt,
        due_ms=new.due_ms,
        extra=new.extra,
        again=new.again,
    )


def _outcome_of(fault: PublishFault) -> Outcome:
    if fault == "rejected":
        return Rejected("backend", "refused by the test", fix="this test asked for it with fail_publish")
    return Unknown("no answer: this test asked for it with fail_publish")


def _start_of(log: Log, start: Start) -> int:
    if start == "latest":
        return log.end
    if isinstance(start, datetime):
        return log.locate(round(start.timestamp() * 1000))
    return log.base
