"""What will keep a source from working on this machine, as far as that shows without asking anybody.

Every finding is a doubt, not a verdict: a configuration is also looked at where it is written, and not only where it
will be used. What cannot be seen from here (a file in a directory of somebody else) is no finding.
"""

from __future__ import annotations

import configparser
import importlib.util
import shutil
import stat
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from urllib.parse import urlsplit

from jetwatch.bounded import read_file
from jetwatch.content.bucket_store import ELSEWHERE, ENDPOINTS, NO_CREDENTIALS, aws_files, needs_boto3
from jetwatch.content.fetch import missing_library
from jetwatch.content.source import Content, ContentKind

Doubt = tuple[str, str]
"""The key below `content` that it is about (`url` for the source itself), and a sentence."""

_AWS_FILE_BYTES = 1024**2
_TRUSTED = ("ca_file", "known_hosts", "allowed_signers")


def doubts(content: Content, env: Mapping[str, str] | None, *, env_files: bool) -> Iterator[Doubt]:
    """Everything doubtful about a source, for a fetch with this environment (None: it cannot be known here).

    `env_files`: whether the watch names files that credentials could come from.
    """
    yield from _programs(content, env or {})
    for key in _TRUSTED:
        path = getattr(content, key)
        if path and (doubt := file_doubt(Path(path), Forbidden.WRITING)):
            yield key, doubt
    if content.ssh_key and (doubt := file_doubt(Path(content.ssh_key), Forbidden.ALL_BUT_OWNER)):
        yield "ssh_key", doubt
    if content.kind in (ContentKind.BUCKET, ContentKind.OBJECT) and env is not None:
        yield from _bucket(content, env, env_files=env_files)


class Forbidden(IntEnum):
    """Mode bits that a file must not have, by what it holds."""

    OTHERS = 0o007
    ALL_BUT_OWNER = 0o077
    WRITING = 0o022


_REMEDIES = {Forbidden.OTHERS: "o=", Forbidden.ALL_BUT_OWNER: "go=", Forbidden.WRITING: "go-w"}


def file_doubt(path: Path, forbidden: Forbidden) -> str:
    """What is wrong with a file that is named; empty where nothing is."""
    try:
        found = path.stat()
    except PermissionError:
        return ""
    except OSError as error:
        return f"{path}: {error.strerror}"
    if not stat.S_ISREG(found.st_mode):
        return f"{path}: it is no file"
    mode = stat.S_IMODE(found.st_mode)
    if mode & forbidden:
        what = "write to" if mode & forbidden & 0o022 else "read"
        return f"{path}: its mode, {mode:04o}, lets others {what} it: chmod {_REMEDIES[forbidden]} {path}"
    return ""


def _programs(content: Content, env: Mapping[str, str]) -> Iterator[Doubt]:
    if missing := missing_library(content):
        yield "url", missing
    if content.kind is not ContentKind.GIT:
        return
    needed = {"git": "url"}
    if content.url.startswith("git+ssh:"):
        needed["ssh"] = "url"
    if content.allowed_signers:
        needed["ssh-keygen"] = "allowed_signers"
    for program, key in needed.items():
        if shutil.which(program, path=env.get("PATH")) is None:
            yield key, f"{program} is not on PATH: install it"


def _bucket(content: Content, env: Mapping[str, str], *, env_files: bool) -> Iterator[Doubt]:
    if content.anonymous or "access_key_id" in content.secrets:
        return
    if needs_boto3(content, env):
        yield from _profile(content, env)
    elif "AWS_ACCESS_KEY_ID" in env:
        if not env.get("AWS_SECRET_ACCESS_KEY"):
            yield "url", "AWS_ACCESS_KEY_ID cannot work without AWS_SECRET_ACCESS_KEY"
    elif any(name in env for name in ELSEWHERE):
        token = env.get("AWS_WEB_IDENTITY_TOKEN_FILE")
        if token and (doubt := file_doubt(Path(token), Forbidden.OTHERS)):
            yield "url", f"AWS_WEB_IDENTITY_TOKEN_FILE {doubt}"
    elif _has_no_role(env):
        yield "url", NO_CREDENTIALS
    elif env_files or _is_no_amazon(content, env):
        where = "`content`, `env`, `env_file`" if env_files else "`content`, `env`"
        yield "url", f"no credentials in {where} or the files of the AWS command line: only a role can stand in"


def _profile(content: Content, env: Mapping[str, str]) -> Iterator[Doubt]:
    key = "profile" if content.profile else "url"
    if importlib.util.find_spec("boto3") is None:
        yield key, "profiles need boto3, which is not installed: pip install 'jetwatch[s3]'"
    name = content.profile or env.get("AWS_PROFILE")
    files = aws_files(env)
    try:
        known = {section for path in files for section in _sections(path)}
    except OSError:
        return  # a link, a FIFO, somebody else's: what it holds cannot be seen from here
    if name and not known & {name, f"profile {name}"}:
        yield key, f"there is no profile {name!r} in {' or '.join(map(str, files))}"
    elif not name and "default" not in known and _has_no_role(env):
        yield key, NO_CREDENTIALS


def _has_no_role(env: Mapping[str, str]) -> bool:
    return env.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"


def _sections(path: Path) -> list[str]:
    parser = configparser.RawConfigParser(strict=False, default_section="")
    try:
        parser.read_string(read_file(path, _AWS_FILE_BYTES).decode("utf-8", "replace"))
    except (FileNotFoundError, NotADirectoryError, configparser.Error):
        return []
    return [" ".join(section.split()) for section in parser.sections()]


def _is_no_amazon(content: Content, env: Mapping[str, str]) -> bool:
    endpoint = content.endpoint or next((env[name] for name in ENDPOINTS if env.get(name)), "")
    try:
        host = urlsplit(endpoint).hostname or ""
    except ValueError:
        return False
    return bool(host) and not host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
