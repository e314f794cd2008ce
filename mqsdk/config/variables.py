"""`MQSDK_*`: which names are known, and the overrides among them as a nested mapping like the file's."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mqsdk.config.problems import Finding, Path, near
from mqsdk.errors import Problem

PREFIX = "MQSDK_"
SPECIAL = ("MQSDK_CONFIG", "MQSDK_ENV", "MQSDK_STATE", "MQSDK_DISABLE_PLUGINS")
# Names with dots and slashes cannot be written as variables; the others describe the file itself.
FILE_ONLY = frozenset({"consumers", "topics", "routes", "profiles", "version", "requires"})


class Written(str):
    """Text from where there is nothing but text, a variable or a `${...}`: it may stand for a number. A file's own text may not."""


def overrides(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that are meant for the file's keys: every MQSDK_* but the special ones."""
    return {name: value for name, value in environ.items() if name.upper().startswith(PREFIX) and name not in SPECIAL}


@dataclass
class Variables:
    """data: nested as in the file. names: which variable gave which path."""

    data: dict[str, Any] = field(default_factory=dict)
    names: dict[Path, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def name_at(self, path: Path) -> str | None:
        """The variable that gave the value at this path or the list it is in."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.names:
                return self.names[path[:length]]
        return None


def read(environ: Mapping[str, str]) -> Variables:
    """Every override, and a problem for every name that no key has."""
    from mqsdk.config import keys

    result = Variables()
    for name, value in sorted(overrides(environ).items()):
        parts = tuple(name[len(PREFIX) :].lower().split("__"))
        problem = _refusal(parts)
        if problem is None and parts in result.names:
            problem = Finding(parts, f"also given as {result.names[parts]}: case makes no difference", "unset one of the two")
        if problem is None and keys.is_block(parts):
            example = "__".join((*parts, keys.known_at(parts)[0])).upper()
            problem = Finding(parts, "names a block, not a key", f"for example {PREFIX}{example}")
        if problem is not None:
            result.problems.append(Problem(key="", what=problem.what, fix=problem.fix, file=name))
            continue
        try:
            _put(result.data, parts, _value(value, is_list=keys.is_list(parts), known=keys.is_known(parts)))
        except ValueError:
            fix = 'write a,b or ["a", "b"]'
            result.problems.append(Problem(key="", what="must be a list", fix=fix, file=name))
            continue
        result.names[parts] = name
    return result


def _refusal(parts: tuple[str, ...]) -> Finding | None:
    from mqsdk.config import keys

    if parts[0] in FILE_ONLY:
        return Finding(parts, "cannot be set by a variable", f"set `{parts[0]}` in the file")
    if parts[0] == "environment":
        return Finding(parts, "is not the variable for the environment", "set MQSDK_ENV")
    if all(parts) and (keys.is_known(parts) or keys.is_block(parts) or _is_adapter_key(parts)):
        return None
    return Finding(parts, "unknown variable", _fix(parts, keys.names()))


def _is_adapter_key(parts: tuple[str, ...]) -> bool:
    # A cluster's own keys are checked later, against the Options of its adapter; so are the client's below `options`.
    return parts[0] == "clusters" and len(parts) >= 3 and (parts[2] == "options" or parts[2] not in ("tls", "auth"))


def _fix(parts: tuple[str, ...], known: Collection[tuple[str, ...]]) -> str:
    # Compared without the prefix, which all have in common.
    names = [name.removeprefix(PREFIX) for name in SPECIAL]
    names += ["__".join(_filled(path, parts)).upper() for path in known if path[0] not in FILE_ONLY]
    meant = near("__".join(parts), names)
    return (
        f"did you mean {PREFIX}{meant}?"
        if meant
        else "variables are MQSDK_CONFIG, MQSDK_ENV, MQSDK_STATE, or keys such as MQSDK_DRAIN__TIMEOUT"
    )


def _filled(path: tuple[str, ...], parts: tuple[str, ...]) -> tuple[str, ...]:
    """The path with `*` replaced by what the variable has in that place."""
    return tuple(parts[place] if part == "*" and place < len(parts) else part for place, part in enumerate(path))


def _value(text: str, *, is_list: bool, known: bool) -> Any:
    if is_list:
        if text.lstrip().startswith("["):
            return json.loads(text)
        return [item.strip() for item in text.split(",") if item.strip()]
    if not known and text.lstrip().startswith(("[", "{")):
        return json.loads(text)
    # The model turns texts into what a key wants; an adapter's own key gets what the file would have given.
    if known:
        return Written(text)
    return text == "true" if text in ("true", "false") else text


def _put(data: dict[str, Any], parts: tuple[str, ...], value: Any) -> None:
    for part in parts[:-1]:
        inner = data.setdefault(part, {})
        if not isinstance(inner, dict):
            return
        data = inner
    data[parts[-1]] = value
