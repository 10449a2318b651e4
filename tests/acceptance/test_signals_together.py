"""Signals that arrive at one moment mean the same as one after the other."""

from __future__ import annotations

import signal

from agent_process import Site, is_alive, until


def test_int_and_term_at_once_cancel_the_run(site: Site) -> None:
    """INT waits and TERM after it cancels, also when both are pending together: nothing is left running."""
    agent = site.start(
        {"check_command": "true", "jet_command": site.shell("echo $$ > pid; sleep 60"), "check_interval": 200},
        "--no-splay",
    )
    pid = site.pid_in("pid")
    agent.send(signal.SIGSTOP)
    agent.send(signal.SIGTERM)
    agent.send(signal.SIGINT)
    agent.send(signal.SIGCONT)
    agent.wait()
    assert [line["mode"] for line in agent.told("agent_stopping")] == ["wait", "cancel"]
    agent.wait_for("run_finished", outcome="cancelled", reason="agent_stopping")
    until(lambda: not is_alive(pid))
