"""The state folder of this user: control sockets, last good configurations, unfinished changes of cluster. Mode 0700."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mqsdk.errors import StateError


def state_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """$MQSDK_STATE, else $XDG_STATE_HOME/mqsdk, else ~/.local/state/mqsdk. Creates nothing."""
    given = environ.get("MQSDK_STATE")
    if given:
        return Path(given).absolute()
    base = environ.get("XDG_STATE_HOME")
    # The specification of XDG says to ignore a relative path.
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".local" / "state") / "mqsdk"


def private_folder(path: Path) -> Path:
    """Create the folder (mode 0700) unless it exists. Raises OSError, and StateError when it is somebody else's or open to others."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.getuid():
        raise StateError(f"the folder belongs to user {found.st_uid}", where=str(path), fix="set MQSDK_STATE to a folder of your own")
    if found.st_mode & 0o077:
        path.chmod(0o700)
    return path
