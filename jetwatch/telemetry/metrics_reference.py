"""docs/reference/metrics.md, from the catalogue of metrics alone."""

from __future__ import annotations

from jetwatch.telemetry.metrics import BUCKETS_S, CATALOGUE, Kind, Metric, prometheus_name, statsd_name

_METRIC_KINDS = {
    Kind.COUNTER: "counter",
    Kind.GAUGE: "gauge",
    Kind.INSTANT: "gauge, Unix time",
    Kind.COMING: "gauge, Unix time",
    Kind.HISTOGRAM: "histogram",
    Kind.INFO: "gauge, always 1",
}
_METRICS_INTRODUCTION = f"""# Metrics

<!-- Generated from jetwatch/telemetry/metrics.py; a test fails when the two differ. -->

What the agent gives out with the key [`metrics`](watch-yml.md#metrics), for [Prometheus and
StatsD](../how-to/prometheus.md). Names and labels are stable; metrics may be added. Labels are bounded: `watch` is a
name of watch.yml, `outcome`, `result` and `step` are words of closed lists (see [events](events.md)). No command,
revision or id is ever a label.

- *Counters* "since the journal began" are kept with each change in the journal: they go on over restarts, crashes and
  `--once`. Those "since this agent started" begin at 0 with each agent, as Prometheus expects of a process.
- *Instants* are Unix time in seconds. An instant that has not come to pass has no line.
- *The histogram* has the bounds {", ".join(f"{bound:g}" for bound in BUCKETS_S)} s.
- *StatsD* is told how much each counter grew, ages and waits in seconds in the place of instants, and each step's
  duration by itself, in milliseconds. Names begin with `prefix` and a dot; without tags the values of the labels
  follow: `jetwatch.runs.web.ok`.
"""


def metrics_page() -> str:
    """docs/reference/metrics.md, whole."""
    head = ["| Prometheus | type | labels | StatsD | meaning |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([_METRICS_INTRODUCTION, *head, *(_row(metric) for metric in CATALOGUE)]) + "\n"


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    statsd = f"`{statsd_name(metric)}`" if metric.kind is not Kind.INFO else ""
    cells = (f"`{prometheus_name(metric)}`", _METRIC_KINDS[metric.kind], labels, statsd, metric.help)
    return f"| {' | '.join(cells)} |"
