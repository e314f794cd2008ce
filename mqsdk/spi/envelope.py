"""The `mq-*` headers of one message: names, and the translation between them and the fields of Record and NewRecord.

For adapters over a system that carries headers. All values are UTF-8 text; what does not parse is treated as foreign, never as an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import overload

from mqsdk.spi.events import NewRecord

ID, TIMESTAMP, VERSION, PRODUCER, SEQUENCE = "mq-id", "mq-ts", "mq-v", "mq-pid", "mq-seq"
ATTEMPT, DUE, CONTENT_TYPE = "mq-attempt", "mq-due", "content-type"
ENVELOPE_VERSION = "1"
MAX_HEADERS = 256  # from the wire; four times what publish lets in, so that foreign producers are heard


@dataclass(frozen=True, slots=True)
class Envelope:
    """The fields of Record that headers carry. `headers`: the user's; `extra`: further `mq-*` (dead letters, redrive)."""

    id: str | None = None
    timestamp_ms: int | None = None
    content_type: str | None = None
    producer: str = ""
    sequence: int = -1
    attempt: int = 1
    due_ms: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    extra: tuple[tuple[str, str], ...] = ()


def encode_headers(record: NewRecord) -> list[tuple[str, bytes]]:
    """All headers of a message as they go over the wire, ours first."""
    pairs = [(ID, record.id), (TIMESTAMP, str(record.timestamp_ms)), (VERSION, ENVELOPE_VERSION)]
    if record.producer:
        pairs += [(PRODUCER, record.producer), (SEQUENCE, str(record.sequence))]
    if record.attempt > 1:
        pairs.append((ATTEMPT, str(record.attempt)))
    if record.due_ms is not None:
        pairs.append((DUE, str(record.due_ms)))
    if record.content_type is not None:
        pairs.append((CONTENT_TYPE, record.content_type))
    pairs += record.extra
    pairs += record.headers
    return [(name, value.encode()) for name, value in pairs]


def decode_headers(pairs: Iterable[tuple[str, bytes]]) -> Envelope:
    """Headers from the wire, untrusted: at most MAX_HEADERS are read, bytes that are not UTF-8 come by `surrogateescape`."""
    ours: dict[str, str] = {}
    users: list[tuple[str, str]] = []
    for count, (name, raw) in enumerate(pairs):
        if count >= MAX_HEADERS:
            break
        value = raw.decode("utf-8", "surrogateescape")
        if name.startswith("mq-") or name == CONTENT_TYPE:
            ours[name] = value
        else:
            users.append((name, value))
    return Envelope(
        id=ours.pop(ID, None) or None,
        timestamp_ms=_integer(ours.pop(TIMESTAMP, None), None),
        content_type=ours.pop(CONTENT_TYPE, None),
        producer=ours.pop(PRODUCER, ""),
        sequence=_integer(ours.pop(SEQUENCE, None), -1),
        attempt=max(1, _integer(ours.pop(ATTEMPT, None), 1)),
        due_ms=_integer(ours.pop(DUE, None), None),
        headers=tuple(users),
        extra=tuple(item for item in ours.items() if item[0] != VERSION),
    )


@overload
def _integer(text: str | None, default: int) -> int: ...
@overload
def _integer(text: str | None, default: None) -> int | None: ...
def _integer(text: str | None, default: int | None) -> int | None:
    if text is None or len(text) > 20 or not text.isascii() or not text.lstrip("-").isdecimal():
        return default
    try:
        return int(text)
    except ValueError:
        return default
