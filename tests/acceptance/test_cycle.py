"""One cycle, as contract 2 draws it: check, run, download, play, hooks, wait; and what commands are given."""

from __future__ import annotations

import json
import os
import pwd
import uuid
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from agent_process import JETP, AgentProcess, Site, is_alive, until

from jetwatch.process import tree

SEED = """
check_command: {root}/check.sh
download_command: {root}/download.sh {{{{ download_path }}}}
jet_command: jetp local --playbook {{{{ download_path }}}}/pb.yml
check_interval: 200
splay: 100
on_ok: {root}/ok.sh {{{{ play_uuid }}}}
on_fail: {root}/fail.sh {{{{ play_uuid }}}}
"""
PLAYBOOK = "- hosts: all\n  gather_facts: false\n  tasks:\n    - copy: {content: applied, dest: DEST}\n"


def seed_site(site: Site, playbook: str) -> None:
    """The scripts of the seed's watch.yml."""
    (site.root / "content.yml").write_text(playbook)
    site.script("check.sh", f"[ ! -e {site.root}/applied ]")
    site.script("download.sh", f'[ -z "$(ls -A "$1")" ] && cp {site.root}/content.yml "$1/pb.yml"')
    for name in ("ok", "fail"):
        site.script(f"{name}.sh", f'echo "{name} $1" >> {site.root}/hooks')


def moment(line: dict[str, Any]) -> float:
    """When a line was told, in seconds."""
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def test_the_seeds_watch_yml_works_verbatim(site: Site) -> None:
    """Check, download into the GUID directory, play, on_ok, and nothing due after that; only script paths differ."""
    seed_site(site, "the playbook")
    site.script("bin/jetp", f'echo "$*" > {site.root}/played; cat "$3" > {site.root}/applied')
    agent = site.start(SEED.format(root=site.root), "--no-splay")
    run = agent.wait_for("run_finished", outcome="ok", trigger="check", attempt=1)
    agent.wait_for("step_finished", step="on_ok", ok=True)
    path = agent.told("run_started")[0]["download_path"]
    assert site.read("played").split() == ["local", "--playbook", f"{path}/pb.yml"]
    assert site.read("applied") == "the playbook"
    assert site.read_lines("hooks") == [f"ok {run['play_uuid']}"]
    assert [line["step"] for line in agent.told("step_finished")] == ["download", "play", "on_ok"]
    assert agent.stop() == 0
    assert site.once(None, "--log-level", "debug").told("check_finished", result="not_due")


@pytest.mark.slow
def test_the_seeds_watch_yml_applies_a_real_playbook(site: Site) -> None:
    """The same with the real `jetp local` and ansible."""
    seed_site(site, PLAYBOOK.replace("DEST", f"{site.root}/applied"))
    site.environ["PATH"] = f"{JETP.parent}:{site.environ['PATH']}"
    agent = site.once(SEED.format(root=site.root))
    uuid_told = agent.told("run_finished", outcome="ok")[0]["play_uuid"]
    assert site.read("applied") == "applied"
    assert site.read_lines("hooks") == [f"ok {uuid_told}"]
    assert "changed=1" in site.jetp("logs", "--step", "play").stdout


@pytest.mark.parametrize(
    ("command", "result", "fields", "code"),
    [
        ("exit 0", "due", {"exit_code": 0}, 0),
        ("exit 1", "not_due", {"exit_code": 1}, 0),
        ("exit 2", "error", {"reason": "exit_code", "exit_code": 2}, 75),
        ("exit 75", "later", {"exit_code": 75}, 75),
        ("kill -SEGV $$", "error", {"reason": "signalled", "signal": "SIGSEGV", "exit_code": 139}, 75),
        ("trap '' TERM; sleep 1000 & sleep 1000", "error", {"reason": "timeout", "timed_out": True}, 75),
    ],
    ids=["0", "1", "2", "75", "signal", "hang"],
)
def test_only_0_is_due_and_only_1_is_not_due(
    site: Site, command: str, result: str, fields: dict[str, object], code: int
) -> None:
    """0 due, 1 not due, 75 later; anything else, a signal or a timeout is an error. A run only for 0."""
    config = {
        "check_command": {"shell": command},
        "jet_command": "true",
        "timeouts": {"check": "0.5s", "grace": "0.2s"},
    }
    agent = site.once(config, "--log-level", "debug", code=code)
    [line] = agent.told("check_finished")
    assert line["result"] == result
    assert {name: line.get(name) for name in fields} == fields
    assert len(agent.told("run_started")) == (result == "due")
    assert site.processes() == []


