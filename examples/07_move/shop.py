"""The service of this example. `mqsdk run shop:app` handles orders; `python shop.py NUMBER` publishes them.

Both write down what they do, a line each: what was published is in `sent-*`, what was handled, when and from which cluster in `handled-*`.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time

from mqsdk import App, Message

KEYS = 8
PACE_S = 0.005
app = App()
book = open(f"handled-{os.getpid()}.txt", "a", buffering=1)  # noqa: SIM115 - as long as the process


@app.consumer("orders", group="billing", ordered=True)
def bill(number: int, message: Message[int]) -> None:
    book.write(f"{time.time():.3f} {message.cluster} {message.key} {number}\n")


def publish(shop: int) -> None:
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _: stopping.append(signum))
    with App() as publisher, open(f"sent-{shop}.txt", "w") as sent:
        for number in itertools.count():
            if stopping:
                return
            key = f"{shop}-{number % KEYS}"
            publisher.publish("orders", number, key=key)
            sent.write(f"{key} {number}\n")
            time.sleep(PACE_S)


if __name__ == "__main__":
    publish(int(sys.argv[1]))
