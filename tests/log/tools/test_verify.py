"""`mqsdk log verify`: clean logs are clean, and no byte of a segment, an index, a mark or a progress file changes unseen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mqsdk_log.engine import format as fmt
from mqsdk_log.engine import segment, state
from mqsdk_log.engine.shared import Limits
from mqsdk_log.tools import verify
from mqsdk_log.tools.survey import Root

from mqsdk.cli.main import cli

NOW_MS = 1_700_000_000_000


def findings(path: Path) -> list[verify.Finding]:
    """All that `verify` tells of the topic `orders`."""
    root = Root(path)
    try:
        verdicts, others = verify.topic(root, "orders", lambda _more: None)
    finally:
        root.close()
    return [finding for verdict in verdicts for finding in verdict.findings] + others


def wrong(path: Path) -> list[verify.Finding]:
    return [one for one in findings(path) if one.kind in verify.WRONG]


@pytest.mark.parametrize("durability", ["none", "interval", "always"])
def test_a_log_that_nothing_happened_to_is_clean(place: Any, durability: str) -> None:
    place.fill(durability)
    assert len(place.segments) == 3
    place.group()
    found = place.mqsdk("verify", "--json")
    assert (found.code, found.document["records"], found.document["problems"], found.document["findings"]) == (0, 12, 0, [])
    place.close()
    assert place.mqsdk("verify").code == 0


def test_after_a_reboot_it_is_clean_too(place: Any, hurt: Any) -> None:
    place.fill()
    place.close()
    hurt.reboot(place.path)
    found = place.mqsdk("verify", "--json")
    assert (found.code, found.document["records"]) == (0, 12)
    assert {one["kind"] for one in found.document["findings"]} == {"note"}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody writes beside these tests: what looks wrong is wrong at the first look."""
    monkeypatch.setattr(verify, "PAUSE_S", 0.0)


@pytest.mark.parametrize("boot", ["same", "new"])
def test_every_byte_of_every_segment_is_seen_when_it_changes(place: Any, hurt: Any, boot: str) -> None:
    """Flipped once each: told with its segment, its place and the offsets that are lost with it."""
    place.fill()
    place.close()
    if boot == "new":
        hurt.reboot(place.path)
    for path in place.segments:
        for at in range(path.stat().st_size):
            hurt.flip(path, at, 1 << at % 8)
            found = wrong(place.path)
            assert [one.kind for one in found] == ["damage"], f"byte {at} of {path.name}"
            flaw = found[0].flaw
            assert flaw is not None
            assert flaw.segment == int(path.stem)
            assert flaw.position <= at < flaw.stop_position
            hurt.flip(path, at, 1 << at % 8)
    assert wrong(place.path) == []


def test_no_changed_byte_is_returned_or_cut_by_a_recovery(place: Any, hurt: Any, tmp_path: Path) -> None:
    """Each seventh byte, in a copy that is opened as after a reboot: the gap that `verify` tells, and sealed segments as they were."""
    place.fill()
    place.close()
    sizes = {path.name: path.stat().st_size for path in place.segments}
    places = [(path.name, at) for path in place.segments for at in range(path.stat().st_size)]
    for name, at in places[::7]:
        copy = place.copy(tmp_path / "copy")
        hurt.flip(copy.folder / name, at, 1 << at % 8)
        (found,) = wrong(copy.path)
        assert found.flaw is not None
        values, gaps = copy.read()
        assert gaps == [(found.flaw.start, found.flaw.stop)]
        assert values == copy.values[: found.flaw.start] + copy.values[found.flaw.stop :]
        assert {name: (copy.folder / name).stat().st_size for name in sizes} == sizes


def test_a_reader_in_a_running_process_meets_the_same_ranges(place: Any, hurt: Any) -> None:
    place.fill()
    place.close()
    for path in place.segments:
        for at in range(0, path.stat().st_size, 11):
            hurt.flip(path, at)
            (found,) = wrong(place.path)
            assert found.flaw is not None
            assert place.read() == (
                place.values[: found.flaw.start] + place.values[found.flaw.stop :],
                [(found.flaw.start, found.flaw.stop)],
            )
            hurt.flip(path, at)


def indexed(place: Any) -> Path:
    """A log whose only segment has an index of several entries."""
    log = place.open(limits=Limits(min_free_bytes=0))
    partition = log.create_topic("orders", 1).partition(0)
    for number in range(8):
        partition.append([(None, b"", b"v" * 70_000, 0, 0, 1)], timestamp_ms=number)
    place.close()
    (path,) = place.folder.glob("*.idx")
    assert path.stat().st_size >= 40
    return path  # type: ignore[no-any-return]


def test_every_byte_of_an_index_is_seen_when_it_changes(place: Any, hurt: Any) -> None:
    path = indexed(place)
    assert wrong(place.path) == []
    for at in range(path.stat().st_size):
        hurt.flip(path, at, 1 << at % 8)
        assert [one.kind for one in wrong(place.path)] == ["hint"], at
        hurt.flip(path, at, 1 << at % 8)


