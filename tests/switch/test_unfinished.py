"""What is written down of a change of cluster: one file per App and configuration, mode 0600, shared by processes."""

from __future__ import annotations

import logging
import os
import stat
import threading
from pathlib import Path

import pytest

from mqsdk.runtime.unfinished import Entry, OnDisk, Place

ENTRY = Entry("orders", (Place("a", 8),), Place("b", 4), 1_000)


def memory(folder: Path, app: str = "shop", source: str = "mqsdk.yaml") -> OnDisk:
    return OnDisk(app, source, {"MQSDK_STATE": str(folder)})


def test_another_process_finds_it_until_its_time_is_over(tmp_path: Path) -> None:
    memory(tmp_path).put(ENTRY, 0)
    assert memory(tmp_path).entries(999) == {"orders": ENTRY}
    assert memory(tmp_path).entries(1_000) == {}
    assert memory(tmp_path, app="store").entries(0) == {}
    assert memory(tmp_path, source="other.yaml").entries(0) == {}


def test_one_of_a_topic_replaces_the_earlier_one_and_leaves_the_others(tmp_path: Path) -> None:
    kept = memory(tmp_path)
    kept.put(ENTRY, 0)
    kept.put(ENTRY._replace(topic="payments"), 0)
    kept.put(ENTRY._replace(target=Place("c", 1)), 0)
    assert {topic: entry.target.cluster for topic, entry in kept.entries(0).items()} == {"orders": "c", "payments": "b"}


def test_only_the_user_may_read_it(tmp_path: Path) -> None:
    kept = memory(tmp_path / "state")
    kept.put(ENTRY, 0)
    assert stat.S_IMODE(os.stat(kept.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(kept.path.parent).st_mode) == 0o700


def test_many_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    names = [f"t{number}" for number in range(16)]
    threads = [threading.Thread(target=lambda name=name: memory(tmp_path).put(ENTRY._replace(topic=name), 0)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(memory(tmp_path).entries(0)) == sorted(names)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2, "switches": []}', '{"version": 1, "switches": [{"topic": "x"}]}'])
def test_a_damaged_or_newer_file_is_told_once_and_replaced(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    kept = memory(tmp_path)
    kept.put(ENTRY, 0)
    kept.path.write_text(text)
    with caplog.at_level(logging.ERROR, "mqsdk.move"):
        assert kept.entries(0) == {}
        assert kept.entries(0) == {}
    assert len(caplog.records) == 1
    kept.put(ENTRY, 0)
    assert memory(tmp_path).entries(0) == {"orders": ENTRY}


def test_without_a_state_folder_it_goes_on_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    kept = memory(tmp_path / "file")
    with caplog.at_level(logging.ERROR, "mqsdk.move"):
        kept.put(ENTRY, 0)
        assert kept.entries(0) == {}
    assert "a restart would not read the older clusters on" in caplog.text
