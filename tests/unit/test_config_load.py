"""watch.yml becomes Settings, or says everything that is wrong with it at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetwatch.config.commands import is_secret
from jetwatch.config.load import load
from jetwatch.config.model import LogFormat, Phase, Retry, Settings, StopMode, WatchSettings, Window
from jetwatch.config.times import clock, duration_s
from jetwatch.errors import ConfigError, Problem
from jetwatch.records import Alarm

SEED = """\
check_command: /var/jetp/check.sh
download_command: /var/jetp/download.sh {{ download_path }}
jet_command: jetp local --playbook {{ download_path }}/pb.yml\x20
check_interval: 200
splay: 100
on_ok: /var/jetp/ok.sh {{ play_uuid }}
on_fail: /var/jetp/fail.sh {{ play_uuid }}
"""
LEAST = "check_command: /bin/true\njet_command: /bin/true\n"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes text to a file below the test's directory."""

    def write_file(text: str | bytes, name: str = "web.yml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_file


def settings_of(path: Path, **options: Any) -> Settings:
    """The settings, without their warnings."""
    return load(path, **options)[0]


def watch_of(path: Path, **options: Any) -> WatchSettings:
    """The only watch."""
    (watch,) = settings_of(path, **options).watches.values()
    return watch


def problems_of(path: Path, **options: Any) -> tuple[Problem, ...]:
    """What is wrong; that nothing is wrong fails the test."""
    with pytest.raises(ConfigError) as caught:
        load(path, **options)
    return caught.value.problems


def the_problem(path: Path, **options: Any) -> Problem:
    """The only thing wrong."""
    (problem,) = problems_of(path, **options)
    return problem


def test_the_seven_keys_of_the_seed_load_verbatim(write: Write) -> None:
    """The file that the first description of the agent shows works as it stands."""
    watch = watch_of(write(SEED, "watch.yml"))
    assert watch.name == "watch"
    assert watch.check is not None
    assert watch.check.words == ("/var/jetp/check.sh",)
    assert watch.download is not None
    assert watch.download.words == ("/var/jetp/download.sh", "{{ download_path }}")
    assert watch.play.words == ("jetp", "local", "--playbook", "{{ download_path }}/pb.yml")
    assert (watch.check_interval_s, watch.splay_s) == (200.0, 100.0)
    assert {name: hook.words for name, hook in watch.hooks.items()} == {
        "on_ok": ("/var/jetp/ok.sh", "{{ play_uuid }}"),
        "on_fail": ("/var/jetp/fail.sh", "{{ play_uuid }}"),
    }
    assert [watch.check.timeout_s, watch.download.timeout_s, watch.play.timeout_s] == [60, 1800, 7200]
    assert {hook.timeout_s for hook in watch.hooks.values()} == {300}
    assert (watch.retry, watch.phase, watch.retain.runs, watch.play.grace_s) == (None, Phase.RANDOM, 10, 10)


@pytest.mark.parametrize("file", ["web.yml", "web.yaml", "web.conf", "web"])
def test_a_watch_is_called_as_its_file(write: Write, file: str) -> None:
    """The name is the file's stem, whatever its ending."""
    assert watch_of(write(LEAST, file)).name == "web"


def test_every_key_reaches_its_field(write: Write) -> None:
    """All keys of one watch at once, none of them at its default."""
    watch = watch_of(
        write(
            """
name: main
check_command: [/bin/check, "{{ watch }}"]
play_command: {shell: 'echo "$JETWATCH_PLAY_UUID"', timeout: 1h30m, ok_exit_codes: [0, 3], env: {B: two}}
on_start: echo start
on_done: {run: [echo, done], ok_exit_codes: 7, nice: 19}
on_error: echo {{ failed_step }}
check_interval: 1m30s
splay: 0.5
phase: stable
jitter: 12.5%
timeouts: {check: 500ms, hook: 7, grace: 0}
retry: {initial: 1m, max: 2h, factor: 1.5, max_attempts: 4}
reapply: 7d
exclusive: apt
retain: {runs: 3, age: 2d, bytes: 1G}
disk_reserve: {bytes: 1MB, inodes: 5}
env: {A: 1.10, B: one, YES: yes}
env_file: [/etc/a.env, b.env]
cwd: sub
user: nobody
group: nogroup
umask: 027
nice: -5
limits: {nofile: 1024, core: 0, nproc: unlimited}
output: 64 KiB
"""
        ),
        agent_user="root",
    )
    assert watch.name == "main"
    assert watch.check is not None
    assert watch.check.words == ("/bin/check", "{{ watch }}")
    assert (watch.play.shell, watch.play.words) == ('echo "$JETWATCH_PLAY_UUID"', None)
    assert (watch.play.timeout_s, watch.play.ok_exit_codes, watch.play.env["B"]) == (5400, (0, 3), "two")
    assert watch.hooks.keys() == {"on_start", "on_done", "on_error"}
    assert (watch.hooks["on_done"].ok_exit_codes, watch.hooks["on_done"].nice) == ((7,), 19)
    assert (watch.check_interval_s, watch.splay_s, watch.phase) == (90, 0.5, Phase.STABLE)
    assert (watch.jitter_s, watch.jitter_fraction, watch.reapply_s) == (0, 0.125, 7 * 86400)
    assert (watch.check.timeout_s, watch.hooks["on_done"].timeout_s, watch.play.grace_s) == (0.5, 7, 0)
    assert watch.retry == Retry(initial_s=60, max_s=7200, factor=1.5, max_attempts=4)
    assert (watch.exclusive, watch.user) == ("apt", "nobody")
    assert (watch.retain.runs, watch.retain.age_s, watch.retain.max_bytes) == (3, 2 * 86400, 2**30)
    assert (watch.disk_reserve.free_bytes, watch.disk_reserve.free_inodes) == (1_000_000, 5)
    assert watch.check.env == {"A": "1.10", "B": "one", "YES": "yes"}
    assert watch.check.limits == {"nofile": 1024, "core": 0, "nproc": -1}
    assert (watch.check.umask, watch.check.nice, watch.check.keep_bytes) == (0o027, -5, 65536)
    assert (watch.check.user, watch.check.group) == ("nobody", "nogroup")


def test_relative_paths_are_taken_from_the_directory_of_the_file(write: Write, tmp_path: Path) -> None:
    """Where the agent was started does not change what a file means."""
    settings = settings_of(
        write(LEAST + "env_file: a.env\ncwd: /abs\nstate_dir: st\ndownload_dir: /dl\ncontrol: {socket: s}\n")
    )
    play = settings.watches["web"].play
    assert (play.env_files, play.cwd) == ((str(tmp_path / "a.env"),), "/abs")
    assert (settings.state_dir, settings.download_dir) == (tmp_path / "st", Path("/dl"))
    assert settings.control.socket == tmp_path / "s"


def test_agent_wide_keys_stand_beside_the_keys_of_a_single_watch(write: Write) -> None:
    """The short form can configure the whole agent."""
    settings = settings_of(
        write(LEAST + "max_runs: 2\nstop: wait\ncontrol: no\nlog: {format: logfmt, level: debug, fold: 5m}\n")
    )
    assert (settings.max_runs, settings.stop, settings.control.enabled) == (2, StopMode.WAIT, False)
    assert (settings.log.format, settings.log.level, settings.log.fold_s) == (LogFormat.LOGFMT, "debug", 300)


def test_defaults_lie_beneath_every_watch(write: Write) -> None:
    """A watch's key goes over the default; mappings merge key by key, commands are replaced, null undoes."""
    settings = settings_of(
        write(
            """
defaults:
  check_command: /bin/check
  check_interval: 30
  env: {A: default, B: default}
  timeouts: {play: 10, hook: 20}
  on_ok: {run: echo ok, timeout: 3}
  on_fail: echo fail
watches:
  one:
    jet_command: /bin/one
    env: {B: own}
    timeouts: {hook: 5}
    on_ok: echo own
    on_fail: null
  two:
    play_command: /bin/two
    schedule: "@daily"
    splay: 1h
    check_command: ~
"""
        )
    )
    one, two = settings.watches["one"], settings.watches["two"]
    assert one.check == two.check or two.check is None
    assert (one.check_interval_s, one.play.env) == (30, {"A": "default", "B": "own"})
    assert (one.play.timeout_s, one.hooks["on_ok"].timeout_s) == (10, 5)
    assert one.hooks.keys() == {"on_ok"}
    assert (two.schedule, two.check) == ("@daily", None)
    assert two.hooks.keys() == {"on_ok", "on_fail"}


def test_a_directory_gives_all_its_files_in_name_order(write: Write, tmp_path: Path) -> None:
    """Every *.yml counts, hidden and other files do not; defaults stay with their own file."""
    write(LEAST, "b.yml")
    write("max_runs: 3\n", "agent.yml")
    write("defaults: {splay: 5}\nwatches: {x: {check_command: a, jet_command: b}}\nmax_runs: 3\n", "a.yml")
    write("not: [yaml", ".hidden.yml")
    write("not: [yaml", "a.yml~")
    settings = settings_of(tmp_path)
    assert [(watch.name, watch.splay_s) for watch in settings.watches.values()] == [("x", 5), ("b", 0)]
    assert settings.max_runs == 3


def test_files_of_a_directory_must_agree(write: Write, tmp_path: Path) -> None:
    """A watch defined twice and an agent-wide key with two values are problems that name the first place."""
    write("max_runs: 3\n" + LEAST + "name: same\n", "a.yml")
    write("max_runs: 4\n" + LEAST + "name: same\n", "b.yml")
    runs, name = sorted(problems_of(tmp_path), key=lambda problem: problem.path, reverse=True)
    assert (runs.path, runs.line) == ("max_runs", 1)
    assert f"{tmp_path}/a.yml:1" in runs.message
    assert "`same` is defined in" in name.message
    assert str(tmp_path / "a.yml") in name.message


def test_a_directory_without_files_is_a_problem(tmp_path: Path) -> None:
    """An agent that would watch nothing says so."""
    assert "no *.yml" in the_problem(tmp_path).message


def test_agent_wide_keys_alone_are_no_configuration(write: Write) -> None:
    """Some file has to define a watch."""
    assert "no watch" in the_problem(write("max_runs: 3\n")).message


EVERYTHING_WRONG = """\
log: {levl: debug, format: jsn}
check_interval: 3
defaults:
  splay: 5 minutes
  timeouts: {play: 0}
watches:
  web:
    check_intervall: 10
    check_command: /bin/x {{ play_uuid }} {{ hostnam }}
    jet_command: {run: x, shell: y}
    limits: {nofil: 3, nofile: 1x}
    splay: 1
  Web:
    jet_command: [a, {b: c}]
    umask: 999
    umask: 022
"""


def test_every_problem_is_told_at_once_with_its_place(write: Write) -> None:
    """One look at the list is enough to put the file right."""
    found = {(problem.line, problem.path): problem.message for problem in problems_of(write(EVERYTHING_WRONG))}
    expected = {
        (1, "log.levl"): "`level`",
        (1, "log.format"): "`json`",
        (2, "check_interval"): "`defaults:`",
        (4, "defaults.splay"): "duration",
        (5, "defaults.timeouts.play"): "0.1s",
        (8, "watches.web.check_intervall"): "`check_interval`",
        (9, "watches.web.check_command"): "",
        (10, "watches.web.jet_command"): "not both",
        (11, "watches.web.limits.nofil"): "`nofile`",
        (11, "watches.web.limits.nofile"): "`1x`",
        (13, "watches.Web"): "",
        (14, "watches.Web.jet_command[1]"): "mapping",
        (15, "watches.Web.umask"): "octal",
        (16, "watches.Web.umask"): "line 15",
    }
    assert found.keys() == expected.keys()
    assert [place for place, part in expected.items() if part not in found[place]] == []
    about_check = [problem.message for problem in problems_of(write(EVERYTHING_WRONG)) if problem.line == 9]
    assert any("`hostname`" in message for message in about_check)
    assert any("`play_uuid`" in message for message in about_check)


def test_a_problem_reads_as_file_line_path_and_sentence(write: Write) -> None:
    """The form that editors and people jump by."""
    path = write(LEAST + "splai: 3\n")
    assert str(the_problem(path)) == f"{path}:3: splai: no such key; did you mean `splay`?"


# key: value, then what the message says (None: it is fine)
VALUES = [
    ("check_interval: 0.5", None),
    ("check_interval: 0.05", "0.1s to 366d"),
    ("check_interval: 0", "0.1s to 366d"),
    ("retry: {initial: 0, max: 0.5}", None),
    ("reapply: off", None),
    ("reapply: never", "or `off`"),
    ("check_interval: 367d", "366d"),
    ("check_interval: -5", "found `-5`"),
    ("check_interval: 1h 30m", None),
    ("check_interval: .inf", "duration"),
    ("check_interval: 1e3", "duration"),
    ("check_interval: ten", "found `ten`"),
    ("check_interval: [1]", "found a list"),
    ("check_interval: {s: 1}", "found a mapping"),
    ("check_interval:", "found nothing"),
    ("check_interval: null", None),
    ('check_interval: "90"', None),
    ("check_interval: ١٢", "duration"),
    ("splay: 0", None),
    ("jitter: 101%", "0%"),
    ("jitter: 30s", None),
    ("output: 0", None),
    ("output: -1", "found `-1`"),
    ("output: 4KiB", None),
    ("output: 5XB", "size"),
    ("disk_reserve: 0", None),
    ("disk_reserve: {bytes: 1GB, inode: 3}", "`inodes`"),
    ("umask: 0o22", None),
    ("umask: 18", "octal"),
    ("umask: 1777", "octal"),
    ("nice: 20", "19"),
    ("limits: {nofile: -2}", "-1"),
    ("limits: {files: 2}", "no such key"),
    ("limits: 7", "mapping"),
    ("no_new_privileges: maybe", "`true` or `false`"),
    ("capabilities: [CAP_KILL, net_bind_service]", None),
    ("capabilities: kill", None),
    ("capabilities: []", None),
    ("capabilities: CAP_FLY", "capabilities(7)"),
    ("capabilities: [kill, 5]", "found `5`"),
    ("capabilities: {kill: true}", "found a mapping"),
    ("retain: {runs: 0}", "1 to"),
    ("retry: off", None),
    ("retry: on", None),
    ("retry: maybe", "true"),
    ("retry: {factor: 0.5}", "1 to 100"),
    ("phase: fixed", "`stable`"),
    ("schedule: 0 3 * *", "exclude|five fields"),
    ("timezone: Mars/Olympus", "does not know"),
    ("timezone: ../../etc/passwd", "does not know"),
    ("exclusive: A B", "small letters"),
    ("windows: [{days: mon}]", None),
    ("windows: [{days: Monday-FRI, from: 9:00, to: '24:00', timezone: Asia/Tokyo}]", None),
    ("windows: [{days: [mon-wed, 'sat, sun']}, {from: 22:00, to: 04:00}]", None),
    ("windows: null", None),
    ("windows: [{days: tuesdy}]", "did you mean `tuesday`"),
    ("windows: [{days: mon..fri}]", "found `mon..fri`"),
    ("windows: [{days: mon-wed-fri}]", "found `mon-wed-fri`"),
    ("windows: [{days: 1-5}]", "days such as `mon`, `mon-fri`"),
    ("windows: [{days: []}]", "found a list"),
    ("windows: [{days: }]", "found nothing"),
    ("windows: [{days: {mon: 1}}]", "found a mapping"),
    ("windows: [{from: 24:00}]", "`00:00` to `23:59`; found `24:00`"),
    ("windows: [{to: 24:01}]", "`00:00` to `24:00`; found `24:01`"),
    ("windows: [{from: 22}]", "a time of day such as `22:00`"),
    ("windows: [{from: 22:00:30}]", "a time of day such as `22:00`"),
    ("windows: [{from: 8:00, to: 08:00}]", "`from` and `to` are the same"),
    ("windows: [{days: mon, timezone: Mars/Olympus}]", "does not know"),
    ("windows: [{day: mon}]", "did you mean `days`"),
    ("windows: [{}]", "an empty window"),
    ("windows: [22:00-04:00]", "a mapping with `days`, `from`, `to`, `timezone`"),
    ("windows: []", "an empty list"),
    ("windows: {days: mon}", "a list of windows such as"),
    ("windows: always", "found `always`"),
    ("name: -x", "small letters"),
    ("user: a b", "account"),
    ("env: {a b: 1}", "cannot be a name"),
    ("env: {A: [1]}", "found a list"),
    ("env: {A: null, B: , C: no}", None),
    ("env: [A=1]", "mapping"),
    ("env_file: [a, {b: c}]", "a path"),
    ('cwd: "{{ download_path }}"', "template"),
    ("on_ok: {run: a, shell: b}", "not both"),
    ("on_ok: {timeout: 3}", "neither"),
    ("on_ok: {shell: 'docker ps --format {{.Names}} {% x %}'}", None),
    ("on_ok: {run: a, ok_exit_codes: [0, 256]}", "0 to 255"),
    ("on_ok: echo {{ outcome", "never closed"),
    ("on_ok: echo {% if x %}", "only {{ }}"),
    ("on_ok: echo {{ outcom }}", "`outcome`"),
    ("on_ok: echo {{ outputs.anything }}", None),
    ("on_ok: []", "found a list"),
    ("on_fail: {run: a, after: 3, when: first}", None),
    ("on_fail: {shell: a, when: every}", None),
    ("on_fail: {run: a, after: 0}", "1 to"),
    ("on_fail: {run: a, when: last}", "`every`, `first`"),
    ("on_fail: {after: 3}", "neither"),
    ("on_recover: echo {{ failures }} {{ failing_since }}", None),
    ("on_recover: {run: a, after: 3}", "no such key"),
    ("on_ok: {run: a, when: first}", "no such key"),
    ("on_ok: 'echo \"x'", "never closed"),
    ("download_command: echo {{ outcome }}", "not known yet"),
    ("play_command: /bin/false", "same key"),
    ("stop: now", "`detach`"),
    ("control: {socket: }", "a path"),
    ("max_runs: 0", "1 to"),
    ("log: {file: x.log, file_mode: 0644}", None),
    ("log: {file_mode: 0666}", "without the right to write"),
    ("log: {file_mode: 0440}", "an octal file mode"),
    ("log: {http: {url: 'https://logs.example.org/in'}}", None),
    ("log: {http: {url: 'http://127.0.0.1:8088/x'}}", None),
    ("log: {http: {url: 'http://[::1]:8088/x'}}", None),
    ("log: {http: {url: 'http://logs.example.org/in'}}", "not protected"),
    ("log: {http: {url: 'http://127.0.0.1.example.org/in'}}", "not protected"),
    ("log: {http: {url: 'https://me:secret@logs.example.org/in'}}", "without user info"),
    ("log: {http: {}}", "`url` is missing"),
    ("log: {http: {url: 'https://s/x', format: hec}}", "HEC takes nothing without a token"),
    ("log: {http: {url: 'https://s/x', format: hec, token_env: HEC_TOKEN, index: main}}", None),
    ("log: {http: {url: 'https://s/x', token_env: A, token_file: b}}", "two places"),
    ("log: {http: {url: 'https://s/x', index: main}}", "`format: hec` only"),
    ("log: {http: {url: 'https://s/x', token: abc}}", "no such key"),
    ("metrics: {listen: 9753}", None),
    ("metrics: {listen: '[::1]:9753'}", None),
    ("metrics: {listen: 0.0.0.0:9753}", "allow_remote"),
    ("metrics: {listen: example.org:9753}", "allow_remote"),
    ("metrics: {listen: 0.0.0.0:9753, allow_remote: true}", None),
    ("metrics: {listen: 0}", "an address"),
    ("metrics: {listen: '[::g]:1'}", "an address"),
    ("metrics: {textfile: figures.txt}", "ends in `.prom`"),
    ("metrics: {interval: 15s}", "`textfile`, `listen`, `statsd`"),
    ("metrics: {statsd: '127.0.0.1'}", "an address"),
    ("metrics: {statsd: 8125}", None),
    ("metrics: {statsd: {prefix: 'a b'}}", "letters"),
    ("metrics: {statsd: {tags: {env: 'a|b'}}}", "letters"),
    ("metrics: {statsd: {tags: {env: prod}}}", None),
    ("log: json", "mapping"),
    ("<<: {splay: 3}", "merge keys"),
    ("splay: !int 3", "tag"),
    ("splay: *later", "names no anchor"),
    ('on_ok: "a\\0b"', "NUL"),
    ("on_ok: {{ play_uuid }}", "in quotes"),
    ("on_ok: &a [x, *a]", "stands inside"),
]


@pytest.mark.parametrize(("line", "reason"), VALUES, ids=[line for line, _ in VALUES])
def test_a_value_is_understood_by_its_key_or_refused_with_its_place(
    write: Write, line: str, reason: str | None
) -> None:
    """Each kind of value has its bounds, and a refusal names them."""
    path = write(LEAST + line + "\n")
    if reason is None:
        assert load(path)
        return
    problems = problems_of(path)
    assert [problem.line for problem in problems] == [3] * len(problems)
    assert any(part in problem.message for problem in problems for part in reason.split("|"))


SCHEDULES = [
    ("0 3 * * *", True),
    ("*/15 8-18 * * MON-FRI", True),
    ("0 0 29 2 *", True),
    ("@daily", True),
    ("@Hourly", True),
    ("@reboot", False),
    ("0 0 30 2 *", False),
    ("0 0 3 * * *", False),
    ("60 * * * *", False),
    ("every day", False),
]


@pytest.mark.parametrize(("schedule", "good"), SCHEDULES)
def test_a_schedule_is_a_crontab_expression_that_fires_some_day(write: Write, schedule: str, good: bool) -> None:
    """Five fields or a nickname; a date that no year has is refused."""
    path = write(f"jet_command: a\nsplay: 1\nschedule: '{schedule}'\n")
    if good:
        assert watch_of(path).schedule == (schedule.lower() if schedule.startswith("@") else schedule)
    else:
        assert "crontab(5)" in the_problem(path).message


@pytest.mark.parametrize(
    ("text", "alarm"),
    [
        ("a", Alarm()),
        ("[a, b]", Alarm()),
        ("{run: a}", Alarm()),
        ("{run: a, when: every}", Alarm()),
        ("{run: a, after: 3}", Alarm(after=3)),
        ("{run: a, when: first, after: 3}", Alarm(after=3, first_only=True)),
    ],
)
def test_on_fail_says_which_failures_it_wants_to_hear_of(write: Write, text: str, alarm: Alarm) -> None:
    """In its mapping; each of them otherwise."""
    assert watch_of(write(LEAST + f"on_fail: {text}\n")).alarm == alarm


WINDOWS = [
    ("{days: mon-fri}", Window(days=(0, 1, 2, 3, 4))),
    ("{days: [sun, sat]}", Window(days=(5, 6))),
    ("{days: fri-mon}", Window(days=(0, 4, 5, 6))),
    ("{days: 'mon, wed-thu'}", Window(days=(0, 2, 3))),
    ("{from: 22:00, to: 04:00}", Window(opens_min=22 * 60, closes_min=4 * 60)),
    ("{from: 22:30}", Window(opens_min=22 * 60 + 30)),
    ("{to: 00:00, from: 1:05}", Window(opens_min=65, closes_min=0)),
    ("{days: tue, timezone: UTC}", Window(days=(1,), timezone="UTC")),
]


@pytest.mark.parametrize(("text", "window"), WINDOWS, ids=[text for text, _ in WINDOWS])
def test_a_window_is_read_as_it_is_said(write: Write, text: str, window: Window) -> None:
    """Days as names, ranges and lists; hours as a clock shows them; what is left out is the whole of it."""
    assert watch_of(write(LEAST + f"windows: [{text}]\n")).windows == (window,)


def test_a_window_is_in_the_zone_of_its_watch(write: Write) -> None:
    """Unless it says one itself; and `timezone` means something then."""
    path = write(LEAST + "timezone: Asia/Tokyo\nsplay: 5m\nwindows: [{days: mon}, {days: tue, timezone: UTC}]\n")
    assert [window.timezone for window in watch_of(path).windows] == ["Asia/Tokyo", "UTC"]
    assert load(path)[1] == ()


def test_windows_without_a_splay_are_warned_of(write: Write) -> None:
    """A whole fleet would start at the opening."""
    (warning,) = load(write(LEAST + "windows: [{days: mon}]\n"))[1]
    assert (warning.line, warning.path) == (3, "windows")
    assert "without `splay`" in warning.message


def test_a_watch_undoes_the_windows_of_the_defaults(write: Write) -> None:
    """With its own list, or with `null`: always."""
    path = write(
        "defaults: {windows: [{days: mon}], jet_command: a, check_command: b}\n"
        "watches: {one: {}, two: {windows: [{days: tue}]}, three: {windows: null}}\n"
    )
    days = {name: [window.days for window in watch.windows] for name, watch in load(path)[0].watches.items()}
    assert days == {"one": [(0,)], "two": [(1,)], "three": []}


def test_a_problem_in_a_window_names_its_place(write: Write) -> None:
    """File, line and path, as for every key."""
    problem = the_problem(write(LEAST + "windows:\n  - days: mon\n  - days: sat-sonntag\n    from: 22:00\n"))
    assert (problem.line, problem.path) == (5, "windows[1].days")


@pytest.mark.parametrize(
    ("text", "missing"),
    [("jet_command: a\n", "`check_command` is missing"), ("check_command: a\n", "`jet_command` is missing")],
)
def test_what_is_required_is_asked_for(write: Write, text: str, missing: str) -> None:
    """A watch needs something to apply and something that says when."""
    assert missing in the_problem(write(text)).message


def test_an_interval_and_a_schedule_exclude_each_other(write: Write) -> None:
    """Two answers to "when" are one too many."""
    problem = the_problem(write(LEAST + "check_interval: 5\nschedule: '@daily'\nsplay: 3\n"))
    assert (problem.line, problem.path) == (3, "check_interval")


def test_a_check_has_no_exit_codes_of_its_own(write: Write) -> None:
    """What 0, 1 and 75 mean is fixed."""
    problem = the_problem(write("check_command: {run: a, ok_exit_codes: 0}\njet_command: b\n"))
    assert "fixed" in problem.message


def test_a_file_whose_name_is_no_watch_name_asks_for_one(write: Write) -> None:
    """The name is not bent into shape: it would differ from what the file says."""
    assert "add `name:`" in the_problem(write(LEAST, "My Watch.yml")).message
    assert watch_of(write(LEAST + "name: mine\n", "My Watch.yml")).name == "mine"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "empty"),
        (b"# nothing\n", "empty"),
        (b"- a\n", "found a list"),
        (b"text\n", "found `text`"),
        (b"a: 1\n---\nb: 2\n", "second document"),
        (b"a:\n\tb: 1\n", "tab"),
        (b"a: \xff\n", "UTF-8"),
        (b"a: \x01\n", "control character"),
        (b"a: 'x\n", "not YAML"),
        (b"a: {{ b }}/c\n", "in quotes"),
        (b"[" * 40, "nested more than 32 levels deep"),
        (b"[" * 5000, ""),  # the library may refuse it first, in words of its own
        (b"a" * (1024 * 1024 + 1), "larger than"),
        (b"defaults: {splay: 1}\n", "there are none"),
        (b"watches: {}\n", "no watch is named here"),
        (b"watches: [a]\n", "expected a mapping"),
        (b"watches: {a: 1}\n", "expected a mapping"),
        (b"watches: {a: {name: b, jet_command: x, check_command: y}}\n", "above already"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_a_file_that_is_no_configuration_says_what_it_is(write: Write, text: bytes, reason: str) -> None:
    """Whatever stands in the file, the answer is a sentence with a line."""
    assert all(reason in problem.message for problem in problems_of(write(text)))


def test_a_file_that_cannot_be_read_is_told_without_blocking(tmp_path: Path) -> None:
    """Missing files, pipes, devices and directories inside a directory are refused at once."""
    assert "No such file" in the_problem(tmp_path / "none.yml").message
    os.mkfifo(tmp_path / "pipe.yml")
    (tmp_path / "dir.yml").mkdir()
    assert "regular file" in the_problem(tmp_path / "pipe.yml").message
    assert ["regular file" in problem.message for problem in problems_of(tmp_path)] == [True, True]
    assert "regular file" in the_problem(Path("/dev/zero")).message


def test_aliases_work_within_bounds(write: Write) -> None:
    """An anchor is what it names; a billion laughs end at once."""
    watch = watch_of(write("check_command: &c /bin/true\njet_command: *c\nenv: &e {A: x}\non_ok: {run: a, env: *e}\n"))
    assert watch.play.words == ("/bin/true",)
    assert watch.hooks["on_ok"].env == {"A": "x"}
    laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
    )
    before = time.monotonic()
    assert "aliases" in the_problem(write(laughs)).message
    assert time.monotonic() - before < 2


