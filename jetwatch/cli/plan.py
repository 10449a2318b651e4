"""`jetp plan`: what a configuration does to its servers when many machines have it. No server is asked."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from msgspec import Struct
from msgspec.structs import asdict

from jetwatch import __version__
from jetwatch.cli.people import Screen
from jetwatch.cli.places import PLACE
from jetwatch.cli.streams import say, say_json
from jetwatch.config.load import load
from jetwatch.config.model import Phase, Settings, WatchSettings
from jetwatch.config.scalars import Size
from jetwatch.errors import UsageError
from jetwatch.plan import cost, picture
from jetwatch.plan.arrivals import Demand, Load, evened, period_s, simulate
from jetwatch.plan.log_volume import run_bytes
from jetwatch.telemetry.plain import duration, size

_MOST_MACHINES = 10_000_000
_CHART_ROWS = 8
_CHART_COLUMNS = 66
_EVEN_ENOUGH = 1.25
"""Below this a peak is chance and not worth a word."""

_assumed = cost.Assumptions()
_prices = cost.Prices()
_count = click.IntRange(min=0)
_money = click.FloatRange(min=0)


class Plan(Struct, frozen=True):
    """Everything that is printed."""

    machines: int
    as_it_is: Load
    stable: Load
    per_machine: cost.Month
    prices: cost.Prices
    burst_bytes: int
    burst_s: float
    warnings: Sequence[str]


def _bytes_of(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    try:
        return int(Size().parse(value))
    except ValueError:
        raise click.BadParameter(f"expected {Size().what}, found {value!r}") from None


@click.command("plan")
@click.argument("path", type=PLACE)
@click.option("--machines", type=click.IntRange(1, _MOST_MACHINES), required=True, help="How many have it.")
@click.option("--changes", type=click.FloatRange(min=0), default=_assumed.changes, help="Changed revisions a month.")
@click.option("--change-size", default="10MiB", callback=_bytes_of, help="Bytes fetched for each.")
@click.option("--objects", type=_count, default=_assumed.objects, help="Objects below a prefix.")
@click.option("--check-requests", type=_count, default=_assumed.requests_per_check, help="GETs of a check_command.")
@click.option("--price-gets", type=_money, default=_prices.thousand_gets, help="Dollars per 1,000 GETs.")
@click.option("--price-lists", type=_money, default=_prices.thousand_lists, help="Dollars per 1,000 LISTs.")
@click.option("--price-gb", type=_money, default=_prices.gigabyte, help="Dollars per 10^9 bytes.")
@click.option("--seed", type=int, default=1, help="Another seed, another draw.")
@click.option("--svg", "svg_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the picture there.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON document.")
def plan(
    *,
    path: Path,
    machines: int,
    seed: int,
    svg_path: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """What the configuration at PATH does to its servers when many machines have it.

    Simulates the worst case: all machines start in the same moment. Prices
    default to the list prices of Amazon S3. Nothing is asked over the network.

    \b
    Example:
      jetp plan watch.yml --machines 100000 --svg load.svg
    """
    settings, _ = load(path)
    assumed = cost.Assumptions(given["changes"], given["objects"], given["change_size"], given["check_requests"])
    prices = cost.Prices(given["price_gets"], given["price_lists"], given["price_gb"])
    planned = make_plan(settings, machines, assumed, prices, seed=seed, now_us=time.time_ns() // 1000)
    if svg_path is not None:
        _write(svg_path, _svg(path, planned))
    if as_json:
        say_json(as_data(planned))
    else:
        _draw(path, planned, Screen())
    for warning in planned.warnings:
        say(f"warning: {warning}", err=True)


def make_plan(
    settings: Settings, machines: int, assumed: cost.Assumptions, prices: cost.Prices, *, seed: int, now_us: int
) -> Plan:
    """Simulate and sum up. `now_us`: Unix time, for schedules."""
    watches = list(settings.watches.values())
    demands = [Demand(watch, cost.per_look(watch, assumed).total) for watch in watches]
    even = [Demand(evened(demand.watch), demand.requests) for demand in demands]
    as_it_is = simulate(demands, machines, random.Random(seed), now_us)  # noqa: S311 - a simulation
    stable = simulate(even, machines, random.Random(seed), now_us)  # noqa: S311
    log_bytes = max((run_bytes(watch, settings.log, __version__) for watch in watches), default=0)
    periods = [(watch, period_s(watch, now_us)) for watch in watches]
    contents = [(watch, period) for watch, period in periods if watch.content is not None]
    return Plan(
        machines,
        as_it_is,
        stable,
        cost.month_of(periods, assumed, log_bytes, settings.log.fold_s),
        prices,
        burst_bytes=machines * assumed.change_bytes if contents else 0,
        burst_s=min((period for _, period in contents), default=0.0),
        warnings=[text for watch in watches for text in (_warning(watch, as_it_is, stable), _rush(watch)) if text],
    )


def _warning(watch: WatchSettings, as_it_is: Load, stable: Load) -> str:
    """What is uneven about a watch, and what would mend it."""
    if as_it_is.peak_over_mean < _EVEN_ENOUGH:
        return ""
    if watch.schedule is not None:
        if watch.splay_s:
            return ""
        return f"{watch.name}: a `schedule` without `splay`: every machine asks in the same second"
    span_s = watch.splay_s or (watch.check_interval_s if watch.phase is Phase.STABLE else 0.0)
    if span_s >= watch.check_interval_s:
        return ""
    is_short = f"`splay` ({duration(span_s)}) is shorter than `check_interval` ({duration(watch.check_interval_s)})"
    return (
        f"{watch.name}: {is_short if span_s else 'no `splay`'}: machines that start together keep asking together; "
        f"`phase: stable` without `splay` gives a peak of {stable.peak_over_mean:.2f} times the mean"
    )


def _rush(watch: WatchSettings) -> str:
    """What an opening window does. Checks go on outside it, so the load above is the same with and without windows."""
    if not watch.windows or watch.splay_s:
        return ""
    return (
        f"{watch.name}: `windows` without `splay`: every machine whose run waited starts it in the second in which the "
        "window opens; `splay` spreads the starts"
    )


def as_data(planned: Plan) -> dict[str, Any]:
    """For programs: loads in requests per second, sizes in bytes, cost in dollars."""
    fleet = planned.per_machine.times(planned.machines)
    return {
        "machines": planned.machines,
        "window_s": len(planned.as_it_is.per_second),
        "requests_per_s": _load_data(planned.as_it_is),
        "peak_over_mean": round(planned.as_it_is.peak_over_mean, 4),
        "phase_stable": _load_data(planned.stable),
        "per_month": {
            name: {**_month_data(month), "object_store_dollars": round(month.cost(planned.prices), 6)}
            for name, month in (("machine", planned.per_machine), ("fleet", fleet))
        },
        "burst": {"bytes": planned.burst_bytes, "within_s": planned.burst_s},
        "prices": asdict(planned.prices),
        "warnings": list(planned.warnings),
    }


def _load_data(load: Load) -> dict[str, float]:
    return {
        "mean": round(load.mean_per_s, 6),
        "peak": round(load.peak_per_s, 6),
        "peak_over_mean": round(load.peak_over_mean, 4),
    }


def _month_data(month: cost.Month) -> dict[str, Any]:
    return {**asdict(month), "requests": {**asdict(month.requests), "total": month.requests.total}}


def _svg(path: Path, planned: Plan) -> str:
    title = f"{path.name} on {planned.machines:,} machines: requests per second after all start at once"
    return picture.svg(
        title,
        [
            picture.Series(f"as configured: peak {_ratio(planned.as_it_is)}", planned.as_it_is.per_second),
            picture.Series(f"phase: stable: peak {_ratio(planned.stable)}", planned.stable.per_second),
        ],
    )


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--svg {path}: {error.strerror}") from None


def _ratio(load: Load) -> str:
    return f"{load.peak_over_mean:.2f} × mean"


def _draw(path: Path, planned: Plan, screen: Screen) -> None:
    as_it_is, stable = planned.as_it_is, planned.stable
    screen.line(f"{path.name} on {planned.machines:,} machines", "bold")
    screen.line()
    screen.line("Requests per second, if all of them start in the same moment (busiest second of each column):")
    screen.line()
    top = picture.rounded_up(max(as_it_is.peak_per_s, stable.peak_per_s))
    for name, simulated in (("as configured", as_it_is), ("with phase: stable", stable)):
        screen.line(name, "dim")
        _chart(screen, simulated, top)
        screen.line()
    screen.table(
        ("requests per second", "as configured", "phase: stable"),
        [
            ("mean", _number(as_it_is.mean_per_s), _number(stable.mean_per_s)),
            ("busiest second", _number(as_it_is.peak_per_s), _number(stable.peak_per_s)),
            ("peak over mean", f"{as_it_is.peak_over_mean:.2f}", f"{stable.peak_over_mean:.2f}"),
        ],
    )
    screen.line()
    _draw_month(planned, screen)


def _chart(screen: Screen, load: Load, top: float) -> None:
    labels = [picture.tick(top), *[""] * (_CHART_ROWS - 2), "0"]
    margin = max(map(len, labels))
    for label, row in zip(
        labels, picture.columns_of_blocks(load.per_second, top, _CHART_COLUMNS, _CHART_ROWS), strict=True
    ):
        screen.line(f"{label:>{margin}} │{row}".rstrip())
    window = duration(len(load.per_second))
    screen.line(f"{'':>{margin}} └{'─' * _CHART_COLUMNS}")
    screen.line(f"{'':>{margin}}  0 s{window:>{_CHART_COLUMNS - 3}}")


def _draw_month(planned: Plan, screen: Screen) -> None:
    one = planned.per_machine
    fleet = one.times(planned.machines)
    months = (one, fleet)
    screen.table(
        ("in a month", "one machine", "all machines"),
        [
            ("checks", *(_number(month.checks) for month in months)),
            ("runs", *(_number(month.runs) for month in months)),
            ("GETs", *(_number(month.requests.gets) for month in months)),
            ("LISTs", *(_number(month.requests.lists) for month in months)),
            ("other requests", *(_number(month.requests.others) for month in months)),
            ("fetched", *(size(round(month.fetched_bytes)) for month in months)),
            ("object store", *(f"${month.cost(planned.prices):,.2f}" for month in months)),
            ("log", *(size(round(month.log_bytes)) for month in months)),
        ],
    )
    if planned.burst_bytes:
        gigabits = planned.burst_bytes * 8 / 1e9 / planned.burst_s
        screen.line()
        screen.line(
            f"A change reaches everybody within {duration(planned.burst_s)}: {size(planned.burst_bytes)} "
            f"in that time, {gigabits:,.1f} Gbit/s."
        )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.2f}"
