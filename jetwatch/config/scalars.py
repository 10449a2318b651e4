"""What the text of a value means: sizes, numbers, masks, words, paths, each with its bounds (times: `times.py`).

A kind reads text into a value, says in words what it expects, writes a value back as watch.yml would hold it, and gives
its own JSON Schema: so loader, printed configuration, schema and reference page cannot disagree.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Any

from msgspec import Struct

from jetwatch.capabilities import NAMES
from jetwatch.config.nodes import Node, Notes, Scalar

NUMBER = re.compile(r"[0-9]{1,30}(\.[0-9]{1,30})?")
"""A decimal number as watch.yml writes it: no sign, no exponent."""

_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,6})?) ?([A-Za-z]*)")
_SIZE_UNITS = {"": 1, "b": 1} | {
    prefix + suffix: base**power
    for power, prefix in enumerate("kmgt", 1)
    for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))
}


class Kind(Struct, frozen=True):
    """How the value of a key is read, shown and described."""

    @property
    def what(self) -> str:
        """What is expected, as the end of a sentence, bounds included."""
        raise NotImplementedError

    def read(self, node: Node, notes: Notes) -> Any:
        """The value of `node`, or None with the reason noted."""
        raise NotImplementedError

    def show(self, value: Any) -> Any:
        """The value as plain data that watch.yml could hold: for programs, numbers without units."""
        return value

    def write(self, value: Any) -> Any:
        """The same for people, with units."""
        return self.show(value)

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of what may stand there."""
        raise NotImplementedError


class Plain(Kind, frozen=True):
    """A kind whose value is one scalar."""

    def read(self, node: Node, notes: Notes) -> Any:
        """The value of a scalar; anything else is noted."""
        if not isinstance(node, Scalar) or node.is_null:
            notes.expected(node, self.what)
            return None
        try:
            return self.parse(node.text)
        except ValueError as error:
            reason = f" ({error})" if str(error) else ""
            notes.expected(node, self.what + reason)
            return None

    def parse(self, text: str) -> Any:
        """The value of `text`. Raises ValueError, empty or with what is wrong beyond `what`."""
        raise NotImplementedError


class Size(Plain, frozen=True):
    """Bytes, from a number or text such as `16MiB`. `K`, `M`, `G`, `T` are powers of 1,024, `KB` … of 1,000."""

    least: int = 0
    most: int = 2**60

    @property
    def what(self) -> str:
        """With the lower bound, where there is one."""
        bound = f", at least {self.least} bytes" if self.least else ""
        return f"bytes or a size such as `64MiB` or `1G`{bound}"

    def parse(self, text: str) -> int:
        """Fractions of a unit are rounded down to whole bytes."""
        found = _SIZE.fullmatch(text.strip())
        unit = found[2].lower() if found else ""
        if not found or unit not in _SIZE_UNITS:
            raise ValueError
        size = int(float(found[1]) * _SIZE_UNITS[unit]) if "." in found[1] else int(found[1]) * _SIZE_UNITS[unit]
        if not self.least <= size <= self.most:
            raise ValueError
        return size

    def write(self, value: int) -> int | str:
        """Such as `16MiB`, where that is exact."""
        for unit, length in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if value and value % length == 0:
                return f"{value // length}{unit}"
        return value

    def schema(self) -> dict[str, Any]:
        """A number of bytes or a text."""
        return {
            "anyOf": [{"type": "integer", "minimum": self.least}, {"type": "string", "pattern": f"^{_SIZE.pattern}$"}]
        }


class Integer(Plain, frozen=True):
    """A whole number within bounds; `word` is a text that stands for `word_value` (`unlimited` for -1)."""

    least: int
    most: int
    word: str = ""
    word_value: int = -1

    @property
    def what(self) -> str:
        """With the bounds."""
        return f"a whole number, {self.least} to {self.most}" + (f", or `{self.word}`" if self.word else "")

    def parse(self, text: str) -> int:
        """Decimal digits with an optional sign."""
        stripped = text.strip()
        if self.word and stripped == self.word:
            return self.word_value
        if not re.fullmatch(r"[+-]?[0-9]{1,19}", stripped) or not self.least <= int(stripped) <= self.most:
            raise ValueError
        return int(stripped)

    def show(self, value: int) -> int | str:
        """The word, where the value has one."""
        return self.word if self.word and value == self.word_value else value

    def schema(self) -> dict[str, Any]:
        """An integer, or the word."""
        number = {"type": "integer", "minimum": self.least, "maximum": self.most}
        return {"anyOf": [number, {"const": self.word}]} if self.word else number


class Number(Plain, frozen=True):
    """A decimal number within bounds."""

    least: float
    most: float

    @property
    def what(self) -> str:
        """With the bounds."""
        return f"a number, {self.least:g} to {self.most:g}"

    def parse(self, text: str) -> float:
        """Digits with an optional decimal point."""
        if not NUMBER.fullmatch(text.strip()) or not self.least <= float(text) <= self.most:
            raise ValueError
        return float(text)

    def show(self, value: float) -> int | float:
        """Whole where it is."""
        return int(value) if value == int(value) else value

    def schema(self) -> dict[str, Any]:
        """A number."""
        return {"type": "number", "minimum": self.least, "maximum": self.most}


