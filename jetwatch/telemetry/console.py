"""One line per event for a person at a terminal: time, level, watch, what happened, and what matters about it.

Made to be watched: columns that stand still, 80 columns for the everyday events, colour only where it says something.
Foreign text is shown escaped and never ends the line.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from jetwatch.telemetry.plain import compact, cut, duration, size, visible


class Fields(dict[str, Any]):
    """An event's fields. Those that have nothing to say are not told, and read as empty text."""

    def __missing__(self, key: str) -> str:
        return ""


_COLOUR_SEQUENCE = re.compile(r"\x1b\[[0-9;:]*m")
_LEVELS = {"debug": "debug", "info": "info ", "warning": "warn ", "error": "error"}
_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "1;31", "dim": "2", "watch": "36", "event": "1"}
_WATCH_WIDTH = 8
_WATCH_WIDTH_MOST = 16
_EVENT_WIDTH = 14
_ID_WIDTH = 8
_REVISION_WIDTH = 12
_LAST_WORDS_LEAST = 40  # of a failed command's last line: worth a second line of a narrow terminal


class ConsoleLine:
    """Renders one event after the other; remembers only how wide the watches' names were."""

    def __init__(self, *, colour: bool, width: Callable[[], int]) -> None:
        self._colour = colour
        self._width = width
        self._watch_width = _WATCH_WIDTH

    def __call__(self, _logger: object, _method: str, told: Mapping[str, Any]) -> str:
        """The line without its newline. Called as a structlog renderer, with the whole event."""
        line = Fields(told)
        watch = visible(str(line.get("watch") or "-"))
        self._watch_width = min(_WATCH_WIDTH_MOST, max(self._watch_width, len(watch)))
        level, event = str(line["level"]), str(line["event"])
        parts = [
            (time.strftime("%H:%M:%S", time.localtime(line["at_us"] / 1_000_000)), "dim"),
            (_LEVELS[level], level),
            (watch.ljust(self._watch_width), "watch" if line.get("watch") else "dim"),
            (event.replace("_", " ").ljust(_EVENT_WIDTH), level if level in ("warning", "error") else "event"),
        ]
        if line.get("play_uuid"):
            parts.append((visible(str(line["play_uuid"]))[:_ID_WIDTH], "dim"))
        parts.append((self._words(event, line, sum(len(text) + 1 for text, _ in parts)), ""))
        return " ".join(self._painted(text, name) for text, name in parts).rstrip()

    def _words(self, event: str, line: Fields, used: int) -> str:
        said = visible(", ".join(word for word in _SAYINGS.get(event, _everything)(line) if word))
        last = _last_words(str(line.get("output_tail", "")))
        room = max(_LAST_WORDS_LEAST, self._width() - used - len(said) - 2)
        return f"{said}: {cut(last, room)}" if last else said

    def _painted(self, text: str, name: str) -> str:
        if not self._colour or not name:
            return text
        return f"\x1b[{_COLOURS[name]}m{text}\x1b[0m"


def _last_words(tail: str) -> str:
    """The last line of a command's output that says anything."""
    lines = [line.strip() for line in _COLOUR_SEQUENCE.sub("", tail).split("\n") if line.strip()]
    return visible(lines[-1]) if lines else ""


def _ending(line: Fields) -> str:
    """How a command ended, when that was not well."""
    if line.get("timed_out"):
        return "timed out"
    if line.get("signal"):
        return str(line["signal"])
    if line.get("exit_code"):
        return f"exit {line['exit_code']}"
    return str(line["reason"]).replace("_", " ")


def _took(line: Fields) -> str:
    return compact(line["duration_s"]) if "duration_s" in line else ""


def _revision(line: Fields) -> str:
    return cut(str(line.get("revision", "")), _REVISION_WIDTH)


def _agent_started(line: Fields) -> list[str]:
    watches = f"{line['watches']} watch" + ("" if line["watches"] == 1 else "es")
    return [watches, str(line["config"]), "" if line["detach"] else "no detach"]


def _check_finished(line: Fields) -> list[str]:
    until = f"until {line['suspended_until']}" if "suspended_until" in line else ""
    by = f"by {line['suspended_by']}" if "suspended_by" in line else ""
    why = f": {line['suspended_reason']}" if "suspended_reason" in line else ""
    return [
        str(line["result"]).replace("_", " "),
        _check_ending(line),
        _revision(line),
        _took(line),
        f"{by} {until}".strip() + why,
    ]


def _check_ending(line: Fields) -> str:
    return _ending(line) if line["result"] in ("error", "skipped", "later") else ""


