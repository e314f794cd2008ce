"""A configuration from a remote source: what it may refer to, and the last good one that is kept for a start without it."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqsdk.config import load as loading
from mqsdk.config import references
from mqsdk.config.load import load
from mqsdk.config.model import Configuration
from mqsdk.config.origin import SourceDown, source_of
from mqsdk.config.references import Resolver
from mqsdk.config.settings import Settings
from mqsdk.errors import ConfigError
from tests.brokers.ports import free_port
from tests.brokers.web import WebServer

CLUSTER = "clusters: {main: {backend: redis, auth: {user: x, password: '%s'}}}\n"


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer("app: shop\n") as server:
        yield server


@pytest.fixture
def environ(web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variables that name the web server, with a state folder of the test's own, and no patience."""
    monkeypatch.setattr("mqsdk.config.origin.load_patiently", lambda source: source.load(0.5))
    return {"MQSDK_CONFIG": web.url(user="u:geheim@"), "MQSDK_STATE": str(tmp_path / "state"), "HOME": "/home/me", "MQ_PASSWORD": "word"}


def password(found: Configuration) -> object:
    return found.clusters["main"].options["auth"]["password"]


def kept_files(environ: dict[str, str]) -> list[Path]:
    return sorted((Path(environ["MQSDK_STATE"]) / "config").iterdir())


def test_an_address_stands_wherever_a_path_may(web: WebServer, environ: dict[str, str]) -> None:
    for found in (load(environ=environ), load(web.url(), environ=environ), Settings.load(web.url(), environ=environ).configuration()):
        assert (found.app, found.source, found.cached) == ("shop", web.url(), False)


def test_problems_name_the_source_with_line_and_column(web: WebServer, environ: dict[str, str]) -> None:
    web.put("app: shop\ndrain: {timeuot: 3s}\n")
    with pytest.raises(ConfigError) as caught:
        load(environ=environ)
    assert str(caught.value.problems[0]) == f"{web.url()}:2:9: drain.timeuot: unknown key (did you mean `timeout`?)"
    assert "geheim" not in str(caught.value)


# --- references -----------------------------------------------------------------------------------------------------------------------


def test_a_remote_source_reads_only_variables_that_are_meant_for_it(web: WebServer, environ: dict[str, str]) -> None:
    web.put(CLUSTER % "${env:MQ_PASSWORD}")
    assert password(load(environ=environ)) == "word"
    for name in ("HOME", "MQSDK_STATE", "mq_password", "MQ"):
        web.put(CLUSTER % f"${{env:{name}}}")
        with pytest.raises(ConfigError, match=f"may not refer to the variable {name}") as caught:
            load(environ={**environ, "MQ": "x", "mq_password": "x"})
        assert "MQ_" in caught.value.problems[0].fix


OUTSIDE = ["/etc/passwd", "run/secrets/x", "/run/secrets", "/run/secrets/../../etc/passwd", "/run/secrets/a/../../x", "/run/secretsx/y", ""]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_remote_source_reads_no_file_outside_of_the_secrets(web: WebServer, environ: dict[str, str], name: str) -> None:
    web.put(CLUSTER % f"${{file:{name}}}")
    with pytest.raises(ConfigError, match="may not refer to the file" if name else "no reference"):
        load(environ=environ)


