"""Opening: what is wrong is said by class, with the cluster's name and a fix, after a bounded time."""

from __future__ import annotations

import gc
import itertools
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from mqsdk_kafka.backend import KafkaBackend
from mqsdk_kafka.client import Client
from mqsdk_kafka.options import Settings

from mqsdk.spi import AccessDenied, BackendError, ConfigError, NewRecord, Outcome, Partition, Rejected, Stored, Subscription, Unavailable
from mqsdk.testing.conformance.reader import PLENTY, Answers, Reader
from tests.brokers.impostor import listening
from tests.brokers.kafka import KafkaBroker
from tests.brokers.ports import free_port
from tests.kafka.stage import LEAKS, backend_at

BOUND_S = 30.0
SCRAM = {"mechanism": "SCRAM-SHA-256", "user": "alice", "password": "right"}
PLAIN = {"mechanism": "PLAIN", "user": "alice", "password": "right"}
SETTINGS = """
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASLP:SASL_PLAINTEXT,SASLS:SASL_SSL,TLS:SSL,OTHER:SSL,EXPIRED:SSL,MTLS:SSL
inter.broker.listener.name=PLAINTEXT
ssl.keystore.type=PEM
ssl.keystore.location={tls}/good.both
ssl.truststore.type=PEM
ssl.truststore.location={tls}/good.pem
listener.name.other.ssl.keystore.type=PEM
listener.name.other.ssl.keystore.location={tls}/other.both
listener.name.expired.ssl.keystore.type=PEM
listener.name.expired.ssl.keystore.location={tls}/expired.both
listener.name.mtls.ssl.keystore.type=PEM
listener.name.mtls.ssl.keystore.location={tls}/good.both
listener.name.mtls.ssl.truststore.type=PEM
listener.name.mtls.ssl.truststore.location={tls}/good.pem
listener.name.mtls.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
listener.name.saslp.plain.sasl.jaas.config={plain}
listener.name.saslp.scram-sha-256.sasl.jaas.config={scram}
listener.name.sasls.plain.sasl.jaas.config={plain}
listener.name.sasls.scram-sha-256.sasl.jaas.config={scram}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:alice;User:CN=test
"""
PLAIN_USERS = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="right" user_bob="secret";'
SCRAM_USERS = "org.apache.kafka.common.security.scram.ScramLoginModule required;"

pytestmark = pytest.mark.filterwarnings(LEAKS)


class Guarded:
    """A broker with every kind of listener, and the files of its certificates."""

    def __init__(self, folder: Path, tls: Path) -> None:
        self.tls = tls
        self.ports = {name: free_port() for name in ("SASLP", "SASLS", "TLS", "OTHER", "EXPIRED", "MTLS")}
        settings = SETTINGS.format(tls=tls, plain=PLAIN_USERS, scram=SCRAM_USERS)
        self.broker = KafkaBroker(folder, self.ports, settings, ("--add-scram", "SCRAM-SHA-256=[name=alice,password=right]"))

    def backend(self, listener: str, **options: Any) -> KafkaBackend:
        return backend_at([f"127.0.0.1:{self.ports[listener]}"], **options)

    def ca(self, name: str = "good") -> dict[str, Any]:
        return {"ca": str(self.tls / f"{name}.pem")}


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()  # what the client leaks is found within the test that may leak it


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    program = shutil.which("openssl")
    assert program is not None, "openssl is not installed: apt-get install -y openssl"
    for name, subject in (("good", "IP:127.0.0.1"), ("other", "DNS:elsewhere.invalid"), ("expired", "IP:127.0.0.1")):
        key, pem = str(folder / f"{name}.key"), str(folder / f"{name}.pem")
        how = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test", "-addext", f"subjectAltName={subject}"]
        subprocess.run([program, *how, "-keyout", key, "-out", pem], capture_output=True, check=True)
        if name == "expired":
            how = ["x509", "-in", pem, "-signkey", key, "-days", "-1", "-out", f"{pem}.past"]
            subprocess.run([program, *how], capture_output=True, check=True)
            Path(f"{pem}.past").rename(pem)
        (folder / f"{name}.both").write_text((folder / f"{name}.key").read_text() + (folder / f"{name}.pem").read_text())
    return folder


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[Guarded]:
    started = Guarded(tmp_path_factory.mktemp("guarded"), certificates)
    yield started
    started.broker.stop()


def refused(backend: KafkaBackend, kind: type[BackendError], timeout_s: float = 5.0) -> BackendError:
    """The error of an open that fails; it names the cluster and a fix, and no secret."""
    before = set(threading.enumerate())
    began = time.monotonic()
    with pytest.raises(kind) as found:
        backend.open(began + timeout_s)
    assert type(found.value) is kind
    assert time.monotonic() - began < timeout_s + 3.0
    assert found.value.cluster == "shop"
    assert "shop" in found.value.where
    assert found.value.fix
    assert "secret" not in str(found.value)
    for thread in set(threading.enumerate()) - before:
        thread.join(BOUND_S)
        assert not thread.is_alive(), "the failed client leaves a thread behind"
    return found.value


