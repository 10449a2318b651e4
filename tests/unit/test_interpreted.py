"""Words of a command that another program reads as code: a value in them is code, too, and is warned of."""

from __future__ import annotations

from pathlib import Path

import pytest

from jetwatch import words
from jetwatch.config.interpreted import code_of
from jetwatch.config.load import load

CODE = [
    ("sh -c 'echo {{ revision }}'", "sh"),
    ("/bin/sh -c 'echo {{ revision }}' sh two", "sh"),
    ("bash -lc 'echo {{ revision }}'", "bash"),
    ("bash -o pipefail -ec 'echo {{ revision }}'", "bash"),
    ("bash --norc -c 'echo {{ revision }}'", "bash"),
    ("dash -c -e 'echo {{ revision }}'", "dash"),
    ("busybox sh -c 'echo {{ revision }}'", "sh"),
    ("zsh -c 'echo {{ revision }}'", "zsh"),
    ("fish --command='echo {{ revision }}'", "fish"),
    ("env A=b sh -c 'echo {{ revision }}'", "sh"),
    ("sudo -u app -- timeout 5 nice -n 3 bash -c 'echo {{ revision }}'", "bash"),
    ("find /srv -exec sh -c 'echo {{ revision }}' ;", "sh"),
    ("su app -c 'echo {{ revision }}'", "su"),
    ("runuser -u app -c 'echo {{ revision }}'", "runuser"),
    ("flock /run/lock -c 'echo {{ revision }}'", "flock"),
    ("ssh -p 22 app@host systemctl restart {{ revision }}", "ssh"),
    ("python3 -c 'print({{ revision }})'", "python3"),
    ("/usr/bin/python3.11 -I -c 'print({{ revision }})'", "python3.11"),
    ("python -Ic 'print({{ revision }})'", "python"),
    ("python3 '-cprint({{ revision }})'", "python3"),
    ("perl -ne 'print {{ revision }}' file", "perl"),
    ("perl -w -e '1' -e 'print {{ revision }}'", "perl"),
    ("ruby -e 'puts {{ revision }}'", "ruby"),
    ("node --eval 'f({{ revision }})'", "node"),
    ("node -pe 'f({{ revision }})'", "node"),
    ("php -r 'f({{ revision }});'", "php"),
    ("lua -e 'f({{ revision }})'", "lua"),
    ("awk -F : '/{{ revision }}/ {print $1}' file", "awk"),
    ("sed 's/x/{{ revision }}/' file", "sed"),
    ("sed -n -e 's/x/{{ revision }}/p' file", "sed"),
    ("psql site -c 'select {{ revision }}'", "psql"),
    ("mysql --execute 'select {{ revision }}' site", "mysql"),
]

NO_CODE = [
    "echo {{ revision }}",
    "sh apply.sh {{ revision }}",
    "sh apply.sh -c {{ revision }}",
    "sh -c 'echo \"$1\"' sh {{ revision }}",
    "bash -ec 'echo \"$1\"' -- {{ revision }}",
    "python3 script.py -c {{ revision }}",
    "python3 -m tool -c {{ revision }}",
    "ansible-playbook -e rev={{ revision }} pb.yml",
    "curl -c {{ revision }} https://host/",
    "awk -v rev={{ revision }} '{print rev}' file",
    "sed s/x/y/ {{ download_path }}/file",
    "ssh -i {{ state_dir }}/key app@host true",
    "git -c user.name=x checkout {{ revision }}",
    "sh -c 'echo done'",
]


@pytest.mark.parametrize(("command", "program"), CODE, ids=[row[0] for row in CODE])
def test_a_value_within_code_is_found(command: str, program: str) -> None:
    """Whatever stands before the interpreter, and however its option is written."""
    found = [name for name, code in code_of(words.split(command)) if words.names((code,))]
    assert found == [program]


@pytest.mark.parametrize("command", NO_CODE)
def test_a_value_beside_code_is_none(command: str) -> None:
    """An argument, a file, an option of a program that runs nothing."""
    assert [code for _, code in code_of(words.split(command)) if words.names((code,))] == []


def warnings_of(tmp_path: Path, command: str) -> list[str]:
    """What is said of a play."""
    (tmp_path / "web.yml").write_text(f"check_command: 'true'\njet_command: {command}\n")
    return [problem.message for problem in load(tmp_path / "web.yml")[1]]


def test_a_warning_names_the_safe_way(tmp_path: Path) -> None:
    """The key, and the variable that has the same value; in both forms of a command, once for each value."""
    said = warnings_of(tmp_path, """[sh, -c, "echo {{ revision }} {{ outputs.tag | lower }}"]""")
    assert [sentence.partition(";")[2] for sentence in said] == [
        ' write `shell:`, and `"$JETWATCH_OUTPUTS_KEY"` in its text',
        ' write `shell:`, and `"$JETWATCH_REVISION"` in its text',
    ]
    assert said[1].startswith("`{{ revision }}` becomes a part of what `sh` runs")
    assert len(warnings_of(tmp_path, "sh -c 'echo {{ revision }}'")) == 1


def test_a_brace_that_is_no_value_is_no_warning(tmp_path: Path) -> None:
    """`{{ '{{' }}` is how two braces are written."""
    assert warnings_of(tmp_path, """[sh, -c, "echo {{ '{{' }}"]""") == []
