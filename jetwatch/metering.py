"""How the agent's figures get out: `metrics:` of the configuration, put together with what they are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jetwatch.config.model import MetricsSettings
from jetwatch.engine.engine import Engine
from jetwatch.engine.runtime import Runtime
from jetwatch.records import AgentState, AgentView, WatchState, WatchView
from jetwatch.telemetry.meter import Meter, Roads, Sources
from jetwatch.telemetry.metrics import DROPPED, LOST, SENT, UNSENT, Facts, Metric
from jetwatch.telemetry.sending import Sender
from jetwatch.telemetry.statsd import Target


def meter_for(
    settings: MetricsSettings,
    agent: AgentState,
    runtime: Runtime,
    engine: Engine,
    *,
    known: Mapping[str, WatchState],
    lines_dropped: Callable[[], int],
    sender: Sender | None,
) -> Meter:
    """The agent's meter, not started. `known` is every watch of the journal. Raises ConfigError."""
    statsd = settings.statsd
    target = Target(statsd.address, statsd.prefix, statsd.dogstatsd, statsd.tags) if statsd is not None else None

    def counts() -> dict[Metric, float]:
        found: dict[Metric, float] = {DROPPED: lines_dropped()}
        return found if sender is None else {**found, UNSENT: sender.waiting, SENT: sender.sent, LOST: sender.lost}

    sources = Sources(
        facts=Facts(agent.version, agent.started),
        now=runtime.clock.now,
        post=runtime.post,
        view=engine.view,
        counts=counts,
        tell=runtime.tell,
    )
    watches = tuple(
        WatchView(state, run_open=False, blocked=False, owed=0, owed_since=None) for state in known.values()
    )
    before = AgentView(agent.started, watches, config_rejected=False)
    return Meter(Roads(settings.textfile, settings.listen, target, settings.interval_s), sources, before)