class Mask(Plain, frozen=True):
    """A file mode mask in octal, as a shell writes it."""

    what = "an octal mask such as `022`, 000 to 777"

    def parse(self, text: str) -> int:
        """`022` and `22` are the same mask."""
        found = re.fullmatch(r"(?:0o)?([0-7]{1,4})", text.strip())
        if not found or int(found[1], 8) > 0o777:
            raise ValueError
        return int(found[1], 8)

    def show(self, value: int) -> str:
        """Three digits."""
        return f"{value:03o}"

    def schema(self) -> dict[str, Any]:
        """Text, or a number whose digits are meant as octal."""
        return {"anyOf": [{"type": "string", "pattern": "^(0o)?0?[0-7]{1,3}$"}, {"type": "integer", "minimum": 0}]}


class Mode(Mask, frozen=True):
    """The mode of a file that only its owner may write."""

    what = "an octal file mode such as `0640`, without the right to write for group and others"

    def parse(self, text: str) -> int:
        """Owner's rights at most as usual, others' without writing."""
        mode = super().parse(text)
        if mode & 0o133 or not mode & 0o200:
            raise ValueError
        return mode

    def show(self, value: int) -> str:
        """Four digits."""
        return f"{value:04o}"


class Boolean(Plain, frozen=True):
    """Yes or no, in YAML's usual words."""

    what = "`true` or `false`"

    def parse(self, text: str) -> bool:
        """YAML 1.1's words, in small letters or as a name begins."""
        word = text.strip().lower()
        if word not in {"true", "yes", "on", "false", "no", "off"}:
            raise ValueError
        return word in {"true", "yes", "on"}

    def schema(self) -> dict[str, Any]:
        """A boolean."""
        return {"type": "boolean"}


class Choice(Plain, frozen=True):
    """One of the words of an enum."""

    words: type[StrEnum]

    @property
    def what(self) -> str:
        """With the words."""
        return "one of " + ", ".join(f"`{word}`" for word in self.words)

    def parse(self, text: str) -> StrEnum:
        """The member that is written so."""
        try:
            return self.words(text.strip())
        except ValueError:
            raise ValueError from None

    def show(self, value: StrEnum) -> str:
        """The word."""
        return str(value)

    def schema(self) -> dict[str, Any]:
        """The words."""
        return {"enum": [str(word) for word in self.words]}


class Capability(Plain, frozen=True):
    """The name of a capability, in full or without `CAP_`."""

    what = "the name of a capability (capabilities(7)) such as `CAP_NET_BIND_SERVICE` or `net_bind_service`"

    def parse(self, text: str) -> str:
        """The name in full."""
        name = text if text in NAMES else _BY_SHORT_NAME.get(text)
        if name is None:
            raise ValueError
        return name

    def schema(self) -> dict[str, Any]:
        """Both forms of each."""
        return {"type": "string", "pattern": f"^({'|'.join([*NAMES, *_BY_SHORT_NAME])})$"}


_BY_SHORT_NAME = {name.removeprefix("CAP_").lower(): name for name in NAMES}


class Text(Plain, frozen=True):
    """Text that matches `pattern` as a whole. `meaning` says what it is."""

    meaning: str
    pattern: str = r"(?s).+"

    @property
    def what(self) -> str:
        """The meaning."""
        return self.meaning

    def parse(self, text: str) -> str:
        """The text as it stands."""
        if not re.fullmatch(self.pattern, text):
            raise ValueError
        return text

    def schema(self) -> dict[str, Any]:
        """Text; a number is text too."""
        pattern = {} if self.pattern.startswith("(?s)") else {"pattern": f"^{self.pattern}$"}
        return {"type": ["string", "number"], **pattern}


class Location(Kind, frozen=True):
    """An absolute path; a relative one is taken from the directory of the file it stands in."""

    what = "a path"

    def read(self, node: Node, notes: Notes) -> Path | None:
        """The path, not looked for."""
        if not isinstance(node, Scalar) or not node.text or node.is_null:
            notes.expected(node, self.what)
            return None
        if "{{" in node.text:
            notes.problem(node, "a path is no template: it must be known before a run; found `{{` in it")
            return None
        return Path(node.file).absolute().parent / node.text

    def show(self, value: Path) -> str:
        """The path as text."""
        return str(value)

    def schema(self) -> dict[str, Any]:
        """Text."""
        return {"type": "string", "minLength": 1}


class Believed(Location, frozen=True):
    """The path of a file that decides something: what is in it must not be another account's to say."""

    def read(self, node: Node, notes: Notes) -> Path | None:
        """The path, noted as one to judge by its place."""
        path = super().read(node, notes)
        if path is not None:
            notes.believed.append((node, path))
        return path
