"""The processes of a fault run on one embedded log, the faults done to them, and the judgement of their journals."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mqsdk.testing.checker import BROKER, FREEZE, KILL, Verdict, judge
from mqsdk.testing.journal import Journal, Kind, read_journal, read_journals
from tests.processes import MQSDK, PATIENCE_S, Running, environment, mqsdk

HERE = Path(__file__).resolve().parent
TOPIC, GROUP = "work", "workers"
MEMBERS = 4  # publishers, and as many consumers


def prepare(folder: Path, config: str = "") -> None:
    """The two scripts, and the group: it exists before the first publish, so it is owed every message. config: of `mqsdk.yaml`."""
    if config:
        (folder / "mqsdk.yaml").write_text(config)
        (folder / "mqsdk.yaml").chmod(0o600)
    for script in ("publisher.py", "consumer.py"):
        shutil.copy(HERE / script, folder)
    ensured = mqsdk(folder, "groups", "ensure", TOPIC, GROUP, "--yes")
    assert ensured.returncode == 0, ensured.stderr


class Fleet:
    """Publishers and consumers by number; a killed one is started again under the same number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._journal = Journal.in_folder(folder, "faults")
        self._members: dict[tuple[str, int], Running] = {}
        self.kills = {"publisher": 0, "consumer": 0}
        self.variables: dict[tuple[str, int], dict[str, str]] = {}  # of single members

    def start(self, role: str, number: int) -> None:
        command = [sys.executable, "publisher.py", str(number)] if role == "publisher" else [*MQSDK, "run", "consumer:app"]
        variables = {**environment(self._folder), **self.variables.get((role, number), {})}
        self._members[role, number] = Running(command, self._folder, environ=variables)

    def start_all(self, count: int = MEMBERS) -> None:
        for role in ("consumer", "publisher"):
            for number in range(count):
                self.start(role, number)

    def pid(self, role: str, number: int) -> int:
        return self._members[role, number].pid

    def kill(self, role: str, number: int) -> None:
        victim = self._members[role, number]
        self._journal.fault(KILL, on=True, pid=victim.pid)
        with victim:
            victim.kill()
        self._journal.fault(KILL, on=False, pid=victim.pid)
        self.kills[role] += 1
        self.start(role, number)

    def freeze(self, role: str, number: int) -> float:
        """SIGSTOP; the moment before it."""
        victim = self._members[role, number]
        moment = time.monotonic()
        self._journal.fault(FREEZE, on=True, pid=victim.pid)
        victim.process.send_signal(signal.SIGSTOP)
        return moment

    def thaw(self, role: str, number: int) -> None:
        victim = self._members[role, number]
        victim.process.send_signal(signal.SIGCONT)
        self._journal.fault(FREEZE, on=False, pid=victim.pid)

    def leave(self, role: str, number: int) -> None:
        """SIGTERM, without waiting; `stop` has its exit code."""
        self._members[role, number].process.terminate()

    def is_under_way(self) -> bool:
        """Every process that runs has found the broker: what begins without one ends with an error, as it should."""
        return all(
            any("mqsdk.app: running" in line for line in member.lines) if role == "consumer" else self._has_stored(number, member.pid)
            for (role, number), member in self._members.items()
        )

    def _has_stored(self, number: int, pid: int) -> bool:
        journal = self._folder / f"publisher-{number}-{pid}.journal"
        return journal.exists() and any(entry.kind is Kind.SEND_STORED for entry in read_journal(journal))

    def said(self, role: str, number: int, text: str) -> bool:
        return any(text in line for line in self._members[role, number].lines)

    def broker(self, *, down: bool) -> None:
        """The broker is about to be taken away, or is there again."""
        self._journal.fault(BROKER, on=down, pid=0)

    def stop(self, role: str) -> list[int]:
        """SIGTERM to every process of a role; their exit codes."""
        members = [member for (name, _), member in self._members.items() if name == role]
        for member in members:
            member.process.terminate()
        return [member.process.wait(PATIENCE_S) for member in members]

    def finish(self) -> tuple[bool, list[int]]:
        """Stop the consumers once nothing waits any more: whether nothing did, and their exit codes.

        Looked at again when they are gone: RabbitMQ shows what waits, and what is out with a member comes back when it leaves.
        """
        codes: list[int] = []
        until = time.monotonic() + PATIENCE_S
        while True:
            complete = drained(self._folder)
            codes += self.stop("consumer")
            if not complete or time.monotonic() > until or is_drained(self._folder):
                return complete, codes
            for role, number in [member for member in self._members if member[0] == "consumer"]:
                self.start(role, number)

    def output(self) -> str:
        return "\n".join(f"{role} {number}: {line}" for (role, number), member in self._members.items() for line in member.lines[-5:])

    def end(self) -> None:
        for member in self._members.values():
            with member:
                pass


def drained(folder: Path) -> bool:
    """Wait until nothing waits any more."""
    return comes_true(lambda: is_drained(folder))


def is_drained(folder: Path) -> bool:
    """`mqsdk lag` over its limit exits with 1."""
    return mqsdk(folder, "lag", TOPIC, GROUP, "--max-messages", "0").returncode == 0


def comes_true(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> bool:
    """Looks again and again until the deadline; a look is a process or the reading of journals, so this does not spin."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if condition():
            return True
    return False


def judged(folder: Path, *, complete: bool, ordered: bool = True) -> Verdict:
    return judge(read_journals(folder), (GROUP,), ordered=(GROUP,) if ordered else (), drained=complete)


def goes_on(folder: Path, since: float, partitions: int = 4) -> float | None:
    """When each partition had begun a message that was published after `since` (monotonic seconds); None = not yet."""
    entries = read_journals(folder)
    fresh = {entry.id for entry in entries if entry.kind is Kind.SEND_INVOKE and entry.time > since}
    begun: dict[int, float] = {}
    for entry in entries:
        if entry.kind is Kind.START and entry.id in fresh:
            begun[entry.partition] = min(entry.time, begun.get(entry.partition, entry.time))
    return max(begun.values()) if len(begun) == partitions else None
