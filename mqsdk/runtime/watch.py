"""Looks at the configuration by itself: what changed is read again, each content once.

A file by polling, because a watched inode goes blind when an editor renames over it and a watched link misses the second swap of a mounted
directory; a look is one `stat` (9 us). What is read twice alike is taken as written to its end; half a file would be refused and reported.
A remote source by polling too, for whatever it may send of itself can be lost.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from mqsdk.config import folder
from mqsdk.config.origin import Content, Source, SourceDown
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


def _never() -> bool:
    return False


class Watch:
    """One path. `look` is a round without a thread; `reload` reads and applies the configuration, or raises ConfigError, or StateError
    when it is not the moment. wait: between the two readings. is_due: whether what was refused may be taken now. same: the configuration
    in force is what the file said at this moment.
    """

    def __init__(
        self,
        path: str,
        reload: Callable[[], object],
        wait: Callable[[float], object] = time.sleep,
        is_due: Callable[[], bool] = _never,
        same: Callable[[float], object] = lambda began_at: None,
    ) -> None:
        self._path = path
        self._reload = reload
        self._wait = wait
        self._is_due = is_due
        self._same = same
        self._is_current = True
        self._stamp = _stamp(path)
        self._content: bytes | str | None = _read(path)

    def forget(self) -> None:
        """Somebody else has reloaded meanwhile: what was tried here last may not be what is in force. Any thread."""
        self._stamp, self._content = (), None  # what no file has, one that is missing neither

    def look(self) -> None:
        """Reload if the content is another one than that of the last reload that was tried, or if what refused that is gone."""
        began_at = time.monotonic()
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            if self._is_due():
                self._tried()
            elif self._is_current:
                self._same(began_at)
            return
        content = _read(self._path)
        self._wait(AGAIN_S)
        if _read(self._path) != content:
            return  # being written: the next look sees the end of it
        if content == self._content or self._takes(content):
            self._stamp = stamp

    def _takes(self, content: bytes | str) -> bool:
        self._content, was_tried = content, False  # noted first: it may be forgotten meanwhile
        try:
            was_tried = self._tried()
        finally:
            if not was_tried:
                self._content = None
        return was_tried

    def _tried(self) -> bool:
        try:
            self._reload()
        except ConfigError:
            self._is_current = False
            return True  # reported by reload; the next content gets its own report
        except StateError:
            return False
        self._is_current = True
        return True

    def hints(self, changed: Callable[[], object]) -> None:
        return None

    def close(self) -> None:
        return None


def _stamp(path: str) -> tuple[Stamp, ...] | None:
    """Of the file; of the directory and each of its parts."""
    try:
        found = os.stat(path)
        inner = folder.parts(path) if stat.S_ISDIR(found.st_mode) else []
        return (_stamped(path, found), *(_stamped(part.path, os.stat(part.path)) for part in inner))
    except OSError:
        return None


def _stamped(path: str, found: os.stat_result) -> Stamp:
    return Stamp(os.path.realpath(path), found.st_ino, found.st_mtime_ns, found.st_size)


def _read(path: str) -> bytes | str:
    """The content, its first bytes when it is too large, or what kept it from being read. Of a directory that of all parts."""
    try:
        if os.path.isdir(path):
            return b"".join(b"\0%s\0%s" % (os.fsencode(part.shown), _read_file(part.path)) for part in folder.parts(path))
        return _read_file(path)
    except OSError as error:
        return type(error).__name__


def _read_file(path: str) -> bytes:
    with open(path, "rb", opener=_open_at_once) as file:
        return file.read(LARGEST + 1)


def _open_at_once(path: str, flags: int) -> int:
    """A FIFO in place of the file must not hold up the thread."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


