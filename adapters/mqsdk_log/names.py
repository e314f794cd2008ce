"""The last check of a name before it becomes a file name. Layer 2 has checked it before; this one guards the files."""

from __future__ import annotations

import re

from mqsdk.spi import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,248}", re.ASCII)


def check_name(what: str, name: str) -> str:
    """Return the name. ConfigError for one that is no plain file name."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise ConfigError(f"not a usable {what} name", fix="letters, digits, `.`, `_` and `-`, beginning with a letter or digit, no `..`")
    return name
