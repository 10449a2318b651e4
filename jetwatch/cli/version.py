"""`jetp version`: what is installed here."""

from __future__ import annotations

import click

from jetwatch import __version__
from jetwatch.cli.streams import say, say_json

PACKAGE = "jetwatch"


@click.command("version")
@click.option("--json", "as_json", is_flag=True, help="With Python, platform and the versions of the libraries.")
def version(as_json: bool = False) -> None:
    """Print the version.

    \b
    Example:
      jetp version --json
    """
    if as_json:
        say_json(_everything())
    else:
        say(f"{PACKAGE} {__version__}")


def _everything() -> dict[str, object]:
    import platform

    return {
        "version": __version__,
        "python": platform.python_version(),
        "python_implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "dependencies": _dependencies(),
    }


def _dependencies() -> dict[str, str | None]:
    """Every library that is asked for, extras among them, with its version; None: not installed."""
    from importlib import metadata  # reading of packages loads a parser of mail

    try:
        wanted = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        wanted = []
    found: dict[str, str | None] = {}
    for requirement in wanted:
        if "extra == 'dev'" in requirement or 'extra == "dev"' in requirement:
            continue
        name = _name_of(requirement)
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return dict(sorted(found.items()))


def _name_of(requirement: str) -> str:
    """`boto3` of `boto3>=1.34; extra == 's3'`."""
    for index, char in enumerate(requirement):
        if not (char.isalnum() or char in "-_."):
            return requirement[:index]
    return requirement
