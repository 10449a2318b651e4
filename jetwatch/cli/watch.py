"""`jetp watch`: the agent in the foreground."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from jetwatch.cli.places import PLACE
from jetwatch.signals import hold_back

FORMATS = ("json", "console", "logfmt")
LEVELS = ("debug", "info", "warning", "error")


@click.command("watch")
@click.option(
    "--watch-config",
    "config_path",
    required=True,
    metavar="PATH",
    type=PLACE,
    help="watch.yml, or a directory of them.",
)
@click.option("--once", is_flag=True, help="Finish open runs, check every watch once, and end.")
@click.option("--no-splay", is_flag=True, help="Check at once instead of after a random wait.")
@click.option(
    "--state-dir",
    metavar="DIR",
    type=PLACE,
    help="Where everything is kept, one per agent.",
)
@click.option("--log-format", type=click.Choice(FORMATS), help="Default: console on a terminal, else json.")
@click.option("--log-level", type=click.Choice(LEVELS), help="Tell events from this level on. Default: info.")
def watch(
    *,
    config_path: Path,
    once: bool,
    no_splay: bool,
    state_dir: Path | None,
    log_format: str | None,
    log_level: str | None,
) -> None:
    """Run the agent in the foreground, until a signal ends it.

    TERM and INT stop it, HUP reads the configuration again, USR1 checks every watch now.

    \b
    Example:
      jetp watch --watch-config /etc/jetwatch/watch.yml
      jetp watch --watch-config watch.yml --once --no-splay
    """
    hold_back(signal.SIGHUP, signal.SIGUSR1)
    from jetwatch.agent import run

    code = run(
        config_path, state_dir=state_dir, once=once, no_splay=no_splay, log_format=log_format, log_level=log_level
    )
    raise SystemExit(code)
