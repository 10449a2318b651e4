"""Threads for what may block: one for each task in flight. Nobody waits for a thread, and no task for another.

Who is done waits a moment for the next task, since to make a thread costs several times what it costs to wake one; an
agent that has little to do has no such thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

LINGER_S = 2.0

Task = Callable[[], None]
Named = tuple[Task, str]


class Workers:
    """For one thread, which hands out the tasks."""

    def __init__(self, linger_s: float = LINGER_S) -> None:
        self._linger_s = linger_s
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[Named]] = []
        """Each of a thread that waits for a task; the one that began to wait last stands at the end."""

    def start(self, task: Task, name: str) -> None:
        """Do `task`, which raises nothing, in a thread of this name. Raises RuntimeError when there can be none."""
        with self._lock:
            waiting = self._idle.pop() if self._idle else None
        if waiting is not None:
            waiting.put((task, name))
        else:
            threading.Thread(target=self._serve, args=((task, name),), daemon=True).start()

    def _serve(self, given: Named | None) -> None:
        mine: SimpleQueue[Named] = SimpleQueue()
        while given is not None:
            task, threading.current_thread().name = given
            task()
            del task, given  # what they hold is not to be kept for as long as nothing comes
            with self._lock:
                self._idle.append(mine)
            given = self._next(mine)

    def _next(self, mine: SimpleQueue[Named]) -> Named | None:
        """What is to be done next; None: the time to wait for something is over."""
        try:
            return mine.get(timeout=self._linger_s)
        except Empty:
            with self._lock:
                if mine in self._idle:
                    self._idle.remove(mine)
                    return None
            return mine.get()  # it was given at the last moment
