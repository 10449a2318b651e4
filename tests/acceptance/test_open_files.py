"""Many checks at once that do not end, as on a dead mount: there are descriptors for them, or they wait."""

from __future__ import annotations

import pytest
from agent_process import Site

HANGING = {"shell": "sleep 1000", "timeout": "2s"}


def limited(soft: int, hard: int | None = None) -> list[str]:
    """The words before an agent that may have so many open files."""
    text = f"ulimit -n {hard} && ulimit -Sn {soft}" if hard else f"ulimit -Sn {soft}"
    return ["sh", "-c", f'{text} && exec "$@"', "sh"]


def watches(count: int, **keys: object) -> dict[str, object]:
    """So many watches that are alike, each checked once."""
    usual = {"check_command": HANGING, "check_interval": 1000, "jet_command": "true"}
    return {"defaults": {**usual, **keys}, "watches": {f"w{number}": {} for number in range(count)}}


def test_commands_get_the_limit_that_the_agent_was_given(site: Site) -> None:
    """The agent raises its own as far as it may; a program that uses select(2) is not to meet larger numbers."""
    tell = site.shell('echo "$(ulimit -Sn) $(ulimit -Hn)" >> limits')
    agent = site.start(
        watches(1, check_command=tell, jet_command=tell, on_done=tell), "--once", "--no-splay", before=limited(300, 400)
    )
    assert agent.wait() == 0
    assert site.read_lines("limits") == ["300 400"] * 3


def test_a_limit_in_the_configuration_goes_over_it(site: Site) -> None:
    """Both of them, as everywhere."""
    tell = {**site.shell('echo "$(ulimit -Sn) $(ulimit -Hn)" >> limits'), "limits": {"nofile": 77}}
    agent = site.start(watches(1, check_command=tell), "--once", "--no-splay", before=limited(300, 400))
    assert agent.wait() == 0
    assert site.read_lines("limits") == ["77 77"]


def test_checks_that_hang_do_not_use_up_the_descriptors(site: Site) -> None:
    """Where there are too few, the others wait for their turn; nobody is lost, and the agent lives."""
    agent = site.start(watches(30), "--once", "--no-splay", before=limited(160, 160))
    assert agent.wait(within_s=100) == 75
    assert len(agent.told("check_finished", result="error", reason="timeout")) == 30
    assert len({line["watch"] for line in agent.told("check_finished")}) == 30


@pytest.mark.slow
def test_descriptors_may_have_large_numbers(site: Site) -> None:
    """300 checks that hang have 1,200 of them: everything that waits for one works beyond 1,023, too."""
    agent = site.start(watches(300), "--once", "--no-splay", before=limited(1024))
    assert agent.wait(within_s=100) == 75
    assert len(agent.told("check_finished", result="error", reason="timeout")) == 300


def test_too_few_to_begin_with_are_named(site: Site) -> None:
    """No traceback: what is missing, and where to look."""
    agent = site.start(watches(1), "--once", before=limited(10, 10))
    assert agent.wait() == 75
    assert agent.errors == "jetp: Too many open files: look at LimitNOFILE=, ulimit -n and fs.file-max\n"
