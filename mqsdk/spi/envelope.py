"""The `mq-*` headers of one message: names, and the translation between them and the fields of Record and NewRecord.

For adapters over a system that carries headers. All values are UTF-8 text; what does not parse is treated as foreign, never as an error.
Where each header costs the system or its client, those that every message has go as one, `mq`, which stands first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import overload

from mqsdk.spi.events import NewRecord

ID, TIMESTAMP, VERSION, PRODUCER, SEQUENCE = "mq-id", "mq-ts", "mq-v", "mq-pid", "mq-seq"
ATTEMPT, DUE, AGAIN, CONTENT_TYPE = "mq-attempt", "mq-due", "mq-again", "content-type"
ENVELOPE_VERSION = "1"
PACKED = "mq"
_IN_PACKED = (VERSION, ID, TIMESTAMP, PRODUCER, SEQUENCE, CONTENT_TYPE)
_FORMAT = ENVELOPE_VERSION.encode() + b" "
_NO_PRODUCER = (PRODUCER, b"-")
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
    again: bool = False
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
    if record.again:
        pairs.append((AGAIN, "1"))
    if record.content_type is not None:
        pairs.append((CONTENT_TYPE, record.content_type))
    pairs += record.extra
    pairs += record.headers
    return [(name, value.encode()) for name, value in pairs]


def pack(record: NewRecord) -> bytes | None:
    """`<mq-v> <mq-id> <mq-ts> <mq-pid or -> <mq-seq>`, and the content type behind it where there is one.

    None where it cannot hold them: an id of a foreign message, with a space in it. Then they go as `encode_headers` says.
    """
    if " " in record.id or " " in record.producer:
        return None
    text = f"{ENVELOPE_VERSION} {record.id} {record.timestamp_ms} {record.producer or '-'} {record.sequence}"
    return (text if record.content_type is None else f"{text} {record.content_type}").encode()


def is_packed(value: bytes) -> bool:
    """Whether the value of a header `mq` is what `pack` makes: a user's header may have this name too."""
    return value.startswith(_FORMAT)


def unpack(value: bytes) -> Iterator[tuple[str, bytes]]:
    """The headers that stand in it."""
    found = zip(_IN_PACKED, value.split(b" ", len(_IN_PACKED) - 1), strict=False)
    return (pair for pair in found if pair != _NO_PRODUCER)


def encode_rest(record: NewRecord) -> list[tuple[str, bytes]]:
    """All headers that `pack` leaves out."""
    pairs = []
    if record.attempt > 1:
        pairs.append((ATTEMPT, b"%d" % record.attempt))
    if record.due_ms is not None:
        pairs.append((DUE, b"%d" % record.due_ms))
    if record.again:
        pairs.append((AGAIN, b"1"))
    pairs += [(name, value.encode()) for name, value in (*record.extra, *record.headers)]
    return pairs


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
        again=ours.pop(AGAIN, None) is not None,
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
