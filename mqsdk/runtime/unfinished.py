"""What a restart has to know: topics that were given another cluster lately, and where they were before. In the state folder, mode 0600.

One file per App and configuration, shared by its processes on this host; each writes under a lock what it has learnt.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mqsdk.config.lastgood import replace
from mqsdk.config.origin import digest, is_remote
from mqsdk.config.state import private_folder, state_folder
from mqsdk.errors import MqError

FOLDER = "switches"
VERSION = 1

log = logging.getLogger("mqsdk.move")


class Place(NamedTuple):
    """One cluster where a topic is or was, and how many partitions it has there."""

    cluster: str
    partitions: int


class Entry(NamedTuple):
    """older: oldest first. until_ms: Unix time at which nobody has to read or watch them any more."""

    topic: str
    older: tuple[Place, ...]
    target: Place
    until_ms: int


class Memory(Protocol):
    """Where entries are kept; `put` replaces that of the same topic."""

    def entries(self, now_ms: int) -> dict[str, Entry]: ...

    def put(self, entry: Entry, now_ms: int) -> None: ...


class InMemory:
    """For an App that leaves nothing behind: in tests, and where there is no state folder."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def entries(self, now_ms: int) -> dict[str, Entry]:
        return {topic: entry for topic, entry in self._entries.items() if entry.until_ms > now_ms}

    def put(self, entry: Entry, now_ms: int) -> None:
        self._entries = {**self.entries(now_ms), entry.topic: entry}


class OnDisk:
    """environ: decides the state folder. What cannot be read or written is said once per process; the process goes on without it."""

    def __init__(self, app: str, source: str, environ: Mapping[str, str] = os.environ) -> None:
        place = source if is_remote(source) else os.path.abspath(source)
        self._name = digest(f"{app}\0{place}".encode())
        self._environ = environ
        self._has_complained = False

    @property
    def path(self) -> Path:
        return state_folder(self._environ) / FOLDER / f"{self._name}.json"

    def entries(self, now_ms: int) -> dict[str, Entry]:
        try:
            return self._read(now_ms)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            self._complain("read", error)
            return {}

    def _read(self, now_ms: int) -> dict[str, Entry]:
        path = self.path
        if not path.exists():
            return {}
        found = json.loads(path.read_text())
        if found["version"] != VERSION:
            raise ValueError(f"version {found['version']} is not known")
        entries = [_entry(one) for one in found["switches"]]
        return {entry.topic: entry for entry in entries if entry.until_ms > now_ms}

    def put(self, entry: Entry, now_ms: int) -> None:
        try:
            with self._locked():
                entries = {**self.entries(now_ms), entry.topic: entry}
                document = {"version": VERSION, "switches": [_document(one) for one in entries.values()]}
                replace(self.path, json.dumps(document, indent=1).encode())
        except (OSError, RuntimeError, MqError) as error:
            self._complain("written", error)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        private_folder(self.path.parent.parent)
        private_folder(self.path.parent)
        file = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def _complain(self, what: str, error: Exception) -> None:
        if not self._has_complained:
            self._has_complained = True
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            log.error("unfinished changes of cluster cannot be %s, a restart would not read the older clusters on: %s", what, text)


def _entry(one: Mapping[str, Any]) -> Entry:
    return Entry(str(one["topic"]), tuple(map(_place, one["older"])), _place(one["target"]), int(one["until_ms"]))


def _place(one: Mapping[str, Any]) -> Place:
    return Place(str(one["cluster"]), int(one["partitions"]))


def _document(entry: Entry) -> dict[str, Any]:
    return {**entry._asdict(), "older": [place._asdict() for place in entry.older], "target": entry.target._asdict()}
