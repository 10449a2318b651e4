"""Durations on a command line: the same words as in watch.yml."""

from __future__ import annotations

from collections.abc import Callable

import click


def duration(least_s: float) -> Callable[[str], float]:
    """The type of an option that is a duration, at least so long: seconds, from a number or text such as `1h30m`."""

    def seconds(text: str) -> float:
        from jetwatch.config.times import Duration

        kind = Duration(least_s=least_s)
        try:
            return kind.parse(text)
        except ValueError:
            raise click.BadParameter(f"{text!r} will not do: expected {kind.what}") from None

    return seconds
