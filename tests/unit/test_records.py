"""The records that cross rooms: stored and read back unchanged, and deadlines that outlive a reboot."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from builders import BAD, NOW, OK, YEAR, S, closed, ended, later, owed, rebooted, result, run, stamp, started, step
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from jetwatch import records
from jetwatch.events import Event, catalogue
from jetwatch.records import CommandResult, Deadline, Ending, Outcome, Run, Stamp, WatchState, from_json, to_json

# --- JSON -------------------------------------------------------------------------------------------------------------

RECORDS = [
    each
    for each in vars(records).values()
    if isinstance(each, type) and issubclass(each, Struct) and each is not Struct
]
SIMPLE: dict[type, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    str: st.text(max_size=8),
    int: st.integers(-(2**62), 2**62),
    float: st.floats(allow_nan=False, allow_infinity=False),
}


def any_of(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a record's field: a simple one, an enum, a record, or a collection of these."""
    inside = get_args(hint)
    if isinstance(hint, UnionType):
        return st.one_of(*[st.none() if each is NoneType else any_of(each) for each in inside])
    if get_origin(hint) is tuple:
        if inside[-1] is not Ellipsis:
            return st.tuples(*[any_of(each) for each in inside])
        return st.lists(any_of(inside[0]), max_size=2).map(tuple)
    if get_origin(hint) is not None:
        return st.dictionaries(SIMPLE[str], any_of(inside[1]), max_size=2)
    if isinstance(hint, type) and issubclass(hint, Struct):
        hints = get_type_hints(hint)
        return st.builds(hint, **{name: any_of(hints[name]) for name in hint.__struct_fields__})
    return SIMPLE[hint] if hint in SIMPLE else st.sampled_from(hint)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_every_record_comes_back_as_it_was_stored(kind: type) -> None:
    """Whatever stands in its fields, as one line of JSON."""

    @settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(any_of(kind))
    def comes_back(record: Any) -> None:
        data = to_json(record)
        assert b"\n" not in data
        assert from_json(data, kind) == record
        assert from_json(data.decode(), kind) == record

    comes_back()


@pytest.mark.parametrize("kind", catalogue(), ids=lambda kind: kind.name)
def test_every_event_comes_back_as_it_was_stored(kind: type[Event]) -> None:
    """History is read back by later agents."""

    @settings(max_examples=5, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.builds(kind, **{name: any_of(get_type_hints(kind)[name]) for name in kind.__struct_fields__}))
    def comes_back(event: Event) -> None:
        assert from_json(to_json(event), kind) == event

    comes_back()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\0" * 100,
        b'{"step_id": "a"',
        b'{"step_id": "a"}',
        b'{"step_id": "a", "ending": "vanished"}',
        b'{"step_id": 1, "ending": "exited"}',
        b'{"step_id": "\xff", "ending": "exited"}',
        b'{"step_id": "a", "ending": "exited", "exit_code": "0"}',
        b'{"step_id": "a", "ending": "exited", "outputs": {"a": 1}}',
        b"[" * 10_000,
        b'{"step_id": "a", "ending": "exited", "later": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    ],
)
def test_what_is_no_record_is_refused(data: bytes) -> None:
    """Torn files and files of somebody else are a ValueError, never a record with holes."""
    with pytest.raises(ValueError, match=r".+"):
        from_json(data, CommandResult)


def test_what_a_later_version_added_is_passed_over() -> None:
    """Unknown keys are no harm."""
    data = b'{"step_id": "a", "ending": "exited", "exit_code": 0, "colour": "red"}'
    assert from_json(data, CommandResult) == CommandResult("a", Ending.EXITED, exit_code=0)


def test_what_an_earlier_version_left_out_has_its_default() -> None:
    """A watch may have been stored before a field was invented."""
    assert from_json(b'{"watch": "web"}', WatchState) == WatchState("web")


def test_the_ids_of_the_enums_are_what_is_stored() -> None:
    """Words that people and queries read."""
    stored = msgspec.json.decode(to_json(closed(Outcome.LOST, ended("play", result(Ending.LOST)))))
    assert (stored["outcome"], stored["steps"][0]["state"]) == ("lost", "ended")
    assert msgspec.json.decode(to_json(owed()))["state"] == "owed"


