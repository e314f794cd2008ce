"""Stream ids and positions: the same order, each from the other.

The SDK numbers the entries of a stream itself: `0-1`, `0-2`, ... ; such an id is the position of the same number, so that positions are
consecutive and a hole is a loss. A foreign `XADD *` moves the stream to ids of the clock, `<ms>-<n>`; what follows is numbered on from
there, at positions from 2**62 on. 20 bits for `n` and 42 for the milliseconds (to the year 2109) keep every position below 2**63.
"""

from __future__ import annotations

CLOCK = 1 << 62
SEQUENCE_BITS = 20
MAX_SEQUENCE = (1 << SEQUENCE_BITS) - 1
START = b"0-0"
_LAST_SEQUENCE = (1 << 64) - 1


def position_of(stream_id: bytes) -> int:
    """The position of an entry."""
    if stream_id.startswith(b"0-"):
        return int(stream_id[2:])
    era, sequence = stream_id.split(b"-")
    return CLOCK | (int(era) << SEQUENCE_BITS) + int(sequence)


def id_of(position: int) -> bytes:
    """The id that an entry at this position has."""
    era, sequence = _parts(position)
    return b"%d-%d" % (era, sequence)


def id_before(position: int) -> bytes:
    """The highest id below a position: what a group has delivered last when it reads on from there."""
    era, sequence = _parts(position)
    if sequence:
        return b"%d-%d" % (era, sequence - 1)
    return b"%d-%d" % (era - 1, _LAST_SEQUENCE) if era else START


def era_of(position: int) -> int:
    """Positions of one era are consecutive; between eras there is a jump that means nothing."""
    return _parts(position)[0]


def clock_ms(position: int) -> int | None:
    """The server's clock when a foreign entry was stored; None for an entry that the SDK numbered."""
    return era_of(position) or None


def shown(position: int) -> str:
    """As people see it, in receipts, `peek` and `--from`: the number; for an entry numbered by the clock its id in the stream."""
    return str(position) if position < CLOCK else id_of(position).decode()


def _parts(position: int) -> tuple[int, int]:
    if position < CLOCK:
        return 0, max(position, 0)
    return (position ^ CLOCK) >> SEQUENCE_BITS, position & MAX_SEQUENCE
