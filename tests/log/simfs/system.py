"""Stands in for the module `os` in the engine: makes each call for real, and tells a model of a disk what it did.

So the real engine runs on real files, and of every moment it is known what a crash may leave. Calls can be made to fail, or to do less than
was asked for. One thread.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mqsdk_log.engine import files

from tests.log.simfs.disk import Directory, Disk, File, Image, Naming, Node
from tests.log.simfs.fault import Fault

FREE = 1 << 40


class _Mapping(mmap.mmap):
    """A mapping whose last content is seen before it goes."""

    seen: Callable[[bytes], None]

    def close(self) -> None:
        if not self.closed:
            self.seen(self[:])
        super().close()

    def __exit__(self, *exc: object) -> None:
        self.close()


class Death(BaseException):
    """The process is gone: no handler for errors runs, and no call is made any more."""


class System:
    """Like `os`. Use `installed` to put it under the engine."""

    def __init__(self, path: Path, disk: Disk, chance: random.Random, boot: str = "first boot") -> None:
        """path: the directory that is the disk's root; what is outside of it is not simulated."""
        self.path = path
        self.disk = disk
        self.boot = boot
        self.moment = 0
        self.fault: Fault | None = None
        self.struck: list[str] = []
        self.watch: Callable[[], None] | None = None  # called at every moment, before the call is made or half-way through a write
        self.trace: list[str] | None = None
        self.short_reads = 0.0
        self.lives_for: int | None = None  # so many calls more until the process dies; 0: it is dead
        self._chance = chance
        self._fds: dict[int, Node] = {}
        self._maps: list[tuple[weakref.ref[_Mapping], File]] = []
        self._polled: list[tuple[weakref.ref[_Mapping], File]] = []
        self._random = random.Random(7)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    # --- what the engine calls --------------------------------------------------------------------------------------------------------

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        place = self._place(path, dir_fd)
        if place is None:
            return os.open(path, flags, mode, dir_fd=dir_fd)
        directory, name = place
        node = directory if name in ("", ".") else directory.entries.get(name)
        if node is None and flags & os.O_CREAT:
            self._step("open", f"{directory.label}{name} (new)")
        fd = os.open(path, flags, mode, dir_fd=dir_fd)
        if node is None:
            node = File(self.disk.next_number(), directory.label + name)
            self.disk.change(Naming(self.moment, [(directory, name, node)], []))
        elif flags & os.O_TRUNC and isinstance(node, File):
            node.resize(0, self.moment)
        self._fds[fd] = node
        return fd

    def close(self, fd: int) -> None:
        self._fds.pop(fd, None)
        os.close(fd)

    def pwrite(self, fd: int, data: Any, position: int) -> int:
        return self._write("pwrite", fd, bytes(data), position)

    def pwritev(self, fd: int, parts: Any, position: int) -> int:
        return self._write("pwritev", fd, b"".join(parts), position)

    def write(self, fd: int, data: Any) -> int:
        node = self._file(fd)
        return self._write("write", fd, bytes(data), len(node.cache))

    def ftruncate(self, fd: int, size: int) -> None:
        node = self._file(fd)
        self._step("ftruncate", f"{node.label} to {size}")
        os.ftruncate(fd, size)
        node.resize(size, self.moment)

    def posix_fallocate(self, fd: int, position: int, size: int) -> None:
        node = self._file(fd)
        self._step("fallocate", f"{node.label} to {position + size}")
        os.posix_fallocate(fd, position, size)
        node.resize(max(len(node.cache), position + size), self.moment)

    def fsync(self, fd: int) -> None:
        self._sync("fsync", fd)

    def fdatasync(self, fd: int) -> None:
        self._sync("fdatasync", fd)

    def rename(self, old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        source, target = self._directory(src_dir_fd), self._directory(dst_dir_fd)
        self._step("rename", f"{source.label}{old} -> {target.label}{new}")
        os.rename(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        node = source.entries[old]
        if isinstance(node, Directory):
            _relabel(node, f"{target.label}{new}/")
        else:
            node.label = f"{target.label}{new}"
        self.disk.change(Naming(self.moment, [(target, new, node)], [(source, old, node)]))

    def link(self, old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int, follow_symlinks: bool) -> None:
        directory = self._directory(src_dir_fd)
        self._step("link", f"{directory.label}{old} -> {new}")
        os.link(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks)
        node = directory.entries[old]
        assert isinstance(node, File)
        node.label = directory.label + new
        self.disk.change(Naming(self.moment, [(directory, new, node)], []))

    def unlink(self, name: str, *, dir_fd: int) -> None:
        self._remove(os.unlink, name, dir_fd)

    def rmdir(self, name: str, *, dir_fd: int) -> None:
        self._remove(os.rmdir, name, dir_fd)

    def _remove(self, call: Callable[..., None], name: str, dir_fd: int) -> None:
        directory = self._directory(dir_fd)
        if name not in directory.entries:
            raise FileNotFoundError(errno.ENOENT, "not there", name)
        self._step("unlink", directory.label + name)
        call(name, dir_fd=dir_fd)
        self.disk.change(Naming(self.moment, [], [(directory, name, directory.entries[name])]))

    def mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        place = self._place(path, dir_fd)
        if place is None or place[1] in ("", ".") or place[1] in place[0].entries:
            raise FileExistsError(errno.EEXIST, "there already", str(path))
        directory, name = place
        self._step("mkdir", f"{directory.label}{name}/")
        os.mkdir(path, mode, dir_fd=dir_fd)
        made = Directory(self.disk.next_number(), f"{directory.label}{name}/")
        self.disk.change(Naming(self.moment, [(directory, name, made)], []))

    def pread(self, fd: int, size: int, position: int) -> bytes:
        if self.fault is not None and self.fault.strikes("pread", self._fds[fd].label):
            self._strike("pread", self._fds[fd].label)
        if self.short_reads and size > 1 and self._chance.random() < self.short_reads:
            size = self._chance.randrange(1, size)
        return os.pread(fd, size, position)

    def urandom(self, size: int) -> bytes:
        return self._random.randbytes(size)

    # --- what `files` does, replaced as a whole -----------------------------------------------------------------------------------------

    def flock(self, fd: int, kind: int) -> None:
        if kind & fcntl.LOCK_UN:
            self._step("unlock", self._fds[fd].label)
        fcntl.flock(fd, kind)

    def identity(self, fd: int) -> tuple[int, int]:
        return 1, self._fds[fd].number

    def map_shared(self, fd: int, size: int) -> mmap.mmap:
        found = _Mapping(fd, size)
        node = self._file(fd)
        found.seen = lambda content: node.store(content, self.moment)
        self._maps.append((weakref.ref(found), node))
        if "cursors" in node.label:
            self._polled.append((weakref.ref(found), node))
        return found

    def boot_identity(self) -> str:
        return self.boot

    @contextmanager
    def installed(self) -> Iterator[System]:
        """Under the engine, until the end of the block."""
        replaced = {
            "os": self, "_pread": self.pread, "pwritev": self.pwritev, "pwrite": self.pwrite, "close": self.close, "append": self.write,
            "ftruncate": self.ftruncate, "flock": self.flock, "identity": self.identity, "map_shared": self.map_shared,
            "boot_identity": self.boot_identity, "filesystem_type": lambda _: "simulated", "free_bytes": lambda _: FREE,
        }  # fmt: skip
        real = {name: getattr(files, name) for name in replaced}
        for name, value in replaced.items():
            setattr(files, name, value)
        try:
            yield self
        finally:
            for name, value in real.items():
                setattr(files, name, value)

    # --- inside -------------------------------------------------------------------------------------------------------------------------

    def poll(self, *, all_maps: bool = False) -> None:
        """Look at what was stored through mappings. State pages and heaps only before a snapshot: a power loss makes nothing of them."""
        for reference, node in self._maps if all_maps else self._polled:
            mapped = reference()
            if mapped is not None and not mapped.closed:
                node.store(mapped[:], self.moment)

    def load(self, image: Image) -> None:
        """Make the files of an image, all of them on the medium unless the machine goes on."""
        if image.alive is not None:
            self.disk = image.alive.disk()
            _write_files(self.path, image)
            return
        disk = self.disk
        disk.reserve(image.numbers)
        known: dict[str, Directory] = {"": disk.root}
        for path, number in image.directories:
            parent, _, name = path.rpartition("/")
            directory = known[path] = Directory(number, f"{path}/")
            known[parent].entries[name] = known[parent].durable[name] = directory
        made: dict[int, File] = {}
        for path, number, content in image.files:
            parent, _, name = path.rpartition("/")
            node = made.get(number)
            if node is None:
                node = made[number] = File(number, path)
                node.write(0, content, 0)
                node.sync()
            known[parent].entries[name] = known[parent].durable[name] = node
        _write_files(self.path, image)

    def _step(self, call: str, what: str) -> None:
        """A moment at which the machine may go down, the process die, or the call fail."""
        self._live(f"{call} {what}")
        self.moment += 1
        if self._polled:
            self.poll()
        if self.trace is not None:
            self.trace.append(f"{self.moment:5d}  {call} {what}")
        if self.watch is not None:
            self.watch()
        if self.fault is not None and self.fault.strikes(call, what):
            self._strike(call, what)

    def _live(self, what: str) -> None:
        if self.lives_for is None:
            return
        if self.lives_for == 1 and self.trace is not None:
            self.trace.append(f"       x the process is killed in {what}")
        self.lives_for = max(self.lives_for - 1, 0)
        if not self.lives_for:
            raise Death

    def _strike(self, call: str, what: str) -> None:
        assert self.fault is not None
        name = errno.errorcode[self.fault.number]
        self.struck.append(f"{call} {what}: {name}")
        if self.trace is not None:
            self.trace.append(f"       ^ fails with {name}")
        raise OSError(self.fault.number, f"injected at moment {self.moment}")

    def _write(self, call: str, fd: int, data: bytes, position: int) -> int:
        node = self._file(fd)
        if self.lives_for == 1:
            half = data[: self._chance.randint(0, len(data))]
            os.pwrite(fd, half, position)
            node.write(position, half, self.moment)
        self._live(f"{call} {node.label}")
        self.moment += 1
        if self._polled:
            self.poll()
        if self.trace is not None:
            self.trace.append(f"{self.moment:5d}  {call} {node.label} at {position}, {len(data)} bytes")
        fails = self.fault is not None and self.fault.strikes(call, node.label)
        half = data[: self._chance.randint(0, len(data) - 1)] if fails and self.fault is not None and self.fault.short else b""
        if self.watch is not None:
            node.write(position, data[: self._chance.randint(0, len(half if fails else data))], self.moment)
            self.watch()
        if fails:
            os.pwrite(fd, half, position)
            node.write(position, half, self.moment)
            if half:
                self.struck.append(f"{call} {node.label}: {len(half)} of {len(data)} bytes")
                if self.trace is not None:
                    self.trace.append(f"       ^ writes {len(half)} bytes only")
                return len(half)
            self._strike(call, node.label)
        written = os.write(fd, data) if call == "write" else os.pwrite(fd, data, position)
        node.write(position, data[:written], self.moment)
        return written

    def _sync(self, call: str, fd: int) -> None:
        node = self._fds[fd]
        try:
            self._step(call, node.label or "the root")
        except OSError:
            if isinstance(node, File):
                self.poll()
                node.fail_sync(self._chance)
            raise
        if isinstance(node, File):
            node.sync()
        else:
            self.disk.sync_directory(node)

    def _file(self, fd: int) -> File:
        node = self._fds[fd]
        assert isinstance(node, File)
        return node

    def _directory(self, fd: int) -> Directory:
        node = self._fds[fd]
        assert isinstance(node, Directory)
        return node

    def _place(self, path: Any, dir_fd: int | None) -> tuple[Directory, str] | None:
        """(directory, name in it); None outside of the simulated root."""
        if dir_fd is None:
            try:
                path = Path(path).relative_to(self.path)
            except ValueError:
                return None
            directory = self.disk.root
        else:
            directory = self._directory(dir_fd)
        *above, name = str(path).split("/")
        for part in above:
            node = directory.entries.get(part)
            if not isinstance(node, Directory):
                raise FileNotFoundError(errno.ENOENT, "no such directory", str(path))
            directory = node
        return directory, name


def _relabel(directory: Directory, label: str) -> None:
    directory.label = label
    for name, node in directory.entries.items():
        if isinstance(node, Directory):
            _relabel(node, f"{label}{name}/")
        else:
            node.label = label + name


def _write_files(root: Path, image: Image) -> None:
    for path, _ in image.directories:
        os.mkdir(root / path, 0o700)
    made: dict[int, str] = {}
    for path, number, content in image.files:
        if number in made:
            os.link(root / made[number], root / path)
            continue
        made[number] = path
        fd = os.open(root / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if content:
                os.write(fd, content)
        finally:
            os.close(fd)
