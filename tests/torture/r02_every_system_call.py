"""R2: SIGKILL before every system call by which one run is opened, stepped and closed.

An agent with an empty state directory works once, under `tracer.py`, which writes down each call that changes
something: of the agent's threads, of its supervisors, and of whoever stands between fork and exec. Then, for each of
them, all is done anew and the process is killed right before that call; the next agent has to bring it to a good end.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import paths  # noqa: F401
from ground import Ground
from oracle import judge
from row import Dose, NotHere, Row

TRACER = Path(__file__).with_name("tracer.py")
OURS = ("jetp", Path(sys.executable).resolve().name)  # however an environment calls it
AGENT = "0"
ALIKE = {"PYTHONDONTWRITEBYTECODE": "1"}  # the first agent after an edit would make calls that no other makes
EVERY_CALL = 10_000
AT_ONCE = min(2, os.cpu_count() or 1)


@dataclass(frozen=True)
class Call:
    """One line of a trace."""

    task: str
    number: int
    process: str
    name: str
    subject: str

    @property
    def where(self) -> str:
        """As the tracer names it."""
        return f"{self.task}:{self.number}"


def torture(dose: Dose) -> str:
    """Every call, or so many of them."""
    if platform.machine() != "x86_64":
        raise NotHere("the tracer knows the numbers of system calls for x86_64 alone")
    calls = _calls_of_one_run()
    chosen = calls if dose.count >= len(calls) else dose.random.sample(calls, dose.count)
    dose.say(f"{len(calls)} calls, {len(chosen)} to be tried")
    outcomes: Counter[str] = Counter()
    roles: Counter[str] = Counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number, (role, ended) in enumerate(pool.map(_try, chosen), start=1):
            roles[role] += 1
            outcomes += ended
            if number % 50 == 0:
                dose.say(f"{number} of {len(chosen)}: {dict(roles)}, {dict(outcomes)}")
    assert roles["nobody"] <= len(chosen) / 20, f"calls that were not made again: {roles}"
    return (
        f"killed before {len(chosen)} of {len(calls)} calls ({dict(roles)}): {dict(outcomes)}; 0 outcomes lost, "
        "0 effects repeated; lost exactly where a supervisor was killed between started.json and exit.json of a step"
    )


def _calls_of_one_run() -> list[Call]:
    with _ground() as ground:
        assert _trace(ground, "none") == 0, ground.errors.read_text()
        _settle(ground)
        assert judge(ground) == {"ok": 1}
        return list(_without_commands(_read(ground)))


def _try(call: Call) -> tuple[str, Counter[str]]:
    """Kill before this call, let the next agent settle it, judge. Who was killed, and how runs ended."""
    with _ground() as ground:
        try:
            _trace(ground, call.where)
            made = _read(ground)
            died = next((each for each in made if each.where == call.where), None)
            may_be_lost = died is not None and _held_a_step(made, died)
            _settle(ground)
            outcomes = judge(ground, lost_at_most=int(may_be_lost))
            assert outcomes["lost"] == may_be_lost, f"{outcomes}, and lost may be: {may_be_lost}"
        except Exception as error:
            raise AssertionError(f"killed before {call}: {error}") from error
    return _role(died), outcomes


def _ground() -> Ground:
    ground = Ground(play_s=0)
    ground.configure_watches(["red"], check_command=ground.check(0))
    return ground


def _trace(ground: Ground, where: str) -> int:
    tracer = [sys.executable, "-I", "-S", str(TRACER), str(ground.root / "trace"), where]
    try:
        return ground.launch("--once", before=tracer, environ=ALIKE).wait(timeout=120)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"the agent did not end: {ground.told()[-3:]}") from None


def _settle(ground: Ground) -> None:
    """The next agent finds nothing new to do, only what is open."""
    ground.answer(1)
    code = ground.launch("--once").wait(timeout=120)
    assert code in (0, 1), f"the next agent left with {code}: {ground.errors.read_text()}"


def _read(ground: Ground) -> list[Call]:
    lines = [line.split(" ", 4) for line in ground.read_lines("trace")]
    return [Call(task, int(number), process, name, subject) for task, number, process, name, subject in lines]


def _without_commands(calls: list[Call]) -> Iterator[Call]:
    """All but what commands do themselves: who became one is left out from then on, with all that it starts."""
    commands: set[str] = set()
    for call in calls:
        if any(call.task == command or call.task.startswith(f"{command}.") for command in commands):
            continue
        yield call
        if call.name == "execve" and Path(call.subject).resolve().name not in OURS:
            commands.add(call.task)


def _held_a_step(made: list[Call], died: Call) -> bool:
    """Whether a supervisor of a step died after it had written down that its command begins, and before its end."""
    renamed = [
        call.subject.split(" ")[-1]
        for call in made
        if call.process == died.process and call.name == "rename" and call != died
    ]
    began = any(path.endswith("/started.json") and "/on_done." not in path for path in renamed)
    return began and not any(path.endswith("/exit.json") for path in renamed)


def _role(died: Call | None) -> str:
    if died is None:
        return "nobody"
    return "agent" if died.process == AGENT else "supervisor or child"


ROW = Row(
    "R2",
    "SIGKILL before every system call of a run's bookkeeping loses no outcome and repeats no effect",
    torture,
    count=EVERY_CALL,
    small=12,
)

if __name__ == "__main__":
    ROW.main()
