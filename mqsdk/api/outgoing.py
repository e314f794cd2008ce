"""Arguments of publish, checked and encoded at the call: from what the user wrote to Drafts. Nothing here waits or sends.

Every violation is InvalidMessage with the argument's name; texts name types, sizes and positions, never a key, header value or payload.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import count, repeat
from typing import Any, NamedTuple, NoReturn, cast

from mqsdk import names, units
from mqsdk.api.encoding import BINARY, TEXT, NotEncodable, encode
from mqsdk.api.payload import Limits
from mqsdk.api.publishing import Key
from mqsdk.errors import Duration, InvalidMessage, PublishRejected
from mqsdk.message import CURRENT, Outgoing, current_message
from mqsdk.runtime.sender import Draft

MAX_KEY_BYTES = 1024
MAX_HEADERS, MAX_HEADER_BYTES = 64, 16 * 1024
MAX_ID = 128
MAX_DELAY_S = 366 * 86_400.0
ROUNDING_MS = 1e-3  # of the difference of two floats: what is asked for in whole milliseconds stays whole
TRACE_HEADERS = ("traceparent", "tracestate")

Headers = tuple[tuple[str, str], ...]

_LOW_DIGITS = [f"{number:02x}" for number in range(0x100)]


class Ids:
    """Message ids in the shape of UUIDv7: one prefix of time and chance per opened App, then a counter.

    A fresh UUID a message costs 1.5 us; this costs 0.15. 42 random bits beside the millisecond keep two processes apart. Any thread, and
    without a lock, which a signal handler that publishes could find held: `count` hands out each number once. A prefix that is used up
    is replaced by a new one; two threads at once only make two. A forked child never uses its parent's (publishing there is refused).
    """

    def __init__(self, now_ms: int, random_bits: Callable[[int], int]) -> None:
        self._now_ms = now_ms
        self._random_bits = random_bits
        self._single = (self._make_prefix(), count())
        self._blocks = (self._make_prefix(), count())

    def _make_prefix(self) -> str:
        moment, chance = f"{self._now_ms & 0xFFFFFFFFFFFF:012x}", f"{self._random_bits(42) & 0x3FFFFFFFFFF:011x}"
        variant = f"{0x8 | self._random_bits(2) & 0x3:x}"
        return f"{moment[:8]}-{moment[8:]}-7{chance[:3]}-{variant}{chance[3:6]}-{chance[6:10]}"

    def one(self) -> str:
        prefix, numbers = self._single
        number = next(numbers)
        if number > 0xFFFFFFFF:
            self._single = prefix, numbers = self._make_prefix(), count()
            number = next(numbers)
        return f"{prefix}{number:08x}"

    def many(self, number: int) -> list[str]:
        """`number` ids, rising within 256 of them: cut from blocks of 256, so that most of the text is made once a block."""
        made: list[str] = []
        while len(made) < number:
            prefix, blocks = self._blocks
            block = next(blocks)
            if block > 0xFFFFFF:
                self._blocks = self._make_prefix(), count()
                continue
            high = f"{prefix}{block:06x}"
            made += [high + low for low in _LOW_DIGITS[: number - len(made)]]
        return made


def refuse(field: str, what: str, *, topic: str = "", id: str = "", code: str = "invalid", fix: str = "") -> NoReturn:
    raise InvalidMessage(what, field=field, code=code, topic=topic, id=id, fix=fix)


def check_topic(topic: object) -> str:
    problem = names.topic_problem(topic)
    if problem is not None:
        raise InvalidMessage(problem, field="topic", fix=names.topic_fix(topic))
    return str(topic)


def key_bytes(key: object, topic: str) -> bytes:
    """`str` as UTF-8, `bytes` as they are, `int` as decimal; 1 to 1,024 bytes."""
    try:
        raw = key.encode() if type(key) is str else key if type(key) is bytes else _odd_key(key, topic)
    except UnicodeEncodeError:
        refuse("key", "the key has characters that UTF-8 cannot carry (lone surrogates)", topic=topic)
    if not 1 <= len(raw) <= MAX_KEY_BYTES:
        refuse("key", f"a key has 1 to {MAX_KEY_BYTES:,} bytes, not {len(raw):,}", topic=topic)
    return raw


def _odd_key(key: object, topic: str) -> bytes:
    if isinstance(key, bool) or not isinstance(key, str | bytes | int):
        refuse("key", f"a key is str, bytes or int, not {type(key).__name__}", topic=topic)
    if isinstance(key, int):
        if key.bit_length() > 8 * MAX_KEY_BYTES:  # before str(), which is quadratic and has a limit of its own
            refuse("key", f"a key has 1 to {MAX_KEY_BYTES:,} bytes", topic=topic)
        return str(int(key)).encode()
    return key.encode() if isinstance(key, str) else bytes(key)


def header_pairs(headers: object, topic: str) -> Headers:
    """The user's headers as pairs, in their order."""
    if not isinstance(headers, Mapping):
        refuse("headers", f"headers are a mapping of str to str, not {type(headers).__name__}", topic=topic)
    if len(headers) > MAX_HEADERS:
        refuse("headers", f"at most {MAX_HEADERS} headers, not {len(headers):,}", topic=topic)
    size = 0
    for name, value in headers.items():
        problem = _header_problem(name, value)
        if problem is not None:
            refuse("headers", problem, topic=topic)
        size += len(name.encode()) + len(value.encode())
    if size > MAX_HEADER_BYTES:
        refuse("headers", f"names and values have {size:,} bytes, at most {MAX_HEADER_BYTES:,} are allowed", topic=topic)
    return tuple(headers.items())


