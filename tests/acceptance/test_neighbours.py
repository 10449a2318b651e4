"""What a play of another account can do to the agent, its state and other watches' commands: nothing.

The play is a program that tries everything and writes down what worked. Agent, supervisors and plays are real.
"""

from __future__ import annotations

import json
import os
import pwd
import textwrap
from pathlib import Path

import pytest
from accounts import NEIGHBOUR, STRANGER
from agent_process import Site

PYTHON = Path("/usr/bin/python3")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can have plays of other accounts"),
    pytest.mark.skipif(not PYTHON.exists(), reason=f"the hostile play needs {PYTHON}"),
]

ATTACK = '''\
"""Tries everything on whatever belongs to others, and writes what worked as a JSON list to argv[1]."""
import ctypes, json, os, signal, socket, sys

won = []
state, download = os.environ["JETWATCH_STATE_DIR"], os.environ["JETWATCH_DOWNLOAD_PATH"]
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH = 16

def attempt(what, action):
    try:
        won.append([what, repr(action())[:100]])
    except OSError:
        pass

def belongs_to_jetwatch(pid):
    try:
        words = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\\0")
        owner = os.stat(f"/proc/{pid}").st_uid
        is_ours = any(word.startswith(state.encode()) for word in words)
        return owner == int(sys.argv[2]) or owner != os.getuid() and is_ours
    except OSError:
        return False

others = [int(name) for name in os.listdir("/proc") if name.isdigit() and belongs_to_jetwatch(name)]
for pid in others:
    for number in (0, signal.SIGCONT, signal.SIGUSR1, signal.SIGSTOP, signal.SIGKILL):
        attempt(f"signal {number}", lambda: os.kill(pid, number))
    if libc.ptrace(PTRACE_ATTACH, pid, 0, 0) == 0:
        won.append(["ptrace", pid])
    for name in ("environ", "mem", "maps", "io", "stack"):
        # One that is just ending has an environment of no bytes, which everybody may read.
        attempt(f"read {name}", lambda: open(f"/proc/{pid}/{name}", "rb").read(1) or (_ for _ in ()).throw(OSError()))
    for name in ("cwd", "root", "exe"):
        attempt(f"follow {name}", lambda: os.readlink(f"/proc/{pid}/{name}"))
    attempt("list fd", lambda: os.listdir(f"/proc/{pid}/fd"))
    attempt("nice", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))

for name in ("", "runs", "hooks", "downloads", "exchange", "cache", "shim", "trash"):
    attempt(f"list {name}", lambda: os.listdir(f"{state}/{name}"))
    attempt(f"make in {name}", lambda: open(f"{state}/{name}/mine", "w").close())
for name in ("journal.db", "lock", "id", "reserve", "told", "control.sock", "runs"):
    attempt(f"open {name}", lambda: open(f"{state}/{name}").close())
    attempt(f"chmod {name}", lambda: os.chmod(f"{state}/{name}", 0o777))
    attempt(f"link {name}", lambda: os.link(f"{state}/{name}", f"{download}/{name}"))
    attempt(f"remove {name}", lambda: os.unlink(f"{state}/{name}"))
attempt("connect", lambda: socket.socket(socket.AF_UNIX).connect(f"{state}/control.sock"))
output = os.environ["JETWATCH_OUTPUT"]
attempt("rename its output", lambda: os.rename(output, output + "x"))
attempt("remove its output", lambda: os.unlink(output))
attempt("plant beside its output", lambda: os.symlink("/etc/shadow", os.path.dirname(output) + "/planted"))
attempt("open the directory of its output", lambda: os.chmod(os.path.dirname(output), 0o777))
attempt("rename its download", lambda: os.rename(download, download + "x"))
attempt("remove its download", lambda: os.rmdir(download))
attempt("list its run", lambda: os.listdir(f"{state}/runs/{os.environ['JETWATCH_PLAY_UUID']}"))
json.dump({"others": len(others), "won": won}, open(sys.argv[1] + ".new", "w"))
os.rename(sys.argv[1] + ".new", sys.argv[1])
'''


def test_a_play_of_another_account_can_do_nothing_to_what_is_not_its_own(site: Site) -> None:
    """No signal or look into a process; no listing, file or socket of the state; no path of its own moved."""
    attack = site.root / "attack.py"
    attack.write_text(ATTACK)
    attack.chmod(0o644)
    wins = site.root / "wins"
    wins.mkdir()
    wins.chmod(0o777)
    secret = {"SECRET_TOKEN": "of another account's watch"}
    agent = site.ready(
        {
            "watches": {
                "neighbour": {
                    "user": NEIGHBOUR,
                    "check_command": "true",
                    "jet_command": {"shell": f"touch {wins}/began; exec sleep 300"},
                    "env": secret,
                    "check_interval": 3600,
                    "splay": 0,
                },
                "stranger": {
                    "user": STRANGER,
                    "check_command": f"test -e {wins}/began",
                    "jet_command": f"{PYTHON} {attack} {wins}/list {pwd.getpwnam(NEIGHBOUR).pw_uid}",
                    "check_interval": 1,
                    "splay": 0,
                },
            }
        },
    )
    agent.wait_for("run_finished", watch="stranger", outcome="ok")
    found = json.loads((wins / "list").read_text())
    assert found["others"] >= 4, "agent, both supervisors and the neighbour's play are to be met"
    assert found["won"] == []
    assert agent.is_running
    assert len(site.supervisors()) == 1, "the neighbour's play goes on"


