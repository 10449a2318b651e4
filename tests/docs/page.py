"""Runs a page of the documentation as a reader would: its blocks in their order, in one shell, in a fresh directory.

A fenced block of `sh` is run and has to succeed. A block with a `title="NAME"` is written to that file first. What else
there is to know stands in an HTML comment right above the block, so that no reader sees it:

    not run here: REASON            it cannot run in a test; the reason is printed
    in another terminal             it goes on while the blocks after it run, and is ended with the page
    until: TEXT                     it is tried again until its output has TEXT: the reader looks twice, too
    exit: N                         it ends with N
    output of the block above       of a block of `text`: the same comes out, but for times, ids, numbers and paths;
                                    a line `…` stands for any lines, or none
    not compared: REASON            of a block of `text`: output that no block above it makes
    stage: COMMANDS                 alone: what the reader has and the test has not, such as a bucket with content
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import waiting

BIN = Path(sys.executable).parent
WITHIN_S = 240
UNTIL_S = 120
BLOCK = re.compile(
    r"^<!-- stage:(?P<stage>.*?)-->$"
    r"|(?:^<!-- (?P<remark>[^\n]*) -->\n+)?^```(?P<kind>\w*)(?P<more>[^\n]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
REMARKS = ("not run here", "in another terminal", "until", "exit", "output of the block above", "not compared")
MASKS = (
    (rf"\b({re.escape(platform.node())}|web1)\b", "HOST"),
    (r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID"),
    (r"\b[0-9a-f]{7,}(…|\b)", "ID"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z|(\d\d:\d\d:\d\d, )?(in )?\b\d+(\.\d+)? (s|min|h|d)\b( ago)?", "TIME"),
    (r"\d[\d.:,]*", "N"),
    (r"(?<![\w.}])~?/[\w./-]+", "PATH"),
    (r"\bby \S+", "by WHOM"),
    (r"\s+", " "),
)
"""What is another one on each machine and in each run, and what stands for it. Terminals break lines and say times in
another way than pipes do; the words are the same."""


@dataclass(frozen=True)
class Block:
    """One fenced block, or one `stage`. `line` is where it begins in the page."""

    kind: str
    text: str
    remark: str
    title: str
    line: int

    def said(self, remark: str) -> str | None:
        """What follows this remark, empty where nothing does; None where it is not made."""
        name, _, rest = self.remark.partition(":")
        return rest.strip() if name == remark else None

    @property
    def runs(self) -> bool:
        """Whether it is commands, and nothing keeps them from being run."""
        return self.kind in ("sh", "stage") and not self.title and self.said("not run here") is None


@dataclass(frozen=True)
class Page:
    """A page, and what it has to find elsewhere here than it says: addresses, ports, directories."""

    path: Path

    @cached_property
    def blocks(self) -> list[Block]:
        """Every block, in order."""
        text = self.path.read_text(encoding="utf-8")
        return [self._block(found, text.count("\n", 0, found.start()) + 1) for found in BLOCK.finditer(text)]

    @staticmethod
    def _block(found: re.Match[str], line: int) -> Block:
        if found["stage"] is not None:
            return Block("stage", found["stage"], "", "", line)
        title = re.search(r'title="([^"]+)"', found["more"])
        return Block(found["kind"], found["text"], found["remark"] or "", title[1] if title else "", line)

    def problems(self) -> list[str]:
        """What keeps the page from being looked at: unknown remarks, commands in a block of another kind."""
        found = []
        for above, block in zip([None, *self.blocks], self.blocks, strict=False):
            where = f"{self.path.name}:{block.line}"
            if block.remark and not any(block.said(remark) is not None for remark in REMARKS):
                found.append(f"{where}: unknown remark: {block.remark}")
            reason = block.said("not run here") if block.kind == "sh" else block.said("not compared")
            if reason is not None and len(reason) < 10:
                found.append(f"{where}: without a reason")
            if block.kind in ("", "console", "bash", "shell"):
                found.append(f"{where}: commands are `sh`, and what they print is `text`")
            if block.kind == "text" and block.said("output of the block above") is block.said("not compared"):
                found.append(f"{where}: output of what?")
            if block.said("output of the block above") is not None and not (above and above.runs):
                found.append(f"{where}: the block above is not run")
        return found

    def left_out(self) -> list[str]:
        """Each block that is not run, with its reason."""
        reasons = [(block, block.said("not run here") or block.said("not compared")) for block in self.blocks]
        return [f"{self.path.name}:{block.line}: {reason}" for block, reason in reasons if reason]

    def run(self, directory: Path, replaced: Mapping[str, str] = {}, environ: Mapping[str, str] = {}) -> None:
        """Run it in `directory`; `replaced` says what to write in the place of what the page says."""
        script = "\n".join(self._part(number, block, replaced) for number, block in enumerate(self.blocks))
        out = directory / "out"
        out.mkdir(parents=True)
        with _shell(f"set -eu\nout={out}\n{script}\n", directory, environ) as process:
            code = process.wait(WITHIN_S)
            assert code == 0, self._failure(out, code)
        for above, block in zip([None, *self.blocks], self.blocks, strict=False):
            if above is not None and block.said("output of the block above") is not None:
                came = _without_loopback((out / str(self.blocks.index(above))).read_text())
                assert is_like(came, block.text), f"{self.path.name}:{block.line} shows another output than\n{came}"

    def _part(self, number: int, block: Block, replaced: Mapping[str, str]) -> str:
        """The block as a part of the page's script; what it prints goes to a file of its number."""
        text = replace_all(block.text, replaced)
        if block.title:
            target = shlex.quote(replace_all(block.title, replaced))
            return f"mkdir -p $(dirname {target})\n(umask 077; cat > {target}) <<'END OF FILE'\n{text}END OF FILE"
        if not block.runs:
            return ""
        began = f"echo {number} > $out/began"
        to_file = f'> "$out/{number}" 2>&1 < /dev/null'
        if block.said("in another terminal") is not None:
            return f"{began}\n(\n{text}\n) {to_file} &"
        if (wanted := block.said("until")) is not None:
            seen = f"grep -qF -- {shlex.quote(replace_all(wanted, replaced))} $out/{number}"
            late = "[ $SECONDS -lt $late ] || exit 99; sleep 0.1"
            return f"{began}\nlate=$((SECONDS + {UNTIL_S}))\nuntil {{\n{text}\n}} {to_file}; {seen}; do {late}; done"
        if (code := block.said("exit")) is not None:
            return f"{began}\nset +e\n(\nset -e\n{text}\n) {to_file}\n[ $? = {code} ] || exit 98\nset -e"
        return f"{began}\n{{\n{text}\n}} {to_file}"

    def _failure(self, out: Path, code: int) -> str:
        number = int((out / "began").read_text() or 0)
        block, told = self.blocks[number], out / str(number)
        came = told.read_text(errors="replace") if told.exists() else ""
        others = "".join(
            f"\n--- printed at line {self.blocks[int(path.name)].line}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(out.glob("[0-9]*"))
            if self.blocks[int(path.name)].said("in another terminal") is not None
        )
        return f"{self.path.name}:{block.line} ended with {code}:\n{block.text}\n--- printed\n{came}{others}"


