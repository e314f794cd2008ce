"""What a process tells of a move over the clusters themselves: one small JSON document per topic, in `mq.moves`.

Read from a cluster it is a stranger's word: what does not fit is None, never an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from mqsdk.core.move import Instance

TOPIC = "mq.moves"
VERSION = 1
MAX_BYTES = 64 * 1024


class Report(NamedTuple):
    """instance: name of the process, as in member lists. incarnation: another one after each start. stage, epoch: of the move as it
    follows it. waits_for: as in Instance. held: messages in its hands, by cluster. groups: of its consumers of the topic, with whether
    they are ordered. every_s: how often it reports. left: it has closed. shadows: in stage `dual_write`, how many were `stored` and
    `failed`, and `since_ms`: by the clock of its publishes, all of them after that have one.
    """

    instance: str
    host: str
    pid: int
    incarnation: str
    topic: str
    stage: str
    epoch: int
    waits_for: str = ""
    held: Mapping[str, int] = {}
    groups: Mapping[str, bool] = {}
    every_s: float = 0.0
    left: bool = False
    shadows: Mapping[str, int] = {}

    def encoded(self) -> bytes:
        return json.dumps({"v": VERSION, **self._asdict()}, separators=(",", ":")).encode()

    def seen(self, *, gone: bool) -> Instance:
        stored, failed = (self.shadows.get(name, 0) for name in ("stored", "failed"))
        return Instance(self.instance, self.epoch, self.stage, self.waits_for, tuple(sorted(self.held.items())), gone, stored, failed)


def decoded(value: bytes) -> Report | None:
    """None for what is no report of a version that is known here."""
    try:
        found = json.loads(value) if len(value) <= MAX_BYTES else None
        return _report(found) if isinstance(found, dict) and found.get("v") == VERSION else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _report(found: Mapping[str, Any]) -> Report:
    return Report(
        instance=str(found["instance"]),
        host=str(found["host"]),
        pid=int(found["pid"]),
        incarnation=str(found["incarnation"]),
        topic=str(found["topic"]),
        stage=str(found["stage"]),
        epoch=int(found["epoch"]),
        waits_for=str(found["waits_for"]),
        held={str(name): int(count) for name, count in dict(found["held"]).items()},
        groups={str(name): bool(is_ordered) for name, is_ordered in dict(found["groups"]).items()},
        every_s=float(found["every_s"]),
        left=bool(found["left"]),
        shadows={str(name): int(count) for name, count in dict(found.get("shadows", {})).items()},
    )
