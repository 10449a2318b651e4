"""R5: agents that end in every phase of a run while plays go on, and claims that are not to be believed.

Each play's exit code follows from the id of its run, so nobody has to remember what it should have been. In the second
part what a supervisor left is falsified between two agents: nothing of it may be adopted, nobody else may be signalled,
no command may run twice, and the log says what was done instead.
"""

from __future__ import annotations

import json
import signal
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paths  # noqa: F401
from agent_process import AgentProcess, is_alive, until
from ground import Ground
from oracle import judge
from row import Dose, Row

DOWNLOAD = """\
echo "download $JETWATCH_PLAY_UUID" >> {root}/effects
sleep 0.2
"""
PLAY = """\
echo "begin $JETWATCH_PLAY_UUID" >> {root}/effects
sleep 0.8
code=$((0x$(printf %.2s "$JETWATCH_PLAY_UUID")))
[ $code != 0 ] || echo "end $JETWATCH_PLAY_UUID" >> {root}/effects
exit $code
"""
HOOK = """\
echo "$JETWATCH_PLAY_UUID" >> {root}/hooks
sleep 0.2
echo "$JETWATCH_OUTCOME $JETWATCH_PLAY_UUID" >> {root}/deliveries
"""
CHECK = """\
echo x >> {root}/checks
sleep 0.2
"""
EVENT_OF = {"opening": "run_started", "closing": "step_finished", "backoff": "retry_planned", "splay": "splay_started"}
FILE_OF = {"check": "checks", "download": "effects", "play": "effects", "hook": "hooks"}
WORD_OF = {"download": "download", "play": "begin"}


def torture(dose: Dose) -> str:
    """Both parts; `count` is that of plays that were going on when their agent ended."""
    restarted = _restarts(dose)
    tried = CLAIMS if dose.count >= len(CLAIMS) else dose.random.sample(CLAIMS, dose.count)
    claims = [_disbelieve(claim) for claim in tried]
    dose.say(f"not adopted: {', '.join(claims)}")
    return f"{restarted}; {len(claims)} of {len(claims)} false claims not adopted, no bystander signalled"


# -- restarts


def _restarts(dose: Dose) -> str:
    with Ground() as ground:
        for name, text in (("download", DOWNLOAD), ("play", PLAY), ("hook", HOOK), ("check", CHECK)):
            ground.script(name, text.format(root=ground.root))
        ground.configure_watches(check_command=str(ground.root / "check"), splay=0.3, retry={"initial": 1, "max": 2})
        ways: Counter[str] = Counter()
        crossed: set[str] = set()
        while len(crossed) < dose.count:
            phase = [*EVENT_OF, *FILE_OF][sum(ways.values()) % 8]
            number = dose.random.choice((signal.SIGTERM, signal.SIGKILL))
            _end_in(ground, phase, number)
            ways[number.name] += 1
            crossed = {line["play_uuid"] for line in ground.told("run_reattached") if line["step"] == "play"}
            if sum(ways.values()) % 50 == 0:
                dose.say(f"{sum(ways.values())} restarts, {len(crossed)} plays went on over one")
        ground.script("check", "exit 1")
        ground.settle()
        right = _exit_codes_reported_right(ground)
        missing = crossed - right
        assert not missing, f"exit codes that were not reported: {missing}"
    return (
        f"{sum(ways.values())} restarts ({dict(ways)}) in {len(EVENT_OF) + len(FILE_OF)} phases; {len(crossed)} plays "
        f"went on over one: {len(crossed)} of {len(crossed)} exit codes right, and {len(right)} of {len(right)} in all"
    )


def _end_in(ground: Ground, phase: str, number: signal.Signals) -> None:
    """A new agent, ended as soon as it is seen in this phase; what it told is kept beside what the others told."""
    agent = ground.start(None, *(() if phase == "splay" else ("--no-splay",)))
    agent.wait_for("agent_started")
    seen = _count(ground, phase)
    if phase in EVENT_OF:
        agent.wait_for(EVENT_OF[phase], **({"step": "play"} if phase == "closing" else {}))
    else:
        until(lambda: _count(ground, phase) > seen)
    _end(ground, agent, number)


def _end(ground: Ground, agent: AgentProcess, number: signal.Signals) -> None:
    agent.send(number)
    code = agent.wait()
    assert code == (0 if number is signal.SIGTERM else -number), f"left with {code}: {agent.story()}"
    with ground.log.open("a") as log:
        log.writelines(f"{json.dumps(line)}\n" for line in agent.lines)
    with ground.errors.open("a") as errors:
        errors.write(agent.errors)


def _count(ground: Ground, phase: str) -> int:
    if phase in EVENT_OF:
        return 0
    return sum(line.startswith(WORD_OF.get(phase, "")) for line in ground.read_lines(FILE_OF[phase]))


def _exit_codes_reported_right(ground: Ground) -> set[str]:
    """The runs of which everything is as their play left it; raises AssertionError for any other."""
    judge(ground)
    lines = {line["play_uuid"]: line for line in ground.told("run_finished")}
    for run, line in lines.items():
        code = uuid.UUID(run).bytes[0]
        outcome = "failed" if code else "ok"
        assert (line["outcome"], line["exit_code"]) == (outcome, code), line
    return set(lines)


# -- false claims


