"""`doctor`: connect to each cluster and say what holds there: version, latency, unsafe settings, what survives which failure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mqsdk.cli.exits import DONE, FOUND, UNREACHABLE
from mqsdk.cli.output import Column, printable
from mqsdk.cli.session import Command, Session, pass_session
from mqsdk.errors import AccessDenied, BackendError, MissingExtra, MqError, Unavailable, UnsafeBackend
from mqsdk.names import RESERVED_SUFFIXES
from mqsdk.spi import BackendHealth, Finding

if TYPE_CHECKING:
    from mqsdk.config.model import Cluster

_BAD = ("warn", "refuse")


@click.command(cls=Command)
@click.argument("cluster", required=False)
@pass_session
def doctor(session: Session, cluster: str | None) -> int:
    """Connect to CLUSTER, or to every configured one, and report what its settings mean.

    Exit code 0: nothing to worry about; 1: a finding of level warn or refuse that the cluster does not `accept`; 4: one cannot be reached.
    """
    clusters = session.clusters
    names = [clusters.cluster(cluster).name] if cluster else list(clusters.configuration.clusters)
    rows = [_examined(session, clusters.cluster(name)) for name in names]
    _show(session, rows)
    if any(finding["code"].endswith((".unreachable", ".denied")) for row in rows for finding in row["findings"]):
        return UNREACHABLE
    return DONE if all(row["ok"] for row in rows) else FOUND


def _examined(session: Session, cluster: Cluster) -> dict[str, Any]:
    from mqsdk.runtime.overview import emulated

    try:
        backend = session.backend(cluster.name)
        health = backend.health()
        health = health._replace(findings=(*health.findings, *emulated(backend.capabilities)))
    except BackendError as error:
        health = BackendHealth(ok=False, findings=(_refusal(error),))
    except MissingExtra as error:
        health = BackendHealth(ok=False, findings=(Finding("refuse", "missing_extra", error.what, error.fix),))
    left = [] if not health.ok else _left_behind(session, cluster)
    findings = [_finding(cluster, finding) for finding in (*health.findings, *left)]
    return {
        "name": cluster.name,
        "backend": cluster.backend,
        "ok": health.ok and not any(finding["level"] in _BAD and not finding["accepted"] for finding in findings),
        "version": health.version or None,
        "latency_ms": None if health.latency_ms is None else round(health.latency_ms, 2),
        "guarantee": health.guarantee or None,
        "findings": findings,
    }


def _left_behind(session: Session, cluster: Cluster) -> list[Finding]:
    """Messages that groups have not handled here, of topics whose route leads to another cluster."""
    from mqsdk.runtime.clusters import cluster_in
    from mqsdk.runtime.inspection import progress_of

    admin, found = session.backend(cluster.name).admin(), []
    try:
        for topic in [one.name for one in admin.topics() if not one.name.endswith(RESERVED_SUFFIXES)]:
            now = cluster_in(session.clusters.configuration, topic)
            for group in [] if now == cluster.name else [info.group for info in admin.groups(topic)]:
                messages = sum(one.messages + one.delayed for one in progress_of(admin, topic, group))
                if messages:
                    what = f"{messages:,} messages of {topic}/{group} are left here, and its route leads to {now or 'no cluster'}"
                    found.append(Finding("warn", "left_behind", what, "a process that follows a change of cluster reads them; `mqsdk ps`"))
    except MqError:
        return found  # it cannot show its topics or groups, or has gone away since
    return found


def _refusal(error: MqError) -> Finding:
    """What kept the cluster from being opened."""
    if isinstance(error, UnsafeBackend):
        return Finding("refuse", error.finding, error.what, error.fix)
    if isinstance(error, AccessDenied):
        return Finding("refuse", "denied", error.what, error.fix)
    return Finding("refuse", "unreachable" if isinstance(error, Unavailable) else "refused", error.what, error.fix)


def _finding(cluster: Cluster, finding: Finding) -> dict[str, Any]:
    from mqsdk.runtime.overview import code_of, is_accepted

    shown = {"level": finding.level, "code": code_of(cluster, finding), "what": finding.what, "fix": finding.fix}
    return {**shown, "accepted": is_accepted(cluster, finding)}


def _show(session: Session, rows: list[dict[str, Any]]) -> None:
    columns = (Column("name"), Column("backend"), Column("ok"), Column("version"), Column("latency_ms", figure=True, show=_milliseconds))
    session.out.show("clusters", rows, columns, "no clusters are configured")
    if session.out.json:
        return
    for row in rows:
        session.out.write("")
        session.out.write(f"{row['name']}: {printable(row['guarantee'] or 'what holds here is not known')}")
        for finding in row["findings"]:
            level = "accepted" if finding["accepted"] else finding["level"]
            what = "" if finding["what"] == row["guarantee"] else f": {printable(finding['what'])}"
            session.out.write(f"  {level:8} {finding['code']}{what}")
            if finding["fix"]:
                session.out.write(f"           fix: {printable(finding['fix'])}")


def _milliseconds(value: Any) -> str:
    return "-" if value is None else f"{value:.1f}"
