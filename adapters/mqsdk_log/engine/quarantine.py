"""What recovery does to files: tidying up, cutting a torn tail, setting a segment aside. Nothing is removed that was not kept first."""

from __future__ import annotations

from . import files, index, segment

QUARANTINE = "quarantine"


def tidy(directory: int) -> None:
    """Remove what an interrupted rename or a deleted segment left."""
    existing = segment.bases(directory)
    for name in files.names(directory):
        if name.endswith(".tmp"):
            files.unlink(name, directory)
    for base in segment.bases(directory, segment.INDEX_SUFFIX):
        if base not in existing:
            files.unlink(segment.index_name(base), directory)


def sync(directory: int, base: int) -> None:
    fd = files.open_write(segment.file_name(base), directory)
    try:
        files.sync_data(fd)
    finally:
        files.close(fd)


def _open_quarantine(directory: int) -> int:
    files.make_dir(QUARANTINE, directory)
    files.sync_dir(directory)
    return files.open_dir(QUARANTINE, directory)


def keep(directory: int, fd: int, name: str, position: int, stop: int) -> None:
    """Copy [position, stop) of a segment for inspection; complete and on the medium when it returns."""
    place = _open_quarantine(directory)
    try:
        copy = files.open_new(name, place)
        try:
            at = position
            while at < stop and (data := files.pread(fd, min(1 << 20, stop - at), at)):
                files.write_all(copy, data, at - position)
                at += len(data)
            files.sync_data(copy)
            files.sync_dir(place)
        finally:
            files.close(copy)
    finally:
        files.close(place)


def cut(directory: int, fd: int, base: int, position: int, size: int) -> None:
    """Keep [position, size) for inspection, then truncate. The copy is complete before the cut, so a crash between repeats it."""
    keep(directory, fd, f"{base:020d}-{position}.torn", position, size)
    files.ftruncate(fd, position)
    files.sync_data(fd)
    index.cut(directory, base, position)


def set_aside(directory: int, base: int) -> None:
    place = _open_quarantine(directory)
    try:
        files.rename(segment.file_name(base), segment.file_name(base), directory, place)
        files.unlink(segment.index_name(base), directory)
        files.sync_dir(place)
        files.sync_dir(directory)
    finally:
        files.close(place)