def test_every_byte_of_a_durable_mark_is_seen_when_it_changes(place: Any, hurt: Any) -> None:
    place.fill()
    place.close()
    path = place.folder / "checkpoint"
    for at in range(path.stat().st_size):
        hurt.flip(path, at)
        assert [one.what.split(" fail")[0] for one in wrong(place.path)] == ["1 of 2 copies of the durable mark"], at
        hurt.flip(path, at)


def test_every_used_byte_of_a_progress_file_is_seen_when_it_changes(place: Any, hurt: Any) -> None:
    place.fill()
    cursors = place.group().cursors("orders")
    cursors.store(0, cursors.read(0)._replace(watermark=4, sparse=b"sparse"))
    cursors.close()
    place.close()
    path = place.path / "groups/billing/cursors/orders"
    assert wrong(place.path) == []
    first, second = 4096, 4096 * 3  # the slots of partition 0; a slot's checksum ends it
    used = [*range(8), *range(12, 16), *range(first, first + 48), *range(first + 4092, first + 4096)]
    used += [*range(second, second + 54), *range(second + 4092, second + 4096)]
    for at in used:
        hurt.flip(path, at)
        assert len(wrong(place.path)) == 1, at
        hurt.flip(path, at)
    hurt.flip(path, 8, 2)  # the version
    found = place.mqsdk("verify", "--json")
    assert (found.code, found.document["findings"][0]["kind"]) == (5, "unsupported")


def test_both_copies_of_a_progress_damaged_say_what_to_do(place: Any, hurt: Any) -> None:
    place.fill()
    place.group()
    for slot in (4096, 4096 * 3):
        hurt.flip(place.path / "groups/billing/cursors/orders", slot + 8)
    found = place.mqsdk("verify", "--json")
    assert found.code == 1
    (one,) = found.document["findings"]
    assert "both copies" in one["what"]
    assert "delete the group" in one["fix"]


def test_bytes_that_a_writer_left_behind_are_no_damage(place: Any) -> None:
    place.fill()
    place.close()
    with place.segments[-1].open("ab") as file:
        file.write(b"half a batch")
    found = place.mqsdk("verify", "--json")
    assert found.code == 0
    (one,) = found.document["findings"]
    assert (one["kind"], one["bytes"]) == ("torn", 12)


def test_a_torn_end_after_a_reboot_is_no_damage(place: Any, hurt: Any) -> None:
    partition = place.fill()
    mark = (place.folder / "checkpoint").read_bytes()
    partition.append([(None, b"", b"not synced", 0, 0, 1)], timestamp_ms=1)
    place.close()
    (place.folder / "checkpoint").write_bytes(mark)
    hurt.reboot(place.path)
    last = place.segments[-1]
    with last.open("r+b") as file:
        file.truncate(last.stat().st_size - 3)
    found = place.mqsdk("verify", "--json")
    assert found.code == 0
    assert [one["kind"] for one in found.document["findings"] if one["kind"] != "note"] == ["torn"]
    assert place.read()[0] == place.values


def test_a_segment_that_lost_its_end_a_missing_one_and_a_shortened_newest_one_are_told(place: Any) -> None:
    place.fill()
    place.close()
    first, second, last = place.segments
    with first.open("r+b") as file:
        file.truncate(first.stat().st_size - 10)
    second.unlink()
    with last.open("r+b") as file:
        file.truncate(last.stat().st_size - 10)
    ranges = sorted((one.flaw.start, one.flaw.stop) for one in wrong(place.path) if one.flaw is not None)
    values, gaps = place.read()
    missing = [number for low, high in ranges for number in range(low, high)]
    assert values == [value for number, value in enumerate(place.values) if number not in missing]
    assert [number for low, high in gaps for number in range(low, high)] == missing
    assert len(missing) == 12 - len(values) > 4


def test_the_oldest_segments_missing_is_told(place: Any) -> None:
    place.fill()
    place.close()
    place.segments[0].unlink()
    (found,) = wrong(place.path)
    assert found.flaw is not None
    assert (found.flaw.start, found.flaw.stop) == (0, int(place.segments[0].stem))


def test_a_segment_of_another_topic_is_told(place: Any) -> None:
    place.fill()
    place.close()
    settings = place.path / "topics/orders/topic.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "uuid": "00" * 16}))
    assert {one.kind for one in wrong(place.path)} == {"order"}


def test_a_segment_of_a_later_format_is_not_called_corrupt(place: Any) -> None:
    place.fill()
    place.close()
    path = place.segments[0]
    header = fmt.decode_segment_header(path.read_bytes())
    path.write_bytes(fmt.encode_segment_header(header._replace(major=2)) + path.read_bytes()[64:])
    found = place.mqsdk("verify", "--json")
    assert found.code == 5
    assert [(one["kind"], "found 2.0, supported 1.x" in one["what"]) for one in found.document["findings"]] == [("unsupported", True)]