def _step_finished(line: Fields) -> list[str]:
    how = "ok" if line["ok"] else "failed"
    left = f"{line['left_running']} left running" if line.get("left_running") else ""
    return [f"{line['step']} {how}", "" if line["ok"] else _ending(line), _took(line), left]


def _run_finished(line: Fields) -> list[str]:
    outcome = str(line["outcome"])
    if outcome == "ok":
        return ["ok", _took(line), _revision(line)]
    how = f"{line['failed_step']} {outcome}" if line.get("failed_step") else outcome
    why = _ending(line)
    return [how, why if why != outcome else "", _took(line)]


def _run_started(line: Fields) -> list[str]:
    return [str(line["trigger"]), f"attempt {line['attempt']}" if line["attempt"] > 1 else "", _revision(line)]


def _config_reloaded(line: Fields) -> list[str]:
    if not line["changed"]:
        return ["no change"]
    return [f"{word} {' '.join(line[word])}" for word in ("added", "altered", "removed") if word in line]


def _disk_low(line: Fields) -> list[str]:
    free = f"{size(line['free_bytes'])} and {line['free_inodes']} inodes free"
    return [free, f"{size(line['reserve_bytes'])} and {line['reserve_inodes']} wanted", str(line["path"])]


def _clock(text: str) -> str:
    """The date and minute of an RFC 3339 time."""
    return f"{text[:10]} {text[11:16]} UTC" if len(text) > 16 else text


def _everything(line: Fields) -> list[str]:
    """For an event without a sentence of its own: all its fields."""
    return [f"{key}={value}" for key, value in line.items() if key not in _COMMON]


_COMMON = ("at_us", "level", "event", "watch", "play_uuid", "seq")
_SAYINGS: Mapping[str, Callable[[Fields], list[str]]] = {
    "agent_started": _agent_started,
    "agent_stopping": lambda line: [str(line["reason"]), str(line["mode"])],
    "agent_stopped": lambda line: [
        f"{line['open_runs']} runs open",
        f"{line['lines_dropped']} log lines dropped" if line["lines_dropped"] else "",
    ],
    "config_reloaded": _config_reloaded,
    "config_rejected": lambda line: ["; ".join(line["problems"])],
    "splay_started": lambda line: [f"{duration(line['wait_s'])} of up to {duration(line['splay_s'])}"],
    "check_finished": _check_finished,
    "checks_folded": lambda line: [f"{line['count']} checks said not due since {_clock(line['since'])}"],
    "run_started": _run_started,
    "run_deferred": lambda line: [f"{line['reason']} opens {_clock(line['until'])}", _revision(line)],
    "step_started": lambda line: [str(line["step"]), f"start {line['attempt']}" if line["attempt"] > 1 else ""],
    "step_deferred": lambda line: [str(line["step"]), f"again in {duration(line['wait_s'])}", str(line["detail"])],
    "step_finished": _step_finished,
    "run_reattached": lambda line: [f"at {line['step']}", "still running" if line["alive"] else "ended meanwhile"],
    "run_finished": _run_finished,
    "incident_opened": lambda line: [
        f"{line['failures']} failures in a row" if line["failures"] > 1 else "a run failed",
        f"since {_clock(line['since'])}",
    ],
    "incident_closed": lambda line: [f"after {line['failures']} failures, {duration(line['duration_s'])}"],
    "retry_planned": lambda line: [f"attempt {line['attempt']} in {duration(line['wait_s'])}"],
    "quarantined": lambda line: [_revision(line), str(line["reason"])],
    "held": lambda line: [f"until {_clock(line['until'])}", f"{line['lost_in_a_row']} lost runs in a row"],
    "blocked": lambda line: [f"{line['step']}: pid {line['pid']} in state {line['state']} cannot be killed"],
    "cleared": lambda line: [f"by {line['by']}"],
    "hook_retry": lambda line: [
        f"{line['step']} again in {duration(line['wait_s'])}",
        f"try {line['delivery']} failed",
    ],
    "hook_abandoned": lambda line: [f"{line['step']} after {line['deliveries']} tries", str(line["reason"])],
    "suspended": lambda line: [
        f"by {line['by']}",
        f"until {_clock(line['until'])}" if "until" in line else "until resumed",
        str(line["reason"]),
    ],
    "resumed": lambda line: [f"by {line['by']}"],
    "disk_low": _disk_low,
    "retention_swept": lambda line: [f"{line['runs']} runs"],
    "retention_refused": lambda line: [str(line["path"]), str(line["reason"])],
}