def test_no_value_breaks_a_line_of_the_report(write: Write) -> None:
    """A problem is one line, whatever stands in the file."""
    path = write(LEAST + 'on_ok: ["{% \\n x.yml:1: forged"]\n"a\\nb": 1\nsplay: "a\\u2028b\\e[1m"\n')
    problems = problems_of(path)
    assert len(problems) == 3
    assert all(str(problem).isprintable() for problem in problems)


def test_a_fault_in_the_defaults_is_told_once(write: Write) -> None:
    """However many watches inherit it, or override it."""
    text = "defaults: {splay: x}\nwatches:\n" + "".join(
        f"  w{n}: {{check_command: a, jet_command: b}}\n" for n in range(5)
    )
    assert the_problem(write(text)).path == "defaults.splay"
    overridden = "defaults: {splay: x}\nwatches: {a: {check_command: a, jet_command: b, splay: 3}}\n"
    assert the_problem(write(overridden)).path == "defaults.splay"


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("on_ok: a && b", "`shell:`"),
        ("on_ok: a > /tmp/x", "`shell:`"),
        ("on_ok: ls *", "`shell:`"),
        ("on_ok: echo $HOME", "`shell:`"),
        ("on_ok: curl https://me:secret@host/", "`env`"),
        ("on_ok: {shell: 'curl https://me:secret@host/'}", "`env`"),
        ("on_ok: {shell: 'echo {{ play_uuid }}'}", "JETWATCH_"),
        ("env: {A: '{{ x }}'}", "no template"),
        ("timezone: UTC", "without `schedule`"),
    ],
)
def test_what_works_but_is_hardly_meant_is_a_warning(write: Write, lines: str, says: str) -> None:
    """A warning has its place and does not stop the agent."""
    settings, warnings = load(write(LEAST + lines + "\n"))
    assert settings.watches
    assert [warning.line for warning in warnings] == [3]
    assert says in warnings[0].message


