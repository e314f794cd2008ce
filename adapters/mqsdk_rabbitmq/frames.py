"""Frames of deliveries, read without making an object of the client for each: that is two thirds of the client's time per message.

Only what a delivery consists of is read here (AMQP 0-9-1, 2.3.5 and 4.2); every other frame goes to the client as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from mqsdk_rabbitmq.records import FRAME_END, FRAME_OVERHEAD, Delivery

_HEAD = struct.Struct(">BHI")
_LONG = struct.Struct(">Q")
_METHOD, _HEADER, _BODY = 1, 2, 3
_DELIVER = b"\x00\x3c\x00\x3c"
_PROPERTIES_AT = 12  # class, weight, size of the body
_END = FRAME_END[0]


class Assembly:
    """The delivery of one channel that is being read. put: called with each that is whole."""

    __slots__ = ("left", "parts", "properties", "put", "redelivered", "tag")

    def __init__(self, put: Callable[[Delivery], None]) -> None:
        self.put = put
        self.tag = 0
        self.redelivered = False
        self.properties = b""
        self.parts: list[bytes] = []
        self.left = 0


class BadFrame(ValueError):
    """The bytes are no frame."""


def read(data: bytes, assemblies: Mapping[int, Assembly], other: Callable[[bytes], None]) -> int:
    """Work off whole frames; how many bytes they took. Frames that are part of no delivery of these channels go to `other`."""
    at, end = 0, len(data)
    while end - at >= FRAME_OVERHEAD:
        kind, channel, size = _HEAD.unpack_from(data, at)
        stop = at + FRAME_OVERHEAD + size
        if stop > end:
            break
        if data[stop - 1] != _END:
            raise BadFrame("a frame does not end where it should")
        assembly = assemblies.get(channel)
        if assembly is None or not _took(assembly, kind, data, at + 7, stop - 1):
            other(data[at:stop])
        at = stop
    return at


def _took(assembly: Assembly, kind: int, data: bytes, start: int, stop: int) -> bool:
    """Whether the frame is part of a delivery. start, stop: of its payload."""
    if kind == _BODY:
        piece = data[start:stop]
        assembly.left -= len(piece)
        if assembly.left > 0:
            assembly.parts.append(piece)
        elif assembly.parts:
            assembly.put((assembly.tag, assembly.redelivered, assembly.properties, b"".join((*assembly.parts, piece))))
        else:
            assembly.put((assembly.tag, assembly.redelivered, assembly.properties, piece))
        return True
    if kind == _HEADER:
        assembly.left = _LONG.unpack_from(data, start + 4)[0]
        assembly.properties = data[start + _PROPERTIES_AT : stop]
        assembly.parts = []
        if assembly.left == 0:
            assembly.put((assembly.tag, assembly.redelivered, assembly.properties, b""))
        return True
    if kind == _METHOD and data[start : start + 4] == _DELIVER:
        tag_at = start + 5 + data[start + 4]  # behind the consumer's tag
        assembly.tag = _LONG.unpack_from(data, tag_at)[0]
        assembly.redelivered = bool(data[tag_at + 8] & 1)
        return True
    return False
