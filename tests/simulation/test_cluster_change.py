"""Order and completeness over a change of cluster under random schedules; and each mutant is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mqsdk.core import cut, oldside
from mqsdk.core.cut import Cuts, Cutting
from mqsdk.core.oldside import OldSide
from mqsdk.core.partitioner import partition_of
from mqsdk.spi import PartitionProgress
from tests.simulation.broken import Broken
from tests.simulation.cluster_change import run

SEEDS = 150


def test_random_schedules_keep_the_order_and_lose_nothing() -> None:
    for seed in range(SEEDS):
        run(seed)


# --- mutants ------------------------------------------------------------------------------------------------------------------------


def the_reader_overtakes_the_cut(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cutting, "is_on", False)


def a_closed_cluster_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(oldside, "WATCH_EVERY_S", 1e9)
    patch.setattr(OldSide, "reopened", lambda self, now: None)


def one_producer_stands_for_all(patch: pytest.MonkeyPatch) -> None:
    original = Cutting._has_passed

    def has_passed(self: Cutting, record: Any) -> bool:
        record.producer = ""
        return original(self, record)

    patch.setattr(Cutting, "_has_passed", has_passed)


def the_cut_of_another_partition(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cut, "partition_of", lambda key, count: (partition_of(key, count) + 1) % count)


def what_was_read_is_taken_for_settled(patch: pytest.MonkeyPatch) -> None:
    original = Cuts.looked

    def looked(self: Cuts, side: int, progress: Sequence[PartitionProgress]) -> list[int]:
        return original(self, side, [one._replace(watermark=min(one.end, one.watermark + 1)) for one in progress])

    patch.setattr(Cuts, "looked", looked)


def later_messages_of_a_held_key_go_on(patch: pytest.MonkeyPatch) -> None:
    class Forgetful(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            return None

    original = Cutting.admit

    def admit(self: Cutting, now: float, ownership: Any, records: Any) -> Any:
        self._held.setdefault(ownership, Forgetful())
        return original(self, now, ownership, records)

    patch.setattr(Cutting, "admit", admit)


MUTANTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    the_reader_overtakes_the_cut,
    a_closed_cluster_is_forgotten,
    one_producer_stands_for_all,
    the_cut_of_another_partition,
    what_was_read_is_taken_for_settled,
    later_messages_of_a_held_key_go_on,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_simulation_finds(mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    for seed in range(SEEDS):
        try:
            run(seed)
        except Broken:
            return
    raise AssertionError(f"{mutant.__name__} was not found within {SEEDS} seeds")