def _header_problem(name: object, value: object) -> str | None:
    if not isinstance(name, str) or not isinstance(value, str):
        return f"headers map str to str, not {type(name).__name__} to {type(value).__name__}"
    shown = names.shown(name)
    if not name:
        return "a header has an empty name"
    if name.lower().startswith("mq-"):
        return f"header {shown}: names that begin with `mq-` are reserved"
    if name.lower() == "content-type":
        return "the header `content-type` follows from the payload"
    if any(character in text for text in (name, value) for character in "\r\n\0"):
        return f"header {shown} holds a line break or NUL"
    try:
        (name + value).encode()
    except UnicodeEncodeError:
        return f"header {shown} has characters that UTF-8 cannot carry"
    return None


def traced(headers: Headers) -> Headers:
    """Headers with the trace of the message that is being handled here, unless they bring their own."""
    if CURRENT.get() is None:
        return headers
    message = current_message()
    given = {} if message is None else message.headers
    own = {name for name, _ in headers}
    if not given or "traceparent" in own:
        return headers
    return headers + tuple((name, given[name]) for name in TRACE_HEADERS if name in given and name not in own)


def check_id(id: object, topic: str) -> str:
    if not isinstance(id, str) or not 1 <= len(id) <= MAX_ID or not id.isascii() or not all("!" <= character <= "~" for character in id):
        refuse("id", f"an id is 1 to {MAX_ID} visible ASCII characters", topic=topic)
    return id


class Rules(NamedTuple):
    """What every message of one opened App goes by. can_delay: raises PublishRejected for a topic whose cluster cannot delay."""

    limits: Limits
    ids: Ids
    now_ms: Callable[[], int]
    can_delay: Callable[[str], None]


def due_ms(delay: Duration | None, at: datetime | None, topic: str, rules: Rules) -> int | None:
    """When it is due, wall clock in milliseconds; None for now. Refuses what is wrong, and what the cluster cannot keep."""
    if delay is None and at is None:
        return None
    now_ms = rules.now_ms()
    if delay is not None and at is not None:
        refuse("at", "give `delay` or `at`, not both", topic=topic)
    wait_s = _delay_s(delay, topic) if delay is not None else _until_s(at, topic, now_ms) if at is not None else 0.0
    if wait_s > MAX_DELAY_S:
        refuse("delay" if at is None else "at", "a message is delayed by at most 366 days", topic=topic)
    if wait_s <= 0:
        return None
    rules.can_delay(topic)
    return now_ms + math.ceil(wait_s * 1000 - ROUNDING_MS)


def _delay_s(delay: Duration, topic: str) -> float:
    try:
        return units.seconds(delay)
    except ValueError as error:
        refuse("delay", f"`delay`: {error}", topic=topic)


def _until_s(at: object, topic: str, now_ms: int) -> float:
    if not isinstance(at, datetime):
        refuse("at", f"`at` is an aware datetime, not {type(at).__name__}", topic=topic)
    if at.tzinfo is None or at.utcoffset() is None:
        refuse("at", "`at` is a datetime with a time zone", topic=topic, fix="for example datetime.now(UTC) + timedelta(...)")
    return at.timestamp() - now_ms / 1000


def seconds_of(timeout: Duration) -> float:
    try:
        return units.seconds(timeout)
    except ValueError as error:
        refuse("timeout", f"`timeout`: {error}")


