"""A systemd unit file → its settings, by the rules of systemd.syntax(7). Nothing is expanded or looked up."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

_ESCAPES = {
    **{"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "s": " "},
    **{"\\": "\\", '"': '"', "'": "'"},
}
_CODE = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([0-7]{3})")


class Setting(Struct, frozen=True):
    """`KEY=VALUE` of a section; `line` is where it begins, from 1."""

    line: int
    section: str
    key: str
    value: str


class Unit(Struct, frozen=True):
    """A unit's file name and its settings in order."""

    name: str
    settings: tuple[Setting, ...]

    def listed(self, section: str, key: str) -> list[Setting]:
        """All values of a key that can be repeated; an empty one forgets those before it."""
        found: list[Setting] = []
        for setting in self.settings:
            if (setting.section, setting.key) == (section, key):
                found = [*found, setting] if setting.value else []
        return found

    def last(self, section: str, key: str) -> Setting | None:
        """The value of a key that can be given once: the last one; None if it is empty or not there."""
        found = self.listed(section, key)
        return found[-1] if found else None


def read(name: str, text: str) -> Unit:
    """The unit in this text. Lines that are no setting are left out, as systemd leaves them out."""
    return Unit(name, tuple(_settings(text)))


def _settings(text: str) -> Iterator[Setting]:
    section = ""
    for number, line in _joined(text):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif "=" in line:
            key, _, value = line.partition("=")
            yield Setting(number, section, key.strip(), value.strip())


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments, those that end in a backslash joined with the next by a space."""
    begun: tuple[int, str] | None = None
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if line.startswith(("#", ";")):
            continue  # also between lines that are joined
        start, before = begun or (number, "")
        if line.endswith("\\"):
            begun = (start, before + line[:-1] + " ")
            continue
        begun = None
        if before + line:
            yield start, (before + line).strip()
    if begun is not None:
        yield begun[0], begun[1].strip()


def words(text: str) -> list[str]:
    r"""Words by systemd's quoting: both quotes group, and C escapes count in them and outside. Raises ValueError.

    A semicolon that ends no command, because it is escaped or in quotes, is the word `\;`.
    """
    found: list[str] = []
    word: str | None = None
    quote = ""
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == "\\":
            unescaped, position = _unescaped(text, position)
            word = (word or "") + unescaped
        elif quote:
            quote, word = ("", word) if character == quote else (quote, (word or "") + character)
            word = "\\;" if word == ";" and not quote else word
        elif character in "'\"":
            quote, word = character, word or ""
        elif character.isspace():
            found += [] if word is None else [word]
            word = None
        else:
            word = (word or "") + character
    if quote:
        raise ValueError("a quote is opened and never closed")
    return found if word is None else [*found, word]


def _unescaped(text: str, position: int) -> tuple[str, int]:
    if text[position : position + 1] in _ESCAPES:
        return _ESCAPES[text[position]], position + 1
    if code := _CODE.match(text, position):
        digits, base = (code[4], 8) if code[4] else (code[1] or code[2] or code[3], 16)
        if 0 < int(digits, base) <= 0x10FFFF and not 0xD800 <= int(digits, base) <= 0xDFFF:
            return chr(int(digits, base)), code.end()
    if text[position : position + 1] == ";":
        return "\\;", position + 1
    raise ValueError(f"`\\{text[position : position + 1]}` is no escape")
