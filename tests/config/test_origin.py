"""Sources of a configuration: which address names which, what each gives, and what none of them ever says."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqsdk.config import origin
from mqsdk.config.fromhttp import HttpSource
from mqsdk.config.fromredis import RedisSource
from mqsdk.config.origin import FileSource, SourceDown, load_patiently, source_of
from mqsdk.errors import ConfigError, MissingExtra
from tests.brokers.ports import free_port
from tests.brokers.redis import RedisServer
from tests.brokers.web import WebServer

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.call("SET", "shop", "app: shop\n")
    yield server
    server.stop()


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer("app: shop\n") as server:
        yield server


def refusal(place: str) -> str:
    """The whole text of the error that loading from this place raises, with every exception behind it."""
    with pytest.raises(ConfigError) as caught:
        source_of(place).load()
    return repr((str(caught.value), caught.value.where, caught.value.problems, caught.value.__cause__))


# --- addresses ------------------------------------------------------------------------------------------------------------------------


def test_a_path_is_a_file_and_an_address_its_source(tmp_path: Path) -> None:
    assert isinstance(source_of("mqsdk.yaml"), FileSource)
    assert isinstance(source_of("redis://h?key=k"), RedisSource)
    for address in ("https://h/x", "http://localhost/x", "http://127.0.0.2:1/x", "http://[::1]/x", "http+insecure://h/x"):
        assert isinstance(source_of(address), HttpSource)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("redis://u:pw@h:1/2?key=a b&version=v", "redis://h:1/2?key=a%20b"),
        ("redis://:pw@h?key=k", "redis://h?key=k"),
        ("https://u:pw@h:8443/a/b.yaml?token=pw#pw", "https://h:8443/a/b.yaml"),
        ("http://u:pw@[::1]:80/x", "http://[::1]:80/x"),
    ],
)
def test_a_source_is_named_without_its_secrets(address: str, name: str) -> None:
    assert source_of(address).name == name


@pytest.mark.parametrize(
    "address",
    [
        "ftp://u:pw@h/x",
        "redis://u:pw@h",
        "redis://u:pw@h?key=",
        "redis://u:pw@h?key=k&kye=pw",
        "redis://u:pw@h?key=k&version=",
        "redis://pw@h?key=k",
        "redis://u:pw@h/one?key=k",
        "redis://u:pw@:6379?key=k",
        "redis://u:pw@h:port?key=k",
        "redis://u:1/pw@h:6379/0?key=k",
        "redis://u:p/w@h:6379/0?key=k",
        "https://u:1?pw@h/x",
        "https://u:1#pw@h/x",
        "https://[u:pw@h/x",
        "https://u:pw@/x",
        "http://u:pw@example.com/x",
        "https://u:pw@h/a b",
        "https://u:pw@h/\u00fc",
        "https://u:pw@h/\x1b[0m",
        f"https://u:pw@{'h' * 64}/x",
        f"redis://u:pw@{'h' * 64}?key=k",
        "http://u:pw@127.0.0.1.example.com/x",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_and_shows_no_secret(address: str) -> None:
    text = refusal(address)
    assert "pw@" not in text
    assert "u:" not in text
    assert "cannot be reached" not in text


def test_plain_http_to_another_host_says_how_it_is_allowed() -> None:
    assert "use https, or write http+insecure://" in refusal("http://example.com/x")


# --- http -----------------------------------------------------------------------------------------------------------------------------


def test_an_unchanged_document_is_not_sent_twice(web: WebServer) -> None:
    source = source_of(web.url())
    first = source.load()
    assert (first.data, first.type) == (b"app: shop\n", "application/yaml")
    assert source.load() == first
    web.put("app: other\n")
    second = source.load()
    assert (second.data, second.version != first.version) == (b"app: other\n", True)
    assert web.answers == [200, 304, 200]


def test_a_server_without_etags_is_asked_for_all_of_it(web: WebServer) -> None:
    web.tagged = False
    source = source_of(web.url())
    first = source.load()
    assert source.load() == first
    web.put("app: other\n")
    assert source.load().version != first.version
    assert web.answers == [200, 200, 200]


def test_user_and_password_go_into_the_header_only(web: WebServer) -> None:
    source_of(web.url("/x.yaml?a=b", user="me:p%40ss@")).load()
    ((path, headers),) = web.requests
    assert (path, headers["Authorization"]) == ("/x.yaml?a=b", "Basic bWU6cEBzcw==")
    assert headers["Host"] == f"127.0.0.1:{web.port}"


@pytest.mark.parametrize(
    ("status", "what"),
    [
        (404, "answers with status 404"),
        (401, "may not be read (status 401)"),
        (403, "may not be read (status 403)"),
        (302, "leads to another address (status 302), which is not followed"),
        (204, "answers with status 204, not 200"),
    ],
)
def test_an_answer_that_is_no_document_is_refused(web: WebServer, status: int, what: str) -> None:
    web.status = status
    web.headers["Location"] = "http://127.0.0.1:1/"
    text = refusal(web.url("/x?token=geheim", user="u:geheim@"))
    assert f"{web.url('/x')}: {what}" in text
    assert "geheim" not in text


def test_a_page_is_not_a_configuration(web: WebServer) -> None:
    web.headers["Content-Type"] = "text/html; charset=utf-8"
    assert "is it a login page?" in refusal(web.url())


def test_more_than_1_mib_is_not_taken(web: WebServer) -> None:
    web.put("#" * origin.MAX_BYTES)
    assert len(source_of(web.url()).load().data) == origin.MAX_BYTES
    web.put("#" * (origin.MAX_BYTES + 1))
    assert "is larger than 1 MiB" in refusal(web.url())


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_a_server_that_cannot_answer_now_is_down(web: WebServer, status: int) -> None:
    web.status = status
    with pytest.raises(SourceDown, match=f"cannot be reached: the server answers with status {status}"):
        source_of(web.url()).load()


def test_half_a_document_is_none(web: WebServer) -> None:
    web.cut = 4
    with pytest.raises(SourceDown, match="the answer ended early"):
        source_of(web.url()).load()


def test_a_server_that_says_nothing_is_down_in_bounded_time() -> None:
    with socket_that_listens() as port:
        source, began = source_of(f"http://127.0.0.1:{port}/x"), time.monotonic()
        with pytest.raises(SourceDown):
            source.load(0.2)
    assert time.monotonic() - began < 5


class socket_that_listens:  # noqa: N801 - reads as a function
    """Takes connections and never answers."""

    def __enter__(self) -> int:
        import socket

        self._socket = socket.create_server(("127.0.0.1", 0))
        port: int = self._socket.getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        self._socket.close()


# --- encryption -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(certificate, key) of 127.0.0.1, which is its own authority."""
    folder = tmp_path_factory.mktemp("tls")
    program = shutil.which("openssl")
    assert program is not None, "openssl is not installed: apt-get install -y openssl"
    files = folder / "server.pem", folder / "server.key"
    subject = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run([program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject], check=True, capture_output=True)
    return files


