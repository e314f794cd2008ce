"""What a call of a tool is about: the root that its options name, opened for looking, and errors as those of the seam."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mqsdk.spi import Unavailable
from mqsdk.spi.tools import Call, NotThere
from mqsdk_log.engine.errors import NoSuchTopic
from mqsdk_log.engine.root import MARKER
from mqsdk_log.errors import KIND, translated
from mqsdk_log.options import Options
from mqsdk_log.tools.survey import Root


class Target:
    """The root of a call. `name`: what errors call it."""

    def __init__(self, call: Call) -> None:
        self.name = call.cluster or "--root"
        self.options = Options.parse(call.options, self.name)
        self._durability = self.options.durability if call.cluster else ""
        self.path = Path(self.options.path).expanduser().absolute()

    @contextmanager
    def opened(self) -> Iterator[Root]:
        """The root, for looking. Unavailable where there is none; UnsafeBackend, UnsupportedFormat, AccessDenied."""
        with self.guarded():
            if not self.path.exists() or (self.path.is_dir() and not (self.path / MARKER).exists()):
                raise Unavailable(
                    f"there is no log at {self.path}",
                    cluster=self.name,
                    backend=KIND,
                    fix="name its directory with --root, or run the command where the application runs",
                )
            root = Root(self.path, self._durability)
            try:
                yield root
            finally:
                root.close()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Errors of the engine become errors of the seam; a topic that is not there, NotThere."""
        with translated(self.name, str(self.path)):
            try:
                yield
            except NoSuchTopic as error:
                raise NotThere(str(error), where=str(self.path), fix="`mqsdk log ls` shows what is there") from error

    @contextmanager
    def unless_gone(self, named: str | None) -> Iterator[None]:
        """Pass over a topic that was deleted since it was listed, but one that was asked for."""
        try:
            yield
        except NoSuchTopic:
            if named is not None:
                raise

    def chosen(self, root: Root, topic: str | None) -> list[str]:
        """The topics that a call names: all, or this one. NotThere."""
        names = root.topics()
        if topic is None:
            return names
        if topic not in names:
            raise NotThere(f"there is no topic {topic}", where=str(self.path), fix=f"known: {', '.join(names[:10]) or 'none exists yet'}")
        return [topic]
