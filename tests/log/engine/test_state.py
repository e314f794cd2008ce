"""The state page: a tail is committed by one store, read without a lock, and believed only with the right tag."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from mqsdk_log.engine import files, state

OLD, FIRST, SECOND = (10, 11, 12), (20, 21, 22), (30, 31, 32)


class Recording(list[int]):
    """Words that note every store."""

    def __init__(self, words: list[int]) -> None:
        super().__init__(words)
        self.stores: list[tuple[int, int]] = []

    def __setitem__(self, index: Any, value: Any) -> None:
        self.stores.append((index, value))
        super().__setitem__(index, value)


class Scheduled(list[int]):
    """Words in which another process's stores happen between the loads of a reader, as the schedule says."""

    def __init__(self, words: list[int], stores: list[tuple[int, int]], before_loads: tuple[int, ...]) -> None:
        super().__init__(words)
        self._stores = iter(stores)
        self._before_loads = iter(before_loads)

    def __getitem__(self, index: Any) -> Any:
        for store in itertools.islice(self._stores, next(self._before_loads, None)):
            super().__setitem__(*store)
        return super().__getitem__(index)


def torn_reads(read: Callable[[Any], tuple[int, ...] | None]) -> tuple[int, int]:
    """(torn results, interleavings) over every interleaving of one read (5 loads) with two commits (8 stores)."""
    start = [0, *OLD, 0, 0, 0, *[0] * 9]
    recording = Recording(start)
    state.commit_tail(recording, *FIRST)
    state.commit_tail(recording, *SECOND)
    assert len(recording.stores) == 8
    torn = total = 0
    for moments in itertools.combinations(range(13), 5):  # the places of the 5 loads among 13 steps
        before = tuple(moment - previous - 1 for previous, moment in itertools.pairwise((-1, *moments)))
        found = read(Scheduled(start, recording.stores, before))
        total += 1
        torn += found is not None and found not in (OLD, FIRST, SECOND)
    return torn, total


def lenient(words: Any) -> tuple[int, ...] | None:
    """What `read_tail` must not do: accept when the sequence went one step on. None where even that retries."""
    seq = words[0]
    first = state.B_END if seq & 1 else state.A_END
    found = words[first], words[first + 1], words[first + 2]
    return found if words[0] - seq <= 1 else None


def test_no_interleaving_of_a_read_with_two_commits_is_torn() -> None:
    assert torn_reads(state.read_tail) == (0, 1287)


def test_accepting_one_step_of_the_sequence_would_tear() -> None:
    assert torn_reads(lenient) == (144, 1287)


class Counting(list[int]):
    """A list of words that fails after a number of stores, as a process does that is killed between two of them."""

    left = 0

    def __setitem__(self, index: Any, value: Any) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        super().__setitem__(index, value)


@pytest.mark.parametrize("seq", [0, 1])
@pytest.mark.parametrize("stores", range(5))
def test_trap_a_kill_between_two_words_leaves_the_old_tail_or_the_new_one(seq: int, stores: int) -> None:
    # A tail kept as two separate words gave duplicate offsets after kill -9.
    words = Counting([seq, *OLD, *OLD, *[0] * 9])
    words.left = stores
    if stores < 4:
        with pytest.raises(KeyboardInterrupt):
            state.commit_tail(words, *FIRST)
    else:
        state.commit_tail(words, *FIRST)
    assert state.read_tail(words) == (FIRST if stores == 4 else OLD)


@pytest.mark.parametrize("stores", range(1, 12))
def test_an_append_that_dies_between_two_stores_loses_and_doubles_nothing(kit: Any, stores: int) -> None:
    partition = kit.partition()
    kit.append(partition, b"one")
    real = partition._words

    class Dying:
        left = stores

        def __getitem__(self, index: Any) -> Any:
            return real[index]

        def __setitem__(self, index: Any, value: Any) -> None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            real[index] = value

    partition._words = Dying()
    try:
        kit.append(partition, b"two", at_ms=kit.now_ms + 1)
        acknowledged = [b"one", b"two"]
    except KeyboardInterrupt:
        acknowledged = [b"one"]
    partition._words = real
    base = kit.append(partition, b"three")
    records = kit.read_all(partition)
    assert [record.position for record in records] == list(range(len(records)))
    assert records[base].value == b"three"
    assert [record.value for record in records][: len(acknowledged)] == acknowledged


@pytest.mark.parametrize("content", ["zero", "random", "ones", "short", "missing"])
def test_a_state_page_of_garbage_is_rebuilt(kit: Any, content: str) -> None:
    kit.append(kit.partition(), b"one", b"two")
    kit.close()
    path = kit.path / "topics/orders/state"
    size = path.stat().st_size
    if content == "missing":
        path.unlink()
    else:
        garbage = {"zero": bytes(size), "random": random.Random(1).randbytes(size), "ones": b"\xff" * size, "short": b"x"}[content]
        path.write_bytes(garbage)
    partition = kit.partition()
    assert kit.values(partition) == [b"one", b"two"]
    assert kit.append(partition, b"three") == 2
    assert path.stat().st_size == size


@pytest.mark.parametrize("word", range(14))
@pytest.mark.parametrize("bit", [0, 1, 9, 40])
def test_a_flipped_bit_in_a_slot_neither_loses_nor_repeats_an_offset(kit: Any, word: int, bit: int) -> None:
    kit.append(kit.partition(), b"one")
    kit.append(kit.open().topic("orders").partition(0), b"two")
    kit.close()
    path = kit.path / "topics/orders/state"
    data = bytearray(path.read_bytes())
    data[state.PAGE + word * 8 + bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    partition = kit.partition()
    kit.append(partition, b"three")
    records = [record for record in kit.read_all(partition) if record.value in (b"one", b"two", b"three")]
    assert [record.value for record in records] == [b"one", b"two", b"three"]
    assert [record.position for record in records] == [0, 1, 2]


def test_the_page_is_fully_allocated_and_its_tag_names_this_boot_and_file(kit: Any) -> None:
    kit.partition()
    path = kit.path / "topics/orders/state"
    found = path.stat()
    assert found.st_blocks * 512 >= found.st_size == 8192
    fd = os.open(path, os.O_RDONLY)
    other = os.open(kit.path / "MQSDK", os.O_RDONLY)
    try:
        assert state.tag_of(fd) not in (0, state.tag_of(other))
        words = memoryview(path.read_bytes()).cast("Q")
        assert words[: state.P_GENERATION].tolist() == [state.MAGIC, 1, 2, state.tag_of(fd)]
    finally:
        os.close(fd)
        os.close(other)


def test_another_boot_has_another_tag(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.append(kit.partition(), b"one")
    kit.close()
    monkeypatch.setattr(files, "boot_identity", lambda: "another boot")
    partition = kit.partition()
    assert partition._words[state.TAG] != partition._tag
    assert kit.values(partition) == [b"one"]
    assert partition._words[state.TAG] == partition._tag
