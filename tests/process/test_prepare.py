"""A command as it was asked for becomes a spec: its words, its user, its environment, its secrets."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from workbench import NOBODY, as_nobody, need_root

from jetwatch.errors import CommandNotStarted
from jetwatch.process.prepare import (
    ENV_FILE_LIMIT_BYTES,
    Start,
    Surroundings,
    environment,
    prepare,
    user_ids,
    write_env_file,
)
from jetwatch.records import Command, CommandSpec

SURROUNDINGS = Surroundings(
    {"PATH": "/agents/bin", "LANG": "C.UTF-8", "SECRET": "of the agent"}, umask=0o022, cwd="/srv"
)


def prepared(
    command: Command,
    *,
    surroundings: Surroundings = SURROUNDINGS,
    secrets: dict[str, str] | None = None,
    **variables: Any,
) -> CommandSpec:
    """The spec of one start of `command`."""
    start = Start(
        step_id="step-1",
        variables=variables,
        extra_env={"JETWATCH_CHECK": "state"},
        secrets=secrets or {},
        outputs_path="/state/exchange/step-1",
    )
    return prepare(command, start, surroundings)


def refusal(command: Command, **variables: Any) -> tuple[str, str]:
    """Code and sentence of the refusal."""
    with pytest.raises(CommandNotStarted) as refused:
        prepared(command, **variables)
    return refused.value.code, str(refused.value)


# -- words and environment


def test_words_are_rendered_each_by_itself() -> None:
    """A value is never more than its word."""
    spec = prepared(Command(words=("cp", "{{ download_path }}/a", "b c")), download_path="/x y; rm -rf /")
    assert spec.argv == ("cp", "/x y; rm -rf //a", "b c")


def test_a_shell_command_gets_values_by_environment_only() -> None:
    """Its text is nobody's template."""
    spec = prepared(Command(shell="echo '{{ revision }}' \"$JETWATCH_REVISION\""), revision="$(reboot)")
    assert spec.argv == ("/bin/sh", "-c", "echo '{{ revision }}' \"$JETWATCH_REVISION\"")
    assert spec.env["JETWATCH_REVISION"] == "$(reboot)"


def test_the_marks_stand_first_in_the_environment_whatever_else_is_in_it() -> None:
    """Whoever looks for a command's processes reads no more than one page of each environment."""
    long = {f"LONG_{n}": "x" * 100_000 for n in range(5)}
    spec = prepared(Command(words=("true",), env={**long, "JETWATCH_STEP": "mine"}))
    assert list(spec.env)[:2] == ["JETWATCH_STEP", "JETWATCH_CHECK"]
    assert spec.mark == f"JETWATCH_STEP={spec.env['JETWATCH_STEP']}" == "JETWATCH_STEP=step-1"


def test_the_environment_is_made_from_nothing() -> None:
    """PATH and LANG of the agent, the user's own names, the variables, the marks: and nothing else."""
    account = pwd.getpwuid(os.geteuid())
    command = Command(words=("true",), env={"A": "1"})
    spec = prepared(command, watch="web", outputs={"k": "v"})
    assert spec.env == {
        "PATH": "/agents/bin",
        "LANG": "C.UTF-8",
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": account.pw_shell,
        "A": "1",
        "JETWATCH_WATCH": "web",
        "JETWATCH_OUTPUTS_K": "v",
        "JETWATCH_CHECK": "state",
        "JETWATCH_STEP": "step-1",
        "JETWATCH_OUTPUT": "/state/exchange/step-1",
    }
    assert spec.mark == "JETWATCH_STEP=step-1"


def test_what_a_command_inherits_lies_beneath_and_is_secret(tmp_path: Path) -> None:
    """Names by pattern, out of the agent's environment; what the watch says goes over it."""
    (tmp_path / "env").write_text("AWS_REGION=of the file\n")
    agent = {"AWS_SECRET_ACCESS_KEY": "canary", "AWS_REGION": "of the agent", "https_proxy": "p", "SECRET": "s"}
    command = Command(words=("true",), env_files=(str(tmp_path / "env"),), inherits=("AWS_*", "*_proxy"))
    spec = prepared(command, surroundings=Surroundings(agent, 0))
    found = {name: value for name, value in spec.env.items() if not name.startswith("JETWATCH")}
    assert found.items() >= {
        ("AWS_SECRET_ACCESS_KEY", "canary"),
        ("AWS_REGION", "of the file"),
        ("https_proxy", "p"),
    }
    assert "SECRET" not in spec.env
    assert "AWS_SECRET_ACCESS_KEY" in spec.secret_names
    assert environment(command, {}, Surroundings(agent, 0)) == found