def test_a_watch_may_be_a_name_alone(write: Write) -> None:
    """All that it is stands under `defaults:`; where that is not enough, it is said what is missing."""
    defaults = "defaults: {check_command: a, jet_command: b}\n"
    assert list(settings_of(write(f"{defaults}watches:\n  one:\n  two: null\n")).watches) == ["one", "two"]
    assert "`check_command` is missing" in the_problem(write("watches:\n  one:\n    jet_command: b\n")).message
    assert {problem.path for problem in problems_of(write("watches:\n  one:\n"))} == {"watches.one"}


def test_a_time_zone_for_all_watches_is_no_warning(write: Write) -> None:
    """Watches without a schedule do not mind it."""
    text = "defaults: {timezone: UTC}\nwatches: {a: {check_command: a, jet_command: b}}\n"
    assert load(write(text))[1] == ()


def test_a_schedule_without_splay_is_a_warning(write: Write) -> None:
    """A whole fleet at 03:00 is seldom meant."""
    _, warnings = load(write("jet_command: a\nschedule: 0 3 * * *\n"))
    assert [warning.path for warning in warnings] == ["schedule"]
    assert load(write("jet_command: a\nschedule: 0 3 * * *\nsplay: 5m\n"))[1] == ()


def test_quoted_or_listed_words_are_no_warning(write: Write) -> None:
    """What no shell would act on is meant as it stands."""
    text = "on_ok: grep 'a|b' x\non_fail: [ls, '*']\non_done: {shell: 'a && b'}\n"
    assert load(write(LEAST + text))[1] == ()