def trusted_and_not(address: str, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads with the authority in SSL_CERT_FILE, and is refused without."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert "has a certificate that is not trusted" in refusal(address)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert source_of(address).load().data == b"app: shop\n"


def test_https_checks_the_certificate(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with WebServer("app: shop\n", context=context) as web:
        trusted_and_not(web.url(scheme="https"), certificate[0], monkeypatch)


def test_rediss_checks_the_certificate(certificate: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    files = ["--tls-cert-file", str(certificate[0]), "--tls-key-file", str(certificate[1]), "--tls-ca-cert-file", str(certificate[0])]
    server = RedisServer(tmp_path, "--tls-port", str(port), *files, "--tls-auth-clients", "no")
    try:
        server.call("SET", "shop", "app: shop\n")
        trusted_and_not(f"rediss://127.0.0.1:{port}/0?key=shop", certificate[0], monkeypatch)
    finally:
        server.stop()


# --- redis ----------------------------------------------------------------------------------------------------------------------------


def test_a_key_of_redis_is_read_with_a_version_by_its_content(server: RedisServer) -> None:
    source = source_of(f"redis://{server.address}/0?key=shop")
    first = source.load()
    assert (first.data, first.type) == (b"app: shop\n", "application/yaml")
    assert source.load() == first
    server.call("SET", "shop", "app: other\n")
    assert source.load().version != first.version
    server.call("SET", "shop", "app: shop\n")
    assert source.load() == first
    source.close()


def test_with_a_version_key_the_content_is_read_when_that_changes(server: RedisServer) -> None:
    server.call("SET", "counted", "app: one\n")
    assert "has no key for its version" in refusal(f"redis://{server.address}?key=counted&version=counter")
    server.call("SET", "counter", "1")
    source = source_of(f"redis://{server.address}?key=counted&version=counter")
    assert source.load()[:2] == ("1", b"app: one\n")
    server.call("SET", "counted", "app: two\n")
    assert source.load()[:2] == ("1", b"app: one\n")
    server.call("INCR", "counter")
    assert source.load()[:2] == ("2", b"app: two\n")
    server.call("DEL", "counter")
    with pytest.raises(ConfigError, match="has no key for its version"):
        source.load()
    source.close()


def test_another_database_and_a_name_with_odd_characters(server: RedisServer) -> None:
    with server.client(db=3) as client:
        client.set("a b/ü", "app: third\n")
    source = source_of(f"redis://{server.address}/3?key=a%20b%2F%C3%BC")
    assert source.load().data == b"app: third\n"
    source.close()


def test_what_is_no_text_or_too_long_is_refused(server: RedisServer) -> None:
    assert "there is no such key" in refusal(f"redis://{server.address}/0?key=nothing")
    server.call("RPUSH", "list", "x")
    assert "holds no text" in refusal(f"redis://{server.address}/0?key=list")
    server.call("SETRANGE", "long", origin.MAX_BYTES, "x")
    assert "is larger than 1 MiB" in refusal(f"redis://{server.address}/0?key=long")


def test_users_of_redis_and_their_rights(server: RedisServer) -> None:
    server.call("SET", "mine", "app: mine\n")
    server.call("ACL", "SETUSER", "reader", "on", ">p@ss/word", "~mine", "+multi", "+exec", "+exists", "+getrange", "+select")
    source = source_of(f"redis://reader:p%40ss%2Fword@{server.address}/0?key=mine")
    assert source.load().data == b"app: mine\n"
    source.close()
    for user, key in (("reader:geheim@", "mine"), ("reader:p%40ss%2Fword@", "shop"), ("nobody:geheim@", "mine")):
        text = refusal(f"redis://{user}{server.address}/0?key={key}")
        assert "the server refuses the user or password" in text
        assert not any(secret in text for secret in ("geheim", "p@ss", "p%40ss", "reader:"))


def test_a_server_that_wants_a_password_says_so(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--requirepass", "geheim")
    try:
        server.call("SET", "shop", "app: shop\n", password="geheim")
        assert "the server refuses the user or password" in refusal(f"redis://{server.address}?key=shop")
        source = source_of(f"redis://:geheim@{server.address}?key=shop")
        assert source.load().data == b"app: shop\n"
        source.close()
    finally:
        server.stop()


def test_a_server_that_is_gone_or_frozen_is_down_and_comes_back(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.call("SET", "shop", "app: shop\n")
    source = source_of(f"redis://{server.address}?key=shop")
    assert source.load(0.5).data == b"app: shop\n"
    try:
        server.freeze()
        with pytest.raises(SourceDown):
            source.load(0.5)
        server.thaw()
        assert source.load(5.0).data == b"app: shop\n"
        server.kill()
        with pytest.raises(SourceDown, match="cannot be reached"):
            source.load(0.5)
        server.start()
        assert source.load(5.0).data == b"app: shop\n"
    finally:
        source.close()
        server.stop()


def test_a_message_on_the_channel_is_a_hint(server: RedisServer) -> None:
    heard = threading.Semaphore(0)
    for place, channel in ((f"redis://{server.address}?key=shop", "shop"), (f"redis://{server.address}?key=shop&channel=news", "news")):
        end = source_of(place).watch(heard.release)
        assert end is not None
        deadline = time.monotonic() + PATIENCE_S
        while not heard.acquire(timeout=0.05):  # published again until somebody listens
            assert time.monotonic() < deadline
            server.call("PUBLISH", channel, "x")
        end()
        while any(thread.name == "mqsdk-config-hint" for thread in threading.enumerate()):
            assert time.monotonic() < deadline
        while heard.acquire(blocking=False):
            pass


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtra) as caught:
        source_of("redis://u:geheim@h?key=k").load()
    assert (caught.value.extra, caught.value.where, caught.value.fix) == ("redis", "redis://h?key=k", "pip install 'mqsdk[redis]'")


# --- waiting --------------------------------------------------------------------------------------------------------------------------


def test_a_start_waits_for_a_source_that_comes_up() -> None:
    port = free_port()
    late: list[WebServer] = []
    timer = threading.Timer(0.5, lambda: late.append(WebServer("app: late\n", port=port)))
    timer.start()
    try:
        assert load_patiently(source_of(f"http://127.0.0.1:{port}/x"), PATIENCE_S).data == b"app: late\n"
    finally:
        timer.join()
        late[0].stop()


def test_the_wait_is_bounded_and_a_refusal_is_not_waited_for(web: WebServer) -> None:
    began = time.monotonic()
    with pytest.raises(SourceDown):
        load_patiently(source_of(f"http://127.0.0.1:{free_port()}/x"), 0.6)
    assert 0.2 < time.monotonic() - began < 5
    web.status = 404
    with pytest.raises(ConfigError, match="status 404"):
        load_patiently(source_of(web.url()), PATIENCE_S)
    assert len(web.requests) == 1
