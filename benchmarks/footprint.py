"""What a process costs: import, start of `mqsdk run` to the first message in its handler, memory then, processor time when idle."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from harness import Case, Metric

STARTS, IMPORTS, IDLE_S = 7, 9, 10.0
HELLO = """
import time
from mqsdk import App
app = App()
@app.consumer("hello", group="printer")
def greet(name: str) -> None:
    print(time.monotonic(), flush=True)
"""
MQSDK = [sys.executable, "-m", "mqsdk.cli"]


def started() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*MQSDK, "run", "hello:app"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def first_line(process: subprocess.Popen[str]) -> float:
    """The moment that the handler printed; log lines beside it are passed over."""
    assert process.stdout is not None
    for line in process.stdout:
        try:
            return float(line)
        except ValueError:
            continue
    raise RuntimeError("mqsdk run ended before its first message")


def published() -> None:
    subprocess.run([*MQSDK, "publish", "hello", "world"], check=True, stdout=subprocess.DEVNULL)


def ended(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait(30)
    assert process.stdout is not None
    process.stdout.close()


def memory_mb(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1000


def start() -> dict[str, float]:
    Path("hello.py").write_text(HELLO)
    times, pss, rss = [], [], []
    for _ in range(STARTS):
        published()
        began = time.monotonic()
        process = started()
        times.append((first_line(process) - began) * 1000)
        pss.append(memory_mb(process.pid, "Pss"))
        rss.append(memory_mb(process.pid, "Rss"))
        ended(process)
    return {"run_first_message": statistics.median(times), "run_pss": statistics.median(pss), "run_rss": statistics.median(rss)}


def imported() -> dict[str, float]:
    script = "import time; began = time.perf_counter(); import mqsdk; mqsdk.App; print(time.perf_counter() - began)"
    runs = [subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout for _ in range(IMPORTS)]
    return {"import_mqsdk": statistics.median(float(run) for run in runs) * 1000}


def cpu_s(pid: int) -> float:
    """Processor time of all threads, in the scheduler's nanoseconds."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def idle() -> dict[str, float]:
    Path("hello.py").write_text(HELLO)
    published()
    process = started()
    first_line(process)
    time.sleep(1.0)
    before, began = cpu_s(process.pid), time.monotonic()
    time.sleep(IDLE_S)
    used, seconds = cpu_s(process.pid) - before, time.monotonic() - began
    ended(process)
    return {"idle_cpu": 100 * used / seconds}


CASES = (
    Case(
        "start",
        start,
        (Metric("run_first_message", "ms", 200, at_most=True), Metric("run_pss", "MB", 45, at_most=True), Metric("run_rss", "MB", None)),
    ),
    Case("import", imported, (Metric("import_mqsdk", "ms", 60, at_most=True),)),
    Case("idle", idle, (Metric("idle_cpu", "%", 0.5, at_most=True),)),
)