def works(backend: KafkaBackend, topic: str) -> None:
    """A topic can be made, published to and consumed from."""
    backend.open(time.monotonic() + BOUND_S)
    try:
        backend.admin().ensure_topic(topic, 1)
        assert isinstance(stored(backend, topic), Stored)
        reader = Reader(backend.consumer(Subscription((topic,), "g")), BOUND_S, credit=PLENTY)
        assert [record.value for record in reader.take(1)] == [b"v"]
        reader.settle_all()
        assert backend.health().ok
    finally:
        backend.close(time.monotonic() + BOUND_S)


def stored(backend: KafkaBackend, topic: str) -> Outcome:
    """Ask again as layer 2 does while the answer says that it may help: a server that is slow to be found may take more than one."""
    answers, until = Answers(BOUND_S), time.monotonic() + BOUND_S
    producer = backend.producer(answers)
    for token in itertools.count(1):
        producer.publish([NewRecord(token, Partition(topic, 0), None, b"v", "id", 0)], until)
        outcome = answers.of([token])[0]
        if not (isinstance(outcome, Rejected) and outcome.retryable) or time.monotonic() > until:
            return outcome
    raise AssertionError


# --- who is there -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listener", ["SASLP", "SASLS"])
@pytest.mark.parametrize("auth", [PLAIN, SCRAM], ids=["plain", "scram"])
def test_a_wrong_password_is_denied_at_once(guarded: Guarded, listener: str, auth: dict[str, str]) -> None:
    began = time.monotonic()
    tls = guarded.ca() if listener == "SASLS" else None
    refused(guarded.backend(listener, auth={**auth, "password": "secret"}, tls=tls), AccessDenied)
    assert time.monotonic() - began < 3.0


def test_a_mechanism_that_the_broker_does_not_know_is_denied(guarded: Guarded) -> None:
    refused(guarded.backend("SASLP", auth={**SCRAM, "mechanism": "SCRAM-SHA-512"}), AccessDenied)


@pytest.mark.parametrize(("listener", "auth"), [("SASLP", PLAIN), ("SASLS", SCRAM)], ids=["plain", "scram"])
def test_the_right_password_works(guarded: Guarded, listener: str, auth: dict[str, str]) -> None:
    works(guarded.backend(listener, auth=auth, tls=guarded.ca() if listener == "SASLS" else None), f"right-{listener}")


def test_a_password_where_none_is_asked_for_and_the_other_way_round(guarded: Guarded) -> None:
    refused(guarded.backend("SASLP"), Unavailable, timeout_s=1.0)


def test_an_unknown_host_is_unavailable() -> None:
    refused(backend_at(["no-such-host.invalid:9092"]), Unavailable, timeout_s=1.0)


def test_a_port_where_nobody_listens_is_unavailable() -> None:
    error = refused(backend_at([f"127.0.0.1:{free_port()}"]), Unavailable, timeout_s=1.0)
    assert "Connection refused" in str(error)


def test_the_next_server_is_tried(guarded: Guarded) -> None:
    works(backend_at([f"127.0.0.1:{free_port()}", guarded.broker.address]), "next")


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", None], ids=["web", "closes", "silent"])
def test_what_does_not_speak_the_protocol_is_unavailable(greeting: bytes | None) -> None:
    with listening(greeting) as port:
        refused(backend_at([f"127.0.0.1:{port}"]), Unavailable, timeout_s=1.0)


# --- encryption ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topics", [[], ["t"]])
@pytest.mark.parametrize("kind", ["producer", "consumer"])
def test_a_client_of_a_server_that_says_nothing_is_given_up_at_the_deadline(kind: str, topics: list[str]) -> None:
    """Those that ask for topics at once waited until somebody answered."""
    with listening(None) as port:
        client = Client("shop", Settings.parse({"servers": [f"127.0.0.1:{port}"]}, "shop"))
        refused = threading.Event()

        def make() -> None:
            with pytest.raises(Unavailable):
                getattr(client, kind)(time.monotonic() + 1.0, topics)
            refused.set()

        threading.Thread(target=make, daemon=True).start()
        assert refused.wait(3 * 1.5)
        client.close()


def test_an_encrypted_broker_works_and_its_certificate_is_checked(guarded: Guarded) -> None:
    works(guarded.backend("TLS", tls=guarded.ca()), "encrypted")
    error = refused(guarded.backend("TLS", tls=guarded.ca("other")), Unavailable)
    assert "certificate" in str(error)
    works(guarded.backend("TLS", tls={"verify": False}), "unverified")


def test_a_certificate_of_another_host_is_refused(guarded: Guarded) -> None:
    error = refused(guarded.backend("OTHER", tls=guarded.ca("other")), Unavailable)
    assert "another host" in str(error)


