"""`jetp`: the table of commands, each loaded when it is called, and what every command leaves with.

`jetp --help` loads nothing but click. Errors on purpose become one sentence and their exit code; anything else is a
defect, said in one sentence, with the traceback when JETWATCH_DEBUG=1.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from jetwatch.cli import streams
from jetwatch.errors import NO_FILE_LEFT, ConfigError, JetwatchError, NoRoom, UsageError
from jetwatch.telemetry.plain import visible

_GARBAGE_LOOKED_FOR = 20_000
"""After so many new objects. A start makes 37,000 that stay: with Python's 700, looking them through is 4 % of it."""

_INTERNAL = 70
_INTERRUPTED = 130

COMMANDS: Mapping[str, tuple[str, str]] = {
    "watch": ("jetwatch.cli.watch:watch", "Run the agent in the foreground."),
    "check-config": ("jetwatch.cli.config:check_config", "Validate a configuration and print it in full."),
    "schema": ("jetwatch.cli.config:schema", "Print the JSON Schema of watch.yml, or of the log."),
    "fetch": ("jetwatch.cli.fetch:fetch", "Put the present revision of a content source into a directory."),
    "status": ("jetwatch.cli.reading:status", "What is: the agent and every watch."),
    "runs": ("jetwatch.cli.reading:runs", "What was: the newest runs."),
    "show": ("jetwatch.cli.reading:show", "One run in full."),
    "logs": ("jetwatch.cli.reading:logs", "The output of a run."),
    "why": ("jetwatch.cli.reading:why", "The last decision and the next, and what stands in the way."),
    "doctor": ("jetwatch.cli.doctor:doctor", "What on this machine keeps an agent from working, and what to do."),
    "trigger": ("jetwatch.cli.verbs:trigger", "Check now."),
    "cancel": ("jetwatch.cli.verbs:cancel", "End a run."),
    "clear": ("jetwatch.cli.verbs:clear", "Forget backoff, quarantine and hold."),
    "suspend": ("jetwatch.cli.verbs:suspend", "No new runs for now."),
    "resume": ("jetwatch.cli.verbs:resume", "Allow new runs again."),
    "plan": ("jetwatch.cli.plan:plan", "What this configuration does to its servers on N machines."),
    "local": ("jetwatch.cli.local:local", "Apply a playbook to this machine."),
    "init": ("jetwatch.cli.init:init", "Write a first watch.yml."),
    "import-cron": ("jetwatch.cli.importing:import_cron", "Print a watch.yml that does what a crontab does."),
    "import-timer": ("jetwatch.cli.importing:import_timer", "Print a watch.yml that does what a systemd timer does."),
    "completion": ("jetwatch.cli.completion:completion", "Print the completion of a shell."),
    "version": ("jetwatch.cli.version:version", "Print the version."),
}


class LazyGroup(click.Group):
    """Commands by name, each imported when it is called; help is printed from the table alone."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's interface
        """Every name, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with the nearest name for one that does not exist."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            ctx.fail(f"There is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """One line per command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in COMMANDS.items()])


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.invoke(importlib.import_module("jetwatch.cli.version").version)
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
def jetp() -> None:
    """A pull agent: check, download, apply, tell, and never lose a run.

    Start with `jetp watch --watch-config watch.yml`, then look with `jetp status` and `jetp why`.
    """


def main() -> NoReturn:
    """The program `jetp`. Leaves with the exit codes of the reference page."""
    streams.open_all()
    faulthandler.enable()  # a crash inside a library says where
    gc.set_threshold(_GARBAGE_LOOKED_FOR)
    try:
        code = _run()
        sys.stdout.flush()
    except streams.OutputError as error:
        streams.forget_output()
        if not error.is_gone:
            _complain(error)
        code = error.exit_code
    if threading.active_count() > 1:
        # A thread that still waits in a library (a server that drips) must not wake up in an interpreter that is
        # being taken apart.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run() -> int:
    try:
        _refuse_bytes(sys.argv[1:])
        result: Any = jetp.main(prog_name="jetp", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except streams.OutputError:
        raise
    except JetwatchError as error:
        _complain(error)
        return error.exit_code
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0
    except Exception as error:  # noqa: BLE001 - the top of the program: a defect is said, in one sentence
        return _unforeseen(error)
    return result if isinstance(result, int) else 0


def _refuse_bytes(words: list[str]) -> None:
    """Raise UsageError for a word that is not UTF-8: no log, journal or answer could hold it.

    The words of `jetp local` are the engine's own business.
    """
    for word in words if words[:1] != ["local"] else ():
        if not word.isascii():
            from jetwatch.records import is_text

            if not is_text(word):
                raise UsageError(f"not UTF-8: {visible(word)}")


def _complain(error: JetwatchError) -> None:
    """The error's sentence on standard error; the problems of a configuration one per line, as compilers do it."""
    prefix = "" if isinstance(error, ConfigError) else "jetp: "
    print("\n".join(visible(line) for line in f"{prefix}{error}".split("\n")), file=sys.stderr)


def _unforeseen(error: Exception) -> int:
    """Nobody handled it: the machine's doing, or a defect."""
    if isinstance(error, OSError) and error.errno in NO_FILE_LEFT:
        _complain(NoRoom(f"{error.strerror}: look at LimitNOFILE=, ulimit -n and fs.file-max"))
        return NoRoom.exit_code
    if os.environ.get("JETWATCH_DEBUG") == "1":
        import traceback

        traceback.print_exc()
    said = " ".join(str(error).split())
    print(
        f"jetp: internal error: {type(error).__name__}: {said:.200}. JETWATCH_DEBUG=1 shows where; please report it",
        file=sys.stderr,
    )
    return _INTERNAL


if __name__ == "__main__":
    main()
