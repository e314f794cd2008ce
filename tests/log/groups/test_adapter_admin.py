"""Admin, options, health and errors of the embedded log."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from mqsdk_log import mqsdk_backend
from mqsdk_log.options import Options

from mqsdk.spi import BackendError, ConfigError, Corrupt, Partition, StateError, Unavailable, UnsafeBackend, UnsupportedFormat

P0 = Partition("orders", 0)


def test_a_topic_is_made_once_and_another_count_is_refused(stage: Any) -> None:
    admin = stage.backend().admin()
    assert admin.partitions("orders") is None
    assert admin.ensure_topic("orders", None) == 8
    assert admin.ensure_topic("orders", None) == 8
    assert admin.partitions("orders") == 8
    with pytest.raises(UnsafeBackend, match="8 partitions, not 4") as caught:
        admin.ensure_topic("orders", 4)
    assert caught.value.finding == "partitions"
    with pytest.raises(ConfigError):
        admin.ensure_topic("none", 0)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a..b", "-x", "a b", "ä", "x" * 250, "a~1", "a\n"])
def test_a_name_that_is_no_plain_file_name_never_reaches_the_files(stage: Any, name: str) -> None:
    backend = stage.topic_of(1)
    calls: list[Any] = [
        lambda: backend.admin().ensure_topic(name, 1),
        lambda: backend.admin().ensure_group("orders", name),
        lambda: stage.join(backend, group=name),
        lambda: backend.admin().progress("orders", name),
    ]
    for call in calls:
        with pytest.raises(ConfigError):
            call()


def test_progress_and_topics_show_what_is_there(stage: Any) -> None:
    backend = stage.topic_of(2)
    producer = backend.producer(stage.answers)
    producer.publish(
        [stage.record(P0, b"%d" % number, token=number, timestamp_ms=1000 + number) for number in range(4)], time.monotonic() + 5
    )
    admin = backend.admin()
    assert admin.progress("orders", "billing") == []
    admin.ensure_group("orders", "billing")
    reading = stage.join(backend)
    reading.until(lambda: len(reading.values) == 4)
    reading.settle(0, 3)
    first, second = admin.progress("orders", "billing")
    assert (first.partition, first.watermark, first.end, first.messages, first.oldest_ms, first.start, first.epoch) == (
        0,
        3,
        4,
        1,
        1003,
        0,
        1,
    )
    assert (second.messages, second.oldest_ms) == (0, None)
    (info,) = admin.topics()
    assert (info.name, info.partitions, info.groups, info.messages) == ("orders", 2, ("billing",), 4)
    assert info.bytes is not None
    assert info.bytes > 200


def test_members_are_those_whose_process_lives(stage: Any) -> None:
    backend, admin = stage.topic_of(2), stage.backend().admin()
    reading = stage.join(backend, instance="web")
    reading.until(lambda: len(reading.owned) == 2)
    (group,) = admin.groups("orders")
    (member,) = group.members
    assert (member.pid, member.partitions) == (os.getpid(), (0, 1))
    assert member.id.startswith("web-")
    backend.vanish()
    assert admin.groups("orders")[0].members == ()


@pytest.mark.parametrize("call", ["reset", "delete_group", "delete_topic"])
def test_what_needs_an_empty_group_is_refused_while_it_has_members_and_a_dead_one_does_not_count(stage: Any, call: str) -> None:
    backend, admin = stage.topic_of(1), stage.backend().admin()
    stage.publish(backend, 3)
    reading = stage.join(backend)
    reading.until(lambda: len(reading.values) == 3)
    arguments = {"reset": ("orders", "billing", {0: 1}), "delete_group": ("orders", "billing"), "delete_topic": ("orders",)}[call]
    with pytest.raises(StateError, match="1 member"):
        getattr(admin, call)(*arguments)
    assert reading.settle(0, 2) == "stored"
    backend.vanish()
    getattr(admin, call)(*arguments)


def test_a_reset_begins_a_new_epoch_and_forgets_the_sparse_blob(stage: Any) -> None:
    backend = stage.topic_of(1)
    values = stage.publish(backend, 5)
    first = stage.join(backend)
    first.until(lambda: len(first.values) == 5)
    first.settle(0, 4, sparse=b"s")
    first.consumer.close(time.monotonic() + 5)
    backend.admin().reset("orders", "billing", {0: 1})
    second = stage.join(backend)
    second.until(lambda: second.values == values[1:])
    assert (second.owned[0].position, second.owned[0].sparse, second.owned[0].epoch) == (1, b"", 3)


@pytest.mark.parametrize(("asked", "got"), [(-5, 0), (2, 2), (99, 3)])
def test_a_reset_stays_within_the_log(stage: Any, asked: int, got: int) -> None:
    backend = stage.topic_of(1)
    stage.publish(backend, 3)
    admin = backend.admin()
    admin.ensure_group("orders", "billing")
    admin.reset("orders", "billing", {0: asked})
    assert admin.progress("orders", "billing")[0].watermark == got


def test_a_deleted_group_leaves_nothing_and_begins_anew(stage: Any) -> None:
    backend = stage.topic_of(1)
    values = stage.publish(backend, 2)
    reading = stage.join(backend)
    reading.until(lambda: len(reading.values) == 2)
    reading.settle(0, 2)
    reading.consumer.close(time.monotonic() + 5)
    backend.admin().delete_group("orders", "billing")
    backend.admin().delete_group("orders", "billing")
    assert not (stage.root / "groups" / "billing").exists()
    assert backend.admin().groups("orders") == []
    again = stage.join(backend)
    again.until(lambda: again.values == values)


def test_deleting_one_topic_leaves_the_group_in_the_others(stage: Any) -> None:
    backend = stage.topic_of(1)
    admin = backend.admin()
    admin.ensure_topic("other", 1)
    for topic in ("orders", "other"):
        admin.ensure_group(topic, "billing")
    admin.delete_topic("orders")
    assert [info.name for info in admin.topics()] == ["other"]
    assert [group.group for group in admin.groups("other")] == ["billing"]
    assert admin.groups("orders") == []


def test_reading_begins_at_the_first_record_held_and_needs_no_group(stage: Any) -> None:
    backend = stage.topic_of(1)
    values = stage.publish(backend, 5)
    admin = backend.admin()
    assert [record.value for record in admin.read("orders", 0, -3, 2)] == values[:2]
    assert [record.value for record in admin.read("orders", 0, 3, 100)] == values[3:]
    assert admin.read("orders", 0, 5, 10) == []
    assert admin.read("orders", 0, 0, 0) == []
    assert admin.bounds("orders", 0) == (0, 5)
    with pytest.raises(BackendError, match="partitions 0 to 0"):
        admin.read("orders", 9, 0, 1)
    with pytest.raises(BackendError, match="no topic missing"):
        admin.bounds("missing", 0)
    assert admin.progress("missing", "billing") == []


def test_reading_a_damaged_record_is_an_error_and_damage_later_on_ends_the_list(stage: Any) -> None:
    backend = stage.topic_of(1)
    values = stage.publish(backend, 3)
    (segment,) = (stage.root / "topics" / "orders" / "0").glob("*.log")
    raw = bytearray(segment.read_bytes())
    raw[raw.index(b"MQB1", raw.index(b"MQB1") + 4) + 64 + 21] ^= 1
    segment.write_bytes(raw)
    admin = backend.admin()
    assert [record.value for record in admin.read("orders", 0, 0, 10)] == values[:1]
    with pytest.raises(Corrupt):
        admin.read("orders", 0, 1, 10)
    assert [record.value for record in admin.read("orders", 0, 2, 10)] == values[2:]


def test_damaged_progress_is_named_with_its_file(stage: Any) -> None:
    backend = stage.topic_of(1)
    backend.admin().ensure_group("orders", "billing")
    path = stage.root / "groups" / "billing" / "cursors" / "orders"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(Corrupt) as caught:
        backend.admin().progress("orders", "billing")
    assert caught.value.file == str(path)
    path.write_bytes(b"MQSDKCUR" + b"\x09" * 100)
    with pytest.raises(UnsupportedFormat):
        backend.admin().progress("orders", "billing")


# --- options, opening, health ---------------------------------------------------------------------------------------------------


def test_the_hook_answers_for_its_own_kind_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert mqsdk_backend(kind="kafka", name="x", options={}) is None
    backend = mqsdk_backend(kind="log", name="x", options={})
    assert backend is not None
    assert (backend.kind, backend.name) == ("log", "x")
    assert os.listdir(tmp_path) == []


def test_options_have_defaults_and_take_seconds_or_text() -> None:
    assert Options.parse({}, "local") == Options("./.mqsdk", "interval", 0.01, False)
    assert Options.parse({"interval": "250ms"}, "local").interval == 0.25
    assert Options.parse({"interval": 2, "durability": "always", "path": "x"}, "local") == Options("x", "always", 2.0)


def test_every_problem_of_the_options_is_listed_with_the_nearest_key() -> None:
    bad = {"durabilty": "always", "durability": "sometimes", "interval": "soon", "path": "", "any_filesystem": 1, "zzz": 1}
    with pytest.raises(ConfigError) as caught:
        Options.parse(bad, "local")
    keys = {problem.key: problem for problem in caught.value.problems}
    assert set(keys) == {f"clusters.local.{key}" for key in bad}
    assert "did you mean `durability`?" in keys["clusters.local.durabilty"].fix
    assert "none, interval, always" in keys["clusters.local.durability"].what


@pytest.mark.parametrize("value", [True, 0, -1, 61, float("nan"), "10", None, [1]])
def test_an_interval_that_makes_no_sense_is_refused(value: object) -> None:
    with pytest.raises(ConfigError):
        Options.parse({"interval": value}, "local")


def test_a_relative_path_is_taken_from_the_working_directory_at_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = mqsdk_backend(kind="log", name="local", options={"path": "deep/log"})
    assert backend is not None
    monkeypatch.chdir(tmp_path)
    backend.open(time.monotonic() + 5)
    backend.close(time.monotonic() + 5)
    assert (tmp_path / "deep" / "log" / "MQSDK").exists()


@pytest.mark.parametrize("durability", ["none", "interval", "always"])
def test_health_says_which_durability_holds(stage: Any, durability: str) -> None:
    health = stage.backend(durability=durability).health()
    assert health.ok
    assert f"`{durability}`" in health.guarantee
    assert [finding.code for finding in health.findings] == [f"durability_{durability}"]


def test_a_closed_backend_is_not_healthy_and_hands_nothing_out(stage: Any) -> None:
    backend = stage.topic_of(1)
    backend.close(time.monotonic() + 5)
    assert not backend.health().ok
    for call in (backend.admin, lambda: backend.producer(stage.answers), lambda: stage.join(backend)):
        with pytest.raises(StateError, match="not open"):
            call()


def test_a_root_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "future").mkdir()
    (tmp_path / "future" / "MQSDK").write_text("format=9\n")
    expected = {"file": (Unavailable,), "link": (UnsafeBackend,), "open": (UnsafeBackend,), "future": (UnsupportedFormat,)}
    for name, kinds in expected.items():
        backend = mqsdk_backend(kind="log", name="local", options={"path": str(tmp_path / name)})
        assert backend is not None
        with pytest.raises(kinds):
            backend.open(time.monotonic() + 5)
        backend.close(time.monotonic() + 5)


def test_what_recovery_cut_is_a_finding(stage: Any) -> None:
    backend = stage.topic_of(1)
    stage.publish(backend, 3)
    backend.close(time.monotonic() + 5)
    (segment,) = (stage.root / "topics" / "orders" / "0").glob("*.log")
    with segment.open("ab") as file:
        file.write(b"torn tail")
    again = stage.backend()
    assert [record.value for record in again.admin().read("orders", 0, 0, 10)] == [b"0", b"1", b"2"]
    stage.publish(again, 1)
    assert "recovered" in {finding.code for finding in again.health().findings}


def test_no_offset_that_was_settled_is_given_to_another_message(stage: Any) -> None:
    """The log lost its tail to a power failure; a group had settled beyond it."""
    backend = stage.topic_of(1)
    stage.publish(backend, 10)
    reading = stage.join(backend)
    reading.until(lambda: len(reading.values) == 10)
    reading.settle(0, 10)
    backend.close(time.monotonic() + 5)
    (segment,) = (stage.root / "topics" / "orders" / "0").glob("*.log")
    raw = segment.read_bytes()
    segment.write_bytes(raw[: raw.rindex(b"MQB1")])
    (stage.root / "topics" / "orders" / "state").unlink()
    again = stage.backend()
    values = stage.publish(again, 1)
    after = stage.join(again)
    after.until(lambda: after.values == values)
    assert again.admin().bounds("orders", 0)[1] == 11


def test_what_is_trimmed_leaves_the_disk_and_the_rest_stays(stage: Any) -> None:
    """Segments below the position; all of the newest one only when nothing in it is needed any more."""
    backend = stage.topic_of(1)
    producer = backend.producer(stage.answers)
    producer.publish([stage.record(P0, b"one %d" % number, token=number) for number in range(4)], time.monotonic() + 5)
    admin = backend.admin()
    folder = next(Path(backend._options.path).rglob("*.log")).parent
    admin.trim("orders", {0: 3})
    assert admin.bounds("orders", 0) == (0, 4)  # the segment holds the fourth as well
    admin.trim("orders", {0: 4})
    assert admin.bounds("orders", 0) == (4, 4)
    assert b"one" not in b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())
    producer.publish([stage.record(P0, b"two", token=9)], time.monotonic() + 5)
    assert [record.value for record in admin.read("orders", 0, 0, 10)] == [b"two"]
    with pytest.raises(BackendError):
        admin.trim("nothing", {0: 1})