@pytest.mark.parametrize("content", ["[]", "{", '{"0": 5}', '{"x": [[1, 2]]}', '{"0": [[5, 2]]}'])
def test_a_list_of_damage_that_says_nothing_is_told(place: Any, content: str) -> None:
    place.fill()
    (place.path / "topics/orders/damage.json").write_text(content)
    assert [one.kind for one in wrong(place.path)] == ["hint"]
    assert place.read() == (place.values, [])


def test_repeats_of_a_producer_are_counted(place: Any) -> None:
    partition = place.fill()
    partition.append([(None, b"", b"again", 0, 0, 1)], timestamp_ms=1, producer_id=7, producer_seq=3)
    assert place.mqsdk("verify", "--json").document["topics"][0]["repeats"] == 1


def test_what_is_delayed_is_looked_at_too(place: Any, hurt: Any) -> None:
    delays = place.fill().delays
    assert delays is not None
    delays.put([(None, b"", b"later", 0, 0, 1)], [4_000_000_000_000], timestamp_ms=1)
    place.close()
    (path,) = (place.path / "topics/orders/delay").glob("*/0/*.log")
    assert place.mqsdk("verify").code == 0
    for at in range(path.stat().st_size):
        hurt.flip(path, at)
        found = wrong(place.path)
        assert [(one.kind, one.topic.split(" ")[1]) for one in found] == [("damage", "delay")], at
        hurt.flip(path, at)


def test_a_missing_root_a_missing_topic_and_a_later_format_have_their_codes(place: Any) -> None:
    assert place.mqsdk("verify").code == 4
    place.fill()
    assert place.mqsdk("verify", "nothing").code == 6
    (place.path / "MQSDK").write_text("format=2\n")
    found = place.mqsdk("verify", "--json")
    assert (found.code, found.document["error"]["type"]) == (5, "UnsupportedFormat")
    assert "found 2, supported 1" in found.document["error"]["what"]


def test_a_damaged_topic_file_is_a_finding_and_no_end(place: Any) -> None:
    place.fill()
    place.open().create_topic("other", 1)
    (place.path / "topics/orders/topic.json").write_text("{")
    found = place.mqsdk("verify", "--json")
    assert found.code == 1
    assert {one["topic"]: one["problems"] for one in found.document["topics"]} == {"other": 0, "orders": 1}
    assert found.document["findings"][0]["topic"] == "orders"


def test_a_segment_that_ends_too_early_between_two_batches_is_told(place: Any) -> None:
    place.fill()
    place.close()
    with place.segments[0].open("r+b") as file:
        file.truncate(64 + 126)
    (found,) = wrong(place.path)
    assert found.flaw is not None
    assert (found.kind, found.flaw.start, found.flaw.stop) == ("damage", 2, 4)
    assert place.read() == (place.values[:2] + place.values[4:], [(2, 4)])


def test_segments_that_retention_is_about_to_remove_or_a_roll_has_begun_are_no_part_of_the_log(place: Any) -> None:
    partition = place.fill()
    partition.slot[state.LOG_START] = int(place.segments[1].stem)
    directory = partition.directory
    segment.create(directory, 99, bytes(16), 0, durable=False)
    found = place.mqsdk("verify", "--json")
    assert (found.code, found.document["records"], found.document["partitions"][0]["start"]) == (0, 8, 4)
    assert [line["offset"] for line in place.mqsdk("dump", "orders", "--json").lines] == list(range(4, 12))


def test_a_hole_above_the_mark_is_judged_by_the_durability_of_the_configuration(place: Any, hurt: Any, tmp_path: Path) -> None:
    """A topic that was made with `interval` and is written with `always` now: what was answered is damaged, and not a torn end."""
    partition = place.fill("interval")
    mark = (place.folder / "checkpoint").read_bytes()
    for value in (b"one", b"two"):
        partition.append([(None, b"", value, 0, 0, 1)], timestamp_ms=NOW_MS)
    place.close()
    (place.folder / "checkpoint").write_bytes(mark)
    hurt.reboot(place.path)
    path = place.segments[-1]
    hurt.flip(path, path.read_bytes().index(b"one"))

    def kinds(*words: str) -> set[str]:
        found = json.loads(CliRunner().invoke(cli, ["log", "verify", "--json", *words]).stdout)
        return {one["kind"] for one in found["findings"]} - {"note"}

    assert kinds("--root", str(place.path)) == {"torn"}
    for durability, kind in (("interval", "torn"), ("always", "damage")):
        clusters = f"{{one: {{backend: log, path: log, durability: {durability}}}}}"
        (tmp_path / "mqsdk.yaml").write_text(f'version: 1\nclusters: {clusters}\nroutes: [{{topics: ["*"], cluster: one}}]\n')
        (tmp_path / "mqsdk.yaml").chmod(0o600)
        assert kinds() == {kind}
        planned = json.loads(CliRunner().invoke(cli, ["log", "repair", "orders", "--dry-run", "--json"]).stdout)["plan"][0]
        assert ("as lost" in planned) == (kind == "damage")
