"""`mqsdk log ls` and `dump`: what they show, and that looking changes nothing and disturbs nobody."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mqsdk_log.engine import files
from mqsdk_log.engine import format as fmt
from mqsdk_log.tools import verify
from mqsdk_log.tools.survey import Root

from mqsdk.cli.main import cli


def snapshot(path: Path) -> dict[str, tuple[bytes, int]]:
    return {str(one.relative_to(path)): (one.read_bytes(), one.stat().st_ino) for one in sorted(path.rglob("*")) if one.is_file()}


# --- ls ------------------------------------------------------------------------------------------------------------------------------


def test_topics_with_their_sizes_and_how_far_groups_are(place: Any) -> None:
    place.fill()
    group = place.group()
    cursors = group.cursors("orders")
    cursors.store(0, cursors.read(0)._replace(watermark=5))
    cursors.close()
    found = place.mqsdk("ls", "--json").document
    (topic,) = found["topics"]
    assert {key: topic[key] for key in ("topic", "partitions", "segments", "records", "durability", "state")} == {
        "topic": "orders", "partitions": 2, "segments": 3, "records": 12, "durability": "interval", "state": "ok",
    }  # fmt: skip
    assert topic["bytes"] == sum(path.stat().st_size for path in place.segments)
    assert [(one["topic"], one["group"], one["lag"]) for one in found["groups"]] == [("orders", "billing", 7)]
    assert (found["format"], found["root"]) == ("1", str(place.path))


def test_one_topic_with_its_partitions(place: Any) -> None:
    place.fill()
    place.group()
    found = place.mqsdk("ls", "orders", "--json").document
    first, second = found["partitions"]
    assert {key: first[key] for key in ("partition", "start", "end", "durable", "segments", "state")} == {
        "partition": 0, "start": 0, "end": 12, "durable": 12, "segments": 3, "state": "ok",
    }  # fmt: skip
    assert (second["end"], second["segments"], second["state"]) == (0, 0, "unused")
    assert [(one["partition"], one["watermark"], one["lag"], one["epoch"]) for one in found["groups"]] == [(0, 0, 12, 0), (1, 0, 0, 0)]
    assert "12" in place.mqsdk("ls", "orders").out
    assert place.mqsdk("ls", "nothing", "--json").code == 6


def test_what_is_lost_or_read_only_is_shown(place: Any, hurt: Any) -> None:
    partition = place.fill()
    place.close()
    hurt.flip(place.segments[0], 64 + 100)
    assert place.mqsdk("repair", "orders", "--yes").code == 0
    found = place.mqsdk("ls", "orders", "--json").document
    assert found["lost"] == [{"partition": 0, "start": 0, "stop": 2}]
    assert (found["partitions"][0]["state"], found["partitions"][0]["quarantined"]) == ("records lost", 126)
    partition = place.open().topic("orders").partition(0)
    partition.slot[12] |= 1
    assert place.mqsdk("ls", "orders", "--json").document["partitions"][0]["state"] == "read-only"
    partition.slot[12] = 0


def test_the_cluster_is_the_only_log_of_the_configuration_or_is_named(place: Any, tmp_path: Path) -> None:
    place.fill()
    path = tmp_path / "mqsdk.yaml"

    def configured(clusters: str, *words: str) -> Any:
        path.write_text(f'version: 1\nclusters: {clusters}\nroutes: [{{topics: ["*"], cluster: one}}]\n')
        path.chmod(0o600)
        return CliRunner().invoke(cli, ["log", "ls", "--json", *words])

    assert json.loads(configured("{one: {backend: log, path: log}}").stdout)["root"] == str(place.path)
    two = "{one: {backend: log, path: nowhere}, two: {backend: log, path: log}}"
    found = configured(two)
    assert (found.exit_code, "2 clusters are of kind log" in json.loads(found.stdout)["error"]["what"]) == (3, True)
    assert json.loads(configured(two, "--cluster", "two").stdout)["root"] == str(place.path)
    assert configured(two, "--cluster", "three").exit_code == 3
    assert configured(two, "--cluster", "two", "--root", "log").exit_code == 2


# --- dump ----------------------------------------------------------------------------------------------------------------------------


def test_records_without_their_bodies_and_with_them(place: Any) -> None:
    place.fill()
    lines = place.mqsdk("dump", "orders", "--json").lines
    assert [line["offset"] for line in lines] == list(range(12))
    assert lines[3]["bytes"] == 8
    assert "body" not in lines[3]
    assert "value" not in place.mqsdk("dump", "orders").out
    assert [line["body"] for line in place.mqsdk("dump", "orders", "--json", "--body").lines] == [value.decode() for value in place.values]


def test_a_range_of_offsets_or_of_time_and_one_partition(place: Any) -> None:
    place.fill()
    assert [line["offset"] for line in place.mqsdk("dump", "orders", "--from", "5", "--to", "9", "--json").lines] == [5, 6, 7, 8]
    lines = place.mqsdk(
        "dump", "orders", "-p", "0", "--from", "2023-11-14T22:13:20.004Z", "--to", "2023-11-14T22:13:20.008Z", "--json"
    ).lines
    assert [line["offset"] for line in lines] == [4, 5, 6, 7]
    assert place.mqsdk("dump", "orders", "-p", "1").out == ""
    assert place.mqsdk("dump", "orders", "-p", "2").code == 6
    assert place.mqsdk("dump", "orders", "--from", "yesterday").code == 2


def test_batches_with_what_their_headers_say(place: Any) -> None:
    place.fill()
    lines = place.mqsdk("dump", "orders", "--batches", "--json").lines
    assert [(line["offset"], line["records"], line["position"], line["sequence"]) for line in lines[:3]] == [
        (0, 2, 64, 0),
        (2, 2, 190, 2),
        (4, 2, 64, 4),
    ]
    assert {line["producer"] for line in lines} == {"0000000000000007"}


def test_what_is_damaged_is_told_in_its_place(place: Any, hurt: Any) -> None:
    place.fill()
    place.close()
    hurt.flip(place.segments[0], 64 + 126 + 70)
    found = place.mqsdk("dump", "orders", "--json")
    assert found.code == 1
    assert [line.get("offset", line.get("damaged")) for line in found.lines[:5]] == [0, 1, [2, 4], 4, 5]


def test_what_is_delayed_with_its_time(place: Any) -> None:
    delays = place.fill().delays
    assert delays is not None
    delays.put([(b"k", b"", b"later", 0, 0, 1)], [4_000_000_000_000], timestamp_ms=1)
    (line,) = place.mqsdk("dump", "orders", "--delayed", "--json", "--body").lines
    assert (line["due"], line["body"]) == ("2096-10-02T07:06:40.000Z", "later")


def test_control_characters_do_not_reach_the_terminal(place: Any) -> None:
    block = fmt.encode_headers([(b"mq-id", b"\x1b[2Jid")])
    place.open().create_topic("orders", 1).partition(0).append([(b"\x1b[2J", block, b"\x1b[2J\xff", 0, 0, 1)], timestamp_ms=1)
    assert "\x1b" not in place.mqsdk("dump", "orders", "--body").out


# --- beside others -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("ls",), ("ls", "orders"), ("dump", "orders"), ("verify",)])
@pytest.mark.parametrize("boot", ["same", "new"])
def test_looking_changes_no_file_and_makes_none(place: Any, hurt: Any, command: tuple[str, ...], boot: str) -> None:
    place.fill()
    place.group()
    place.close()
    if boot == "new":
        hurt.reboot(place.path)
    with place.segments[-1].open("ab") as file:
        file.write(b"torn")
    before = snapshot(place.path)
    assert place.mqsdk(*command).code == 0
    assert snapshot(place.path) == before


def test_looking_takes_no_lock(place: Any) -> None:
    partition = place.fill()
    with partition._mutex:
        fds = [files.open_create(name, partition.directory) for name in ("lock", "sync.lock", "delay.lock")]
        for fd in fds:
            files.flock(fd, files.LOCK_EX | files.LOCK_NB)
        try:
            for command in (("ls", "orders"), ("dump", "orders"), ("verify",)):
                assert place.mqsdk(*command).code == 0
        finally:
            for fd in fds:
                files.close(fd)


def test_beside_a_writer_that_rolls_a_live_log_is_clean(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention and appends go on meanwhile; nothing that is only changing is told as wrong."""
    partition = place.fill()
    over, failures = threading.Event(), list[BaseException]()

    def write() -> None:
        number = 100
        try:
            while not over.is_set():
                partition.append([(None, b"", b"v" * 60, 0, 0, 1)] * 3, timestamp_ms=number)
                number += 1
                if number % 50 == 0:
                    partition.remove_before(partition.end() - 100)
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(10):
            found = place.mqsdk("verify", "--json").document
            assert [one for one in found["findings"] if one["kind"] in verify.WRONG and one["kind"] != "time"] == []
            assert place.mqsdk("ls", "orders").code == 0
    finally:
        over.set()
        writer.join()
    assert not failures


def test_a_root_by_a_symbolic_link_of_another_user_or_of_everybody_is_refused(
    place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.fill()
    place.close()
    place.path.chmod(0o777)
    assert place.mqsdk("verify").code == 5
    place.path.chmod(0o700)
    (tmp_path / "link").symlink_to(place.path)
    real, place.path = place.path, tmp_path / "link"
    assert place.mqsdk("verify").code == 5
    place.path = real
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    assert place.mqsdk("verify").code == 5


@pytest.mark.parametrize("command", [("ls",), ("verify",), ("reindex", "--yes")])
def test_a_topic_that_is_deleted_meanwhile_ends_no_look_at_all_of_them(
    place: Any, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    place.fill()
    real = Root.topics
    monkeypatch.setattr(Root, "topics", lambda root: ["gone", *real(root)])
    assert place.mqsdk(*command).code == 0
    assert place.mqsdk(command[0], "gone", *command[1:]).code == 6
