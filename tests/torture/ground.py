"""A site whose commands write down what they do, outside the state directory, so that nobody has to be believed.

`effects`: a line `begin ID` or `end ID` by each play, `download ID` by each download, `torn ID` by a play whose
directory was not complete. `deliveries`: a line `OUTCOME ID` by each on_done hook. `log`: what all agents told, one
after the other; `errors`: their standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent_process import JETP, Elsewhen, Line, Site

WATCHES = ("red", "green", "blue")

DOWNLOAD = """\
set -e
echo "download $JETWATCH_PLAY_UUID" >> {effects}
for name in 1 2 3 4 5 6 7 8; do echo "$JETWATCH_PLAY_UUID" > "$JETWATCH_DOWNLOAD_PATH/$name"; done
"""
PLAY = """\
echo "begin $JETWATCH_PLAY_UUID" >> {effects}
cd "$JETWATCH_DOWNLOAD_PATH" || exit 1
names=$(ls) && text=$(cat *) || exit 1  # the disk itself fails: nothing can be said of the directory
[ "$(echo "$names" | wc -l) $(echo "$text" | grep -c "$JETWATCH_PLAY_UUID")" = "8 8" ] ||
  echo "torn $JETWATCH_PLAY_UUID" >> {effects}
sleep {play_s}
echo "end $JETWATCH_PLAY_UUID" >> {effects}
"""
HOOK = """\
echo "$JETWATCH_OUTCOME $JETWATCH_PLAY_UUID" >> {deliveries}
"""


class Ground(Site):
    """Several watches that are always due, on one state directory (`state`; another place: assign it first)."""

    def __init__(self, *, play_s: float = 0.15) -> None:
        super().__init__()
        self.effects = self.root / "effects"
        self.deliveries = self.root / "deliveries"
        self.log = self.root / "log"
        self.errors = self.root / "errors"
        self.started_at_s: list[float] = []
        self._log_before = 0
        self.living: list[subprocess.Popen[bytes]] = []
        words = {"effects": self.effects, "deliveries": self.deliveries, "play_s": play_s}
        for name, text in (("download", DOWNLOAD), ("play", PLAY), ("hook", HOOK)):
            self.script(name, text.format(**words))

    def configure_watches(self, names: Sequence[str] = WATCHES, **keys: Any) -> None:
        """A watch of each name, due each second; `keys` go over what they have in common."""
        defaults = {
            "check_command": "true",
            "check_interval": 1,
            "download_command": str(self.root / "download"),
            "jet_command": str(self.root / "play"),
            "on_done": str(self.root / "hook"),
            "retain": {"runs": 1000},
        }
        self.configure({"defaults": {**defaults, **keys}, "watches": {name: {} for name in names}})

    def launch(
        self,
        *words: str | Path,
        before: Sequence[str] = (),
        at: Elsewhen | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """A new agent, without splay; its log goes where all the others' went. `before` are words that start it."""
        self.started_at_s.append(time.time())
        with self.log.open("ab") as log, self.errors.open("ab") as errors:
            self._log_before = log.tell()
            agent = subprocess.Popen(
                [
                    *before,
                    *(at.before(self.root) if at else ()),
                    JETP,
                    *("watch", "--watch-config", self.config, "--state-dir", self.state, "--no-splay", *words),
                ],
                env={**self.environ, **(at.environ(self.root) if at else {}), **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=errors,
                start_new_session=True,
            )
        self.living.append(agent)
        return agent

    def wait_for_beginning(self, agent: subprocess.Popen[bytes], within_s: float = 60.0) -> None:
        """Until this agent, the newest, has said that it works, or has ended."""
        deadline = time.monotonic() + within_s
        while agent.poll() is None and time.monotonic() < deadline:
            with self.log.open("rb") as log:
                log.seek(self._log_before)
                if b'"agent_started"' in log.read():
                    return
            time.sleep(0.01)

    def settle(self, *, at: Elsewhen | None = None) -> None:
        """Let everything that is open come to its end, in agents that work once.

        A hook whose try was cut short has had its try: another agent delivers it, and those that it holds.
        """
        for _ in range(5):
            self.jetp("clear")
            code = self.launch("--once", at=at).wait(timeout=300)
            assert code in (0, 1, 75), f"an agent left with {code}: {self.errors.read_text()}"
            if not any(watch["hooks"]["owed"] for watch in self.data("status")["watches"]):
                return

    # -- what was written down

    def effect_lines(self) -> list[str]:
        """What plays and downloads did."""
        return self.read_lines("effects")

    def delivery_lines(self) -> list[str]:
        """What hooks were told."""
        return self.read_lines("deliveries")

    def told(self, *events: str) -> list[Line]:
        """Every log line so far, of these events if some are named."""
        lines = [json.loads(text) for text in self.read_lines("log")]
        return [line for line in lines if not events or line["event"] in events]

    def world(self) -> dict[Path, int]:
        """What can be seen outside at this instant: each file, and how long it is."""
        seen = (self.effects, self.deliveries, self.log, self.errors)
        return {path: path.stat().st_size if path.exists() else 0 for path in seen}

    def take_back(self, world: dict[Path, int]) -> None:
        """Forget what was written after this instant: on a machine that was off by then it never happened."""
        for path, size in world.items():
            if path.exists():
                whole = path.read_bytes()[:size]
                os.truncate(path, whole.rfind(b"\n") + 1)

    def cgroups(self) -> list[str]:
        """The control groups of this state directory's commands, wherever they are mounted."""
        name = f"jetwatch-{(self.state / 'id').read_text().strip()}"
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        points = [words[4] for words in mounts if words[words.index("-") + 1] == "cgroup2"]
        return [folder for point in points for folder, _, _ in os.walk(point) if f"/{name}" in folder]

    # -- the end

    def __enter__(self) -> Ground:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Whatever was started is ended; what it left is kept for whoever wants to know why it failed."""
        self.end()
        if kind is None:
            self.remove()
        else:
            print(f"kept: {self.root}", flush=True)

    def kill_everything(self) -> None:
        """As the end of the machine would: agents, supervisors and their commands at once."""
        for agent in self.living:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()
        super().end()

    def end(self) -> None:
        """End whatever was started here."""
        self.kill_everything()
