"""A publishing process of the kill test: `publisher.py NUMBER [COUNT]`; numbers its messages per key and journals each publish.

A restarted process goes on behind the highest number it finds in the journals of its predecessors, so a key's numbers keep rising.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path

from mqsdk import App, PublishRejected, PublishUnknown
from mqsdk.testing.journal import Journal, Kind, read_journal

KEYS = 12
PACE_S = 0.002  # slower than the consumers, so that the run drains soon after its last kill


def main(number: int, count: int) -> None:
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _: stopping.append(signum))
    keys = [f"p{number}-{index}" for index in range(KEYS)]
    earlier = [entry for path in Path().glob(f"publisher-{number}-*.journal") for entry in read_journal(path)]
    invoked = [entry for entry in earlier if entry.kind is Kind.SEND_INVOKE]
    last = {key: max((entry.sequence for entry in invoked if entry.key == key), default=-1) for key in keys}
    journal = Journal.in_folder(".", f"publisher-{number}")
    dice = random.Random(number)
    with App() as app:
        while count > 0 and not stopping:
            count -= 1
            key = dice.choice(keys)
            last[key] += 1
            publish(app, journal, key, last[key])
            time.sleep(PACE_S)


def publish(app: App, journal: Journal, key: str, sequence: int) -> None:
    message_id = f"{key}.{sequence}"
    journal.send_invoke(message_id, key, sequence)
    try:
        app.publish("work", {"n": sequence}, key=key, id=message_id)
    except PublishRejected:
        journal.send_rejected(message_id)
    except PublishUnknown:
        journal.send_unknown(message_id)
    else:
        journal.send_stored(message_id)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10**9)
