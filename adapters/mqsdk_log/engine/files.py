"""Every system call of the engine on files, in one place, so that a simulator of crashes can replace it.

Nothing here knows the format. Files are opened relative to a directory descriptor, never through a symbolic link, never inherited by exec.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .errors import BadRoot, LockTimeout

FILE_MODE = 0o600
DIR_MODE = 0o700
_SAFE = os.O_CLOEXEC | os.O_NOFOLLOW

# Bound once: a wrapper of Python would cost the publish path 0.1 us a call.
_pread = os.pread
pwritev = os.pwritev
pwrite = os.pwrite
lseek = os.lseek
close = os.close
append = os.write
ftruncate = os.ftruncate
flock = fcntl.flock
LOCK_EX, LOCK_SH, LOCK_NB, LOCK_UN = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_NB, fcntl.LOCK_UN
SEEK_END = os.SEEK_END


def open_dir(path: str | Path, at: int | None = None) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | _SAFE, dir_fd=at)


def make_dir(name: str | Path, at: int | None = None) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, DIR_MODE, dir_fd=at)


def make_dirs(path: Path) -> None:
    """A directory and those above it that are missing."""
    if not path.is_dir():
        make_dirs(path.parent)
        make_dir(path)


def open_read(name: str, at: int) -> int:
    return os.open(name, os.O_RDONLY | _SAFE, dir_fd=at)


def open_write(name: str | Path, at: int | None = None) -> int:
    """For reading and writing; FileNotFoundError when there is none."""
    return os.open(name, os.O_RDWR | _SAFE, dir_fd=at)


def open_append(name: str, at: int) -> int:
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND | _SAFE, FILE_MODE, dir_fd=at)


def open_create(name: str, at: int) -> int:
    """For reading and writing, made when missing: lock files and hints."""
    return os.open(name, os.O_RDWR | os.O_CREAT | _SAFE, FILE_MODE, dir_fd=at)


def open_new(name: str, at: int) -> int:
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | _SAFE, FILE_MODE, dir_fd=at)


def open_fifo_reader(name: str, at: int) -> int:
    """Read and write: with a writer of its own the FIFO never reports hang-up when a waker closes."""
    return os.open(name, os.O_RDWR | os.O_NONBLOCK | _SAFE, dir_fd=at)


def open_fifo_writer(name: str, at: int) -> int:
    """ENXIO when nobody reads."""
    return os.open(name, os.O_WRONLY | os.O_NONBLOCK | _SAFE, dir_fd=at)


def make_fifo(name: str, at: int) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkfifo(name, FILE_MODE, dir_fd=at)
    if not stat.S_ISFIFO(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
        raise BadRoot(f"{name} is in the place of a FIFO; remove it")


def close_all(fds: Iterable[int]) -> None:
    """Close what a handle held. A fork may have come between a close and the note of it, so one that is closed already is passed over."""
    for fd in fds:
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


def pread(fd: int, size: int, position: int) -> bytes:
    """`size` bytes at `position`, fewer only at the end of the file: to recovery a read that was cut short would look like a torn tail."""
    data = _pread(fd, size, position)
    while len(data) < size and (more := _pread(fd, size - len(data), position + len(data))):
        data += more
    return data


def names(at: int) -> list[str]:
    """What the directory holds. On a descriptor of its own: two threads that list one descriptor share its place in the directory, and each
    sees a part of it.
    """
    fd = open_dir(".", at)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def size_of(fd: int) -> int:
    return os.fstat(fd).st_size


def identity(fd: int) -> tuple[int, int]:
    """(device, inode): a copy of the file has another one."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def map_shared(fd: int, size: int) -> mmap.mmap:
    """The first `size` bytes, shared with every process that maps them. Allocated before, see `allocate`."""
    return mmap.mmap(fd, size)


def rename(old: str, new: str, at: int, to: int | None = None) -> None:
    os.rename(old, new, src_dir_fd=at, dst_dir_fd=at if to is None else to)


def link(old: str, new: str, at: int) -> None:
    """Give a finished file its name; FileExistsError when another process was first."""
    os.link(old, new, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)


def unlink(name: str, at: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=at)


def remove_tree(name: str, at: int) -> None:
    """Remove a directory with all it holds; follows no link, ignores what is gone already."""
    with contextlib.suppress(FileNotFoundError):
        fd = open_dir(name, at)
        try:
            for entry in os.listdir(fd):
                if stat.S_ISDIR(os.stat(entry, dir_fd=fd, follow_symlinks=False).st_mode):
                    remove_tree(entry, fd)
                else:
                    unlink(entry, fd)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=at)


