"""The URL of a content source, taken apart: what kind it is, and what it carries besides.

    s3://bucket/prefix/                 a prefix of a bucket (also s3://bucket)
    s3://bucket/key.tar.zst             one archive in a bucket (.tar, .tar.gz, .tgz, .tar.zst, .zip)
    git+https://host/path@ref#subdir    a git repository (also git+ssh, git+file)
    https://host/file.tar.zst           one archive (http only where the caller allows it)
    file:///dir, file:///file.tar.zst   a directory, an archive

User info leaves the URL: it is a secret, and a URL is shown.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from msgspec import Struct, field

from jetwatch.content_records import ContentKind, shown_without

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".zip")
_GIT = ("git+https", "git+ssh", "git+file", "git+http")
_FORMS = "s3://, git+https://, git+ssh://, git+file://, https:// or file://"
_PORTS = {"https": 443, "http": 80, "ssh": 22}
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]*\Z")


class Locator(Struct, frozen=True):
    """`url` is safe to show; `ref` and `subdir` are git's; `secrets` has `username` and `password` where there were."""

    kind: ContentKind
    url: str
    ref: str | None = None
    subdir: str = ""
    secrets: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return shown_without(self, "secrets")


def parse(url: str) -> Locator:
    """Take `url` apart. Raises ValueError with a sentence that does not repeat its user info."""
    if re.search(r"[\x00-\x20\x7f]", url):
        raise ValueError("a URL holds no spaces and no control characters")
    if "{{" in url:
        raise ValueError("a URL of content is no template")
    try:
        parts = urlsplit(url)
        secrets = _user_info(parts)
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme == "s3":
        return _bucket(parts, secrets)
    if parts.scheme in _GIT:
        return _git(parts, secrets)
    if parts.scheme in ("https", "http"):
        return _http(parts, secrets)
    if parts.scheme == "file":
        return _path(parts)
    raise ValueError(f"expected {_FORMS}, found {parts.scheme + '://' if parts.scheme else 'no scheme'}")


def origin(url: str, endpoint: str | None = None) -> str:
    """Whom a URL of content asks: `https://host:443`, a bucket or its endpoint, the first two folders of a path.

    What has one origin may be slow or dead together.
    """
    parts = urlsplit(endpoint or url)
    scheme = parts.scheme.removeprefix("git+")
    if scheme == "file":
        return "file://" + "/".join(parts.path.split("/")[:3])
    try:
        port = parts.port
    except ValueError:
        port = None
    return f"{scheme}://{parts.hostname or ''}:{port or _PORTS.get(scheme, 0)}"


def is_archive(path: str) -> bool:
    """Whether a name says that it is an archive."""
    return path.lower().endswith(ARCHIVES)


def _bucket(parts: SplitResult, secrets: Mapping[str, str]) -> Locator:
    if secrets:
        raise ValueError("a bucket's credentials do not stand in its URL: use access_key_id and secret_access_key")
    if not parts.netloc:
        raise ValueError("s3:// needs a bucket: s3://bucket/prefix/")
    if parts.query or parts.fragment:
        raise ValueError("a bucket's URL has no ? and no #")
    if is_archive(parts.path):
        return Locator(ContentKind.OBJECT, parts.geturl())
    path = parts.path if parts.path.endswith("/") else f"{parts.path}/"
    return Locator(ContentKind.BUCKET, parts._replace(path=path).geturl())


def _git(parts: SplitResult, secrets: Mapping[str, str]) -> Locator:
    path, at, ref = parts.path.rpartition("@")
    if not at:
        path, ref = parts.path, ""
    if at and not _REF.match(ref):
        raise ValueError("what follows the last @ is no name of a branch, a tag or a commit")
    if not path.strip("/"):
        raise ValueError("a git URL needs the path of a repository")
    subdir = unquote(parts.fragment).strip("/")
    if any(part in ("", ".", "..") for part in subdir.split("/")) and subdir:
        raise ValueError("what follows the # is no directory inside the repository")
    if parts.scheme == "git+ssh":
        netloc = parts.netloc  # the account of an ssh URL is no secret; a password in it is nothing ssh would take
        if secrets.get("password"):
            raise ValueError("ssh takes no password from a URL: use ssh_key")
        secrets = {}
    else:
        netloc = parts.netloc.rpartition("@")[2]
    query = f"?{parts.query}" if parts.query else ""
    clean = f"{parts.scheme}://{netloc}{path}{query}"  # urlunsplit takes the slashes from a scheme it does not know
    return Locator(ContentKind.GIT, clean, ref or None, subdir, secrets)


def _http(parts: SplitResult, secrets: Mapping[str, str]) -> Locator:
    if not parts.netloc:
        raise ValueError(f"{parts.scheme}:// needs a host")
    if not is_archive(parts.path):
        raise ValueError(f"expected an archive ({', '.join(ARCHIVES)}) at the end of the path")
    clean = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
    return Locator(ContentKind.HTTP, clean, secrets=secrets)


def _path(parts: SplitResult) -> Locator:
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ValueError("expected file:// and an absolute path: file:///dir")
    kind = ContentKind.FILE if is_archive(parts.path) else ContentKind.DIRECTORY
    return Locator(kind, f"file://{parts.path}")


def _user_info(parts: SplitResult) -> dict[str, str]:
    found = {"username": parts.username, "password": parts.password}
    return {name: unquote(value) for name, value in found.items() if value}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_in_the_open(url: str) -> bool:
    """Whether somebody on the way can read and change what comes: plain http, and not from this machine."""
    try:
        parts = urlsplit(url)
    except ValueError:  # it leads nowhere, and is refused where it is used
        return True
    return parts.scheme.removeprefix("git+") == "http" and not is_loopback(parts.hostname or "")
