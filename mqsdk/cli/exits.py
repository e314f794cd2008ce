"""Exit codes of the command line and the one place that maps an exception to one.

    0  done, nothing to report            5  refused: gate, capability, state, missing --yes
    1  looked and found something wrong;  6  no such app, topic, group, message
       a publish was rejected             7  outcome unknown (may be stored)
    2  usage                              8  stop not clean
    3  configuration or declaration:      9  watchdog: no progress
       also a topic that no route matches
    4  backend or source of the configuration unreachable, or credentials of a backend refused

Beside the table, by the conventions of shells and sysexits(3): 130 ended by Ctrl-C, 70 a defect of mqsdk itself (with its traceback).
"""

from __future__ import annotations

from collections.abc import Iterable

from mqsdk.config.origin import SourceDown
from mqsdk.errors import (
    AccessDenied,
    BackendError,
    CapabilityError,
    ConfigError,
    Corrupt,
    DeclarationError,
    MoveRefused,
    MqError,
    PublishError,
    PublishManyFailed,
    PublishRejected,
    PublishUnknown,
    StateError,
    Unavailable,
    UnsafeBackend,
    UnsupportedFormat,
)
from mqsdk.spi.tools import NotThere

DONE, FOUND, USAGE, INVALID, UNREACHABLE, REFUSED, MISSING, UNKNOWN, NOT_CLEAN, WATCHDOG = range(10)
DEFECT, INTERRUPTED = 70, 130


class NotFound(MqError):
    """There is no such app, topic, group, message or process."""


class Refused(MqError):
    """A command does not do what it was asked to do: not confirmed, not in this version, or a rule forbids it."""


# First match wins, so subclasses stand before their bases.
_BY_TYPE: tuple[tuple[type[MqError] | tuple[type[MqError], ...], int], ...] = (
    ((NotFound, NotThere), MISSING),
    (SourceDown, UNREACHABLE),
    ((ConfigError, DeclarationError), INVALID),
    ((Refused, CapabilityError, StateError, MoveRefused, UnsafeBackend, UnsupportedFormat), REFUSED),
    (Corrupt, FOUND),
    ((Unavailable, AccessDenied, BackendError), UNREACHABLE),
    (PublishUnknown, UNKNOWN),
    (PublishError, FOUND),
)


def exit_code(error: MqError) -> int:
    """The exit code that reports this error. One cause has one code: what keeps a publish from its cluster is reported as for looking."""
    if isinstance(error, PublishManyFailed):
        return exit_code_of_many([outcome for outcome in error.outcomes if isinstance(outcome, MqError)])
    if isinstance(error, PublishError) and isinstance(error.__cause__, BackendError):
        return exit_code(error.__cause__)
    if isinstance(error, PublishRejected) and error.code == "no_route":
        return INVALID
    return next((code for types, code in _BY_TYPE if isinstance(error, types)), FOUND)


def exit_code_of_many(failures: Iterable[MqError]) -> int:
    """Of what became of many messages: UNKNOWN if any may be stored, else the one code that all failures have, else FOUND."""
    codes = {exit_code(failure) for failure in failures}
    return UNKNOWN if UNKNOWN in codes else codes.pop() if len(codes) == 1 else FOUND if codes else DONE
