"""What every test stands on: a state folder of its own, so that no control socket is made in the home of who runs the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("MQSDK_STATE")
    os.environ["MQSDK_STATE"] = str(tmp_path_factory.mktemp("state"))
    yield
    if before is None:
        del os.environ["MQSDK_STATE"]
    else:
        os.environ["MQSDK_STATE"] = before
