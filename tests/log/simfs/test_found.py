"""What the simulated crashes have found, each told once more by itself."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
from mqsdk_log.engine import files
from mqsdk_log.engine import format as fmt
from mqsdk_log.engine.cursors import Cursor
from mqsdk_log.engine.errors import LogError
from mqsdk_log.engine.groups import Group

from tests.log.simfs.fault import Fault
from tests.log.simfs.machine import Machine, append, values


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as found:
        yield found


def test_a_topic_in_a_new_log_is_there_after_a_power_loss(machine: Machine) -> None:
    """Nothing had synced the name of the folder that all topics are in."""
    append(machine.partition("always"), b"one")
    machine.lose_power()
    assert values(machine.open("always").topic("orders").partition(0)) == [b"one"]


def test_a_topic_whose_maker_died_before_its_name_was_synced_is_kept_by_whoever_publishes_to_it(machine: Machine) -> None:
    log = machine.open("always")
    machine.system.fault = Fault(("fsync",), after=_syncs_of_a_topic() - 1, number=errno.EIO)
    with pytest.raises(OSError, match="injected"):
        log.create_topic("orders", 1)
    machine.kill()
    append(machine.open("always").topic("orders").partition(0), b"one")
    machine.lose_power()
    assert values(machine.open("always").topic("orders").partition(0)) == [b"one"]


def _syncs_of_a_topic() -> int:
    """How many calls of fsync making a topic takes; the last is that of the folder it is in."""
    with Machine() as another:
        log = another.open("always")
        another.system.trace = []
        log.create_topic("orders", 1)
        return sum("  fsync " in line for line in another.system.trace)


def test_a_new_group_is_there_after_a_power_loss(machine: Machine) -> None:
    """Nothing had synced the names of its folders, so it began anew: with `latest` it passed over what had come meanwhile."""
    append(machine.partition("always"), b"one", b"two")
    group = Group(machine.system.path, "billing")
    group.ensure("orders", [2])
    machine.lose_power()
    assert Group(machine.system.path, "billing").progress("orders")[0].watermark == 2


def test_the_progress_of_a_group_whose_maker_died_before_its_name_was_synced_is_kept_by_its_first_sync(machine: Machine) -> None:
    append(machine.partition("always"), b"one", b"two")
    group = Group(machine.system.path, "billing")
    machine.system.fault = Fault(("fsync",), after=4, number=errno.EIO)  # the folders and the file are synced, the file's name is not
    with pytest.raises(OSError, match="injected"):
        group.ensure("orders", [0])
    assert not group.ensure("orders", [0])  # it is there
    file = group.cursors("orders")
    file.store(0, Cursor(2, file.read(0).epoch, high=2))
    file.sync()
    file.close()
    machine.lose_power()
    assert Group(machine.system.path, "billing").progress("orders")[0].watermark == 2


def test_durable_holds_for_the_first_record_of_a_segment_too_where_nothing_else_is_synced(machine: Machine) -> None:
    """With `none` a new segment's name was not synced, ever; the mark said that all in it was durable."""
    partition = machine.partition("none")
    sent = [bytes([65 + number]) * 300 for number in range(4)]
    for value in sent:
        append(partition, value, durable=True)
    machine.lose_power()
    assert values(machine.open("none").topic("orders").partition(0)) == sent


def test_a_segment_of_a_roll_that_failed_does_not_come_back_over_what_was_published_after_it(machine: Machine) -> None:
    partition = machine.partition("always")
    append(partition, b"a" * 600)
    machine.system.fault = Fault(("fsync",), after=1, number=errno.EIO)  # of the new segment's name
    with pytest.raises(LogError):
        append(partition, b"b" * 600)
    for _ in range(3):
        append(partition, b"c")
    machine.lose_power(data="all")
    assert values(machine.open("always").topic("orders").partition(0)) == [b"a" * 600, b"c", b"c", b"c"]


def test_the_same_where_the_folder_cannot_be_synced_at_the_first_try(machine: Machine) -> None:
    partition = machine.partition("always")
    append(partition, b"a" * 600)
    machine.system.fault = Fault(("fsync",), after=1, times=2, number=errno.EIO)
    for _ in range(2):
        with pytest.raises((LogError, OSError)):
            append(partition, b"b" * 600)
    append(partition, b"c")
    machine.lose_power(data="all")
    assert values(machine.open("always").topic("orders").partition(0)) == [b"a" * 600, b"c"]


