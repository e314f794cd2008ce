"""Which partition a key belongs to: Kafka's murmur2, so that Kafka clients of every language and every backend of ours agree."""

from __future__ import annotations

from functools import lru_cache

_M = 0x5BD1E995
_SEED = 0x9747B28C
_MASK = 0xFFFFFFFF

# Hashing in Python costs about 0.25 us per 4 bytes of key. Keys repeat; this many of them stay known (under 4 MB).
CACHED_KEYS = 16_384


def murmur2(data: bytes) -> int:
    """The 32-bit murmur2 hash as an unsigned int; `org.apache.kafka.common.utils.Utils.murmur2` returns the same bits, signed."""
    length = len(data)
    value = _SEED ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        value = (value * _M & _MASK) ^ k
    if length & 3:
        value = (value ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    value = (value ^ value >> 13) * _M & _MASK
    return value ^ value >> 15


@lru_cache(maxsize=CACHED_KEYS)
def partition_of(key: bytes, partitions: int) -> int:
    """Number of the partition of `key` among `partitions` (1 or more): `(murmur2 & 0x7fffffff) % partitions`. Any thread."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
