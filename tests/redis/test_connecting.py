"""Opening: what is wrong is said by class, with the cluster's name and a fix, after a bounded time; what is unsafe is refused."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mqsdk_redis.backend import RedisBackend
from mqsdk_redis.names import stream

from mqsdk.spi import (
    AccessDenied,
    BackendError,
    ConfigError,
    NewRecord,
    Partition,
    Rejected,
    Stored,
    Subscription,
    Unavailable,
    UnsafeBackend,
)
from mqsdk.testing.conformance.reader import PLENTY, Answers, Reader
from tests.brokers.impostor import listening
from tests.brokers.ports import free_port
from tests.brokers.redis import RedisServer
from tests.redis.stage import backend_at, backend_over

BOUND_S = 20.0
# The rights that docs/redis.md names.
RIGHTS = "~mq:* +@stream +@read +@write +@connection +@scripting +time -@dangerous"


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path, *getattr(request, "param", ()))
    yield started
    started.stop()


def refused(backend: RedisBackend, kind: type[BackendError], timeout_s: float = 5.0) -> BackendError:
    """The error of an open that fails; it names the cluster and a fix, and no secret."""
    began = time.monotonic()
    with pytest.raises(kind) as found:
        backend.open(began + timeout_s)
    assert type(found.value) is kind
    assert time.monotonic() - began < timeout_s + 3.0
    assert found.value.cluster == "shop"
    assert "shop" in found.value.where
    assert found.value.fix
    assert "secret" not in str(found.value)
    return found.value


def works(backend: RedisBackend) -> None:
    """A topic can be made, published to, with delay too, and consumed from, by a group and by an instance of a broadcast."""
    backend.open(time.monotonic() + BOUND_S)
    try:
        backend.admin().ensure_topic("t", 1)
        answers = Answers(BOUND_S)
        backend.producer(answers).publish([NewRecord(1, Partition("t", 0), None, b"v", "id", 0)], time.monotonic() + BOUND_S)
        assert isinstance(answers.of([1])[0], Stored)
        reader = Reader(backend.consumer(Subscription(("t",), "g")), BOUND_S, credit=PLENTY)
        assert [record.value for record in reader.take(1)] == [b"v"]
        instance = Reader(backend.consumer(Subscription(("t",), "all", broadcast=True)), BOUND_S, credit=PLENTY)
        later = NewRecord(2, Partition("t", 0), None, b"later", "id", 0, due_ms=time.time_ns() // 1_000_000 + 20)
        backend.producer(answers).publish([later], time.monotonic() + BOUND_S)
        for one in (reader, instance):
            assert [record.value for record in one.take(1)] == [b"later"]
            one.settle_all()
        assert backend.health().ok
    finally:
        backend.close(time.monotonic() + BOUND_S)


# --- who is there -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", [("--requirepass", "right")], indirect=True)
@pytest.mark.parametrize("auth", [{"password": "secret"}, {"user": "nobody", "password": "secret"}, None], ids=["password", "user", "none"])
def test_a_wrong_password_is_denied_at_once(server: RedisServer, auth: dict[str, str] | None) -> None:
    began = time.monotonic()
    refused(backend_over(server, auth=auth), AccessDenied)
    assert time.monotonic() - began < 2.0


@pytest.mark.parametrize("server", [("--requirepass", "right")], indirect=True)
def test_the_right_password_works(server: RedisServer) -> None:
    works(backend_over(server, auth={"password": "right"}))


def test_an_unknown_host_is_unavailable() -> None:
    refused(backend_at(["no-such-host.invalid:6379"]), Unavailable)


def test_a_port_where_nobody_listens_is_unavailable() -> None:
    error = refused(backend_at([f"127.0.0.1:{free_port()}"]), Unavailable)
    assert "Connection refused" in str(error)


def test_the_next_server_is_tried(server: RedisServer) -> None:
    works(backend_at([f"127.0.0.1:{free_port()}", server.address]))


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", None], ids=["web", "closes", "silent"])
def test_what_does_not_speak_the_protocol_is_unavailable(greeting: bytes | None) -> None:
    with listening(greeting) as port:
        refused(backend_at([f"127.0.0.1:{port}"]), Unavailable, timeout_s=1.0)


# --- encryption ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    program = shutil.which("openssl")
    assert program is not None, "openssl is not installed: apt-get install -y openssl"
    for name, subject in (("good", "IP:127.0.0.1"), ("other", "DNS:elsewhere.invalid")):
        subject_and_name = ["-subj", "/CN=test", "-addext", f"subjectAltName={subject}"]
        files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
        how: list[str] = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        subprocess.run([program, *how, *subject_and_name, *files], check=True, capture_output=True)
    return folder


@contextmanager
def encrypted(folder: Path, certificates: Path, name: str) -> Iterator[str]:
    port = free_port()
    server = RedisServer(
        folder, "--tls-port", str(port), "--tls-cert-file", str(certificates / f"{name}.pem"), "--tls-key-file",
        str(certificates / f"{name}.key"), "--tls-ca-cert-file", str(certificates / "good.pem"), "--tls-auth-clients", "no",
    )  # fmt: skip
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop()


def test_an_encrypted_server_works_and_its_certificate_is_checked(tmp_path: Path, certificates: Path) -> None:
    with encrypted(tmp_path, certificates, "good") as address:
        works(backend_at([address], tls={"ca": str(certificates / "good.pem")}))
        error = refused(backend_at([address], tls={"ca": str(certificates / "other.pem")}), Unavailable)
        assert "certificate" in str(error)
        works(backend_at([address], tls={"verify": False}))


def test_a_certificate_of_another_host_is_refused(tmp_path: Path, certificates: Path) -> None:
    with encrypted(tmp_path, certificates, "other") as address:
        error = refused(backend_at([address], tls={"ca": str(certificates / "other.pem")}), Unavailable)
        assert "127.0.0.1" in str(error)


def test_plain_and_encrypted_do_not_fit_and_it_is_said(server: RedisServer, certificates: Path) -> None:
    refused(backend_over(server, tls={"ca": str(certificates / "good.pem")}), Unavailable, timeout_s=1.0)


def test_a_certificate_file_that_is_missing_is_a_configuration_error(server: RedisServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.pem"):
        backend_over(server, tls={"ca": str(tmp_path / "none.pem")}).open(time.monotonic() + BOUND_S)


# --- what the server may do to messages ---------------------------------------------------------------------------------------------------


def test_a_server_that_evicts_keys_is_refused(server: RedisServer) -> None:
    server.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    error = refused(backend_over(server), UnsafeBackend)
    assert isinstance(error, UnsafeBackend)
    assert error.finding == "eviction"


def test_a_user_with_few_rights_works_when_the_policy_is_stated(server: RedisServer) -> None:
    server.call("ACL", "SETUSER", "app", "on", ">secret", *RIGHTS.split())
    auth = {"user": "app", "password": "secret"}
    error = refused(backend_over(server, auth=auth), UnsafeBackend)
    assert isinstance(error, UnsafeBackend)
    assert error.finding == "eviction"
    works(backend_over(server, auth=auth, noeviction=True))


def test_a_topic_that_a_user_may_not_touch_is_denied(server: RedisServer) -> None:
    server.call("ACL", "SETUSER", "app", "on", ">secret", *RIGHTS.replace("~mq:*", "~mq:topics").split())
    backend = backend_over(server, auth={"user": "app", "password": "secret"}, noeviction=True)
    backend.open(time.monotonic() + BOUND_S)
    with pytest.raises(AccessDenied):
        backend.admin().ensure_topic("orders", 1)
    answers = Answers(BOUND_S)
    backend.producer(answers).publish([NewRecord(1, Partition("orders", 0), None, b"v", "id", 0)], time.monotonic() + BOUND_S)
    (outcome,) = answers.of([1])
    assert isinstance(outcome, Rejected)
    assert outcome.code == "denied"
    backend.close(time.monotonic() + BOUND_S)


def test_a_replica_is_not_taken_for_the_primary(server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "replica").mkdir()
    replica = RedisServer(tmp_path / "replica", "--replicaof", "127.0.0.1", str(server.port))
    try:
        refused(backend_at([replica.address]), Unavailable, timeout_s=2.0)
        works(backend_at([replica.address, server.address]))
    finally:
        replica.stop()


def test_a_primary_is_found_by_its_sentinel(server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "sentinel").mkdir()
    settings = tmp_path / "sentinel" / "sentinel.conf"
    settings.write_text(f"sentinel monitor main 127.0.0.1 {server.port} 1\n")
    sentinel = RedisServer.sentinel(tmp_path / "sentinel", settings)
    try:
        works(backend_at([sentinel.address], sentinel="main"))
        refused(backend_at([sentinel.address], sentinel="other"), Unavailable, timeout_s=2.0)
    finally:
        sentinel.stop()


@pytest.mark.parametrize(
    ("settings", "code"),
    [({"appendfsync": "always"}, "aof_always"), ({"appendfsync": "everysec"}, "aof_everysec"), ({"appendonly": "no"}, "aof_off")],
)
def test_health_says_what_survives(server: RedisServer, settings: dict[str, Any], code: str) -> None:
    for name, value in settings.items():
        server.call("CONFIG", "SET", name, value)
    backend = backend_over(server)
    backend.open(time.monotonic() + BOUND_S)
    found = backend.health()
    assert found.ok
    assert found.version.count(".") == 2
    assert found.latency_ms is not None
    assert code in [finding.code for finding in found.findings]
    server.kill()
    gone = backend.health()
    assert not gone.ok
    assert [finding.code for finding in gone.findings] == ["unreachable"]
    backend.close(time.monotonic() + BOUND_S)


def test_a_stream_key_of_another_type_is_refused(server: RedisServer) -> None:
    server.call("SET", stream(Partition("t", 0)), "not a stream")
    backend = backend_over(server)
    backend.open(time.monotonic() + BOUND_S)
    backend.admin().ensure_topic("t", 1)
    with pytest.raises(BackendError, match="WRONGTYPE"):
        backend.admin().ensure_group("t", "g")
    backend.close(time.monotonic() + BOUND_S)
