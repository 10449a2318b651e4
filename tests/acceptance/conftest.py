"""What the acceptance tests share: a site of their own each, kept when the test fails."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # tests/ is no package

from agent_process import Site  # noqa: E402
from event_lines import problems  # noqa: E402

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remember on the test whether it failed."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """An empty site. Whatever was started on it is ended; its directory is removed unless the test failed."""
    made = Site()
    yield made
    made.end()
    wrong = {problem for agent in made.agents for line in agent.lines for problem in problems(line)}
    assert not wrong, sorted(wrong)
    if request.node.stash.get(_FAILED, False):
        print(f"kept: {made.root}")
        for agent in made.agents:
            print(f"--- agent {agent.pid}\n{agent.story()}")
    else:
        made.remove()
