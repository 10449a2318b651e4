"""A crontab's lines → watches that do the same, and a remark for what cron does and a watch does not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct, field

from jetwatch.config.commands import NAME_PATTERN
from jetwatch.config.times import Schedule, Zone
from jetwatch.importing.crontab import Comment, Job, Line, Setting, Unreadable
from jetwatch.importing.naming import Names
from jetwatch.importing.watch_file import Aside, Import, Imported, Remark, Value, literal

HEADER_NOTES = (
    "What differs from cron: output is kept (jetp logs), not mailed; a job that still runs is not started again;",
    "a firing that was missed while the machine was down is made up once; see docs/how-to/from-cron-and-timers.md.",
)
DEFAULTS: Mapping[str, Value] = {"timeouts": {"play": "24h"}}
"""cron sets no limit; the default of a play, 2 h, could end a job that was never ended before."""

_MAIL = frozenset({"MAILTO", "MAILFROM", "MAIL_CHARSET", "CONTENT_TYPE", "CONTENT_TRANSFER_ENCODING"})
_EVERY_FEW_MINUTES = re.compile(r"\*\S* \*.*")


class _Reading(Struct):
    """What holds at the present line."""

    home_of: Callable[[str], str | None]
    owner: str | None
    names: Names = field(default_factory=Names)
    env: dict[str, str] = field(default_factory=dict)
    shell: str = "/bin/sh"
    home: str | None = None
    timezone: str | None = None
    splay: str | None = None
    comments: list[str] = field(default_factory=list)

    def taken(self) -> tuple[str, ...]:
        """The comments since the last entry."""
        texts = tuple(self.comments)
        self.comments.clear()
        return texts


def convert(found: Iterable[Line], *, owner: str | None, home_of: Callable[[str], str | None]) -> Import:
    """Every job as a watch. `owner`: whose crontab it is, None if unknown; `home_of`: where an account lives."""
    reading = _Reading(home_of, owner)
    entries: list[Imported | Aside] = []
    for line in found:
        if isinstance(line, Comment):
            if line.text:
                reading.comments.append(line.text)
            elif reading.comments:
                entries.append(Aside(reading.taken()))  # a paragraph of its own, about no job
        elif isinstance(line, Setting):
            remark = _set(reading, line)
            if remark:
                entries.append(Aside(reading.taken(), (Remark(line.line, remark),), f"{line.name}={line.value}"))
        elif isinstance(line, Unreadable):
            entries.append(Aside(reading.taken(), (Remark(line.line, f"not imported: {line.reason}"),), line.text))
        else:
            entries.append(_watch(reading, line))
    return Import((*entries, Aside(reading.taken())) if reading.comments else tuple(entries))


def _set(reading: _Reading, line: Setting) -> str | None:
    """Let the setting hold from here on; a sentence if it has no equivalent."""
    name, value = line.name, line.value
    if name in _MAIL:
        return _of_mail(name) if value else None  # an empty MAILTO: no mail, as here
    if name == "CRON_TZ":
        return _set_zone(reading, value)
    if name == "RANDOM_DELAY":
        return _set_splay(reading, value)
    if name in ("LOGNAME", "USER"):
        return f"`{name}` cannot be set: it is that of the command's account"
    if not re.fullmatch(NAME_PATTERN, name):
        return f"`{name}` is no name of a variable"
    if name == "SHELL":
        reading.shell = value
    elif name == "HOME":
        reading.home = value
    reading.env[name] = value
    return None


def _of_mail(name: str) -> str:
    return f"{name}: nothing is mailed. Output is kept for `jetp logs`; on_fail and on_done hooks can tell somebody"


def _set_splay(reading: _Reading, value: str) -> str | None:
    if not re.fullmatch(r"[0-9]{1,5}", value):
        return f"RANDOM_DELAY: expected minutes, found `{value}`"
    reading.splay = f"{value}m"
    return None


def _set_zone(reading: _Reading, value: str) -> str | None:
    try:
        reading.timezone = Zone().parse(value)
    except ValueError as error:
        return f"CRON_TZ: `{value}`: {error}"
    return None


def _watch(reading: _Reading, job: Job) -> Imported | Aside:
    refusal = _no_schedule(job.schedule)
    if refusal:
        return Aside(reading.taken(), (Remark(job.line, refusal),), job.text)
    remarks = []
    user = job.user or reading.owner
    if user is None:
        remarks.append("whose crontab is this? Without `user:` it runs as the agent's account (--user NAME says it)")
    keys: dict[str, Value] = {"schedule": job.schedule}
    if reading.timezone:
        keys["timezone"] = reading.timezone
    if reading.splay:
        keys["splay"] = reading.splay
    if user:
        keys["user"] = user
    home = reading.home or (reading.home_of(user) if user else None)
    if home and home.startswith("/"):
        keys["cwd"] = home
    else:
        remarks.append("cron starts it in the account's home directory; add `cwd:` if it matters")
    if reading.env:
        keys["env"] = dict(reading.env)
    if job.stdin is not None:
        remarks.append("cron gives it what follows `%` as input; a here-document does it here: look at it")
    keys["jet_command"] = _command(reading.shell, job)
    return Imported(
        name=reading.names.of(job.command),
        keys=keys,
        comments=reading.taken(),
        remarks=[Remark(job.line, remark) for remark in remarks],
        hints=_hints(reading, job),
    )


def _no_schedule(schedule: str) -> str | None:
    """Why a watch cannot have this schedule."""
    if schedule.lower() == "@reboot":
        return "not imported: @reboot has no equivalent; a systemd unit with WantedBy=multi-user.target does it"
    try:
        Schedule().parse(schedule)
    except ValueError as error:
        wrong = str(error) or "no schedule of crontab(5)"
        random = "; for a random minute use `splay`" if "~" in schedule else ""
        return f"not imported: `{schedule}`: {wrong}{random}"
    return None


def _command(shell: str, job: Job) -> Value:
    """`shell:` where that says the same: other shells, and text with `{{`, need the words."""
    script = job.command if job.stdin is None else _with_input(job.command, job.stdin)
    if shell == "/bin/sh" and "{{" not in script:
        return {"shell": script}
    return {"run": [literal(shell), "-c", literal(script)]}


def _with_input(command: str, stdin: str) -> str:
    end = "END_OF_INPUT"
    while end in stdin.split("\n"):
        end += "_"
    return f"{{ {command}\n}} <<'{end}'\n{stdin}\n{end}"


def _hints(reading: _Reading, job: Job) -> tuple[str, ...]:
    if reading.splay or _EVERY_FEW_MINUTES.fullmatch(job.schedule):
        return ()
    return ("splay: 5m  # a random wait before each start: on many machines, not all in the same second",)
