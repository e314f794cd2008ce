"""The consuming side of the kill test: `mqsdk run consumer:app`. A handler that fails now and then and journals what it does.

It is ordered unless the variable WORK is `unordered`.
"""

from __future__ import annotations

import os
import random
import time
from functools import cache
from typing import Any

from mqsdk import App, Backoff, Message, RetryPolicy
from mqsdk.events import DeadLettered, Event
from mqsdk.testing.journal import Journal

app = App()


@cache
def journal() -> Journal:
    return Journal.in_folder(".", "consumer")


@app.observe
def note(event: Event) -> None:
    if isinstance(event, DeadLettered):
        journal().dead_letter(event.message_id, group=event.group)


TIMEOUT_S = 300.0
OTHER = 1000
PLACES = ("old", "new", "redis", "rabbitmq", "kafka")
RETRY = RetryPolicy(attempts=50, backoff=Backoff("5ms", max="50ms"))


def began(message: Message[Any]) -> float:
    """When the call passed the SDK's start gate; a freeze may lie between that and now.

    `remaining` counts down from the gate. It is read first: stopped between the two readings, a call looks late, which the checker flags.
    """
    remaining = message.remaining
    return time.monotonic() - (TIMEOUT_S - remaining)


@app.consumer("work", group="workers", ordered=os.environ.get("WORK") != "unordered", timeout=TIMEOUT_S, retry=RETRY)
def work(payload: dict[str, int], message: Message[Any]) -> None:
    moment = began(message)
    if message.cancelled:  # the partition is gone, and `remaining` with it: stop before anything is done
        raise ConnectionError("the partition was taken away")
    book = journal()
    call = {"group": message.group, "attempt": message.attempt, "epoch": message.epoch}
    # Epochs are a cluster's own: partition 0 of another cluster is another partition.
    partition = message.partition + OTHER * (PLACES.index(message.cluster) if message.cluster in PLACES else 0)
    book.start(message.id, key=message.key or "", partition=partition, moment=moment, **call)  # type: ignore[arg-type]
    fails = random.random() < 0.02
    book.end(message.id, ok=not fails, **call)  # type: ignore[arg-type]
    if fails:
        raise ConnectionError("one in fifty fails")
