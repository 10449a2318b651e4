"""Figures: what is read off a view, what StatsD is told of it, and where it is written."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import NOW, later, owed, trigger, watch
from msgspec.structs import replace
from waiting import until

from jetwatch.errors import NotTrusted
from jetwatch.events import CheckFinished, Event, MetricsFailed, StepFinished, Told
from jetwatch.records import AgentView, CheckResult, Deadline, Stamp, Suspension, WatchState, WatchView
from jetwatch.telemetry import prometheus
from jetwatch.telemetry.meter import Meter, Roads, Sources
from jetwatch.telemetry.metrics import BUCKETS_S, CATALOGUE, Distribution, Facts, Kind, Reading, Tally, readings
from jetwatch.telemetry.metrics_reference import metrics_page
from jetwatch.telemetry.statsd import Statsd, Target, packed

ROOT = Path(__file__).parents[2]
FACTS = Facts("1.2.3", NOW)
HOSTILE = 'x"} 1\nforged{a="'


def view(*states: WatchState, **fields: object) -> AgentView:
    """These watches now, nothing going on."""
    views = [WatchView(state, run_open=False, blocked=False, owed=0, owed_since=None) for state in states]
    return AgentView(NOW, tuple(replace(each, **fields) for each in views), config_rejected=False)


def read(seen: AgentView, *events: Event) -> dict[tuple[str, ...], float | Distribution]:
    """Every figure by name and labels, after these events."""
    tally = Tally()
    for event in events:
        tally.count(Told(event, NOW.wall_us))
    return {(each.metric.name, *each.labels): each.value for each in readings(seen, tally, FACTS, {}, NOW)}


def checked(result: CheckResult) -> CheckFinished:
    """A check of `web` was answered."""
    return CheckFinished(watch="web", result=result.value)


def took(seconds: float, step: str = "play") -> StepFinished:
    """A step of `web` ended."""
    return StepFinished(watch="web", step=step, ok=True, duration_s=seconds)


# --- what they say ----------------------------------------------------------------------------------------------------

SINCE = later(-60)
UNTIL = Deadline.after(NOW, 90_000_000)
PAST = Deadline.after(later(-60), 30_000_000)


@pytest.mark.parametrize(
    ("state", "name", "value"),
    [
        (watch(last_ok=SINCE), "last_success_timestamp_seconds", SINCE.wall_us / 1e6),
        (watch(last_check=SINCE), "last_check_timestamp_seconds", SINCE.wall_us / 1e6),
        (watch(next_check=UNTIL), "next_check_timestamp_seconds", NOW.wall_us / 1e6 + 90),
        (watch(next_check=PAST), "next_check_timestamp_seconds", NOW.wall_us / 1e6),
        (watch(failures_in_a_row=3), "consecutive_failures", 3),
        (watch(check_errors=2), "consecutive_check_errors", 2),
        (watch(suspended=Suspension("root", "why", SINCE)), "suspended", 1),
        (watch(suspended=Suspension("root", "why", SINCE, UNTIL)), "suspended", 1),
        (watch(suspended=Suspension("root", "why", SINCE, PAST)), "suspended", 0),
        (watch(quarantined_revision="a"), "quarantined", 1),
        (watch(held_until=UNTIL), "held", 1),
        (watch(held_until=PAST), "held", 0),
        (watch(due=trigger()), "due_waiting", 1),
        (watch(hooks_abandoned=4), "hooks_abandoned_total", 4),
        (watch(requests=17), "requests_total", 17),
        (watch(fetched_bytes=2**40), "downloaded_bytes_total", 2**40),
    ],
)
def test_a_watch_is_told_as_its_state_says(state: WatchState, name: str, value: float) -> None:
    """Instants in Unix seconds, yes and no as 1 and 0."""
    assert read(view(state))[name, "web"] == value


def test_what_never_was_has_no_instant() -> None:
    """Prometheus would take 0 for 1970."""
    names = {name for name, *_ in read(view(watch()))}
    assert not names & {"last_success_timestamp_seconds", "next_check_timestamp_seconds"}


def test_every_outcome_is_told_before_it_happened() -> None:
    """A counter that appears with its first failure hides that failure from increase()."""
    found = read(view(watch(ended={"ok": 5})))
    outcomes = {key[2]: value for key, value in found.items() if key[0] == "runs_total"}
    assert outcomes == {"ok": 5, "failed": 0, "timeout": 0, "cancelled": 0, "lost": 0}


def test_owed_hooks_are_told_with_the_age_of_the_oldest() -> None:
    """How many, and since when."""
    entry = owed(owed_since=SINCE)
    found = read(view(watch(), owed=2, owed_since=entry.owed_since))
    assert (found["outbox_depth", "web"], found["outbox_oldest_timestamp_seconds", "web"]) == (2, SINCE.wall_us / 1e6)


def test_checks_and_steps_are_counted_from_events() -> None:
    """Each check by its result, each step by its duration."""
    found = read(
        view(watch()), checked(CheckResult.DUE), checked(CheckResult.NOT_DUE), checked(CheckResult.NOT_DUE), took(0.3)
    )
    assert (found["checks_total", "web", "due"], found["checks_total", "web", "not_due"]) == (1, 2)
    spread = found["step_duration_seconds", "web", "play"]
    assert isinstance(spread, Distribution)
    assert (spread.counts[:3], sum(spread.counts), spread.sum_s) == ((0, 1, 0), 1, 0.3)


@pytest.mark.parametrize(("seconds", "place"), [(0, 0), (0.1, 0), (0.11, 1), (7200, 9), (7200.1, len(BUCKETS_S))])
def test_a_duration_falls_into_the_bucket_that_it_does_not_exceed(seconds: float, place: int) -> None:
    """As Prometheus's `le` means it."""
    assert Distribution().with_one(seconds).counts.index(1) == place


