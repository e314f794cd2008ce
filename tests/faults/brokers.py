"""The fault run against a real broker: its clients are killed, the broker is killed and frozen, and the journals are judged.

The same two scripts as on the embedded log; only the configuration differs. A backend's own test gives the server and the configuration.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.faults.fleet import Fleet, comes_true, goes_on, judged, prepare

MEMBERS = 2  # publishers, and as many consumers
SECONDS = float(os.environ.get("SOAK_SECONDS", "6"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or (int(time.time()) if "SOAK_SECONDS" in os.environ else 20260101)


class Server(Protocol):
    """What a launcher in `tests/brokers` does."""

    def start(self) -> None:
        """Start it again over what its files hold, and wait until it answers."""

    def kill(self) -> None:
        """kill -9."""

    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


def endure(folder: Path, server: Server, config: str, *, frozen_s: float = 1.0) -> None:
    """Kill -9 of publishers and consumers, kill -9 and restart of the broker, a freeze of it. AssertionError when a promise is broken."""
    prepare(folder, config)
    fleet = Fleet(folder)
    dice = random.Random(SEED)
    try:
        fleet.start_all(MEMBERS)
        _kill_clients(fleet, dice, SECONDS / 2)
        _take_away(fleet, server.kill, server.start)
        _kill_clients(fleet, dice, SECONDS / 2)
        _take_away(fleet, server.freeze, server.thaw, down_s=frozen_s)
        _kill_clients(fleet, dice, 0.0)
        publishers = fleet.stop("publisher")
        complete, consumers = fleet.finish()
    finally:
        fleet.end()
    verdict = judged(folder, complete=complete)
    told = f"seed {SEED}, kills {fleet.kills}\n{verdict}"
    print(f"\n{told}")
    assert verdict.ok, f"{told}\n{fleet.output()}"
    assert verdict.stored > 100, told
    assert set(publishers) <= {0, -signal.SIGTERM}, told
    assert set(consumers) == {0}, f"{told}\n{fleet.output()}"


def outlive(folder: Path, cluster: Server, config: str, *, most_s: float) -> None:
    """One of several brokers is killed, or frozen until the others have replaced it, under load: the rest goes on within `most_s`.

    AssertionError when a promise is broken. The short form kills once; the soak alternates between the two until its time is over.
    """
    prepare(folder, config)
    fleet = Fleet(folder)
    recovered: list[float] = []
    until = time.monotonic() + SECONDS
    faults = itertools.cycle(((cluster.kill, cluster.start), (cluster.freeze, cluster.thaw)))
    try:
        fleet.start_all(MEMBERS)
        assert comes_true(lambda: goes_on(folder, 0.0) is not None), fleet.output()
        while not recovered or time.monotonic() < until:
            recovered.append(_without_one(fleet, folder, *next(faults)))
        publishers = fleet.stop("publisher")
        complete, consumers = fleet.finish()
    finally:
        fleet.end()
    verdict = judged(folder, complete=complete)
    told = f"went on after {', '.join(f'{one:.1f}' for one in recovered)} s\n{verdict}"
    print(f"\n{told}")
    assert verdict.ok, f"{told}\n{fleet.output()}"
    assert max(recovered) < 3 * most_s, told
    assert (set(publishers), set(consumers)) == ({0}, {0}), f"{told}\n{fleet.output()}"


def _without_one(fleet: Fleet, folder: Path, take: Callable[[], None], give: Callable[[], None]) -> float:
    """Seconds until every partition went on without the broker; it is back when this returns."""
    fleet.broker(down=True)
    take()
    moment = time.monotonic()
    try:
        assert comes_true(lambda: goes_on(folder, moment) is not None), fleet.output()
        return (goes_on(folder, moment) or 0.0) - moment
    finally:
        give()
        fleet.broker(down=False)


def _kill_clients(fleet: Fleet, dice: random.Random, seconds: float) -> None:
    """One of each at least; the waits give the processes time to work."""
    until = time.monotonic() + seconds
    for role in ("publisher", "consumer"):
        time.sleep(dice.uniform(0.5, 1.0))
        fleet.kill(role, dice.randrange(MEMBERS))
    while time.monotonic() < until:
        time.sleep(dice.uniform(0.5, 1.2))
        fleet.kill(dice.choice(("publisher", "consumer")), dice.randrange(MEMBERS))


def _take_away(fleet: Fleet, take: Callable[[], None], give: Callable[[], None], down_s: float = 0.0) -> None:
    """The clients run on meanwhile; what is started must find a server, so nothing is killed."""
    assert comes_true(fleet.is_under_way), fleet.output()
    fleet.broker(down=True)
    take()
    time.sleep(down_s)
    give()
    time.sleep(1.0)
    fleet.broker(down=False)
