"""What people ask of an agent at its control socket. The main thread takes it, the engine's thread answers."""

from __future__ import annotations

import os

from jetwatch.control.protocol import Request, Response, Verb
from jetwatch.control.server import Reply
from jetwatch.engine.engine import Engine
from jetwatch.engine.runtime import Runtime
from jetwatch.engine.unforeseen import internal_error, unforeseen
from jetwatch.errors import JetwatchError


class Answering:
    """One agent's answers."""

    def __init__(self, engine: Engine, runtime: Runtime) -> None:
        self._engine = engine
        self._runtime = runtime

    def submit(self, request: Request, reply: Reply) -> None:
        """Leave the request in the engine's inbox; refuse it where the engine waits for the disk. Never waits."""
        stalled = self._runtime.journal.stalled
        if stalled is not None:
            reply(Response.refusal(stalled.exit_code, str(stalled)))
            return

        def do() -> None:
            try:
                self._do(request, reply)
            except JetwatchError as error:
                reply(Response.refusal(error.exit_code, str(error)))
            except Exception as error:  # noqa: BLE001 - what one asks for must not end the agent of all
                self._runtime.tell(internal_error(error, "verb", request.watch or ""))
                reply(Response.refusal(JetwatchError.exit_code, str(unforeseen(error))))

        self._runtime.post(do)

    def _do(self, request: Request, reply: Reply) -> None:
        engine, by = self._engine, request.by
        if request.verb is Verb.TRIGGER and request.wait:
            waiting = _Collected(len(engine.watch_names()) if request.watch is None else 1, reply)
            engine.trigger(request.watch, force=request.force, by=by, report=waiting.add)
            return
        match request.verb:
            case Verb.PING:
                lines = [f"pid {os.getpid()}"]
            case Verb.TRIGGER:
                lines, accepted = engine.trigger(request.watch, force=request.force, by=by, report=None)
                reply(Response(ok=accepted, exit_code=0 if accepted else 1, lines=lines))
                return
            case Verb.CANCEL:
                lines = engine.cancel(request.run, by=by)
            case Verb.CLEAR:
                lines = engine.clear(request.watch, by=by)
            case Verb.SUSPEND:
                lines = engine.suspend(request.watch, by=by, reason=request.reason or "", for_s=request.for_s)
            case Verb.RESUME:
                lines = engine.resume(request.watch, by=by)
        reply(Response(ok=True, lines=lines))


class _Collected:
    """The reports of a trigger that somebody waits for: one answer when all watches have reported."""

    def __init__(self, expected: int, reply: Reply) -> None:
        self._expected = expected
        self._reply = reply
        self._lines: list[str] = []
        self._well = True

    def add(self, sentence: str, well: bool) -> None:
        """One watch is done."""
        self._lines.append(sentence)
        self._well = self._well and well
        if len(self._lines) == self._expected:
            self._reply(Response(ok=self._well, exit_code=0 if self._well else 1, lines=self._lines))
