"""Files of this host that may hold a configuration: what is refused before anything of it is believed."""

from __future__ import annotations

import os
import stat

from mqsdk.config.origin import MAX_BYTES, refused


def content(path: str, shown: str = "") -> bytes:
    """What a file holds. shown: its name for people. Raises ConfigError for what is not read: a pipe, 1 GiB, a file that others may
    write ..."""
    file = shown or path
    try:
        # O_NONBLOCK: a named pipe must be refused, not waited for.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise refused(file, "there is no such file", "give the path of a configuration file, or make one with `mqsdk init`") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable path"
        raise refused(file, f"cannot be opened: {reason}", "check the path and the permissions") from None
    try:
        check_trust(file, os.fstat(handle))
        with os.fdopen(os.dup(handle), "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise refused(file, f"cannot be read: {error.strerror}", "check the disk and the permissions") from None
    finally:
        os.close(handle)
    if len(data) > MAX_BYTES:
        raise refused(file, "is larger than 1 MiB", "a configuration holds settings only; check the path")
    return data


def check_trust(file: str, status: os.stat_result) -> None:
    """Raises ConfigError for what is no file, and for one that somebody else may have written."""
    if stat.S_ISDIR(status.st_mode):
        raise refused(file, "is a directory", "give the path of the file in it")
    if not stat.S_ISREG(status.st_mode):
        raise refused(file, "is not a regular file", "pipes and devices are not read")
    if status.st_mode & 0o022:
        who = "everybody" if status.st_mode & 0o002 else "its group"
        raise refused(file, f"can be written by {who}", f"chmod go-w {file}")
    # Root reads what an operator mounts into a container, whoever owns it; anybody else trusts himself and root only.
    if os.geteuid() not in (0, status.st_uid) and status.st_uid != 0:
        raise refused(file, "belongs to another user", "own the file that you configure a process with")
