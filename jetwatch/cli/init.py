"""`jetp init`: a first watch.yml, from answers or flags, that is sure to be valid before it stands in its place."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import click

from jetwatch.cli.streams import say
from jetwatch.errors import ConfigError, NotTrusted, UsageError
from jetwatch.trust import enter

_HEADER = """\
# What `jetp watch --watch-config {path}` does.
# `jetp check-config` says what it means, `jetp schema` what else it can say.

# How it is called in logs and by `jetp status`.
name: {name}
"""
_EVERY = """\

# How often it looks: seconds, or text such as 5m, from one start to the next.
check_interval: {interval}
# A random wait at start-up, so that many machines do not look in the same second.
splay: {splay}
"""
_BODIES = {
    "scripts": """\

# Is there something to do? Exit code 0: yes; 1: no; 75: ask again later; anything else is an error.
check_command: {check}
# Fills a fresh, empty directory.
download_command: {download}
# Applies what was downloaded.
jet_command: {run}
"""
    + _EVERY,
    "content": """\

# Where the content is: s3://, git+https://, https:// or file://. A run is due when another revision is there.
# `jetp check-config --online` tries it.
content: {content}
# Applies what was fetched.
jet_command: {play}
"""
    + _EVERY,
    "schedule": """\

# When: minute, hour, day of the month, month, weekday, as in a crontab; or @hourly, @daily, @weekly.
schedule: {schedule}
# A random wait before each start, so that many machines do not start in the same second.
splay: {splay}

# What: text for /bin/sh.
jet_command:
  shell: {run}
""",
}
_FOOTER = """\