@dataclass(frozen=True)
class Scene:
    """A play that goes on, its agent killed, and somebody who has nothing to do with it."""

    ground: Ground
    directory: Path
    supervisor: int
    play: int
    bystander: subprocess.Popen[bytes]

    def change(self, name: str, **facts: Any) -> None:
        """Falsify a document."""
        path = self.directory / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))

    def kill_supervisor(self) -> None:
        """Gone when this returns; the play lives on."""
        assert self.ground.kill_supervisor(self.supervisor)
        until(lambda: not is_alive(self.supervisor))

    def leave_result(self, text: str | None = None, **facts: Any) -> None:
        """An exit.json that its supervisor never wrote."""
        document = {
            "format": 1,
            "step_id": json.loads((self.directory / "started.json").read_text())["step_id"],
            "ending": "exited",
            "exit_code": 0,
        }
        (self.directory / "exit.json").write_text(json.dumps({**document, **facts}) if text is None else text)


def _stale_lock(scene: Scene) -> None:
    scene.kill_supervisor()


def _reused_pids(scene: Scene) -> None:
    scene.kill_supervisor()
    pid = scene.bystander.pid
    scene.change("started.json", supervisor_pid=pid, pid=pid)


def _pids_of_another_boot(scene: Scene) -> None:
    scene.kill_supervisor()
    scene.change("started.json", boot_id=str(uuid.uuid4()), **_who(scene.bystander.pid))


def _pids_of_another_namespace(scene: Scene) -> None:
    scene.kill_supervisor()
    scene.change("started.json", pid_namespace="pid:[1]", **_who(scene.bystander.pid))


def _who(pid: int) -> dict[str, int]:
    text = Path(f"/proc/{pid}/stat").read_text()
    ticks = int(text[text.rindex(")") + 2 :].split()[19])
    return {"supervisor_pid": pid, "supervisor_start_ticks": ticks, "pid": pid, "start_ticks": ticks}


def _torn_start(scene: Scene) -> None:
    scene.kill_supervisor()
    (scene.directory / "started.json").write_text('{"format": 1, "step')


def _start_of_the_future(scene: Scene) -> None:
    scene.kill_supervisor()
    (scene.directory / "started.json").write_text('{"format": 99, "who": "somebody"}')


def _empty_result(scene: Scene) -> None:
    scene.kill_supervisor()
    scene.leave_result("")


def _torn_result(scene: Scene) -> None:
    scene.kill_supervisor()
    scene.leave_result('{"format": 1, "step_id": "')


def _foreign_result(scene: Scene) -> None:
    scene.kill_supervisor()
    scene.leave_result('["exited", 0]')


def _result_of_the_future(scene: Scene) -> None:
    scene.kill_supervisor()
    scene.leave_result(format=99)


def _result_of_another_step(scene: Scene) -> None:
    scene.kill_supervisor()
    scene.leave_result(step_id=f"{uuid.uuid4()}.play.1")


def _result_of_the_download(scene: Scene) -> None:
    scene.kill_supervisor()
    scene.leave_result((scene.directory.parent / "download.1" / "exit.json").read_text())


def _result_before_the_end(scene: Scene) -> None:
    scene.leave_result()


def _living_pids_of_another_boot(scene: Scene) -> None:
    scene.change("started.json", boot_id=str(uuid.uuid4()), **_who(scene.bystander.pid))


def _living_pids_of_another_namespace(scene: Scene) -> None:
    scene.change("started.json", pid_namespace="pid:[1]", **_who(scene.bystander.pid))


Claim = Callable[[Scene], None]
DEAD: tuple[Claim, ...] = (
    _stale_lock,
    _reused_pids,
    _pids_of_another_boot,
    _pids_of_another_namespace,
    _torn_start,
    _start_of_the_future,
    _empty_result,
    _torn_result,
    _foreign_result,
    _result_of_the_future,
    _result_of_another_step,
    _result_of_the_download,
)
LIVING: tuple[Claim, ...] = (_result_before_the_end, _living_pids_of_another_boot, _living_pids_of_another_namespace)
CLAIMS = (*DEAD, *LIVING)


def _disbelieve(claim: Claim) -> str:
    """The supervisor is dead: the run is lost and the play ended. It lives: the true end is reported."""
    with _scene() as scene:
        claim(scene)
        agent = scene.ground.start(None)
        agent.wait_for("run_reattached", step="play", alive=claim in LIVING)
        if claim in LIVING:
            (scene.ground.root / "gate").touch()
        finished = agent.wait_for("run_finished")
        if claim in LIVING:
            assert (finished["outcome"], finished["exit_code"]) == ("failed", 7), agent.story()
        else:
            assert (finished["outcome"], finished.get("reason")) == ("lost", "supervisor_died"), agent.story()
            assert agent.told("step_finished", step="play", ok=False, reason="supervisor_died")
        until(lambda: not is_alive(scene.play))
        assert scene.bystander.poll() is None, "somebody else was signalled"
        assert agent.stop() == 0
        assert scene.ground.read_lines("plays") == ["x"], "the play ran twice"
        until(lambda: scene.ground.processes() == [])
    return claim.__name__.strip("_").replace("_", " ")


@contextmanager
def _scene() -> Iterator[Scene]:
    with Ground() as ground:
        play = f"echo x >> plays; echo $$ > pid; {ground.gate().text}; exit 7"
        ground.configure_watches(["red"], check_command=ground.check(0), jet_command=ground.shell(play))
        agent = ground.start(None, "--no-splay")
        play_pid = ground.pid_in("pid")
        supervisor = ground.supervisor_of("play")
        ground.answer(1)
        agent.kill9()
        bystander = subprocess.Popen(["/bin/sleep", "600"], env={}, start_new_session=True)
        try:
            (directory,) = ground.state.glob("runs/*/play.1")
            yield Scene(ground, directory, supervisor, play_pid, bystander)
        finally:
            bystander.kill()
            bystander.wait()


ROW = Row(
    "R5",
    "agents that end in any phase report every exit code right; a false claim is never adopted",
    torture,
    count=200,
    small=6,
)

if __name__ == "__main__":
    ROW.main()
