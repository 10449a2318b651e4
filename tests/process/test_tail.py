"""The end of a command's output: what it shows, and that no secret does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetwatch.process.tail import SHORTEST_SECRET_BYTES, TAIL_BYTES, Tail

SECRET = b"correct-horse-battery"


def shown(data: bytes, *secrets: bytes, chunk: int = 1000) -> str:
    """The tail of `data`, taken in pieces."""
    tail = Tail(secrets)
    for start in range(0, len(data), chunk):
        tail.add(data[start : start + chunk])
    return tail.text()


def test_a_short_output_is_shown_whole() -> None:
    """Nothing is cut where there is room."""
    assert shown("hellø\n".encode()) == "hellø\n"


def test_of_a_long_output_the_end_is_shown() -> None:
    """The last 4 KiB, to the byte."""
    data = bytes(range(32, 127)) * 200
    assert shown(data) == data[-TAIL_BYTES:].decode()


def test_what_is_no_utf8_is_shown_as_such() -> None:
    """A binary output breaks nothing."""
    assert shown(b"a\xff\xfeb") == "a��b"


def test_a_secret_is_masked_wherever_it_stands() -> None:
    """At the beginning, the end, twice in a row, and next to another one."""
    data = SECRET + b" x " + SECRET + SECRET + b" y hunter2-hunter2 " + SECRET
    assert shown(data, SECRET, b"hunter2-hunter2") == "*** x *** y *** ***"


@pytest.mark.parametrize("inside", range(1, len(SECRET)))
def test_a_secret_that_the_tails_beginning_cuts_is_masked(inside: int) -> None:
    """However many of its bytes would be the first of the tail, none of them shows."""
    data = b"before " + SECRET + b"." * (TAIL_BYTES - inside)
    assert shown(data, SECRET) == "***" + "." * (TAIL_BYTES - inside)


def test_masking_makes_no_room_for_half_a_secret() -> None:
    """Many secrets in the tail make it shorter; what stood before it still does not come in."""
    data = b"." * 4096 + SECRET * 300
    for shift in range(len(SECRET)):
        assert set(shown(data[shift:], SECRET)) <= {"*"}


@pytest.mark.parametrize("written", range(SHORTEST_SECRET_BYTES, len(SECRET)))
def test_a_secret_that_the_commands_end_cuts_is_masked(written: int) -> None:
    """A command that was killed while it wrote one shows no half of it."""
    assert shown(b"token: " + SECRET[:written], SECRET) == "token: ***"


def test_each_line_of_a_secret_is_one() -> None:
    """A key of several lines is masked also where it is printed indented."""
    key = b"-----BEGIN KEY-----\nAAAABBBB\nCCCCDDDD\r\n-----END KEY-----\n"
    data = b"".join(b"    " + line.strip() + b"\n" for line in key.splitlines())
    assert shown(b"key:\n" + data, key) == "key:\n" + "    ***\n" * 4


def test_a_value_of_a_few_bytes_is_no_secret() -> None:
    """`1`, `on` and `yes` are in every output; masking them would leave only stars."""
    assert shown(b"on 1 yes", b"1", b"on", b"yes", b"") == "on 1 yes"


def test_secrets_that_overlap_are_masked_together() -> None:
    """The end of one that another one covers in part does not show."""
    assert shown(b"x abcdefgh y", b"abcdef", b"defgh") == "x *** y"


@given(st.lists(st.binary(min_size=4, max_size=12), min_size=1, max_size=3), st.data())
def test_no_secret_ever_shows(secrets: list[bytes], data: st.DataObject) -> None:
    """Whatever stands around it, and however the output is cut into pieces."""
    pieces = data.draw(st.lists(st.one_of(st.binary(max_size=20), st.sampled_from(secrets)), max_size=30))
    chunk = data.draw(st.integers(1, 40))
    text = shown(b"".join(pieces), *secrets, chunk=chunk)
    for secret in secrets:
        part = secret.strip()
        if len(part) >= SHORTEST_SECRET_BYTES and b"*" not in part and part.isascii():
            assert part.decode() not in text
