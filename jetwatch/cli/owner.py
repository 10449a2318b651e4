"""Root's commands on the state directory of another account are done with that account's rights, and no others.

Whoever owns a state directory says what is in it: a journal that is a link to a file of root's, a socket of its own,
the pid of somebody else's process. Before anything in it is opened, root becomes that account, for good. Then the worst
that comes of it is what the account could have done by itself.
"""

from __future__ import annotations

import importlib
import os
import pwd
import sys
from collections.abc import Sequence
from pathlib import Path

from jetwatch.errors import NotPermitted, NotTrusted, StateDirError
from jetwatch.trust import Accounts, require

_NO_GROUP = 65_534
_ON_A_TERMINAL = ("rich.console", "rich.table", "rich.text")
"""What a command loads when it prints: the account may not be able to read where this program lies."""


def become_owner(state_dir: Path) -> None:
    """Give up root where another account owns `state_dir` or could change where it leads. Else do nothing.

    Raises NotPermitted where this process cannot, StateDirError where more than one account could change it.
    """
    try:
        require(state_dir, Accounts.own())
    except NotTrusted as error:
        if error.owner_uid is None:
            raise StateDirError(str(error)) from error
        if os.geteuid() != 0:
            raise NotPermitted(f"{state_dir}: only the agent's own user and root may do this") from error
        _become(state_dir, error.owner_uid)
    except OSError:
        return  # it is not there, or cannot be seen: said by what opens it


def _become(state_dir: Path, uid: int) -> None:
    gid, groups = _groups_of(uid)
    try:
        require(state_dir, Accounts.of((uid, gid)))
    except NotTrusted as error:
        raise StateDirError(str(error)) from error
    except OSError:
        pass  # as above, and as that account
    for name in _ON_A_TERMINAL if sys.stdout.isatty() else ():
        importlib.import_module(name)
    try:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except PermissionError as error:
        raise NotPermitted(
            f"{state_dir}: this directory belongs to uid {uid}, and this process may not act for it: run as that user"
        ) from error


def _groups_of(uid: int) -> tuple[int, Sequence[int]]:
    try:
        account = pwd.getpwuid(uid)
    except KeyError:  # as for an agent in a container
        return _NO_GROUP, ()
    return account.pw_gid, os.getgrouplist(account.pw_name, account.pw_gid)
