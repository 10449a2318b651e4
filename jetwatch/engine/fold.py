"""Checks that said not due, counted: one line once in a while instead of one each time."""

from __future__ import annotations

from jetwatch.engine.runtime import Runtime
from jetwatch.engine.verbs import rfc3339
from jetwatch.events import ChecksFolded
from jetwatch.records import CheckResult, Stamp


class Fold:
    """The count of one watch."""

    def __init__(self, runtime: Runtime, watch: str) -> None:
        self._runtime = runtime
        self._watch = watch
        self._count = 0
        self._since: Stamp | None = None

    def count(self, result: CheckResult, now: Stamp) -> None:
        """Take note of an answer."""
        if result is CheckResult.NOT_DUE:
            self._count += 1
            self._since = self._since or now

    def due_us(self, fold_s: float) -> int | None:
        """When the line is to be told, by the boot-time clock; None: there is nothing to tell."""
        return self._since.boot_us + round(fold_s * 1e6) if self._since else None

    def tell_if_due(self, fold_s: float) -> None:
        """Tell the line if its time has come."""
        due_us = self.due_us(fold_s)
        if due_us is not None and due_us <= self._runtime.clock.now().boot_us:
            self.tell()

    def tell(self) -> None:
        """Tell the line, and begin anew."""
        if self._since is not None:
            since = rfc3339(self._since.wall_us)
            self._runtime.tell(ChecksFolded(watch=self._watch, count=self._count, since=since))
        self._count, self._since = 0, None