def test_a_check_that_is_not_there_is_an_error_that_says_so(site: Site) -> None:
    """A check that cannot be started is never "not due"."""
    agent = site.once({"check_command": "/nowhere/check", "jet_command": "true"}, code=75)
    [line] = agent.told("check_finished")
    assert (line["result"], line["reason"]) == ("error", "no_such_file")
    assert "/nowhere/check: no such file" in line["output_tail"]


def test_a_due_check_opens_a_run_that_is_recorded_before_its_first_command(site: Site) -> None:
    """What the first command of a run sees in the journal is the run itself, open, and its own step started."""
    site.once(
        {
            "check_command": "true",
            "download_command": site.shell(
                f'{JETP} show "$JETWATCH_PLAY_UUID" --json --state-dir "$JETWATCH_STATE_DIR" > seen'
            ),
            "jet_command": "true",
        }
    )
    seen = json.loads(site.read("seen"))
    assert seen["outcome"] is None
    assert [step["state"] for step in seen["steps"]] == ["started", "pending"]


def test_each_run_gets_a_random_guid_and_a_fresh_private_empty_directory(site: Site) -> None:
    """A new UUIDv4 each time; `download_path` is empty, mode 0700, and not that of another run."""
    config = {
        "check_command": "true",
        "download_command": site.shell(
            'echo "$JETWATCH_PLAY_UUID" "$(stat -c "%a %U" "$JETWATCH_DOWNLOAD_PATH")" '
            '"$(ls -A "$JETWATCH_DOWNLOAD_PATH" | wc -l)" "$JETWATCH_DOWNLOAD_PATH" >> seen; '
            'touch "$JETWATCH_DOWNLOAD_PATH/content"'
        ),
        "jet_command": ["test", "-e", "{{ download_path }}/content"],
    }
    site.once(config)
    site.once()
    seen = [line.split() for line in site.read_lines("seen")]
    assert [each[1:4] for each in seen] == [["700", pwd.getpwuid(os.geteuid()).pw_name, "0"]] * 2
    assert len({each[0] for each in seen}) == len({each[4] for each in seen}) == 2
    assert all(uuid.UUID(each[0]).version == 4 for each in seen)
    assert [run["play_uuid"] for run in site.runs()] == [each[0] for each in seen]


def test_a_failed_download_fails_the_run_and_starts_no_play(site: Site) -> None:
    """`failed_step` is download, the play never starts, on_fail runs, the exit code of --once is 1."""
    config = {
        "check_command": "true",
        "download_command": {"shell": "echo no network; exit 6"},
        "jet_command": site.shell("touch played"),
        "on_ok": site.shell("echo ok >> hooks"),
        "on_fail": [
            str(site.script("fail.sh", f'echo "$@" >> {site.root}/hooks')),
            "{{ failed_step }}",
            "{{ outcome }}",
        ],
    }
    agent = site.once(config, code=1)
    run = agent.told("run_finished")[0]
    assert (run["outcome"], run["failed_step"], run["exit_code"]) == ("failed", "download", 6)
    assert agent.told("step_finished", step="download")[0]["output_tail"] == "no network\n"
    assert not (site.root / "played").exists()
    assert site.read_lines("hooks") == ["download failed"]


def test_a_failed_play_fails_the_run(site: Site) -> None:
    """The play's exit code is the run's; on_fail runs and on_ok does not."""
    config = {
        "check_command": "true",
        "jet_command": {"shell": "exit 4"},
        "on_ok": site.shell("echo ok >> hooks"),
        "on_fail": site.shell('echo "fail $JETWATCH_EXIT_CODE $JETWATCH_FAILED_STEP" >> hooks'),
    }
    run = site.once(config, code=1).told("run_finished")[0]
    assert (run["outcome"], run["failed_step"], run["exit_code"]) == ("failed", "play", 4)
    assert site.read_lines("hooks") == ["fail 4 play"]


