"""`make demo`, or `python demo.py [FOLDER]`: a month of flights through three groups in two processes, one of them killed in the middle.

With MQSDK_ENV=redis or rabbitmq the same on a server of this machine: the profile of that name in mqsdk.yaml, nothing else.
Ends by itself with a table. Exit code 0 when nothing was lost, nothing ran out of order, and every repeat is explained by the kill.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import summary
from screen import Screen

from mqsdk import App, Outgoing
from mqsdk.testing.journal import Journal

HERE = Path(__file__).resolve().parent
RUN = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else HERE.parents[1] / ".make" / "demo"
TOPIC, GROUPS = "flights", ("rotations", "delays", "alerts")
MQSDK = [sys.executable, "-m", "mqsdk.cli"]
CHUNK = 250
DEADLINE_S = 50.0


class Consumers:
    """The processes of `mqsdk run app:app`; each writes its log to consumer-<n>.log."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.kills = 0

    def start(self, number: int) -> None:
        with Path(f"consumer-{number}.log").open("ab") as log:
            self._processes[number] = subprocess.Popen([*MQSDK, "run", "app:app"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill_and_restart(self, number: int) -> None:
        victim = self._processes[number]
        self._journal.fault("kill", on=True, pid=victim.pid)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        self._journal.fault("kill", on=False, pid=victim.pid)
        self.kills += 1
        self.start(number)

    def check(self) -> None:
        for number, process in self._processes.items():
            if process.poll() is not None:
                raise SystemExit(
                    f"consumer {number} ended by itself with exit code {process.returncode}; see {RUN / f'consumer-{number}.log'}"
                )

    def stop(self) -> list[int]:
        """SIGTERM to all; their exit codes. 0 = everything that ran was settled and handed back."""
        for process in self._processes.values():
            process.terminate()
        try:
            return [process.wait(timeout=20) for process in self._processes.values()]
        except subprocess.TimeoutExpired:
            for process in self._processes.values():
                process.kill()
            raise


class Publisher(threading.Thread):
    """Publishes the flights in order, as fast as the log takes them."""

    def __init__(self, app: App, flights: list[dict[str, Any]], journal: Journal) -> None:
        super().__init__(daemon=True)
        self._app, self._flights, self._journal = app, flights, journal
        self.published = 0
        self.seconds = 0.0
        self.error: Exception | None = None

    def run(self) -> None:
        began = time.monotonic()
        try:
            for first in range(0, len(self._flights), CHUNK):
                self._publish(self._flights[first : first + CHUNK])
        except Exception as error:
            self.error = error  # raised where the main thread waits
        self.seconds = time.monotonic() - began

    def _publish(self, flights: list[dict[str, Any]]) -> None:
        items = [Outgoing(flight, key=flight["tail"], id=f"{flight['tail']}-{flight['seq']}") for flight in flights]
        for item in items:
            self._journal.send_invoke(str(item.id), str(item.key), item.payload["seq"])
        for receipt in self._app.publish_many(TOPIC, items):
            self._journal.send_stored(receipt.id)
        self.published += len(flights)


def main() -> int:
    began = time.monotonic()
    prepare()
    flights = read_flights()
    journal = Journal.in_folder("journals", "demo")
    app, consumers = App(), Consumers(journal)
    with app, Screen(len(flights), GROUPS) as screen, running(consumers):
        publisher = Publisher(app, flights, journal)
        published_from = time.monotonic()
        publisher.start()
        watch(app, publisher, consumers, screen, len(flights))
        drained_s = time.monotonic() - published_from
        for message_id in dead_letters():
            journal.dead_letter(message_id, group="alerts")
        exits = consumers.stop()
    print("judging the journals", flush=True)
    result = summary.judge_run(Path("journals"), GROUPS, ordered=("rotations",))
    summary.show(result, published=publisher.published, publish_s=publisher.seconds, drained_s=drained_s, exits=exits)
    summary.what_next(RUN, began)
    return 0 if result.ok and not any(exits) else 1


def prepare() -> None:
    """A fresh folder that holds the application, its configuration and, from now on, everything that the run leaves behind."""
    shutil.rmtree(RUN, ignore_errors=True)
    for folder in ("journals", "results"):
        (RUN / folder).mkdir(parents=True)
    for name in ("app.py", "bookkeeping.py", "mqsdk.yaml"):
        shutil.copy(HERE / name, RUN)
    (RUN / "mqsdk.yaml").chmod(0o600)  # a configuration that others may write is refused
    os.chdir(RUN)
    if os.environ.get("MQSDK_ENV"):
        forget_earlier_runs()


def forget_earlier_runs() -> None:
    """On a broker that outlives the folder the topic of an earlier run is deleted, with its groups and dead letters."""
    done = subprocess.run([*MQSDK, "topics", "delete", TOPIC, "--yes"], capture_output=True, text=True)
    if done.returncode not in (0, 6):  # 6: there was none
        raise SystemExit(
            f"{done.stderr.strip()}\nThe demo needs a broker of its own to play with; `mqsdk doctor` in {RUN} says what is wrong."
        )


def read_flights() -> list[dict[str, Any]]:
    with gzip.open(HERE / "flights-2013-01.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


@contextmanager
def running(consumers: Consumers) -> Iterator[None]:
    """Two consumer processes, ended whatever happens."""
    consumers.start(1)
    consumers.start(2)
    try:
        yield
    except BaseException:
        consumers.stop()
        raise


def watch(app: App, publisher: Publisher, consumers: Consumers, screen: Screen, total: int) -> None:
    """Until every group has handled everything; kills one consumer when `rotations` is half-way."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        published = publisher.published
        handled = {group: max(0, published - app.lag(TOPIC, group).messages) for group in GROUPS} if published else dict.fromkeys(GROUPS, 0)
        screen.update(published, handled)
        if publisher.error is not None:
            raise publisher.error
        if not consumers.kills and handled["rotations"] > total / 2:
            screen.say("kill -9 of consumer 2, and it is started again")
            consumers.kill_and_restart(2)
        if published == total and all(count == total for count in handled.values()):
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"not drained within {DEADLINE_S:.0f} s: handled {handled} of {total}; see the logs in {RUN}")
        consumers.check()
        time.sleep(0.05 if consumers.kills else 0.01)  # closer looks until the kill, so that it comes in the middle


def dead_letters() -> list[str]:
    """Ids of the dead letters of `alerts`, as the command line lists them."""
    listed = subprocess.run(
        [*MQSDK, "dlq", "list", TOPIC, "alerts", "--limit", "1000", "--json"], check=True, capture_output=True, text=True
    )
    return [json.loads(line)["id"] for line in listed.stdout.splitlines()]


if __name__ == "__main__":
    sys.exit(main())
