"""A YAML file as plain data that still knows its lines. Untrusted until proven otherwise: every bound is checked before work is done.

PyYAML composes nodes (with marks); the values are built here, because its constructor takes the last of two equal keys silently, makes
booleans of `yes` and `on`, and numbers of `1:30` and `010`. Nothing of the content gets into a problem's text but key names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from mqsdk.config import files
from mqsdk.config.problems import Path, dotted
from mqsdk.errors import ConfigError, Problem

MAX_ALIASES = 100
MAX_DEPTH = 50
MAX_VALUES = 20_000  # PyYAML reads about 30,000 values a second in pure Python; a real file has a few hundred

_MERGE = "tag:yaml.org,2002:merge"
_QUOTED = re.compile(r"""(['"])[^<>'"]{2,}\1""")


class Place(NamedTuple):
    """line, column: from 1; 0 for a whole directory."""

    file: str
    line: int
    column: int


@dataclass(frozen=True)
class Document:
    """The data of one file, or of a directory of files, the problems found while building it, and where each key stands.

    remote: it is no file of this host. several: `file` is the directory.
    """

    file: str
    data: dict[str, Any]
    root: Node | None
    problems: tuple[Problem, ...] = ()
    remote: bool = False
    several: bool = False

    def place(self, path: Path) -> Place:
        """Of the key at `path`; of the nearest parent that exists when it does not. Line 1 for the whole file."""
        return self._walk(path)[0]

    def has(self, path: Path) -> bool:
        """Whether the file itself gives this key."""
        return self._walk(path)[1]

    def _walk(self, path: Path) -> tuple[Place, bool]:
        node, place = self.root, Place(self.file, 0, 0) if self.several else Place(self.file, 1, 1)
        for part in path:
            found = _child(node, part)
            if found is None:
                return place, False
            marked, node = found
            place = _place(marked)
        return place, node is not None or not path


def _place(node: Node) -> Place:
    mark = node.start_mark
    return Place(mark.name, mark.line + 1, mark.column + 1)


def _child(node: Node | None, part: str | int) -> tuple[Node, Node] | None:
    """(the node to point at, the child) of a mapping's key or a list's index; a mapping's own keys before merged ones."""
    if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    if not isinstance(node, MappingNode):
        return None
    for key, value in node.value:
        if key.tag != _MERGE and isinstance(key, ScalarNode) and key.value == part:
            return key, value
    for key, value in node.value:
        if key.tag == _MERGE:
            for source in value.value if isinstance(value, SequenceNode) else [value]:
                found = _child(source, part)
                if found is not None:
                    return found
    return None


def read(path: str | FilePath) -> Document:
    """Read and build one file. ConfigError when it cannot be read or is no YAML; smaller problems are in the document."""
    return built(files.content(str(path)), str(path))


def built(data: bytes, file: str, *, remote: bool = False) -> Document:
    """The document of a content. file: where it came from, for problems. Raises as `read`."""
    root = _root(data, file)
    if root is None:
        return Document(file, {}, None, remote=remote)
    builder = _Builder()
    return Document(file, builder.mapping(root, ()), root, tuple(builder.problems), remote)


def joined(parts: Sequence[tuple[str, bytes]], folder: str) -> Document:
    """The document of several files, (name, content) each. Mappings are put together deeply; what two files give is a problem."""
    roots = [root for file, data in parts if (root := _root(data, file)) is not None]
    if not roots:
        return Document(folder, {}, None, several=True)
    builder = _Builder()
    root = builder.joined(roots, ())
    data = builder.mapping(root, ())
    return Document(folder, data, root, tuple(builder.problems), several=True)


def _root(data: bytes, file: str) -> MappingNode | None:
    """The mapping that a file holds, None when it is empty."""
    root = _composed(_decoded(data, file), file)
    if root is None or (isinstance(root, ScalarNode) and root.style is None and root.value == ""):
        return None
    if not isinstance(root, MappingNode):
        raise _refused(file, "must be a mapping of keys", "for example `app: shop`", *_place(root)[1:])
    return root


def _composed(text: str, file: str) -> Node | None:
    try:
        loader = _Composer(text)
        loader.name = loader.file = file  # of the marks, and so of what is wrong
        return loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line, column = _line_column(text, error.position)
        raise _refused(file, "holds a character that YAML does not allow", "remove the control character", line, column) from None
    except yaml.MarkedYAMLError as error:
        raise _syntax(file, text, error) from None


def _refused(file: str, what: str, fix: str, line: int = 0, column: int = 0) -> ConfigError:
    return ConfigError.of([Problem(key="", what=what, fix=fix, file=file, line=line, column=column)])


def _decoded(content: bytes, file: str) -> str:
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise _refused(file, "begins with a byte order mark", "save it as UTF-8 without BOM", 1, 1)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = _line_column(content[: error.start].decode("utf-8"), error.start)
        raise _refused(file, "is not UTF-8", "save it as UTF-8", line, column) from None


def _line_column(text: str, position: int) -> tuple[int, int]:
    before = text[:position]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _syntax(file: str, text: str, error: yaml.MarkedYAMLError) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    if mark is not None and text[mark.index : mark.index + 1] == "\t":
        return _refused(file, "a tab where YAML wants spaces", "indent with spaces", line, column)
    # PyYAML quotes alias, anchor and tag names: an unquoted password that begins with * or ! would be shown.
    what = _QUOTED.sub("...", error.problem or "cannot be parsed")
    fix = "check indentation, colons and quotes; quote texts that begin with * & ! % @"
    return _refused(file, f"not valid YAML: {what}", fix, line, column)


class _Composer(yaml.SafeLoader):
    """Composes nodes only, with true/false as the only booleans and decimal numbers as the only numbers."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own class attribute
    file = ""
    aliases = depth = values = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self.values += 1
        self.aliases += isinstance(event, yaml.AliasEvent)
        for count, limit, name in ((self.aliases, MAX_ALIASES, "aliases"), (self.values, MAX_VALUES, "values")):
            if count > limit:
                mark = event.start_mark
                raise _refused(self.file, f"has more than {limit:,} {name}", "a configuration needs fewer", mark.line + 1, mark.column + 1)
        if self.depth >= MAX_DEPTH:
            mark = event.start_mark
            raise _refused(self.file, f"is nested deeper than {MAX_DEPTH} levels", "check the brackets", mark.line + 1, mark.column + 1)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


_NULL, _BOOL, _INT, _FLOAT, _STR, _MAP, _SEQ = (
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "map", "seq")
)
_DIGITS = list("-+0123456789.")
for _tag, _pattern, _first in (
    (_NULL, r"~|null|", ["~", "n", ""]),
    (_BOOL, r"true|false", ["t", "f"]),
    (_INT, r"[-+]?(?:0|[1-9][0-9]*)", _DIGITS),
    (_FLOAT, r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", _DIGITS),
    (_MERGE, r"<<", ["<"]),
):
    _Composer.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)


def _expanded(node: Node) -> ConfigError:
    file, line, column = _place(node)
    fix = "use fewer aliases inside aliases"
    return _refused(file, f"aliases expand to more than {MAX_VALUES:,} values", fix, line, column)


class _Builder:
    """Plain data from nodes; collects what is wrong instead of stopping at it."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._built = self._joined = 0
        self._open: set[int] = set()

    def _problem(self, node: Node, path: Path, what: str, fix: str) -> None:
        self.problems.append(Problem(dotted(path), what, fix, *_place(node)))

    def _value(self, node: Node, path: Path) -> Any:
        self._built += 1
        if self._built > MAX_VALUES:
            raise _expanded(node)
        if id(node) in self._open:
            self._problem(node, path, "an alias refers to itself", "write the value out")
            return {}
        if not isinstance(node, ScalarNode) and node.tag not in (_MAP, _SEQ):
            self._tagged(node, path)
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self.mapping(node, path)
            if isinstance(node, SequenceNode):
                return [self._value(item, (*path, number)) for number, item in enumerate(node.value)]
            return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def joined(self, nodes: Sequence[MappingNode], path: Path) -> MappingNode:
        """One mapping of those of several files."""
        pairs: list[tuple[Node, Node]] = []
        known: dict[str, int] = {}
        for node in nodes:
            for key, value in node.value:
                at = known.get(key.value) if isinstance(key, ScalarNode) and key.tag != _MERGE else None
                if at is None:
                    pairs.append((key, value))
                    continue
                self._check_growth(key, path)
                name, (first, other) = (*path, str(key.value)), pairs[at]
                inner = [one for one in (other, value) if isinstance(one, MappingNode) and one.tag == _MAP]
                if len(inner) == 2:
                    pairs[at] = (first, self.joined(inner, name))
                else:
                    place = _place(first)
                    self._problem(key, name, f"is given in {place.file}:{place.line} too", "remove one of the two")
            known = {pair[0].value: at for at, pair in enumerate(pairs) if isinstance(pair[0], ScalarNode) and pair[0].tag != _MERGE}
        return MappingNode(_MAP, pairs, nodes[0].start_mark, nodes[0].end_mark)

    def _check_growth(self, key: Node, path: Path) -> None:
        """What two files give by aliases is put together as often as it is referred to, and without end where one refers to itself."""
        self._joined += 1
        if self._joined > MAX_VALUES:
            raise _expanded(key)
        if len(path) >= MAX_DEPTH:
            file, line, column = _place(key)
            raise _refused(file, f"is nested deeper than {MAX_DEPTH} levels", "write aliases out", line, column)

    def mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        """The keys of one mapping: merged ones first, so that its own win."""
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                result = {**self._merged(value, path), **result}
                continue
            name = self._key(key, path)
            if name is None:
                continue
            if name in lines:
                self._problem(key, (*path, name), f"duplicate key, given before in line {lines[name]}", "remove one of the two")
                continue
            lines[name] = key.start_mark.line + 1
            if isinstance(value, ScalarNode) and value.style is None and value.value == "":
                self._problem(key, (*path, name), "has no value", "write one, or remove the key")
                continue
            result[name] = self._value(value, (*path, name))
        return result

    def _merged(self, node: Node, path: Path) -> dict[str, Any]:
        sources = node.value if isinstance(node, SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for source in sources:
            value = self._value(source, path)
            if isinstance(value, dict):
                merged = {**value, **merged}
            else:
                self._problem(source, path, "`<<` takes mappings only", "write for example `<<: *base`")
        return merged

    def _key(self, node: Node, path: Path) -> str | None:
        if isinstance(node, ScalarNode) and node.tag == _STR and node.value:
            return str(node.value)
        self._problem(node, path, "a key is text", "put it into quotes")
        return None

    def _scalar(self, node: Node, path: Path) -> Any:
        text = str(node.value)
        if node.tag == _STR:
            return text
        if node.tag == _NULL:
            return None
        if node.tag == _BOOL and text in ("true", "false"):
            return text == "true"
        try:
            if node.tag == _INT:
                return int(text)
            if node.tag == _FLOAT:
                return float(text)
        except ValueError:
            self._problem(node, path, "not a number", "write decimal digits")
            return None
        self._tagged(node, path)
        return None

    def _tagged(self, node: Node, path: Path) -> None:
        self._problem(node, path, "tags (`!`) are not supported", "quote the text if it begins with !")