@pytest.mark.parametrize("kind", ["gone", "not_executable", "bad_user_dir"])
def test_a_play_that_cannot_start_fails_the_run_with_its_reason(site: Site, kind: str) -> None:
    """Not found, not executable, a working directory that is not there: each a failed run that says why."""
    plain = site.root / "plain"
    plain.write_text("text")
    command: dict[str, object]
    command, reason, code = {
        "gone": ({"run": "/nowhere/play"}, "no_such_file", 127),
        "not_executable": ({"run": str(plain)}, "not_executable", 126),
        "bad_user_dir": ({"run": "true", "cwd": "/nowhere"}, "bad_cwd", 126),
    }[kind]
    run = site.once({"check_command": "true", "jet_command": command}, code=1).told("run_finished")[0]
    assert (run["outcome"], run["failed_step"], run["reason"], run["exit_code"]) == ("failed", "play", reason, code)


def test_a_play_over_its_time_is_ended_with_everything_it_started(site: Site) -> None:
    """Outcome timeout; TERM, then KILL after grace, for a tree that ignores TERM and leaves its session."""
    stubborn = "trap '' TERM; (trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 1000; :' & sleep 1000) & "
    config = {
        "check_command": "true",
        "jet_command": {"shell": f"{stubborn} echo begun; sleep 1000; :"},
        "timeouts": {"play": "0.7s", "grace": "0.3s"},
        "on_fail": site.shell('echo "$JETWATCH_OUTCOME" >> hooks'),
    }
    agent = site.once(config, code=1)
    run = agent.told("run_finished")[0]
    assert (run["outcome"], run["failed_step"]) == ("timeout", "play")
    step = agent.told("step_finished", step="play")[0]
    assert step["timed_out"] is True
    assert 0.9 < step["duration_s"] < 5
    assert site.read_lines("hooks") == ["timeout"]
    assert site.processes() == []


def test_a_play_that_obeys_term_is_not_killed(site: Site) -> None:
    """TERM comes first: who obeys it may clean up."""
    config = {
        "check_command": "true",
        "jet_command": site.shell("trap 'echo cleaned > cleaned; exit 0' TERM; while :; do sleep 0.05; done"),
        "timeouts": {"play": "0.5s", "grace": "20s"},
    }
    run = site.once(config, code=1).told("run_finished")[0]
    assert run["outcome"] == "timeout"
    assert site.read("cleaned") == "cleaned\n"


def test_watches_run_beside_each_other_and_each_has_one_run_at_a_time(site: Site) -> None:
    """Two plays that wait for each other both end well; a third cycle of a watch begins after its second."""
    meet = "echo $$ > at-$JETWATCH_WATCH; until [ -e at-one ] && [ -e at-two ]; do sleep 0.02; done"
    site.once(
        {"defaults": {"check_command": "true", "jet_command": site.shell(meet)}, "watches": {"one": {}, "two": {}}}
    )
    assert {run["watch"]: run["outcome"] for run in site.runs()} == {"one": "ok", "two": "ok"}


@pytest.mark.slow
def test_a_cycle_that_overran_is_followed_by_one_check_not_a_burst(site: Site) -> None:
    """After a run of several intervals one check comes at once, the next a whole interval later."""
    config = {
        "check_command": site.check(0),
        "jet_command": site.shell("echo 1 > answer; echo begin >> plays; sleep 3.3; echo end >> plays"),
        "check_interval": 1,
    }
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    ended = moment(agent.wait_for("run_finished", outcome="ok"))
    agent.wait_for("check_finished", result="not_due", nth=3)
    after = [moment(line) - ended for line in agent.told("check_finished", result="not_due")]
    assert after[0] < 0.7
    assert all(later - earlier > 0.5 for earlier, later in pairwise(after))
    assert site.read_lines("plays") == ["begin", "end"]