SECRETS = [
    ("PASSWORD", "x", True),
    ("db_passwd", "x", True),
    ("GITHUB_TOKEN", "x", True),
    ("AWS_SECRET_ACCESS_KEY", "x", True),
    ("API_KEY", "x", True),
    ("apikey", "x", True),
    ("MYSQL_PWD", "x", True),
    ("BASIC_AUTH", "x", True),
    ("URL", "https://me:pw@host/x", True),
    ("URL", "https://host/x", False),
    ("PATH", "/bin", False),
    ("PWD", "/tmp", False),
    ("AUTHOR", "me", False),
    ("MONKEY", "x", False),
]


@pytest.mark.parametrize(("name", "value", "secret"), SECRETS)
def test_secrets_are_told_by_name_or_by_a_user_in_a_url(name: str, value: str, secret: bool) -> None:
    """The one rule that says what is kept out of journal and log."""
    assert is_secret(name, value) is secret


def test_secrets_do_not_stand_in_commands(write: Write) -> None:
    """They are kept apart, by command, a command's own over the watch's, and no repr shows them."""
    text = "env: {TOKEN: hush-watch, A: a}\non_ok: {run: x, env: {TOKEN: hush-hook, DB_PASSWORD: hush-more}}\n"
    watch = watch_of(write(LEAST + text))
    assert watch.secrets["play"] == watch.secrets["check"] == {"TOKEN": "hush-watch"}
    assert watch.secrets["on_ok"] == {"TOKEN": "hush-hook", "DB_PASSWORD": "hush-more"}
    assert watch.hooks["on_ok"].env == watch.play.env == {"A": "a"}
    assert "hush" not in repr(watch)


