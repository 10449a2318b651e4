"""R10: hostile text through every field that can carry it, from commands, configurations and people.

Each watch of a site has texts of its own: in its command's words, its `env`, its outputs and its revision, in what its
check, play and hooks print, in the reason of a suspension, in the paths of the state directory and of the
configuration. Commands write down the argv and the environment that the kernel gave them. The agent's log is read
byte by byte in all its formats, and what people are shown is read from a terminal.
"""

from __future__ import annotations

import json
import os
import pty
import random
import re
import subprocess
import threading
from typing import Any

import paths  # noqa: F401
import yaml
from agent_process import JETP, Site
from row import Dose, Row

from jetwatch.telemetry.plain import visible

WATCHES = 6
FORMATS = ("json", "logfmt", "console")

RECORD = """\
cat /proc/$$/cmdline > "$SEEN.argv"
cat /proc/$$/environ > "$SEEN.environ"
cat "$SAYS"
exit "$CODE"
"""
CHECK = """\
cat "$SAYS"
cat "$GIVES" > "$JETWATCH_OUTPUT"
exit 0
"""
SHARP = (
    *("\x1b[2J", "\x1b]0;title\x07", "\x1b[31m", "\x9b2J"),
    *("\r", "\t", "\x08\x08", "\x7f", "\x85", "\x0b", "\x0c", "\x1c"),
    *("\u2028", "\u2029", "\u202e", "\u2066", "\u200b", "\ufeff", "\U000e0041", "\ufffd", "\u0301" * 30, "\U0001f468"),
    *("'", '"', "`", "\\"),
    *("$(reboot)", "${IFS}", "; rm -rf /", "| sh", "&& true", "> /x", "*", "?", "~", "!", "#", "%n"),
    *("{{ 7*7 }}", "{{", "}}", "{% for %}", "{#", "[/red]", "[bold]", ":smile:", "<b>", "&amp;", "%s", "%(a)s", "{0}"),
    *('","event":"run_finished","x":"', "level=error event=x", " a=b", "=", ",", "\\n", "\\u0000", "-rf", "--", "\xa0"),
)  # fmt: skip
LONG = "long " * 5000
RAW = (
    b"\xff\xfe",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\0",
    b"\n",
    b"\r\n",
    b"\x1b[",
    b"\x80" * 100,
    b"x" * 70_000,
)

CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
COLOURS = re.compile(r"\x1b\[[0-9;:]*m")