def test_a_daemon_that_a_playbook_started_lives_on_and_holds_nothing_open(site: Site) -> None:
    """The run ends with its command; what it left behind is counted, left alive, and can still write."""
    gate = site.gate()
    daemon = f"echo $$ > daemon; {gate.text}; echo still here || exit 1; echo wrote > wrote; exec sleep 1000"
    config = {
        "check_command": "true",
        "jet_command": site.shell(f"setsid sh -c '{daemon}' & until [ -s daemon ]; do sleep 0.01; done; echo done"),
    }
    agent = site.once(config)
    assert agent.told("step_finished", step="play")[0]["left_running"] >= 1
    daemon_pid = site.pid_in("daemon")
    assert is_alive(daemon_pid)
    assert site.jetp("logs", "--step", "play").stdout == "done\n"
    gate.open()
    until(lambda: site.read("wrote"))
    assert is_alive(daemon_pid)


def test_a_command_has_no_input_a_session_of_its_own_and_one_stream_in_order(site: Site) -> None:
    """stdin is /dev/null, the command leads its session, and lines of both outputs come as they were written."""
    play = """
        readlink /proc/self/fd/0
        [ "$(cut -d' ' -f6 /proc/$$/stat)" = $$ ] && echo leader
        i=0; while [ $i -lt 300 ]; do echo "out $i"; echo "err $i" >&2; i=$((i+1)); done
    """
    site.once({"check_command": "true", "jet_command": site.shell(play)})
    expected = ["/dev/null", "leader", *(f"{name} {i}" for i in range(300) for name in ("out", "err"))]
    assert site.jetp("logs", "--step", "play").stdout.splitlines() == expected