def test_an_expired_certificate_is_refused(guarded: Guarded) -> None:
    error = refused(guarded.backend("EXPIRED", tls=guarded.ca("expired")), Unavailable)
    assert "expired" in str(error)


def test_a_missing_client_certificate_is_refused_and_the_right_one_works(guarded: Guarded) -> None:
    refused(guarded.backend("MTLS", tls=guarded.ca()), Unavailable, timeout_s=2.0)
    own = {**guarded.ca(), "cert": str(guarded.tls / "good.pem"), "key": str(guarded.tls / "good.key")}
    works(guarded.backend("MTLS", tls=own), "mutual")


def test_plain_and_encrypted_do_not_fit_and_it_is_said(guarded: Guarded) -> None:
    error = refused(backend_at([guarded.broker.address], tls=guarded.ca()), Unavailable, timeout_s=2.0)
    assert "tls" in error.fix
    error = refused(guarded.backend("TLS"), Unavailable, timeout_s=1.0)
    assert "tls" in error.fix


def test_a_certificate_file_that_is_missing_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.pem"):
        backend_at(["127.0.0.1:1"], tls={"ca": str(tmp_path / "none.pem")}).open(time.monotonic() + BOUND_S)


# --- rights -------------------------------------------------------------------------------------------------------------------------------

BOB = {"mechanism": "PLAIN", "user": "bob", "password": "secret"}
# What docs/kafka.md names for an application that makes no topics.
RIGHTS = [
    (ResourceType.TOPIC, "allowed", ACLOperation.READ),
    (ResourceType.TOPIC, "allowed", ACLOperation.WRITE),
    (ResourceType.GROUP, "allowed.g", ACLOperation.READ),
]


@pytest.fixture(scope="module")
def bob(guarded: Guarded) -> Iterator[KafkaBackend]:
    """A user with few rights, on a topic that somebody else has made."""
    with guarded.broker.admin() as admin:
        for topic in ("allowed", "denied"):
            admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}})
        for kind, name, operation in RIGHTS:
            pattern = ResourcePattern(kind, name)
            admin.create_acls([ACL("User:bob", "*", operation, ACLPermissionType.ALLOW, pattern)])
    backend = guarded.backend("SASLP", auth=BOB)
    backend.open(time.monotonic() + BOUND_S)
    yield backend
    backend.close(time.monotonic() + BOUND_S)


def test_a_user_with_few_rights_publishes_and_consumes(bob: KafkaBackend) -> None:
    answers = Answers(BOUND_S)
    bob.producer(answers).publish([NewRecord(1, Partition("allowed", 0), None, b"v", "id", 0)], time.monotonic() + BOUND_S)
    assert isinstance(answers.of([1])[0], Stored)
    reader = Reader(bob.consumer(Subscription(("allowed",), "g")), BOUND_S, credit=PLENTY)
    assert [record.value for record in reader.take(1)] == [b"v"]
    reader.settle_all(final=True)
    reader.close()
    assert bob.health().ok


def test_a_topic_that_a_user_may_not_touch_is_denied(bob: KafkaBackend) -> None:
    for call in (lambda: bob.admin().partitions("denied"), lambda: bob.consumer(Subscription(("denied",), "g"))):
        with pytest.raises(AccessDenied) as found:
            call()
        assert "topic" in found.value.what
        assert "secret" not in str(found.value)
    answers = Answers(BOUND_S)
    bob.producer(answers).publish([NewRecord(1, Partition("denied", 0), None, b"v", "id", 0)], time.monotonic() + BOUND_S)
    (outcome,) = answers.of([1])
    assert isinstance(outcome, Rejected)
    assert outcome.code == "denied"


def test_a_topic_that_a_user_may_not_make_is_denied(bob: KafkaBackend) -> None:
    with pytest.raises(AccessDenied):
        bob.admin().ensure_topic("of-bob", 1)


def test_a_group_that_a_user_may_not_join_is_denied(bob: KafkaBackend) -> None:
    with pytest.raises(AccessDenied, match="group"):
        bob.consumer(Subscription(("allowed",), "other"))


def test_no_secret_is_logged_whatever_the_level(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="kafka")
    refused(guarded.backend("SASLP", auth={**SCRAM, "password": "secret-canary"}), AccessDenied)
    assert "secret-canary" not in caplog.text
    caplog.set_level("DEBUG", logger="kafka")
    backend = guarded.backend("SASLP", auth=SCRAM)
    backend.open(time.monotonic() + BOUND_S)
    backend.admin().ensure_topic("canary", 1)
    answers = Answers(BOUND_S)
    record = NewRecord(1, Partition("canary", 0), b"canary-key", b"canary-value", "id", 0, headers=(("name", "canary-header"),))
    backend.producer(answers).publish([record], time.monotonic() + BOUND_S)
    assert isinstance(answers.of([1])[0], Stored)
    backend.close(time.monotonic() + BOUND_S)
    assert not [text for text in ("canary-key", "canary-value", "canary-header") if text in caplog.text]