# --- deadlines --------------------------------------------------------------------------------------------------------

MINUTE = Deadline.after(NOW, 60 * S)


@pytest.mark.parametrize(
    ("now", "seconds"),
    [
        (NOW, 60),
        (later(59), 1),
        (later(60), 0),
        (later(7200), 0),
        (later(10, clock_set_s=10 * 365 * 86_400), 50),
        (later(10, clock_set_s=-10 * 365 * 86_400), 50),
        (rebooted(10), 50),
        (rebooted(60), 0),
        (rebooted(10, clock_set_s=10 * 365 * 86_400), 0),
        (rebooted(10, clock_set_s=-10 * 365 * 86_400), 60),
        (rebooted(10, clock_set_s=-30), 60),
    ],
)
def test_a_deadline_goes_by_the_clock_that_can_be_trusted(now: Stamp, seconds: float) -> None:
    """Within its boot the boot-time clock; after a reboot the wall clock, and never longer than at first."""
    assert MINUTE.remaining_us(now) == seconds * S


@settings(max_examples=300, deadline=None, database=None)
@given(
    st.integers(0, 10 * YEAR),
    st.builds(
        stamp,
        wall_us=st.integers(0, 200 * YEAR),
        boot_us=st.integers(NOW.boot_us, 20 * YEAR),
        boot_id=st.sampled_from(("this", "another")),
    ),
)
def test_a_deadline_is_never_further_away_than_at_first(span_us: int, now: Stamp) -> None:
    """Whatever clocks and reboots do, a wait is between nothing and what was asked for."""
    assert 0 <= Deadline.after(NOW, span_us).remaining_us(now) <= span_us


# --- what records say of themselves -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "well"),
    [
        (OK, True),
        (BAD, False),
        (result(exit_code=None), False),
        (result(exit_code=0, reason="bad_output"), False),
        (result(Ending.SIGNALLED, exit_code=0), False),
        (result(Ending.TIMEOUT, exit_code=0), False),
        (result(Ending.CANCELLED, exit_code=0), False),
        (result(Ending.NOT_STARTED, exit_code=0), False),
        (result(Ending.LOST, exit_code=0), False),
    ],
)
def test_only_an_exit_that_was_asked_for_is_well(how: CommandResult, well: bool) -> None:
    """A command that handled its TERM and exited with 0 was ended all the same."""
    assert how.ended_well((0,)) is well


def test_other_exit_codes_can_be_well() -> None:
    """Then 0 is so only if it is among them."""
    assert BAD.ended_well((0, 3))
    assert not OK.ended_well((3,))


@pytest.mark.parametrize(
    ("how", "code"),
    [
        (OK, 0),
        (result(Ending.SIGNALLED, exit_code=137, signal="SIGKILL"), 137),
        (result(Ending.NOT_STARTED, reason="no_such_file"), 127),
        (result(Ending.NOT_STARTED, reason="not_executable"), 126),
        (result(Ending.LOST), None),
    ],
)
def test_an_exit_code_is_told_as_a_shell_would(how: CommandResult, code: int | None) -> None:
    """128 + n for a signal, 127 and 126 for a command that could not start."""
    assert how.shell_exit_code == code


@pytest.mark.parametrize(
    ("case", "began"),
    [
        (run(), False),
        (run(started()), True),
        (run(ended()), True),
        (run(ended("play", BAD)), True),
        (run(ended("play", result(Ending.NOT_STARTED, reason="no_such_file"))), False),
        (run(ended("download", BAD), step()), False),
        (run(ended("download")), False),
    ],
)
def test_a_run_knows_whether_its_play_began(case: Run, began: bool) -> None:
    """A download is no play, and a command that could not be started changed nothing."""
    assert case.play_began is began


def test_a_run_is_open_until_it_has_an_outcome() -> None:
    """Whatever its steps say."""
    assert run(ended()).is_open
    assert not closed().is_open
