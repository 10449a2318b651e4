"""`jetp check-config` and `jetp schema`: is this configuration right, what does it mean, what may stand in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from jetwatch.cli import trying
from jetwatch.cli.durations import duration
from jetwatch.cli.places import PLACE
from jetwatch.cli.streams import say, say_json, say_text
from jetwatch.config.model import Settings
from jetwatch.errors import ConfigError, UsageError


@click.command("check-config", short_help="Validate a configuration and print what it means.")
@click.argument("path", type=PLACE)
@click.option("--online", is_flag=True, help="Try the content source of every watch: one look each.")
@click.option(
    "--deadline",
    "deadline_s",
    type=duration(least_s=0.1),
    help="For one look.  [default: the watch's `timeouts.check`]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: seconds and bytes as numbers, problems as objects.")
def check_config(path: Path, online: bool, deadline_s: float | None, as_json: bool) -> None:
    """Validate PATH, a watch.yml or a directory of *.yml files, and print the effective configuration.

    Defaults are filled in and secrets shown as ***. Warnings go to standard error: among them what keeps content from
    working on this very machine, such as a library that is not installed or a key file that is not there. A
    configuration that will not do prints every problem, one a line, with file, line and key, and exits 78. Nothing is
    started.

    With --online every content source is asked once which revision it has, as the agent would ask, and a line for each
    watch is printed instead. Nothing is changed. Leaves with 78 if a person is needed for one of them (credentials, no
    such bucket), else with 75 if one did not answer.

    \b
    Examples:
      jetp check-config /etc/jetwatch/watch.yml
      jetp check-config --online /etc/jetwatch/watch.yml
    """
    from jetwatch.config.effective import as_data, as_text
    from jetwatch.config.load import load

    if deadline_s is not None and not online:
        raise UsageError("--deadline is for --online")
    try:
        settings, warnings = load(path, examine=trying.examine)
    except ConfigError as error:
        for problem in error.problems:
            say(str(problem), err=True)
        if as_json:
            say_json({"problems": [problem._asdict() for problem in error.problems]})
        raise SystemExit(error.exit_code) from None
    for warning in warnings:
        say(f"warning: {warning}", err=True)
    told = {"warnings": [warning._asdict() for warning in warnings]}
    if online:
        _try(settings, deadline_s, told if as_json else None)
    elif as_json:
        say_json(as_data(settings) | told)
    else:
        say_text(as_text(settings))


def _try(settings: Settings, deadline_s: float | None, told: dict[str, Any] | None) -> None:
    """A line for each watch as it is known, or, with what was told before, one document at the end."""
    tried = []
    for each in trying.try_all(settings, deadline_s):
        tried.append(each)
        if told is None:
            say(each.as_line())
    if told is not None:
        say_json({"looks": [each.as_data() for each in tried]} | told)
    raise SystemExit(trying.exit_code(tried))


@click.command("schema", short_help="Print the JSON Schema of watch.yml, or of the log.")
@click.option("--events", is_flag=True, help="Print the JSON Schema of the log lines instead.")
def schema(events: bool) -> None:
    """Print the JSON Schema of watch.yml, for editors that complete and check YAML.

    \b
    Example:
      jetp schema > ~/.config/watch.schema.json
      # then, as first line of watch.yml:
      # yaml-language-server: $schema=/home/me/.config/watch.schema.json
    """
    if events:
        from jetwatch.telemetry.reference import events_schema

        say_json(events_schema())
        return
    from jetwatch.config.schema import schema_text

    say_text(schema_text())
