"""How many bytes of log a run writes: typical events, rendered as the agent renders them, and counted."""

from __future__ import annotations

import os
import uuid

from jetwatch.config.model import LogSettings, WatchSettings
from jetwatch.events import CheckFinished, Event, RunFinished, RunStarted, StepFinished, StepStarted, Told
from jetwatch.telemetry.render import Teller

_REVISION = "8f14e45fceea167a5a36dedd4bea2543"


def run_bytes(watch: WatchSettings, log: LogSettings, version: str) -> int:
    """Bytes of the lines of one ok run of this watch, in the configured format (JSON if none is)."""
    target = os.memfd_create("log")
    try:
        teller = Teller(target, log.format or "json", log.level, host="host-000000.example", version=version)
        for event in _events(watch):
            teller.tell(Told(event, at_us=1_700_000_000_000_000, seq=1_000 if event.history else None))
        teller.flush(timeout_s=1.0)
        teller.close()
        return os.fstat(target).st_size
    finally:
        os.close(target)


def _events(watch: WatchSettings) -> list[Event]:
    run = str(uuid.UUID(int=0))
    path = f"/var/lib/jetwatch/downloads/{run}"
    steps = ["download"] if watch.download is not None else []
    steps += ["play", *(name for name in ("on_start", "on_ok", "on_done") if name in watch.hooks)]
    events: list[Event] = [
        CheckFinished(watch=watch.name, result="due", exit_code=0, duration_s=0.123, revision=_REVISION),
        RunStarted(watch=watch.name, play_uuid=run, trigger="check", attempt=1, revision=_REVISION, download_path=path),
    ]
    for step in steps:
        events.append(StepStarted(watch=watch.name, play_uuid=run, step=step, attempt=1))
        events.append(
            StepFinished(
                watch=watch.name,
                play_uuid=run,
                step=step,
                ok=True,
                exit_code=0,
                duration_s=12.345,
                cpu_s=3.456,
                max_rss_bytes=50_000_000,
                output_bytes=2_000,
            )
        )
    events.append(
        RunFinished(
            watch=watch.name,
            play_uuid=run,
            outcome="ok",
            exit_code=0,
            duration_s=24.6,
            attempt=1,
            trigger="check",
            revision=_REVISION,
        )
    )
    return events
