"""An end for questions whose answer can drip for ever.

A timeout of a socket counts from byte to byte; this one counts from the question.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import NoReturn, TypeVar

from jetwatch.content.source import ContentRetry

Answer = TypeVar("Answer")


def within(
    deadline_s: float, what: str, ask: Callable[[], Answer], give_up: Callable[[], None] = lambda: None
) -> Answer:
    """Return `ask()`, which runs in a thread of its own, or raise what it raised; ContentRetry when it takes longer.

    `give_up` is called then: it ends what `ask` waits for, if that has no end of its own.
    """
    answers: SimpleQueue[Callable[[], Answer]] = SimpleQueue()

    def run() -> None:
        try:
            answer = ask()
        except BaseException as error:  # noqa: BLE001 - it is raised again by the one who asked
            answers.put(partial(_raise, error))
        else:
            answers.put(lambda: answer)

    Thread(target=run, name="content-question", daemon=True).start()
    try:
        answered = answers.get(timeout=max(0.0, deadline_s))
    except Empty:
        give_up()
        raise ContentRetry(f"{what}: no whole answer within {deadline_s:g} s") from None
    return answered()


def _raise(error: BaseException) -> NoReturn:
    raise error