def test_a_watch_that_is_gone_is_told_no_more() -> None:
    """Its counts were somebody else's figures."""
    assert not [key for key in read(view(WatchState("db")), took(1)) if "web" in key]


def test_no_revision_command_or_reason_is_ever_a_label() -> None:
    """Labels are names of watches and words of closed lists, whatever a check or a person says."""
    state = watch(
        last_revision=HOSTILE, quarantined_revision=HOSTILE, last_reason=HOSTILE, suspended=Suspension(HOSTILE, "", NOW)
    )
    found = readings(view(state), Tally(), FACTS, {}, NOW)
    assert "forged" not in prometheus.text(found).decode()


def test_names_follow_the_conventions_of_prometheus() -> None:
    """Base units, `_total` for counters and for nothing else, one name each."""
    names = [metric.name for metric in CATALOGUE]
    assert len(set(names)) == len(names)
    for metric in CATALOGUE:
        assert re.fullmatch(r"[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        instant = metric.kind in (Kind.INSTANT, Kind.COMING)
        assert metric.name.endswith("_timestamp_seconds") == instant


def test_the_reference_page_does_not_drift() -> None:
    """docs/reference/metrics.md is generated from the catalogue."""
    assert (ROOT / "docs/reference/metrics.md").read_text() == metrics_page()


# --- StatsD -----------------------------------------------------------------------------------------------------------


class Daemon:
    """A StatsD daemon that only listens."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.address = self._socket.getsockname()

    def take(self) -> list[str]:
        """Every line so far: on loopback a datagram is there when it was sent."""
        lines: list[str] = []
        while True:
            try:
                lines += self._socket.recv(65536).decode().split("\n")
            except BlockingIOError:
                return lines

    def close(self) -> None:
        """Give the address back."""
        self._socket.close()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A daemon on a port of its own."""
    made = Daemon()
    yield made
    made.close()


def figures(*states: WatchState) -> list[Reading]:
    """All figures of these watches."""
    return readings(view(*states), Tally(), FACTS, {}, NOW)


def test_counters_are_told_as_what_came_since(daemon: Daemon) -> None:
    """What the journal held before this agent is nobody's news."""
    statsd = Statsd(Target(daemon.address), figures(watch(ended={"ok": 100})))
    statsd.tell(figures(watch(ended={"ok": 102, "failed": 1})), [], NOW.wall_us / 1e6)
    first = [line for line in daemon.take() if ".runs." in line]
    statsd.tell(figures(watch(ended={"ok": 102, "failed": 1})), [], NOW.wall_us / 1e6)
    assert first == ["jetwatch.runs.web.failed:1|c", "jetwatch.runs.web.ok:2|c"]
    assert not [line for line in daemon.take() if ".runs." in line]


def test_instants_are_told_as_ages_and_waits(daemon: Daemon) -> None:
    """Never below 0, which would be a change instead of a value."""
    state = watch(last_ok=SINCE, next_check=UNTIL, last_check=later(5))
    Statsd(Target(daemon.address), []).tell(figures(state), [("web", "play", 1.25)], NOW.wall_us / 1e6)
    lines = daemon.take()
    assert {
        "jetwatch.last_success_age_seconds.web:60|g",
        "jetwatch.next_check_in_seconds.web:90|g",
        "jetwatch.last_check_age_seconds.web:0|g",
        "jetwatch.step_duration.web.play:1250|ms",
    } <= set(lines)


def test_dogstatsd_has_labels_and_fixed_tags(daemon: Daemon) -> None:
    """The name stays the same for every watch."""
    target = Target(daemon.address, prefix="ops.jetwatch", tags={"env": "prod"})
    Statsd(target, []).tell(figures(watch(ended={"ok": 1})), [], NOW.wall_us / 1e6)
    lines = daemon.take()
    assert "ops.jetwatch.runs:1|c|#env:prod,watch:web,outcome:ok" in lines
    assert all("|#env:prod" in line for line in lines)


def test_a_datagram_holds_as_many_lines_as_fit() -> None:
    """And never a torn one."""
    lines = [b"x" * size for size in (10, 20, 30, 40)]
    assert list(packed(lines, limit=61)) == [b"\n".join(lines[:2]), lines[2], lines[3]]
    assert list(packed(lines, limit=5)) == lines
    assert list(packed([])) == []


# --- the text file ----------------------------------------------------------------------------------------------------


def test_the_text_file_can_be_read_by_all_and_is_replaced_whole(tmp_path: Path) -> None:
    """Whatever the umask; nothing else is left beside it, and an old temporary file is no obstacle."""
    path = tmp_path / "jetwatch.prom"
    (tmp_path / ".jetwatch.prom.new").write_text("left by a kill")
    prometheus.write_textfile(path, figures(watch(requests=1)))
    first = path.stat()
    prometheus.write_textfile(path, figures(watch(requests=2)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert path.stat().st_ino != first.st_ino
    assert 'jetwatch_requests_total{watch="web"} 2.0' in path.read_text()
    assert [each.name for each in tmp_path.iterdir()] == ["jetwatch.prom"]


def test_a_link_beside_the_text_file_is_not_followed(tmp_path: Path) -> None:
    """Who may write to the directory must not get the agent to write elsewhere."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "textfiles"
    folder.mkdir()
    (folder / ".jetwatch.prom.new").symlink_to(victim)
    (folder / "jetwatch.prom").symlink_to(victim)
    prometheus.write_textfile(folder / "jetwatch.prom", figures(watch()))
    assert victim.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a directory to another account")
def test_the_text_file_goes_to_the_collectors_own_directory_and_over_no_link_of_it(tmp_path: Path) -> None:
    """node_exporter's directory often belongs to its account."""
    (tmp_path / "victim").mkdir()
    for name in ("theirs", "theirs/own"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, 65_534, 65_534)
    (tmp_path / "theirs/link").symlink_to(tmp_path / "victim")
    prometheus.write_textfile(tmp_path / "theirs/own/jetwatch.prom", figures(watch()))
    assert [each.name for each in (tmp_path / "theirs/own").iterdir()] == ["jetwatch.prom"]
    with pytest.raises(NotTrusted, match="is a link in a directory of others"):
        prometheus.write_textfile(tmp_path / "theirs/link/jetwatch.prom", figures(watch()))
    assert not [*(tmp_path / "victim").iterdir()]


# --- the meter --------------------------------------------------------------------------------------------------------


def test_an_engine_that_does_not_answer_is_told_as_it_was_last_seen(tmp_path: Path) -> None:
    """The figures go on, their age shows, and questions do not pile up."""
    path = tmp_path / "jetwatch.prom"
    asked: list[Callable[[], None]] = []
    written = threading.Event()

    def now() -> Stamp:
        if path.exists():
            written.set()
        return later(100)

    sources = Sources(FACTS, now, asked.append, lambda: view(watch()), dict, lambda event: None)
    meter = Meter(Roads(textfile=path, interval_s=0.01), sources, view(watch(requests=7)))
    meter.start()
    assert written.wait(20)
    meter.close(None)
    text = path.read_text()
    (progress,) = re.findall(r"^jetwatch_engine_progress_timestamp_seconds (.+)$", text, re.MULTILINE)
    assert float(progress) == NOW.wall_us / 1e6
    assert 'jetwatch_requests_total{watch="web"} 7.0' in text
    assert len(asked) == 1


def test_a_road_that_fails_is_told_once_until_it_worked_again(tmp_path: Path) -> None:
    """And the others are not touched by it."""
    told: list[Event] = []
    gone = tmp_path / "gone"
    path = gone / "jetwatch.prom"
    turns: list[None] = []
    seen = view(watch())

    def now() -> Stamp:
        turns.append(None)
        return NOW

    sources = Sources(FACTS, now, lambda call: call(), lambda: seen, dict, told.append)
    meter = Meter(Roads(textfile=path, interval_s=0.01), sources, seen)
    meter.start()
    until(lambda: len(turns) > 5)
    (event,) = told
    assert isinstance(event, MetricsFailed)
    assert (event.road, event.reason) == ("textfile", f"{path}: No such file or directory")
    gone.mkdir()
    until(path.exists)
    shutil.rmtree(gone)
    until(lambda: len(told) == 2)
    meter.close(None)


def test_an_agent_without_metrics_loads_nothing_of_them() -> None:
    """Its memory is what P1 is about."""
    code = "import sys, jetwatch.agent; print([n for n in sys.modules if 'prometheus' in n or n.endswith('.meter')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- what asks for them -----------------------------------------------------------------------------------------------

_SERIES = {
    f"jetwatch_{metric.name}{suffix}"
    for metric in CATALOGUE
    for suffix in (("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",))
}


@pytest.mark.parametrize("file", ["packaging/grafana/jetwatch.json", "packaging/alerts/jetwatch.rules.yml"])
def test_dashboards_and_alerts_ask_for_metrics_that_exist(file: str) -> None:
    """A panel that is empty because of a slip looks like peace."""
    asked = set(re.findall(r"\bjetwatch_[a-z_]+", (ROOT / file).read_text()))
    assert len(asked) > 10
    assert asked <= _SERIES