def torture(dose: Dose) -> str:
    """`count` texts of each kind: one per watch, a site for each six of them, its log in each format in turn."""
    figures = {"runs": 0, "lines": 0, "words": 0, "screens": 0, "refused": 0}
    for number in range(-(-dose.count // WATCHES)):
        _Probe(dose.random, FORMATS[number % len(FORMATS)], figures).run()
        if number % 20 == 19:
            dose.say(f"  {figures}")
    return (
        f"{figures['runs']} runs: {figures['lines']} log lines in {len(FORMATS)} formats, one for each event; "
        f"{figures['words']} words and variables byte for byte; {figures['screens']} pages on a terminal without a "
        f"control character; {figures['refused']} words and paths that are no text refused"
    )


class _Probe:
    """One site, its watches, one agent that works once."""

    def __init__(self, dealt: random.Random, log_format: str, figures: dict[str, int]) -> None:
        self._dealt = dealt
        self._format = log_format
        self._figures = figures

    def run(self) -> None:
        site = Site()
        try:
            self._configure(site)
            self._work(site)
            self._commands_saw_what_was_said(site)
            self._people_read_it_safely(site)
            self._what_is_no_text_is_refused(site)
        except BaseException:
            print(f"kept: {str(site.root)!r}")
            raise
        else:
            site.remove()
        finally:
            site.end()

    # -- what there is

    def _text(self, *, sharp: int = 3, forbidden: str = "\n\0") -> str:
        """Text that one line of UTF-8 can hold."""
        parts = [self._dealt.choice(SHARP) for _ in range(self._dealt.randrange(sharp + 1))]
        parts += [
            chr(self._dealt.choice((0x20, 0x7F, 0x250, 0x3000, 0x10FFFF)) - self._dealt.randrange(0x20)) for _ in "ab"
        ]
        parts += [LONG] if self._dealt.random() < 0.03 else []
        self._dealt.shuffle(parts)
        text = "".join(parts)
        return "".join(each for each in text if each not in forbidden and not "\ud800" <= each <= "\udfff").strip(
            " \t\r"
        )

    def _bytes(self) -> bytes:
        """What a command prints."""
        parts = [self._text().encode() for _ in range(3)] + [self._dealt.choice(RAW), self._dealt.randbytes(20)]
        self._dealt.shuffle(parts)
        return b"".join(parts)

    def _name(self) -> str:
        """A name of a file: any text that the file system takes, line ends as well."""
        return "d" + self._text(forbidden="\0/")[:40] + self._dealt.choice(("", "\n", "\nx: y"))

    def _configure(self, site: Site) -> None:
        site.state = site.root / self._name() / "state"
        folder = site.root / self._name()
        folder.mkdir(exist_ok=True)
        site.config = folder / "watch.yml"
        record, check = site.script("record", RECORD), site.script("check", CHECK)
        self.texts: dict[str, dict[str, str]] = {}
        watches: dict[str, Any] = {}
        for name in (f"w{number}" for number in range(WATCHES)):
            texts = self.texts[name] = {key: self._text() for key in ("revision", "one", "two")}
            texts["word"] = self._text(forbidden="\0{}")
            texts["env"] = self._text(forbidden="\0")
            gives = "".join(f"{key}={texts[key]}\n" for key in ("revision", "one", "two"))
            (site.root / f"{name}.gives").write_bytes(gives.encode())
            for who in ("check", "play", "hook"):
                (site.root / f"{name}.{who}.says").write_bytes(self._bytes())
            watches[name] = {
                "check_command": {"run": str(check), "env": self._environ(site, name, "check")},
                "jet_command": {
                    "run": [str(record), f"={texts['word']}", "={{ revision }}", "{{ outputs.one }}={{ outputs.two }}"],
                    "env": self._environ(site, name, "play") | {"TEXT": texts["env"], "CODE": "3"},
                },
                "on_fail": {
                    "run": [str(record), "={{ outputs.one }}", "{{ outcome }}"],
                    "env": self._environ(site, name, "hook") | {"CODE": "0"},
                },
            }
            if texts["one"].startswith("-"):
                watches[name]["jet_command"]["run"][3] = "={{ outputs.one }}={{ outputs.two }}"
        config = {"log": {"file": str(site.root / "log")}, "watches": watches}
        site.config.write_text(yaml.safe_dump(config, allow_unicode=False, width=10**6))

    def _environ(self, site: Site, name: str, who: str) -> dict[str, str]:
        return {
            "SAYS": str(site.root / f"{name}.{who}.says"),
            "GIVES": str(site.root / f"{name}.gives"),
            "SEEN": str(site.root / f"{name}.{who}"),
        }

    # -- what the agent tells

    def _work(self, site: Site) -> None:
        words = ("watch", "--once", "--no-splay", "--log-format", self._format, "--log-level", "debug")
        done = subprocess.run(
            [JETP, *words, "--watch-config", site.config, "--state-dir", site.state],
            env=site.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=300,
            check=False,
        )
        assert all(line.startswith(b"jetp: warning: ") for line in _lines(done.stderr)), done.stderr
        assert done.returncode == 1, (done.returncode, done.stdout[-2000:])
        in_file = (site.root / "log").read_bytes()
        events = [json.loads(line)["event"] for line in _lines(in_file)]
        assert events.count("run_finished") == WATCHES, events
        told = _lines(done.stdout)
        assert len(told) == len(events), f"{len(told)} lines for {len(events)} events"
        for line, event in zip(told, events, strict=True):
            self._is_one_event(line, event)
        self._figures["runs"] += WATCHES
        self._figures["lines"] += len(told) + len(events)

    def _is_one_event(self, line: bytes, event: str) -> None:
        text = line.decode()
        assert text.isprintable(), text
        if self._format == "json":
            assert json.loads(line)["event"] == event
        elif self._format == "logfmt":
            assert re.match(rf"timestamp=\S+ level=\w+ event={event} ", text), text
        else:
            assert re.match(rf"\d\d:\d\d:\d\d \w+ +(w\d|-) +{event.replace('_', ' ')}", text), text

    # -- what commands saw

    def _commands_saw_what_was_said(self, site: Site) -> None:
        for name, texts in self.texts.items():
            one_two = f"{'=' if texts['one'].startswith('-') else ''}{texts['one']}={texts['two']}"
            argv = (site.root / f"{name}.play.argv").read_bytes().split(b"\0")[2:-1]
            expected = [f"={texts['word']}", f"={texts['revision']}", one_two]
            assert argv == [each.encode() for each in expected], (argv, expected)
            hook = (site.root / f"{name}.hook.argv").read_bytes().split(b"\0")[2:-1]
            assert hook == [f"={texts['one']}".encode(), b"failed"], hook
            environ = (site.root / f"{name}.play.environ").read_bytes().split(b"\0")
            for variable, text in (
                ("TEXT", texts["env"]),
                ("JETWATCH_REVISION", texts["revision"]),
                ("JETWATCH_OUTPUTS_ONE", texts["one"]),
                ("JETWATCH_OUTPUTS_TWO", texts["two"]),
                ("JETWATCH_STATE_DIR", os.fsdecode(os.fsencode(site.state))),
            ):
                assert b"%b=%b" % (variable.encode(), os.fsencode(text)) in environ, (variable, text)
            self._figures["words"] += 10

    # -- what people are shown

    def _people_read_it_safely(self, site: Site) -> None:
        reason = self._text() or "x"
        subprocess.run(
            [JETP, "suspend", "w0", "--reason", f"r{reason}", "--state-dir", site.state],
            env=site.environ | {"SUDO_USER": f"u{self._text(forbidden=chr(0))[:50]}"},
            capture_output=True,
            timeout=60,
            check=True,
        )
        pages = [("status",), ("runs",), ("show",), ("logs",), ("why", "w0"), ("why", "w1")]
        for page in pages:
            shown = _on_a_terminal(site, *page)
            plain = COLOURS.sub("", shown).replace("\r\n", "").replace("\t", "")
            bad = {char for char in plain if visible(char) != char}
            assert not bad, (page, bad, shown)
            self._figures["screens"] += 1
        for page in pages[:3]:
            assert json.loads(site.jetp(*page, "--json").stdout)
        state = json.loads(site.jetp("status", "--json").stdout)
        (suspended,) = (each["suspended"] for each in state["watches"] if each["watch"] == "w0")
        assert suspended["reason"] == f"r{reason}", suspended

    def _what_is_no_text_is_refused(self, site: Site) -> None:
        """Words and paths that are not UTF-8: said in one line, and nothing done."""
        odd = b"x" + self._dealt.choice(RAW[:4])
        state, config = os.fsencode(site.state), os.fsencode(site.config)
        for words, variables, code in (
            ((b"watch", b"--once", b"--watch-config", config, b"--state-dir", state + odd), {}, 2),
            ((b"watch", b"--once", b"--watch-config", config + odd, b"--state-dir", state), {}, 2),
            ((b"watch", b"--once", b"--watch-config", config), {b"JETWATCH_STATE_DIR": state + odd}, 78),
            ((b"suspend", b"--reason", odd, b"--state-dir", state), {}, 2),
            ((b"show", odd, b"--state-dir", state), {}, 2),
            ((b"check-config", config + odd), {}, 2),
        ):
            environ = {os.fsencode(name): os.fsencode(text) for name, text in site.environ.items()} | variables
            done = subprocess.run([JETP, *words], env=environ, capture_output=True, timeout=60, check=False)
            assert done.returncode == code, (words, done)
            assert "UTF-8" in _lines(done.stderr)[-1].decode(), done
            self._figures["refused"] += 1


def _lines(data: bytes) -> list[bytes]:
    """The lines, which hold no control character."""
    assert data.endswith(b"\n") or not data
    lines = data.split(b"\n")[:-1]
    assert not any(CONTROL.search(line) for line in lines), [line for line in lines if CONTROL.search(line)]
    return lines


def _on_a_terminal(site: Site, *words: str) -> str:
    """What a person sees who types this."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while part := os.read(ours, 65536):
                shown.extend(part)
        except OSError:  # the last writer has closed it
            return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        command = [JETP, *words, "--state-dir", site.state]
        environ = site.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
        done = subprocess.run(
            command, env=environ, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)
    assert b"Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 1), (words, done)
    return shown.decode()


ROW = Row("R10", "no text breaks a line, a word or a terminal", torture, count=900, small=18)

if __name__ == "__main__":
    ROW.main()
