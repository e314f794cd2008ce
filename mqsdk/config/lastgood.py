"""The last good configuration of a remote source, kept in the state folder (0600) so that a process can start while the source is down.

As the source gave it: references are not resolved, so no secret gets there that the source did not hold itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mqsdk.config.origin import digest
from mqsdk.config.state import private_folder, state_folder
from mqsdk.errors import MqError

FOLDER = "config"


def path_of(source_id: str, environ: Mapping[str, str]) -> Path:
    return state_folder(environ) / FOLDER / f"{digest(source_id.encode())}.yaml"


def keep(source_id: str, data: bytes, environ: Mapping[str, str]) -> str:
    """Write it down whole, unless it is there. Returns what kept it from being written, "" when it is."""
    try:
        path = path_of(source_id, environ)
        if path.is_file() and path.read_bytes() == data:
            return ""
        private_folder(path.parent.parent)
        private_folder(path.parent)
        replace(path, data)
    except (OSError, MqError, RuntimeError) as error:  # RuntimeError: no home directory can be determined
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return f"cannot be kept for a start without its source: {reason}; set MQSDK_STATE to a folder of your own"
    return ""


def replace(path: Path, data: bytes) -> None:
    """Synced before it takes the old one's place: after a power cut there is the old one or the new one."""
    new = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def kept(source_id: str, environ: Mapping[str, str]) -> Path | None:
    """The file, None when there is none."""
    try:
        path = path_of(source_id, environ)
        return path if path.is_file() else None
    except (OSError, RuntimeError):
        return None
