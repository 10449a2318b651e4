"""Every command of contract 5, with an agent and without one: what it says, what it does, what it leaves with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from agent_process import JETP, MAY_UNSHARE, PATIENCE_S, AgentProcess, Site, is_alive, until

COMMANDS = (
    *("watch", "check-config", "schema", "fetch", "status", "runs", "show", "logs", "why"),
    *(
        "trigger",
        "cancel",
        "clear",
        "suspend",
        "resume",
        "local",
        "init",
        "import-cron",
        "import-timer",
        "completion",
        "version",
    ),
)
QUIET = {"check_command": "false", "jet_command": "true", "check_interval": 3600}


def bare(
    *words: str | Path, code: int = 0, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`jetp WORDS` without a state directory."""
    done = subprocess.run(
        [JETP, *words],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nowhere", **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    return done


@contextmanager
def beside(site: Site, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A command that runs while the test goes on."""
    command = [JETP, *words, "--state-dir", site.state]
    with subprocess.Popen(
        command, env=site.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def due_when_told(site: Site, **more: object) -> dict[str, Any]:
    """A watch that is asked once an hour, and says not due at first."""
    return {"check_command": site.check(1), "jet_command": "echo hello", "check_interval": 3600, **more}


def quiet_agent(site: Site, config: dict[str, Any]) -> AgentProcess:
    """An agent after its first check."""
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    agent.wait_for("check_finished", result="not_due")
    return agent


# -- what the caller made of our streams


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("version >&-", 0, ""),
        ("version <&- >&- 2>&-", 0, ""),
        ("version >/dev/full", 75, "standard output cannot be written: No space left on device"),
        ("no-such-command 2>&-", 2, ""),
        ("no-such-command 2>/dev/full", 2, ""),
        ("check-config /no/such 2>&-", 78, ""),
        ("import-cron - <&-", 2, "no job in it"),
    ],
)
def test_streams_that_are_closed_or_full_are_no_internal_error(line: str, code: int, said: str) -> None:
    """A complaint that cannot be written changes no exit code; output that cannot be written is told."""
    shell = ["bash", "-c", f"{JETP} {line}; exit $?"]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert bool(done.stderr) == bool(said)


def test_a_reader_that_went_away_ends_the_command_as_a_shell_expects() -> None:
    """141, as if SIGPIPE had ended it, and no word about it."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as output:
        done = subprocess.run([JETP, "schema"], stdout=output, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_text_that_a_locale_has_no_characters_for_is_escaped(site: Site) -> None:
    """In an ASCII locale, too."""
    check = site.shell(r"printf 'revision=caf\303\251' > $JETWATCH_OUTPUT")
    site.once({"check_command": check, "jet_command": "true"})
    ascii_only = {**site.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [JETP, "runs", "--state-dir", site.state]
    said = subprocess.run(words, env=ascii_only, capture_output=True, text=True, check=True).stdout
    assert r"caf\xe9" in said


# -- help, versions, usage


def test_help_names_every_command() -> None:
    """`jetp --help` lists them, each has a help of its own, which fits a terminal and has an example."""
    said = bare("--help").stdout
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", said, re.MULTILINE), command
        text = bare(command, "--help", environ={"COLUMNS": "80"}).stdout
        assert max(map(len, text.splitlines())) <= 80, command
        usage, _, example = text.partition("Example")
        assert f"jetp {command}" in usage
        assert f"jetp {command}" in example, command


def test_version_says_the_version() -> None:
    """`jetp version` says it, --json adds Python, platform and dependencies."""
    version = bare("version").stdout.split()[-1]
    data = json.loads(bare("version", "--json").stdout)
    assert data["version"] == version
    assert data["python"].startswith("3.")
    assert data["platform"]
    assert "click" in data["dependencies"]


@pytest.mark.parametrize(
    "words",
    [
        ["no-such-command"],
        ["watch"],
        ["watch", "--no-such-option"],
        ["watch", "--watch-config", "x", "--log-level", "loud"],
        ["suspend"],
        ["suspend", "--reason", " "],
        ["check-config", ""],
        ["watch", "--watch-config", ""],
        ["status", "--state-dir", ""],
        ["runs", "--limit", "0"],
        ["check-config"],
    ],
    ids=" ".join,
)
def test_wrong_usage_leaves_with_2(words: list[str]) -> None:
    """Unknown commands and options, missing arguments: exit code 2, a sentence on standard error, nothing on output."""
    done = bare(*words, code=2)
    assert done.stdout == ""
    assert done.stderr


@pytest.mark.parametrize("words", [["schema"], ["schema", "--events"]], ids=" ".join)
def test_schemas_are_json(words: list[str]) -> None:
    """Both schemas are JSON objects that say which schema they follow."""
    assert "$schema" in json.loads(bare(*words).stdout)


def test_check_config_prints_what_is_in_force_without_secrets(site: Site) -> None:
    """Defaults are filled in, secrets are `***`, warnings go to standard error; --json holds the same."""
    site.configure({**QUIET, "env": {"API_TOKEN": "hunter2", "PLAIN": "plain"}, "on_ok": "echo a && b"})
    done = bare("check-config", site.config)
    assert "hunter2" not in done.stdout + done.stderr
    assert "***" in done.stdout
    assert "plain" in done.stdout
    assert "shell:" in done.stderr
    data = json.loads(bare("check-config", site.config, "--json").stdout)
    assert "hunter2" not in json.dumps(data)
    assert data["warnings"]
    assert not site.state.exists()


def test_check_config_tells_every_problem_at_once(site: Site) -> None:
    """Each with file, line, path, what is wrong and the nearest key; exit code 78; --json holds them as objects."""
    site.configure("check_comand: 'x'\njet_command: 'true {{ nope }}'\ncheck_interval: soon\n")
    done = bare("check-config", site.config, code=78)
    places = {line.split(":")[1] for line in done.stderr.splitlines() if line.startswith(f"{site.config}:")}
    assert places == {"1", "2", "3"}
    assert "check_command" in done.stderr
    assert "nope" in done.stderr
    assert "check_interval" in done.stderr
    problems = json.loads(bare("check-config", site.config, "--json", code=78).stdout)["problems"]
    assert {"file", "line", "path", "message"} <= problems[0].keys()


# -- where the state lies


def test_option_environment_and_key_name_the_state_directory_in_this_order(site: Site) -> None:
    """--state-dir, then JETWATCH_STATE_DIR, then `state_dir:`."""
    by_key, by_environ = site.root / "key", site.root / "environ"
    site.configure({**QUIET, "state_dir": str(by_key)})
    words = ("watch", "--watch-config", site.config, "--once")
    bare(*words)
    assert (by_key / "journal.db").exists()
    bare(*words, environ={"JETWATCH_STATE_DIR": str(by_environ)})
    assert (by_environ / "journal.db").exists()
    bare(*words, "--state-dir", site.state, environ={"JETWATCH_STATE_DIR": str(by_environ / "not")})
    assert (site.state / "journal.db").exists()
    assert not (by_environ / "not").exists()


def test_a_second_agent_leaves_with_75_and_names_the_first(site: Site) -> None:
    """One agent per state directory: the message has the holder's pid, and the first one is not disturbed."""
    first = quiet_agent(site, QUIET)
    second = site.start()
    assert second.wait() == 75
    assert f"process {first.pid}" in second.errors
    assert second.lines == []
    assert first.is_running
    assert site.data("status")["agent"]["pid"] == first.pid


@pytest.mark.skipif(not MAY_UNSHARE, reason="only root can mount in a namespace of its own")
def test_root_keeps_its_state_and_its_socket_in_the_usual_places(site: Site) -> None:
    """/var/lib/jetwatch and /run/jetwatch, both private to root."""
    site.configure({"check_command": "true", "jet_command": {"shell": f"ls -ld /run/jetwatch/* > {site.root}/seen"}})
    enter = 'for each in /var/lib /run; do mount -t tmpfs none $each || exit 9; done; "$@" || exit $?; '
    look = f"stat -c '%a %F %n' /var/lib/jetwatch /var/lib/jetwatch/journal.db /run/jetwatch > {site.root}/places"
    command = [JETP, "watch", "--watch-config", site.config, "--once"]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", enter + look, "sh", *command],
        env={**site.environ, "XDG_STATE_HOME": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert site.read_lines("places") == [
        "700 directory /var/lib/jetwatch",
        "600 regular file /var/lib/jetwatch/journal.db",
        "700 directory /run/jetwatch",
    ]
    assert site.read("seen").startswith("srw-------")


# -- reading, with an agent and after it


def test_status_tells_of_a_living_agent_and_of_its_end(site: Site) -> None:
    """Running with pid, version and detach; --check is 0 when all is well, 1 without an agent or after a failed run."""
    agent = quiet_agent(site, due_when_told(site, jet_command="false"))
    data = site.data("status")
    assert (data["agent"]["running"], data["agent"]["pid"], data["agent"]["detach"]) == (True, agent.pid, True)
    assert "detach: true" in site.jetp("status").stdout
    site.jetp("status", "--check")
    site.jetp("trigger", "--force", "--wait", code=1)
    assert site.data("status")["unwell"] == [{"code": "last_run", "watch": "watch"}]
    site.jetp("status", "--check", code=1)
    agent.stop()
    assert "not running" in site.jetp("status").stdout
    assert {"code": "agent_not_running"} in site.data("status")["unwell"]


def test_runs_show_and_logs_tell_of_the_same_runs(site: Site) -> None:
    """Newest first and --limit; the default of show and logs is the newest; a prefix will do; --json on each."""
    config = {**QUIET, "check_command": "true", "jet_command": {"shell": "echo $JETWATCH_PLAY_UUID; echo err >&2"}}
    for _ in range(3):
        site.once(config)
    runs = site.data("runs")
    ids = [run["play_uuid"] for run in runs]
    assert len(ids) == 3
    assert [run["play_uuid"] for run in site.data("runs", "--limit", "2")] == ids[:2]
    assert [run["seq"] for run in runs] == sorted((run["seq"] for run in runs), reverse=True)
    assert all(uuid[:8] in site.jetp("runs").stdout for uuid in ids)
    assert site.data("show")["play_uuid"] == ids[0]
    assert site.data("show", ids[1][:8])["play_uuid"] == ids[1]
    assert ids[1] in site.jetp("show", ids[1][:8]).stdout
    assert site.jetp("logs").stdout == f"{ids[0]}\nerr\n"
    assert site.jetp("logs", ids[2][:8], "--step", "play").stdout == f"{ids[2]}\nerr\n"
    assert site.data("logs", ids[2])[0]["output"] == f"{ids[2]}\nerr\n"
    site.jetp("show", "ffffffff-no", code=2)
    site.jetp("logs", "--step", "nope", code=2)


def test_logs_follow_a_run_to_its_end(site: Site) -> None:
    """`--follow` prints what comes, as it comes, and ends with the run."""
    first, second = site.gate("first"), site.gate("second")
    play = f"echo one; {first.text}; echo two; {second.text}; echo three"
    site.start({"check_command": "true", "jet_command": site.shell(play), "check_interval": 3600}, "--no-splay")
    site.supervisor_of("play")
    with beside(site, "logs", "--step", "play", "--follow") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "one\n"
        first.open()
        assert child.stdout.readline() == "two\n"
        second.open()
        assert child.stdout.read() == "three\n"
        assert child.wait(PATIENCE_S) == 0


def test_logs_follow_without_an_agent(site: Site) -> None:
    """Reading needs no agent: the output of a play that outlived its agent is followed all the same."""
    gate = site.gate()
    config = {"check_command": "true", "jet_command": site.shell(f"echo one; {gate.text}; echo two")}
    agent = site.start(config, "--no-splay")
    site.supervisor_of("play")
    agent.kill9()
    with beside(site, "logs", "--follow") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "one\n"
        gate.open()
        assert child.stdout.readline() == "two\n"


def test_why_says_the_last_decision_and_the_next(site: Site) -> None:
    """One screen per watch, with all that stands in the way; without an agent it says that nothing comes next."""
    agent = quiet_agent(site, {"defaults": QUIET, "watches": {"one": {}, "two": {}}})
    agent.wait_for("check_finished", watch="two")
    agent.wait_for("check_finished", watch="one")
    said = site.jetp("why", "one").stdout
    assert "the check said: not due" in said
    assert "a check" in said
    assert "two" not in said
    assert [each["watch"] for each in site.data("why")] == ["one", "two"]
    site.jetp("why", "three", code=2)
    agent.stop()
    assert "nothing, until an agent runs" in site.jetp("why", "one").stdout


# -- trigger


def test_trigger_needs_an_agent(site: Site) -> None:
    """69 without one, before there ever was one and after."""
    site.jetp("trigger", code=69)
    site.once(QUIET)
    assert "agent" in site.jetp("trigger", code=69).stderr


def test_trigger_checks_now_past_the_splay_and_the_interval(site: Site) -> None:
    """The check is asked at once; what it says decides."""
    agent = site.start(due_when_told(site, splay=1000), "--log-level", "debug")
    agent.wait_for("splay_started")
    site.jetp("trigger")
    assert agent.wait_for("check_finished", result="not_due")["trigger"] == "manual"
    site.answer(0)
    site.jetp("trigger", "watch")
    run = agent.wait_for("run_finished", outcome="ok")
    assert run["trigger"] == "manual"
    assert site.data("show")["triggered"]["by"]
    site.jetp("trigger", "nope", code=2)


def test_trigger_goes_past_the_backoff(site: Site) -> None:
    """A check in error that waits hours for its next time is asked at once."""
    slow = {"initial": "10h", "max": "10h"}
    config = due_when_told(site, retry=slow)
    site.answer(9)
    agent = site.start(config, "--no-splay")
    agent.wait_for("retry_planned")
    site.answer(0)
    site.jetp("trigger")
    agent.wait_for("run_finished", outcome="ok")


def test_trigger_force_opens_a_run_whatever_the_check_says(site: Site) -> None:
    """Not due, later and error: each is overruled."""
    agent = quiet_agent(site, due_when_told(site))
    for number, answer in enumerate((1, 75, 9), start=1):
        site.answer(answer)
        site.jetp("trigger", "--force", "--wait")
        assert len(agent.told("run_finished", outcome="ok", trigger="manual")) == number


def test_trigger_wait_tells_what_came_of_it(site: Site) -> None:
    """0 when the run ended ok or nothing was due, 1 when it ended otherwise."""
    quiet_agent(site, due_when_told(site, jet_command=site.shell("[ ! -e broken ]")))
    assert "not due" in site.jetp("trigger", "--wait").stdout
    site.answer(0)
    assert "ended ok" in site.jetp("trigger", "--wait").stdout
    (site.root / "broken").touch()
    assert "ended failed" in site.jetp("trigger", "--wait", code=1).stdout


def test_a_trigger_during_a_run_is_remembered_once(site: Site) -> None:
    """Three triggers while a run is open make one check after it, and one run if it is due."""
    gate = site.gate()
    agent = quiet_agent(site, due_when_told(site, jet_command=site.shell(gate.text)))
    site.answer(0)
    site.jetp("trigger")
    agent.wait_for("step_started", step="play")
    for _ in range(3):
        assert "after the open run" in site.jetp("trigger").stdout
    gate.open()
    agent.wait_for("run_finished", nth=2)
    agent.stop(signal.SIGINT)
    assert len(agent.told("run_started")) == 2
    assert len(site.read_lines("checks")) == 3


def test_trigger_does_not_go_past_a_suspension(site: Site) -> None:
    """A suspended watch is not checked; why is said, and the exit code is 1, whether somebody waits or not."""
    agent = quiet_agent(site, due_when_told(site))
    site.jetp("suspend", "--reason", "moving house")
    site.answer(0)
    for words in ([], ["--wait"], ["--force", "--wait"]):
        assert "moving house" in site.jetp("trigger", *words, code=1).stdout
    assert agent.told("run_started") == []


def test_a_caller_that_waits_is_told_what_stands_in_the_way_for_long(site: Site) -> None:
    """Due, but there is no room on the disk, or the watch is held: 1 and why, at once."""
    agent = quiet_agent(site, due_when_told(site, disk_reserve="1000000 GiB"))
    assert "disk" in site.jetp("trigger", "--force", "--wait", code=1).stdout
    agent.stop()
    site.configure(due_when_told(site, jet_command={"shell": "kill -KILL $PPID; sleep 1000; :"}))
    site.answer(0)
    for _ in range(3):
        site.once(code=1)
    site.start(due_when_told(site), "--no-splay", "--log-level", "debug").wait_for("check_finished", reason="held")
    assert "held" in site.jetp("trigger", "--force", "--wait", code=1).stdout


def test_trigger_waits_for_its_turn_among_others(site: Site) -> None:
    """With `max_runs` reached the forced run waits, and --wait with it."""
    gate = site.gate()
    config = {"max_runs": 1, "defaults": QUIET, "watches": {"one": {"jet_command": site.shell(gate.text)}, "two": {}}}
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    agent.wait_for("check_finished", watch="two")
    site.jetp("trigger", "one", "--force")
    agent.wait_for("step_started", watch="one", step="play")
    with beside(site, "trigger", "two", "--force", "--wait") as child:
        until(lambda: site.standing("two")["waiting_for"] == ["max_runs"])
        gate.open()
        assert child.wait(PATIENCE_S) == 0


def test_a_caller_that_waits_is_told_when_the_agent_stops(site: Site) -> None:
    """`trigger --wait` does not hang on an agent that is gone."""
    agent = quiet_agent(site, due_when_told(site, jet_command=site.shell("sleep 1000; :")))
    site.answer(0)
    with beside(site, "trigger", "--wait") as child:
        agent.wait_for("step_started", step="play")
        agent.stop()
        assert child.wait(PATIENCE_S) != 0


def test_a_caller_that_waits_is_told_when_its_watch_is_removed(site: Site) -> None:
    """`trigger --wait` does not hang on a watch that a new configuration took away."""
    gate = site.gate()
    one = {"one": {"jet_command": site.shell(gate.text)}}
    config = {"max_runs": 1, "defaults": QUIET, "watches": {**one, "two": {}}}
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    agent.wait_for("check_finished", watch="two")
    site.jetp("trigger", "one", "--force")
    agent.wait_for("step_started", watch="one", step="play")
    with beside(site, "trigger", "two", "--force", "--wait") as child:
        until(lambda: site.standing("two")["waiting_for"] == ["max_runs"])
        site.configure({**config, "watches": one})
        agent.send(signal.SIGHUP)
        agent.wait_for("config_reloaded")
        assert child.wait(PATIENCE_S) == 1


# -- cancel, clear, suspend, resume


def test_verbs_do_the_same_with_and_without_an_agent(site: Site) -> None:
    """suspend, resume and clear: said, recorded and told in the same way."""
    site.once(QUIET)
    for agent_is_there in (False, True):
        agent = quiet_agent(site, QUIET) if agent_is_there else None
        assert site.jetp("suspend", "--reason", "x", "--for", "1h").stdout == "watch: suspended\n"
        assert site.standing()["suspended"]["reason"] == "x"
        assert site.jetp("resume").stdout == "watch: resumed\n"
        assert site.standing()["suspended"] is None
        assert site.jetp("clear").stdout == "watch: cleared\n"
        if agent is not None:
            for event in ("suspended", "resumed", "cleared"):
                agent.wait_for(event)
            agent.stop()


def test_what_was_changed_without_an_agent_is_told_by_the_next(site: Site) -> None:
    """The history that a command wrote in an agent's place stands in the next agent's log."""
    site.once(QUIET)
    site.jetp("suspend", "--reason", "x")
    agent = site.ready()
    assert agent.wait_for("suspended")["reason"] == "x"


@pytest.mark.parametrize("words", [["suspend", "--reason", "x"], ["resume"], ["clear"], ["cancel"]], ids=" ".join)
def test_a_verb_beside_an_agent_without_a_socket_leaves_with_75(site: Site, words: list[str]) -> None:
    """`control: false`: the agent holds the state directory, so nothing is changed behind its back."""
    agent = site.start(due_when_told(site, control=False, jet_command=site.shell("sleep 1000; :")), "--no-splay")
    if words == ["cancel"]:
        agent.kill9()
        site.answer(0)
        agent = site.start(None, "--no-splay")
        site.supervisor_of("play")
    else:
        agent.wait_for("agent_started")
    done = site.jetp(*words, code=75)
    assert str(agent.pid) in done.stderr
    assert f"process {agent.pid}) takes no calls" in site.jetp("trigger", code=69).stderr


def test_cancel_names_what_it_wants(site: Site) -> None:
    """Nothing open, more than one open, one that has ended: exit code 2 and a sentence; a prefix ends one."""
    defaults = {"check_command": "true", "jet_command": site.shell("sleep 1000; :"), "check_interval": 3600}
    agent = quiet_agent(site, QUIET)
    assert "no run is open" in site.jetp("cancel", code=2).stderr
    agent.stop()
    agent = site.start({"defaults": defaults, "watches": {"one": {}, "two": {}}}, "--no-splay")
    for watch in ("one", "two"):
        agent.wait_for("step_started", watch=watch, step="play")
    until(lambda: len(list(site.state.glob("runs/*/play.1/started.json"))) == 2)
    assert "one" in site.jetp("cancel", code=2).stderr
    uuid = agent.told("run_started", watch="one")[0]["play_uuid"]
    site.jetp("cancel", uuid[:13])
    assert agent.wait_for("run_finished", watch="one")["outcome"] == "cancelled"
    site.jetp("cancel", uuid, code=2)
    assert agent.told("run_finished", watch="two") == []


def as_nobody(words: list[str | Path], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """A command that another user gives."""
    return subprocess.run(
        words,
        env=dict(environ),
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_may_neither_read_nor_change(site: Site) -> None:
    """77, with an agent: the journal and the socket are its owner's."""
    try:
        as_nobody([JETP, "version"], site.environ)
    except PermissionError:
        pytest.skip("another user cannot start this Python")
    quiet_agent(site, QUIET)
    for words in (["status"], ["runs"], ["clear"], ["trigger"]):
        done = as_nobody([JETP, *words, "--state-dir", site.state], site.environ)
        assert done.returncode == 77, (words, done)
        assert done.stdout == ""


# -- the agent's own options


@pytest.mark.parametrize("name", ["logfmt", "console"])
def test_log_formats_are_lines_for_other_readers(site: Site, name: str) -> None:
    """--log-format: each event is one line, with its name in it."""
    site.configure({**QUIET, "check_command": "true"})
    words = ("watch", "--watch-config", site.config, "--state-dir", site.state, "--once", "--log-format", name)
    lines = bare(*words).stdout.splitlines()
    assert len(lines) >= 4
    assert not any(line.startswith("{") for line in lines)
    assert name == "console" or sum("event=run_finished" in line for line in lines) == 1


def test_log_level_leaves_out_what_is_below_it(site: Site) -> None:
    """--log-level error: only what is an error is told."""
    agent = site.once({**QUIET, "check_command": "true", "jet_command": "false"}, "--log-level", "error", code=1)
    assert [line["event"] for line in agent.lines] == ["run_finished"]


def test_every_line_has_the_fields_that_all_lines_have(site: Site) -> None:
    """timestamp, level, event, host, agent_version, schema_version; watch for a watch, play_uuid and seq for a run."""
    agent = site.once({**QUIET, "check_command": "true", "on_ok": "true"})
    for line in agent.lines:
        assert {"timestamp", "level", "event", "host", "agent_version", "schema_version"} <= line.keys()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])
    of_runs = [line for line in agent.lines if line["event"].startswith(("run_", "step_"))]
    assert of_runs
    assert all({"watch", "play_uuid", "seq"} <= line.keys() for line in of_runs)


def test_an_interrupted_follow_leaves_the_play_alone(site: Site) -> None:
    """INT to `jetp logs --follow` ends the reader with 130, and nothing else."""
    site.start(
        {"check_command": "true", "jet_command": site.shell("echo $$ > pid; echo one; sleep 1000; :")}, "--no-splay"
    )
    play = site.pid_in("pid")
    with beside(site, "logs", "--follow") as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        assert child.wait(PATIENCE_S) == 130
    assert is_alive(play)


# -- words that are no text


@pytest.mark.parametrize(
    "words", [["show", b"\xff"], ["suspend", "--reason", b"\xff"], ["watch", "--watch-config", b"/\xff"]]
)
def test_a_word_that_is_no_utf8_is_wrong_usage(words: list[str | bytes]) -> None:
    """It is shown with its bytes escaped, on one line."""
    done = subprocess.run([JETP, *words], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, b"")
    assert re.fullmatch(rb"jetp: not UTF-8: /?\\udcff\n", done.stderr)


def test_a_state_directory_whose_path_is_no_utf8_is_refused(site: Site) -> None:
    """Journal and log could not hold it: 78 before anything is made."""
    site.configure(QUIET)
    path = os.fsencode(site.root) + b"/\xff"
    environ = {os.fsencode(name): os.fsencode(text) for name, text in site.environ.items()}
    command = [JETP, "watch", "--once", "--watch-config", site.config]
    done = subprocess.run(
        command, env=environ | {b"JETWATCH_STATE_DIR": path}, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 78
    assert b"must be UTF-8" in done.stderr
    assert not Path(os.fsdecode(path)).exists()