@pytest.mark.parametrize(
    ("watch_user", "user", "good"),
    [
        ("nobody", "root", True),
        ("nobody", "nobody", True),
        ("nobody", "www", False),
        (None, "root", True),
        (None, "www", False),
    ],
)
def test_a_command_runs_as_the_watch_user_or_the_agents_own(
    write: Write, watch_user: str | None, user: str, good: bool
) -> None:
    """A third account could not read the run's directory."""
    of_watch = f"user: {watch_user}\n" if watch_user else ""
    path = write(LEAST + of_watch + f"on_ok: {{run: a, user: {user}}}\n")
    if good:
        assert watch_of(path, agent_user="root").hooks["on_ok"].user == user
    else:
        assert the_problem(path, agent_user="root").path == "on_ok.user"


def test_a_digest_tells_every_change_and_nothing_else(write: Write) -> None:
    """Reload goes by it: comments and order do not count, values and secrets do."""
    text = LEAST + "env: {A: 1, TOKEN: x}\n"
    first = settings_of(write(text))
    same = settings_of(write("# comment\nenv: {TOKEN: x, A: 1}\n" + LEAST))
    assert (first.digest, first.watches["web"].digest) == (same.digest, same.watches["web"].digest)
    for other in ("env: {A: 2, TOKEN: x}", "env: {A: 1, TOKEN: y}", "splay: 1"):
        assert watch_of(write(LEAST + other + "\n")).digest != first.watches["web"].digest
    more = settings_of(write(text + "max_runs: 3\n"))
    assert more.digest != first.digest
    assert more.watches["web"].digest == first.watches["web"].digest
    assert len(first.digest) == 64


