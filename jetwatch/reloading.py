"""HUP: the configuration is read again, in a thread of its own, for the file may lie where reading it takes long.

What comes of it is done in the engine's thread. HUPs that come meanwhile make one more reading, never none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from jetwatch.config.load import load
from jetwatch.config.model import Settings
from jetwatch.engine.engine import Engine
from jetwatch.errors import ConfigError, Problem
from jetwatch.notify import Notifier

_AGENT_WIDE = tuple(name for name in Settings.__struct_fields__ if name not in ("watches", "digest"))


class Reloading:
    """One agent's readings. `settings`: those that it began with. `post`: leaves a call in the engine's inbox."""

    def __init__(
        self,
        config_path: Path,
        settings: Settings,
        engine: Engine,
        *,
        post: Callable[[Callable[[], None]], None],
        notifier: Notifier,
    ) -> None:
        self._config_path = config_path
        self._settings = settings
        self._engine = engine
        self._post = post
        self._notifier = notifier
        self._lock = threading.Lock()
        self._is_reading = False
        self._read_again = False

    def begin(self) -> None:
        """Read it, or once more when the reading that is under way has come to its end. Never waits."""
        with self._lock:
            if self._is_reading:
                self._read_again = True
                return
            self._is_reading = True
        self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            threading.Thread(target=self._read, name="reload", daemon=True).start()
        except RuntimeError:
            self._refuse_whole("the machine has no room for one more thread to read it; send HUP again")

    def _read(self) -> None:
        try:
            settings, _ = load(self._config_path)
        except ConfigError as error:
            self._refuse(error)
        except BaseException as error:  # noqa: BLE001 - the thread's one catch-all: told, and the agent works on
            self._refuse_whole(f"could not be read: {type(error).__name__}: {error}")
        else:
            self._adopt(settings)

    def _adopt(self, settings: Settings) -> None:
        changed = [name for name in _AGENT_WIDE if getattr(settings, name) != getattr(self._settings, name)]
        if changed:
            sentence = "an agent-wide key changes with a restart only; nothing was changed"
            self._refuse(ConfigError([Problem(str(self._config_path), 1, name, sentence) for name in changed]))
        else:
            self._end(lambda: self._engine.reload(settings))

    def _refuse(self, error: ConfigError) -> None:
        problems = tuple(str(problem) for problem in error.problems)
        self._end(lambda: self._engine.reject(problems))

    def _refuse_whole(self, sentence: str) -> None:
        self._refuse(ConfigError([Problem(str(self._config_path), 1, "", sentence)]))

    def _end(self, act: Callable[[], None]) -> None:
        def done() -> None:
            act()
            self._notifier.send("READY=1")
            with self._lock:
                again, self._is_reading, self._read_again = self._read_again, False, False
            if again:
                self.begin()

        self._post(done)
