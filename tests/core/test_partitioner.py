"""The partition of a key is Kafka's, or producers in other languages would spread one key over two partitions."""

from __future__ import annotations

import pytest

from mqsdk.core import partitioner
from mqsdk.core.partitioner import murmur2, partition_of

# org.apache.kafka.common.utils.UtilsTest.testMurmur2
KAFKA_VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("data", "expected"), KAFKA_VECTORS.items())
def test_murmur2_equals_kafkas(data: bytes, expected: int) -> None:
    signed = murmur2(data) - (1 << 32 if murmur2(data) >> 31 else 0)
    assert signed == expected


def test_the_partition_takes_the_sign_bit_away_before_the_remainder() -> None:
    assert partition_of(b"21", 8) == (-973932308 & 0x7FFFFFFF) % 8
    assert partition_of(b"anything", 1) == 0


def test_known_keys_are_bounded() -> None:
    partition_of.cache_clear()
    for number in range(partitioner.CACHED_KEYS + 1000):
        partition_of(b"%d" % number, 8)
    assert partition_of.cache_info().currsize == partitioner.CACHED_KEYS