@given(st.one_of(st.integers(0, 10**7), st.decimals(0, 1000, places=3)).map(float))
def test_a_duration_written_is_read_back(seconds: float) -> None:
    """What is printed for people means the same to the loader."""
    assert duration_s(clock(seconds)) == seconds


@given(text=st.text(alphabet=st.sampled_from("ab:-#{}[]&*!|>'\"% \n\t,?@`\0é"), max_size=60))
def test_any_text_is_a_configuration_or_a_list_of_problems(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """No file makes the loader fail in any other way."""
    path = tmp_path_factory.getbasetemp() / "any.yml"
    path.write_text(text)
    assert all(problem.line >= 1 and problem.message for problem in problems_of(path))


def test_a_file_whose_name_is_no_text_is_a_problem_that_can_be_told(tmp_path: Path) -> None:
    """It is named with its bytes escaped; the others are read. Log and journal could not hold the name as it is."""
    (tmp_path / "good.yml").write_text(LEAST)
    (tmp_path / os.fsdecode(b"a\xff.yml")).write_text("watches: {a: {check_command: x, jet_command: y}}\n")
    problem = the_problem(tmp_path)
    assert problem.file == f"{tmp_path}/a\\udcff.yml"
    assert "not UTF-8" in problem.message


def test_a_file_whose_name_has_a_line_end_breaks_no_line(tmp_path: Path) -> None:
    """The place of a problem is one line, whatever the file is called."""
    (tmp_path / "a\nb.yml").write_text("x: 1\n" + LEAST)
    for problem in problems_of(tmp_path):
        assert str(problem).startswith(f"{tmp_path}/a\\nb.yml:")
