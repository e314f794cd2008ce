"""Three groups read the same flights, each for a purpose of its own. `mqsdk run app:app` runs all three.

What the demo needs to judge the run afterwards is in bookkeeping.py and touches no handler.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

from bookkeeping import Notebooks, append_lines, recorded

from mqsdk import App, Batch, Message

LATE_MIN = 15  # a departure counts as late from the 16th minute on, as in the bureau's statistics
ALERT_MIN = 180
AIRPORTS_THE_PAGER_DOES_NOT_KNOW = ("GSO", "ROC")

app = App()
app.middleware(recorded)
notebooks = Notebooks()


@dataclass(frozen=True)
class Flight:
    """What the handlers need of a flight; further fields of the message are ignored. `seq` counts the flights of one aircraft."""

    tail: str
    seq: int
    flight: str
    to: str
    departure_delay_min: int | None  # None: cancelled

    @property
    def late(self) -> bool:
        return self.departure_delay_min is not None and self.departure_delay_min > LATE_MIN


@app.consumer("flights", group="rotations", ordered=True)
def follow(flight: Flight, message: Message[Any]) -> None:
    """Each aircraft flight by flight, in order: does a late departure drag the next one along?

    A notebook per partition holds the last flight of each aircraft. Only the partition's owner writes it, and a new owner reads it first;
    so a flight that comes again after a crash is seen to be old.
    """
    notebook = notebooks.of(message.partition, message.epoch)
    last = notebook.last.get(flight.tail, 0)
    if flight.seq > last:
        notebook.write(flight.tail, flight.seq, late=flight.late, hole=flight.seq != last + 1)


@app.consumer("flights", group="delays", batch=Batch(size=200))
def tally(flights: list[Flight], messages: list[Message[Any]]) -> None:
    """Delay per carrier. A batch that is repeated after a crash is counted once: the summary goes by message id."""
    rows = zip(messages, flights, strict=True)
    append_lines("delays", [f"{m.id} {f.flight[:2]} {f.departure_delay_min}" for m, f in rows if f.departure_delay_min is not None])


@app.consumer("flights", group="alerts")
async def alert(flight: Flight) -> None:
    """Somebody is paged when a departure is more than three hours late."""
    if (flight.departure_delay_min or 0) > ALERT_MIN:
        await page(flight)


async def page(flight: Flight) -> None:
    """The downstream: slow, fails at random (a retry helps), and has never heard of two airports (no retry helps)."""
    await asyncio.sleep(0.002)
    if flight.to in AIRPORTS_THE_PAGER_DOES_NOT_KNOW:
        raise LookupError("the pager does not know this airport")
    if random.random() < 0.3:
        raise ConnectionError("the pager did not answer")
