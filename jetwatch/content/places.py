"""Directories as a fetch enters them: by `trust.enter`, where a link that others may have made needs a person.

The rule: where a place is not `ours`, nothing is done by path, and nothing is believed because of its name.
"""

from __future__ import annotations

from pathlib import Path

from jetwatch import trust
from jetwatch.content.source import ContentStalled
from jetwatch.errors import LinkOfOthers
from jetwatch.trust import Place


def enter(path: Path, *, make_missing: bool = False) -> Place:
    """Open a directory. `make_missing`: what is missing of the way is made. Raises ContentStalled, OSError."""
    try:
        return trust.enter(path, make_missing=make_missing)
    except LinkOfOthers as error:
        raise ContentStalled(
            f"{error.path}: {error.link.name!r} is a link that another account may have made: write the path without it"
        ) from error
