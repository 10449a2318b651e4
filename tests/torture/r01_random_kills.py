"""R1: SIGKILL at any instant. Agents are started and killed at random instants; in the second part supervisors, too."""

from __future__ import annotations

import signal
import statistics
import time
from collections import Counter
from datetime import datetime

import paths  # noqa: F401
from ground import Ground
from oracle import judge
from row import Dose, Row

LONGEST_LIFE_S = 1.5


def torture(dose: Dose) -> str:
    """Three kills of five hit the agent alone: then nothing at all may be lost."""
    alone = dose.count * 3 // 5
    first, _, first_s = _ordeal(dose, alone, supervisors_too=False)
    second, killed, second_s = _ordeal(dose, dose.count - alone, supervisors_too=True)
    recovered_s = sorted(first_s + second_s)
    slowest = f"{recovered_s[-1]:.2f} s" if recovered_s else "–"
    usual = f"{statistics.median(recovered_s):.2f} s" if recovered_s else "–"
    return (
        f"{dose.count} kills, {killed} of supervisors: {sum(first.values()) + sum(second.values())} runs; "
        f"kills of the agent alone: {dict(first)}; of either: {dict(second)}; 0 outcomes lost, 0 effects repeated; "
        f"an open run was taken over {usual} (median) after the start of the next agent, at most {slowest}"
    )


def _ordeal(dose: Dose, kills: int, *, supervisors_too: bool) -> tuple[Counter[str], int, list[float]]:
    """Outcomes, how many supervisors were killed, and the seconds until open runs were taken over."""
    killed = 0
    with Ground(play_s=0.3) as ground:
        ground.configure_watches()
        for number in range(1, kills + 1):
            killed += _kill(ground, dose, supervisors_too=supervisors_too)
            if supervisors_too and number % 5 == 0:
                ground.jetp("clear")  # three lost runs in a row would hold the watch for an hour
            if number % 100 == 0:
                dose.say(f"{number} of {kills} kills")
        ground.settle()
        outcomes = judge(ground, lost_at_most=killed)
        assert outcomes["ok"] > kills / 4, f"hardly anything ran: {outcomes}"
        recovered_s = _recovered_s(ground)
    return outcomes, killed, recovered_s


def _kill(ground: Ground, dose: Dose, *, supervisors_too: bool) -> int:
    """Start an agent, kill something at a random instant. Returns how many supervisors were killed."""
    agent = ground.launch()
    if dose.random.random() < 0.5:
        ground.wait_for_beginning(agent)  # else a busy machine would see them killed while they start, and nothing else
    deadline = time.monotonic() + dose.random.uniform(0.0, LONGEST_LIFE_S)
    while time.monotonic() < deadline and agent.poll() is None:
        time.sleep(0.005)  # the instant of the kill is the point, not something to wait for
    victims = ground.supervisors()[:1] if supervisors_too and dose.random.random() < 0.6 else []
    killed = sum(ground.kill_supervisor(pid) for pid in victims)
    gently = bool(victims) and dose.random.random() < 0.25
    agent.send_signal(signal.SIGTERM if gently else signal.SIGKILL)
    agent.wait(timeout=60)
    return killed


def _recovered_s(ground: Ground) -> list[float]:
    """From the start of each agent that found an open run to its first word about one."""
    found = []
    told_at_s = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in ground.told("run_reattached")]
    for start_s, next_s in zip(ground.started_at_s, [*ground.started_at_s[1:], float("inf")], strict=True):
        first_s = next((at_s for at_s in told_at_s if start_s <= at_s < next_s), None)
        if first_s is not None:
            found.append(first_s - start_s)
    return found


ROW = Row(
    "R1",
    "SIGKILL of agent or supervisor at a random instant loses no outcome and repeats no effect",
    torture,
    count=1000,
    small=60,
)

if __name__ == "__main__":
    ROW.main()
