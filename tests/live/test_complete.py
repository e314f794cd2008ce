"""No key of the model without a test that watches what a change of it does to a running process."""

from __future__ import annotations

from mqsdk.config.keys import Key, all_keys
from tests.cli import test_observability_processes
from tests.live import test_consumers, test_process, test_restart
from tests.live.keys import SHOWN
from tests.switch import test_proof, test_stages


def leaves(reload: str) -> set[str]:
    keys: list[Key] = [key for key in all_keys() if key.model is None and key.reload == reload]
    assert keys
    return {".".join(key.path) for key in keys}


def keys_with_a_test(*modules: object) -> set[str]:
    """Keys whose test is in one of these modules, where pytest finds it."""
    names = {name for module in modules for name in vars(module) if name.startswith("test_")}
    return {key for key, tests in SHOWN.items() if tests & names}


def test_every_live_key_has_a_test_that_watches_its_effect() -> None:
    assert keys_with_a_test(test_consumers, test_process, test_observability_processes, test_stages, test_proof) == leaves("live")


def test_every_restart_key_has_a_test_that_watches_the_refusal() -> None:
    assert keys_with_a_test(test_restart) == leaves("restart")