PROBE = textwrap.dedent(
    """\
    import json, os, sys
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptors[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass  # the listing's own
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
        terminal = True
    except OSError:
        terminal = False
    facts = {
        "status": {name: value.split() for name, value in status.items()},
        "descriptors": descriptors,
        "names": sorted(os.environ),
        "oom": open("/proc/self/oom_score_adj").read().strip(),
        "terminal": terminal,
        "leads_its_session": os.getsid(0) == os.getpid(),
        "uid": os.getuid(),
    }
    with open(f"{sys.argv[1]}.{os.getpid()}.new", "w") as out:
        json.dump(facts, out)
    os.rename(f"{sys.argv[1]}.{os.getpid()}.new", f"{sys.argv[1]}.json")
    """
)

BURDEN = """\
import os, signal, sys
open("/proc/self/oom_score_adj", "w").write("-500")
for _ in range(10):
    os.set_inheritable(os.open("/etc/shadow", os.O_RDONLY), True)
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
os.environ.update(
    NOTIFY_SOCKET="/nowhere", LISTEN_FDS="3", LISTEN_PID=str(os.getpid()), AWS_SECRET_ACCESS_KEY="the agent's",
    LD_PRELOAD_X="1", INVOCATION_ID="x", CREDENTIALS_DIRECTORY="/x",
)
os.execvp(sys.argv[1], sys.argv[1:])
"""

NOT_FOR_OTHERS = ("NOTIFY", "WATCHDOG", "LISTEN", "AWS", "LD_", "INVOCATION", "CREDENTIALS", "OF_ANOTHER")


@pytest.fixture
def probed(site: Site) -> dict[str, dict[str, object]]:
    """What check, play and hook of the stranger found, under an agent that was started with all sorts of things."""
    probe, burden, found = site.root / "probe.py", site.root / "burden.py", site.root / "found"
    probe.write_text(PROBE)
    burden.write_text(BURDEN)
    found.mkdir()
    found.chmod(0o777)
    site.configure(
        {
            "watches": {
                "stranger": {
                    "user": STRANGER,
                    "check_command": f"{PYTHON} {probe} {found}/check",
                    "jet_command": f"{PYTHON} {probe} {found}/play",
                    "on_ok": f"{PYTHON} {probe} {found}/hook",
                    "env": {"WATCH_TOKEN": "its own"},
                },
                "other": {"check_command": "false", "jet_command": "true", "env": {"OF_ANOTHER_TOKEN": "x"}},
            }
        }
    )
    caps = ["setpriv", "--inh-caps", "+dac_override,+setuid", "--ambient-caps", "+dac_override,+setuid"]
    agent = site.start(None, "--once", "--no-splay", before=[*caps, PYTHON, burden])
    assert agent.wait() == 0, agent.story()
    return {kind: json.loads((found / f"{kind}.json").read_text()) for kind in ("check", "play", "hook")}


@pytest.mark.parametrize("kind", ["check", "play", "hook"])
def test_a_command_of_another_account_inherits_nothing_of_the_agent(
    probed: dict[str, dict[str, object]], kind: str
) -> None:
    """No capability, descriptor, blocked signal, protection, terminal or variable; its own ids and groups only."""
    facts = probed[kind]
    status = facts["status"]
    assert isinstance(status, dict)
    uid = str(facts["uid"])
    assert uid != "0"
    assert set(status["Uid"]) == {uid}
    assert "0" not in {*status["Gid"], *status["Groups"]}
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name][0], 16) == 0, name
    of_the_interpreter = 1 << 12 | 1 << 24  # SIGPIPE and SIGXFSZ, which Python itself ignores
    of_the_c_library = 1 << 31 | 1 << 32  # 32 and 33: nobody can set what they do, and so neither can the agent
    assert int(status["SigBlk"][0], 16) == 0
    assert int(status["SigIgn"][0], 16) & ~(of_the_interpreter | of_the_c_library) == 0
    descriptors = facts["descriptors"]
    assert isinstance(descriptors, dict)
    assert {name for name, target in descriptors.items() if not target.startswith("/proc/")} == {"0", "1", "2"}
    assert facts["oom"] == "0"
    assert not facts["terminal"]
    assert facts["leads_its_session"]
    names = facts["names"]
    assert isinstance(names, list)
    assert [name for name in names if name.startswith(NOT_FOR_OTHERS)] == []
    assert "WATCH_TOKEN" in names
