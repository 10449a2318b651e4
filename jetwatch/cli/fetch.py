"""`jetp fetch`: the present revision of a content source into a directory, for a person and for a run's download step.

Credentials never stand in argv: a run hands options and secrets over in its environment, a person may do the same.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

import click
from msgspec.structs import asdict, replace

from jetwatch.cli.durations import duration
from jetwatch.cli.places import PLACE
from jetwatch.cli.streams import Styled, say, say_json
from jetwatch.config.content import OPTIONS_VARIABLE, SECRETS, Source, full_url
from jetwatch.config.nodes import Mapping, Node, Notes, Scalar
from jetwatch.content import fetch as fetching
from jetwatch.content.cache import make_private
from jetwatch.content.memory import bound_memory
from jetwatch.content.places import enter
from jetwatch.content.source import Content, Fetched, Limits, Look, Progress
from jetwatch.content_records import SECRETS_VARIABLE
from jetwatch.errors import ContentStalled, UsageError
from jetwatch.telemetry.plain import size, visible

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_BETWEEN_LINES_S = 10.0


@click.command("fetch")
@click.argument("url")
@click.argument("directory", metavar="DIR", required=False, type=PLACE)
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="As in `content:`; may be given again.")
@click.option("--revision", help="Exactly this revision; else whatever is there now.")
@click.option("--look", is_flag=True, help="Only say which revision is there now.")
@click.option("--cache", type=click.Path(path_type=Path), metavar="DIR", help="Where fetched bytes are kept for reuse.")
@click.option(
    "--deadline",
    "deadline_s",
    type=duration(least_s=0.1),
    metavar="DURATION",
    help="How long to try.  [default: 30m; with --look 1m]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def fetch(
    *,
    url: str,
    directory: Path | None,
    options: tuple[str, ...],
    revision: str | None,
    look: bool,
    cache: Path | None,
    deadline_s: float | None,
    as_json: bool,
) -> None:
    """Put the present revision of a content source into DIR, which is empty or missing.

    \b
    Examples:
      jetp fetch s3://bucket/site/ ./site --option endpoint=http://127.0.0.1:9000
      jetp fetch git+https://host/repo.git@main#web ./web
      jetp fetch --look https://host/site.tar.zst
    """
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # so that nothing half-done stays
    content = _content(url, options)
    bound_memory(content.limits)
    if look:
        _say_look(fetching.look(content, deadline_s=deadline_s or fetching.LOOK_S), as_json)
        return
    if directory is None:
        raise UsageError("DIR is missing: where the content is to be put (or --look)")
    _make_parents(directory.absolute())
    _say_trust(content)
    began = time.monotonic()
    with _progress(directory, quiet=as_json) as progress:
        fetched = fetching.fetch(
            content,
            directory.absolute(),
            revision=revision,
            cache=_usable(cache),
            progress=progress,
            deadline_s=deadline_s or fetching.DEADLINE_S,
            applied=_applied(),
        )
    _write_outputs(
        revision=fetched.revision,
        fetched_bytes=str(fetched.total_bytes - fetched.reused_bytes),
        fetch_requests=str(fetched.requests),
    )
    _say_fetched(fetched, directory, time.monotonic() - began, as_json)


def _make_parents(directory: Path) -> None:
    try:
        os.close(enter(directory.parent, make_missing=True).fd)
    except OSError as error:
        raise ContentStalled(f"{directory.parent}: no directory can be made there: {error.strerror}") from error


def _content(url: str, options: tuple[str, ...]) -> Content:
    """From the command line, with what the environment says beneath it."""
    given = _from_environment(OPTIONS_VARIABLE)
    entries: dict[str, Node] = {"url": _scalar("url", url)}
    if isinstance(digest := given.get("sha256"), str):
        entries["sha256"] = _scalar("sha256", digest)  # with each of these three http:// will do
    if isinstance(signers := given.get("allowed_signers"), str):
        _put(entries, "verify.allowed_signers", signers)
    if given.get("insecure") is True:
        entries["insecure"] = _scalar("insecure", "true")
    for option in options:
        name, equals, value = option.partition("=")
        if name in SECRETS:
            raise UsageError(f"--option {name}=…: everybody can read a command line; put it into {SECRETS_VARIABLE}")
        if not equals:
            raise UsageError(f"--option {option}: expected KEY=VALUE")
        _put(entries, name, value)
    notes = Notes()
    content = Source().read(Mapping("jetp fetch", 1, "", 1, entries, dict.fromkeys(entries, 1)), notes)
    problems = notes.problems
    if problems or content is None:
        raise UsageError("\n".join(f"{problem.path}: {problem.message}" for problem in problems) or "not a source")
    secrets = {name: str(value) for name, value in _from_environment(SECRETS_VARIABLE).items()}
    try:
        if isinstance(limits := given.get("limits"), dict):
            given["limits"] = Limits(**limits)
        return replace(content, **given, secrets={**content.secrets, **secrets})
    except TypeError as error:
        raise UsageError(f"{OPTIONS_VARIABLE}: {error}") from None


def _put(entries: dict[str, Node], name: str, value: str) -> None:
    """One option; `limits.depth` is a key of a mapping."""
    outer, dot, inner = name.partition(".")
    if not dot:
        entries[name] = _scalar(name, value)
        return
    mapping = entries.setdefault(outer, Mapping("jetp fetch", 1, outer, 1, {}))
    if isinstance(mapping, Mapping):
        mapping.entries[inner] = _scalar(name, value)
        mapping.key_lines[inner] = 1


def _scalar(name: str, text: str) -> Scalar:
    return Scalar("jetp fetch", 1, name, 1, text)


def _from_environment(name: str) -> dict[str, Any]:
    """A JSON object from the environment, which no child of this process needs any more."""
    try:
        found = json.loads(os.environ.pop(name, "") or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{name}: expected a JSON object")
    return found


def _applied() -> str:
    """What a signed revision has to descend from. A failed run does not open the way back: the last good one counts."""
    return os.environ.get("JETWATCH_APPLIED_REVISION") or os.environ.get("JETWATCH_LAST_OK_REVISION", "")


def _say_trust(content: Content) -> None:
    """On a first fetch of signed content, say which keys it believes: there is no earlier commit to come after."""
    if content.allowed_signers is None or COMMIT.fullmatch(_applied()):
        return
    try:
        lines = Path(content.allowed_signers).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return  # the fetch says so
    keys = sum(1 for line in lines if line.strip() and not line.lstrip().startswith("#"))
    what = "tag" if content.signed_tag else "commit"
    since = f"that comes after {content.descends_from}" if content.descends_from else "of whatever age and repository"
    say(
        f"jetp: nothing is applied yet: believed is a {what} {since}, signed by one of {keys} "
        f"key{'s' * (keys != 1)} in {content.allowed_signers}, at {full_url(content)}",
        err=True,
    )


def _usable(cache: Path | None) -> Path | None:
    """The cache's directory, made if it is missing; None, and a word about it, where it cannot be.

    Raises ContentStalled where another account could have a hand in it.
    """
    if cache is None:
        return None
    cache = cache.absolute()
    try:
        os.close(enter(cache.parent, make_missing=True).fd)
        make_private(cache)
    except OSError as error:
        say(f"jetp: {cache}: {os.strerror(error.errno or 0)}; going on without a cache", err=True)
        return None
    return cache


def _say_look(look: Look, as_json: bool) -> None:
    _write_outputs(revision=look.revision, settled=json.dumps(look.settled), requests=str(look.requests))
    if as_json:
        say_json({"revision": look.revision, "settled": look.settled, "requests": look.requests}, indent=None)
    else:
        say(look.revision)


def _say_fetched(fetched: Fetched, directory: Path, seconds: float, as_json: bool) -> None:
    if as_json:
        say_json({**asdict(fetched), "duration_s": round(seconds, 3)}, indent=None)
        return
    reused = f", {size(fetched.reused_bytes)} of it reused" if fetched.reused_bytes else ""
    files = f"{fetched.files} file{'s' * (fetched.files != 1)}"
    say(f"{directory}: {files}, {size(fetched.total_bytes)}{reused}, in {seconds:.1f} s")
    say(f"revision {fetched.revision}")


def _write_outputs(**outputs: str) -> None:
    """In a run, what the engine is to know."""
    path = os.environ.get("JETWATCH_OUTPUT")
    if path:
        with Path(path).open("a", encoding="utf-8") as target:
            target.writelines(f"{name}={value}\n" for name, value in outputs.items())


@contextmanager
def _progress(directory: Path, *, quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal; elsewhere a line now and then, for who reads the output of a step that takes long."""
    if quiet:
        yield lambda _done, _total: None
        return
    if not sys.stderr.isatty():
        yield _Lines(directory)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, console=Console(file=cast(TextIO, Styled(sys.stderr))), transient=True) as bar:
        task = bar.add_task(escape(visible(directory.name or str(directory))), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """Progress as plain lines, the first one after a while."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._told_s = time.monotonic()

    def __call__(self, done: int, total: int | None) -> None:
        """Say how far it is, if that was not said lately."""
        now_s = time.monotonic()
        if now_s - self._told_s >= _BETWEEN_LINES_S:
            self._told_s = now_s
            of = f" of {size(total)}" if total is not None else ""
            say(f"{self._directory}: {size(done)}{of}", err=True)
