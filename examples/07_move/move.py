"""A topic under load goes from an embedded log to Redis and back, and at last there for good: two publishers, two consumers, one killed.

    python move.py [SECONDS]            how long each stage lasts at least, 3 by default

Everything is in this folder. With `redis-server` in the path the new cluster is a Redis of the script's own, else a second embedded log.
At the end it is checked that nothing was lost and each key stayed in order, and `move.png` shows messages per second by cluster with the
stages marked (with matplotlib installed; else the same in text).
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from picture import Handled, draw

MQSDK = (sys.executable, "-m", "mqsdk.cli")
HERE = Path()
PATIENCE_S = 60.0


@contextlib.contextmanager
def new_cluster() -> Iterator[str]:
    """What stands behind `new:` in the configuration."""
    program = shutil.which("redis-server")
    if program is None:
        yield "{backend: log, path: ./.mqsdk/new}"
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"]
    server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        until(lambda: answers(port))
        yield f'{{backend: redis, servers: ["127.0.0.1:{port}"], lease: 3s}}'
    finally:
        server.terminate()
        server.wait()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def until(condition: object) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            raise SystemExit("not in time")
        time.sleep(0.05)


def write(new: str) -> None:
    file = HERE / "mqsdk.yaml"
    file.write_text(f"""\
app: shop
clusters:
  old: {{backend: log, path: ./.mqsdk/old, lease: 3s}}
  new: {new}
routes:
  - {{topics: [orders], cluster: old, move: {{to: new, fence: 2s}}}}
  - {{topics: ["*"], cluster: old}}
topics: {{orders: {{partitions: 4, groups: [billing]}}}}
reload: {{every: 200ms, settle: 1s}}
""")
    file.chmod(0o600)


def mqsdk(*words: str) -> None:
    print("$ mqsdk", *words, flush=True)
    done = subprocess.run([*MQSDK, *words, "--yes", "--timeout", f"{PATIENCE_S:g}s"], capture_output=True, text=True)
    print("\n".join(line for line in done.stderr.splitlines() if "->" in line or "ended" in line or done.returncode), flush=True)
    if done.returncode:
        raise SystemExit(done.returncode)


def start(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def consumer() -> subprocess.Popen[bytes]:
    return start(*MQSDK, "run", "shop:app")


STEPS = (
    (("advance", "orders"), "read_both"),
    (("advance", "orders"), "switch_write"),
    (("rollback", "orders", "--to-stage", "read_back"), "read_back"),
    (("rollback", "orders", "--to-stage", "switch_back"), "switch_back"),
    (("rollback", "orders"), "source"),
    (("advance", "orders", "--auto"), "target"),
)


def main(seconds: float) -> None:
    with new_cluster() as new:
        write(new)
        consumers = [consumer(), consumer()]
        publishers = [start(sys.executable, "shop.py", str(number)) for number in range(2)]
        try:
            until(handled)
            stages = [(time.time(), "source")]
            for words, stage in STEPS:
                time.sleep(seconds)
                mqsdk("move", *words)
                stages.append((time.time(), stage))
                if stage == "switch_write":
                    print("kill -9 of one consumer", flush=True)
                    consumers[0].kill()
                    consumers[0].wait()
                    consumers[0] = consumer()
            time.sleep(seconds)
            mqsdk("move", "advance", "orders")
            stop(publishers)
            until(lambda: len({(one.key, one.number) for one in handled()}) == sum(map(len, sent().values())))
        finally:
            stop([*publishers, *consumers])
    check()
    draw(handled(), stages)


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


def sent() -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for path in HERE.glob("sent-*.txt"):
        for line in path.read_text().splitlines():
            key, number = line.split()
            found[key].append(int(number))
    return found


def handled() -> list[Handled]:
    lines = [
        line.split() for path in HERE.glob("handled-*.txt") for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")
    ]
    return sorted(Handled(float(at), cluster, key, int(number)) for at, cluster, key, number in lines)


def check() -> None:
    """Every message, in the order of its key; a repeat only of what the killed consumer had in its hands."""
    first: dict[str, list[int]] = defaultdict(list)
    repeats = 0
    for one in handled():
        if one.number in first[one.key]:
            repeats += 1
        else:
            first[one.key].append(one.number)
    if first != sent():
        raise SystemExit("a message was lost or out of order")
    print(f"{sum(map(len, first.values())):,} messages, none lost, each key in order, {repeats} repeated by the kill", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 3.0)
