"""`observability` of real processes: the pages of each one, and a log level that follows the file."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import time
from pathlib import Path

from tests.brokers.ports import free_port
from tests.live.keys import shows
from tests.processes import MQSDK, PATIENCE_S, Running, mqsdk

CODE = """
from mqsdk import App
app = App()

@app.consumer("orders", group="billing", retry=1)
def bill(order: str) -> None:
    if order == "bad":
        raise ValueError
    print("handled", order, flush=True)
"""


def configure(folder: Path, observability: str) -> None:
    file = folder / "mqsdk.yaml"
    file.write_text(f"version: 1\nreload: {{watch: false}}\nobservability: {{{observability}}}\n")
    file.chmod(0o600)


def fetch(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("GET", path)
    body = connection.getresponse().read().decode()
    connection.close()
    return body


def test_each_of_several_processes_has_pages_on_a_port_of_its_own(folder: Path) -> None:
    (folder / "shop.py").write_text(CODE)
    port = free_port()
    configure(folder, f"listen: '127.0.0.1:{port}'")
    with Running([*MQSDK, "run", "shop:app", "--processes", "2"], folder) as process:
        end = time.monotonic() + PATIENCE_S
        ports: set[str] = set()
        while len(ports) < 2:
            assert time.monotonic() < end, process.lines
            ports = {match[1] for line in process.lines if (match := re.search(r"pages at http://127.0.0.1:(\d+)/live", line))}
        assert str(port) in ports
        assert len({json.loads(fetch(int(one), "/consumers"))["pid"] for one in ports}) == 2
        assert mqsdk(folder, "publish", "orders", "first").returncode == 0
        process.wait_for("handled first")
        handled = 'mqsdk_handled_total{cluster="local",group="billing",outcome="handled",topic="orders"} '
        while sum(float(fetch(int(one), "/metrics").split(handled)[1].split("\n")[0]) for one in ports) != 1.0:
            assert time.monotonic() < end
        assert process.stop() == 0


@shows("observability.log_level")
def test_the_log_level_follows_the_file(folder: Path) -> None:
    (folder / "shop.py").write_text(CODE)
    configure(folder, "log_level: INFO")
    with Running([*MQSDK, "run", "shop:app"], folder) as process:
        process.wait_for("running")
        configure(folder, "log_level: DEBUG")
        os.kill(process.pid, signal.SIGHUP)
        process.wait_for("observability.log_level: INFO -> DEBUG")
        assert not [line for line in process.lines if "DEBUG mqsdk" in line]
        assert mqsdk(folder, "publish", "orders", "bad").returncode == 0
        process.wait_for("DEBUG mqsdk.handler: handler of orders/billing failed with")
        configure(folder, "log_level: WARNING")
        os.kill(process.pid, signal.SIGHUP)
        process.wait_for("observability.log_level: DEBUG -> WARNING")
        assert process.stop() == 0
        assert "stopping after SIGTERM" not in "\n".join(process.lines)  # an INFO line
