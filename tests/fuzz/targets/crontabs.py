"""A crontab that somebody else wrote → watch.yml: what is loaded back is what was meant, and nothing else."""

from __future__ import annotations

import yaml

from fuzz.target import Target, choice_and_rest
from jetwatch.importing import crontab, from_cron, watch_file

OWNERS = (None, "root", "www-data")


def one_input(data: bytes) -> None:
    """Every job as a watch that says the same; text that cannot be read is refused before."""
    road, rest = choice_and_rest(data, 2 * len(OWNERS))
    user_column, owner = divmod(road, len(OWNERS))
    text = as_text(rest)
    if text is None:
        return
    crontab.has_user_column(text, "-", {"root", "www-data"}.__contains__)
    found = from_cron.convert(
        crontab.lines(text, user_column=bool(user_column)),
        owner=None if user_column else OWNERS[owner],
        home_of=lambda account: f"/home/{account}",
    )
    loads_back(found, from_cron.DEFAULTS)


def as_text(data: bytes) -> str | None:
    """The text, None where `jetp` refuses it before it is read: other bytes than UTF-8, and NUL."""
    try:
        return None if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return None


def loads_back(found: watch_file.Import, defaults: object) -> None:
    """The text of a watch.yml holds the watches that were found: the same names, keys and values, no more."""
    if not found.watches:
        return
    text = watch_file.text(found, ("Made by a test.",), defaults)  # type: ignore[arg-type]
    assert text.isascii() or all(each.isprintable() or each == "\n" for each in text), repr(text)
    loaded = yaml.load(text, yaml.BaseLoader)
    assert loaded == {"defaults": _plain(defaults), "watches": {each.name: _plain(each.keys) for each in found.watches}}


def _plain(value: object) -> object:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    assert isinstance(value, list | tuple), value
    return [_plain(each) for each in value]


TARGET = Target(
    "crontabs",
    "an imported crontab loads back as what was meant, and no text of it becomes a key",
    one_input,
    words=(
        *(b"* * * * * ", b"@daily ", b"@reboot ", b"SHELL=", b"MAILTO=", b"CRON_TZ=", b"HOME=", b"RANDOM_DELAY=", b"%"),
        *("\u2028    on_ok: {shell: id, user: root}".encode(), "\x85  evil: x".encode(), b"\r    user: root", b"\\%"),
        *(
            b"{{",
            b"}}",
            b": ",
            b" #",
            b"- ",
            b"|-",
            b"&a",
            b"*a",
            b"!!x",
            b"---",
            b"...",
            b"# ",
            b"'",
            b'"',
            b"~ ",
            b"null",
        ),
        *("\ufeff".encode(), "\U0001f600".encode(), b"root", b"1-5/2", b"*/0", b"0 0 30 2 * "),
    ),
)
