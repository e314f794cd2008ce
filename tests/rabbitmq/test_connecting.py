"""Opening: what is wrong is said by class, with the cluster's name and a fix, after a bounded time."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mqsdk_rabbitmq.backend import RabbitBackend

from mqsdk.spi import (
    AccessDenied,
    BackendError,
    ConfigError,
    Link,
    NewRecord,
    Partition,
    Rejected,
    Stored,
    Subscription,
    Unavailable,
)
from mqsdk.testing.conformance.reader import PLENTY, Answers, Reader
from tests.brokers.impostor import listening
from tests.brokers.ports import free_port
from tests.brokers.rabbitmq import RabbitServer
from tests.rabbitmq.stage import backend_at, backend_over

BOUND_S = 20.0
SHOP = {"user": "shop", "password": "right"}


@pytest.fixture(scope="module")
def users(rabbitmq: RabbitServer) -> RabbitServer:
    """`shop` has the rights that docs/rabbitmq.md names, `poor` has none, `closed` is a virtual host of nobody."""
    rabbitmq.ctl("add_user", "shop", "right")
    rabbitmq.ctl("set_permissions", "-p", "/", "shop", r"^mq\.", r"^(mq\.|amq\.default$)", r"^mq\.")
    rabbitmq.ctl("add_user", "poor", "right")
    rabbitmq.ctl("set_permissions", "-p", "/", "poor", "^$", "^$", "^$")
    rabbitmq.ctl("add_vhost", "closed")
    return rabbitmq


def refused(backend: RabbitBackend, kind: type[BackendError], timeout_s: float = 5.0) -> BackendError:
    """The error of an open that fails; it names the cluster and a fix, and no secret."""
    began = time.monotonic()
    with pytest.raises(kind) as found:
        backend.open(began + timeout_s)
    assert type(found.value) is kind
    assert time.monotonic() - began < timeout_s + 12.0
    assert found.value.cluster == "shop"
    assert "shop" in found.value.where
    assert found.value.fix
    assert "secret" not in str(found.value)
    return found.value


def works(backend: RabbitBackend, topic: str) -> None:
    """A topic can be made, published to and consumed from."""
    backend.open(time.monotonic() + BOUND_S)
    try:
        admin = backend.admin()
        admin.ensure_topic(topic, 1)
        admin.ensure_group(topic, "g")
        answers = Answers(BOUND_S)
        backend.producer(answers).publish([NewRecord(1, Partition(topic, 0), None, b"v", "id", 0)], time.monotonic() + BOUND_S)
        assert isinstance(answers.of([1])[0], Stored)
        reader = Reader(backend.consumer(Subscription((topic,), "g")), BOUND_S, credit=PLENTY)
        assert [record.value for record in reader.take(1)] == [b"v"]
        reader.settle_all()
        health = backend.health()
        assert health.ok
        assert health.version
        reader.close()
        admin.delete_topic(topic)
    finally:
        backend.close(time.monotonic() + BOUND_S)


# --- who is there -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["guest", "nobody"])
def test_a_wrong_password_is_denied_at_once(rabbitmq: RabbitServer, user: str) -> None:
    began = time.monotonic()
    error = refused(backend_over(rabbitmq, auth={"user": user, "password": "secret"}), AccessDenied)
    assert "password" in error.what
    assert time.monotonic() - began < 4.0


def test_a_virtual_host_of_others_is_denied(users: RabbitServer) -> None:
    assert "virtual host" in refused(backend_over(users, auth=SHOP, vhost="closed"), AccessDenied).what


def test_a_virtual_host_that_is_not_there_is_denied(rabbitmq: RabbitServer) -> None:
    assert "virtual host" in refused(backend_over(rabbitmq, vhost="no-such"), AccessDenied).what


def test_the_rights_that_the_documentation_names_are_enough(users: RabbitServer) -> None:
    works(backend_over(users, auth=SHOP), "conf.rights")


def test_without_rights_every_call_is_denied(users: RabbitServer) -> None:
    owner = backend_over(users)
    owner.open(time.monotonic() + BOUND_S)
    owner.admin().ensure_topic("conf.denied", 1)
    owner.admin().ensure_group("conf.denied", "g")
    owner.close(time.monotonic() + BOUND_S)
    poor = backend_over(users, auth={"user": "poor", "password": "right"})
    poor.open(time.monotonic() + BOUND_S)
    try:
        with pytest.raises(AccessDenied, match="right on the server") as denied:
            poor.admin().ensure_topic("conf.denied", 1)
        assert denied.value.fix
        answers = Answers(BOUND_S)
        poor.producer(answers).publish([NewRecord(1, Partition("conf.denied", 0), None, b"v", "id", 0)], time.monotonic() + BOUND_S)
        outcome = answers.of([1])[0]
        assert isinstance(outcome, Rejected)
        assert (outcome.code, outcome.retryable) == ("denied", False)
    finally:
        poor.close(time.monotonic() + BOUND_S)


def test_an_unknown_host_is_unavailable() -> None:
    assert "not known" in refused(backend_at(["no-such-host.invalid:5672"]), Unavailable, timeout_s=1.0).what


def test_a_port_where_nobody_listens_is_unavailable() -> None:
    assert "Connection refused" in str(refused(backend_at([f"127.0.0.1:{free_port()}"]), Unavailable, timeout_s=1.0))


def test_the_next_server_is_tried(rabbitmq: RabbitServer) -> None:
    works(backend_at([f"127.0.0.1:{free_port()}", rabbitmq.address]), "conf.second")


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR unknown\r\n", b""], ids=["web", "redis", "closes"])
def test_what_does_not_speak_the_protocol_is_unavailable(greeting: bytes) -> None:
    with listening(greeting) as port:
        refused(backend_at([f"127.0.0.1:{port}"]), Unavailable, timeout_s=1.0)


def test_what_says_nothing_is_unavailable_after_a_bounded_time() -> None:
    with listening(None) as port:
        assert "does not answer" in refused(backend_at([f"127.0.0.1:{port}"]), Unavailable, timeout_s=1.0).what


def test_a_password_that_is_withdrawn_ends_in_a_link_that_says_so(users: RabbitServer) -> None:
    backend = backend_over(users, auth=SHOP)
    backend.open(time.monotonic() + BOUND_S)
    try:
        backend.admin().ensure_topic("conf.withdrawn", 1)
        reader = Reader(backend.consumer(Subscription(("conf.withdrawn",), "g")), BOUND_S).joined(1)
        users.ctl("change_password", "shop", "other")
        users.ctl("close_all_connections", "test")

        def is_denied() -> bool:
            return any(isinstance(event, Link) and not event.up for event in reader.events)

        reader.until(is_denied, "the link down")
        users.ctl("change_password", "shop", "right")
        reader.until(lambda: any(isinstance(event, Link) and event.up for event in reader.events), "the link up")
    finally:
        users.ctl("change_password", "shop", "right")
        backend.close(time.monotonic() + BOUND_S)


# --- encryption ---------------------------------------------------------------------------------------------------------------------------

AUTHORITY = """
[ca]
default_ca = own
[own]
database = {folder}/index
serial = {folder}/serial
new_certs_dir = {folder}
default_md = sha256
policy = any
x509_extensions = names
[any]
commonName = supplied
[names]
subjectAltName = IP:127.0.0.1
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """good, other (of another host), expired: each signs itself."""
    folder = tmp_path_factory.mktemp("tls")
    program = shutil.which("openssl")
    assert program is not None, "openssl is not installed: apt-get install -y openssl"

    def run(*arguments: str) -> None:
        subprocess.run([program, *arguments], check=True, capture_output=True)

    for name, subject in (("good", "IP:127.0.0.1"), ("other", "DNS:elsewhere.invalid")):
        files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
        about = ["-days", "2", "-subj", "/CN=test", "-addext", f"subjectAltName={subject}"]
        run("req", "-x509", "-newkey", "rsa:2048", "-nodes", *about, *files)
    (folder / "ca.cnf").write_text(AUTHORITY.format(folder=folder))
    (folder / "index").touch()
    (folder / "serial").write_text("01\n")
    key, request = str(folder / "expired.key"), str(folder / "expired.csr")
    run("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-keyout", key, "-out", request)
    dates = ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"]
    config = ["-config", str(folder / "ca.cnf"), "-selfsign", "-keyfile", key, "-in", request, "-out", str(folder / "expired.pem")]
    run("ca", "-batch", "-notext", *dates, *config)
    return folder


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[str]:
    port = free_port()
    server = RabbitServer(
        tmp_path_factory.mktemp("encrypted"),
        f"listeners.ssl.default = 127.0.0.1:{port}",
        f"ssl_options.cacertfile = {certificates}/good.pem",
        f"ssl_options.certfile = {certificates}/good.pem",
        f"ssl_options.keyfile = {certificates}/good.key",
        "ssl_options.verify = verify_none",
    )
    yield f"127.0.0.1:{port}"
    server.stop()


