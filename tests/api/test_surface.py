"""What `import mqsdk` gives and costs."""

import os
import subprocess
import sys

import mqsdk

EXPECTED = (
    "App Router Message Receipt Outgoing Batch RetryPolicy Backoff Retry Reject BatchFailure Settings Secret current_message MqError "
    "DeclarationError ConfigError CapabilityError StateError PublishError PublishRejected PublishUnknown InvalidMessage"
)


def test_the_exported_names_are_exactly_those_of_the_contract() -> None:
    assert sorted(mqsdk.__all__) == sorted(EXPECTED.split())
    assert len(mqsdk.__all__) == len(set(mqsdk.__all__)) == 23


def test_every_exported_name_exists_and_settings_is_made_on_first_use() -> None:
    assert all(getattr(mqsdk, name) is not None for name in mqsdk.__all__)
    assert mqsdk.Settings.__name__ == "Settings"


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(mqsdk, "Celery")


IMPORT = """
import sys, time
before = time.perf_counter()
import mqsdk
spent = time.perf_counter() - before
heavy = [name for name in ("pydantic", "pydantic_settings", "asyncio", "pluggy", "rich", "click", "msgspec", "yaml") if name in sys.modules]
print(spent * 1000, ",".join(heavy))
"""


def test_importing_is_cheap_and_brings_nothing_heavy_along() -> None:
    best = 1000.0
    for _ in range(3):  # the best of three: other processes share the machine
        done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True, timeout=60)
        spent, heavy = done.stdout.rstrip("\n").split(" ")
        assert heavy == ""
        best = min(best, float(spent))
    assert best < 180, "60 ms is the bound of the product, a test waits three times as long"


def test_declaring_touches_nothing() -> None:
    code = """
import sys
sys.addaudithook(lambda event, args: event in ("open", "socket.__new__", "os.putenv") and print(event, args))
""".strip()
    program = f"""
from mqsdk import App, Router
{code}
app, router = App(), Router()
@app.consumer("orders", group="billing", retry=3, timeout="2m")
def bill(order: dict) -> None: ...
@router.consumer("orders", group="search", batch=10)
async def index(orders: list[str]) -> None: ...
app.include_router(router)
assert app.state == "NEW"
print("quiet")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "quiet\n"


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert mqsdk.__version__ == version("mqsdk")


def test_the_command_line_is_a_module_too() -> None:
    done = subprocess.run([sys.executable, "-m", "mqsdk", "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split()[-1] == mqsdk.__version__


def test_help_shows_no_variable_of_the_process() -> None:
    """A default of `os.environ` would print the environment, with its secrets."""
    code = "import mqsdk, pydoc, mqsdk.config.load; print(pydoc.render_doc(mqsdk.Settings), pydoc.render_doc(mqsdk.config.load))"
    environ = {**os.environ, "SOME_PASSWORD": "hunter2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=environ)
    assert "load(" in done.stdout
    assert "hunter2" not in done.stdout
