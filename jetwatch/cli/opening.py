"""What every command that looks into a state directory begins with: which one, the journal in it, the agent on it.

Nothing in a directory that another account could change is opened: root becomes that account first (`owner.py`).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from jetwatch.cli.owner import become_owner
from jetwatch.cli.places import PLACE
from jetwatch.cli.streams import say
from jetwatch.clock import SystemClock
from jetwatch.errors import NotPermitted, NotTrusted, UsageError
from jetwatch.events import RowUnreadable
from jetwatch.journal.journal import Journal
from jetwatch.process import tree
from jetwatch.records import AgentState, Stamp
from jetwatch.statedir import StateDir, choose, read_holder, take_lock
from jetwatch.telemetry.plain import visible
from jetwatch.trust import Accounts, require

_ASKED_BY = "jetwatch.asked_by"


def state_dir_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--state-dir DIR`, handed to the command as `layout: StateDir`."""
    return click.option(
        "--state-dir",
        "layout",
        metavar="DIR",
        type=PLACE,
        callback=_layout,
        help="The agent's state directory, where it is not the usual one.",
    )(command)


def _layout(context: click.Context, _parameter: click.Parameter, option: Path | None) -> StateDir:
    layout = StateDir.at(choose(option, os.environ, None))
    context.meta[_ASKED_BY] = _login()
    become_owner(layout.root)
    return layout


def asked_by() -> str:
    """Who gave this command: the name behind sudo, else that of the user id that it began with."""
    return str(click.get_current_context().meta[_ASKED_BY])


def _login() -> str:
    if os.geteuid() == 0 and os.environ.get("SUDO_USER"):
        return visible(os.environ["SUDO_USER"])
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


@contextmanager
def reading(layout: StateDir) -> Iterator[Journal]:
    """The journal, opened to read. Raises NotPermitted, UsageError when there is none, JournalError."""
    refuse_foreign(layout)
    journal = Journal.open_to_read(layout.journal)
    journal.on_unreadable = _warn
    try:
        yield journal
    finally:
        journal.close()


@contextmanager
def writing(layout: StateDir) -> Iterator[Journal]:
    """The journal, opened to write in an agent's place: nobody else can be one meanwhile.

    Raises StateDirBusy when an agent holds the state directory, NotPermitted, JournalError.
    """
    refuse_foreign(layout, os.R_OK | os.W_OK)
    own = tree.look_up(os.getpid())
    lock_fd = take_lock(layout, own.start_ticks if own is not None else 0)
    try:
        journal = Journal.open(layout.journal)
        journal.on_unreadable = _warn
        try:
            yield journal
        finally:
            journal.close()
    finally:
        os.close(lock_fd)


def _warn(found: RowUnreadable) -> None:
    """A row that cannot be read is left out, and said: the others are shown."""
    row = f"{found.table} {found.row}"
    say(f"jetp: warning: the journal's row {row} cannot be read and is left out: {found.detail}", err=True)


def refuse_foreign(layout: StateDir, wanted: int = os.R_OK) -> None:
    """Raise NotPermitted when this user may not use the journal as `wanted` (flags of os.access).

    Root may not either, as root, where the directory is not its own.
    """
    try:
        require(layout.root, Accounts.own())
        permitted = not layout.journal.exists() or os.access(layout.journal, wanted)
    except FileNotFoundError:
        permitted = True
    except (PermissionError, NotTrusted):
        permitted = False
    if not permitted:
        raise NotPermitted(f"{layout.root}: only the agent's own user and root may do this")


def present() -> Stamp:
    """This instant by both clocks."""
    clock = SystemClock()
    try:
        return clock.now()
    finally:
        clock.close()


def is_running(layout: StateDir, agent: AgentState | None) -> bool:
    """Whether the agent of the journal lives: it wrote its name into the lock file, and that very process is there."""
    holder = read_holder(layout)
    if agent is None or holder != (agent.pid, agent.start_ticks):
        return False
    process = tree.look_up(agent.pid)
    return process is not None and process.start_ticks == agent.start_ticks and not process.is_dead


def known_watches(journal: Journal) -> list[str]:
    """The watches of the newest configuration; of a journal without an agent, every one that is in it."""
    agent = journal.agent()
    return sorted(agent.watches if agent is not None and agent.watches else journal.watches())


def require_watch(name: str, known: Collection[str]) -> str:
    """`name`, if there is such a watch. Raises UsageError with the nearest one."""
    if name in known:
        return name
    import difflib

    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(known)) or 'none'}"
    raise UsageError(f"there is no watch {name!r}: {hint}")
