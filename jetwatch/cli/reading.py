"""`jetp status`, `runs`, `show`, `logs`, `why`: the commands that read. They need no agent and change nothing."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from jetwatch.cli import history
from jetwatch.cli import logs as output_of
from jetwatch.cli import status as status_page
from jetwatch.cli import why as why_page
from jetwatch.cli.opening import is_running, known_watches, present, reading, require_watch, state_dir_option
from jetwatch.cli.people import Screen, Times
from jetwatch.cli.standing import complaints, look
from jetwatch.cli.streams import say, say_json
from jetwatch.journal.journal import Journal
from jetwatch.records import Run
from jetwatch.statedir import StateDir

json_option = click.option("--json", "as_json", is_flag=True, help="For programs: one JSON document.")


def _print_json(document: Any) -> None:
    say_json(document)


@click.command()
@state_dir_option
@json_option
@click.option("--check", is_flag=True, help="Leave with 1 when something is unwell.")
def status(layout: StateDir, as_json: bool, check: bool) -> None:
    """What is: the agent and every watch.

    \b
    Unwell is: no agent, a rejected configuration, a newest run that ended
    other than ok, a check in error, quarantine, hold, a command that cannot
    be killed, hooks owed for more than an hour or given up.

    \b
    Example:
      jetp status --check && echo all is well
    """
    screen = Screen()
    with reading(layout) as journal:
        standing = look(layout, journal, present())
    times = Times(standing.now, relative=screen.is_terminal)
    if as_json:
        _print_json(status_page.as_data(standing, times))
    else:
        status_page.draw(standing, screen, times)
    if check and complaints(standing):
        raise SystemExit(1)


@click.command()
@state_dir_option
@json_option
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
@click.option("--watch", metavar="NAME", help="Of this watch only.")
def runs(layout: StateDir, as_json: bool, limit: int, watch: str | None) -> None:
    """What was: the newest runs first.

    \b
    Example:
      jetp runs --watch web --limit 5
    """
    screen = Screen()
    with reading(layout) as journal:
        if watch is not None:
            require_watch(watch, {*journal.watches(), *known_watches(journal)})
        found = journal.runs(watch=watch, limit=limit)
    if as_json:
        _print_json([history.run_as_data(run) for run in found])
    else:
        history.draw_runs(found, screen, Times(present(), relative=screen.is_terminal))


@click.command()
@click.argument("uuid", required=False)
@state_dir_option
@json_option
def show(uuid: str | None, layout: StateDir, as_json: bool) -> None:
    """One run in full: the newest, or the one whose UUID begins with this.

    \b
    Example:
      jetp show 548400f7
    """
    screen = Screen()
    with reading(layout) as journal:
        run = journal.run(uuid)
        hooks = journal.hooks_of(run.id)
    if as_json:
        _print_json(history.record_as_data(run, hooks))
    else:
        history.draw_run(run, hooks, layout, screen, Times(present(), relative=screen.is_terminal))


@click.command()
@click.argument("uuid", required=False)
@state_dir_option
@json_option
@click.option("--step", metavar="NAME", help="Of this step or hook only: download, play, on_ok, ...")
@click.option("--follow", "-f", is_flag=True, help="Wait for more until the run has ended.")
def logs(uuid: str | None, layout: StateDir, as_json: bool, step: str | None, follow: bool) -> None:
    """The output of a run: the newest, or the one whose UUID begins with this.

    In a pipe it comes byte for byte; on a terminal control characters are shown escaped.

    \b
    Example:
      jetp logs 548400f7 --step play --follow
    """
    if as_json and follow:
        raise click.UsageError("--json and --follow do not go together")
    with reading(layout) as journal:
        run = journal.run(uuid)
        found = output_of.sources(run, journal.hooks_of(run.id), layout, step)
        if as_json:
            _print_json(list(output_of.as_data(found)))
        else:
            _print_output(journal, run, found, layout, step, following=follow)


def _print_output(
    journal: Journal, run: Run, found: list[output_of.Source], layout: StateDir, step: str | None, *, following: bool
) -> None:
    is_terminal = sys.stdout.isatty()
    headers = step is None and (is_terminal or output_of.wants_headers(run, found, following=following))
    printer = output_of.Printer(sys.stdout.buffer, is_terminal=is_terminal, headers=headers)
    if not following:
        if found and not any(source.directory.exists() for source in found):
            say(f"jetp: the output of run {run.id[:8]} is not kept any more", err=True)
            return
        output_of.print_all(found, printer)
        return

    def look_again() -> tuple[bool, list[output_of.Source]]:
        now = journal.run(run.id)
        hooks = journal.hooks_of(run.id)
        goes_on = now.is_open or (
            output_of.first_tries_go_on(now, hooks, present()) and is_running(layout, journal.agent())
        )
        return not goes_on, output_of.sources(now, hooks, layout, step)

    output_of.follow(look_again, printer, lambda: time.sleep(output_of.POLL_S))


@click.command()
@click.argument("watch", required=False)
@state_dir_option
@json_option
def why(watch: str | None, layout: StateDir, as_json: bool) -> None:
    """The last decision and the next one, and all that stands in the way.

    \b
    Example:
      jetp why web
    """
    screen = Screen()
    with reading(layout) as journal:
        standing = look(layout, journal, present())
    if watch is not None:
        require_watch(watch, [each.name for each in standing.watches])
    chosen = [each for each in standing.watches if watch is None or each.name == watch]
    times = Times(standing.now, relative=screen.is_terminal)
    if as_json:
        _print_json(why_page.as_data(standing, chosen, times))
    else:
        why_page.draw(standing, chosen, screen, times)
