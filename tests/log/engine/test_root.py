"""Opening a root: what is refused and why, and topics as things with names."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from mqsdk_log.engine import files
from mqsdk_log.engine.errors import BadRoot, NoSuchTopic, TopicExists, UnsupportedVersion
from mqsdk_log.engine.log import Log


def test_a_new_root_is_private_and_says_what_it_is(kit: Any) -> None:
    kit.open().create_topic("orders", 3)
    assert kit.path.stat().st_mode & 0o777 == 0o700
    fields = dict(line.split("=") for line in (kit.path / "MQSDK").read_text().splitlines())
    assert fields["format"] == "1"
    assert len(fields["uuid"]) == 32
    assert {path.name for path in (kit.path / "topics/orders").iterdir()} == {"0", "1", "2", "state", "topic.json", "wake"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in kit.path.rglob("*"))


def test_without_create_a_missing_root_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(BadRoot, match="log"):
            Log.open(path, create=False)
    assert not (tmp_path / "nowhere").exists()


def test_a_symbolic_link_is_not_followed(kit: Any, tmp_path: Path) -> None:
    kit.open()
    link = tmp_path / "link"
    link.symlink_to(kit.path)
    with pytest.raises(BadRoot, match="symbolic link"):
        Log.open(link)
    (kit.path / "topics/evil").symlink_to(tmp_path)
    with pytest.raises(OSError, match="evil"):
        kit.open().topic("evil")


def test_a_file_in_the_place_of_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError):
        Log.open(tmp_path / "file")


def test_a_root_that_everybody_may_write_is_refused(kit: Any) -> None:
    kit.open().close()
    kit.path.chmod(0o777)
    with pytest.raises(BadRoot, match="chmod"):
        Log.open(kit.path)


def test_a_root_of_another_user_is_refused(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.open().close()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(BadRoot, match="belongs to"):
        Log.open(kit.path)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse", "fuse.sshfs"])
def test_network_file_systems_are_refused_unless_asked_for(kit: Any, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(files, "filesystem_type", lambda fd: kind)
    with pytest.raises(BadRoot, match=kind):
        Log.open(kit.path)
    Log.open(kit.path, any_filesystem=True).close()


def test_the_type_of_the_file_system_is_found(tmp_path: Path) -> None:
    fd = os.open("/proc", os.O_RDONLY)
    assert files.filesystem_type(fd) == "proc"
    os.close(fd)


@pytest.mark.parametrize("text", ["format=2\n", "", "nonsense"])
def test_a_root_of_another_format_is_unsupported(kit: Any, text: str) -> None:
    kit.open().close()
    (kit.path / "MQSDK").write_text(text)
    with pytest.raises(UnsupportedVersion):
        Log.open(kit.path)


def test_a_refused_root_leaves_no_descriptor_open(kit: Any) -> None:
    kit.open().close()
    (kit.path / "MQSDK").write_text("format=9\n")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UnsupportedVersion):
        Log.open(kit.path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_creating_a_topic_again_returns_it_with_its_own_count(kit: Any) -> None:
    log = kit.open()
    first = log.create_topic("orders", 3)
    assert log.create_topic("orders", 5) is first
    assert log.topic("orders") is first
    assert first.partition_count == 3
    assert log.topics() == ["orders"]
    again = kit.open().create_topic("orders")
    assert (again.partition_count, again.uuid) == (3, first.uuid)


def test_names_that_differ_in_case_only_are_refused(kit: Any) -> None:
    log = kit.open()
    log.create_topic("orders", 1)
    with pytest.raises(TopicExists, match="case"):
        log.create_topic("Orders", 1)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "/etc", "a\0b", "x" * 256])
def test_what_is_no_plain_file_name_is_refused(kit: Any, name: str) -> None:
    log = kit.open()
    for call in (log.topic, log.create_topic, log.delete_topic):
        with pytest.raises(ValueError, match="plain file name"):
            call(name)


@pytest.mark.parametrize("partitions", [0, -1, 5000])
def test_a_senseless_number_of_partitions_is_refused(kit: Any, partitions: int) -> None:
    log = kit.open()
    with pytest.raises(ValueError, match="partitions"):
        log.create_topic("orders", partitions)
    assert log.topics() == []


def test_a_missing_topic_and_partition_are_named(kit: Any) -> None:
    log = kit.open()
    with pytest.raises(NoSuchTopic, match="orders"):
        log.topic("orders")
    topic = log.create_topic("orders", 2)
    for number in (-1, 2):
        with pytest.raises(IndexError, match="partitions 0 to 1"):
            topic.partition(number)
    with pytest.raises(NoSuchTopic):
        log.delete_topic("other")


def test_a_deletion_that_died_is_finished_by_whoever_comes_next(kit: Any) -> None:
    log = kit.open()
    topic = log.create_topic("orders", 1)
    kit.append(topic.partition(0), b"one")
    topic.mark_deleted()  # and no further
    other = kit.open()
    with pytest.raises(NoSuchTopic):
        other.topic("orders")
    assert kit.append(other.create_topic("orders", 1).partition(0), b"again") == 0
    assert [path.name for path in (kit.path / "topics").iterdir()] == ["orders"]


def test_leftovers_of_creations_that_died_are_no_topics_and_are_removed(kit: Any) -> None:
    log = kit.open()
    (kit.path / "topics/.new.abc.tmp/0").mkdir(parents=True)
    assert log.topics() == []
    log.create_topic("orders", 1)
    assert [path.name for path in (kit.path / "topics").iterdir()] == ["orders"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        '{"version": 1, "partitions": 0, "uuid": "00"}',
        '{"version": 1, "partitions": "x", "uuid": 3}',
        '{"version": 1, "partitions": Infinity, "uuid": "%s"}' % ("00" * 16),
        "[" * 100_000,
    ],
    ids=["empty", "nothing", "list", "none", "words", "infinite", "deep"],
)
def test_a_damaged_topic_file_is_named(kit: Any, content: str) -> None:
    kit.open().create_topic("orders", 1)
    (kit.path / "topics/orders/topic.json").write_text(content)
    with pytest.raises(BadRoot, match="orders"):
        kit.open().topic("orders")


def test_a_topic_file_of_a_later_version_is_unsupported(kit: Any) -> None:
    kit.open().create_topic("orders", 1)
    path = kit.path / "topics/orders/topic.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2}))
    with pytest.raises(UnsupportedVersion):
        kit.open().topic("orders")


def test_many_openers_at_once_agree_on_one_root_and_one_topic(kit: Any) -> None:
    uuids, failures = set(), []
    barrier = threading.Barrier(6)

    def run() -> None:
        try:
            barrier.wait()
            with Log.open(kit.path, durability="none") as log:
                topic = log.create_topic("orders", 2)
                topic.partition(0).append([(None, b"", b"v", 0, 0, 1)], timestamp_ms=1)
                uuids.add(topic.uuid)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert len(uuids) == 1
    assert kit.open().topic("orders").partition(0).end() == 6


def test_every_descriptor_is_closed_on_exec(kit: Any) -> None:
    before = set(os.listdir("/proc/self/fd"))
    partition = kit.partition("always")
    kit.append(partition, b"one")
    partition.reader(0).read(1, 1)
    waiter = kit.opened[0].topic("orders").waiter()
    for name in set(os.listdir("/proc/self/fd")) - before:
        if os.path.exists(f"/proc/self/fd/{name}"):
            assert not os.get_inheritable(int(name))
    waiter.close()


def test_trap_threads_that_list_a_directory_at_once_each_see_all_of_it(tmp_path: Path) -> None:
    # They shared the place in it: a reader missed segments while the syncer looked for them.
    expected = {str(number) for number in range(300)}
    for name in expected:
        (tmp_path / name).touch()
    directory = files.open_dir(tmp_path)
    partial = []

    def run() -> None:
        for _ in range(100):
            found = files.names(directory)
            if len(found) != 300 or set(found) != expected:
                partial.append(len(found))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    os.close(directory)
    assert not partial
