"""A no-op handler over a backlog of 120-byte payloads: the whole SDK on the embedded log, one process, default settings."""

from __future__ import annotations

from harness import PAYLOAD, Case, Counter, Metric, rate, timed

SINGLE, BATCHED, RAW = 200_000, 600_000, 600_000


def filled(count: int, topic: str = "bench") -> None:
    from mqsdk import App

    with App() as app:
        items = [PAYLOAD] * 1000
        for _ in range(count // 1000):
            app.publish_many(topic, items)
        if rest := count % 1000:
            app.publish_many(topic, items[:rest])


def handled(topic: str, group: str, count: int) -> float:
    """The first `count` messages of a topic by a new group, a second."""
    from mqsdk import App

    counter = Counter()
    tick = counter.tick
    app = App()

    @app.consumer(topic, group=group)
    def noop(payload: bytes) -> None:
        tick()

    with app:
        app.start()
        return rate(lambda: counter.value, count)


def single() -> dict[str, float]:
    filled(SINGLE)
    return {"handler": handled("bench", "noop", SINGLE)}


def batched() -> dict[str, float]:
    from mqsdk import App

    filled(BATCHED)
    sizes: list[int] = []
    app = App()

    @app.consumer("bench", group="noop", batch=1000)
    def noop(payloads: list[bytes]) -> None:
        sizes.append(len(payloads))

    with app:
        app.start()
        return {"handler_batch": rate(lambda: sum(sizes), BATCHED)}


def raw() -> dict[str, float]:
    """What Python reaches that reads fixed-size records from a file and calls a function for each."""
    with open("raw", "wb") as file:
        file.write(PAYLOAD * RAW)
    counter = Counter()

    def noop(payload: bytes) -> None:
        counter.tick()

    def work() -> None:
        size = len(PAYLOAD)
        with open("raw", "rb", buffering=1 << 20) as file:
            while payload := file.read(size):
                noop(payload)

    return {"raw_read": timed(work, RAW)}


CASES = (
    Case("handler", single, (Metric("handler", "/s", 60_000, over=("raw_read", "huey_handle", "persist_queue_get_ack")),)),
    Case("handler-batch", batched, (Metric("handler_batch", "/s", 300_000, over=("raw_read",)),)),
    Case("raw-read", raw, (Metric("raw_read", "/s"),)),
)
