"""The mutation gate: the simulation of the whole layer finds each bug of the table within 2,000 seeds, and as what it is."""

from __future__ import annotations

import pytest

from tests.simulation.gate import GATE, WITHIN, Entry, find

# M22 needs a memory of copies that is saved, which there is not.
NUMBERS = {f"M{number}" for number in range(1, 27)} - {"M22"}


@pytest.mark.parametrize("entry", GATE, ids=lambda entry: f"{entry.number}-{entry.patch.__name__}")
def test_the_simulation_finds(entry: Entry) -> None:
    found = find(entry)
    assert found is not None, f"{entry.patch.__name__} survives {WITHIN} seeds"
    print(f"{entry.number}: {found.what.partition(' ')[0]} after {found.seeds} seeds")
    assert found.what.startswith(entry.found_as), found.what


def test_the_gate_is_whole() -> None:
    assert {entry.number.split()[0] for entry in GATE} == NUMBERS
