"""What is wrong with a configuration, before and after it has a place: findings by key path, names that are near, texts of pydantic errors.

No text made here holds a value of the file: passwords stand in files, and problems end in logs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Path = tuple[str | int, ...]

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)
_KEY_SHOWN = 80


class Finding(NamedTuple):
    """One thing wrong at a key path; `ConfigError.problems` adds file, line and column."""

    path: Path
    what: str
    fix: str = ""


def dotted(path: Sequence[str | int]) -> str:
    """A key path as people write it: `consumers."orders.created/billing".retry`, `routes[0].cluster`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            shown = part if len(part) <= _KEY_SHOWN and _PLAIN.fullmatch(part) else f'"{_shown(part)}"'
            text += f".{shown}" if text else shown
    return text


def _shown(name: str) -> str:
    # A key may be anything: control characters would forge log lines, a megabyte would flood them.
    clean = "".join(char if char.isprintable() and char != '"' else "?" for char in name[:_KEY_SHOWN])
    return clean + ("..." if len(name) > _KEY_SHOWN else "")


def near(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` most probably means, or None."""
    lowered = {item.lower(): item for item in known}
    found = difflib.get_close_matches(name.lower()[:_KEY_SHOWN], lowered, n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def suggestion(name: str, known: Collection[str]) -> str:
    """A fix for an unknown name: the near one, else the list of the known ones."""
    meant = near(name, known)
    if meant is not None:
        return f"did you mean `{meant}`?"
    return f"known: {', '.join(sorted(known))}" if known else ""


_TEXTS: Mapping[str, str] = {
    "missing": "is missing",
    "string_type": "must be text",
    "dict_type": "must be a mapping of keys",
    "model_type": "must be a mapping of keys",
    "model_attributes_type": "must be a mapping of keys",
    "list_type": "must be a list",
}


def findings_of(errors: Iterable[Mapping[str, Any]], known_at: Callable[[Path], Collection[str]]) -> list[Finding]:
    """Findings of pydantic's `errors(include_input=False)`. known_at: the keys that are known inside a path."""
    return [_finding(error, known_at) for error in errors]


def _finding(error: Mapping[str, Any], known_at: Callable[[Path], Collection[str]]) -> Finding:
    path: Path = tuple(error["loc"])
    kind = error["type"]
    if kind == "extra_forbidden":
        return Finding(path, "unknown key", suggestion(str(path[-1]), known_at(path[:-1])))
    if kind == "value_error":
        return Finding(path, str(error["ctx"]["error"]))
    fix = f"write {dotted((str(path[-1]),))}: and its value" if kind == "missing" else ""
    return Finding(path, _TEXTS.get(kind, str(error["msg"])), fix)
