"""`mqsdk`: the command group, and the one place where exceptions become messages and exit codes.

A command's module is imported when the command is chosen, so that `mqsdk --help` and `mqsdk run` stay fast.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

import click

from mqsdk.cli.exits import DEFECT, DONE, INTERRUPTED, REFUSED, USAGE, Refused, exit_code
from mqsdk.cli.session import Session, common_options
from mqsdk.errors import MqError


class Entry(NamedTuple):
    """Where a command is, and the line of `mqsdk --help`, which imports none of the modules. module "tools": a backend's own tools."""

    module: str
    name: str
    help: str


COMMANDS: dict[str, Entry] = {
    "run": Entry("run", "run", "Consume until a signal."),
    "publish": Entry("publish", "publish", "Publish one message, or one per line of stdin."),
    "check": Entry("check", "check", "Validate a configuration without connecting."),
    "topics": Entry("look", "topics", "List or delete topics."),
    "groups": Entry("groups", "groups", "List, create, delete or release groups."),
    "lag": Entry("groups", "lag", "How far groups are behind."),
    "peek": Entry("look", "peek", "Read messages without touching a group."),
    "tail": Entry("look", "tail", "Follow new messages without touching a group."),
    "offsets": Entry("offsets", "offsets", "Show or move a group's progress."),
    "dlq": Entry("dlq", "dlq", "Look at and handle dead letters."),
    "move": Entry("move", "move", "Move a topic to another cluster, step by step, and back."),
    "ps": Entry("processes", "ps", "Running mqsdk processes of this host and user."),
    "reload": Entry("processes", "reload", "Let running processes read their configuration now."),
    "stacks": Entry("processes", "stacks", "Running handlers with age and stack."),
    "doctor": Entry("doctor", "doctor", "Connect to the clusters; report unsafe settings."),
    "log": Entry("tools", "", "Look at the files of an embedded log, check and repair them."),
    "init": Entry("init", "init", "Write a commented mqsdk.yaml and an app.py."),
}
LATER = ("trace",)


class Commands(click.Group):
    """The group `mqsdk`. `main` ends the process with the exit code; tests call it through click's CliRunner."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        entry = COMMANDS.get(name)
        if entry is None or entry.module == "tools":
            return _tools(name)
        command = getattr(import_module(f"mqsdk.cli.{entry.module}"), entry.name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in LATER:
            raise Refused(f"`mqsdk {args[0]}` is not in this version", fix="`mqsdk --help` lists the commands of this version")
        if args[0] not in COMMANDS and not args[0].startswith("-") and _tools(args[0]) is None:
            raise click.UsageError(f"there is no command `{args[0]}`{_meant(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run one call and end the process with its exit code."""
        extra.pop("standalone_mode", None)
        session = extra.pop("obj", None) or Session()
        words = list(sys.argv[1:] if args is None else args)

        def call() -> Any:
            return super(Commands, self).main(words, "mqsdk", standalone_mode=False, obj=session, **extra)

        code = _guarded(session, words, call)
        session.out.flush()
        sys.exit(code)


def _tools(name: str) -> click.Command | None:
    """The command of a backend of this name, if it is installed and has tools. Shipped ones are in COMMANDS too, for `--help`."""
    from mqsdk.runtime import plugins

    if name not in COMMANDS and name not in plugins.known_backends():
        return None
    box = plugins.tools_of(name)
    if box is None:
        return None
    from mqsdk.cli.tools import family

    return family(name, box)


def _guarded(session: Session, words: Sequence[str], call: Any) -> int:
    """The exit code of a call; every exception becomes a message here and nowhere else."""
    try:
        try:
            result = call()
        finally:
            session.close()
    except click.exceptions.NoArgsIsHelpError as error:
        session.out.warn(error.format_message())
        return USAGE
    except click.ClickException as error:
        return _usage(session, words, error)
    except MqError as error:
        _heed_json(session, words)
        session.out.failure(error)
        return exit_code(error)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Exception:  # a defect of ours: said so with the traceback, never dressed up as a result
        import traceback

        traceback.print_exc()
        session.out.error("InternalError", "mqsdk failed; this is a defect of mqsdk, the traceback is on stderr")
        return DEFECT
    code = result if isinstance(result, int) else DONE
    return exit_code(session.unreachable[0]) if code == DONE and session.unreachable else code


def _meant(name: str, known: Iterable[str]) -> str:
    """`, did you mean ...?` where a known name is near, else nothing. Dashes, which all options share, make no two of them near."""
    from difflib import get_close_matches

    bare = {one.lstrip("-"): one for one in known}
    close = get_close_matches(name.lstrip("-"), bare, 1)
    return f", did you mean {bare[close[0]]}?" if close else ""


def _text(error: click.ClickException) -> str:
    if isinstance(error, click.NoSuchOption):
        known = [option for parameter in error.ctx.command.params for option in parameter.opts] if error.ctx else []
        return f"there is no option {error.option_name}{_meant(error.option_name, known)}"
    return error.format_message()


def _usage(session: Session, words: Sequence[str], error: click.ClickException) -> int:
    _heed_json(session, words)
    where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "mqsdk"
    session.out.error(type(error).__name__, _text(error), where, f"see `{where} --help`")
    return USAGE


def _heed_json(session: Session, words: Sequence[str]) -> None:
    """`--json` counts wherever it stands, also when the call ended before it was parsed."""
    session.out.json = session.out.json or "--json" in words


@click.command(cls=Commands, params=common_options(), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mqsdk", prog_name="mqsdk")
def cli() -> None:
    """Run and look at message handlers: topics, groups, progress, dead letters.

    Exit codes: 0 done, 1 found something wrong or rejected, 2 usage, 3 configuration, 4 unreachable, 5 refused, 6 not found,
    7 outcome unknown, 8 stop not clean, 9 watchdog.
    """


def main() -> NoReturn:
    """Entry point of the console script."""
    if sys.platform == "win32":
        print("error: mqsdk needs Linux or macOS\n  it locks and maps files in ways that Windows does not have\n  use WSL", file=sys.stderr)
        sys.exit(REFUSED)
    cli.main()
