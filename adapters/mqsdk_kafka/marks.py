"""What stands beside a committed offset: `mq1:<state>:<epoch>:<blob>`, at most 4,096 characters of a broker as it comes.

The broker counts UTF-16 units of `offset.metadata.max.bytes`, so that Base 85 (five characters for four bytes) is the densest plain text.
Anything else is another client's and reads as nothing: the first owner of its group begins at its offset.
"""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

PREFIX = "mq1"
OWNED, HANDED_BACK = "o", "c"
HEAD = len(f"{PREFIX}:o::") + 20  # an epoch of 64 bits at its longest
BROKER_LIMIT = 4096  # default of offset.metadata.max.bytes


class Mark(NamedTuple):
    """clean: the last owner handed the partition back in order. epoch: number of its ownership. blob: layer 2's, as it gave it."""

    clean: bool = True
    epoch: int = 0
    blob: bytes = b""


def room(limit: int) -> int:
    """How many bytes of a blob fit where the broker takes `limit` characters."""
    return max(0, (limit - HEAD) // 5 * 4)


def encode(mark: Mark) -> str:
    return f"{PREFIX}:{HANDED_BACK if mark.clean else OWNED}:{mark.epoch}:{base64.b85encode(mark.blob).decode()}"


def decode(text: str | None) -> Mark:
    """Never raises: what does not parse is foreign."""
    parts = (text or "").split(":", 3)
    if len(parts) != 4 or parts[0] != PREFIX or parts[1] not in (OWNED, HANDED_BACK) or not _is_number(parts[2]):
        return Mark()
    try:
        blob = base64.b85decode(parts[3])
    except (ValueError, binascii.Error):
        return Mark()
    return Mark(parts[1] == HANDED_BACK, int(parts[2]), blob)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 20