@pytest.mark.parametrize("key", ["exclusive", "max_runs"])
def test_runs_that_must_not_meet_wait_for_each_other(site: Site, key: str) -> None:
    """Watches that share `exclusive` never run at the same time, nor more than `max_runs` of any."""
    gate = site.gate()
    defaults: dict[str, object] = {
        "check_command": "true",
        "check_interval": 1,
        "jet_command": site.shell(f"echo begin >> plays; {gate.text}; sleep 0.1; echo end >> plays"),
    }
    wide: dict[str, object] = {"max_runs": 1}
    if key == "exclusive":
        defaults["exclusive"], wide, word = "apt", {}, "exclusive:apt"
    else:
        word = "max_runs"
    config = {**wide, "defaults": defaults, "watches": {"one": {}, "two": {}}}
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    agent.wait_for("check_finished", result="skipped", reason=word)
    waiting = agent.told("check_finished", reason=word)[0]["watch"]
    assert site.standing(waiting)["waiting_for"] == [word]
    assert word.partition(":")[2] in site.jetp("why", waiting).stdout
    gate.open()
    agent.wait_for("run_finished", watch=waiting, outcome="ok")
    agent.stop()
    until(lambda: site.supervisors() == [])
    plays = site.read_lines("plays")
    assert plays == ["begin", "end"] * (len(plays) // 2)


def test_watches_without_a_common_lock_do_not_wait(site: Site) -> None:
    """`exclusive` holds between watches of the same name only."""
    meet = "touch at-$JETWATCH_WATCH; until [ -e at-one ] && [ -e at-two ]; do sleep 0.02; done"
    defaults = {"check_command": "true", "jet_command": site.shell(meet)}
    site.once({"defaults": defaults, "watches": {"one": {"exclusive": "apt"}, "two": {"exclusive": "dnf"}}})


def test_once_waits_for_the_watch_whose_turn_comes_later(site: Site) -> None:
    """--once ends when each watch had its run, although one had to wait for another."""
    defaults = {"check_command": "true", "exclusive": "apt", "jet_command": site.shell("sleep 0.1")}
    site.once({"max_runs": 1, "defaults": defaults, "watches": {"one": {}, "two": {}, "three": {}}})
    assert sorted(run["watch"] for run in site.runs()) == ["one", "three", "two"]


HOOK = '"$JETWATCH_OUTCOME" "$JETWATCH_EXIT_CODE" "$JETWATCH_FAILED_STEP" "$JETWATCH_DELIVERY"'


@pytest.mark.parametrize("ends_ok", [True, False])
def test_hooks_come_in_their_order_with_what_is_known(site: Site, ends_ok: bool) -> None:
    """on_start, then on_ok or on_fail, then on_done; what is not known yet is empty."""
    config: dict[str, object] = {
        name: site.shell(f"echo {name} {HOOK} >> hooks") for name in ("on_start", "on_ok", "on_fail", "on_done")
    }
    config |= {"check_command": "true", "jet_command": {"shell": "exit 0" if ends_ok else "kill -KILL $$"}}
    site.once(config, code=0 if ends_ok else 1)
    after = (
        ["on_ok ok 0  1", "on_done ok 0  1"] if ends_ok else ["on_fail failed 137 play 1", "on_done failed 137 play 1"]
    )
    assert site.read_lines("hooks") == ["on_start    1", *after]


def test_on_error_runs_once_per_streak_of_errors(site: Site) -> None:
    """The check goes into error: one on_error. It recovers and goes into error again: another one."""
    config = {
        "check_command": site.check(2),
        "jet_command": "true",
        "check_interval": 1,
        "on_error": site.shell('echo "$JETWATCH_EXIT_CODE $JETWATCH_FAILED_STEP [$JETWATCH_PLAY_UUID]" >> hooks'),
    }
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    agent.wait_for("check_finished", result="error", nth=2)
    site.answer(1)
    agent.wait_for("check_finished", result="not_due")
    site.answer(9)
    agent.wait_for("step_finished", step="on_error", nth=2)
    assert site.read_lines("hooks") == ["2 check []", "9 check []"]


VARIABLES = ("watch", "hostname", "state_dir", "previous_revision", "attempt", "trigger")
OF_A_RUN = (*VARIABLES, "play_uuid", "download_path", "revision")
OF_A_HOOK = (*OF_A_RUN, "outcome", "exit_code", "failed_step", "duration", "output_path")


def test_variables_are_the_same_as_words_and_as_environment(site: Site) -> None:
    """Each variable of a check, a command of a run and a hook: as `{{ name }}` and as JETWATCH_NAME."""
    tell = site.script(
        "tell.sh", f'file={site.root}/$1.txt; shift; for each; do echo "$each" >> $file; done; env > ${{file%.txt}}.env'
    )

    def command(name: str, variables: tuple[str, ...]) -> list[str]:
        return [str(tell), name, *(f"={{{{ {variable} }}}}" for variable in variables)]

    site.once(
        {
            "check_command": command("check", VARIABLES),
            "download_command": command("download", OF_A_RUN),
            "jet_command": command("play", OF_A_RUN),
            "on_start": command("on_start", OF_A_HOOK),
            "on_ok": command("on_ok", OF_A_HOOK),
        }
    )
    run = site.runs()[0]
    for name, variables in (("check", VARIABLES), ("play", OF_A_RUN), ("on_start", OF_A_HOOK), ("on_ok", OF_A_HOOK)):
        environ = dict(line.partition("=")[::2] for line in site.read_lines(f"{name}.env"))
        words = [line[1:] for line in site.read_lines(f"{name}.txt")]
        assert [environ[f"JETWATCH_{variable.upper()}"] for variable in variables] == words, name
    said = dict(zip(OF_A_HOOK, (line[1:] for line in site.read_lines("on_ok.txt")), strict=True))
    assert (said["watch"], said["trigger"], said["attempt"]) == ("watch", "check", "1")
    assert (said["play_uuid"], said["outcome"], said["exit_code"]) == (run["play_uuid"], "ok", "0")
    assert said["failed_step"] == ""
    assert float(said["duration"]) > 0
    assert said["state_dir"] == str(site.state)
    assert said["download_path"] == f"{site.state}/downloads/{run['play_uuid']}"


def test_commands_get_the_environment_of_their_user_and_little_else(site: Site) -> None:
    """HOME, USER, LOGNAME, SHELL of the command's user, PATH and LANG of the agent; nothing else of the agent's."""
    config = {"check_command": "true", "jet_command": site.shell("env > env")}
    agent = site.start(config, "--once", environ={"SECRET_OF_THE_AGENT": "x", "HOME": "/elsewhere"})
    assert agent.wait() == 0
    environ = dict(line.partition("=")[::2] for line in site.read_lines("env"))
    account = pwd.getpwuid(os.geteuid())
    assert (environ["USER"], environ["LOGNAME"], environ["HOME"]) == (account.pw_name, account.pw_name, account.pw_dir)
    assert environ["SHELL"] == account.pw_shell
    assert (environ["PATH"], environ["LANG"]) == (site.environ["PATH"], "C.UTF-8")
    assert "SECRET_OF_THE_AGENT" not in environ


def test_outputs_travel_from_check_to_play_to_hook(site: Site) -> None:
    """`key=value` lines become `outputs.KEY`; `revision=` names the run's revision."""
    config = {
        "check_command": {"shell": 'printf "revision=r1\\nfrom=a b\\n" > "$JETWATCH_OUTPUT"'},
        "download_command": {"shell": 'echo "size=7" > "$JETWATCH_OUTPUT"'},
        "jet_command": [
            "sh",
            "-c",
            f'echo "$1|$2|$3" > {site.root}/play; echo ended=well > "$JETWATCH_OUTPUT"',
            "sh",
            "{{ outputs.from }}",
            "{{ outputs.size }}",
            "{{ revision }}",
        ],
        "on_ok": ["sh", "-c", f'echo "$1|$JETWATCH_OUTPUTS_FROM" > {site.root}/hook', "sh", "{{ outputs.ended }}"],
    }
    agent = site.once(config)
    assert agent.told("run_finished", revision="r1")
    assert site.read("play") == "a b|7|r1\n"
    assert site.read("hook") == "well|a b\n"


@pytest.mark.parametrize(
    "written", ["NotAKey=1", "no equals sign", "k=\\377", "big"], ids=["key", "line", "utf8", "long"]
)
def test_bad_output_fails_the_command(site: Site, written: str) -> None:
    """Anything but `key=value` lines within the bounds fails a command that ended well."""
    write = "head -c 70000 /dev/zero | tr '\\0' x" if written == "big" else f"printf '{written}\\n'"
    config = {"check_command": "true", "jet_command": {"shell": f'{write} > "$JETWATCH_OUTPUT"'}}
    run = site.once(config, code=1).told("run_finished")[0]
    assert (run["outcome"], run["failed_step"], run["reason"]) == ("failed", "play", "bad_output")


def test_the_applied_revision_is_empty_after_a_run_that_did_not_end_ok(site: Site) -> None:
    """Through ok, failed play, ok and a failed download: what a check is told is applied, and what was last ok."""
    check = site.shell(
        'echo "$JETWATCH_APPLIED_REVISION/$JETWATCH_LAST_OK_REVISION" >> told; cat revision > "$JETWATCH_OUTPUT"'
    )
    config = {
        "check_command": check,
        "download_command": site.shell("[ ! -e broken ]"),
        "jet_command": site.shell('[ "$JETWATCH_REVISION" != r2 ] || [ -e fixed ]'),
    }
    for revision, code in (("r1", 0), ("r2", 1)):
        (site.root / "revision").write_text(f"revision={revision}\n")
        site.once(config, code=code)
    (site.root / "fixed").touch()
    site.once(config)
    (site.root / "broken").touch()
    site.once(config, code=1)
    site.once(config, code=1)
    # The failed download of the fourth run touched nothing: r2 is still what is applied.
    assert site.read_lines("told") == ["/", "r1/r1", "/r1", "r2/r2", "r2/r2"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run commands as somebody else")
def test_commands_run_as_the_watchs_user_who_owns_the_download(site: Site) -> None:
    """Commands run as `user`, with its environment; `download_path` and output files are its own, no others are."""
    told = site.root / "told"
    told.mkdir()
    told.chmod(0o777)
    play = f"""
        echo applied; id -un >> {told}/play; echo "$USER $HOME" >> {told}/play
        stat -c '%U %a' "$JETWATCH_DOWNLOAD_PATH" >> {told}/play
        touch "$JETWATCH_DOWNLOAD_PATH/mine" && echo done=yes > "$JETWATCH_OUTPUT"
        cat "$JETWATCH_STATE_DIR/journal.db" > /dev/null 2>&1 || echo private >> {told}/play
        ls "$JETWATCH_STATE_DIR/downloads" > /dev/null 2>&1 || echo "not listed" >> {told}/play
    """
    config = {
        "user": "nobody",
        "check_command": f"sh -c 'id -un > {told}/check'",
        "jet_command": {"shell": play},
        "on_ok": {"shell": f'echo "$JETWATCH_OUTPUTS_DONE" > {told}/done; cat "$JETWATCH_OUTPUT_PATH" > {told}/log'},
        "on_done": {"shell": f"id -un > {told}/hook", "user": "root"},
    }
    site.once(config)
    assert site.read("told/check") == "nobody\n"
    assert site.read_lines("told/play") == ["nobody", "nobody /nonexistent", "nobody 700", "private", "not listed"]
    assert (site.read("told/hook"), site.read("told/done")) == ("root\n", "yes\n")
    assert site.read("told/log") == "applied\n"


def test_every_key_for_the_surroundings_of_a_command_reaches_it(site: Site) -> None:
    """cwd, umask, nice, limits, env and env_file; the file is read anew for each command."""
    (site.root / "env").write_text("FROM_FILE=one\n")
    config = {
        "check_command": "true",
        "cwd": str(site.root),
        "umask": "027",
        "nice": 5,
        "limits": {"nofile": 77},
        "env": {"FROM_KEY": "1.10"},
        "env_file": str(site.root / "env"),
        "download_command": {"shell": "echo $FROM_FILE > first; echo FROM_FILE=two > env"},
        "jet_command": {"shell": "echo $PWD $(umask) $(nice) $(ulimit -n) $FROM_KEY $FROM_FILE > second"},
    }
    site.once(config)
    assert site.read("first") == "one\n"
    assert site.read("second") == f"{site.root} 0027 5 77 1.10 two\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to hand on")
def test_a_watch_of_another_account_has_one_capability_and_gets_no_other(site: Site) -> None:
    """Check, play and hook alike; a command may say otherwise for itself."""
    told = site.root / "told"
    told.mkdir()
    told.chmod(0o777)
    config = {
        "user": "nobody",
        "capabilities": ["net_bind_service"],
        "no_new_privileges": True,
        "check_command": {"shell": f"grep -E 'Cap|NoNew' /proc/self/status > {told}/check"},
        "jet_command": {"shell": f"grep -E 'Cap|NoNew' /proc/self/status > {told}/play"},
        "on_ok": {"shell": f"grep -E 'Cap|NoNew' /proc/self/status > {told}/hook", "capabilities": []},
    }
    site.once(config)
    one, none = (
        "".join(f"Cap{name}:\t{bits:016x}\n" for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")) + "NoNewPrivs:\t1\n"
        for bits in (1 << 10, 0)
    )
    assert [site.read(f"told/{name}") for name in ("check", "play", "hook")] == [one, one, none]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("user", "no-such-user", "no_such_user"),
        ("group", "no-such-group", "no_such_group"),
        ("env_file", "/nowhere/env", "bad_env_file"),
        ("cwd", "/nowhere", "bad_cwd"),
    ],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may name another user")
def test_surroundings_that_are_not_there_are_an_error_of_the_command(
    site: Site, key: str, value: str, reason: str
) -> None:
    """A check with them is in error, a run with them has failed; both say why, and the agent goes on."""
    config = {"check_command": "true", "jet_command": "true", key: value}
    agent = site.once(config, code=75)
    assert agent.told("check_finished")[0]["reason"] == reason
    del config["check_command"]
    run = site.once({**config, "schedule": "0 3 * * *"}, code=1).told("run_finished")[0]
    assert (run["outcome"], run["failed_step"], run["reason"]) == ("failed", "play", reason)


def test_a_play_that_says_too_much_is_kept_by_head_and_tail(site: Site) -> None:
    """`output` bounds what is kept of it; the middle is counted, and the run is none the worse."""
    play = {"shell": "seq 1 300000"}
    site.once({"check_command": "true", "jet_command": play, "output": "64 KiB"})
    done = site.jetp("logs", "--step", "play")
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("1", "300000")
    assert len(done.stdout) < 80 * 1024
    assert "bytes dropped" in done.stderr
    step = site.data("show")["steps"][0]
    assert step["output_bytes"] == sum(len(f"{number}\n") for number in range(1, 300_001))
    assert sum(path.stat().st_size for path in site.state.glob("runs/*/play.1/*")) < 200 * 1024


def test_a_play_that_stopped_itself_is_ended_at_its_timeout(site: Site) -> None:
    """A stopped process can do nothing about TERM: it is woken, and ended all the same."""
    config = {"check_command": "true", "jet_command": {"shell": "kill -STOP $$; sleep 1000; :"}}
    run = site.once({**config, "timeouts": {"play": "0.5s", "grace": "0.3s"}}, code=1).told("run_finished")[0]
    assert run["outcome"] == "timeout"
    assert site.processes() == []


def test_ok_exit_codes_make_a_run_ok(site: Site) -> None:
    """An exit code that a command says is fine is no failure."""
    play = {"run": ["sh", "-c", "exit 2"], "ok_exit_codes": [0, 2]}
    run = site.once({"check_command": "true", "jet_command": play}).told("run_finished")[0]
    assert (run["outcome"], run["exit_code"]) == ("ok", 2)


def test_no_run_starts_with_less_than_the_disk_reserve(site: Site) -> None:
    """Too little free space: the due answer waits, disk_low is told, the exit code of --once is 75; then it starts."""
    config = {"check_command": "true", "jet_command": "true", "disk_reserve": "1000000 GiB"}
    agent = site.once(config, code=75)
    assert len(agent.told("disk_low")) == 1
    assert site.standing()["waiting_for"] == ["disk_low"]
    assert site.runs() == []
    site.once({**config, "disk_reserve": "1 MiB"})
    assert [run["outcome"] for run in site.runs()] == ["ok"]


def test_only_so_many_run_directories_are_kept(site: Site) -> None:
    """`retain: runs` keeps the newest directories and outputs; the runs themselves stay in the journal."""
    config = {"check_command": "true", "jet_command": "echo hello", "retain": {"runs": 2}}
    for _ in range(4):
        site.once(config)
    site.once({**config, "check_command": "false"})  # what the end of the last agent may have left half removed
    kept = [run["play_uuid"] for run in site.runs()[-2:]]
    assert sorted(path.name for path in (site.state / "runs").iterdir()) == sorted(kept)
    assert sorted(path.name for path in (site.state / "downloads").iterdir()) == sorted(kept)
    assert len(site.runs()) == 4
    assert site.jetp("logs").stdout == "hello\n"


def test_a_lone_daemon_keeps_its_run_directory(site: Site) -> None:
    """A directory that a living process stands in is not removed; it is told, and stays."""
    live = site.shell('cd "$JETWATCH_DOWNLOAD_PATH"; setsid sleep 1000 & echo $! >> ../../../daemons')
    config = {"check_command": "true", "jet_command": live, "retain": {"runs": 1}}
    site.once(config)
    first = site.runs()[0]["play_uuid"]
    agent = site.once({**config, "jet_command": "true"})
    assert agent.told("retention_refused")[0]["path"] == str(site.state / "downloads" / first)
    assert (site.state / "downloads" / first).is_dir()


def test_everything_on_disk_is_private_to_its_owner(site: Site) -> None:
    """Everything in the state directory is private to its owner, with its final mode."""
    site.once({"check_command": "true", "download_command": "true", "jet_command": "echo hello", "on_ok": "true"})
    modes = {path: path.lstat().st_mode & 0o077 for path in (site.state, *site.state.rglob("*"))}
    assert {str(path): oct(mode) for path, mode in modes.items() if mode} == {}


def hung_children(agent: AgentProcess) -> list[int]:
    """What the agent's threads started and has not ended, the checks among it."""
    paths = Path(f"/proc/{agent.pid}/task").glob("*/children")
    pids = [int(pid) for path in paths for pid in path.read_text().split()]
    return [pid for pid in pids if tree.name_of(pid) != "jetwatch-forker"]


def test_a_hung_check_starves_nobody(site: Site) -> None:
    """A watch whose check hangs for its whole time is alone with that; the others are checked on time."""
    defaults = {"jet_command": "true", "check_interval": 1}
    hung = {f"hung{number}": {"check_command": "sleep 1000"} for number in range(8)}
    config = {"defaults": defaults, "watches": {**hung, "well": {"check_command": "false"}}}
    agent = site.start(config, "--no-splay", "--log-level", "debug")
    agent.wait_for("check_finished", watch="well", nth=2)
    assert len(hung_children(agent)) == 8
    assert agent.stop() == 0
    assert site.processes() == []
