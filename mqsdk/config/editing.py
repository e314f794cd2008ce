"""Writes the move of one topic into a configuration file as a person would: the rest of the text, comments too, stays as it is.

What comes out is read again before it is written: it has to be the old configuration with that one route, or nothing is changed.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from mqsdk.config import diff, files
from mqsdk.config.load import load
from mqsdk.config.model import Configuration, MoveRule, Route
from mqsdk.config.origin import Content, digest, is_remote
from mqsdk.config.state import private_folder, state_folder
from mqsdk.core.stages import FENCE_S
from mqsdk.errors import ConfigError, StateError
from mqsdk.units import duration_text

FOLDER = "moves"


class Place(NamedTuple):
    """A piece of the text, by characters."""

    start: int
    stop: int


def flow(move: MoveRule) -> str:
    """A move as it stands in a file."""
    parts = [f"to: {move.to}", f"stage: {move.stage}", f"epoch: {move.epoch}"]
    parts += ["now: true"] if move.now else []
    parts += [f"fence: {duration_text(move.fence_s)}"] if move.fence_s != FENCE_S else []
    return "{" + ", ".join(parts) + "}"


def edited(text: str, topic: str, number: int, wanted: Route, profile: str = "") -> str:
    """The text with `wanted` as the route of the topic.

    number: index of the route that the topic has now, in the file's routes or in those of a profile. A route for more than this topic
    stays, and one for the topic alone comes before it.
    """
    routes = _routes(yaml.compose(text, Loader=yaml.SafeLoader), profile)
    if routes is None or number >= len(routes.value) or not isinstance(routes.value[number], MappingNode):
        raise StateError("the file has no route of its own for the topic", fix="write it by hand, see docs/configuration.md", state="NEW")
    route = routes.value[number]
    if [item.value for item in _items(_value(route, "topics"))] != [topic]:
        return _inserted(text, routes, route, topic, wanted)
    changes = _changes(text, route, wanted)
    for place, new in sorted(changes, key=lambda change: change[0], reverse=True):
        text = text[: place.start] + new + text[place.stop :]
    return text


def _routes(root: Node | None, profile: str) -> SequenceNode | None:
    for names in ((("profiles", profile, "routes"),) if profile else ()) + (("routes",),):
        node = root
        for name in names:
            node = _value(node, name)
        if isinstance(node, SequenceNode):
            return node
    return None


def _items(node: Node | None) -> list[Node]:
    return list(node.value) if isinstance(node, SequenceNode) else []


def _value(node: Node | None, name: str) -> Node | None:
    pair = _pair(node, name)
    return None if pair is None else pair[1]


def _pair(node: Node | None, name: str) -> tuple[Node, Node] | None:
    if not isinstance(node, MappingNode):
        return None
    return next(((key, value) for key, value in node.value if isinstance(key, ScalarNode) and key.value == name), None)


def _end(node: Node) -> int:
    """Where its last character is; a block's own mark stands behind the comments that follow it."""
    if isinstance(node, MappingNode | SequenceNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _changes(text: str, route: MappingNode, wanted: Route) -> Iterator[tuple[Place, str]]:
    cluster, move = _value(route, "cluster"), _pair(route, "move")
    if cluster is not None and cluster.value != wanted.cluster:
        yield Place(cluster.start_mark.index, _end(cluster)), wanted.cluster
    if wanted.move is not None and move is not None:
        yield Place(move[0].start_mark.index, _end(move[1])), f"move: {flow(wanted.move)}"
    elif wanted.move is not None:
        end = _end(route.value[-1][1])
        column = route.value[0][0].start_mark.column
        yield Place(end, end), (", " if route.flow_style else "\n" + " " * column) + f"move: {flow(wanted.move)}"
    elif move is not None:
        yield _without(text, route, move), ""


def _without(text: str, route: MappingNode, pair: tuple[Node, Node]) -> Place:
    """The piece to take away so that a key is gone."""
    index = next(number for number, one in enumerate(route.value) if one[0] is pair[0])
    start, stop = pair[0].start_mark.index, _end(pair[1])
    if index + 1 < len(route.value):
        return Place(start, route.value[index + 1][0].start_mark.index)
    if route.flow_style:
        return Place(_end(route.value[index - 1][1]), stop)
    line_end = text.find("\n", stop)
    return Place(text.rfind("\n", 0, start) + 1, len(text) if line_end < 0 else line_end + 1)


def _inserted(text: str, routes: SequenceNode, route: MappingNode, topic: str, wanted: Route) -> str:
    move = "" if wanted.move is None else f", move: {flow(wanted.move)}"
    line = f"{{topics: [{topic}], cluster: {wanted.cluster}{move}}}"
    start = route.start_mark.index
    if routes.flow_style:
        return f"{text[:start]}{line}, {text[start:]}"
    dash = text.rfind("-", 0, start)
    return f"{text[:dash]}- {line}\n{' ' * (dash - text.rfind(chr(10), 0, dash) - 1)}{text[dash:]}"


# --- the file -----------------------------------------------------------------------------------------------------------------------


class File:
    """The file of a configuration. environ: decides where its lock is."""

    def __init__(self, configuration: Configuration, environ: Mapping[str, str] = os.environ) -> None:
        self._name = configuration.source
        self.path = Path(os.path.realpath(self._name))
        self._environment = configuration.environment
        self._environ = environ

    def read(self) -> tuple[Configuration, str]:
        """What it says now, and its text; of a source that is no file of this host no text. Raises ConfigError."""
        if self._is_elsewhere:
            return load(self._name or None, environ=self._environ, environment=self._environment or None, running=True), ""
        data = files.content(self._name)
        return self._loaded(data), data.decode()

    def _loaded(self, data: bytes) -> Configuration:
        return load(
            self._name, environ=self._environ, environment=self._environment or None, running=True, content=Content(digest(data), data)
        )

    @property
    def _is_elsewhere(self) -> bool:
        return not self._name or is_remote(self._name) or os.path.isdir(self._name)

    def write(self, text: str, topic: str, wanted: Route) -> Configuration:
        """Make `wanted` the route of the topic, if the file still holds this text. Returns the configuration that is in force then.

        Raises StateError when somebody else was quicker, or where there is no file to edit, ConfigError when it cannot be changed so.
        """
        if self._is_elsewhere:
            kind = "a directory" if os.path.isdir(self._name) else "a remote source"
            what = f"{self._name} is {kind}" if self._name else "there is no configuration file"
            fix = f"write into the route of {topic} where it is kept: {_text(wanted)}"
            raise StateError(f"the route cannot be edited here: {what}", fix=fix, state="REMOTE")
        with self._locked():
            before, now = self.read()
            if now != text:
                raise StateError(f"{self._name} was changed by somebody else meanwhile", fix="look at it, and try again", state="CHANGED")
            number = before.routes.index(_route(before, topic))
            new = edited(text, topic, number, wanted, before.environment)
            after = self._checked(before, new, topic, wanted)
            self._replace(new.encode())
        return after

    def _checked(self, before: Configuration, new: str, topic: str, wanted: Route) -> Configuration:
        try:
            after = self._loaded(new.encode())
        except ConfigError:
            after = before
        found = after.route(topic)
        others = [change.key for change in diff.changes(before, after) if not change.key.startswith("routes")]
        is_other = found is None or (found.cluster, found.move) != (wanted.cluster, wanted.move)
        if is_other or others or _without_topic(before, topic) != _without_topic(after, topic):
            what = f"the route of {topic} is written in a way that is not understood"
            raise ConfigError(what, where=self._name, fix=f"write it by hand: {_text(wanted)}")
        return after

    def _replace(self, data: bytes) -> None:
        new = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            mode = stat.S_IMODE(self.path.stat().st_mode)
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, self.path)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise ConfigError(f"cannot be written: {error.strerror}", where=self._name, fix="write the route by hand") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        folder = private_folder(private_folder(state_folder(self._environ)) / FOLDER)
        handle = os.open(folder / f"{digest(str(self.path).encode())}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _text(route: Route) -> str:
    return f"cluster: {route.cluster}" + ("" if route.move is None else f", move: {flow(route.move)}")


def _without_topic(configuration: Configuration, topic: str) -> list[Route]:
    """All routes but one for this topic alone."""
    return [replace(route, line=0) for route in configuration.routes if route.topics != (topic,)]


def _route(configuration: Configuration, topic: str) -> Route:
    found = configuration.route(topic)
    if found is None:
        raise ConfigError(f"no route matches topic {topic}", where=configuration.source, fix="add one to `routes:`")
    return found
