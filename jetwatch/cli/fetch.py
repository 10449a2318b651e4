"""`jetp fetch`: the present revision of a content source into a directory, for a person and for a run's download step.

Credentials never stand in argv: a run hands options and secrets over in its environment, a person may do the same.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from jetwatch.config.content import OPTIONS_VARIABLE, SECRETS_VARIABLE, Source
from jetwatch.config.nodes import Mapping, Node, Notes, Scalar
from jetwatch.config.times import duration_s
from jetwatch.content import fetch as fetching
from jetwatch.content.source import Content, Fetched, Limits, Look, Progress
from jetwatch.errors import UsageError
from jetwatch.telemetry.plain import size

_HALF_AN_HOUR = "30m"


@click.command("fetch")
@click.argument("url")
@click.argument("directory", metavar="DIR", required=False, type=click.Path(path_type=Path))
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="As in `content:`; may be given again.")
@click.option("--revision", help="Exactly this revision; else whatever is there now.")
@click.option("--look", is_flag=True, help="Only say which revision is there now.")
@click.option("--cache", type=click.Path(path_type=Path), metavar="DIR", help="Where fetched bytes are kept for reuse.")
@click.option("--deadline", default=_HALF_AN_HOUR, show_default=True, help="How long to try.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def fetch(
    *,
    url: str,
    directory: Path | None,
    options: tuple[str, ...],
    revision: str | None,
    look: bool,
    cache: Path | None,
    deadline: str,
    as_json: bool,
) -> None:
    """Put the present revision of a content source into DIR, which is empty or missing.

    \b
    jetp fetch s3://bucket/site/ ./site --option endpoint=http://127.0.0.1:9000
    jetp fetch git+https://host/repo.git@main#web ./web
    jetp fetch --look https://host/site.tar.zst
    """
    content = _content(url, options)
    if look:
        _say_look(fetching.look(content), as_json)
        return
    if directory is None:
        raise UsageError("DIR is missing: where the content is to be put (or --look)")
    began = time.monotonic()
    with _progress(directory, quiet=as_json) as progress:
        fetched = fetching.fetch(
            content,
            directory.absolute(),
            revision=revision,
            cache=cache,
            progress=progress,
            deadline_s=_seconds(deadline),
            applied=os.environ.get("JETWATCH_APPLIED_REVISION", ""),
        )
    _write_outputs(revision=fetched.revision)
    _say_fetched(fetched, directory, time.monotonic() - began, as_json)


def _content(url: str, options: tuple[str, ...]) -> Content:
    """From the command line, with what the environment says beneath it."""
    notes = Notes()
    entries: dict[str, Node] = {"url": Scalar("jetp fetch", 1, "url", 1, url)}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise UsageError(f"--option {option}: expected KEY=VALUE")
        entries[name] = Scalar("jetp fetch", 1, name, 1, value)
    content = Source().read(Mapping("jetp fetch", 1, "", 1, entries, dict.fromkeys(entries, 1)), notes)
    problems = notes.problems
    if problems or content is None:
        raise UsageError("\n".join(f"{problem.path}: {problem.message}" for problem in problems) or "not a source")
    given = _from_environment(OPTIONS_VARIABLE)
    if isinstance(limits := given.pop("limits", None), dict):
        given["limits"] = Limits(**limits)
    secrets = {name: str(value) for name, value in _from_environment(SECRETS_VARIABLE).items()}
    return replace(content, **given, secrets={**content.secrets, **secrets})


def _from_environment(name: str) -> dict[str, Any]:
    try:
        found = json.loads(os.environ.get(name) or "{}")
    except ValueError:
        raise UsageError(f"{name}: expected a JSON object") from None
    if not isinstance(found, dict):
        raise UsageError(f"{name}: expected a JSON object")
    return found


def _seconds(text: str) -> float:
    try:
        return duration_s(text)
    except ValueError as error:
        raise UsageError(f"--deadline: {error}") from None


def _say_look(look: Look, as_json: bool) -> None:
    _write_outputs(revision=look.revision, settled=json.dumps(look.settled))
    if as_json:
        print(json.dumps({"revision": look.revision, "settled": look.settled, "requests": look.requests}))
    else:
        print(look.revision)


def _say_fetched(fetched: Fetched, directory: Path, seconds: float, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**asdict(fetched), "duration_s": round(seconds, 3)}))
        return
    reused = f", {size(fetched.reused_bytes)} of it reused" if fetched.reused_bytes else ""
    print(
        f"{directory}: {fetched.files} file{'s' * (fetched.files != 1)}, {size(fetched.total_bytes)}{reused}, in {seconds:.1f} s"
    )
    print(f"revision {fetched.revision}")


def _write_outputs(**outputs: str) -> None:
    """In a run, what the engine is to know."""
    path = os.environ.get("JETWATCH_OUTPUT")
    if path:
        with Path(path).open("a", encoding="utf-8") as target:
            target.writelines(f"{name}={value}\n" for name, value in outputs.items())


@contextmanager
def _progress(directory: Path, *, quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal, nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(directory.name or str(directory), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
