"""Threads for what may block: as many as there are tasks at once, used again, and gone when there is nothing to do."""

from __future__ import annotations

import threading
from queue import SimpleQueue

from waiting import until

from jetwatch.engine.workers import Workers


def test_each_task_in_flight_has_a_thread_of_its_own() -> None:
    """No task waits for another: twenty that wait for each other all go on."""
    workers = Workers()
    together = threading.Barrier(21)

    def task() -> None:
        together.wait(30)

    for number in range(20):
        workers.start(task, f"task {number}")
    together.wait(30)


def test_who_is_done_takes_what_comes_next() -> None:
    """A hundred tasks, one after the other, are done by a handful of threads."""
    workers = Workers(linger_s=30.0)
    seen: list[threading.Thread] = []
    for number in range(100):
        done = threading.Event()

        def task(done: threading.Event = done) -> None:
            seen.append(threading.current_thread())
            done.set()

        workers.start(task, f"task {number}")
        assert done.wait(30)
    assert len(set(seen)) < 50


def test_a_thread_has_the_name_of_what_it_does() -> None:
    """Who looks at an agent that hangs sees which watch it is."""
    workers = Workers()
    names: SimpleQueue[str] = SimpleQueue()
    for name in ("check web", "check db"):
        workers.start(lambda: names.put(threading.current_thread().name), name)
        assert names.get(timeout=30) == name


def test_who_gets_nothing_to_do_leaves() -> None:
    """An agent that waits has no thread for it."""
    workers = Workers(linger_s=0.01)
    seen: SimpleQueue[threading.Thread] = SimpleQueue()
    workers.start(lambda: seen.put(threading.current_thread()), "task")
    thread = seen.get(timeout=30)
    until(lambda: not thread.is_alive())
    again = threading.Event()
    workers.start(again.set, "task")
    assert again.wait(30)


def test_a_task_that_comes_at_the_last_moment_is_done() -> None:
    """However long a thread waits, and whenever the next one comes, none is lost."""
    workers = Workers(linger_s=0.0005)
    for _ in range(2000):
        done = threading.Event()
        workers.start(done.set, "task")
        assert done.wait(30)