if sys.platform == "darwin":

    def sync_data(fd: int) -> None:
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

else:

    def sync_data(fd: int) -> None:
        """Return when the file's data is on the medium, as far as the device honours flushes."""
        os.fdatasync(fd)


def sync_file(fd: int) -> None:
    """As `sync_data`, and all that is known of the file: one that is about to be given its name."""
    os.fsync(fd)


def sync_dir(fd: int) -> None:
    """Make the names in a directory survive a power loss."""
    os.fsync(fd)


def allocate(fd: int, size: int) -> None:
    """Give every byte of [0, size) a block: a store into a sparse mapping on a full disk would kill the process (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    done = os.fstat(fd).st_size
    while done < size:
        done += os.pwrite(fd, bytes(min(65536, size - done)), done)


def sync_path(path: Path) -> None:
    """As `sync_dir`."""
    fd = open_dir(path)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def free_bytes(fd: int) -> int:
    found = os.fstatvfs(fd)
    return found.f_bavail * found.f_frsize


def read_all(name: str, at: int, limit: int = 1 << 24) -> bytes:
    """The whole of a small file."""
    fd = open_read(name, at)
    try:
        parts = []
        position = 0
        while position < limit and (part := os.pread(fd, min(1 << 20, limit - position), position)):
            parts.append(part)
            position += len(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def read_path(path: Path, limit: int = 1 << 24) -> bytes:
    """As `read_all`, for a file that is not below a directory that is held open."""
    with path.open("rb") as file:
        return file.read(limit)


def write_all(fd: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, position)
        view, position = view[written:], position + written


def replace(name: str, data: bytes, at: int, *, durable: bool = True) -> None:
    """Write a whole file so that a reader sees the old or the new one, never half. A full disk is left as it was."""
    temporary = temporary_name(name)
    fd = open_new(temporary, at)
    try:
        try:
            write_all(fd, data, 0)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=at, dst_dir_fd=at)
    except OSError:
        with contextlib.suppress(OSError):
            unlink(temporary, at)
        raise
    if durable:
        os.fsync(at)


def temporary_name(name: str) -> str:
    return f"{name}.{random_bytes(6).hex()}.tmp"


def random_bytes(size: int) -> bytes:
    return os.urandom(size)


def lock_until(fd: int, kind: int, deadline: float | None, what: str, done: Callable[[], bool] = lambda: False) -> bool:
    """Take a flock; LockTimeout when it is still held at `deadline` (monotonic seconds, None waits for ever).

    done: what it was wanted for has been done by its holder; then it is not waited for any longer, and the answer is False.
    Twenty tries without waiting first: the holder is done within microseconds (p99 with two processes 52 us against 115 us measured).
    Then short sleeps, because a blocking flock cannot be given a deadline, and a stopped process may hold the lock for long.
    """
    pause = 0.00005
    tries = 0
    while True:
        try:
            flock(fd, kind | LOCK_NB)
        except BlockingIOError:
            if done():
                return False
            tries += 1
            if tries < 20:
                os.sched_yield()
                continue
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise LockTimeout(f"{what} is held by another process; nothing was written") from None
            time.sleep(pause if left is None else min(pause, left))
            pause = min(pause * 1.5, 0.002)
        else:
            return True


@contextlib.contextmanager
def locked(fd: int, kind: int = LOCK_EX, deadline: float | None = None, what: str = "a lock") -> Iterator[None]:
    lock_until(fd, kind, deadline, what)
    try:
        yield
    finally:
        flock(fd, LOCK_UN)


def holders(fd: int) -> list[int]:
    """Other processes of this user and host that have the file open, as far as the kernel tells (Linux), sorted. Looks at all of them."""
    wanted = os.fstat(fd)
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for entry in os.listdir(process / "fd"):
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.stat(process / "fd" / entry), wanted):
                        found.append(int(process.name))
    return sorted(set(found) - {os.getpid()})


def filesystem_type(fd: int) -> str:
    """Type of the file system of an open directory as the kernel names it, "" where it cannot be told (not Linux)."""
    device = os.fstat(fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        if left.split(" ", 3)[2] == wanted:
            return right.split(" ", 1)[0]
    return ""


def boot_identity() -> str:
    """A text that changes with every boot of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return _boot_session()


def _boot_session() -> str:
    # macOS; imported here because no other platform needs a process for it.
    import subprocess

    return subprocess.run(["sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=True).stdout.strip()


def after_fork_in_child(action: Callable[[], None]) -> None:
    os.register_at_fork(after_in_child=action)
