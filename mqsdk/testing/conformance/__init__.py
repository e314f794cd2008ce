"""The suite that every backend passes: scenarios driven straight at the seam.

    from mqsdk.testing.conformance import BackendConformance

    class TestNats(BackendConformance):
        def make_backend(self): return NatsBackend("nats", {"servers": ["127.0.0.1:4222"]})
        def restart_broker(self): ...            # optional, as every other hook of `Stage`

Needs pytest. One class per configuration of a backend; the broker must be there, a backend that cannot be reached is a failure.
"""

from mqsdk.testing.conformance.admin import AdminScenarios
from mqsdk.testing.conformance.broadcast import BroadcastScenarios
from mqsdk.testing.conformance.close import CloseScenarios
from mqsdk.testing.conformance.companions import CompanionScenarios
from mqsdk.testing.conformance.delay import DelayScenarios
from mqsdk.testing.conformance.delivery import DeliveryScenarios
from mqsdk.testing.conformance.gaps import GapScenarios
from mqsdk.testing.conformance.groups import GroupScenarios
from mqsdk.testing.conformance.order import OrderScenarios
from mqsdk.testing.conformance.publish import PublishScenarios
from mqsdk.testing.conformance.settle import SettleScenarios

__all__ = ["BackendConformance"]


class BackendConformance(
    PublishScenarios,
    DeliveryScenarios,
    OrderScenarios,
    SettleScenarios,
    GroupScenarios,
    CompanionScenarios,
    DelayScenarios,
    BroadcastScenarios,
    AdminScenarios,
    GapScenarios,
    CloseScenarios,
):
    """All scenarios. Implement `make_backend`; see `mqsdk.testing.conformance.base.Stage` for the optional hooks."""
