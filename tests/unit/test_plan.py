"""The load and the cost of a fleet, against numbers worked out by hand and a simulation that shares no code with it."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from builders import NOON, TRUE
from msgspec.structs import replace

from jetwatch.config.model import LogFormat, LogSettings, Phase, WatchSettings
from jetwatch.content_records import Content, ContentKind
from jetwatch.plan import cost, picture
from jetwatch.plan.arrivals import Demand, Load, evened, period_s, simulate
from jetwatch.plan.log_volume import run_bytes

SEED = WatchSettings("web", play=TRUE, check=TRUE, check_interval_s=200, splay_s=100)
FLEET = 100_000


def simulated(*watches: WatchSettings, machines: int = FLEET, seed: int = 1) -> Load:
    """One request per check."""
    return simulate([Demand(watch, 1) for watch in watches], machines, random.Random(seed), NOON)


def independent_ratio(span_s: int, interval_s: int, machines: int, seed: int) -> float:
    """Peak over mean of machines that each draw one moment in [0, span) and ask again after every interval."""
    chance = random.Random(seed)
    seconds = [0] * interval_s
    for _ in range(machines):
        seconds[int(chance.random() * span_s)] += 1
    return max(seconds) / (machines / interval_s)


def test_a_splay_of_half_the_interval_asks_twice_as_much_half_of_the_time() -> None:
    """The configuration that everybody copies: busy for 100 s, quiet for 100 s."""
    load = simulated(SEED)
    assert load.mean_per_s == FLEET / 200
    assert load.peak_over_mean == pytest.approx(independent_ratio(100, 200, FLEET, seed=7), abs=0.15)
    assert 2.0 < load.peak_over_mean < 2.4
    assert len(load.per_second) == 400
    assert sum(load.per_second[100:200]) == 0
    assert sum(load.per_second) == 2 * FLEET


def test_a_stable_grid_is_even_within_a_fifth() -> None:
    """What is left is chance, as in a simulation of the simplest kind."""
    ratio = simulated(evened(SEED)).peak_over_mean
    assert ratio <= 1.2
    assert ratio == pytest.approx(independent_ratio(200, 200, FLEET, seed=7), abs=0.1)


def test_every_machine_of_a_stable_grid_asks_once_in_each_interval() -> None:
    """Nobody is forgotten, and the second interval is as the first."""
    load = simulated(evened(SEED), machines=1_000)
    assert sum(load.per_second[:200]) == 1_000
    assert load.per_second[:200] == load.per_second[200:]


def test_without_splay_everybody_asks_in_the_same_second() -> None:
    """The worst case there is."""
    load = simulated(replace(SEED, splay_s=0), machines=1_000)
    assert (load.per_second[0], load.per_second[200]) == (1_000, 1_000)
    assert load.peak_over_mean == 200


def test_jitter_spreads_the_second_check() -> None:
    """And every one after it."""
    load = simulated(replace(SEED, splay_s=0, jitter_s=50), machines=1_000)
    assert load.per_second[0] == 1_000
    assert sum(load.per_second[200:250]) == 1_000
    assert max(load.per_second[200:]) < 100


def test_loads_of_several_watches_add_up_over_the_longest_interval() -> None:
    """Each with its own interval."""
    load = simulated(replace(SEED, splay_s=0), replace(SEED, name="b", splay_s=0, check_interval_s=10), machines=100)
    assert len(load.per_second) == 400
    assert load.per_second[0] == 200
    assert load.per_second[10] == 100
    assert load.mean_per_s == pytest.approx(100 / 200 + 100 / 10)


def test_a_schedule_fires_on_all_machines_within_its_splay() -> None:
    """One firing lies in the window, spread over the splay."""
    nightly = replace(SEED, schedule="0 3 * * *", timezone="Europe/Berlin", splay_s=3600)
    load = simulated(nightly, machines=36_000)
    assert sum(load.per_second) == 36_000
    assert len(load.per_second) == 3601
    assert load.mean_per_s == pytest.approx(36_000 / 86_400)
    assert load.peak_per_s < 40
    at_once = simulated(replace(nightly, splay_s=0), machines=100)
    assert max(at_once.per_second) == 100


def test_the_window_lasts_until_every_schedule_has_fired() -> None:
    """The start is the first firing of any."""
    early, late = replace(SEED, schedule="0 3 * * *", splay_s=0), replace(SEED, schedule="0 5 * * *", splay_s=0)
    load = simulated(early, late, machines=10)
    assert (load.per_second[0], load.per_second[7200]) == (10, 10)


def test_what_asks_nothing_is_no_load() -> None:
    """Such as a walk through a directory."""
    load = simulate([Demand(SEED, 0)], FLEET, random.Random(1), NOON)
    assert (load.peak_per_s, load.mean_per_s, load.peak_over_mean) == (0, 0, 0)


@pytest.mark.parametrize(
    ("schedule", "seconds"),
    [("0 3 * * *", 86_400), ("*/5 * * * *", 300), ("0 0 1 * *", 365.25 * 86_400 / 12)],
)
def test_the_period_of_a_schedule_is_its_mean(schedule: str, seconds: float) -> None:
    """Over its next 366 firings."""
    assert period_s(replace(SEED, schedule=schedule, timezone="UTC"), NOON) == pytest.approx(seconds, rel=1e-3)


def content(kind: ContentKind, **options: Any) -> WatchSettings:
    """A watch with content of this kind and no check of its own."""
    return replace(SEED, check=None, content=Content("any", kind, **options))


ASSUMED = cost.Assumptions(changes=30, objects=2_500, change_bytes=1_000_000, requests_per_check=2)


@pytest.mark.parametrize(
    ("watch", "look", "change"),
    [
        (SEED, cost.Requests(gets=2), cost.Requests()),
        (content(ContentKind.BUCKET), cost.Requests(lists=3), cost.Requests(gets=2_500, lists=9)),
        (content(ContentKind.BUCKET, marker="m"), cost.Requests(gets=1), cost.Requests(gets=2_502, lists=6)),
        (content(ContentKind.OBJECT), cost.Requests(gets=1), cost.Requests(gets=1)),
        (content(ContentKind.GIT), cost.Requests(others=1), cost.Requests(others=1)),
        (content(ContentKind.HTTP), cost.Requests(others=1), cost.Requests(others=1)),
        (content(ContentKind.DIRECTORY), cost.Requests(), cost.Requests()),
        (replace(content(ContentKind.OBJECT), check=TRUE), cost.Requests(gets=3), cost.Requests(gets=1)),
    ],
)
def test_each_kind_of_source_asks_what_it_asks(
    watch: WatchSettings, look: cost.Requests, change: cost.Requests
) -> None:
    """A look when nothing has changed, and a change."""
    assert cost.per_look(watch, ASSUMED) == look
    assert cost.per_change(watch, ASSUMED) == change


def test_a_month_is_summed_up_and_paid() -> None:
    """By hand: 12,960 checks, 30 fetches, 720 folded lines."""
    month = cost.month_of([(content(ContentKind.OBJECT), 200.0)], ASSUMED, log_bytes_per_run=1_000, fold_s=3600)
    assert month.checks == 12_960
    assert month.runs == 30
    assert month.requests == cost.Requests(gets=12_960 + 30)
    assert month.fetched_bytes == month.charged_bytes == 30_000_000
    assert month.log_bytes == 30 * 1_000 + 720 * 250
    prices = cost.Prices(thousand_gets=0.001, thousand_lists=1, gigabyte=0.1)
    assert month.cost(prices) == pytest.approx(0.01299 + 0.003)
    assert month.times(1_000).cost(prices) == pytest.approx(1_000 * month.cost(prices))


def test_content_that_is_not_in_an_object_store_is_not_charged() -> None:
    """It is moved all the same."""
    month = cost.month_of([(content(ContentKind.HTTP), 200.0)], ASSUMED, 0, 3600)
    assert (month.fetched_bytes, month.charged_bytes) == (30_000_000, 0)
    assert month.cost(cost.Prices()) == 0


def test_a_watch_that_only_has_a_schedule_runs_at_every_firing() -> None:
    """Nothing says when it would not."""
    month = cost.month_of([(replace(SEED, check=None, schedule="@hourly"), 3600.0)], ASSUMED, 0, 3600)
    assert (month.checks, month.runs) == (720, 720)


def test_the_log_of_a_run_is_measured_on_rendered_lines() -> None:
    """Format, level and hooks count."""
    plain = run_bytes(SEED, LogSettings(), "1.0")
    assert 1_000 < plain < 4_000
    assert run_bytes(replace(SEED, hooks={"on_ok": TRUE}), LogSettings(), "1.0") > plain
    assert run_bytes(SEED, LogSettings(format=LogFormat.LOGFMT), "1.0") < plain
    assert run_bytes(SEED, LogSettings(level="error"), "1.0") == 0


def test_a_peak_is_never_averaged_away() -> None:
    """A column is the busiest of its seconds."""
    assert picture.busiest([0] * 50 + [9] + [0] * 49, 10) == [0, 0, 0, 0, 0, 9, 0, 0, 0, 0]
    assert picture.busiest([1, 2, 3], 10) == [1, 2, 3]


@pytest.mark.parametrize(("value", "top"), [(0, 1), (0.7, 0.8), (1, 1), (1.1, 1.2), (999, 1000), (1_119, 1_200)])
def test_an_axis_ends_at_a_round_number(value: float, top: float) -> None:
    """At or above the value."""
    assert picture.rounded_up(value) == pytest.approx(top)


def test_blocks_fill_from_below_in_eighths() -> None:
    """Two lines of eight each."""
    assert picture.columns_of_blocks([0, 4, 6, 8], top=8, width=4, height=2) == ["  ▄█", " ███"]


def test_the_picture_is_svg_with_every_series_and_escapes_names() -> None:
    """A name may hold what XML would understand."""
    drawn = ET.fromstring(picture.svg("<title>", [picture.Series("a & b", [1, 2]), picture.Series("c", [0, 0])]))
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"<title>", "a & b", "c"} <= set(texts)
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}path"))) == 2


def test_what_is_evened_keeps_the_splay_of_a_schedule() -> None:
    """An interval's is in the way of an even grid."""
    assert evened(SEED) == replace(SEED, phase=Phase.STABLE, splay_s=0)
    nightly = replace(SEED, schedule="@daily", splay_s=60)
    assert evened(nightly) == replace(nightly, phase=Phase.STABLE)
