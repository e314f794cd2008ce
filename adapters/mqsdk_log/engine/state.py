"""The state page of a topic: one mapped file of native u64 words that holds every partition's tail and who is asleep.

A hint: rebuilt by recovery whenever its boot tag does not match. Words are read and written only through a memoryview of u64: its loads and
stores are single instructions (no tear in 2*10^8 trials), while `struct` is byte-wise by contract. The file is fully allocated.

Page 0: magic, version, partition count, boot tag, topic generation; bytes 512 to 1023: 64 waiter words. From byte 4096: slots of 128 bytes.
"""

from __future__ import annotations

import contextlib
import zlib
from typing import Any

from . import files
from .errors import BadRoot

NAME = "state"
MAGIC = int.from_bytes(b"MQSTATE1", "little")
VERSION = 1
PAGE = 4096
SLOT_WORDS = 16
WAITERS_AT, WAITERS = 512, 64
NOBODY = bytes(WAITERS * 8)
DELETED = 0xFFFFFFFFFFFFFFFF  # topic generation of a topic that is being deleted

# Words of page 0.
P_MAGIC, P_VERSION, P_PARTITIONS, P_TAG, P_GENERATION = range(5)
# Words of a slot. `seq & 1` selects pair A or B; the writer fills the other one, then stores seq + 1: one store commits the tail.
SEQ, A_END, A_NEXT, A_SEGMENT, B_END, B_NEXT, B_SEGMENT, TAG, LOG_START, SYNCED, VISIBLE, GENERATION, FLAGS, LAST_TS, DUE = range(15)
FAILED = 1  # a sync failed: read-only until repaired
NOT_DUE = 0xFFFFFFFFFFFFFFFF  # of DUE: nothing is delayed. 0, as recovery leaves it: not known. Else ms since the epoch
ROLLING = 2  # a new segment is being made: an empty one above the tail is an orphan

Words = Any  # memoryview of u64; typed loosely, because typeshed's memoryview is generic only from 3.14 on


def tag_of(fd: int) -> int:
    """Boot tag: hash of the boot and of this very file, so that neither a reboot nor a copied directory is believed. Never 0."""
    device, inode = files.identity(fd)
    text = f"{files.boot_identity()} {device} {inode}".encode()
    return zlib.crc32(text) << 32 | zlib.crc32(text, 0x6D71) | 1


def read_tail(words: Words) -> tuple[int, int, int]:
    """(end, next, segment) as one commit left them. Strict: retries until the sequence stood still.

    Accepting one step of it would be wrong: after one commit the next writer refills the very pair being read.
    """
    while True:
        seq = words[0]
        pair = (words[4], words[5], words[6]) if seq & 1 else (words[1], words[2], words[3])
        if words[0] == seq:
            return pair


def commit_tail(words: Words, end: int, next_offset: int, segment: int) -> None:
    """Publish a tail. The caller holds the partition lock."""
    seq = words[0]
    if seq & 1:
        words[1], words[2], words[3] = end, next_offset, segment
    else:
        words[4], words[5], words[6] = end, next_offset, segment
    words[0] = (seq + 1) & 0xFFFFFFFFFFFFFFFF


class StatePage:
    """One process's mapping of a topic's state file."""

    def __init__(self, fd: int, partitions: int) -> None:
        self.tag = tag_of(fd)
        self.map = files.map_shared(fd, size_for(partitions))
        self._view = memoryview(self.map)
        self.words: Words = self._view.cast("Q")
        self.partitions = partitions

    def slot(self, partition: int) -> Words:
        start = PAGE // 8 + partition * SLOT_WORDS
        return self.words[start : start + SLOT_WORDS]

    @property
    def waiters(self) -> Words:
        return self.words[WAITERS_AT // 8 : WAITERS_AT // 8 + WAITERS]

    @property
    def is_deleted(self) -> bool:
        return bool(self.words[P_GENERATION] == DELETED)

    def mark_deleted(self) -> None:
        """From now on every handle of the topic finds its slots invalid, and then this word."""
        self.words[P_GENERATION] = DELETED

    def close(self) -> None:
        # Slots handed out keep the mapping alive; it goes when the last one does.
        with contextlib.suppress(BufferError):
            self.words.release()
            self._view.release()
            self.map.close()


def size_for(partitions: int) -> int:
    used = PAGE + partitions * SLOT_WORDS * 8
    return (used + PAGE - 1) // PAGE * PAGE


def ensure(directory: int, partitions: int) -> StatePage:
    """Map the topic's state file; make it when it is missing, too small or of another version. The caller holds the root lock."""
    for _ in range(2):
        try:
            fd = files.open_write(NAME, directory)
        except FileNotFoundError:
            _create(directory, partitions)
            fd = files.open_write(NAME, directory)
        try:
            if files.size_of(fd) >= size_for(partitions):
                page = StatePage(fd, partitions)
                _check_page_zero(page)
                return page
        finally:
            files.close(fd)
        files.unlink(NAME, directory)  # another file, another tag: whoever still maps the old one meets the size check of appends
    raise BadRoot("the state file of a topic cannot be made")


def _create(directory: int, partitions: int) -> None:
    temporary = files.temporary_name(NAME)
    fd = files.open_new(temporary, directory)
    try:
        files.allocate(fd, size_for(partitions))
        with contextlib.suppress(FileExistsError):
            files.link(temporary, NAME, directory)
    finally:
        files.close(fd)
        files.unlink(temporary, directory)


def _check_page_zero(page: StatePage) -> None:
    words = page.words
    if (words[P_MAGIC], words[P_VERSION], words[P_PARTITIONS], words[P_TAG]) == (MAGIC, VERSION, page.partitions, page.tag):
        return
    # A new file, a new boot, a copy or garbage. The slots stand for themselves; sleepers of an earlier boot are gone.
    for index in range(PAGE // 8):
        words[index] = 0
    words[P_VERSION], words[P_PARTITIONS], words[P_TAG] = VERSION, page.partitions, page.tag
    words[P_MAGIC] = MAGIC
