"""What commands say at length reaches every later command whole, over restarts, and fills no journal."""

from __future__ import annotations

import os
from pathlib import Path

from engine_in_time import EngineInTime, MovedClock, until

VALUE_BYTES = 6_000
NAMES = [f"k{number}" for number in range(1, 8)]


def script(path: Path, text: str) -> Path:
    """An executable."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_every_later_command_gets_all_of_it_also_from_another_agent(tmp_path: Path) -> None:
    """Templates, environment and hooks alike; the agent is another one between download and play."""
    says = "; ".join(f"printf '{name}=%0{VALUE_BYTES}d\\n' 1" for name in NAMES)
    heard, gate = tmp_path / "heard", tmp_path / "gate"
    os.mkfifo(gate)
    check = script(tmp_path / "check", f"({says}; printf 'revision=%020000d\\n' 2) >> $JETWATCH_OUTPUT")
    download = script(tmp_path / "download", f"cat {gate}; echo more=yes >> $JETWATCH_OUTPUT")
    count = "echo $0 ${#1} ${#JETWATCH_OUTPUTS_K7} ${#JETWATCH_REVISION} $JETWATCH_OUTPUTS_MORE"
    play = script(tmp_path / "play", f"{count} >> {heard}")
    hook = script(tmp_path / "hook", f"{count} >> {heard}")
    config = (
        f"check_command: {check}\ndownload_command: {download}\ncheck_interval: 1d\n"
        f"jet_command: {play} {{{{ outputs.k1 }}}}\non_done: {hook} {{{{ outputs.k2 }}}}\n"
    )
    clock = MovedClock()
    first = EngineInTime(tmp_path, config, clock).start()
    first.wait_for(1, "step_started", step="download")
    first.leave()
    first.bury()
    with EngineInTime(tmp_path, config, clock) as engine:
        engine.wait_for(1, "run_reattached")
        gate.write_text("")
        engine.wait_for(1, "run_finished", outcome="ok")
        until(lambda: bool(engine.told("step_finished", step="on_done")), "the hook was not called")
        (run,) = engine.journal.runs()
        assert {name: len(run.values[name]) for name in NAMES} == dict.fromkeys(NAMES, VALUE_BYTES)
        assert run.steps[0].result is not None
        assert dict(run.steps[0].result.outputs) == {"more": "yes"}
        assert engine.state("watch").last_ok_revision == run.revision
    assert heard.read_text().splitlines() == [
        f"{command} {VALUE_BYTES} {VALUE_BYTES} 20000 yes" for command in (play, hook)
    ]
    assert (engine.layout.root / "journal.db").stat().st_size < 400_000
