"""The service that the process tests of a broker run, kill and start again, in a folder of its own."""

from __future__ import annotations

import json
from pathlib import Path

from tests.processes import mqsdk

APP = """
from mqsdk import App, Backoff, Message, RetryPolicy
app = App()

@app.consumer("orders", group="billing", ordered=True, retry=RetryPolicy(attempts=2, backoff=Backoff("10ms")))
def bill(order: dict, message: Message) -> None:
    if order.get("bad"):
        raise ValueError("cannot be billed")
    print("billed %s attempt %s" % (order["id"], message.attempt), flush=True)  # one write: the log shares the pipe
    if order.get("stuck"):
        import time
        time.sleep(600)
"""


def opened_in(folder: Path, config: str) -> None:
    """Put the application and its configuration there."""
    (folder / "shop.py").write_text(APP)
    (folder / "mqsdk.yaml").write_text(config)
    (folder / "mqsdk.yaml").chmod(0o600)


def publish(folder: Path, **order: object) -> None:
    done = mqsdk(folder, "publish", "orders", json.dumps(order), "--key", "k")
    assert done.returncode == 0, done.stderr