def test_an_agent_without_a_path_still_finds_programs() -> None:
    """A container may start it with an empty environment."""
    spec = prepared(Command(words=("true",)), surroundings=Surroundings({}, umask=0o022))
    assert "/usr/bin" in spec.env["PATH"].split(":")
    assert "LANG" not in spec.env


def test_what_a_command_says_itself_goes_over_its_files() -> None:
    """And nobody goes over what the agent must be able to rely on."""
    command = Command(words=("true",), env={"A": "said", "JETWATCH_STEP": "mine", "JETWATCH_OUTPUT": "/etc/passwd"})
    spec = prepared(command, secrets={"A": "filed", "B": "filed"})
    assert (spec.env["A"], spec.env["B"]) == ("said", "filed")
    assert spec.env["JETWATCH_STEP"] == "step-1"
    assert spec.env["JETWATCH_OUTPUT"] == "/state/exchange/step-1"


def test_umask_and_cwd_are_the_agents_unless_said() -> None:
    """What the command asks for is kept, what it does not ask for comes from around it."""
    spec = prepared(Command(words=("true",)))
    assert (spec.umask, spec.cwd, spec.cwd_is_given, spec.nice, dict(spec.limits)) == (0o022, "/srv", False, None, {})
    asked = Command(words=("true",), umask=0o077, cwd="/tmp", nice=3, limits={"nofile": 9}, timeout_s=1, grace_s=2)
    spec = prepared(asked)
    assert (spec.umask, spec.cwd, spec.cwd_is_given, spec.nice, dict(spec.limits)) == (
        0o077,
        "/tmp",
        True,
        3,
        {"nofile": 9},
    )
    assert (spec.timeout_s, spec.grace_s) == (1, 2)


@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        (Command(words=("{{ revision }}",)), "bad_word", "the value would make this word an option"),
        (Command(words=("true",), env={"A": "1\0"}), "bad_env", "environment variable 'A'"),
        (Command(words=("true",), env={"A=B": "1"}), "bad_env", "environment variable 'A=B'"),
        (Command(words=("true",), env={"": "1"}), "bad_env", "environment variable ''"),
        (Command(words=("true",), env={"A": "\ud800"}), "bad_env", "environment variable 'A'"),
        (Command(words=("true",), user="no-such-user"), "no_such_user", "user no-such-user: no such user"),
        (Command(words=("true",), user="4123456789"), "no_such_user", "user 4123456789: no such user"),
        (Command(words=("true",), user="²"), "no_such_user", "user ²: no such user"),
        (Command(words=("true",), group="no-such-group"), "no_such_group", "group no-such-group: no such group"),
        (Command(words=("true",), group="4123456789"), "no_such_group", "group 4123456789: no such group"),
        (Command(words=("true",), env_files=("/nonexistent",)), "bad_env_file", "env_file /nonexistent: No such file"),
        (Command(words=("true",), env_files=("/tmp",)), "bad_env_file", "env_file /tmp: it is no file"),
    ],
)
def test_what_cannot_be_is_refused_by_name(command: Command, code: str, sentence: str) -> None:
    """Each refusal has a stable code, and a sentence that says what to change."""
    found, said = refusal(command, revision="-rf")
    assert found == code
    assert sentence in said


def test_a_value_that_no_environment_can_hold_is_refused() -> None:
    """Not by an exception that nobody expects."""
    assert refusal(Command(shell="true"), revision="a\0b")[0] == "bad_word"


# -- users


def test_another_user_brings_its_groups_and_its_names() -> None:
    """Primary group, supplementary groups, home, shell: all of the account, by name or by number."""
    need_root()
    account = pwd.getpwuid(NOBODY)
    for name in (account.pw_name, str(NOBODY)):
        spec = prepared(Command(words=("true",), user=name))
        assert (spec.uid, spec.gid) == (NOBODY, account.pw_gid)
        assert spec.groups == tuple(os.getgrouplist(account.pw_name, account.pw_gid))
        assert (spec.env["HOME"], spec.env["SHELL"]) == (account.pw_dir, account.pw_shell)
        assert (spec.env["USER"], spec.env["LOGNAME"]) == (account.pw_name, account.pw_name)
        assert user_ids(name) == (NOBODY, account.pw_gid)


