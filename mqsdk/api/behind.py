"""Why an open App does not follow what its configuration says now: shown by `mqsdk ps`, and tried again where the reason may pass."""

from __future__ import annotations

from collections.abc import Callable

from mqsdk.errors import ConfigError


class Behind:
    """Of one App; the watcher's thread and whoever reloads write, any thread reads.

    refused: what it cannot take of the content that was tried last. unread: why its source gives none.
    """

    def __init__(self) -> None:
        self.refused: ConfigError | None = None
        self.unread: ConfigError | None = None
        self._has_passed: Callable[[], bool] = _never

    @property
    def reason(self) -> ConfigError | None:
        """None: what is in force is what was read last."""
        return self.unread or self.refused

    @property
    def is_due(self) -> bool:
        """Whether what was refused may be taken now, as it is."""
        return self.refused is not None and self._has_passed()

    def refuse(self, error: ConfigError, has_passed: Callable[[], bool] | None = None) -> None:
        """has_passed: whether the reason is gone; None: it stays until the content changes."""
        self.refused, self.unread, self._has_passed = error, None, has_passed or _never

    def follow(self) -> None:
        """What was read is in force."""
        self.refused, self.unread, self._has_passed = None, None, _never


def _never() -> bool:
    return False