class SourceWatch:
    """A remote source. reload: takes a content, raises as for a file. trouble: told once per outage, and once per refusal to answer.

    answers: called whenever it gives a content. was_down: whether the process has started with the last good configuration, which it
    has told already. is_due: as for a file.
    """

    def __init__(
        self,
        source: Source,
        reload: Callable[[Content], object],
        trouble: Callable[[ConfigError], object],
        was_down: Callable[[], bool],
        answers: Callable[[], object] = _never,
        is_due: Callable[[], bool] = _never,
        same: Callable[[float], object] = lambda began_at: None,
    ) -> None:
        self.source = source
        self._reload = reload
        self._trouble = trouble
        self._was_down = was_down
        self._answers = answers
        self._is_due = is_due
        self._same = same
        self._is_current = False
        self._told: str | None = None  # "": all is well; None: not looked yet
        self._tried: bytes | None = None

    def look(self) -> None:
        """Reload if the source gives another content than that of the last reload that was tried. The first look always does: the
        content may have changed since it was loaded, and the kept one may be older."""
        began_at = time.monotonic()
        try:
            content = self.source.load()
        except ConfigError as error:
            self._tell("down" if isinstance(error, SourceDown) else str(error), error)
            return
        if self._told or (self._told is None and self._was_down()):
            log.info("%s answers again", self.source.name)
        self._told = ""
        self._answers()
        if content.data != self._tried or self._is_due():
            self._take(content)
        elif self._is_current:
            self._same(began_at)

    def _take(self, content: Content) -> None:
        self._tried, was_tried = content.data, False
        try:
            was_tried = self._was_tried(content)
        finally:
            if not was_tried:
                self._tried = None

    def forget(self) -> None:
        """As for a file."""
        self._tried = None

    def _tell(self, what: str, error: ConfigError) -> None:
        known = self._told
        if known is None and self._was_down():
            known = "down"
        self._told = what
        if what != known:
            self._trouble(error)

    def _was_tried(self, content: Content) -> bool:
        try:
            self._reload(content)
        except ConfigError:
            self._is_current = False
            return True
        except StateError:
            return False
        self._is_current = True
        return True

    def hints(self, changed: Callable[[], object]) -> Callable[[], None] | None:
        return self.source.watch(changed)

    def close(self) -> None:
        self.source.close()


class Looks(Protocol):
    """What a Watcher turns: a file, or a remote source."""

    def look(self) -> None: ...

    def forget(self) -> None:
        """Look at the content once more, whatever was tried before."""

    def hints(self, changed: Callable[[], object]) -> Callable[[], None] | None:
        """Call `changed` when a look is worth while; the result ends that."""

    def close(self) -> None: ...


class Watcher:
    """The thread of one open App. every_s: asked before each wait, so that a changed interval counts at once; None: do not look now."""

    def __init__(self, watch: Looks, every_s: Callable[[], float | None]) -> None:
        self._ended = threading.Event()
        self._woken = threading.Event()  # by a hint, or by the end
        self._watch = watch
        self._every_s = every_s
        self._is_asked = False
        self._thread = threading.Thread(target=self._run, name="mqsdk-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        end_hints = self._watch.hints(self._woken.set)
        try:
            while not self._is_over():
                if self._every_s() is not None or self._is_asked:
                    self._is_asked = False
                    self._look()
        finally:
            if end_hints is not None:
                end_hints()
            self._watch.close()

    def _is_over(self) -> bool:
        """After the wait for the next look. Hints in a row are one."""
        if self._woken.wait(self._every_s() or 1.0) and not self._ended.is_set():
            self._ended.wait(AGAIN_S)
        self._woken.clear()
        return self._ended.is_set()

    def _look(self) -> None:
        try:
            self._watch.look()
        except Exception as error:  # a defect of a reload must not end the looking
            log.error("looking at the configuration failed: %s", type(error).__name__)

    def ask(self) -> None:
        """Look as soon as it can be, even where nobody looks by itself. Any thread."""
        self._is_asked = True
        self._woken.set()

    def forget(self) -> None:
        """Somebody has reloaded by hand: the next look tries what it finds. Any thread."""
        self._watch.forget()

    def wake(self) -> None:
        """Look soon, and wait anew: how long may have changed."""
        self._woken.set()

    def close(self) -> None:
        """Look no more. Does not wait: a reload that is under way may be waiting for the caller."""
        self._ended.set()
        self._woken.set()
