"""`jetp check-config` and `jetp schema`: is this configuration right, what does it mean, what may stand in it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from jetwatch.errors import ConfigError


@click.command("check-config", short_help="Validate a configuration and print what it means.")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON: seconds and bytes as numbers, problems as objects.")
def check_config(path: Path, as_json: bool) -> None:
    """Validate PATH, a watch.yml or a directory of *.yml files, and print the effective configuration.

    Defaults are filled in and secrets shown as ***. Warnings go to standard error. A configuration that will not do
    prints every problem, one a line, with file, line and key, and exits 78. Nothing is started.

    \b
    Example:
      jetp check-config /etc/jetwatch/watch.yml
    """
    from jetwatch.config.effective import as_data, as_text
    from jetwatch.config.load import load

    try:
        settings, warnings = load(path)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(str(problem), err=True)
        if as_json:
            click.echo(json.dumps({"problems": [dataclasses.asdict(problem) for problem in error.problems]}, indent=2))
        raise SystemExit(error.exit_code) from None
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        data = as_data(settings) | {"warnings": [dataclasses.asdict(warning) for warning in warnings]}
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        click.echo(as_text(settings), nl=False)


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
        from jetwatch.telemetry.render import events_schema

        click.echo(json.dumps(events_schema(), indent=2, ensure_ascii=False))
        return
    from jetwatch.config.schema import schema_text

    click.echo(schema_text(), nl=False)
