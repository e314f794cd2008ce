"""A journal holds what was written, also when its process was killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mqsdk.testing.journal import Journal, Kind, Outcome, read_journal, read_journals


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    journal = Journal.in_folder(tmp_path, "consumer")
    journal.send_invoke("m1", "käse", 7)
    journal.start("m1", group="billing", key="käse", attempt=2, epoch=1 << 41, partition=3)
    journal.end("m1", group="billing", ok=False, attempt=2, epoch=1 << 41)
    journal.fault("kill", on=True, pid=42)
    journal.close()
    invoke, start, end, fault = read_journals(tmp_path)
    assert (invoke.kind, invoke.id, invoke.key, invoke.sequence, invoke.pid) == (Kind.SEND_INVOKE, "m1", "käse", 7, os.getpid())
    assert (start.group, start.attempt, start.epoch, start.partition) == ("billing", 2, 1 << 41, 3)
    assert (end.kind, end.outcome) == (Kind.END, Outcome.FAILED)
    assert (fault.id, fault.outcome, fault.pid) == ("kill", Outcome.ON, 42)
    assert invoke.time <= start.time <= end.time <= fault.time


def test_a_long_name_is_stored_as_the_same_digest_everywhere(tmp_path: Path) -> None:
    for name in ("a", "b"):
        journal = Journal(tmp_path / f"{name}.journal")
        journal.send_stored("x" * 100)
        journal.close()
    first, second = read_journals(tmp_path)
    assert first.id == second.id != ""
    assert len(first.id) <= 48


def test_a_torn_last_record_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    journal = Journal(path)
    journal.send_stored("m1")
    journal.send_stored("m2")
    journal.close()
    path.write_bytes(path.read_bytes()[:-1])
    assert [entry.id for entry in read_journal(path)] == ["m1"]


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    journal = Journal(path)
    journal.send_stored("m1")
    journal.close()
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.journal: the record at byte 0 is damaged"):
        list(read_journal(path))


def test_records_survive_kill_9(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from mqsdk.testing.journal import Journal; j = Journal.in_folder(sys.argv[1], 'victim')\n"
        "for n in range(1000): j.send_stored(f'm{n}')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert [entry.id for entry in read_journals(tmp_path)] == [f"m{n}" for n in range(1000)]