def test_another_group_alone_keeps_the_user() -> None:
    """The group replaces the primary one."""
    need_root()
    group = grp.getgrgid(1)
    for name in (group.gr_name, "1"):
        spec = prepared(Command(words=("true",), group=name))
        assert (spec.uid, spec.gid) == (None, 1)
        assert spec.groups is not None
        assert 1 in spec.groups


def test_an_agent_that_is_not_root_runs_nobody_elses_commands() -> None:
    """It says so before it starts; its own user it may name."""
    code, sentence = as_nobody(lambda: list(refusal(Command(words=("true",), user="root"))))
    assert code == "bad_user"
    assert sentence == f"user root: the agent runs as uid {NOBODY}, and only root runs commands as somebody else"
    assert as_nobody(lambda: [(spec := prepared(Command(words=("true",), user="nobody"))).uid, spec.groups]) == [
        NOBODY,
        None,
    ]


def test_without_a_user_nothing_changes_hands() -> None:
    """Files stay the agent's, and so does the process."""
    spec = prepared(Command(words=("true",)))
    assert (spec.uid, spec.gid, spec.groups, user_ids(None)) == (None, None, None, None)


# -- env files and secrets


def test_env_files_are_read_in_order_and_count_as_secret(tmp_path: Path) -> None:
    """The later one wins; what the engine hands over wins over both; all names are masked."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("# a comment\nA=1\nexport B='two words'\nC=3 # not this\nEMPTY=\nBARE\nD=\"a\\nb\"\nE=${A}\n")
    second.write_text("A=2\r\nF=6\r\n")
    spec = prepared(Command(words=("true",), env_files=(str(first), str(second))), secrets={"F": "7"})
    found = {name: spec.env[name] for name in spec.secret_names}
    assert found == {"A": "2", "B": "two words", "C": "3", "EMPTY": "", "BARE": "", "D": "a\nb", "E": "${A}", "F": "7"}


def test_an_env_file_is_read_anew_for_each_start(tmp_path: Path) -> None:
    """Who rotates a token need not restart an agent."""
    path = tmp_path / "env"
    command = Command(words=("true",), env_files=(str(path),))
    for token in ("old", "new"):
        path.write_text(f"TOKEN={token}\n")
        assert prepared(command).env["TOKEN"] == token


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"A=1\n= 2\n", "line 2 is not NAME=value"),
        (b"A=1\nB='open\n", "line 2 is not NAME=value"),
        (b"A=\xff\n", "not UTF-8 at byte 2"),
        (b"#" * (ENV_FILE_LIMIT_BYTES + 1), f"longer than {ENV_FILE_LIMIT_BYTES} bytes"),
    ],
    ids=["no name", "an open quote", "no UTF-8", "too long"],
)
def test_a_broken_env_file_is_refused_and_not_read_in_part(tmp_path: Path, text: bytes, sentence: str) -> None:
    """A command without its password is worse than one that does not start."""
    path = tmp_path / "env"
    path.write_bytes(text)
    assert refusal(Command(words=("true",), env_files=(str(path),))) == ("bad_env_file", f"env_file {path}: {sentence}")


def test_a_fifo_in_its_place_hangs_nobody(fifo: Path) -> None:
    """Whatever lies at that path, the answer comes at once."""
    assert refusal(Command(words=("true",), env_files=(str(fifo),)))[0] == "bad_env_file"


def test_a_refused_file_leaves_no_descriptor(tmp_path: Path) -> None:
    """A check that is refused every minute for a year takes none with it."""
    before = sorted(Path("/proc/self/fd").iterdir())
    for path in (tmp_path, tmp_path / "none"):
        refusal(Command(words=("true",), env_files=(str(path),)))
    assert sorted(Path("/proc/self/fd").iterdir()) == before


@given(
    st.dictionaries(
        st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1, max_size=9),
        st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40),
        max_size=4,
    )
)
@example({"A": "ends with a backslash\\", "B": "it's"})
@example({"A": "''\\''", "B": '"quoted"', "C": "$HOME # no comment", "D": " \n two \r\n lines \n "})
@example({"A": "", "B": "#jetwatch:json\n{}"})
def test_kept_secrets_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]) -> None:
    """Quotes, backslashes, newlines, dollars, hashes, nothing at all: no value is bent on the way."""
    path = tmp_path_factory.mktemp("secrets") / "play.env"
    write_env_file(path, values)
    spec = prepared(Command(words=("true",), env_files=(str(path),)))
    assert {name: spec.env[name] for name in values} == values
    assert set(spec.secret_names) == set(values)
    assert path.stat().st_mode & 0o777 == 0o600
