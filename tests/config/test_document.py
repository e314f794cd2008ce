"""Files that are no configuration: refused by name and place before any work is done on them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mqsdk.config import document, files
from mqsdk.config.load import load
from mqsdk.errors import ConfigError

CANARY = "hunter2canary"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))


def refusal(path: str | Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, environ={})
    assert len(caught.value.problems) == 1
    assert CANARY not in str(caught.value)
    return str(caught.value.problems[0])


@pytest.mark.parametrize(
    ("content", "begin"),
    [
        (b"\xef\xbb\xbfapp: x\n", "mqsdk.yaml:1:1: begins with a byte order mark"),
        ("app: x\n".encode("utf-16"), "mqsdk.yaml:1:1: begins with a byte order mark"),
        (b"app: x\nname: \xff\n", "mqsdk.yaml:2:7: is not UTF-8"),
        (b"app: x\nname: a\x00b\n", "mqsdk.yaml:2:8: holds a character that YAML does not allow"),
        (b"drain:\n\ttimeout: 3s\n", "mqsdk.yaml:2:1: a tab where YAML wants spaces"),
        (b"just text\n", "mqsdk.yaml:1:1: must be a mapping of keys"),
        (b"- a\n- b\n", "mqsdk.yaml:1:1: must be a mapping of keys"),
        (b"app: [a, b\n", "mqsdk.yaml:2:1: not valid YAML: "),
        (b"app: x\n  y: z\n", "mqsdk.yaml:2:4: not valid YAML: mapping values are not allowed here"),
        (b"app: x\n---\napp: y\n", "mqsdk.yaml:2:1: not valid YAML: "),
        (f"app: x\nname: *{CANARY}\n".encode(), "mqsdk.yaml:2:7: not valid YAML: found undefined alias ..."),
        (f"app: x\nname: !{CANARY} y\n".encode(), "mqsdk.yaml:2:7: name: tags (`!`) are not supported"),
        (f"app: x\nname: !{CANARY}!x y\n".encode(), "mqsdk.yaml:2:7: not valid YAML: found undefined tag handle ..."),
        (b"x: !!python/object/apply:os.system [ls]\n", "mqsdk.yaml:1:4: x: tags (`!`) are not supported"),
        (b"x: &x [*x]\n", "mqsdk.yaml:1:4: x[0]: an alias refers to itself"),
        (BOMB.encode(), "mqsdk.yaml:1:37: aliases expand to more than 20,000 values"),
        (b"a: &a 1\nb: [" + b"*a, " * 101 + b"]\n", "mqsdk.yaml:2:405: has more than 100 aliases"),
        (b"a: " + b"[" * 5000 + b"\n", "mqsdk.yaml:1:53: is nested deeper than 50 levels"),
        (b"a: [" + b"1," * 30_000 + b"1]\n", "mqsdk.yaml:1:39999: has more than 20,000 values"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_bytes_that_are_no_configuration_are_refused_with_their_place(write: Callable[[bytes], str], content: bytes, begin: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(content), environ={})
    texts = [str(problem) for problem in caught.value.problems]
    assert any(text.startswith(begin) for text in texts), texts
    assert CANARY not in str(caught.value)


def test_an_empty_file_means_the_defaults(write: Callable[[str], str]) -> None:
    for content in ("", "\n", "# only a comment\n", "---\n"):
        assert load(write(content), environ={}).clusters["local"].backend == "log"


def test_a_missing_file_that_was_named_is_an_error(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.yaml").startswith(f"{tmp_path}/none.yaml: there is no such file")


def test_directories_and_pipes_are_not_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is a directory" in refusal(tmp_path)
    assert "is not a regular file" in refusal(tmp_path / "pipe")
    assert "is not a regular file" in refusal("/dev/zero")


def test_paths_that_cannot_be_opened_say_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be opened: Not a directory" in refusal(tmp_path / "file" / "mqsdk.yaml")
    assert "cannot be opened: Too many levels of symbolic links" in refusal(tmp_path / "loop")
    assert "cannot be opened: not a usable path" in refusal("a\0b")


@pytest.mark.parametrize("size", [1024 * 1024 + 1, 1024**3])
def test_a_large_file_is_refused_before_it_is_parsed(write: Callable[[str], str], size: int) -> None:
    path = write("app: x\n")
    os.truncate(path, size)
    began = time.monotonic()
    assert refusal(path) == "mqsdk.yaml: is larger than 1 MiB (a configuration holds settings only; check the path)"
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(("mode", "who"), [(0o664, "its group"), (0o646, "everybody"), (0o666, "everybody")])
def test_a_file_that_others_can_write_is_refused(write: Callable[[str], str], mode: int, who: str) -> None:
    path = write("app: x\n")
    os.chmod(path, mode)
    assert refusal(path) == f"mqsdk.yaml: can be written by {who} (chmod go-w mqsdk.yaml)"


@pytest.mark.parametrize(("me", "owner", "trusted"), [(1000, 1000, True), (1000, 0, True), (0, 1000, True), (1000, 1001, False)])
def test_a_file_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch, me: int, owner: int, trusted: bool) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: me)
    status = os.stat_result((0o100644, 0, 0, 1, owner, 0, 0, 0, 0, 0))
    if trusted:
        files.check_trust("mqsdk.yaml", status)
    else:
        with pytest.raises(ConfigError, match="belongs to another user"):
            files.check_trust("mqsdk.yaml", status)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("True", "True"),
        ("true", True),
        ("1:30", "1:30"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("2024-01-31", "2024-01-31"),
        ("-7", -7),
        ("1.5", 1.5),
        ("2e3", 2000.0),
        ("~", None),
        ("null", None),
        (".inf", ".inf"),
        ("=", "="),
    ],
)
def test_only_what_looks_like_a_number_or_boolean_is_one(write: Callable[[str], str], text: str, value: object) -> None:
    assert document.read(write(f"x: {text}\n")).data == {"x": value}


def test_merge_keys_fill_in_and_own_keys_win(write: Callable[[str], str]) -> None:
    found = document.read(write("a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc:\n  <<: [*a, *b]\n  x: 9\n"))
    assert found.data["c"] == {"x": 9, "y": 2, "z": 4}
    assert found.place(("c", "x"))[1:] == (5, 3)
    assert found.place(("c", "z"))[1:] == (2, 14)