def test_what_was_refused_does_not_come_back_by_a_power_loss(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large publish was refused at its second batch; the first had reached the medium, the cut had not."""
    monkeypatch.setattr(fmt, "WRITE_LIMIT", 200)
    partition = machine.partition("always")
    append(partition, b"one")
    written = machine.system.moment + 1
    machine.system.fault = Fault(("pwritev",), after=1, number=errno.ENOSPC)
    with pytest.raises(LogError, match="nothing was written"):
        partition._append_large([(None, b"", bytes(150), 0, 0, 1)] * 2, (0, 0, 0), None, False)
    machine.lose_power(data="until", until=written)
    assert values(machine.open("always").topic("orders").partition(0)) == [b"one"]


@pytest.mark.parametrize("durability", ["none", "interval", "always"])
def test_half_a_batch_that_was_taken_back_does_not_come_back_at_the_end_of_a_full_segment(machine: Machine, durability: str) -> None:
    """There it was damage, and all that had been published behind it was cut, or passed over by readers."""
    partition = machine.partition(durability)  # type: ignore[arg-type]
    append(partition, b"a" * 300, durable=True)
    written = machine.system.moment + 1
    machine.system.fault = Fault(("pwritev",), short=True)
    with pytest.raises(LogError, match="nothing was written"):
        append(partition, b"b" * 100)
    append(partition, b"c" * 600, durable=True)  # in a segment of its own
    machine.lose_power(data="until", names="all", until=written)
    partition = machine.open(durability).topic("orders").partition(0)  # type: ignore[arg-type]
    assert values(partition) == [b"a" * 300, b"c" * 600]


def test_a_log_that_has_such_a_segment_is_read_to_its_end(machine: Machine) -> None:
    partition = machine.partition("always")
    append(partition, b"a" * 600)
    append(partition, b"b" * 600)
    fd = files.open_write("00000000000000000000.log", partition.directory)
    files.write_all(fd, b"half a batch" * 20, files.size_of(fd))
    files.close(fd)
    assert values(partition) == [b"a" * 600, b"b" * 600]


def test_what_is_delayed_is_there_after_a_power_loss_though_its_folder_could_not_be_synced_at_first(machine: Machine) -> None:
    partition = machine.partition("always")
    append(partition, b"one")
    now_ms = machine.clock.time_ns() // 1_000_000
    machine.system.fault = Fault(("fsync",), number=errno.EIO)
    with pytest.raises(OSError, match="injected"):
        partition.delays.put([(None, b"", b"late", 0, 0, 1)], [now_ms + 1000], timestamp_ms=now_ms)
    partition.delays.put([(None, b"", b"late", 0, 0, 1)], [now_ms + 1000], timestamp_ms=now_ms)
    machine.lose_power()
    partition = machine.open("always").topic("orders").partition(0)
    while partition.move(now_ms + 5000):
        continue
    assert values(partition) == [b"one", b"late"]


def test_removed_segments_of_which_some_come_back_take_nothing_with_them() -> None:
    """Retention removed several at once. A power loss brought some of them back, with a hole, and what stood behind it was cut."""
    for seed in range(30):
        with Machine() as machine:
            machine.chance.seed(seed)
            partition = machine.partition("interval")
            for number in range(6):
                append(partition, bytes([65 + number]) * 600, durable=True)
            partition.remove_before(5)
            machine.lose_power(names="any")
            assert values(machine.open("interval").topic("orders").partition(0))[-1] == b"F" * 600, seed


def test_a_tail_that_was_cut_is_kept_over_the_next_power_loss_too(machine: Machine) -> None:
    partition = machine.partition("interval")
    append(partition, b"one", durable=True)
    fd = files.open_write("00000000000000000000.log", partition.directory)
    files.write_all(fd, b"torn" * 10, files.size_of(fd))
    files.sync_file(fd)
    files.close(fd)
    machine.lose_power()
    assert values(machine.open("interval").topic("orders").partition(0)) == [b"one"]  # recovered, the tail is cut
    machine.lose_power()
    (kept,) = (machine.system.path / "topics/orders/0/quarantine").iterdir()
    assert kept.read_bytes() == b"torn" * 10


def test_who_tries_again_on_a_full_disk_leaves_nothing_behind(machine: Machine) -> None:
    """Each try to make a segment, or the band for a delay, left a file or a folder, and they are never the same."""
    partition = machine.partition("always")
    append(partition, b"a" * 600)
    now_ms = machine.clock.time_ns() // 1_000_000
    partition.delays.put([(None, b"", b"first", 0, 0, 1)], [now_ms + 1000], timestamp_ms=now_ms)
    before = _everything(machine)
    machine.system.fault = Fault(("pwrite",), times=1000, number=errno.ENOSPC)
    for _ in range(3):
        with pytest.raises((LogError, OSError)):
            append(partition, b"b" * 600)
        with pytest.raises((LogError, OSError)):
            partition.delays.put([(None, b"", b"far", 0, 0, 1)], [now_ms + 10**9], timestamp_ms=now_ms)
    assert _everything(machine) == before


def _everything(machine: Machine) -> list[str]:
    return sorted(str(path.relative_to(machine.system.path)) for path in machine.system.path.rglob("*"))


@pytest.mark.parametrize("durability", ["none", "always"])
def test_reads_that_return_less_than_was_asked_for_are_no_torn_tail(machine: Machine, durability: str) -> None:
    """Recovery took the end of a read for the end of the log, and cut what was stored."""
    partition = machine.partition(durability)  # type: ignore[arg-type]
    sent = [bytes([65 + number]) * 100 for number in range(10)]
    for value in sent:
        append(partition, value, durable=True)
    machine.lose_power(data="all", names="all")
    machine.system.short_reads = 0.5
    partition = machine.open(durability).topic("orders").partition(0)  # type: ignore[arg-type]
    assert values(partition) == sent
    assert not list((machine.system.path / "topics/orders/0").glob("quarantine/*"))
