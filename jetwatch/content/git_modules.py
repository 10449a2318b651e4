"""Where the submodules of a commit come from: `.gitmodules`, read by git's own parser, and strict rules for its URLs.

A submodule may only lie where the repository itself lies: the same scheme and host. So credentials go to no server that
watch.yml does not name, and nothing that a stranger wrote into a file decides whom this machine talks to.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from urllib.parse import urlsplit

from jetwatch.content.git_command import Git
from jetwatch.content.source import ContentStalled

_SCP_FORM = re.compile(r"(?:(?P<user>[^@/:]+)@)?(?P<host>[^/:@]+):(?P<path>(?!//).+)")


def urls_of(git: Git, store: Path, gitmodules: str) -> dict[bytes, str]:
    """Return path → URL as the blob `gitmodules` says."""
    listed = git.run("config", f"--blob={gitmodules}", "--null", "--list", repository=store)
    found: dict[str, dict[str, str]] = {}
    for line in listed.decode(errors="surrogateescape").split("\0"):
        key, _, value = line.partition("\n")
        section, _, option = key.rpartition(".")
        if section.startswith("submodule."):
            found.setdefault(section, {})[option] = value
    told = [each for each in found.values() if "path" in each and "url" in each]
    return {each["path"].encode(errors="surrogateescape"): each["url"] for each in told}


def resolved(git: Git, module: bytes, url: str | None) -> str:
    """Return the full URL of the submodule `module` (its path). Raises ContentStalled for any other place."""
    path = module.decode(errors="replace")
    if not url:
        raise ContentStalled(f"submodule {path!r} has no URL in .gitmodules")
    if url.startswith(("./", "../")):
        parent = urlsplit(git.url)
        full = parent._replace(path=posixpath.normpath(posixpath.join(parent.path, url))).geturl()
    elif (scp := _SCP_FORM.fullmatch(url)) and "://" not in url:
        user = f"{scp['user']}@" if scp["user"] else ""
        full = f"ssh://{user}{scp['host']}/{scp['path'].lstrip('/')}"
    else:
        full = url
    here, there = urlsplit(git.url), urlsplit(full)
    same = here.scheme == there.scheme and here.netloc.rpartition("@")[2] == there.netloc.rpartition("@")[2]
    if not same or "@" in there.netloc.replace(here.netloc, ""):
        raise ContentStalled(f"submodule {path!r} lies at {url!r}, on another host than {git.url}: refused")
    if not full.isprintable() or " " in full:
        raise ContentStalled(f"submodule {path!r} has a URL that is none: {url!r}")
    return full
