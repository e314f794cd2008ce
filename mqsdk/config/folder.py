"""A directory of files as one configuration, as an orchestrator mounts a map of them: each `*.yaml` is a part.

A mounted map is swapped as a whole: its files are links through `..data`, a link to the directory of one version. All parts are read
from that one directory, so that none of them is of another version.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from mqsdk.config import files
from mqsdk.config.origin import ANSWER_S, MAX_BYTES, Content, digest, refused
from mqsdk.errors import ConfigError

ENDINGS = (".yaml", ".yml")
MAX_FILES = 100
VERSION_LINK = "..data"
TRIES = 3  # a version may be removed while it is read


class Part(NamedTuple):
    """shown: its path for people, without the version. path: where it is."""

    shown: str
    path: str


class FolderSource:
    """Its changes are seen by `runtime.watch`, as a file's."""

    id = ""

    def __init__(self, path: str) -> None:
        self.name = path

    def load(self, timeout_s: float = ANSWER_S) -> Content:
        for _ in range(TRIES - 1):
            version = version_of(self.name)
            try:
                return self._load()
            except ConfigError:
                if version_of(self.name) == version:
                    raise
        return self._load()

    def _load(self) -> Content:
        try:
            found = parts(self.name)
            is_open = any(map(_is_open, {self.name, *(os.path.dirname(part.path) for part in found)}))
        except OSError as error:
            raise refused(self.name, f"cannot be read: {error.strerror}", "check the path and the permissions") from None
        if not found:
            fix = "put files there that end in .yaml, or give the path of one"
            raise refused(self.name, "is a directory without a configuration", fix)
        if len(found) > MAX_FILES:
            raise refused(self.name, f"holds more than {MAX_FILES} files that end in .yaml", "give a directory of its own")
        if is_open:
            raise refused(self.name, "is a directory that others may write to", f"chmod go-w {self.name}")
        read = tuple((part.shown, files.content(part.path, part.shown)) for part in found)
        data = b"\n".join(data for _, data in read)
        if len(data) > MAX_BYTES:
            raise refused(self.name, "is larger than 1 MiB", "a configuration holds settings only; check the path")
        return Content(digest(repr(read).encode()), data, parts=read)

    def watch(self, changed: Callable[[], object]) -> None:
        return None

    def close(self) -> None:
        return None


def version_of(folder: str) -> str:
    """The directory that holds the parts now."""
    link = os.path.join(folder, VERSION_LINK)
    return os.path.realpath(link if os.path.isdir(link) else folder)


def parts(folder: str) -> list[Part]:
    """The files of one version, by name; hidden ones and those of directories inside are none. Raises OSError."""
    version = version_of(folder)
    names = sorted(name for name in os.listdir(version) if name.endswith(ENDINGS) and not name.startswith("."))
    return [Part(os.path.join(folder, name), os.path.join(version, name)) for name in names]


def _is_open(place: str) -> bool:
    """Who may put a file or the link to a version there may configure this process. What is mounted read-only nobody here can change,
    whatever its mode says."""
    return bool(os.stat(place).st_mode & 0o022 and not os.statvfs(place).f_flag & os.ST_RDONLY)
