"""Commands of another account that do all they can to end the agent, or to have it harm what is root's: it goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from accounts import STRANGER
from agent_process import Site

PYTHON = Path("/usr/bin/python3")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can have commands of other accounts"),
    pytest.mark.skipif(not PYTHON.exists(), reason=f"the hostile commands need {PYTHON}"),
]

DEEDS = {
    "an output of one long line": 'say(b"a=" + b"x" * 65_000 + b"\\n")',
    "hundreds of outputs": 'say(b"".join(b"k%d=1\\n" % number for number in range(300)))',
    "outputs that are no text": 'say(b"\\xff\\xfe=1\\nrevision=\\xed\\xa0\\x80\\n")',
    "a revision of terminal escapes": 'say("revision=\\u202e\\x1b[2J\\r\\x7f\\x85\\U0001f600\\n".encode() * 500)',
    "an output file of a terabyte": "os.truncate(output, 1 << 40)",
    "an output with NUL": 'say(b"revision=\\0\\n")',
    "an output file that cannot be read": "os.chmod(output, 0)",
    "a revision that looks like an option": 'say(b"revision=-x --y\\n")',
    "a revision that looks like shell and template": 'say(b"revision={{ 7*7 }}${IFS}`id`\\n")',
    "a revision of 60 KB": 'say(b"revision=" + b"r" * 60_000 + b"\\n")',
    "numbers without end": 'say(b"fetch_requests=9" + b"9" * 5000 + b"\\nfetched_bytes=-1\\n")',
    "megabytes of noise": "os.write(1, os.urandom(3_000_000))",
    "no descriptors, and a daemon": "os.close(1); os.close(2); leave_a_daemon()",
    "a name like a line of /proc": 'ctypes.CDLL(None).prctl(15, b"a) Z 1 (\\n\\xff", 0, 0, 0); leave_a_daemon()',
    "a real-time signal": "os.kill(os.getpid(), 64)",
    "an exit code that means nothing": "sys.exit(255)",
}

COMMAND = """\
import ctypes, os, sys, time
output = os.environ["JETWATCH_OUTPUT"]
def say(text):
    with open(output, "wb") as out:
        out.write(text)
def leave_a_daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(3)"], {})
        os._exit(0)
"""


def test_no_deed_of_a_command_ends_the_agent(site: Site) -> None:
    """Each as check, and as play and hook: all that begins ends, and everything can be read, by the next agent too."""
    common = {"user": STRANGER, "retry": {"max_attempts": 1}, "check_interval": 3600, "splay": 0}
    watches = {}
    for number, deed in enumerate(DEEDS.values()):
        program = site.root / f"deed{number}.py"
        program.write_text(f"{COMMAND}\n{deed}\n")
        words = f"{PYTHON} {program}"
        told = "{{ outputs.a | default('x') | truncate(20) }} x{{ revision }}"
        watches[f"check{number}"] = {**common, "check_command": words, "jet_command": f"true {told}"}
        watches[f"play{number}"] = {
            **common,
            "check_command": "true",
            "jet_command": words,
            "on_done": f"{words} {told}",
        }
    agent = site.ready({"max_runs": 4, "watches": watches}, "--log-level", "debug")
    for name in watches:
        agent.wait_for("check_finished", watch=name, within_s=120)
    for name in (name for name in watches if name.startswith("play")):
        agent.wait_for("run_finished", watch=name, within_s=120)
    begun = {line["watch"] for line in agent.told("run_started")}
    for name in begun:
        agent.wait_for("run_finished", watch=name, within_s=120)
    assert agent.is_running
    for page in ("status", "runs", "why", "show", "logs"):
        done = site.jetp(page, code=None)
        assert "Traceback" not in done.stderr, page
        assert "internal" not in done.stderr, page
    assert {run["watch"] for run in site.runs()} >= begun
    assert agent.stop() == 0
    assert site.ready().stop() == 0


LEFTOVERS = """\
import os, socket, sys, time
victim, seconds = sys.argv[1], float(sys.argv[2])
os.chdir(os.environ["JETWATCH_DOWNLOAD_PATH"])
os.symlink(victim, "link")
os.symlink("/etc", "etc")
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
os.mkdir("closed")
open("closed/file", "w").close()
os.chmod("closed", 0)
os.mkdir(b"\\xff\\xfe")
open(b"\\xff\\xfe/\\x1b[2J\\n", "w").close()
for name in ("swap", "swap/a", "spam"):
    os.mkdir(name)
open("swap/a/file", "w").close()
for number in range(500):
    open(f"spam/{number}", "w").close()

def daemon(work):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in (1, 2):
                os.close(fd)
            folder = work[0]
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            os.chdir("/")
            end, number = time.monotonic() + seconds, 0
            while time.monotonic() < end:
                number += 1
                try:
                    work[1](fd, number)
                except OSError:
                    continue
        os._exit(0)

def swap(fd, number):
    try:
        os.rename("a", "b", src_dir_fd=fd, dst_dir_fd=fd)
        os.symlink(victim, "a", dir_fd=fd)
        os.unlink("a", dir_fd=fd)
    finally:
        os.rename("b", "a", src_dir_fd=fd, dst_dir_fd=fd)

def add(fd, number):
    os.close(os.open(f"x{number % 2000}", os.O_CREAT | os.O_WRONLY, dir_fd=fd))

daemon(("swap", swap))
daemon(("spam", add))
"""


def test_retention_removes_what_hostile_plays_left_and_nothing_else(site: Site) -> None:
    """Links, FIFOs, closed directories, odd names; daemons that swap a directory for a link, or add files meanwhile."""
    victim = site.root / "victim"
    (victim / "sub").mkdir(parents=True)
    (victim / "file").write_text("precious")
    (victim / "sub" / "file").write_text("precious")
    victim.chmod(0o700)
    program = site.root / "leftovers.py"
    program.write_text(LEFTOVERS)
    agent = site.ready(
        {
            "user": STRANGER,
            "check_command": "true",
            "jet_command": f"{PYTHON} {program} {victim} 4",
            "check_interval": "200ms",
            "splay": 0,
            "retain": {"runs": 1},
        },
        "--log-level",
        "debug",
    )
    agent.wait_for("run_finished", nth=6, outcome="ok", within_s=90)
    agent.wait_for("retention_swept", nth=4)
    assert agent.is_running
    assert (victim / "file").read_text() == (victim / "sub" / "file").read_text() == "precious"
    assert {path.name for path in victim.iterdir()} == {"file", "sub"}
    assert Path("/etc/passwd").exists()
    agent.stop()
