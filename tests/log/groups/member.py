"""A consumer in a process of its own: `member.py ROOT TOPIC GROUP LEASE_S HOLD_S`; its journal is JSON lines on stdout.

Settles every batch, after holding it for HOLD_S. SIGTERM, or the end of stdin: hands everything back and leaves.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import Any

from mqsdk_log import mqsdk_backend

from mqsdk.spi import Assigned, Batch, Gap, Lost, Partition, Progress, Renewed, Revoking, Settled, Subscription


def say(what: str, partition: Partition, epoch: int, **more: Any) -> None:
    print(json.dumps({"what": what, "at": time.monotonic(), "partition": partition.number, "epoch": epoch, **more}), flush=True)


def main(root: str, topic: str, group: str, lease_s: str, hold_s: str) -> None:
    backend = mqsdk_backend(kind="log", name="local", options={"path": root, "durability": "none"})
    assert backend is not None
    backend.open(time.monotonic() + 10)
    consumer = backend.consumer(Subscription((topic,), group, lease_s=float(lease_s)))
    leaving = False
    watermarks: dict[Partition, int] = {}

    def leave(*_: object) -> None:
        nonlocal leaving
        leaving = True
        consumer.wake()

    signal.signal(signal.SIGTERM, leave)
    while not leaving:
        for event in consumer.poll(100, 1.0):
            match event:
                case Assigned(partition, epoch, position):
                    watermarks[partition] = position
                    consumer.credit(partition, 1 << 30, 1 << 30)
                    say("assigned", partition, epoch, position=position, clean=event.clean)
                case Batch(partition, epoch, records):
                    say("handled", partition, epoch, values=[int(record.value) for record in records], position=records[0].position)
                    if float(hold_s):
                        time.sleep(float(hold_s))
                    watermarks[partition] = records[-1].position + 1
                    consumer.settle(Progress(partition, epoch, watermarks[partition]))
                case Revoking(partition, epoch):
                    consumer.settle(Progress(partition, epoch, watermarks[partition], final=True))
                    say("handed_back", partition, epoch)
                case Lost(partition, epoch):
                    say("lost", partition, epoch)
                case Settled(partition, epoch, _, outcome) if outcome != "stored":
                    say(outcome, partition, epoch)
                case Gap(partition, epoch, start, stop):
                    say("gap", partition, epoch, start=start, stop=stop)
                case Renewed():
                    continue
    backend.close(time.monotonic() + 10)
    say("closed", Partition(topic, -1), 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
