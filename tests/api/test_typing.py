"""What a type checker tells users of the public names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

GOOD = """
from dataclasses import dataclass
from mqsdk import App, Batch, Message, Outgoing, Receipt, RetryPolicy, Router

app, router = App(), Router()

@dataclass
class Order:
    id: int

@app.consumer("orders", group="billing", ordered=True, retry=RetryPolicy(attempts=3), timeout="2m")
def bill(order: Order, message: Message) -> None:
    receipt: Receipt = app.publish("invoices", order, key=message.key, id=f"{message.id}/invoice")

@router.consumer("orders", group="search", batch=Batch(size=10, wait="50ms"))
async def index(orders: list[Order]) -> None:
    receipts: list[Receipt] = await app.publish_many_async("indexed", [Outgoing(order, key=order.id) for order in orders])

@app.consumer("orders", group="audit")
def audit(message: Message[Order]) -> None:
    identity: int = message.payload.id

bill(Order(1), None)  # type: ignore[arg-type]  # the function is returned unchanged, signature and all
"""

BAD = """
from mqsdk import App
app = App()
app.consumer("orders")
app.consumer("orders", group="billing", conncurrency=3)
app.consumer("orders", group="billing", concurrency="3")
app.publish("orders", b"x", key=1.5)
"""


def check(path: Path, text: str) -> list[str]:
    path.write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(ROOT / ".mypy_cache"), str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    return [line for line in done.stdout.splitlines() if path.name in line and ": error:" in line]


def test_the_forms_of_the_contract_pass_a_strict_checker(tmp_path: Path) -> None:
    assert check(tmp_path / "good.py", GOOD) == []


def test_wrong_arguments_are_found_without_running_anything(tmp_path: Path) -> None:
    errors = check(tmp_path / "bad.py", BAD)
    assert len(errors) == 4
    assert 'Missing named argument "group"' in errors[0]