def encoded(payload: Any, topic: str, limits: Limits) -> tuple[bytes, str]:
    """(bytes, content type) of a payload that may go out."""
    if payload is None:
        refuse("payload", "the payload is None", topic=topic, fix="to send nothing but a key publish b''")
    try:
        value, content_type = encode(payload)
    except NotEncodable as error:
        refuse("payload", f"the payload cannot be sent: {error}", topic=topic)
    if len(value) > limits.payload:
        too_large(value, topic, limits)
    return value, content_type


def too_large(value: bytes, topic: str, limits: Limits) -> NoReturn:
    refuse(
        "payload",
        f"the payload has {len(value):,} bytes, at most {limits.payload:,} are allowed",
        topic=topic,
        code="too_large",
        fix="raise limits.payload, or store it elsewhere and publish where it is",
    )


def draft(
    topic: str,
    payload: Any,
    rules: Rules,
    *,
    key: Key | None = None,
    headers: Mapping[str, str] | None = None,
    delay: Duration | None = None,
    at: datetime | None = None,
    id: str | None = None,
) -> Draft:
    """One message, checked and encoded. Raises InvalidMessage, and PublishRejected for a delay that the cluster cannot keep."""
    raw_key = None if key is None else key_bytes(key, topic)
    pairs = () if headers is None else header_pairs(headers, topic)
    name = rules.ids.one() if id is None else check_id(id, topic)
    value, content_type = encoded(payload, topic, rules.limits)
    return Draft(raw_key, value, name, content_type, traced(pairs), due_ms(delay, at, topic, rules))


# tuple.__new__ itself: by columns and without the generated __new__ a draft of plain bytes costs a third.
_draft = cast("Callable[[Any], Draft]", partial(tuple.__new__, Draft))


def drafts(topic: str, items: Iterable[Any], key: Key | Callable[[Any], Key | None] | None, rules: Rules) -> list[Draft]:
    """Items of publish_many; one violation refuses all of them, before anything is sent, and names its index."""
    if isinstance(items, str | bytes | bytearray | Mapping) or not isinstance(items, Iterable):
        refuse(
            "items", f"items are an iterable of payloads, not {type(items).__name__}", topic=topic, fix="wrap a single payload in a list"
        )
    listed: Sequence[Any] = items if isinstance(items, list | tuple) else list(items)
    limits, ids = rules.limits, rules.ids
    choose = key if callable(key) else None
    fixed = None if key is None or choose is not None else key_bytes(key, topic)
    headers, limit, make = traced(()), limits.payload, tuple.__new__  # the generated __new__ of a NamedTuple costs 0.2 us more
    if choose is None and set(map(type, listed)) == {bytes} and max(map(len, listed)) <= limit:
        rows = zip(
            repeat(fixed),
            listed,
            ids.many(len(listed)),
            repeat(BINARY),
            repeat(headers),
            repeat(None),
            repeat(()),
            repeat(1),
            repeat(False),
        )
        return list(map(_draft, rows))
    made: list[Draft] = []
    append = made.append
    for payload, name in zip(listed, ids.many(len(listed)), strict=True):
        kind = type(payload)
        try:
            if kind is bytes:
                value, content_type = payload, BINARY
            elif kind is str:
                value, content_type = payload.encode(), TEXT
            elif kind is Outgoing:
                append(_outgoing_draft(topic, payload, key, rules))
                continue
            else:
                value, content_type = encoded(payload, topic, limits)
            if len(value) > limit:
                too_large(value, topic, limits)
            raw_key = fixed if choose is None else _chosen_key(choose, payload, topic)
        except (PublishRejected, UnicodeEncodeError) as error:
            raise _at_index(error, len(made), topic) from None
        append(make(Draft, (raw_key, value, name, content_type, headers, None, (), 1, False)))
    return made


def _chosen_key(choose: Callable[[Any], Key | None], payload: Any, topic: str) -> bytes | None:
    key = choose(payload)
    return None if key is None else key_bytes(key, topic)


def _outgoing_draft(topic: str, item: Outgoing, key: Any, rules: Rules) -> Draft:
    own = item.key if item.key is not None else key(item.payload) if callable(key) else key
    return draft(topic, item.payload, rules, key=own, headers=item.headers, delay=item.delay, at=item.at, id=item.id)


def _at_index(error: Exception, index: int, topic: str) -> PublishRejected:
    if isinstance(error, InvalidMessage):
        return InvalidMessage(f"item {index}: {error.what}", field=error.field, code=error.code, topic=topic, id=error.id, fix=error.fix)
    if isinstance(error, PublishRejected):
        return PublishRejected(f"item {index}: {error.what}", code=error.code, topic=topic, id=error.id, where=error.where, fix=error.fix)
    return InvalidMessage(f"item {index}: the text has characters that UTF-8 cannot carry", field="payload", topic=topic)
