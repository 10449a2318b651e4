"""What a fleet asks, moves, pays and writes in a month of 30 days. Sums only; assumptions and prices are handed in.

Requests are those that `content/` makes: the cheapest look of each kind of source (contract, section 6), and for a
changed revision one fetch. What a `check_command` asks is not known; it is counted as `requests_per_check` GETs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec import Struct

from jetwatch.config.model import WatchSettings
from jetwatch.content_records import Content, ContentKind

MONTH_S = 30 * 86_400.0
_KEYS_PER_PAGE = 1000
_FOLD_LINE_BYTES = 250.0
_PRICED = (ContentKind.BUCKET, ContentKind.OBJECT)


class Assumptions(Struct, frozen=True):
    """What a configuration does not say. `objects`: below a prefix, all of which change with a revision."""

    changes: float = 30.0
    objects: int = 100
    change_bytes: int = 10 * 1024**2
    requests_per_check: int = 1


class Prices(Struct, frozen=True):
    """In dollars; the defaults are the list prices of Amazon S3 (standard, us-east-1, to the internet)."""

    thousand_gets: float = 0.0004
    thousand_lists: float = 0.005
    gigabyte: float = 0.09


class Requests(Struct, frozen=True):
    """By what an object store charges for: GETs, LISTs, and those to other servers."""

    gets: float = 0.0
    lists: float = 0.0
    others: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.gets + self.lists + self.others

    def times(self, count: float) -> Requests:
        """So many of them."""
        return Requests(self.gets * count, self.lists * count, self.others * count)

    def __add__(self, other: Requests) -> Requests:
        return Requests(self.gets + other.gets, self.lists + other.lists, self.others + other.others)


class Month(Struct, frozen=True):
    """Of one machine, or of a fleet. `charged_bytes`: of `fetched_bytes`, what came from an object store."""

    checks: float
    runs: float
    requests: Requests
    fetched_bytes: float
    charged_bytes: float
    log_bytes: float

    def cost(self, prices: Prices) -> float:
        """Dollars to the object store."""
        requests = self.requests.gets * prices.thousand_gets + self.requests.lists * prices.thousand_lists
        return requests / 1000 + self.charged_bytes / 1e9 * prices.gigabyte

    def times(self, count: float) -> Month:
        """Of so many machines."""
        return Month(
            self.checks * count,
            self.runs * count,
            self.requests.times(count),
            self.fetched_bytes * count,
            self.charged_bytes * count,
            self.log_bytes * count,
        )


def per_look(watch: WatchSettings, assumed: Assumptions) -> Requests:
    """What one check asks when nothing has changed."""
    asked = Requests(gets=assumed.requests_per_check) if watch.check is not None else Requests()
    return asked if watch.content is None else asked + _look(watch.content, assumed)


def per_change(watch: WatchSettings, assumed: Assumptions) -> Requests:
    """What one changed revision asks besides: a listing that has to settle, and the fetch."""
    content = watch.content
    if content is None:
        return Requests()
    match content.kind:
        case ContentKind.BUCKET:
            if content.marker:  # looked at before and after the fetch, as the listing is
                return Requests(gets=assumed.objects + 2, lists=2 * _pages(assumed))
            return Requests(gets=assumed.objects, lists=3 * _pages(assumed))  # and once more, to see it settle
        case ContentKind.OBJECT:
            return Requests(gets=1)
        case ContentKind.HTTP | ContentKind.GIT:
            return Requests(others=1)
        case _:
            return Requests()


def month_of(
    watches: Iterable[tuple[WatchSettings, float]], assumed: Assumptions, log_bytes_per_run: float, fold_s: float
) -> Month:
    """One machine's month. With each watch come the mean seconds between its checks."""
    checks = runs = fetched = charged = log_bytes = 0.0
    requests = Requests()
    for watch, period_s in watches:
        own_checks = MONTH_S / period_s
        own_runs = own_checks if watch.check is None and watch.content is None else min(own_checks, assumed.changes)
        checks += own_checks
        runs += own_runs
        log_bytes += own_runs * log_bytes_per_run + MONTH_S / fold_s * _FOLD_LINE_BYTES
        requests += per_look(watch, assumed).times(own_checks) + per_change(watch, assumed).times(own_runs)
        if watch.content is not None:
            fetched += own_runs * assumed.change_bytes
            charged += own_runs * assumed.change_bytes if watch.content.kind in _PRICED else 0.0
    return Month(checks, runs, requests, fetched, charged, log_bytes)


def _look(content: Content, assumed: Assumptions) -> Requests:
    match content.kind:
        case ContentKind.BUCKET if content.marker:
            return Requests(gets=1)
        case ContentKind.BUCKET:
            return Requests(lists=_pages(assumed))
        case ContentKind.OBJECT:
            return Requests(gets=1)
        case ContentKind.HTTP | ContentKind.GIT:
            return Requests(others=1)
        case _:
            return Requests()


def _pages(assumed: Assumptions) -> int:
    return max(1, math.ceil(assumed.objects / _KEYS_PER_PAGE))
