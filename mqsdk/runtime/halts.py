"""What halts and `dlq_follow_key` ask of a consumer and its cluster; which halts a group has; and releasing them while nobody runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mqsdk.core.actions import ReleaseAs, Tuning
from mqsdk.core.attempts import HALT_BYTES
from mqsdk.core.halting import amended, saved_halts
from mqsdk.core.parking import PARTITION
from mqsdk.errors import CapabilityError, Corrupt
from mqsdk.names import RETRIES, composed
from mqsdk.runtime.environment import Declared
from mqsdk.runtime.inspection import HaltedMessage
from mqsdk.spi import Admin, Backend, Capabilities, Record, SavedProgress


@dataclass(frozen=True, slots=True)
class SavedHalt:
    """A halt as the progress of a group says. topic: of the backend, that of the group's retries too. record: None when it is gone."""

    topic: str
    saved: SavedProgress
    position: int
    kind: int
    attempts: int
    redriven: bool
    record: Record | None

    @property
    def key(self) -> bytes | None:
        return None if self.record is None else self.record.key

    def shown(self, cluster: str, topic: str) -> HaltedMessage:
        """For people. topic: the one that the group reads."""
        record, number = self.record, self.saved.partition
        ref = str(self.position) if record is None else record.ref
        message_id = (record.id if record is not None else None) or f"{cluster}:{topic}:{number}:{ref}"
        key = None if self.key is None else self.key.decode("utf-8", "surrogateescape")
        scope = "partition" if self.kind == PARTITION else "key"
        return HaltedMessage(number, ref, message_id, key, self.attempts, scope, self.redriven)


def in_group(admin: Admin, topic: str, group: str) -> list[SavedHalt]:
    """Halts of a group, owned or not, as of the newest settle. Raises NotSupported where the backend does not show what is saved."""
    retries = composed(topic, group, RETRIES)
    places = [(topic, saved, False) for saved in admin.saved(topic, group)]
    places += [(retries, saved, True) for saved in admin.saved(retries, group)]
    return [halt for name, saved, redriven in places for halt in _of_partition(admin, name, saved, redriven)]


def _of_partition(admin: Admin, name: str, saved: SavedProgress, redriven: bool) -> list[SavedHalt]:
    found = []
    for position, (kind, attempts) in sorted(saved_halts(saved.sparse).items()):
        record = _read(admin, name, saved.partition, position)
        found.append(SavedHalt(name, saved, position, kind, attempts, redriven, record))
    return found


def _read(admin: Admin, name: str, partition: int, position: int) -> Record | None:
    """The record at this place, None when retention or damage took it."""
    try:
        found = admin.read(name, partition, position, 1)
    except Corrupt:
        return None
    return found[0] if found and found[0].position == position else None


def release_saved(backend: Backend, group: str, halts: Sequence[SavedHalt], outcome: ReleaseAs) -> int:
    """Let the next owners of their partitions release these halts. Returns for how many that is stored.

    Raises StateError when the group has members: they know better than what is saved.
    """
    by_place: dict[tuple[str, SavedProgress], list[SavedHalt]] = {}
    for halt in halts:
        by_place.setdefault((halt.topic, halt.saved), []).append(halt)
    released = 0
    for (topic, saved), found in by_place.items():
        blob = amended(saved.sparse, {halt.position for halt in found}, outcome, backend.capabilities.sparse_bytes)
        if backend.admin().amend(topic, group, saved, blob):
            released += len(found)
    return released


def check_retries(declared: Declared, tuning: Tuning, capabilities: Capabilities, cluster: str) -> None:
    """Refuse a halt that could not be kept, and letters that could not be followed. Raises CapabilityError."""
    if tuning.retry.halts:
        _check_halts(declared, tuning, capabilities, cluster)
    if tuning.retry.dlq_follow_key:
        _check_following(declared, capabilities, cluster)


def _check_halts(declared: Declared, tuning: Tuning, capabilities: Capabilities, cluster: str) -> None:
    is_of_key = tuning.retry.on_exhausted == "halt_key"
    forgets = not capabilities.attempts or capabilities.sparse_bytes < HALT_BYTES
    wanted = [
        (declared.broadcast, "broadcast", "a broadcast keeps no progress, so nothing would remember the halt after a restart"),
        (forgets, "attempts", f"cluster {cluster} cannot keep it beside the progress, so the next owner of the partition would forget it"),
        (is_of_key and not declared.ordered, "ordered", "without `ordered=True` no message waits for its key"),
    ]
    fix = 'use "dead_letter" or "drop"' + (', "halt_partition", or ordered=True' if is_of_key else "")
    _refuse(declared, cluster, f'on_exhausted="{tuning.retry.on_exhausted}"', fix, wanted)


def _check_following(declared: Declared, capabilities: Capabilities, cluster: str) -> None:
    wanted = [
        (declared.broadcast, "broadcast", "the dead letters of a broadcast are of all instances"),
        (not declared.ordered, "ordered", "without `ordered=True` no message waits for its key"),
        (declared.dead_letter is not None, "dead_letter", "letters in a topic of your own are neither redriven nor purged by `mqsdk dlq`"),
        (not capabilities.read_by_position, "read_by_position", f"cluster {cluster} does not show which keys have dead letters"),
    ]
    _refuse(declared, cluster, "dlq_follow_key", "leave it out", wanted)


def _refuse(declared: Declared, cluster: str, name: str, fix: str, wanted: Sequence[tuple[bool, str, str]]) -> None:
    for missing, capability, reason in wanted:
        if missing:
            raise CapabilityError(
                f"consumer {declared.name} cannot have {name}: {reason}",
                where=f"cluster {cluster}",
                fix=fix,
                capability=capability,
                cluster=cluster,
                consumer=declared.name,
            )
