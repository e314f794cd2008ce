"""`init`: a first project that runs as it is."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mqsdk.cli.exits import Refused
from mqsdk.cli.session import Command, Session, pass_session

CONFIGURATION = """\
# What runs under your handlers. Every key is optional; without this file mqsdk uses these values, and `app` as the name.
version: 1
app: {name}

clusters:
  # A durable log in a folder: no server, any number of processes of this host may share it. A relative path is taken from the
  # working directory of each process, so start them all in the same one, or write an absolute path.
  # durability: none | interval (a power cut takes the last 10 ms) | always (synced before a publish returns)
  local: {{backend: log, path: ./.mqsdk, durability: interval}}

# Topic patterns -> cluster; the first match wins. Moving a topic to another broker is a change of this line.
routes:
  - {{topics: ["*"], cluster: local}}

# For every consumer. `consumers:` overrides them for one, by "topic/group".
defaults: {{concurrency: 8, timeout: 5m}}
# consumers:
#   "hello/printer":
#     concurrency: 32
#     retry: {{attempts: 10, backoff: {{base: 1s, factor: 2, max: 1m, jitter: 0.2}}, on_exhausted: dead_letter}}

publish: {{timeout: 10s}}
drain: {{timeout: 30s}}
"""

APPLICATION = '''\
"""Run it:      mqsdk run app:app
Say hello:   mqsdk publish hello world
Look:        mqsdk topics; mqsdk lag; mqsdk peek hello --body
"""

from mqsdk import App

app = App()


@app.consumer("hello", group="printer")
def greet(name: str) -> None:
    """Called once per message; raising an exception runs it again, with backoff."""
    print("hello", name, flush=True)
'''


@click.command(cls=Command)
@click.argument("directory", default=".", metavar="[DIR]")
@pass_session
def init(session: Session, directory: str) -> None:
    """Write a commented mqsdk.yaml and an app.py into DIR; existing files are never touched."""
    folder = Path(directory)
    files = {"mqsdk.yaml": CONFIGURATION.format(name=_app_name(folder)), "app.py": APPLICATION}
    existing = [name for name in files if (folder / name).exists()]
    if existing:
        raise Refused(f"{' and '.join(existing)} already exist", where=str(folder.absolute()), fix="name another folder: mqsdk init DIR")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            _write_new(folder / name, text)
    except OSError as error:
        raise Refused(f"cannot write: {error.strerror}", where=str(error.filename or folder)) from error
    session.out.fields({"written": [str(folder / name) for name in files]})
    session.out.say(
        f"next: {'' if folder == Path() else f'cd {folder} && '}mqsdk run app:app, and in another terminal: mqsdk publish hello world"
    )


def _app_name(folder: Path) -> str:
    """The folder's name as far as it fits a name."""
    kept = "".join(char for char in folder.absolute().name if char.isascii() and (char.isalnum() or char in "-_")).lstrip("-_")
    return kept[:64] or "app"


def _write_new(path: Path, text: str) -> None:
    """Mode 0644 whatever the umask says: a configuration that a group may write is refused when it is read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    path.chmod(0o644)