def replace_all(text: str, replaced: Mapping[str, str]) -> str:
    """The text with what is elsewhere here."""
    for there, here in replaced.items():
        text = text.replace(there, here)
    return text


def is_like(came: str, shown: str) -> bool:
    """Whether output has the shape of what a page shows."""
    parts = re.split(r"^…$", shown, flags=re.MULTILINE)
    return re.fullmatch(".*".join(re.escape(masked(part)) for part in parts), masked(came)) is not None


def masked(text: str) -> str:
    """Output as one line, without what differs from run to run."""
    for pattern, name in MASKS:
        text = re.sub(pattern, name, text)
    return text.strip()


@contextlib.contextmanager
def _shell(script: str, directory: Path, environ: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A shell in a session of its own; whatever it left behind is ended with it."""
    env = {
        "PATH": f"{directory}/bin:{BIN}:{os.environ['PATH']}",
        "HOME": str(directory),
        "LANG": "C.UTF-8",
        "COLUMNS": "80",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        **environ,
    }
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=directory, env=env, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, AssertionError):
                os.killpg(process.pid, number)
                process.wait()
                waiting.until(lambda: not _is_there(process.pid), within_s=20)


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _without_loopback(text: str) -> str:
    """What a block printed but for the warning that its server is one of this machine: a reader's is another."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if "any account of this machine may answer at that port" not in line)
