"""Which test watches the effect of which key. `test_complete` fails when a key of the model has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Test = TypeVar("Test", bound=Callable[..., object])

SHOWN: dict[str, set[str]] = {}
HOMES = ("defaults", "consumers.*")


def shows(*keys: str) -> Callable[[Test], Test]:
    """The test sees what a running process does change with these live keys; or, of restart keys, that the reload is refused."""

    def mark(test: Test) -> Test:
        for key in keys:
            SHOWN.setdefault(key, set()).add(test.__name__)
        return test

    return mark


def shows_everywhere(*keys: str) -> Callable[[Test], Test]:
    """Keys of consumers, at each place where they may stand."""
    return shows(*(f"{home}.{key}" for home in HOMES for key in keys))
