"""What the watcher of the configuration file takes for a change, and how often it asks for a reload. No thread: the test looks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mqsdk.errors import ConfigError, StateError
from mqsdk.runtime.watch import LARGEST, Watch, Watcher


class Looking:
    """A watch over `mqsdk.yaml`; `meanwhile` happens between its two readings."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "mqsdk.yaml"
        self.path.write_text("a: 1")
        self.reloads = 0
        self.error: Exception | None = None
        self.meanwhile: Callable[[], object] = lambda: None
        self.watch = Watch(str(self.path), self.reload, lambda seconds: self.meanwhile())

    def reload(self) -> None:
        self.reloads += 1
        if self.error is not None:
            raise self.error

    def looks(self, times: int = 3) -> int:
        """How often it reloads in so many looks."""
        before = self.reloads
        for _ in range(times):
            self.watch.look()
        return self.reloads - before


@pytest.fixture
def looking(tmp_path: Path) -> Looking:
    return Looking(tmp_path)


def test_an_unchanged_file_is_not_read_again(looking: Looking) -> None:
    assert looking.looks() == 0


def test_after_somebody_else_has_reloaded_it_is_tried_once_more_there_or_not(looking: Looking) -> None:
    looking.watch.forget()
    assert looking.looks() == 1
    looking.watch.forget()
    looking.path.unlink()
    assert looking.looks() == 1


def test_a_file_written_in_place_is_taken_once(looking: Looking) -> None:
    looking.path.write_text("a: 22")
    assert looking.looks() == 1
    looking.path.write_text("a: 333")
    assert looking.looks() == 1


def test_a_touched_file_with_the_same_content_is_none(looking: Looking) -> None:
    os.utime(looking.path, (1, 1))
    assert looking.looks() == 0


def test_a_time_that_goes_back_is_a_change_too(looking: Looking) -> None:
    before = looking.path.stat()
    looking.path.write_text("b: 1")
    os.utime(looking.path, ns=(before.st_atime_ns, before.st_mtime_ns - 1_000_000_000))
    assert looking.looks() == 1


def test_an_editor_that_renames_over_it_is_seen_every_time(looking: Looking, tmp_path: Path) -> None:
    for number in range(3):
        new = tmp_path / "new"
        new.write_text(f"a: {number}{number}")
        new.rename(looking.path)
        assert looking.looks() == 1


def test_a_link_that_is_swapped_is_seen_every_time(tmp_path: Path) -> None:
    """As a mounted config map: mqsdk.yaml -> ..data/mqsdk.yaml, ..data -> a folder of this version."""
    for number in range(4):
        (tmp_path / f"v{number}").mkdir()
        (tmp_path / f"v{number}" / "mqsdk.yaml").write_text(f"a: {number}")
    (tmp_path / "..data").symlink_to("v0")
    reloads: list[int] = []
    (tmp_path / "mqsdk.yaml").symlink_to("..data/mqsdk.yaml")
    watch = Watch(str(tmp_path / "mqsdk.yaml"), lambda: reloads.append(1), lambda seconds: None)
    for number in range(1, 4):
        (tmp_path / "..tmp").symlink_to(f"v{number}")
        (tmp_path / "..tmp").rename(tmp_path / "..data")
        watch.look()
        assert len(reloads) == number


def test_half_a_file_is_left_until_it_is_whole(looking: Looking) -> None:
    looking.path.write_text("a:")
    looking.meanwhile = lambda: looking.path.write_text("a: 22")
    assert looking.looks(1) == 0
    looking.meanwhile = lambda: None
    assert looking.looks() == 1


def test_a_bad_file_is_tried_once_per_content(looking: Looking) -> None:
    looking.error = ConfigError("no")
    looking.path.write_text("bad: 1")
    assert looking.looks() == 1
    for time in range(5):
        os.utime(looking.path, (time, time))
        assert looking.looks() == 0
    looking.path.write_text("worse: 1")
    assert looking.looks() == 1


def test_what_was_refused_for_a_reason_that_passes_is_tried_again_once_it_has(looking: Looking) -> None:
    is_due = False
    looking.watch = Watch(str(looking.path), looking.reload, lambda seconds: None, lambda: is_due)
    looking.error = ConfigError("an earlier change is unfinished")
    looking.path.write_text("a: 22")
    assert looking.looks(5) == 1
    is_due, looking.error = True, None
    assert looking.looks(1) == 1


def test_a_moment_that_does_not_fit_is_tried_again(looking: Looking) -> None:
    looking.error = StateError("the App is being started")
    looking.path.write_text("a: 22")
    assert looking.looks(2) == 2
    looking.error = None
    assert looking.looks() == 1


def test_a_file_that_is_deleted_and_comes_back_as_it_was_is_reported_once(looking: Looking) -> None:
    looking.error = ConfigError("missing")
    looking.path.unlink()
    assert looking.looks() == 1
    looking.error = None
    looking.path.write_text("a: 1")
    assert looking.looks() == 1


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: os.mkfifo(path), lambda path: path.symlink_to(path)])
def test_what_is_no_file_does_not_hold_it_up(looking: Looking, make: Callable[[Path], object]) -> None:
    looking.error = ConfigError("no file")
    looking.path.unlink()
    make(looking.path)
    assert looking.looks() == 1


def test_no_more_than_the_largest_file_is_read(looking: Looking) -> None:
    with looking.path.open("wb") as file:
        file.truncate(1 << 34)
    assert looking.looks() == 1
    assert isinstance(looking.watch._content, bytes)
    assert len(looking.watch._content) == LARGEST + 1


def test_a_file_that_appears_is_taken(tmp_path: Path) -> None:
    reloads: list[int] = []
    watch = Watch(str(tmp_path / "mqsdk.yaml"), lambda: reloads.append(1), lambda seconds: None)
    watch.look()
    assert not reloads
    (tmp_path / "mqsdk.yaml").write_text("version: 1")
    watch.look()
    assert len(reloads) == 1


def test_the_thread_goes_on_after_a_defect_and_ends_when_it_is_closed(tmp_path: Path) -> None:
    path, reloaded, often = tmp_path / "mqsdk.yaml", threading.Semaphore(0), iter(range(1_000_000))

    def reload() -> None:
        reloaded.release()
        raise TypeError("a defect")

    watcher = Watcher(Watch(str(path), reload), lambda: 0.001)
    watcher.start()
    path.write_text(f"a: {next(often)}")
    assert reloaded.acquire(timeout=10)
    assert reloaded.acquire(timeout=10)  # not taken, so tried again
    watcher.close()
    watcher._thread.join(10)
    assert not watcher._thread.is_alive()


def test_switched_off_it_does_not_look(tmp_path: Path) -> None:
    path, asked, reloads = tmp_path / "mqsdk.yaml", threading.Semaphore(0), []

    def every_s() -> float | None:
        asked.release()
        return None

    watcher = Watcher(Watch(str(path), lambda: reloads.append(1)), every_s)
    path.write_text("a: 1")
    watcher.start()
    assert asked.acquire(timeout=10)
    assert asked.acquire(timeout=10)
    watcher.close()
    watcher._thread.join(10)
    assert not reloads
