"""The one way in which tests wait for what no descriptor tells: ask until it is so, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

_PAUSE_S = 0.005


def until(condition: Callable[[], Answer], within_s: float = 10.0, *, pause_s: float = _PAUSE_S) -> Answer:
    """What `condition` answers as soon as that is true. Raises AssertionError when it does not become so in time."""
    deadline = time.monotonic() + within_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not so within {within_s} s: {condition}"
        time.sleep(pause_s)
    return answer
