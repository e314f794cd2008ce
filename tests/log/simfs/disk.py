"""A model of a disk behind a page cache: what a crash may leave of what was written, and what only a sync makes sure of.

The rules are meant to be harsher than any real file system:
- a page of 4 KiB that was written since the last sync of its file holds any content that it had since then, each page for itself, or two of
  them mixed at a boundary of 512 bytes;
  (pages of progress files are mixed on request only: their two slots survive a torn page of a killed process, not of a lost machine);
- the size of a file is any that it had since its last sync; what was never written below it reads as zeros;
- of names made, renamed and removed since the last sync of their directory each is there or not, a rename as a whole;
- a sync that failed has written some of the pages, and the kernel calls all of them clean: no later sync writes the others.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Union

PAGE = 4096
SECTOR = 512
_EMPTY = bytes(PAGE)

Node = Union["File", "Directory"]


@dataclass(eq=False)
class File:
    """One inode. dirty: of each page all contents since it was last on the medium, with the moment of each. mapped: polled for stores."""

    number: int
    label: str
    cache: bytearray = field(default_factory=bytearray)
    durable: dict[int, bytes] = field(default_factory=dict)
    durable_size: int = 0
    dirty: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def write(self, position: int, data: bytes, moment: int) -> None:
        stop = position + len(data)
        if stop > len(self.cache):
            self.cache.extend(bytes(stop - len(self.cache)))
            self.sizes.append((moment, stop))
        self.cache[position:stop] = data
        for page in range(position // PAGE, (stop + PAGE - 1) // PAGE):
            self._touch(page, moment)

    def resize(self, size: int, moment: int) -> None:
        old = len(self.cache)
        if size == old:
            return
        if size < old:
            del self.cache[size:]
        else:
            self.cache.extend(bytes(size - old))
        self.sizes.append((moment, size))
        for page in range(min(size, old) // PAGE, (max(size, old) + PAGE - 1) // PAGE):
            self._touch(page, moment)

    def store(self, content: bytes, moment: int) -> None:
        """What is stored through a mapping: the pages that differ."""
        if self.cache == content:
            return
        for start in range(0, len(content), PAGE):
            if self.cache[start : start + PAGE] != content[start : start + PAGE]:
                self.write(start, content[start : start + PAGE], moment)

    def _touch(self, page: int, moment: int) -> None:
        self.dirty.setdefault(page, []).append((moment, bytes(self.cache[page * PAGE : (page + 1) * PAGE]).ljust(PAGE, b"\0")))

    def sync(self) -> None:
        for page, versions in self.dirty.items():
            self.durable[page] = versions[-1][1]
        self.dirty.clear()
        self.sizes.clear()
        self.durable_size = len(self.cache)

    def fail_sync(self, chance: random.Random) -> None:
        for page, versions in self.dirty.items():
            if chance.random() < 0.5:
                self.durable[page] = versions[-1][1]
        if chance.random() < 0.5:
            self.durable_size = len(self.cache)
        self.dirty.clear()
        self.sizes.clear()

    def frozen(self) -> FileState:
        return FileState(
            self.number, self.label, bytes(self.cache), dict(self.durable), self.durable_size,
            {page: list(versions) for page, versions in self.dirty.items()}, list(self.sizes),
        )  # fmt: skip


class FileState(NamedTuple):
    """A `File` as it was at one moment."""

    number: int
    label: str
    cache: bytes
    durable: dict[int, bytes]
    durable_size: int
    dirty: dict[int, list[tuple[int, bytes]]]
    sizes: list[tuple[int, int]]


@dataclass(eq=False)
class Directory:
    number: int
    label: str
    entries: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, Node] = field(default_factory=dict)


@dataclass(eq=False)
class Naming:
    """One change of names, all or nothing. add, remove: (directory, name, node)."""

    moment: int
    add: list[tuple[Directory, str, Node]]
    remove: list[tuple[Directory, str, Node]]

    def involves(self, directory: Directory) -> bool:
        return any(place is directory for place, _, _ in (*self.add, *self.remove))


class Disk:
    """All inodes and names, as they are and as they are sure to survive."""

    def __init__(self, root: Directory | None = None) -> None:
        self._numbers = 100
        self.pending: list[Naming] = []
        self.root = root or Directory(self.next_number(), "")

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def file(self, path: str) -> File:
        node: Node = self.root
        for name in path.split("/"):
            assert isinstance(node, Directory)
            node = node.entries[name]
        assert isinstance(node, File)
        return node

    def reserve(self, number: int) -> None:
        """Numbers of a loaded image are not given out again."""
        self._numbers = max(self._numbers, number)

    def change(self, change: Naming) -> None:
        _apply(change, {})
        self.pending.append(change)

    def sync_directory(self, directory: Directory) -> None:
        for change in self.pending:
            if change.involves(directory):
                _apply(change, None)
        self.pending = [change for change in self.pending if not change.involves(directory)]

    def frozen(self) -> Snapshot:
        directories: dict[Directory, tuple[dict[str, Node], dict[str, Node]]] = {}
        files: dict[File, FileState] = {}
        queue: list[Node] = [self.root]
        for change in self.pending:
            for place, _, node in (*change.add, *change.remove):
                queue += [place, node]
        while queue:
            node = queue.pop()
            if isinstance(node, File):
                if node not in files:
                    files[node] = node.frozen()
            elif node not in directories:
                directories[node] = (dict(node.entries), dict(node.durable))
                queue += [*node.entries.values(), *node.durable.values()]
        return Snapshot(self.root, directories, files, list(self.pending), self._numbers)


def _apply(change: Naming, live: dict[str, Node] | None) -> None:
    for place, name, _ in change.remove:
        (place.entries if live is not None else place.durable).pop(name, None)
    for place, name, node in change.add:
        (place.entries if live is not None else place.durable)[name] = node


class Image(NamedTuple):
    """What a crash left. Directories and files by their path; a file with the number of its inode. choices: how it was made, for people."""

    directories: list[tuple[str, int]]
    files: list[tuple[str, int, bytes]]
    choices: list[str]
    numbers: int
    alive: Snapshot | None = None  # where the machine went on: what is on the medium is another matter


@dataclass(frozen=True)
class Snapshot:
    """A disk at one moment, from which crash images are made."""

    root: Directory
    directories: dict[Directory, tuple[dict[str, Node], dict[str, Node]]]
    files: dict[File, FileState]
    pending: list[Naming]
    numbers: int

    def after_kill(self) -> Image:
        """The process is gone, the kernel is not: everything is as it was, and what was not synced still is not."""
        names = {directory: live for directory, (live, _) in self.directories.items()}
        image = self._image(names, {file: state.cache for file, state in self.files.items()}, ["the process was killed"])
        return image._replace(alive=self)

    def disk(self) -> Disk:
        """A disk that goes on from here."""
        nodes: dict[Node, Node] = {}
        for file, state in self.files.items():
            dirty = {page: list(versions) for page, versions in state.dirty.items()}
            nodes[file] = File(
                state.number, state.label, bytearray(state.cache), dict(state.durable), state.durable_size, dirty, list(state.sizes)
            )
        places = {directory: Directory(directory.number, directory.label) for directory in self.directories}
        for directory, place in places.items():
            nodes[directory] = place
        for directory, (live, durable) in self.directories.items():
            places[directory].entries = {name: nodes[node] for name, node in live.items()}
            places[directory].durable = {name: nodes[node] for name, node in durable.items()}
        found = Disk(places[self.root])
        found.reserve(self.numbers)
        for change in self.pending:
            add, remove = ([(places[place], name, nodes[node]) for place, name, node in side] for side in (change.add, change.remove))
            found.pending.append(Naming(change.moment, add, remove))
        return found

    def after_power_loss(self, chance: random.Random, *, torn_progress: int = 0) -> Image:
        """The machine went down: what was not synced is there in part. torn_progress: how many pages of a progress file too."""
        moments = sorted(
            {moment for state in self.files.values() for moment, _ in state.sizes} | {change.moment for change in self.pending}
        )
        cut = chance.choice(moments) if moments else 0
        how_data = chance.choice(("pages", "pages", "until", "nothing", "all"))
        how_names = chance.choice(("any", "first", "until", "nothing", "all"))
        return self.left(how_data, how_names, cut, chance, torn_progress=torn_progress)

    def left(self, how_data: str, how_names: str, cut: int, chance: random.Random, *, torn_progress: int = 0) -> Image:
        """What of the unsynced is there.

        how_data: all, nothing, until (moment `cut`), pages (each for itself). how_names: all, nothing, until, first (in their order), any.
        """
        choices = [f"power loss; data: {how_data}, names: {how_names}" + (f" (moment {cut})" if "until" in (how_data, how_names) else "")]
        names = self._names(how_names, cut, chance, choices)
        contents = {file: _content(state, (how_data, cut, torn_progress), chance, choices) for file, state in self.files.items()}
        return self._image(names, contents, choices)

    def _names(self, how: str, cut: int, chance: random.Random, choices: list[str]) -> dict[Directory, dict[str, Node]]:
        names = {directory: dict(durable) for directory, (_, durable) in self.directories.items()}
        stop = chance.randint(0, len(self.pending))
        for index, change in enumerate(self.pending):
            kept = {
                "any": chance.random() < 0.5, "first": index < stop, "until": change.moment <= cut, "nothing": False, "all": True,
            }[how]  # fmt: skip
            if not kept:
                choices.append(f"lost: {_told(change)}")
                continue
            for place, name, _ in change.remove:
                names[place].pop(name, None)
            for place, name, node in change.add:
                names[place][name] = node
        return names

    def _image(self, names: dict[Directory, dict[str, Node]], contents: dict[File, bytes], choices: list[str]) -> Image:
        image = Image([], [], choices, self.numbers)
        for path, node in _walk(self.root, names, ""):
            if isinstance(node, Directory):
                image.directories.append((path, node.number))
            else:
                image.files.append((path, node.number, contents[node]))
        return image


def _walk(directory: Directory, names: dict[Directory, dict[str, Node]], path: str) -> Iterator[tuple[str, Node]]:
    for name, node in names[directory].items():
        yield path + name, node
        if isinstance(node, Directory):
            yield from _walk(node, names, f"{path}{name}/")


def _content(state: FileState, rule: tuple[str, int, int], chance: random.Random, choices: list[str]) -> bytes:
    how, cut, torn_progress = rule
    if not state.dirty and not state.sizes:
        return _joined(state.durable, state.durable_size)
    if how == "all":
        return state.cache
    size = state.durable_size
    if how == "pages" and state.sizes:
        size = chance.choice([size, state.sizes[-1][1], *(one for _, one in state.sizes)])
    elif how == "until":
        size = next((one for moment, one in reversed(state.sizes) if moment <= cut), size)
    pages = dict(state.durable)
    is_progress = "/cursors/" in state.label
    tears = torn_progress if is_progress else len(state.dirty)
    for page, versions in state.dirty.items():
        if how == "pages":
            tear = 0.0 if tears <= 0 else 0.5 if is_progress else 0.13
            pages[page] = _mixed([pages.get(page, _EMPTY), *(content for _, content in versions)], chance, tear)
            tears -= pages[page] not in [state.durable.get(page, _EMPTY), *(content for _, content in versions)]
        elif how == "until":
            pages[page] = next((content for moment, content in reversed(versions) if moment <= cut), pages.get(page, _EMPTY))
    found = _joined(pages, size)
    if found != state.cache:
        choices.append(
            f"{state.label}: {len(found)} of {len(state.cache)} bytes, the first that differs is {_first_difference(found, state.cache)}"
        )
    return found


def _mixed(versions: list[bytes], chance: random.Random, tear: float) -> bytes:
    """The newest, the oldest, or any; with the probability `tear` two of them mixed at a sector."""
    if chance.random() < tear:
        at = SECTOR * chance.randrange(PAGE // SECTOR)
        return chance.choice(versions)[:at] + chance.choice(versions)[at:]
    draw = chance.random()
    return versions[-1] if draw < 0.4 else versions[0] if draw < 0.7 else chance.choice(versions)


def _joined(pages: dict[int, bytes], size: int) -> bytes:
    count = (size + PAGE - 1) // PAGE
    return b"".join([pages.get(page, _EMPTY) for page in range(count)])[:size]


def _first_difference(one: bytes, other: bytes) -> int:
    return next((index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _told(change: Naming) -> str:
    removed = ", ".join(f"{place.label}{name}" for place, name, _ in change.remove)
    added = ", ".join(f"{place.label}{name}" for place, name, _ in change.add)
    return f"name {removed} -> {added}" if removed and added else f"removal of {removed}" if removed else f"name {added}"
