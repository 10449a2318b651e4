"""`jetp import-cron` and `jetp import-timer`: what runs jobs now, as a watch.yml."""

from __future__ import annotations

import pwd
import re
from pathlib import Path
from typing import BinaryIO

import click

from jetwatch.cli.streams import say, say_text
from jetwatch.errors import UsageError

_SPOOL = re.compile(r"/var/spool/cron/(?:crontabs/|tabs/)?([^/]+)")


@click.command("import-cron", short_help="Print a watch.yml that does what a crontab does.")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--user-column/--no-user-column",
    default=None,
    help="Whether a user stands before each command.  [default: found out from the place and the lines]",
)
@click.option("--user", metavar="NAME", help="Whose crontab it is, where there is no user column.")
def import_cron(file: BinaryIO, user_column: bool | None, user: str | None) -> None:
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
        say(f"warning: {file.name}:{remark.line}: {remark.text}", err=True)
    if not found.watches:
        raise UsageError(f"{file.name}: there is no job in it that a watch could do")
    form = "with" if user_column else "without"
    header = (f"Made by `jetp import-cron` from {file.name}, read as a crontab {form} a user column.",)
    say_text(watch_file.text(found, (*header, *from_cron.HEADER_NOTES), from_cron.DEFAULTS))


@click.command("import-timer", short_help="Print a watch.yml that does what a systemd timer does.")
@click.argument("timer", type=click.File("rb"))
@click.argument("service", type=click.File("rb"), required=False)
def import_timer(timer: BinaryIO, service: BinaryIO | None) -> None:
    """Print a watch.yml that does what the unit file TIMER does; its SERVICE is looked for beside it.

    What has no equivalent is said on standard error and in a comment. Drop-ins are not read: `systemctl cat UNIT`
    prints a unit with them. Nothing is run, and nothing is changed.

    \b
    Examples:
      jetp import-timer /etc/systemd/system/report.timer > watch.yml
      jetp import-timer report.timer /usr/lib/systemd/system/report.service
    """
    from jetwatch.importing import from_timer, unit, watch_file

    moments = unit.read(Path(timer.name).name, _text(timer))
    if service is None:
        service = _beside(timer.name, from_timer.service_name(moments))
    found = from_timer.convert(moments, unit.read(Path(service.name).name, _text(service)), home_of=_home)
    for remark in found.remarks:
        say(f"warning: {remark.file}:{remark.line}: {remark.text}", err=True)
    if not found.watches:
        raise UsageError(f"{timer.name}: there is nothing in it that a watch could do")
    header = (f"Made by `jetp import-timer` from {timer.name} and {service.name}.", *from_timer.HEADER_NOTES)
    say_text(watch_file.text(found, header, from_timer.DEFAULTS))


def _beside(timer: str, name: str) -> BinaryIO:
    path = Path(timer).parent / Path(name).name
    try:
        return path.open("rb")
    except (OSError, ValueError) as error:  # a NUL is in no name
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path}: {reason}; give the service's file as a second word") from None


def _text(file: BinaryIO) -> str:
    """The file's text, byte for byte: nothing but LF ends a line, as cron and systemd have it."""
    content = file.read()
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise UsageError(f"{file.name}:{line}: expected text, found a NUL; no command can hold one. Take it out")
    try:
        return content.decode()
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
