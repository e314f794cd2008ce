"""The file with every key, made from the model: `python -m mqsdk.config.reference > configs/reference.yaml`. A test compares the two."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from mqsdk import units
from mqsdk.config.keys import Key, all_keys

_HEAD = """\
# Every key of mqsdk.yaml with its default and its meaning. This file says what holds without any file: copy what you change.
#
#   live      a running process takes a change at a reload
#   restart   a reload that changes it is refused, the key named
#
# Keys without a default, and blocks that name things of yours, are commented out.
# Written by `python -m mqsdk.config.reference` from mqsdk/config/settings.py.
"""
_EXAMPLES = {
    "clusters.*.backend": "log",
    "clusters.*.servers": "[host1:9092, host2:9092]",
    "clusters.*.options": "{}",
    "clusters.*.auth.mechanism": "SCRAM-SHA-512",
    "clusters.*.auth.user": "shop",
    "clusters.*.auth.password": '"${file:/run/secrets/password}"',
    "clusters.*.auth.token": '"${env:TOKEN}"',
    "clusters.*.tls.ca": "/etc/ssl/ca.pem",
    "clusters.*.tls.cert": "/etc/ssl/client.pem",
    "clusters.*.tls.key": "/etc/ssl/client.key",
    "routes.[].topics": '["*"]',
    "routes.[].cluster": "local",
    "routes.[].move.to": "other",
    "topics.*.partitions": "8",
    "topics.*.retention": "7d",
    "defaults.rate": "200/s",
    "observability.listen": '"127.0.0.1:9464"',
    "observability.token": '"${file:/run/secrets/token}"',
    "defaults.inbox.path": "./inbox.db",
    "requires.version": '">=0.1"',
}
_NAMES = {"clusters": "local", "topics": '"orders.*"', "consumers": '"orders.created/billing"'}
LOG_KEYS = (
    ("path", "./.mqsdk", "the log's own: its folder, relative to the working directory"),
    ("durability", "interval", "the log's own: none, interval (a power cut may take the last moments) or always (synced before an answer)"),
    ("interval", "10ms", "the log's own: time between syncs with `durability: interval`"),
    ("any_filesystem", "false", "the log's own: true allows network file systems, whose locks and syncs may not hold"),
    ("keep", "7d", "the log's own: how long a message stays that no group waits for; none: for ever"),
    ("keep_size", "10GiB", "the log's own: above it a topic's oldest messages go, whoever waits for them; none: no limit"),
)
# Blocks that only mean something with names of the user's, or for backends other than the embedded log.
_COMMENTED = (
    "requires",
    "topics",
    "consumers",
    "clusters.*.tls",
    "clusters.*.auth",
    "routes.[].move",
    "defaults.breaker",
    "defaults.inbox",
)
_CONSUMERS = """
# consumers:                                 # as `defaults`, for pairs of topic and group; the entry with most literal characters wins
#   "orders.created/billing":
#     concurrency: 32
#     retry: {attempts: 3}                   # the other keys of retry stay the decorator's
"""
_COLUMN = 44


def text() -> str:
    """The whole reference file."""
    return _HEAD + "\n".join(_lines()) + "\n"


def table() -> str:
    """The keys as a table for docs/configuration.md."""
    rows = [f"| `{_name(key)}` | {_default(key)} | {key.reload} | {key.meaning} |" for key in all_keys() if key.model is None]
    rows = [row for row in rows if not row.startswith("| `consumers.")]
    return "\n".join(["| key | default | change | meaning |", "|---|---|---|---|", *rows]) + "\n"


def _name(key: Key) -> str:
    return ".".join({"*": "<name>", "[]": "[]"}.get(name, name) for name in key.path).replace(".[]", "[]")


def _default(key: Key) -> str:
    if key.required:
        return "required"
    return "-" if key.default is None else f"`{_value(key)}`"


def _lines() -> Iterator[str]:
    for key in all_keys():
        dotted = ".".join(key.path)
        if dotted.startswith("consumers"):
            if dotted == "consumers.*":
                yield _CONSUMERS.rstrip()
            continue
        if key.model is not None and (len(key.path) == 1 or (len(key.path) == 2 and key.path[1] in ("*", "[]"))):
            yield ""
        yield from _block(key, dotted) if key.model is not None else [_line(key, dotted)]
        if dotted == "clusters.*.backend":
            yield from (_laid_out("    ", f"{name}: {value}", f"restart. {meaning}") for name, value, meaning in LOG_KEYS)


def _block(key: Key, dotted: str) -> Iterator[str]:
    names = [name for name in key.path if name not in ("*", "[]")]
    depth = len(key.path) - (2 if key.path[-1] in ("*", "[]") else 1)
    yield _laid_out(_indent(depth, dotted, key), f"{names[-1]}:", key.meaning)
    if key.path[-1] == "*":
        yield f"{_indent(depth + 1, dotted, key)}{_NAMES[names[-1]]}:"


def _line(key: Key, dotted: str) -> str:
    lead = "- " if dotted == "routes.[].topics" else ("  " if dotted.startswith("routes.[]") else "")
    indent = _indent(len(key.path) - (2 if "[]" in key.path else 1), dotted, key)
    return _laid_out(indent, f"{lead}{key.path[-1]}: {_EXAMPLES.get(dotted) or _value(key)}", f"{key.reload}. {key.meaning}")


def _indent(depth: int, dotted: str, key: Key) -> str:
    """Spaces; in a commented block with the `#` where the block begins, so that taking it away leaves valid YAML."""
    root = next((name for name in _COMMENTED if dotted == name or dotted.startswith(f"{name}.")), None)
    if root is not None:
        outer = "  " * root.count(".")
        return f"{outer}# {'  ' * depth}".replace(f"# {outer}", "# ", 1)
    without_default = key.model is None and key.default is None and not key.required
    return "  " * depth + ("# " if without_default else "")


def _laid_out(indent: str, content: str, meaning: str) -> str:
    return f"{indent}{content}".ljust(_COLUMN) + f" # {meaning}"


def _value(key: Key) -> str:
    value: Any = key.default
    if key.unit == "duration":
        return units.duration_text(value)
    if key.unit == "size":
        return f"{value // 1024**2}MiB" if value % 1024**2 == 0 else str(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[]"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if value != "" else '""'


if __name__ == "__main__":
    sys.stdout.write(table() if "--table" in sys.argv else text())
