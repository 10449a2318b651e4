"""`jetp import-cron`: what runs jobs now, as a watch.yml."""

from __future__ import annotations

import pwd
import re
from pathlib import Path
from typing import TextIO

import click

from jetwatch.errors import UsageError

_SPOOL = re.compile(r"/var/spool/cron/(?:crontabs/|tabs/)?([^/]+)")


@click.command("import-cron", short_help="Print a watch.yml that does what a crontab does.")
@click.argument("file", type=click.File(encoding="utf-8"))
@click.option(
    "--user-column/--no-user-column",
    default=None,
    help="Whether a user stands before each command.  [default: found out from the place and the lines]",
)
@click.option("--user", metavar="NAME", help="Whose crontab it is, where there is no user column.")
def import_cron(file: TextIO, user_column: bool | None, user: str | None) -> None:
    """Print a watch.yml that does what the crontab FILE does (`-`: standard input).

    Both forms are read: that of `crontab -l` and, with a user before each command, that of /etc/crontab. What has no
    equivalent is said on standard error and in a comment in its place. Nothing is run, and nothing is changed.

    \b
    Examples:
      jetp import-cron /etc/crontab > watch.yml && jetp check-config watch.yml
      crontab -l | jetp import-cron --user "$USER" - > watch.yml
    """
    from jetwatch.importing import crontab, from_cron, watch_file

    text = _text(file)
    place = "-" if file.name in ("-", "<stdin>") else str(Path(file.name).absolute())
    if user_column is None:
        user_column = user is None and crontab.has_user_column(text, place, _is_account)
    if user_column and user is not None:
        raise UsageError("--user is for a crontab without a user column")
    spool = _SPOOL.fullmatch(place)
    owner = user or (spool[1] if spool else None)
    found = from_cron.convert(
        crontab.lines(text, user_column=user_column), owner=None if user_column else owner, home_of=_home
    )
    for remark in found.remarks:
        click.echo(f"warning: {file.name}:{remark.line}: {remark.text}", err=True)
    if not found.watches:
        raise UsageError(f"{file.name}: there is no job in it that a watch could do")
    form = "with" if user_column else "without"
    header = (f"Made by `jetp import-cron` from {file.name}, read as a crontab {form} a user column.",)
    click.echo(watch_file.text(found, (*header, *from_cron.HEADER_NOTES), from_cron.DEFAULTS), nl=False)


def _text(file: TextIO) -> str:
    try:
        return file.read()
    except UnicodeDecodeError as error:
        raise UsageError(f"{file.name}: expected UTF-8, found other bytes at {error.start}; `iconv` converts") from None


def _is_account(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _home(account: str) -> str | None:
    """Where the account lives, if there is such a directory on this machine."""
    home = pwd.getpwnam(account).pw_dir if _is_account(account) else ""
    return home if Path(home).is_dir() and home else None