def test_an_encrypted_server_works_and_its_certificate_is_checked(encrypted: str, certificates: Path) -> None:
    works(backend_at([encrypted], tls={"ca": str(certificates / "good.pem")}), "conf.tls")
    error = refused(backend_at([encrypted], tls={"ca": str(certificates / "other.pem")}), Unavailable)
    assert "certificate" in str(error)
    works(backend_at([encrypted], tls={"verify": False}), "conf.tls")


def test_plain_to_an_encrypted_port_is_said(encrypted: str) -> None:
    assert "tls" in refused(backend_at([encrypted]), Unavailable, timeout_s=1.0).fix


def test_encrypted_to_a_plain_port_is_said(rabbitmq: RabbitServer, certificates: Path) -> None:
    assert "tls" in refused(backend_over(rabbitmq, tls={"ca": str(certificates / "good.pem")}), Unavailable, timeout_s=1.0).fix


@pytest.mark.parametrize(("name", "word"), [("expired", "expired"), ("other", "127.0.0.1")])
def test_a_certificate_that_is_expired_or_of_another_host_is_refused(name: str, word: str, certificates: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    with listening(None, context) as port:
        began = time.monotonic()
        error = refused(backend_at([f"127.0.0.1:{port}"], tls={"ca": str(certificates / f"{name}.pem")}), Unavailable)
        assert word in str(error)
        assert time.monotonic() - began < 4.0


def test_a_certificate_file_that_is_missing_is_a_configuration_error(rabbitmq: RabbitServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.pem"):
        backend_over(rabbitmq, tls={"ca": str(tmp_path / "none.pem")}).open(time.monotonic() + BOUND_S)


# --- options ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"servers": []}, "servers: a list of addresses"),
        ({"servers": ["h:99999"]}, "servers: an address is host:port"),
        ({"auth": {"user": "u"}}, "auth: user and password, both"),
        ({"auth": {"token": "t"}}, "auth: RabbitMQ knows user and password"),
        ({"prefetch": 0}, "prefetch: a number of messages"),
        ({"queues": "mirrored"}, "queues: `quorum` or `classic`"),
        ({"vhots": "x"}, "did you mean `vhost`?"),
        ({"options": {"heartbeat": 0}}, "options: no option of the client is open"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as found:
        backend_at(**{"servers": ["127.0.0.1"], **options})  # type: ignore[arg-type]  # wrong on purpose
    assert text in str(found.value)
