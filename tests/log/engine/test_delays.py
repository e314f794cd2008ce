"""Delayed records: in the order of their due times, never lost, never doubled, whoever dies and wherever."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from mqsdk_log.engine import bands, delays, dueheap, files, state
from mqsdk_log.engine.errors import DiskFull, LockTimeout, NoSuchTopic
from mqsdk_log.engine.log import Log
from mqsdk_log.engine.shared import Limits

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
FAR_MS = 1 << 60  # later than anything
SMALL = Limits(segment_bytes=2000, min_free_bytes=0)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def put(partition: Any, value: bytes, due_ms: int, **options: Any) -> None:
    partition.delays.put([(b"k", b"", value, 0, 0, 1)], [due_ms], timestamp_ms=now_ms(), **options)


def drain(partition: Any, at_ms: int = FAR_MS) -> None:
    while partition.delays.move(at_ms):
        continue


# --- order and place ----------------------------------------------------------------------------------------------------------------


def test_they_come_in_the_order_of_due_times_and_of_publishing_where_those_are_equal(kit: Any) -> None:
    partition = kit.partition()
    rng, base_ms = random.Random(5), now_ms() + HOUR_MS
    dues = [base_ms + rng.choice([0, 1, 2, 3 * DAY_MS, 3 * DAY_MS + 1, 100 * DAY_MS]) for _ in range(3000)]
    for number, due_ms in enumerate(dues):
        put(partition, b"%d" % number, due_ms)
    drain(partition)
    assert kit.values(partition) == [b"%d" % number for number in sorted(range(3000), key=lambda one: (dues[one], one))]


def test_of_one_due_time_the_one_published_first_comes_first_also_out_of_another_band(kit: Any, monkeypatch: Any) -> None:
    partition, base_ms = kit.partition(), now_ms()
    due_ms = base_ms + 2 * DAY_MS
    for number, before_ms in enumerate((2 * DAY_MS, 3 * HOUR_MS, 1000)):
        monkeypatch.setattr(delays, "_now_ms", lambda ms=before_ms: due_ms - ms)
        put(partition, b"%d" % number, due_ms)
    assert len(partition.delays._bands.existing()) == 3
    drain(partition)
    assert kit.values(partition) == [b"0", b"1", b"2"]


def test_what_is_due_comes_before_what_is_published_later_and_nothing_comes_early(kit: Any) -> None:
    partition, base_ms = kit.partition(), now_ms()
    for wait_ms in (3000, 1000, 2000):
        put(partition, b"%d" % wait_ms, base_ms + wait_ms)
    kit.append(partition, b"early", at_ms=base_ms + 999)
    kit.append(partition, b"middle", at_ms=base_ms + 2000)
    kit.append(partition, b"late", at_ms=base_ms + FAR_MS)
    assert kit.values(partition) == [b"early", b"1000", b"2000", b"middle", b"3000", b"late"]


def test_a_topic_without_delays_pays_nothing_and_has_no_files_for_them(kit: Any) -> None:
    partition = kit.partition()
    kit.append(partition, b"x")
    assert partition.due_ms == state.NOT_DUE
    assert not (kit.path / "topics" / "orders" / "delay").exists()


def test_large_ones_are_moved_in_chunks_of_some_bytes(kit: Any) -> None:
    partition, base_ms = kit.partition(), now_ms() + HOUR_MS
    for number in range(20):
        put(partition, b"%d" % number * 1_000_000, base_ms + number)
    largest: list[int] = []
    fetcher = partition.delays._fetcher
    fetch = fetcher.fetch

    def counted(refs: list[int], deadline: float | None) -> Any:
        largest.append(len(refs))
        return fetch(refs, deadline)

    fetcher.fetch = counted
    drain(partition)
    assert [value[:1] for value in kit.values(partition)[:3]] == [b"0", b"1", b"2"]
    assert partition.end() == 20
    assert max(largest) <= 5


def test_a_deleted_topic_takes_no_more(kit: Any) -> None:
    partition = kit.partition()
    put(partition, b"x", now_ms() + HOUR_MS)
    other = kit.open()
    other.delete_topic("orders")
    with pytest.raises(NoSuchTopic):
        put(partition, b"y", now_ms() + HOUR_MS)


@pytest.mark.parametrize("delay_ms", [1, 900_000, 900_001, 3_600_001, DAY_MS, 366 * DAY_MS, 5000 * DAY_MS])
def test_a_band_is_at_most_four_times_as_long_as_its_shortest_delay(delay_ms: int) -> None:
    number = bands.band_for(delay_ms)
    assert 0 <= number < dueheap.CLASSES
    assert number == 0 or delay_ms > 900_000 * 4 ** (number - 1)
    assert number == dueheap.CLASSES - 1 or delay_ms <= 900_000 * 4**number


# --- several processes, locks -------------------------------------------------------------------------------------------------------


def test_processes_share_what_waits_and_each_may_move_it(kit: Any) -> None:
    first, second = kit.partition(), kit.partition()
    base_ms = now_ms() + HOUR_MS
    for number in range(2000):  # the heap grows more than once
        put((first, second)[number % 2], b"%d" % number, base_ms + number)
    for at in range(0, 2000, 100):
        drain((first, second)[at // 100 % 2], base_ms + at + 99)
        assert first.end() == second.end() == at + 100
    assert kit.values(first) == [b"%d" % number for number in range(2000)]


def test_a_publish_behind_a_mover_that_does_not_let_go_ends_at_its_deadline(kit: Any) -> None:
    first, second = kit.partition(), kit.partition()
    put(first, b"x", now_ms() + 5)
    with first.delays._exclusive(None):
        until = time.monotonic() + 0.1
        with pytest.raises(LockTimeout):
            kit.append(second, b"y", at_ms=now_ms() + 1000, deadline=until)
        with pytest.raises(LockTimeout):
            put(second, b"z", now_ms() + HOUR_MS, deadline=until)
        kit.append(second, b"not due yet", at_ms=1)  # nobody who finds nothing due waits
    kit.append(second, b"y", at_ms=now_ms() + 1000)
    assert kit.values(first) == [b"not due yet", b"x", b"y"]


def test_a_full_disk_refuses_and_keeps_what_waits(kit: Any, monkeypatch: Any) -> None:
    partition, base_ms = kit.partition(limits=Limits(min_free_bytes=1)), now_ms() + HOUR_MS
    for number in range(3):
        put(partition, b"%d" % number, base_ms + number)
    with monkeypatch.context() as full:
        full.setattr(files, "free_bytes", lambda fd: 0)
        partition._check_ms = partition.delays._bands.topic(1).partition(0)._check_ms = 0
        with pytest.raises(DiskFull):
            put(partition, b"x", base_ms)
        with pytest.raises(DiskFull):
            drain(partition)
    assert partition.delays.waiting() == 3
    drain(partition)
    assert kit.values(partition) == [b"0", b"1", b"2"]


# --- crashes ------------------------------------------------------------------------------------------------------------------------


class Death(BaseException):
    """The process is gone: no handler for errors may run."""


class Words:
    """The words of a heap; dies before the n-th store."""

    def __init__(self, real: Any, fate: Fate) -> None:
        self._real = real
        self._fate = fate

    def __getitem__(self, index: Any) -> Any:
        return self._real[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._fate.step()
        self._real[index] = value

    def release(self) -> None:
        self._real.release()


class Fate:
    """Counts system calls of the engine and stores into the heap and the state page; the process dies at the n-th."""

    CALLS = ("flock", "lseek", "pwritev", "pread", "ftruncate", "allocate", "append", "names", "replace", "open_create", "free_bytes")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
        self.moment, self.steps = moment, 0
        for name in self.CALLS:
            monkeypatch.setattr(files, name, self._wrap(getattr(files, name)))
        mapped = dueheap.DueHeap._map

        def wrapped(heap: dueheap.DueHeap) -> None:
            mapped(heap)
            heap._words = Words(heap._words, self)

        monkeypatch.setattr(dueheap.DueHeap, "_map", wrapped)

    def step(self) -> None:
        self.steps += 1
        if self.steps >= self.moment:
            raise Death

    def _wrap(self, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.step()
            return real(*arguments, **options)

        return call


BASE_MS = now_ms() + HOUR_MS


def fill(log: Log, acknowledged: list[bytes]) -> None:
    partition = log.create_topic("orders", 1).partition(0)
    for number in range(4):
        put(partition, b"first %d" % number, BASE_MS + 5 - number)
        acknowledged.append(b"first %d" % number)


def play(log: Log, acknowledged: list[bytes], *, checkpoint: bool) -> None:
    """What a process does: delay some, move some, and checkpoint."""
    partition: Any = log.topic("orders").partition(0)
    put(partition, b"second", BASE_MS + 4)
    acknowledged.append(b"second")
    partition.append([(None, b"", b"plain", 0, 0, 1)], timestamp_ms=BASE_MS + 3)  # moves two
    acknowledged.append(b"plain")
    if checkpoint:
        partition.delays.checkpoint()
    put(partition, b"third", BASE_MS + 10 * DAY_MS)
    acknowledged.append(b"third")
    drain(partition, BASE_MS + 4)


def check(path: Path, acknowledged: list[bytes], moment: object) -> None:
    with Log.open(path, durability="none", limits=SMALL) as log:
        partition = log.topic("orders").partition(0)
        drain(partition)
        drain(partition)
        reader = partition.reader(0)
        found = [record.value for record in reader.read(100, 1 << 20)]
        assert len(found) == len(set(found)), moment
        assert set(acknowledged) <= set(found), moment
        assert len(found) <= len(acknowledged) + 1, moment  # the one that nobody answered for
        order = [b"first 3", b"first 2", b"first 1", b"first 0"]
        assert [value for value in found if value.startswith(b"first")] == order, moment


@pytest.mark.parametrize("reboots", [False, True])
def test_a_process_that_dies_at_any_moment_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reboots: bool
) -> None:
    moment, died = 0, True
    while died:
        moment += 1
        path, acknowledged = tmp_path / str(moment), list[bytes]()
        with monkeypatch.context() as patch:
            with Log.open(path, durability="none", limits=SMALL) as log:
                fill(log, acknowledged)
            log = Log.open(path, durability="none", limits=SMALL)
            log.topic("orders").partition(0)
            log._syncer.mark = lambda *_, **__: True  # type: ignore[method-assign]  # its thread would outlive the death
            Fate(patch, moment)
            try:
                play(log, acknowledged, checkpoint=reboots)
                died = False
            except Death:
                pass
        log._forget()  # closes its descriptors, as the kernel does, and nothing else
        if reboots:
            reboot(path)
        check(path, acknowledged, moment)
        shutil.rmtree(path)
    assert moment > 150


def reboot(path: Path) -> None:
    """Boot tags of every state page and heap become invalid."""
    for page in path.glob("topics/**/state"):
        data = bytearray(page.read_bytes())
        for start in range(state.PAGE, len(data), state.SLOT_WORDS * 8):
            data[start + state.TAG * 8 : start + state.TAG * 8 + 8] = bytes(8)
        page.write_bytes(data)
    for heap in path.glob("topics/*/delay/*.due"):
        data = bytearray(heap.read_bytes())
        data[8:16] = bytes(8)
        heap.write_bytes(data)


def test_a_power_loss_that_takes_what_was_moved_brings_it_again(kit: Any) -> None:
    partition, base_ms = kit.partition(), now_ms() + HOUR_MS
    for number in range(10):
        put(partition, b"%d" % number, base_ms + number)
    drain(partition, base_ms + 3)
    partition.delays.checkpoint()
    drain(partition, base_ms + 6)
    kept = state.read_tail(partition._words)[0]
    drain(partition, base_ms + 8)
    (segment,) = kit.segments()
    kit.close()
    os.truncate(segment, kept - 1)  # 7 and 8 are gone, and of the batch with 4 to 6 a byte
    reboot(kit.path)
    partition = kit.partition()
    drain(partition)
    assert kit.values(partition) == [b"%d" % number for number in range(10)]


def test_a_power_loss_that_takes_from_the_band_what_was_moved_mixes_it_up_with_nothing(kit: Any) -> None:
    partition, base_ms = kit.partition(), now_ms() + HOUR_MS
    put(partition, b"0", base_ms)
    (band,) = (kit.path / "topics" / "orders" / "delay").glob("[0-9]/0/*.log")
    kept = band.stat().st_size
    put(partition, b"1", base_ms)
    drain(partition)
    kit.close()
    os.truncate(band, kept)
    reboot(kit.path)
    partition = kit.partition()
    put(partition, b"2", base_ms)  # must not be taken for the one that had this place
    kit.close()
    reboot(kit.path)
    partition = kit.partition()
    drain(partition)
    assert kit.values(partition) == [b"0", b"1", b"2"]


def test_a_clock_that_is_set_back_loses_doubles_and_hastens_nothing(kit: Any, monkeypatch: Any) -> None:
    partition, base_ms = kit.partition(), now_ms()
    put(partition, b"moved in the future", base_ms + HOUR_MS)
    drain(partition, base_ms + 2 * HOUR_MS)  # the clock was two hours ahead, and is right again
    put(partition, b"a", base_ms + 1000)
    put(partition, b"b", base_ms + 2000)
    drain(partition, base_ms + 1500)
    assert kit.values(partition) == [b"moved in the future", b"a"]
    partition.delays._heap._words[dueheap._DIRTY] = 1  # somebody dies while changing it
    drain(partition, base_ms + 1500)
    assert kit.values(partition) == [b"moved in the future", b"a"]
    partition.delays.checkpoint()
    kit.close()
    reboot(kit.path)
    partition = kit.partition()
    drain(partition)
    assert kit.values(partition) == [b"moved in the future", b"a", b"b"]


def test_what_was_on_its_way_when_its_mover_died_is_moved_by_the_next_without_a_rebuild(kit: Any, monkeypatch: Any) -> None:
    partition, base_ms = kit.partition(), now_ms() + HOUR_MS
    for number in range(10):
        put(partition, b"%d" % number, base_ms + number)
    heap = partition.delays._heap
    heap.take(base_ms + 3, 100, 1 << 20)  # dies before anything is stored
    monkeypatch.setattr(delays.Delays, "_rebuild", None)
    drain(partition, base_ms + 1)
    with monkeypatch.context() as patch:
        patch.setattr(dueheap.DueHeap, "land", lambda *_: (_ for _ in ()).throw(Death))  # dies when it is stored
        with pytest.raises(Death):
            partition.delays.move(base_ms + 5)
    drain(partition)
    assert kit.values(partition) == [b"%d" % number for number in range(10)]


def test_a_wrong_position_in_the_heap_is_noticed(kit: Any) -> None:
    partition, base_ms = kit.partition(), now_ms() + HOUR_MS
    for number in range(4):
        put(partition, b"%d" % number, base_ms + number)
    words = partition.delays._heap._words
    for number, wrong in enumerate((64, 0, 1 << 40, 65)):
        words[dueheap._FIRST + 3 * number + 2] = wrong
    drain(partition)
    assert kit.values(partition) == [b"0", b"1", b"2", b"3"]


def test_a_heap_that_is_removed_or_damaged_is_made_again(kit: Any) -> None:
    partition, base_ms = kit.partition(), now_ms() + HOUR_MS
    for number in range(4):
        put(partition, b"%d" % number, base_ms + number)
    drain(partition, base_ms)
    heap = kit.path / "topics" / "orders" / "delay" / "0.due"
    heap.unlink()
    drain(partition, base_ms + 1)
    kit.close()
    heap.write_bytes(b"\xff" * heap.stat().st_size)
    partition = kit.partition()
    drain(partition)
    assert kit.values(partition) == [b"0", b"1", b"2", b"3"]


def test_a_damaged_delayed_record_is_told_and_the_others_come(kit: Any) -> None:
    partition, base_ms = kit.partition(), now_ms() + HOUR_MS
    for number in range(3):
        put(partition, b"value %d" % number, base_ms + number)
    (band,) = (kit.path / "topics" / "orders" / "delay").glob("[0-9]/0/*.log")
    data = band.read_bytes()
    band.write_bytes(data.replace(b"value 1", b"value x"))
    drain(partition)
    assert kit.values(partition) == [b"value 0", b"value 2"]
    assert any("1 delayed records are damaged" in text for text in kit.reports)


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["none", "always"])
def test_kill_9_of_publishers_that_move_loses_and_doubles_nothing(kit: Any, durability: str) -> None:
    kit.partition(durability)
    chance, acknowledged = random.Random(11), set[bytes]()
    for turn in range(2):
        workers = [kit.start("delay", f"{turn}.{number}", durability) for number in range(3)]
        for worker in workers:
            assert worker.stdout.readline()
            time.sleep(chance.uniform(0.05, 0.3))  # not a wait: the moment of the kill is chance
            os.kill(worker.pid, signal.SIGKILL)
        for worker in workers:
            with worker:
                acknowledged |= {line.encode() for line in worker.stdout.read().splitlines(keepends=True) if line.endswith("\n")}
    partition = kit.partition(durability)
    drain(partition)
    found = kit.values(partition)
    assert len(found) == len(set(found))
    assert acknowledged <= {value + b"\n" for value in found}
    assert len(acknowledged) > 100
    assert partition.delays.waiting() == 0


@pytest.mark.parametrize("place", ["middle", "header", "end"])
def test_damage_that_a_rebuild_meets_is_told_too(kit: Any, place: str) -> None:
    partition, base_ms = kit.partition(), now_ms() + HOUR_MS
    for number in range(3):
        put(partition, b"value %d" % number, base_ms + number)
    kit.close()
    (band,) = (kit.path / "topics" / "orders" / "delay").glob("[0-9]/0/*.log")
    data = band.read_bytes()
    wrong = {
        "middle": data.replace(b"value 1", b"value x"),
        "header": b"\xff" * 64 + data[64:],
        "end": data.replace(b"value 2", b"value x"),
    }
    band.write_bytes(wrong[place])
    (kit.path / "topics" / "orders" / "delay" / "0.due").unlink()
    partition = kit.partition()
    drain(partition)
    assert kit.values(partition) == {"middle": [b"value 0", b"value 2"], "header": [], "end": [b"value 0", b"value 1"]}[place]
    assert any("delayed records are damaged or lost" in text for text in kit.reports)


# --- space --------------------------------------------------------------------------------------------------------------------------


def test_segments_of_bands_go_when_all_in_them_was_moved_and_that_is_on_the_medium(kit: Any) -> None:
    partition, base_ms = kit.partition(limits=SMALL), now_ms() + 2 * HOUR_MS
    for number in range(200):
        put(partition, b"%03d" % number * 30, base_ms + number)
    folder = kit.path / "topics" / "orders" / "delay" / "2" / "0"
    before = len(list(folder.glob("*.log")))
    assert before > 10
    partition.delays.checkpoint()
    drain(partition, base_ms + 100)
    assert len(list(folder.glob("*.log"))) == before
    partition.delays.checkpoint()
    assert before // 3 < len(list(folder.glob("*.log"))) <= before // 2 + 2
    kit.close()
    reboot(kit.path)
    partition = kit.partition(limits=SMALL)
    drain(partition)
    partition.delays.checkpoint()
    assert len(list(folder.glob("*.log"))) <= 2
    assert kit.values(partition) == [b"%03d" % number * 30 for number in range(200)]


def test_what_was_moved_is_on_the_medium_before_it_is_noted_there(kit: Any, monkeypatch: Any) -> None:
    partition, base_ms = kit.partition(), now_ms() + HOUR_MS
    put(partition, b"x", base_ms)
    drain(partition)
    band = partition.delays._bands.topic(partition.delays._bands.existing()[0]).partition(0)
    done: list[str] = []

    def noted(name: str, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> None:
            done.append(name)
            real(*arguments, **options)

        return call

    for name, log in (("partition", partition), ("band", band)):
        monkeypatch.setattr(log, "sync", noted(name, log.sync))
    monkeypatch.setattr(files, "replace", noted("mark", files.replace))
    partition.delays.checkpoint()
    assert sorted(done[:2]) == ["band", "partition"]
    assert done[2:] == ["mark"]
    partition.delays.checkpoint()
    assert len(done) == 3  # nothing was moved since
