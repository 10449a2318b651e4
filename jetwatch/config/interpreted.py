"""Which words of a command another program reads as code of its own: `sh -c TEXT`, `perl -e TEXT`, `ssh HOST TEXT`.

A value that a template puts into such a word is read as code, whoever chose it. The interpreter may stand anywhere in
the command, since wrappers (`env`, `sudo`, `timeout`) hand on what follows them. Pure; `commands.py` makes a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from msgspec import Struct


class _Interpreter(Struct, frozen=True):
    """How a program is told its code.

    `letters`: short options before code. `words`: long ones. `taking`: short options before another word, which is no
    code. `first`: without such an option the first other word is code. `rest`: so is all after the first other word.
    `anywhere`: its options may stand after other words.
    """

    names: str
    letters: str
    words: tuple[str, ...] = ()
    taking: str = ""
    first: bool = False
    rest: bool = False
    anywhere: bool = False


_INTERPRETERS = (
    _Interpreter(r"sh|[bdr]?ash|[kz]sh|mksh|[t]?csh", "c", taking="oO"),
    _Interpreter(r"fish|pwsh", "cC", ("--command", "--init-command")),
    _Interpreter(r"(python|pypy)[0-9.]*", "c", taking="WX"),
    _Interpreter(r"(perl|ruby)[0-9.]*", "eE", taking="Ir"),
    _Interpreter(r"node|nodejs|bun", "ep", ("--eval", "--print"), taking="r"),
    _Interpreter(r"php[0-9.]*", "rBRE", ("--run",), taking="cdz"),
    _Interpreter(r"(lua|luajit)[0-9.]*|R|Rscript|julia", "eE", ("--eval", "--print"), taking="l"),
    _Interpreter(r"[gmn]?awk", "e", ("--source",), taking="Fvf", first=True),
    _Interpreter(r"g?sed", "e", ("--expression",), taking="fl", first=True),
    _Interpreter(r"psql", "c", ("--command",), taking="dfhopUvLPFRT", anywhere=True),
    _Interpreter(r"mysql|mariadb", "e", ("--execute",), taking="DhPSu", anywhere=True),
    _Interpreter(r"su|runuser|sg|script|flock", "c", ("--command",), taking="gGsuwE", anywhere=True),
    _Interpreter(r"ssh", "", taking="bcDEeFIiJLlmOopQRSWw", rest=True),
)


_LETTERS = re.compile(r"[^A-Za-z0-9]")


def code_of(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each word that is read as code, with the name of the program that reads it."""
    for position, word in enumerate(words):
        name = word.rpartition("/")[2]
        for interpreter in _INTERPRETERS:
            if re.fullmatch(interpreter.names, name):
                for code in _code_after(interpreter, words[position + 1 :]):
                    yield name, code


def _code_after(interpreter: _Interpreter, words: Sequence[str]) -> Iterator[str]:
    """The code among the words after the interpreter's name."""
    is_expected = is_given = is_argument = is_rest = False
    for word in words:
        if is_argument:
            is_argument = False
        elif is_rest:
            yield word
        elif word[:1] in ("-", "+") and len(word) > 1:
            option, equals, value = word.partition("=")
            letters = _LETTERS.split(word[1:], maxsplit=1)[0]
            found = next((place for place, letter in enumerate(letters) if letter in interpreter.letters), None)
            if option in interpreter.words:
                is_given, is_expected = True, not equals
                if equals:
                    yield value
            elif not word.startswith("--") and found is not None:
                is_given = is_expected = True
                if "{{" in word:
                    yield word[found + 2 :]
            else:
                is_argument = bool(letters) and letters[-1] in interpreter.taking and letters == word[1:]
        elif is_expected or (interpreter.first and not is_given):
            yield word
            is_expected, is_given = False, True
        elif interpreter.rest:
            is_rest = True
        elif not interpreter.anywhere:
            return
