"""`${env:NAME}` and `${file:PATH}` in texts; `$${` is a literal `${`.

Files are read at each load, so a reload takes a changed secret. What a remote source says may refer to little: who writes there must not
read the host through it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mqsdk.config.problems import Finding, Path
from mqsdk.config.secret import MASK, Secret, is_secret_name

MAX_SECRET_BYTES = 64 * 1024
REMOTE_VARIABLES = "MQ_"  # a remote source refers to variables whose name begins so
REMOTE_FILES = "/run/secrets"  # and to files below this folder, where orchestrators mount secrets
_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")


class _Unset:
    """Stands for a value whose reference does not resolve."""


_UNSET = _Unset()


@dataclass
class Resolver:
    """Replaces references in nested data. Texts that had one become Secret, so that nothing downstream shows them.

    lenient: references are dropped unread, for looking at a profile that is not in use.
    is_remote: whether the value at a path came from a remote source.
    """

    environ: Mapping[str, str]
    lenient: bool = False
    is_remote: Callable[[Path], bool] = lambda path: False
    findings: list[Finding] = field(default_factory=list)
    masked: set[Path] = field(default_factory=set)
    dropped: set[Path] = field(default_factory=set)

    def resolve(self, value: Any, path: Path = ()) -> Any:
        """A copy of `value` without references; keys whose reference fails are left out and reported."""
        if isinstance(value, str):
            return self._text(value, path) if "${" in value else value
        if isinstance(value, Mapping):
            items = ((name, self.resolve(item, (*path, name))) for name, item in value.items())
            return {name: item for name, item in items if item is not _UNSET}
        if isinstance(value, list):
            found = [self.resolve(item, (*path, number)) for number, item in enumerate(value)]
            return [item for item in found if item is not _UNSET]
        return value

    def _text(self, text: str, path: Path) -> Any:
        self.masked.add(path)
        if self.lenient:
            self.dropped.add(path)
            return _UNSET
        before = len(self.findings)
        result = _REFERENCE.sub(lambda match: self._one(match, path), text)
        if len(self.findings) > before:
            self.dropped.add(path)
            return _UNSET
        return Secret(result)

    def _one(self, match: re.Match[str], path: Path) -> str:
        if match[0] == "$${":
            return "${"
        kind, colon, name = (match[1] or "").partition(":")
        if colon and kind == "env" and name:
            return self._variable(name, path)
        if colon and kind == "file" and name:
            return self._file(name, path)
        self.findings.append(Finding(path, "holds a `${` that is no reference", "write ${env:NAME}, ${file:PATH}, or $${ for a literal ${"))
        return ""

    def _variable(self, name: str, path: Path) -> str:
        if self.is_remote(path) and not name.startswith(REMOTE_VARIABLES):
            what = f"a remote source may not refer to the variable {name[:80]}"
            self.findings.append(Finding(path, what, f"only to those that begin with {REMOTE_VARIABLES}; give the value one of them"))
            return ""
        value = self.environ.get(name)
        if value is None:
            self.findings.append(Finding(path, f"the variable {name[:80]} is not set", "set it in the environment of the process"))
            return ""
        return value

    def _file(self, name: str, path: Path) -> str:
        if self.is_remote(path) and not _is_below(name, REMOTE_FILES):
            what = f"a remote source may not refer to the file {name[:200]}"
            self.findings.append(Finding(path, what, f"only to those below {REMOTE_FILES}; mount it there"))
            return ""
        try:
            # O_NONBLOCK: a named pipe must not stop the start.
            with os.fdopen(os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as stream:
                if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                    raise ValueError("a pipe or device")
                content = stream.read(MAX_SECRET_BYTES + 1)
            if len(content) > MAX_SECRET_BYTES:
                raise ValueError("longer than 64 KiB")
            text = content.decode("utf-8")
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or "not a file with a short UTF-8 text"
            self.findings.append(Finding(path, f"the file {name[:200]} cannot be read: {reason}", "check the path and the permissions"))
            return ""
        # Editors and `echo` end a file with a newline that no password has.
        return text.removesuffix("\n").removesuffix("\r")


def _is_below(name: str, folder: str) -> bool:
    """By the name alone: links inside the folder are set by who runs the host, not by who writes the configuration."""
    return name.startswith(f"{folder}/") and ".." not in name.split("/")


def revealed(value: Any) -> Any:
    """A copy in which every Secret is its text: what an adapter gets."""
    return _mapped(value, lambda secret: secret.reveal())


def masked(value: Any) -> Any:
    """A copy in which every Secret, and every value whose key names one, is its mask: what people get."""
    if isinstance(value, Mapping):
        return {name: MASK if is_secret_name(name) and item is not None else masked(item) for name, item in value.items()}
    return [masked(item) for item in value] if isinstance(value, list) else _mapped(value, repr)


def _mapped(value: Any, change: Callable[[Secret], str]) -> Any:
    if isinstance(value, Secret):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(item, change) for name, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    return value