# After a run, for instance:
# on_ok: /var/jetp/ok.sh {{ play_uuid }}
# on_fail: /var/jetp/fail.sh {{ play_uuid }}
"""
_QUESTIONS: Mapping[str, Mapping[str, tuple[str, str | None]]] = {
    "scripts": {
        "check": ("Command that says whether something is to be done", "/var/jetp/check.sh"),
        "download": ("Command that downloads", "/var/jetp/download.sh {{ download_path }}"),
        "run": ("Command that applies", "jetp local --playbook {{ download_path }}/pb.yml"),
        "interval": ("Look every (seconds, or text such as 5m)", "200"),
        "splay": ("Random wait of at most", "100"),
    },
    "content": {
        "content": ("URL of the content (s3://, git+https://, https://, file://)", None),
        "playbook": ("Playbook in it", "pb.yml"),
        "interval": ("Look every (seconds, or text such as 5m)", "5m"),
        "splay": ("Random wait of at most", "5m"),
    },
    "schedule": {
        "schedule": ("When, as in a crontab", "0 3 * * *"),
        "run": ("Command, as text for /bin/sh", None),
        "splay": ("Random wait of at most", "5m"),
    },
}
"""What each kind asks for, with the answer that is taken if there is none. None: there has to be one."""


@click.command("init", short_help="Write a first watch.yml.")
@click.argument("path", type=click.Path(path_type=Path), default=Path("watch.yml"))
@click.option("--kind", type=click.Choice(list(_QUESTIONS)), help="Which of the three it is.")
@click.option("--name", help="The watch's name.  [default: the file's]")
@click.option("--content", metavar="URL", help="content: where the content is.")
@click.option("--playbook", metavar="FILE", help="content: the playbook in it.  [default: pb.yml]")
@click.option("--schedule", metavar="CRON", help="schedule: when, as in a crontab.  [default: 0 3 * * *]")
@click.option("--run", metavar="COMMAND", help="schedule, scripts: what is run.")
@click.option("--check", metavar="COMMAND", help="scripts: says whether something is to be done.")
@click.option("--download", metavar="COMMAND", help="scripts: downloads.")
@click.option("--interval", metavar="DURATION", help="content, scripts: how often it looks.")
@click.option("--splay", metavar="DURATION", help="A random wait of at most this.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def init(path: Path, kind: str | None, name: str | None, force: bool, **given: str | None) -> None:
    """Write a first watch.yml to PATH, with a comment for every key.

    Three kinds: `content` (fetch what is new from S3, git or a web server and apply its playbook), `schedule` (a
    command at fixed times, as cron does), `scripts` (a check, a download and a play of your own). On a terminal it asks
    for what no option says; else the defaults are taken. Nothing is written that `jetp check-config` would refuse.

    \b
    Examples:
      jetp init
      jetp init --kind content --content s3://bucket/site/ /etc/jetwatch/web.yml
      jetp init --kind schedule --schedule @daily --run /opt/backup.sh backup.yml
    """
    asks = sys.stdin.isatty()
    if not force and os.path.lexists(path):
        raise _is_there(path)
    kind = kind or _kind(given, asks)
    strange = [f"--{key}" for key, value in given.items() if value is not None and key not in _QUESTIONS[kind]]
    if strange:
        raise UsageError(f"{', '.join(strange)}: not for --kind {kind}")
    answers = {key: given[key] or _answer(kind, key, asks) for key in _QUESTIONS[kind]}
    _write(path, _text(path, kind, name or _name(path), answers), force=force)
    say(f"{path} is written. Next: jetp check-config {shlex.quote(str(path))}")


def _kind(given: Mapping[str, str | None], asks: bool) -> str:
    """What the options tell, else what a person says."""
    for kind in ("content", "schedule"):
        if given[kind] is not None:
            return kind
    if not asks:
        raise UsageError(f"say --kind: one of {', '.join(_QUESTIONS)}")
    answer: str = click.prompt("Kind", type=click.Choice(list(_QUESTIONS)), default="content", err=True)
    return answer


def _answer(kind: str, key: str, asks: bool) -> str:
    question, default = _QUESTIONS[kind][key]
    if asks:
        answer: str = click.prompt(question, default=default, err=True)
        return answer
    if default is None:
        raise UsageError(f"--kind {kind} needs --{key}")
    return default


def _name(path: Path) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower()).strip("-_")[:64] or "watch"


def _text(path: Path, kind: str, name: str, answers: Mapping[str, str]) -> str:
    from jetwatch.importing.watch_file import scalar

    told = {key: scalar(answer) for key, answer in answers.items()}
    if "playbook" in answers:
        told["play"] = scalar(f"jetp local --playbook {{{{ download_path }}}}/{shlex.quote(answers['playbook'])}")
    shown = "".join(character if character.isprintable() else "?" for character in str(path))
    return (_HEADER + _BODIES[kind]).format(path=shown, name=scalar(name), **told) + _FOOTER


def _write(path: Path, text: str, *, force: bool) -> None:
    """Put the file into its place in one step, private to its owner, if it is valid. Raises ConfigError, UsageError."""
    _refuse_anothers(path.absolute().parent)
    try:
        beside = Path(tempfile.mkdtemp(prefix=".jetp-init-", dir=path.absolute().parent))
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        made = beside / "watch.yml"
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _examine(made, path)
        if force:
            made.replace(path)
        else:
            path.hardlink_to(made)  # unlike a rename it never takes another file's place
    except FileExistsError:
        raise _is_there(path) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _refuse_anothers(directory: Path) -> None:
    """Raise UsageError where another account could put a link in our way, or change the file afterwards."""
    try:
        with enter(directory) as place:
            ours = place.ours
    except OSError as error:
        raise UsageError(f"{directory}: cannot be written to: {error.strerror}") from error
    except NotTrusted as error:
        raise UsageError(str(error)) from error
    if not ours:
        raise UsageError(f"{directory}: another account can change it or a directory above it: name another place")


def _examine(made: Path, path: Path) -> None:
    """Refuse what `jetp check-config` would refuse, under the name that it would have."""
    from jetwatch.config.load import load

    try:
        load(made)
    except ConfigError as error:
        raise ConfigError([problem._replace(file=str(path)) for problem in error.problems]) from None


def _is_there(path: Path) -> UsageError:
    return UsageError(f"{path} is there already; --force writes over it")
