"""`damage.json` of a topic: ranges of offsets that are known to be lost. Written by recovery, read by readers that meet a hole."""

from __future__ import annotations

import json
import time

from . import files
from .errors import UNEXPECTED

NAME = "damage.json"
_PATIENCE_S = 5.0  # held for one small write; the caller holds the partition lock meanwhile


def load(directory: int) -> dict[str, list[list[int]]]:
    """Partition number as text -> [[start, stop], ...]; empty when there is no file or it cannot be read."""
    try:
        found = json.loads(files.read_all(NAME, directory))
        if all(isinstance(low, int) and isinstance(high, int) for ranges in found.values() for low, high in ranges):
            return {str(partition): [list(pair) for pair in ranges] for partition, ranges in found.items()}
    except (FileNotFoundError, *UNEXPECTED):
        return {}
    return {}


def record(directory: int, partition: int, start: int, stop: int) -> None:
    """Add [start, stop) unless it is known. Serialised by a flock on the topic's directory; LockTimeout when a stopped process holds it."""
    fd = files.open_dir(".", directory)
    try:
        with files.locked(fd, deadline=time.monotonic() + _PATIENCE_S, what="the topic directory"):
            ranges = load(directory)
            mine = ranges.setdefault(str(partition), [])
            if [start, stop] not in mine:
                mine.append([start, stop])
                mine.sort()
                files.replace(NAME, json.dumps(ranges).encode(), directory)
    finally:
        files.close(fd)


def covers(directory: int, partition: int, start: int, stop: int) -> bool:
    """Whether any known damage lies in [start, stop)."""
    return any(low < stop and high > start for low, high in load(directory).get(str(partition), []))
