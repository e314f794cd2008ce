"""What docs/guarantees.md says each backend can do is what the adapters claim, in the words of the refusals, and what conformance shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mqsdk.testing.simlog import MEMORY
from mqsdk.testing.stages import capabilities_of
from tests.capabilities import BACKENDS, ROWS, Row, _Claims, cell, table

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- Made by `python -m tests.capabilities`; a test holds it to that. -->", "<!-- end -->"


def test_the_page_says_what_the_adapters_claim() -> None:
    page = (DOCS / "guarantees.md").read_text()
    assert page.split(BEGIN)[1].split(END)[0].strip() == table(), "make it anew: python -m tests.capabilities"


def shown(scenario: str) -> dict[str, str]:
    """The cells of a scenario in docs/conformance.md by backend."""
    lines = (DOCS / "conformance.md").read_text().splitlines()
    head = next(line for line in lines if line.startswith("| scenario |"))
    found = next(line for line in lines if line.startswith(f"| {scenario} |"))
    names, cells = ([part.strip() for part in line.strip("|").split("|")] for line in (head, found))
    return {name.lower(): text for name, text in zip(names[1:], cells[1:], strict=True)}


@pytest.mark.parametrize("row", [row for row in ROWS if row.scenario], ids=lambda row: row.name)
def test_what_is_native_is_shown_by_the_conformance_suite_and_what_is_refused_is_not_claimed(row: Row) -> None:
    cells = shown(row.scenario)
    for name in BACKENDS:
        state, _ = cell(row, _Claims(name, capabilities_of(name)))
        if state == "native":
            assert cells[name] == "✓", name
        elif state == "refused":
            assert cells[name] in ("refused", "–"), name


def test_a_claim_that_is_dropped_changes_the_table() -> None:
    """The table sees: without the claims there is a refusal in each row that has one."""
    claims = {name: capabilities_of(name) for name in BACKENDS}
    bare = replace(
        MEMORY, ordered=False, history=False, by_time=False, replay=False, read_by_position=False, broadcast=False, companions=False,
        retention=False, attempts=False, delay="none", sparse_bytes=0,
    )  # fmt: skip
    changed = table({**claims, "memory": bare})
    assert changed != table(claims)
    refused = [line.split("|")[3].strip() for line in changed.splitlines() if line.startswith("| ") and "refused" in line.split("|")[3]]
    assert len(refused) == 11
