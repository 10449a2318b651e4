"""Whatever text is imported, it stays text: no byte of a crontab or of a unit becomes a key of watch.yml."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jetwatch.errors import ImportNotSame
from jetwatch.importing import from_cron, from_timer, unit, watch_file
from jetwatch.importing.crontab import lines
from jetwatch.importing.watch_file import Aside, Import, Imported, Remark

SEPARATORS = ("\u2028", "\u2029", "\x85", "\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e")
"""What some readers, YAML's among them, take for the end of a line, and LF is not among them."""

AWKWARD = (*"\n\t:#'\"->&*!%@`{}[,?~\\=é", "|-", "---", "...", "null", "yes", "1e3", "{{", "}}")
UNSEEN = ("\ufeff", "\u202e", "\x1b", "\x7f")
_PARTS = st.sampled_from([*SEPARATORS, *AWKWARD, *UNSEEN, " ", ": ", " #", "- ", "on_ok", "x"])
_CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")
TEXT = st.lists(_PARTS | _CHARACTERS).map("".join)
ONE_LINE = TEXT.map(lambda text: text.replace("\n", " "))
dealt = settings(max_examples=60, deadline=None)
KEYS = {"schedule", "timezone", "splay", "user", "group", "cwd", "env", "env_file", "jet_command", "check_command"}
KEYS |= {"check_interval", "jitter", "exclusive", "nice", "umask", "timeouts"}


def read(text: str) -> dict[str, dict[str, object]]:
    """The watches of a printed file, by another reader of YAML than the agent's: pyyaml's own parser, all text."""
    document = yaml.load(text, Loader=yaml.BaseLoader)
    assert document.keys() == {"defaults", "watches"}
    return document["watches"] or {}


def printed(found: Import) -> str:
    """The whole file."""
    return watch_file.text(found, ("Made by a test.",), {"timeouts": {"play": "24h"}})


@dealt
@given(TEXT, TEXT, TEXT, st.text("ABCxyz_", min_size=1), TEXT)
def test_any_text_in_any_field_is_read_as_it_was_meant(
    value: str, item: str, comment: str, key: str, line: str
) -> None:
    """Values, items of lists, values of mappings; comments and remarks are no part of what is read."""
    keys = {"user": value, "jet_command": {"run": [item, value]}, "env": {key: item}}
    remark = Remark(1, line)
    watch = Imported(name="w", keys=keys, comments=(comment,), remarks=(remark,), hints=(line,))
    text = printed(Import((Aside((comment,), (remark,), line), watch)))
    assert read(text) == {"w": keys}
    assert all(part.isprintable() for part in text.split("\n"))


@dealt
@given(st.lists(st.tuples(ONE_LINE, ONE_LINE, ONE_LINE), min_size=1, max_size=3))
def test_no_text_of_a_crontab_becomes_a_key(found: list[tuple[str, str, str]]) -> None:
    """Command, input, a variable and a comment hold anything; the watch has the keys of a crontab."""
    crontab = "".join(f"# {comment}\nA={value}\n1 1 * * * cat {command}%{value}\n" for command, value, comment in found)
    made = from_cron.convert(lines(crontab, user_column=False), owner="nobody", home_of={}.get)
    for watch in read(printed(made)).values() if made.watches else ():
        assert watch.keys() <= KEYS
        assert watch["user"] == "nobody"


@dealt
@given(ONE_LINE, ONE_LINE, ONE_LINE, ONE_LINE)
def test_no_text_of_a_unit_becomes_a_key(command: str, value: str, user: str, description: str) -> None:
    """Also by the escapes that systemd knows."""
    timer = unit.read("a.timer", f"[Unit]\nDescription={description}\n[Timer]\nOnCalendar=daily\n")
    service = unit.read(
        "a.service", f'[Service]\nUser={user}\nEnvironment="A={value}"\nExecStart=/bin/echo ${{A}} "{command}"\n'
    )
    made = from_timer.convert(timer, service, home_of={}.get)
    for watch in read(printed(made)).values() if made.watches else ():
        assert watch.keys() <= KEYS


@pytest.mark.parametrize("separator", SEPARATORS)
def test_a_line_separator_in_a_command_ends_no_line(separator: str) -> None:
    """It stood in a here-document, as it was, and what followed it became a hook of root's."""
    text = f"1 1 * * * cat%{separator}    on_ok: {{shell: id, user: root}}{separator}    on_fail:{separator}      |-\n"
    made = from_cron.convert(lines(text, user_column=False), owner="nobody", home_of={}.get)
    (watch,) = read(printed(made)).values()
    assert watch.keys() == {"schedule", "user", "jet_command"}
    assert f"{separator}    on_ok:" in watch["jet_command"]["shell"]


def test_an_escape_of_systemd_makes_no_half_character() -> None:
    """A surrogate is no character, and could not be printed."""
    with pytest.raises(ValueError, match="no escape"):
        unit.words(r"a\ud800")


def test_what_would_be_read_otherwise_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the writer does: what the agent's own reader makes of it is compared with what was meant."""
    monkeypatch.setattr(watch_file, "scalar", lambda value: value)
    monkeypatch.setattr(watch_file, "_is_block", lambda value: False)
    watch = Imported(name="w", keys={"jet_command": "a", "user": "x\n    on_ok: b"})
    with pytest.raises(ImportNotSame, match=r"watches\.w"):
        printed(Import((watch,)))
