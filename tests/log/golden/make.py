"""Writes a golden log with the engine, and what is to be read of it: `make.py FOLDER`.

Run by hand, and only when a *new* version of the format gets a golden log of its own. What exists is read for ever and never written again:
`test_golden.py` compares it with SHA256SUMS first. `make_codec.py` wrote the other one, `format_1_codec`, with what the engine reads but
does not write: a compressed batch.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from mqsdk_log.engine import damage, state
from mqsdk_log.engine import format as fmt
from mqsdk_log.engine.groups import Group
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.shared import Limits

NOW_MS = 1_700_000_000_000
FAR_MS = 4_000_000_000_000
HINTS = ("state", "*.due", "wake", "lock", "sync.lock", "delay.lock", "open.lock")  # of one boot and place, made anew


def main(folder: Path) -> None:
    root = folder / "root"
    with Log.open(root, limits=Limits(segment_bytes=800, min_free_bytes=0)) as log:
        orders = log.create_topic("orders", 2)
        _records(orders.partition(0))
        _records(orders.partition(1), count=1)
        _delayed(orders.partition(1))
        log.create_topic("orders.billing.dlq", 1).partition(0).append([(b"k", b"", b"dead", 0, 0, 11)], timestamp_ms=NOW_MS)
        log.keep("orders", 86400.0)
    _group(root)
    _damage(root)
    _left_out(root)
    with Log.open(root, limits=Limits(segment_bytes=800, min_free_bytes=0)) as log:  # recovery leaves offsets out: a segment with JUMP
        log.floor = lambda topic, partition: 40 if (topic, partition) == ("orders", 1) else 0
        log.topic("orders").partition(1).append([(None, b"", b"behind a jump", 0, 0, 1)], timestamp_ms=NOW_MS + 9)
    _left_out(root)
    _remember(folder, root)


def _records(partition: Any, count: int = 5) -> None:
    block = fmt.encode_headers([(b"mq-id", b"id-7"), (b"content-type", b"text/plain"), (b"empty", b"")])
    for number in range(count):
        records = [(b"key", block, b"value %d" % number, 0, 0, 1), (None, b"", b"", 3, 0, 2), (b"", b"", bytes(range(40)), -5, 0, 65535)]
        partition.append(records, timestamp_ms=NOW_MS + number, producer_id=0xFEDCBA9876543210, producer_seq=3 * number)
    partition.sync()


def _delayed(partition: Any) -> None:
    partition.delays.put([(b"soon", b"", b"moved", 0, 0, 1)], [NOW_MS + 5], timestamp_ms=NOW_MS)
    partition.move(NOW_MS + 6)
    partition.delays.put([(b"late", b"", b"waits", 0, 0, 1), (None, b"", b"too", 0, 0, 1)], [FAR_MS, FAR_MS + 1], timestamp_ms=NOW_MS)
    partition.delays.checkpoint()


def _group(root: Path) -> None:
    group = Group(root, "billing")
    group.ensure("orders", [0, 0])
    cursors = group.cursors("orders")
    cursors.store(0, cursors.read(0)._replace(watermark=4, high=9, sparse=b"sparse blob", clean=False))
    cursors.store(0, cursors.read(0)._replace(watermark=6))
    cursors.close()


def _damage(root: Path) -> None:
    """The second batch of the first segment fails its checksum and is recorded as lost."""
    folder = root / "topics/orders/0"
    path = folder / f"{0:020d}.log"
    data = bytearray(path.read_bytes())
    at = data.index(b"MQB1", data.index(b"MQB1") + 4)
    data[at + 64 + 30] ^= 1
    path.write_bytes(data)
    directory = os.open(root / "topics/orders", os.O_RDONLY)
    damage.record(directory, 0, 3, 6)
    os.close(directory)


def _left_out(root: Path) -> None:
    for hint in HINTS:
        for path in list(root.rglob(hint)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _remember(folder: Path, root: Path) -> None:
    sums = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.rglob("*")) if path.is_file()
    }
    (folder / "SHA256SUMS").write_text("".join(f"{value}  {name}\n" for name, value in sums.items()))


assert state.NAME in HINTS

if __name__ == "__main__":
    main(Path(sys.argv[1]))
