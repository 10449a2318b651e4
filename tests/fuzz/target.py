"""What a fuzz target is: a function that takes any bytes, and raises only where a promise is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

CORPORA = Path(__file__).resolve().parent / "corpus"
LONGEST_SENTENCE = 4096
"""Characters of an error: what a stranger sent is quoted in part, never as a whole."""


def no_seeds() -> Iterable[bytes]:
    """The corpus is all there is to begin with."""
    return ()


@dataclass(frozen=True)
class Target:
    """One parser under fire.

    `one_input` raises whatever is not the parser's named error. `words` mean something to the parser: they are mixed
    in. `seeds` are valid inputs that are made rather than kept. `small`: how many inputs a test tries. `cpu_s` is the
    processor time that one input may cost on any machine.
    """

    name: str
    promise: str
    one_input: Callable[[bytes], None]
    words: tuple[bytes, ...] = ()
    seeds: Callable[[], Iterable[bytes]] = no_seeds
    longest_bytes: int = 4096
    small: int = 500
    cpu_s: float = 2.0

    @property
    def corpus(self) -> Path:
        """The inputs that are kept, in the tree."""
        return CORPORA / self.name

    def kept(self) -> list[Path]:
        """The files of the corpus, in order."""
        return sorted(path for path in self.corpus.iterdir() if path.is_file()) if self.corpus.is_dir() else []


def is_a_sentence(error: BaseException) -> None:
    """Check what an error says: one line of printable text that is bounded."""
    said = str(error)
    assert said, f"{type(error).__name__} says nothing"
    hidden = [character for character in said if not character.isprintable() and character != "\n"]
    assert not hidden, f"an error with {hidden[0]!r} in it: {said!r:.300}"
    assert len(said) <= LONGEST_SENTENCE, f"an error of {len(said)} characters: {said!r:.300}"


def choice_and_rest(data: bytes, count: int) -> tuple[int, bytes]:
    """The first byte as one of `count` roads, and the bytes behind it. The digits 0 to 9 are roads 0 to 9."""
    return (data[0] - ord("0")) % count if data else 0, data[1:]
