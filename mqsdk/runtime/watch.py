"""Looks at the configuration file by itself: a file that changed is read again, each content once.

Polling, because a watched inode goes blind when an editor renames over it and a watched link misses the second swap of a mounted directory;
a look is one `stat` (9 us). What is read twice alike is taken as written to its end; half a file would be refused and reported otherwise.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import NamedTuple

from mqsdk.errors import ConfigError, StateError

log = logging.getLogger("mqsdk.config")

LARGEST = 1 << 20  # bytes; what is larger is refused by the reader of the file and need not be held here
AGAIN_S = 0.05  # between the two readings


class Stamp(NamedTuple):
    """What a `stat` tells of a change: also a time that goes back, and a link that points elsewhere."""

    path: str
    inode: int
    mtime_ns: int
    size: int


class Watch:
    """One path. `look` is a round without a thread; `reload` reads and applies the configuration, or raises ConfigError, or StateError
    when it is not the moment."""

    def __init__(self, path: str, reload: Callable[[], object], wait: Callable[[float], object]) -> None:
        self._path = path
        self._reload = reload
        self._wait = wait
        self._stamp = _stamp(path)
        self._content = _read(path)

    def look(self) -> None:
        """Reload if the content is another one than that of the last reload that was tried."""
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        content = _read(self._path)
        self._wait(AGAIN_S)
        if _read(self._path) != content:
            return  # being written: the next look sees the end of it
        if content != self._content and not self._tried():
            return
        self._stamp, self._content = stamp, content

    def _tried(self) -> bool:
        try:
            self._reload()
        except ConfigError:
            return True  # reported by reload; the next content gets its own report
        except StateError:
            return False
        return True


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return Stamp(os.path.realpath(path), found.st_ino, found.st_mtime_ns, found.st_size)


def _read(path: str) -> bytes | str:
    """The content, its first bytes when it is too large, or what kept it from being read."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            return file.read(LARGEST + 1)
    except OSError as error:
        return type(error).__name__


def _open_at_once(path: str, flags: int) -> int:
    """A FIFO in place of the file must not hold up the thread."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


class Watcher:
    """The thread of one open App. every_s: asked before each wait, so that a changed interval counts at once; None: do not look now."""

    def __init__(self, path: str, reload: Callable[[], object], every_s: Callable[[], float | None]) -> None:
        self._ended = threading.Event()
        self._watch = Watch(path, reload, self._ended.wait)
        self._every_s = every_s
        self._thread = threading.Thread(target=self._run, name="mqsdk-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(self._every_s() or 1.0):
            if self._every_s() is None:
                continue
            try:
                self._watch.look()
            except Exception as error:  # a defect of a reload must not end the looking
                log.error("looking at the configuration failed: %s", type(error).__name__)

    def close(self) -> None:
        """Look no more. Does not wait: a reload that is under way may be waiting for the caller."""
        self._ended.set()
