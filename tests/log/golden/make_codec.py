"""Writes the golden log of format 1. Run by hand only when a *new* version of the format gets a golden log of its own: the files that exist
are read for ever, so that no later change can make old logs unreadable.
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path

from mqsdk_log.engine import checkpoint, files, index
from mqsdk_log.engine import format as fmt

UUID = bytes(range(16))
SALT = 0x5EED5EED
CREATED = 1_700_000_000_000


def batch(base: int, records: list[fmt.NewRecord], stamp: tuple[int, int, int, int]) -> bytes:
    body = fmt.encode_body(records)
    return fmt.encode_header(body, base, SALT, stamp) + body.data


def compressed(base: int, records: list[fmt.NewRecord], stamp: tuple[int, int, int, int]) -> bytes:
    body = fmt.encode_body(records)
    stored = zlib.compress(body.data, 1)
    tail = fmt.HEADER_TAIL.pack(
        len(stored), body.records, base, stamp[0], stamp[1], zlib.crc32(stored), fmt.CODEC_ZLIB, 20, stamp[2], stamp[3], len(body.data)
    )
    return fmt.HEADER_HEAD.pack(fmt.BATCH_MAGIC_WORD, zlib.crc32(tail, SALT)) + tail + stored


def first_segment() -> bytes:
    header = fmt.encode_segment_header(fmt.SegmentHeader(SALT, 0, CREATED, UUID, 0))
    block = fmt.encode_headers([(b"content-type", b"text/plain"), (b"empty", b"")])
    lone = batch(0, [(None, b"", b"hello", 0, 0, 1)], (CREATED, CREATED, 0, 0))
    several = batch(
        1, [(b"a", block, b"one", 5, 0, 1), (b"", b"", b"", -7, 0, 3), (b"b", b"", b"three", 6, 0, 1)], (CREATED, CREATED + 6, 77, 40)
    )
    return header + lone + several + compressed(4, [(b"z", b"", b"zip" * 50, 0, 0, 1)] * 2, (CREATED + 10, CREATED + 10, 0, 0))


def main(root: Path) -> None:
    partition = root / "topics" / "golden" / "0"
    partition.mkdir(parents=True)
    (root / "MQSDK").write_text(f"format=1\ncreated={CREATED}\nuuid={UUID.hex()}\n")
    settings = {"version": 1, "partitions": 1, "uuid": UUID.hex(), "durability": "interval", "generation": 1}
    (partition.parent / "topic.json").write_text(json.dumps(settings))
    data = first_segment()
    (partition / f"{0:020d}.log").write_bytes(data)
    (partition / f"{0:020d}.idx").write_bytes(index.entry(0, 1, 64 + 64 + 25))
    second = fmt.encode_segment_header(fmt.SegmentHeader(SALT + 1, 6, CREATED + 20, UUID, 0))
    body = fmt.encode_body([(b"k", b"", b"last", 0, 0, 1)])
    second += fmt.encode_header(body, 6, SALT + 1, (CREATED + 20, CREATED + 20, 0, 0)) + body.data
    (partition / f"{6:020d}.log").write_bytes(second)
    directory = files.open_dir(partition)
    checkpoint.store(directory, checkpoint.Mark(1, 0, 64 + 64 + 25))
    files.close(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
