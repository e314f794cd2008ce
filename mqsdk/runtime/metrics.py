"""The numbers of a process for Prometheus, read when they are asked for. Registry and text are prometheus-client's (extra `metrics`).

Labels are topic, group and cluster: never a key, an id or the text of an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from mqsdk.config.requirement import sdk_version
from mqsdk.core.durations import BOUNDS_S
from mqsdk.core.view import MachineView
from mqsdk.errors import MissingExtra
from mqsdk.runtime.lags import Lags

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from mqsdk.runtime.supervisor import Supervisor

CONSUMER = ("topic", "group", "cluster")
Labels = Sequence[str]


def scraper(supervisor: Supervisor, lags: Lags) -> Callable[[], tuple[str, bytes]]:
    """A function that gives (content type, text) of all metrics. Raises MissingExtra without prometheus-client."""
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
        from prometheus_client.registry import Collector
    except ImportError as error:
        raise MissingExtra("metrics", where="observability.listen, /metrics") from error

    class Numbers(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from process_metrics(supervisor)
            yield from publish_metrics(supervisor)
            yield from consumer_metrics(supervisor, lags)

    registry = CollectorRegistry()
    registry.register(Numbers())
    ProcessCollector(registry=registry)
    return lambda: (CONTENT_TYPE_LATEST, generate_latest(registry))


def process_metrics(supervisor: Supervisor) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    now = {"version": sdk_version(), "config": str(supervisor.configuration.version)}
    yield InfoMetricFamily("mqsdk", "Version of mqsdk and number of the configuration in force.", value=now)
    reloads = CounterMetricFamily("mqsdk_reloads", "Reloads of the configuration.", labels=["outcome"])
    for outcome, count in supervisor.tally.reloaded():
        reloads.add_metric([outcome], count)
    yield reloads
    links = GaugeMetricFamily("mqsdk_link_up", "1 while the cluster is connected, as last heard.", labels=["cluster"])
    heard = supervisor.tally.linked()
    for cluster in supervisor.clusters.opened():
        links.add_metric([cluster], float(heard.get(cluster, True)))
    yield links


def publish_metrics(supervisor: Supervisor) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    published = CounterMetricFamily("mqsdk_published", "Publishes by how they ended.", labels=["topic", "cluster", "outcome"])
    for cluster, topic, outcome, count in supervisor.published():
        published.add_metric([topic, cluster, outcome], count)
    yield published


def consumer_metrics(supervisor: Supervisor, lags: Lags) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    handled = CounterMetricFamily("mqsdk_handled", "Attempts of handlers by what followed.", labels=[*CONSUMER, "outcome"])
    seconds = HistogramMetricFamily("mqsdk_handler_seconds", "Time of one call of the handler.", labels=CONSUMER)
    in_flight = GaugeMetricFamily("mqsdk_in_flight", "Messages received and not finished.", labels=CONSUMER)
    lag_messages = GaugeMetricFamily("mqsdk_lag_messages", "Messages of the group that are not settled.", labels=CONSUMER)
    lag_seconds = GaugeMetricFamily("mqsdk_lag_seconds", "Age of the oldest message that is not settled.", labels=CONSUMER)
    stalled = GaugeMetricFamily("mqsdk_stalled_seconds", "How long the consumer has had work and settled nothing.", labels=CONSUMER)
    copies = CounterMetricFamily("mqsdk_duplicates", "Messages that came again and were not handled again.", labels=[*CONSUMER, "cause"])
    gaps = CounterMetricFamily("mqsdk_gap_messages", "Messages that were gone before they were read.", labels=CONSUMER)
    for declared, loop in list(supervisor.loops):
        labels, view = [declared.topic, declared.group, loop.spec.cluster], loop.view()
        for outcome, count in outcomes(view):
            handled.add_metric([*labels, outcome], count)
        seconds.add_metric(labels, *histogram(view))
        in_flight.add_metric(labels, view.records)
        stalled.add_metric(labels, supervisor.guard.still_for(loop))
        gaps.add_metric(labels, view.gap)
        copies.add_metric([*labels, "publish"], view.repeated)
        copies.add_metric([*labels, "shadow"], view.shadows)
        copies.add_metric([*labels, "delivery"], view.redelivered)
        copies.add_metric([*labels, "inbox"], loop.inbox_repeats)
        lag = lags.get(declared.topic, declared.group)
        if lag is not None:
            lag_messages.add_metric(labels, lag.messages)
            lag_seconds.add_metric(labels, lag.seconds)
    dead = CounterMetricFamily("mqsdk_dead_letters", "Messages that were dead-lettered.", labels=[*CONSUMER, "reason"])
    for names, count in supervisor.tally.dead_lettered():
        dead.add_metric(names, count)
    yield from (handled, seconds, in_flight, lag_messages, lag_seconds, stalled, gaps, copies, dead)


def outcomes(view: MachineView) -> list[tuple[str, int]]:
    """Every attempt that ended is in one of them."""
    return [
        ("handled", view.handled), ("retried", view.retried), ("dead_lettered", view.dead_lettered), ("dropped", view.dropped),
    ]  # fmt: skip


def histogram(view: MachineView) -> tuple[list[tuple[str, float]], float]:
    """Buckets as Prometheus counts them, each with those below it; and the sum of seconds."""
    bounds = [*(str(bound) for bound in BOUNDS_S), "+Inf"]
    return list(zip(bounds, map(float, accumulate(view.durations)), strict=True)), view.duration_sum_s