def test_a_remote_source_reads_mounted_secrets(
    web: WebServer, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mq").write_text("mounted\n")
    web.put(CLUSTER % "${file:/run/secrets/mq}")
    with pytest.raises(ConfigError, match="/run/secrets/mq cannot be read"):
        load(environ=environ)
    monkeypatch.setattr(references, "REMOTE_FILES", str(tmp_path))
    web.put(CLUSTER % f"${{file:{tmp_path}/mq}}")
    assert password(load(environ=environ)) == "mounted"


def test_variables_of_the_host_may_refer_to_the_host(web: WebServer, environ: dict[str, str], tmp_path: Path) -> None:
    """And only they: of a mapping that both give, the source's part stays bounded."""
    (tmp_path / "secret").write_text("of the host")
    web.put(CLUSTER % "x")
    assert password(load(environ={**environ, "MQSDK_CLUSTERS__MAIN__AUTH__PASSWORD": f"${{file:{tmp_path}/secret}}"})) == "of the host"
    web.put("clusters: {main: {backend: redis, own: {a: '${env:HOME}'}}}\n")
    with pytest.raises(ConfigError) as caught:
        load(environ={**environ, "MQSDK_CLUSTERS__MAIN__OWN": '{"b": "${env:HOME}"}'})
    assert [problem.key for problem in caught.value.problems if "may not refer" in problem.what] == ["clusters.main.own.a"]


def test_a_file_of_the_host_may_refer_to_all_of_it(tmp_path: Path) -> None:
    file = tmp_path / "mqsdk.yaml"
    file.write_text(CLUSTER % "${env:HOME}")
    file.chmod(0o600)
    assert password(load(file, environ={"HOME": "/home/me"})) == "/home/me"
    assert Resolver({"HOME": "x"}).resolve("${env:HOME}").reveal() == "x"


# --- the last good one ----------------------------------------------------------------------------------------------------------------


def test_a_start_without_the_source_takes_the_last_good_configuration(web: WebServer, environ: dict[str, str]) -> None:
    web.put(CLUSTER % "${env:MQ_PASSWORD}")
    load(environ=environ)
    web.put("app: [")
    with pytest.raises(ConfigError):
        load(environ=environ)  # not good, so not kept
    web.status = 503
    found = load(environ={**environ, "MQ_PASSWORD": "new"})
    (file,) = kept_files(environ)
    assert (password(found), found.cached, found.source) == ("new", True, web.url())
    assert found.notices == (
        f"{web.url()}: cannot be reached: the server answers with status 503 (check the address and the network); "
        f"started from its last good configuration, {file}",
    )
    web.status = 200
    web.put("app: back\n")
    assert load(environ=environ).notices == ()
    web.status = 503
    assert load(environ=environ).app == "back"


def test_what_is_kept_is_private_and_holds_no_resolved_secret(web: WebServer, environ: dict[str, str]) -> None:
    web.put(CLUSTER % "${env:MQ_PASSWORD}")
    load(environ=environ)
    (file,) = kept_files(environ)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (file.parent, file.parent.parent)] == [0o700, 0o700]
    assert file.read_text() == CLUSTER % "${env:MQ_PASSWORD}"
    before = file.stat()
    load(environ=environ)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_is_kept_may_refer_to_no_more_than_the_source(web: WebServer, environ: dict[str, str]) -> None:
    load(environ=environ)
    (file,) = kept_files(environ)
    file.write_text(CLUSTER % "${env:HOME}")
    web.status = 503
    with pytest.raises(ConfigError, match="may not refer to the variable HOME"):
        load(environ=environ)


def test_what_others_could_have_written_is_not_taken(web: WebServer, environ: dict[str, str]) -> None:
    load(environ=environ)
    (file,) = kept_files(environ)
    file.chmod(0o666)
    web.status = 503
    with pytest.raises(ConfigError, match="can be written by everybody"):
        load(environ=environ)


def test_each_source_has_its_own_whoever_asks(web: WebServer, environ: dict[str, str]) -> None:
    for place in (web.url("/a"), web.url("/b"), web.url("/a?x=1"), web.url("/a", user="other:word@")):
        load(place, environ=environ)
    assert len(kept_files(environ)) == 3


def test_without_anything_kept_a_source_that_is_down_is_an_error(web: WebServer, environ: dict[str, str]) -> None:
    web.status = 503
    with pytest.raises(SourceDown, match="cannot be reached"):
        load(environ=environ)


def test_an_answer_that_is_no_configuration_is_not_an_outage(web: WebServer, environ: dict[str, str]) -> None:
    """As with a file that is missing: what is kept is for the time without an answer."""
    load(environ=environ)
    web.status = 404
    with pytest.raises(ConfigError, match="status 404"):
        load(environ=environ)


def test_a_running_process_does_not_take_what_is_kept(web: WebServer, environ: dict[str, str]) -> None:
    load(environ=environ)
    web.status = 503
    with pytest.raises(SourceDown):
        load(environ=environ, running=True)


def test_without_a_usable_state_folder_it_starts_and_says_so(web: WebServer, environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = load(environ={**environ, "MQSDK_STATE": str(tmp_path / "file" / "state")})
    assert found.app == "shop"
    (notice,) = found.notices
    assert notice.startswith(f"{web.url()}: cannot be kept for a start without its source: Not a directory")


def test_a_disk_that_is_full_leaves_the_old_one(web: WebServer, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    load(environ=environ)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    web.put("app: new\n")
    assert "No space left on device" in load(environ=environ).notices[0]
    (file,) = kept_files(environ)
    assert file.read_text() == "app: shop\n"


def test_the_wait_of_a_start_is_the_one_that_the_page_names(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(SourceDown):
        load(f"http://127.0.0.1:{free_port()}/x", environ={"MQSDK_STATE": str(tmp_path)})
    assert 4 < time.monotonic() - began < 15
    page = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text()
    assert "a start tries for 5 s" in page
    assert loading.find(None, {"MQSDK_CONFIG": "redis://h?key=k"}) == "redis://h?key=k"
    assert source_of("x.yaml").id == ""
