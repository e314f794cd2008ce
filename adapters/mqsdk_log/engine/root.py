"""A root directory as such: opening it, what is refused, and the file that says what it is."""

from __future__ import annotations

import os
import stat
import time
import uuid as uuids
from pathlib import Path

from . import files
from .errors import BadRoot, InUse, LockTimeout, UnsupportedVersion

MARKER = "MQSDK"
TOPICS = "topics"
PRESENCE = "open.lock"
FORMAT = "1"
_PATIENCE_S = 2.0  # who has a root alone is a tool that people started, and may take long
_REFUSED_FILESYSTEMS = ("nfs", "cifs", "smb", "9p", "fuse", "ceph", "afs", "ncpfs", "virtiofs")


def open_directory(path: Path, create: bool) -> int:
    """Descriptor of the root, made when it is missing and `create`. BadRoot."""
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.make_dir(path)
    try:
        return files.open_dir(path)
    except FileNotFoundError:
        raise BadRoot(f"there is no log at {path}") from None
    except OSError as error:
        if not path.is_symlink():
            raise
        raise BadRoot(f"{path} is a symbolic link, which is not followed; name the directory itself") from error


def check(path: Path, directory: int, any_filesystem: bool) -> None:
    """BadRoot for another owner, a world-writable directory, or a network file system unless `any_filesystem`."""
    found = os.fstat(directory)
    if found.st_uid != os.geteuid():
        raise BadRoot(f"{path} belongs to user {found.st_uid}, this process runs as {os.geteuid()}; use a directory of your own")
    if found.st_mode & stat.S_IWOTH:
        raise BadRoot(f"{path} is writable by everybody; run: chmod o-w {path}")
    kind = files.filesystem_type(directory)
    if not any_filesystem and kind.startswith(_REFUSED_FILESYSTEMS):
        raise BadRoot(f"{path} is on {kind}, where locks and flushes cannot be relied on; use a local disk")


def ensure_marker(path: Path, directory: int, create: bool) -> None:
    """Make or check the file that says what this directory is. Linked into place, so the first of several processes wins."""
    try:
        text = files.read_all(MARKER, directory).decode("utf-8", "replace")
    except FileNotFoundError:
        if not create:
            raise BadRoot(f"{path} is not a log: there is no file {MARKER} in it") from None
        text = _make_marker(directory)
    found = format_of(text)
    if found != FORMAT:
        raise UnsupportedVersion(f"format of the log at {path}", found, FORMAT)
    files.make_dir(TOPICS, directory)


def format_of(text: str) -> str:
    """The version that a marker names."""
    return dict(line.partition("=")[::2] for line in text.splitlines()).get("format", "nothing readable")


def attend(path: Path, directory: int, alone: bool) -> int:
    """Descriptor that shows the process as one that has the root open, as long as it stays open. alone: as the only one. InUse.

    A flock, so that it ends with the process: shared by all, exclusive for who needs the root alone.
    """
    fd = files.open_create(PRESENCE, directory)
    try:
        files.lock_until(fd, files.LOCK_EX if alone else files.LOCK_SH, time.monotonic() + (0 if alone else _PATIENCE_S), PRESENCE)
    except LockTimeout:
        pids = files.holders(fd)
        files.close(fd)
        who = f"process {', '.join(map(str, pids))}" if pids else "another process"
        what = f"the log at {path} is open in {who}" if alone else f"the log at {path} is being repaired or upgraded by {who}"
        raise InUse(what, pids) from None
    except BaseException:
        files.close(fd)
        raise
    return fd


def _make_marker(directory: int) -> str:
    text = f"format=1\ncreated={int(time.time() * 1000)}\nuuid={uuids.uuid4().hex}\n"
    temporary = files.temporary_name(MARKER)
    fd = files.open_new(temporary, directory)
    try:
        files.write_all(fd, text.encode(), 0)
        files.sync_file(fd)
        files.link(temporary, MARKER, directory)
        files.sync_dir(directory)
    except FileExistsError:
        return files.read_all(MARKER, directory).decode("utf-8", "replace")
    finally:
        files.close(fd)
        files.unlink(temporary, directory)
    return text
