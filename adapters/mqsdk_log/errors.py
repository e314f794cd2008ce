"""The one door through which errors of the engine and of the operating system become errors of mqsdk. No content ever passes it."""

from __future__ import annotations

import errno
import os
from types import TracebackType

from mqsdk.spi import AccessDenied, BackendError, Corrupt, Rejected, StateError, Unavailable, Unknown, UnsafeBackend, UnsupportedFormat
from mqsdk_log.engine import errors as engine
from mqsdk_log.engine.cursors import CursorDamaged, NoSuchGroup
from mqsdk_log.engine.groups import GroupBusy

KIND = "log"
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
_IN_THE_WAY = {errno.EEXIST, errno.ENOTDIR}
_FIXES = {
    errno.ENOENT: "the file system takes no new directory there: give the cluster another `path`",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files of the system",
}


class translated:  # noqa: N801 - reads as the statement that it is
    """`with translated(cluster):` raises the error of mqsdk in place of the engine's, which becomes its cause.

    path: the log's directory while it is being opened; files in it are opened relative to it, so an error names them without it.

    A class, because a generator costs 0.5 us more, and a settle passes here.
    """

    __slots__ = ("_cluster", "_path")

    def __init__(self, cluster: str, path: str = "") -> None:
        self._cluster = cluster
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None) -> None:
        if isinstance(error, engine.LogError | OSError | IndexError):
            raise translate(error, self._cluster, self._path) from error


def translate(error: Exception, cluster: str, path: str = "") -> Exception:
    """The error of mqsdk that says the same."""
    if isinstance(error, engine.StaleHandle | engine.ClosedHandle):
        return StateError(
            str(error), where=f"cluster {cluster} ({KIND})", state="stale" if isinstance(error, engine.StaleHandle) else "closed"
        )
    if isinstance(error, engine.InUse):
        fix = (
            "stop the applications that use it first"
            if error.pids
            else "look for its processes with `mqsdk ps`; on other hosts and in containers too"
        )
        return StateError(str(error), where=f"cluster {cluster} ({KIND})", fix=fix, state="active")
    if isinstance(error, GroupBusy):
        fix = "stop its consumers first; members: " + ", ".join(f"{member.host}:{member.pid}" for member in error.members)
        return StateError(str(error), where=f"cluster {cluster} ({KIND})", fix=fix, state="active")
    if isinstance(error, OSError):
        return _of_system(error, cluster, path)
    return _of_engine(error, cluster)


def _of_engine(error: Exception, cluster: str) -> BackendError:
    what = str(error)
    if isinstance(error, engine.UnsupportedVersion):
        return UnsupportedFormat(what, found=str(error.found), supported=str(error.supported), cluster=cluster, backend=KIND)
    if isinstance(error, CursorDamaged):
        fix = "delete the group or reset its position, then publish nothing is lost: it begins where you say"
        return Corrupt(what, file=str(error.path), cluster=cluster, backend=KIND, fix=fix)
    if isinstance(error, engine.CorruptRange | engine.CorruptBatch):
        return Corrupt(what, cluster=cluster, backend=KIND, fix="`mqsdk log verify` says where")
    if isinstance(error, engine.BadRoot):
        return UnsafeBackend(what, finding="root", cluster=cluster, backend=KIND)
    if isinstance(error, engine.LockTimeout):
        return Unavailable(what, cluster=cluster, backend=KIND, retryable=True, fix="another process holds a lock; is one stopped?")
    if isinstance(error, engine.NoSuchTopic):
        return BackendError(what, cluster=cluster, backend=KIND, fix="create it first, or look at `mqsdk topics`")
    if isinstance(error, NoSuchGroup):
        return BackendError(what, cluster=cluster, backend=KIND, fix="look at `mqsdk groups`")
    retryable = isinstance(error, engine.DiskFull | engine.WriteFailed) and not isinstance(error, engine.ReadOnly)
    return BackendError(what, cluster=cluster, backend=KIND, retryable=retryable)


def _of_system(error: OSError, cluster: str, path: str) -> BackendError:
    number = error.errno or 0
    place = path or (error.filename if isinstance(error.filename, str) else "")
    where = f"cluster {cluster} ({KIND})" + (f", {place}" if place else "")
    if number in _DENIED:
        what = f"the log's files cannot be used: {os.strerror(number)}"
        return AccessDenied(
            what, where=where, cluster=cluster, backend=KIND, fix="check owner and mode of the directory, or give another `path`"
        )
    if path and number in _IN_THE_WAY:
        what, fix = "the log's directory cannot be made: a file is in its place or above it", "give the cluster another `path`"
    else:
        what, fix = f"the log's files cannot be used: {os.strerror(number)}", _FIXES.get(number, "check the disk and the cluster's `path`")
    return Unavailable(what, where=where, cluster=cluster, backend=KIND, retryable=number in (errno.ENOSPC, errno.EMFILE), fix=fix)


def refusal(error: Exception) -> Rejected | Unknown:
    """What an error of an append means for the message."""
    what = str(error)
    if isinstance(error, engine.SyncFailed):
        return Unknown(what)
    if isinstance(error, engine.LockTimeout):
        return Rejected("throttled", what, retryable=True, fix="another process holds the partition; is one stopped?")
    if isinstance(error, engine.ReadOnly):
        return Rejected("backend", what, fix="look at the disk, then `mqsdk log repair`, or reboot")
    if isinstance(error, OSError) and error.errno in _FULL:
        return Rejected("full", f"the log's disk is full ({os.strerror(error.errno or 0)})", retryable=True, fix=_FIXES[errno.ENOSPC])
    if isinstance(error, engine.DiskFull):
        return Rejected("full", what, retryable=True, fix="free some space on the disk of the log")
    if isinstance(error, engine.WriteFailed):
        return Rejected("backend", what, retryable=True, fix="look at the disk of the log")
    if isinstance(error, engine.TooLarge):
        return Rejected("too_large", what)
    if isinstance(error, engine.NoSuchTopic | IndexError):
        return Rejected("no_route", what, fix="create the topic first")
    if isinstance(error, ValueError | engine.ClosedHandle | engine.StaleHandle):
        return Rejected("backend", what)
    if isinstance(error, engine.LogError):
        return Rejected("backend", what, retryable=True)
    return Rejected("backend", f"the log's files cannot be used: {type(error).__name__}", retryable=True)
